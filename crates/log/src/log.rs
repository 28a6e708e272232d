//! The log as its user sees it.
//!
//! Every change takes effect in memory at once and joins the queue of what is to become durable. One short mutex guards both
//! (`state`); it is never held while a disk works.

use crate::cache::Slot;
use crate::disk::Disk;
use crate::error::DiskError;
use crate::flush::{Batch, FlushDone, FlushJob, InFlight};
use crate::recovery::{Recovery, recover};
use crate::released::Released;
use crate::segment::{Cursor, ReadFailure};
use crate::state::{Shared, State};
use crate::writer::Op;
use crate::{Base, Chain, Frame, LogId, OpenError, Poisoned, ReadError, WriteError};
use bytes::Bytes;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Sizes. The defaults suit a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a segment file, reserved when it is made. Retention works by whole segments. Default 32 MiB.
    pub segment_bytes: u64,
    /// Memory for the newest entries, which feed apply, replication and listeners. Default 32 MiB. Entries that are not yet durable
    /// are kept beyond it.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 32 << 20,
            cache_bytes: 32 << 20,
        }
    }
}

/// What [`Log::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// What precedes the first entry.
    pub base: Base,
    /// The last entry, or the base's.
    pub last: Option<LogId>,
    /// The chain value at it.
    pub last_chain: Chain,
    /// What [`Log::purge`] was last told, or the base.
    pub purged: Option<LogId>,
    /// What [`Log::save_hard_state`] last saved.
    pub hard_state: Option<Bytes>,
    /// Bytes of unacknowledged writes that a crash had torn, now dropped. Worth a log line when not zero; not an error.
    pub torn_bytes: u64,
}

/// Position in the queue of changes. All changes up to a ticket that [`Log::flushed`] returned are durable.
///
/// A call that changes nothing returns the latest ticket, which may be durable already: compare with [`Log::durable_ticket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

/// Plain counters since the log was opened, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Flushes done.
    pub flushes: u64,
    /// Bytes of entries written, with their records' overhead.
    pub flushed_bytes: u64,
    /// Entries written.
    pub flushed_entries: u64,
    /// Bytes of entries queued or being written; bound it by slowing the proposers.
    pub waiting_bytes: u64,
    /// Memory of the tail cache.
    pub cache_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Their length together.
    pub disk_bytes: u64,
}

/// The log of one node. Clones are the same log.
///
/// Invariants:
/// - `contiguous`: entries have consecutive indexes from the base on, and terms never go back.
/// - `chain`: the chain value of an entry is the one before it mixed with the entry, in memory, on disk and in every header.
/// - `durable-before-acknowledged`: a ticket or durable index is told only after the sync that covers it.
/// - `prefix`: after a crash the log is the result of a prefix of the queued changes, with all that were told durable.
/// - `unflushed-kept`: an entry that is not durable is in the cache.
/// - `one-flush`: at most one flush is in flight, and it owns the writer.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

impl Log {
    /// Opens the log in `dir`, creating it if there is none. Reads and verifies all of it. Blocks.
    ///
    /// Nothing here keeps a second process away: take a [`crate::DirLock`] first.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<(Log, Recovered), OpenError> {
        let Recovery {
            base,
            last,
            last_chain,
            state: small,
            torn_bytes,
            cache,
            segments,
            writer,
        } = recover(disk, dir, options)?;
        let state = State {
            base,
            last,
            last_chain,
            small,
            cache,
            segments,
            durable: last.map(|id| id.index),
            waiting: Batch::default(),
            spare: Batch::default(),
            writer: Some(writer),
            in_flight_bytes: 0,
            released: Vec::new(),
            queued: Ticket(0),
            flushed: Ticket(0),
            last_cut: Ticket(0),
            poisoned: None,
            stats: LogStats::default(),
        };
        let recovered = Recovered {
            base,
            last,
            last_chain,
            purged: state.purged(),
            hard_state: state.small.hard_state.clone(),
            torn_bytes,
        };
        let shared = Shared {
            dir: dir.to_owned(),
            options,
            state: Mutex::new(state),
        };
        Ok((
            Log {
                shared: Arc::new(shared),
            },
            recovered,
        ))
    }

    /// Checks that the log reaches `index`, to which other durable state of this node (the state machine) has come.
    ///
    /// The log itself cannot notice that its very last entries are gone, if nothing was ever written after them.
    pub fn require_at_least(&self, index: u64) -> Result<(), OpenError> {
        let last = self.last_id();
        if last.is_some_and(|id| id.index >= index) {
            return Ok(());
        }
        Err(OpenError::Missing {
            dir: self.shared.dir.clone(),
            last,
            required: index,
        })
    }

    /// Queues entries. They can be read at once; they are durable when [`Log::flushed`] has returned the ticket or a later one.
    ///
    /// Either all are taken or, with an error, none.
    pub fn append(&self, frames: &[Frame]) -> Result<Ticket, WriteError> {
        let mut state = self.shared.lock();
        state.check_writable()?;
        state.check_follows(frames)?;
        for frame in frames {
            let chain = state.last_chain.next(frame);
            let slot = Slot {
                frame: frame.clone(),
                chain,
            };
            state.cache.push(slot.clone());
            state.waiting.append(slot);
            state.last = Some(frame.id());
            state.last_chain = chain;
        }
        if frames.is_empty() {
            return Ok(state.queued);
        }
        Ok(state.next_ticket())
    }

    /// Queues dropping all entries after `keep` (`None`: all of them), which a new leader does not have. No effect beyond the last.
    ///
    /// Blocks on a read if `keep` is older than the cache, which only a cut of more than [`Options::cache_bytes`] is.
    pub fn truncate_after(&self, keep: Option<u64>) -> Result<Ticket, WriteError> {
        loop {
            let mut state = self.shared.lock();
            state.check_writable()?;
            if keep >= state.last.map(|id| id.index) {
                return Ok(state.queued);
            }
            if keep < state.purged().map(|id| id.index) {
                let at = keep.map_or("the beginning".to_string(), |index| {
                    format!("entry {index}")
                });
                return Err(state.out_of_range("cut after", at));
            }
            if let Some(base) = state.base_after(keep) {
                return Ok(state.cut(base, false));
            }
            let cuts = state.last_cut;
            drop(state);
            // Older than the cache: read it, and look again whether it still stands.
            let keep = keep.expect("the beginning is a base");
            let Some(slot) = self.older_slot(keep)? else {
                continue;
            };
            let mut state = self.shared.lock();
            if state.last_cut == cuts && state.base.next_index() <= keep {
                state.check_writable()?;
                return Ok(state.cut(
                    Base {
                        last: Some(slot.frame.id()),
                        chain: slot.chain,
                    },
                    false,
                ));
            }
        }
    }

    /// Queues replacing the hard state, a small blob (Raft's vote and the like). Written atomically.
    pub fn save_hard_state(&self, bytes: Bytes) -> Result<Ticket, WriteError> {
        let mut state = self.shared.lock();
        state.check_writable()?;
        state.small.hard_state = Some(bytes);
        Ok(state.save())
    }

    /// Queues dropping everything and starting anew after `base`, because a snapshot was installed. After a crash there is either the
    /// old log or the empty new one.
    pub fn reset(&self, base: Base) -> Result<Ticket, WriteError> {
        let mut state = self.shared.lock();
        state.check_writable()?;
        if state.small.purged.take().is_some() {
            // Before the cut, so that no crash leaves the old log's purge with the new log.
            state.save();
        }
        Ok(state.cut(base, true))
    }

    /// Notes that Raft no longer needs entries up to and including `upto`. Nothing is deleted: see [`Log::release`].
    pub fn purge(&self, upto: LogId) -> Result<Ticket, WriteError> {
        let mut state = self.shared.lock();
        state.check_writable()?;
        if state.last.is_none_or(|last| last.index < upto.index) {
            return Err(state.out_of_range("purge", format!("entry {}", upto.index)));
        }
        if state
            .purged()
            .is_some_and(|purged| purged.index >= upto.index)
        {
            return Ok(state.queued);
        }
        state.small.purged = Some(upto);
        Ok(state.save())
    }

    /// Queues deleting the segments that hold only indexes up to and including `upto`; reading these is [`ReadError::Gone`] from now
    /// on, and Raft's purge point moves along if it was lower.
    ///
    /// Deletes what it can: never the newest segment, and nothing while a cut waits. Call it again as the log grows. The space comes back
    /// with [`Log::take_released`].
    pub fn release(&self, upto: u64) -> Result<Ticket, WriteError> {
        let mut state = self.shared.lock();
        state.check_writable()?;
        let Some(durable) = state.durable.filter(|_| state.last_cut <= state.flushed) else {
            return Ok(state.queued);
        };
        match state.segments.base_at_or_below(upto.min(durable) + 1) {
            Some(base) if base.next_index() > state.base.next_index() => {
                let first = base.next_index();
                state.base = base;
                let files = state.segments.forget_before(first);
                state.cache.forget_before(first);
                state.waiting.ops.push(Op::Release { first, files });
                Ok(state.next_ticket())
            }
            _ => Ok(state.queued),
        }
    }

    /// The files of segments whose deletion is durable, to be freed wherever blocking is allowed; `None` when there are none. Until it is
    /// called they take space.
    pub fn take_released(&self) -> Option<Released> {
        let files = std::mem::take(&mut self.shared.lock().released);
        (!files.is_empty()).then(|| Released::new(files))
    }

    /// The last index in the oldest segment, if that is not the newest: what [`Log::release`] can let go of next.
    pub fn oldest_segment_end(&self) -> Option<u64> {
        self.shared
            .lock()
            .segments
            .second_first()
            .and_then(|first| first.checked_sub(1))
    }

    /// Whether [`Log::next_flush`] has something to hand out.
    pub fn has_flush(&self) -> bool {
        let state = self.shared.lock();
        state.writer.is_some() && state.poisoned.is_none() && !state.waiting.ops.is_empty()
    }

    /// All that waits, as a job; `None` if nothing waits, if a job is under way (its end lets the next begin: group commit), or if the
    /// log is poisoned.
    pub fn next_flush(&self) -> Option<FlushJob> {
        let mut state = self.shared.lock();
        if state.poisoned.is_some() || state.waiting.ops.is_empty() {
            return None;
        }
        let writer = state.writer.take()?;
        let spare = std::mem::take(&mut state.spare);
        let batch = std::mem::replace(&mut state.waiting, spare);
        state.in_flight_bytes = batch.bytes;
        let in_flight = InFlight::new(self.shared.clone());
        Some(FlushJob {
            writer,
            batch,
            ticket: state.queued,
            in_flight,
        })
    }

    /// Takes the outcome of a job. Everything up to the ticket is durable. Ask [`Log::next_flush`] again afterwards.
    ///
    /// After an I/O error the log is poisoned: what is on disk is unknown until it is opened again.
    ///
    /// # Panics
    ///
    /// If the job is of another log.
    pub fn flushed(&self, done: FlushDone) -> Result<Ticket, Poisoned> {
        assert!(
            done.in_flight.is_of(&self.shared),
            "the outcome of a flush must go to the log that made it"
        );
        let outcome = match done.outcome {
            Ok(flushed) => Ok(self
                .shared
                .lock()
                .landed(flushed, self.shared.options.cache_bytes)),
            Err(poisoned) => Err(self.shared.poison(poisoned)),
        };
        done.in_flight.landed();
        outcome
    }

    /// The last entry appended, durable or not; the base's if there is none after it.
    pub fn last_id(&self) -> Option<LogId> {
        self.shared.lock().last
    }

    /// The chain value at [`Log::last_id`].
    pub fn last_chain(&self) -> Chain {
        self.shared.lock().last_chain
    }

    /// [`Log::last_id`] and [`Log::last_chain`] of the same moment, while another may append.
    pub fn end(&self) -> Base {
        let shared = self.shared.lock();
        Base {
            last: shared.last,
            chain: shared.last_chain,
        }
    }

    /// The last index that is durable, or the base's; `None` when the log is empty from its beginning.
    pub fn durable_index(&self) -> Option<u64> {
        self.shared.lock().durable
    }

    /// The ticket of the latest change that is durable.
    pub fn durable_ticket(&self) -> Ticket {
        self.shared.lock().flushed
    }

    /// The first index that can be read (one past the last if there is no entry).
    pub fn first_index(&self) -> u64 {
        self.shared.lock().base.next_index()
    }

    /// The last entry that Raft no longer needs, or that is gone.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.lock().purged()
    }

    /// The hard state last saved, durable or not.
    pub fn hard_state(&self) -> Option<Bytes> {
        self.shared.lock().small.hard_state.clone()
    }

    /// The I/O error after which the log takes no more writes, if there was one.
    pub fn poisoned(&self) -> Option<Poisoned> {
        self.shared.lock().poisoned.clone()
    }

    /// Entries from `from` on, up to and including `to`, about `max_bytes` of them but at least one if there is any; perhaps fewer
    /// than asked for: go on after the last. Served from the cache if `from` is in it, else by a blocking read.
    pub fn read(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        let (cursor, to) = {
            let state = self.shared.lock();
            let Some(last) = state.last.filter(|last| from <= to && from <= last.index) else {
                return Ok(Vec::new());
            };
            let to = to.min(last.index);
            if from >= state.cache.first() {
                return Ok(state.cache.read(from, to, max_bytes));
            }
            let (cursor, segment_last) = state.cursor(from)?;
            (cursor, to.min(segment_last).min(state.cache.first() - 1))
        };
        Ok(read_older(&cursor, to, max_bytes)?
            .into_iter()
            .map(|slot| slot.frame)
            .collect())
    }

    /// About how many bytes the entries from `from` up to and including `to` have. Exact for those in the tail cache; all others, be
    /// they older or not here yet, are taken to be as large as those flushed so far on average.
    pub fn entry_bytes(&self, from: u64, to: u64) -> u64 {
        let state = self.shared.lock();
        let (cached_bytes, others) = state.cache.entry_bytes(from, to);
        let average = state
            .stats
            .flushed_bytes
            .checked_div(state.stats.flushed_entries);
        cached_bytes + others * average.unwrap_or(0)
    }

    /// Whether [`Log::read`] and its kin find `index` without touching the disk.
    pub fn is_cached(&self, index: u64) -> bool {
        self.shared.lock().cache.get(index).is_some()
    }

    /// Term and index of the entry at `index`; `None` beyond the end. Known for the base, too. Blocks as [`Log::read`] does.
    pub fn id_at(&self, index: u64) -> Result<Option<LogId>, ReadError> {
        Ok(self.base_at(index)?.and_then(|base| base.last))
    }

    /// The chain value at `index`; `None` beyond the end. Known for the base, too. Blocks as [`Log::read`] does.
    pub fn chain_at(&self, index: u64) -> Result<Option<Chain>, ReadError> {
        Ok(self.base_at(index)?.map(|base| base.chain))
    }

    /// Counters.
    pub fn stats(&self) -> LogStats {
        let state = self.shared.lock();
        LogStats {
            waiting_bytes: state.waiting.bytes + state.in_flight_bytes,
            cache_bytes: state.cache.bytes() as u64,
            segments: state.segments.len() as u64,
            disk_bytes: state.segments.file_bytes(),
            ..state.stats
        }
    }

    /// Id and chain value at `index`, if the log reaches so far.
    fn base_at(&self, index: u64) -> Result<Option<Base>, ReadError> {
        {
            let state = self.shared.lock();
            if state.last.is_none_or(|last| last.index < index) {
                return Ok(None);
            }
            if let Some(base) = state.base_after(Some(index)) {
                return Ok(Some(base));
            }
        }
        Ok(self.older_slot(index)?.map(|slot| Base {
            last: Some(slot.frame.id()),
            chain: slot.chain,
        }))
    }

    /// The entry at `index`, which is older than the cache, from disk; `None` if the log was cut below it meanwhile.
    fn older_slot(&self, index: u64) -> Result<Option<Slot>, ReadError> {
        let cursor = {
            let state = self.shared.lock();
            if let Some(slot) = state.cache.get(index) {
                return Ok(Some(slot.clone()));
            }
            if index >= state.cache.first() {
                return Ok(None);
            }
            state.cursor(index)?.0
        };
        Ok(read_older(&cursor, index, 1)?.pop())
    }
}

fn read_older(cursor: &Cursor, to: u64, max_bytes: usize) -> Result<Vec<Slot>, ReadError> {
    cursor.read(to, max_bytes).map_err(|failure| match failure {
        ReadFailure::Damaged(damage) => ReadError::Damaged(damage),
        ReadFailure::Io(error) => ReadError::Disk(DiskError::at("read", &cursor.path)(error)),
    })
}
