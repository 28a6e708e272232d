//! Damaged, foreign and busy state files: a clear error that names the file, never a wrong answer, never a panic.

use crate::harness::*;
use eaves::StateMachine;
use eaves_kv::proto::etcdserverpb::RangeRequest;
use eaves_kv::store::{StateFileError, Store};
use std::path::{Path, PathBuf};

fn state_file(directory: &Path) -> PathBuf {
    directory.join("state.redb")
}

/// The bytes of a closed state file with some content.
fn sample_file() -> Vec<u8> {
    let mut node = Node::new();
    for i in 0..40 {
        node.puts(&[(&format!("key{i}"), &"some value ".repeat(20))]);
    }
    node.delete(delete("key1", "key2")).unwrap();
    node.compact(12).unwrap();
    node.persist();
    node.persist();
    let Node { dir, store, .. } = node;
    drop(store);
    std::fs::read(state_file(dir.path())).unwrap()
}

fn open(bytes: &[u8]) -> (tempfile::TempDir, Result<Store, StateFileError>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(state_file(dir.path()), bytes).unwrap();
    let store = Store::open(dir.path());
    (dir, store)
}

#[test]
fn two_stores_on_one_directory_are_refused() {
    let node = Node::new();
    let error = Store::open(node.dir.path()).err().expect("it is in use");
    assert!(matches!(error, StateFileError::InUse(_)));
    assert!(error.to_string().contains("state.redb"), "{error}");
}

/// Also by a version that left the locking to redb.
#[test]
fn a_state_file_that_somebody_locked_is_refused() {
    let node = Node::new();
    node.persist();
    let Node { dir, store, .. } = node;
    drop(store);
    let file = std::fs::File::open(state_file(dir.path())).unwrap();
    file.try_lock().unwrap();
    let refused = Store::open(dir.path()).err();
    assert!(matches!(refused, Some(StateFileError::InUse(_))));
    file.unlock().unwrap();
    let _store = Store::open(dir.path()).unwrap();
    assert!(file.try_lock().is_err(), "it is kept away in turn");
}

#[test]
fn a_file_of_something_else_is_refused() {
    for bytes in [&b"not a database at all"[..], &[0xff; 10_000]] {
        let error = open(bytes).1.err().expect("it is no state file");
        assert!(error.to_string().contains("state.redb"), "{error}");
    }
}

#[test]
fn a_flipped_bit_is_refused_or_does_not_matter() {
    let sound = sample_file();
    let (_dir, store) = open(&sound);
    let expected = store.unwrap().range(&all()).unwrap();
    assert_eq!(expected.count, 29);
    let mut refused = 0;
    let stride = 509;
    for at in (0..sound.len()).step_by(stride) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at / stride % 8);
        match open(&damaged).1 {
            Ok(store) => assert_eq!(store.range(&all()).unwrap(), expected),
            Err(error) => {
                assert!(error.to_string().contains("state.redb"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "some byte must matter");
}

#[test]
fn a_flipped_bit_in_a_value_is_refused() {
    let mut damaged = sample_file();
    let value = b"some value some value";
    let at = damaged
        .windows(value.len())
        .position(|window| window == value)
        .expect("the value is in the file");
    // Every copy of it that is in the file, as only one of them is live.
    for i in at..damaged.len() - value.len() {
        if &damaged[i..i + value.len()] == value {
            damaged[i] ^= 1;
        }
    }
    let error = open(&damaged).1.err().expect("the damage is seen");
    assert!(matches!(error, StateFileError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("move the file away"), "{error}");
}

#[test]
fn a_file_cut_short_is_refused() {
    let sound = sample_file();
    for len in [
        1,
        100,
        4096,
        sound.len() / 2,
        sound.len() - 4096,
        sound.len() - 1,
    ] {
        match open(&sound[..len]).1 {
            Ok(store) => assert_eq!(store.range(&all()).unwrap().count, 29),
            Err(error) => assert!(error.to_string().contains("state.redb"), "{error}"),
        }
    }
}

/// What `sample_file` wrote when the format got its number.
const FORMAT_1: &[u8] = include_bytes!("state-format-1.redb");

#[test]
fn a_file_of_format_1_still_opens() {
    let (_old_dir, old) = open(FORMAT_1);
    let (_new_dir, new) = open(&sample_file());
    let (old, new) = (old.unwrap(), new.unwrap());
    assert_eq!(old.position(), Some(position(42)));
    assert_eq!((old.revision(), old.compact_revision()), (42, 12));
    for revision in 12..=42 {
        let request = RangeRequest { revision, ..all() };
        assert_eq!(old.range(&request), new.range(&request));
    }
}

#[test]
fn a_store_that_was_opened_to_look_at_changes_nothing() {
    let mut node = Node::new();
    node.puts(&[("a", "1"), ("b", "2")]);
    node.persist();
    // As a killed process leaves it, which redb repairs when it is opened.
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(state_file(node.dir.path()), state_file(dir.path())).unwrap();
    let before = std::fs::read(state_file(dir.path())).unwrap();

    let mut looking = Node {
        store: Store::open_unchanged(dir.path()).unwrap(),
        dir,
        log: node.log.clone(),
    };
    assert_eq!(looking.store.revision(), 3);
    looking.puts(&[("c", "3")]);
    looking.persist();
    assert_eq!(looking.store.revision(), 4);
    let found = looking.store.range(&RangeRequest {
        key: "c".into(),
        ..Default::default()
    });
    assert_eq!(found.unwrap().kvs[0].value, "3");
    let Node { dir, store, .. } = looking;
    drop(store);
    assert_eq!(std::fs::read(state_file(dir.path())).unwrap(), before);

    let empty = tempfile::tempdir().unwrap();
    assert_eq!(Store::open_unchanged(empty.path()).unwrap().revision(), 1);
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}
