//! What a log is at this moment, and how each change changes it; all of it under one short mutex.

use crate::cache::Cache;
use crate::flush::{Batch, Flushed};
use crate::log::{LogStats, Options, Ticket};
use crate::segment::{Cursor, SegmentMap};
use crate::state_file::SmallState;
use crate::writer::{Op, Writer};
use crate::{Base, Chain, DiskFile, Frame, LogId, Poisoned, ReadError, WriteError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

/// What all handles of one log share.
pub(crate) struct Shared {
    pub dir: PathBuf,
    pub options: Options,
    pub state: Mutex<State>,
}

/// The log as it is now, and what waits to be written.
pub(crate) struct State {
    /// What precedes the first entry that can be read.
    pub base: Base,
    pub last: Option<LogId>,
    pub last_chain: Chain,
    pub small: SmallState,
    pub cache: Cache,
    /// What is on disk. Read only below the cache's first index: beyond, waiting cuts may have made it stale.
    pub segments: SegmentMap,
    /// The last index that is durable and not cut since.
    pub durable: Option<u64>,
    pub waiting: Batch,
    /// An emptied batch, kept for its memory.
    pub spare: Batch,
    /// At home while no flush is in flight.
    pub writer: Option<Writer>,
    pub in_flight_bytes: u64,
    /// Files of deleted segments that nobody has freed yet.
    pub released: Vec<Arc<dyn DiskFile>>,
    pub queued: Ticket,
    pub flushed: Ticket,
    pub last_cut: Ticket,
    pub poisoned: Option<Poisoned>,
    pub stats: LogStats,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("a thread panicked while it changed the log: its state is unknown")
    }

    /// Refuses writes from now on. The first reason stays; returns it.
    pub fn poison(&self, why: Poisoned) -> Poisoned {
        self.lock().poisoned.get_or_insert(why).clone()
    }
}

impl State {
    pub fn check_writable(&self) -> Result<(), Poisoned> {
        match &self.poisoned {
            Some(poisoned) => Err(poisoned.clone()),
            None => Ok(()),
        }
    }

    pub fn check_follows(&self, frames: &[Frame]) -> Result<(), WriteError> {
        let mut last = self.last;
        for frame in frames {
            let got = frame.id();
            let expected = last.map_or(0, |id| id.index + 1);
            if got.index != expected {
                return Err(WriteError::NotContiguous { expected, got });
            }
            match last {
                Some(last) if last.term > got.term => {
                    return Err(WriteError::TermWentBack { last, got });
                }
                _ => last = Some(got),
            }
        }
        Ok(())
    }

    pub fn purged(&self) -> Option<LogId> {
        // What was purged may since have been released; then the base is ahead.
        self.small
            .purged
            .filter(|purged| purged.index >= self.base.next_index())
            .or(self.base.last)
    }

    /// Id and chain value of entry `keep`, if known without reading; `None` for `keep` is the beginning of the log.
    pub fn base_after(&self, keep: Option<u64>) -> Option<Base> {
        if keep == self.base.last.map(|id| id.index) {
            return Some(self.base);
        }
        let slot = self.cache.get(keep?)?;
        Some(Base {
            last: Some(slot.frame.id()),
            chain: slot.chain,
        })
    }

    /// Where to read an entry older than the cache, and the last index in the same file.
    pub fn cursor(&self, index: u64) -> Result<(Cursor, u64), ReadError> {
        let first = self.base.next_index();
        if index < first {
            return Err(ReadError::Gone { first });
        }
        Ok(self
            .segments
            .find(index)
            .expect("an entry that is not cached is in a segment"))
    }

    pub fn cut(&mut self, base: Base, reset: bool) -> Ticket {
        if reset {
            self.base = base;
            self.cache.reset(base.next_index());
        } else {
            self.cache.cut(base.next_index());
        }
        self.last = base.last;
        self.last_chain = base.chain;
        self.durable = self.durable.min(base.last.map(|id| id.index));
        self.waiting.ops.push(Op::Cut { base, reset });
        self.last_cut = self.next_ticket();
        self.last_cut
    }

    pub fn save(&mut self) -> Ticket {
        self.waiting.save(self.small.clone());
        self.next_ticket()
    }

    pub fn next_ticket(&mut self) -> Ticket {
        self.queued.0 += 1;
        self.queued
    }

    /// A flush succeeded.
    pub fn landed(&mut self, flushed: Flushed, cache_bytes: usize) -> Ticket {
        let Flushed {
            writer,
            mut batch,
            ticket,
            changes,
            written_bytes,
        } = flushed;
        for change in changes {
            self.segments.apply(change);
        }
        let cuts = self.waiting.ops.iter().filter_map(|op| match op {
            Op::Cut { base, .. } => Some(base.last.map(|id| id.index)),
            _ => None,
        });
        self.durable = cuts.fold(writer.last().map(|id| id.index), Ord::min);
        self.flushed = ticket;
        self.stats.flushes += 1;
        self.stats.flushed_bytes += written_bytes;
        self.stats.flushed_entries += batch.slots.len() as u64;
        self.in_flight_bytes = 0;
        for op in &mut batch.ops {
            if let Op::Release { files, .. } = op {
                self.released.append(files);
            }
        }
        batch.clear();
        self.spare = batch;
        self.writer = Some(writer);
        self.cache
            .evict(self.durable.map_or(0, |index| index + 1), cache_bytes);
        ticket
    }

    pub fn out_of_range(&self, action: &'static str, at: String) -> WriteError {
        WriteError::OutOfRange {
            action,
            at,
            first: self.base.next_index(),
            last: self.last,
        }
    }
}
