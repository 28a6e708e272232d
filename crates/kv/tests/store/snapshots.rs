//! Snapshots: what is taken is what was durable, what is installed is what was taken, and nothing is half installed.

use crate::harness::*;
use bytes::Bytes;
use eaves::{SnapshotSource, StateMachine};
use eaves_kv::proto::etcdserverpb::RangeRequest;
use eaves_kv::store::Store;
use std::io;

fn chunks(mut source: Box<dyn SnapshotSource>, max_bytes: usize) -> Vec<Bytes> {
    std::iter::from_fn(|| source.next_chunk(max_bytes).unwrap()).collect()
}

fn install(store: &Store, chunks: &[Bytes], index: u64) -> io::Result<()> {
    let mut sink = store.install()?;
    for chunk in chunks {
        sink.write_chunk(chunk.clone())?;
    }
    sink.finish(position(index))
}

/// A node with some history, a compaction and deletes, all durable.
fn sample() -> Node {
    let mut node = Node::new();
    for i in 0..50 {
        node.puts(&[(&format!("k{}", i % 7), &format!("v{i}"))]);
    }
    node.delete(delete("k1", "k3")).unwrap();
    node.compact(30).unwrap();
    node.persist();
    node
}

fn assert_same(a: &Store, b: &Store) {
    assert_eq!(a.revision(), b.revision());
    assert_eq!(a.compact_revision(), b.compact_revision());
    for revision in a.compact_revision().max(1)..=a.revision() {
        let request = RangeRequest { revision, ..all() };
        assert_eq!(a.range(&request), b.range(&request));
    }
}

#[test]
fn what_is_installed_is_what_was_taken() {
    let node = sample();
    for max_bytes in [1, 100, 1 << 20] {
        let taken = chunks(node.store.snapshot().unwrap(), max_bytes);
        let mut other = Node::new();
        other.puts(&[("old", "state")]);
        install(&other.store, &taken, node.log.len() as u64).unwrap();
        assert_same(&node.store, &other.store);
        assert_eq!(other.store.position(), node.store.position());
        // Also after a restart, and the log goes on from there.
        other.log = node.log.clone();
        other.crash();
        assert_same(&node.store, &other.store);
        other.puts(&[("new", "1")]);
        other.persist();
        other.crash();
        assert_eq!(other.store.range(&get("new")).unwrap().count, 1);
    }
}

#[test]
fn a_snapshot_shows_one_point_in_time_while_writes_go_on() {
    let mut node = sample();
    let expected = chunks(node.store.snapshot().unwrap(), 100);
    let mut source = node.store.snapshot().unwrap();
    let mut taken = Vec::new();
    while let Some(chunk) = source.next_chunk(100).unwrap() {
        taken.push(chunk);
        node.puts(&[("k1", "later")]);
        if taken.len() == 3 {
            node.compact(node.store.revision()).unwrap();
        }
        node.persist();
    }
    assert_eq!(taken, expected);
}

#[test]
fn what_is_not_durable_is_not_in_a_snapshot() {
    let mut node = sample();
    let position = node.store.position();
    node.puts(&[("later", "1")]);
    let source = node.store.snapshot().unwrap();
    assert_eq!(Some(source.position()), position);
    let other = Node::new();
    install(&other.store, &chunks(source, 1000), 1).unwrap();
    assert_eq!(other.store.range(&get("later")).unwrap().count, 0);
}

#[test]
fn an_empty_state_can_be_copied() {
    let (from, to) = (Node::new(), Node::new());
    let source = from.store.snapshot().unwrap();
    assert_eq!(source.position(), eaves::Position::default());
    install(&to.store, &chunks(source, 1000), 5).unwrap();
    assert_eq!(to.store.revision(), 1);
    assert_eq!(to.store.position(), Some(position(5)));
}

#[test]
fn a_snapshot_that_ends_early_changes_nothing() {
    let taken = chunks(sample().store.snapshot().unwrap(), 100);
    let mut node = Node::new();
    node.puts(&[("old", "state")]);
    for len in 0..taken.len() {
        let error = install(&node.store, &taken[..len], 9).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    assert_eq!(node.store.range(&get("old")).unwrap().count, 1);
    let left: Vec<_> = std::fs::read_dir(node.dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "the unfinished file is removed: {left:?}");
}

#[test]
fn a_garbled_snapshot_is_refused() {
    let taken = chunks(sample().store.snapshot().unwrap(), 100);
    let node = Node::new();
    for i in 0..taken.len() {
        let mut missing = taken.clone();
        missing.remove(i);
        assert!(install(&node.store, &missing, 9).is_err());
        let mut twice = taken.clone();
        twice.insert(i, taken[i].clone());
        assert!(install(&node.store, &twice, 9).is_err());
        if i == 0 {
            continue; // The beginning has no checksum of its own; the peer connection has.
        }
        for at in [0, taken[i].len() / 2, taken[i].len() - 1] {
            let mut flipped = taken.clone();
            let mut chunk = taken[i].to_vec();
            chunk[at] ^= 4;
            flipped[i] = chunk.into();
            assert!(install(&node.store, &flipped, 9).is_err());
            let mut cut = taken.clone();
            cut[i] = taken[i].slice(..at);
            assert!(install(&node.store, &cut, 9).is_err());
        }
    }
    assert_eq!(node.store.revision(), 1);
}

#[test]
fn a_crash_while_receiving_leaves_the_old_state() {
    let taken = chunks(sample().store.snapshot().unwrap(), 100);
    let mut node = Node::new();
    node.puts(&[("old", "state")]);
    node.persist();
    let mut sink = node.store.install().unwrap();
    for chunk in &taken[..3] {
        sink.write_chunk(chunk.clone()).unwrap();
    }
    // As if the process died: the sink's file stays.
    let path = node.dir.path().join("state.installing");
    let left = std::fs::read(&path).unwrap();
    drop(sink);
    std::fs::write(&path, left).unwrap();
    node.crash();
    assert!(!path.exists());
    assert_eq!(node.store.range(&get("old")).unwrap().count, 1);
}
