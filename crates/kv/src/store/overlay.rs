//! What was applied but is not durable yet: records in revision order, and the positions between which the durable state may stop.
//!
//! `apply` appends, `persist` copies a prefix to disk and then drops it. Records of the overlay shadow nothing: a revision is either here
//! or in the revision table, and moves from one to the other under the state's write lock.

use super::record::{Record, Revision};
use eaves::Position;
use std::collections::VecDeque;

/// How many bytes the overlay may hold before the node should hold back new commands. `apply` itself never refuses.
pub const OVERLAY_LIMIT_BYTES: usize = 64 << 20;

/// What a checkpoint costs beyond its position's bytes, about.
const CHECKPOINT_OVERHEAD_BYTES: usize = 96;

/// A point at which the durable state may stop: the end of one call of `apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Log index the position stands for.
    pub index: u64,
    /// The node's own notes, stored with the state.
    pub position: Position,
    /// The store's revision at this point.
    pub revision: i64,
    /// The compacted revision at this point.
    pub compact_revision: i64,
}

/// Records and checkpoints that are not durable.
///
/// Invariants: records ascend by revision, checkpoints by index; a checkpoint's revision is at most the newest record's.
#[derive(Debug, Default)]
pub struct Overlay {
    records: VecDeque<Record>,
    checkpoints: VecDeque<Checkpoint>,
    bytes: usize,
}

impl Overlay {
    /// Adds the newest record.
    pub fn push(&mut self, record: Record) {
        assert!(
            self.records
                .back()
                .is_none_or(|last| last.revision < record.revision),
            "records come in revision order"
        );
        self.bytes += record.memory_bytes();
        self.records.push_back(record);
    }

    /// Ends a call of `apply`.
    pub fn checkpoint(&mut self, checkpoint: Checkpoint) {
        assert!(
            self.checkpoints
                .back()
                .is_none_or(|last| last.index <= checkpoint.index),
            "checkpoints come in log order"
        );
        self.bytes += checkpoint_bytes(&checkpoint);
        self.checkpoints.push_back(checkpoint);
    }

    /// The record of a revision, if it is here.
    pub fn get(&self, revision: Revision) -> Option<&Record> {
        let at = self
            .records
            .binary_search_by_key(&revision, |record| record.revision);
        at.ok().map(|at| &self.records[at])
    }

    /// Revision of the oldest record here.
    pub fn first_revision(&self) -> Option<Revision> {
        self.records.front().map(|record| record.revision)
    }

    /// All records at or after `from`, oldest first.
    pub fn records_from(&self, from: Revision) -> impl Iterator<Item = &Record> {
        let start = self
            .records
            .partition_point(|record| record.revision < from);
        self.records.range(start..)
    }

    /// The newest checkpoint with an index of at most `index`.
    pub fn newest_checkpoint(&self, index: u64) -> Option<&Checkpoint> {
        let after = self
            .checkpoints
            .partition_point(|checkpoint| checkpoint.index <= index);
        self.checkpoints.get(after.checked_sub(1)?)
    }

    /// Takes out everything up to a checkpoint that is durable now. The caller drops what it gets when it holds no lock: freeing many
    /// records takes a while.
    pub fn take_through(&mut self, durable: &Checkpoint) -> Vec<Record> {
        let records = self
            .records
            .partition_point(|record| record.revision.main <= durable.revision);
        let checkpoints = self
            .checkpoints
            .partition_point(|checkpoint| checkpoint.index <= durable.index);
        for checkpoint in self.checkpoints.drain(..checkpoints) {
            self.bytes -= checkpoint_bytes(&checkpoint);
        }
        let taken: Vec<Record> = self.records.drain(..records).collect();
        self.bytes -= taken.iter().map(Record::memory_bytes).sum::<usize>();
        taken
    }

    /// About how many bytes are here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn checkpoint_bytes(checkpoint: &Checkpoint) -> usize {
    checkpoint.position.0.len() + CHECKPOINT_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(main: i64, sub: u32) -> Record {
        Record::tombstone(Revision { main, sub }, "k".into())
    }

    fn checkpoint(index: u64, revision: i64) -> Checkpoint {
        Checkpoint {
            index,
            position: Position::default(),
            revision,
            compact_revision: -1,
        }
    }

    /// Two calls of apply: revisions 2 and 3 (two changes), then 4.
    fn sample() -> Overlay {
        let mut overlay = Overlay::default();
        for (main, sub) in [(2, 0), (3, 0), (3, 1)] {
            overlay.push(record(main, sub));
        }
        overlay.checkpoint(checkpoint(10, 3));
        overlay.push(record(4, 0));
        overlay.checkpoint(checkpoint(12, 4));
        overlay
    }

    #[test]
    fn only_ends_of_apply_calls_may_become_durable() {
        let overlay = sample();
        let revision_at = |index| overlay.newest_checkpoint(index).map(|c| c.revision);
        assert_eq!(
            [9, 10, 11, 12, 99].map(revision_at),
            [None, Some(3), Some(3), Some(4), Some(4)]
        );
    }

    #[test]
    fn what_is_durable_leaves_and_the_rest_stays() {
        let mut overlay = sample();
        let durable = overlay.newest_checkpoint(11).unwrap().clone();
        assert_eq!(overlay.take_through(&durable).len(), 3);
        assert_eq!(overlay.get(Revision { main: 3, sub: 1 }), None);
        assert_eq!(
            overlay.get(Revision { main: 4, sub: 0 }),
            Some(&record(4, 0))
        );
        assert_eq!(overlay.newest_checkpoint(11), None);
        let durable = overlay.newest_checkpoint(12).unwrap().clone();
        overlay.take_through(&durable);
        assert_eq!(overlay.bytes(), 0);
    }

    #[test]
    fn records_are_found_from_any_revision() {
        let overlay = sample();
        let from = |main, sub| overlay.records_from(Revision { main, sub }).count();
        assert_eq!(
            [from(0, 0), from(3, 1), from(4, 0), from(5, 0)],
            [4, 2, 1, 0]
        );
    }
}
