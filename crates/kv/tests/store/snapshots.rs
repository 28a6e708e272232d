//! Snapshots: what is taken is what was durable, what is installed is what was taken, and nothing is half installed.

use crate::harness::*;
use bytes::Bytes;
use eaves::{SnapshotSink, SnapshotSource, StateMachine};
use eaves_kv::proto::etcdserverpb::RangeRequest;
use eaves_kv::store::{StateFileError, Store};
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

/// Another such node, with another history.
fn other_sample() -> Node {
    let mut node = Node::new();
    for i in 0..90 {
        node.puts(&[(&format!("x{i}"), "1")]);
    }
    node.persist();
    node
}

/// Names of the files in a node's directory, sorted.
fn files(node: &Node) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(node.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A snapshot on its way, cut in two.
struct Transfer {
    from: Node,
    first: Vec<Bytes>,
    rest: Vec<Bytes>,
}

impl Transfer {
    fn of(from: Node) -> Self {
        let mut first = chunks(from.store.snapshot().unwrap(), 100);
        let rest = first.split_off(first.len() / 2);
        Self { from, first, rest }
    }

    fn begin(&self, to: &Node) -> Box<dyn SnapshotSink> {
        let mut sink = to.store.install().unwrap();
        for chunk in &self.first {
            sink.write_chunk(chunk.clone()).unwrap();
        }
        sink
    }

    fn finish(&self, mut sink: Box<dyn SnapshotSink>) {
        for chunk in &self.rest {
            sink.write_chunk(chunk.clone()).unwrap();
        }
        sink.finish(position(self.from.log.len() as u64)).unwrap();
    }

    /// The state is what was sent, now and after a restart.
    fn assert_arrived(&self, at: &mut Node) {
        assert_same(&self.from.store, &at.store);
        at.crash();
        assert_same(&self.from.store, &at.store);
        assert_eq!(files(at), ["state.redb"]);
    }
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

/// So a transfer that was begun at one node goes on at another.
#[test]
fn equal_states_are_cut_into_equal_chunks_and_a_later_one_shares_the_beginning() {
    // Without a compaction, whose traces each node removes in its own time.
    let (mut one, other) = (other_sample(), other_sample());
    let taken = chunks(one.store.snapshot().unwrap(), 100);
    assert_eq!(taken, chunks(other.store.snapshot().unwrap(), 100));
    for i in 0..20 {
        one.puts(&[(&format!("later{i}"), "1")]);
    }
    one.persist();
    let later = chunks(one.store.snapshot().unwrap(), 100);
    let shared = taken[1..].iter().zip(&later[1..]);
    let shared = shared.take_while(|(one, other)| one == other).count();
    assert!(
        shared >= taken.len() - 3,
        "all but the beginning, the last records and the end: {shared} of {}",
        taken.len()
    );
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
    assert_eq!(
        files(&node),
        ["state.redb"],
        "the unfinished file is removed"
    );
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
    let path = node.dir.path().join("state.installing.0");
    let left = std::fs::read(&path).unwrap();
    drop(sink);
    std::fs::write(&path, left).unwrap();
    node.crash();
    assert!(!path.exists());
    assert_eq!(node.store.range(&get("old")).unwrap().count, 1);
}

#[test]
fn of_two_that_overlap_the_older_finishes_and_the_newer_is_cut_off() {
    let (older, newer) = (Transfer::of(sample()), Transfer::of(other_sample()));
    let mut node = Node::new();
    let older_sink = older.begin(&node);
    let newer_sink = newer.begin(&node);
    older.finish(older_sink);
    assert_same(&older.from.store, &node.store);
    drop(newer_sink);
    older.assert_arrived(&mut node);
}

#[test]
fn of_two_that_overlap_the_newer_finishes_and_the_older_is_cut_off() {
    let (older, newer) = (Transfer::of(sample()), Transfer::of(other_sample()));
    let mut node = Node::new();
    let older_sink = older.begin(&node);
    let newer_sink = newer.begin(&node);
    newer.finish(newer_sink);
    drop(older_sink);
    newer.assert_arrived(&mut node);
}

#[test]
fn one_that_is_cut_off_leaves_the_file_of_the_other() {
    let (older, newer) = (Transfer::of(sample()), Transfer::of(other_sample()));
    let mut node = Node::new();
    let older_sink = older.begin(&node);
    let newer_sink = newer.begin(&node);
    drop(older_sink);
    newer.finish(newer_sink);
    newer.assert_arrived(&mut node);
}

#[test]
fn of_two_that_overlap_the_one_that_finishes_last_is_the_state() {
    for older_is_last in [false, true] {
        let (older, newer) = (Transfer::of(sample()), Transfer::of(other_sample()));
        let mut node = Node::new();
        let older_sink = older.begin(&node);
        let newer_sink = newer.begin(&node);
        if older_is_last {
            newer.finish(newer_sink);
            assert_same(&newer.from.store, &node.store);
            older.finish(older_sink);
            older.assert_arrived(&mut node);
        } else {
            older.finish(older_sink);
            assert_same(&older.from.store, &node.store);
            newer.finish(newer_sink);
            newer.assert_arrived(&mut node);
        }
    }
}

#[test]
fn leftovers_are_removed_when_the_store_is_opened() {
    let mut node = sample();
    for name in [
        "state.installing",
        "state.installing.0",
        "state.installing.17",
        "state.other",
    ] {
        std::fs::write(node.dir.path().join(name), "left").unwrap();
    }
    node.crash();
    assert_eq!(files(&node), ["state.other", "state.redb"]);
}

#[test]
fn leftovers_are_removed_also_when_there_is_no_state_yet() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("state.installing.3");
    std::fs::write(&left, "left").unwrap();
    let _store = Store::open(dir.path()).unwrap();
    assert!(!left.exists());
}

#[test]
fn a_second_open_does_not_remove_what_the_first_receives() {
    let transfer = Transfer::of(sample());
    let mut node = Node::new();
    let sink = transfer.begin(&node);
    let before = files(&node);
    assert_eq!(before.len(), 2);
    let refused = Store::open(node.dir.path()).err();
    assert!(matches!(refused, Some(StateFileError::InUse(_))));
    assert_eq!(files(&node), before);
    transfer.finish(sink);
    transfer.assert_arrived(&mut node);
}

#[test]
fn a_snapshot_that_is_being_read_outlives_the_state_it_was_taken_of() {
    let (from, to) = (sample(), other_sample());
    let whole = chunks(from.store.snapshot().unwrap(), 100);
    let mut taken = to.store.snapshot().unwrap();
    let mut old = vec![taken.next_chunk(100).unwrap().unwrap()];
    install(&to.store, &whole, 1000).unwrap();
    old.extend(std::iter::from_fn(|| taken.next_chunk(100).unwrap()));
    assert_eq!(old, chunks(other_sample().store.snapshot().unwrap(), 100));
}

/// Found by the fuzzer: such a snapshot was taken, and the first write after it overflowed.
#[test]
fn a_snapshot_whose_revisions_cannot_be_is_refused() {
    let node = sample();
    let chunks = chunks(node.store.snapshot().unwrap(), 1 << 20);
    let with = |at: usize, number: i64| {
        let mut begin = chunks[0].to_vec();
        begin[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let mut changed = chunks.clone();
        changed[0] = begin.into();
        changed
    };
    // After the kind and the version: index, revision, compacted, scrubbed.
    for (at, number) in [
        (13, i64::MAX),
        (13, -5),
        (21, i64::MAX),
        (21, i64::MIN),
        (29, 31),
        (29, i64::MIN),
    ] {
        let mut other = other_sample();
        let refused = install(&other.store, &with(at, number), 60).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{at} {number}");
        other.puts(&[("a", "still here")]);
    }
}
