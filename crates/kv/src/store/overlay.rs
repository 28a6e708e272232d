//! What was applied but is not durable yet: records in revision order, and the positions at which the durable state may stop.
//!
//! `apply` appends, `persist` copies a prefix to disk and then drops it. Records of the overlay shadow nothing: a revision is either here
//! or in the revision table, and moves from one to the other under the state's write lock.

use super::record::{Record, Revision};
use eaves::Position;
use std::collections::VecDeque;

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
/// Records are kept in chunks, so that the overlay grows without copying what it has, and a persist takes thousands of records out in a few
/// steps: both happen under the state's lock.
///
/// Invariants: records ascend by revision, checkpoints by index; a checkpoint's revision is at most the newest record's; no chunk is empty.
#[derive(Debug, Default)]
pub struct Overlay {
    chunks: VecDeque<Chunk>,
    checkpoints: VecDeque<Mark>,
    bytes: usize,
    /// Bytes of all that was ever here and left.
    left_bytes: u64,
}

/// A checkpoint, and how many bytes up to its end were ever here.
#[derive(Debug)]
struct Mark {
    checkpoint: Checkpoint,
    end_bytes: u64,
}

/// What may become durable in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its end.
    pub target: Checkpoint,
    /// Whether nothing is left that may become durable now.
    pub is_last: bool,
}

/// Records in one piece of memory.
const CHUNK_RECORDS: usize = 512;

/// Up to [`CHUNK_RECORDS`] records.
#[derive(Debug)]
struct Chunk {
    records: Vec<Record>,
    bytes: usize,
}

/// What left the overlay. Dropping it frees many records, which takes a while: to be done without a lock.
#[derive(Debug)]
pub struct Taken {
    _chunks: Vec<Chunk>,
    _records: Vec<Record>,
    _checkpoints: Vec<Mark>,
}

impl Overlay {
    /// Adds the newest record.
    pub fn push(&mut self, record: Record) {
        assert!(
            self.last_revision()
                .is_none_or(|last| last < record.revision),
            "records come in revision order"
        );
        let bytes = record.memory_bytes();
        self.bytes += bytes;
        match self.chunks.back_mut() {
            Some(chunk) if chunk.records.len() < CHUNK_RECORDS => {
                chunk.records.push(record);
                chunk.bytes += bytes;
            }
            _ => {
                let mut records = Vec::with_capacity(CHUNK_RECORDS);
                records.push(record);
                self.chunks.push_back(Chunk { records, bytes });
            }
        }
    }

    /// Ends a call of `apply`.
    pub fn checkpoint(&mut self, checkpoint: Checkpoint) {
        assert!(
            self.checkpoints
                .back()
                .is_none_or(|last| last.checkpoint.index <= checkpoint.index),
            "checkpoints come in log order"
        );
        self.bytes += checkpoint_bytes(&checkpoint);
        self.checkpoints.push_back(Mark {
            checkpoint,
            end_bytes: self.left_bytes + self.bytes as u64,
        });
    }

    /// The record of a revision, if it is here.
    pub fn get(&self, revision: Revision) -> Option<&Record> {
        let after = self
            .chunks
            .partition_point(|chunk| chunk.first() <= revision);
        let records = &self.chunks.get(after.checked_sub(1)?)?.records;
        let at = records.binary_search_by_key(&revision, |record| record.revision);
        at.ok().map(|at| &records[at])
    }

    /// Revision of the oldest record here.
    pub fn first_revision(&self) -> Option<Revision> {
        self.chunks.front().map(Chunk::first)
    }

    fn last_revision(&self) -> Option<Revision> {
        self.chunks.back().map(Chunk::last)
    }

    /// All records at or after `from`, oldest first.
    pub fn records_from(&self, from: Revision) -> impl Iterator<Item = &Record> {
        let start = self.chunks.partition_point(|chunk| chunk.last() < from);
        self.chunks.range(start..).flat_map(move |chunk| {
            let start = chunk
                .records
                .partition_point(|record| record.revision < from);
            &chunk.records[start..]
        })
    }

    /// The oldest records, as far as an index of at most `index` and about `max_bytes`, but at least those of one call of `apply`.
    pub fn piece(&self, index: u64, max_bytes: usize) -> Option<Piece> {
        let allowed = self
            .checkpoints
            .partition_point(|mark| mark.checkpoint.index <= index);
        let end_bytes = self.left_bytes + max_bytes as u64;
        let small = self
            .checkpoints
            .partition_point(|mark| mark.end_bytes <= end_bytes);
        let taken = allowed.min(small.max(1));
        let last = self.checkpoints.get(taken.checked_sub(1)?)?;
        Some(Piece {
            target: last.checkpoint.clone(),
            is_last: taken == allowed,
        })
    }

    /// Takes out everything up to a checkpoint that is durable now.
    pub fn take_through(&mut self, durable: &Checkpoint) -> Taken {
        let before_bytes = self.bytes;
        let whole = self
            .chunks
            .partition_point(|chunk| chunk.last().main <= durable.revision);
        let chunks: Vec<Chunk> = self.chunks.drain(..whole).collect();
        let mut records = Vec::new();
        if let Some(chunk) = self.chunks.front_mut() {
            let leaving = chunk
                .records
                .partition_point(|record| record.revision.main <= durable.revision);
            records.extend(chunk.records.drain(..leaving));
            let bytes: usize = records.iter().map(Record::memory_bytes).sum();
            chunk.bytes -= bytes;
            self.bytes -= bytes;
        }
        let passed = self
            .checkpoints
            .partition_point(|mark| mark.checkpoint.index <= durable.index);
        let checkpoints: Vec<Mark> = self.checkpoints.drain(..passed).collect();
        self.bytes -= chunks.iter().map(|chunk| chunk.bytes).sum::<usize>();
        let noted = checkpoints.iter().map(|mark| &mark.checkpoint);
        self.bytes -= noted.map(checkpoint_bytes).sum::<usize>();
        self.left_bytes += (before_bytes - self.bytes) as u64;
        Taken {
            _chunks: chunks,
            _records: records,
            _checkpoints: checkpoints,
        }
    }

    /// About how many bytes are here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Chunk {
    fn first(&self) -> Revision {
        self.records.first().expect("no chunk is empty").revision
    }

    fn last(&self) -> Revision {
        self.records.last().expect("no chunk is empty").revision
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

    /// The newest checkpoint with an index of at most `index`.
    fn allowed(overlay: &Overlay, index: u64) -> Option<Checkpoint> {
        let piece = overlay.piece(index, usize::MAX >> 1)?;
        assert!(piece.is_last);
        Some(piece.target)
    }

    #[test]
    fn a_piece_ends_where_it_is_large_enough_and_holds_something() {
        let one = record(1, 0).memory_bytes() + checkpoint_bytes(&checkpoint(1, 1));
        let mut overlay = Overlay::default();
        for main in 1..=6 {
            overlay.push(record(main, 0));
            overlay.checkpoint(checkpoint(main as u64, main));
        }
        let piece = |overlay: &Overlay, index, bytes| {
            let piece = overlay.piece(index, bytes)?;
            Some((piece.target.index, piece.is_last))
        };
        assert_eq!(piece(&overlay, 0, one), None);
        assert_eq!(piece(&overlay, 6, 0), Some((1, false)));
        assert_eq!(piece(&overlay, 6, 3 * one - 1), Some((2, false)));
        assert_eq!(piece(&overlay, 6, 3 * one), Some((3, false)));
        assert_eq!(piece(&overlay, 3, 3 * one), Some((3, true)));
        assert_eq!(piece(&overlay, 2, 3 * one), Some((2, true)));
        overlay.take_through(&checkpoint(3, 3));
        assert_eq!(piece(&overlay, 6, 2 * one), Some((5, false)));
        overlay.take_through(&checkpoint(5, 5));
        assert_eq!(piece(&overlay, 6, 2 * one), Some((6, true)));
    }

    #[test]
    fn only_ends_of_apply_calls_may_become_durable() {
        let overlay = sample();
        let revision_at = |index| allowed(&overlay, index).map(|c| c.revision);
        assert_eq!(
            [9, 10, 11, 12, 99].map(revision_at),
            [None, Some(3), Some(3), Some(4), Some(4)]
        );
    }

    #[test]
    fn what_is_durable_leaves_and_the_rest_stays() {
        let mut overlay = sample();
        let durable = allowed(&overlay, 11).unwrap();
        overlay.take_through(&durable);
        assert_eq!(overlay.get(Revision { main: 3, sub: 1 }), None);
        assert_eq!(
            overlay.get(Revision { main: 4, sub: 0 }),
            Some(&record(4, 0))
        );
        assert_eq!(allowed(&overlay, 11), None);
        let durable = allowed(&overlay, 12).unwrap();
        overlay.take_through(&durable);
        assert_eq!((overlay.bytes(), overlay.first_revision()), (0, None));
    }

    #[test]
    fn many_chunks_are_one_sequence() {
        let last = 3 * CHUNK_RECORDS as i64 + 10;
        for durable in [1, 5, 511, 512, 513, 1030, last] {
            let mut overlay = Overlay::default();
            (1..=last).for_each(|main| overlay.push(record(main, 0)));
            overlay.take_through(&checkpoint(1, durable));
            let left: Vec<i64> = overlay
                .records_from(Revision::default())
                .map(|record| record.revision.main)
                .collect();
            assert_eq!(left, (durable + 1..=last).collect::<Vec<_>>());
            for main in 1..=last {
                let revision = Revision::first_of(main);
                assert_eq!(overlay.get(revision).is_some(), main > durable);
                let from = overlay.records_from(revision).count() as i64;
                assert_eq!(from, last - durable.max(main - 1));
            }
            let bytes: usize = left.iter().map(|_| record(1, 0).memory_bytes()).sum();
            assert_eq!(overlay.bytes(), bytes);
        }
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
