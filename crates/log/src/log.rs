//! The log as its user sees it.
#![allow(unused_variables, dead_code, clippy::unimplemented)]

use crate::disk::Disk;
use crate::{Base, Chain, Frame, LogId, OpenError, Poisoned, ReadError, WriteError};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

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
#[derive(Clone)]
pub struct Log {
    shared: Arc<()>,
}

/// All that waited, to be written and synced by [`FlushJob::run`] wherever blocking is allowed.
#[must_use = "the log waits until the job has run and its outcome went to `Log::flushed`"]
pub struct FlushJob(());

/// The outcome of a [`FlushJob`], for [`Log::flushed`].
#[must_use = "the log waits until `Log::flushed` is told"]
pub struct FlushDone(());

impl FlushJob {
    /// Writes, with one fdatasync unless a file ends. Blocks.
    pub fn run(self) -> FlushDone {
        unimplemented!()
    }

    /// Bytes of entries that it will write.
    pub fn bytes(&self) -> u64 {
        unimplemented!()
    }
}

impl Log {
    /// Opens the log in `dir`, creating it if there is none. Reads and verifies all of it. Blocks.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<(Log, Recovered), OpenError> {
        unimplemented!()
    }

    /// Checks that the log reaches `index`, to which other durable state of this node (the state machine) has come.
    pub fn require_at_least(&self, index: u64) -> Result<(), OpenError> {
        unimplemented!()
    }

    /// Queues entries. They can be read at once; they are durable when [`Log::flushed`] has returned the ticket or a later one.
    ///
    /// Either all are taken or, with an error, none.
    pub fn append(&self, frames: &[Frame]) -> Result<Ticket, WriteError> {
        unimplemented!()
    }

    /// Queues dropping all entries after `keep` (`None`: all of them), which a new leader does not have. No effect beyond the last.
    ///
    /// Blocks on a read if `keep` is older than the cache, which only a cut of more than [`Options::cache_bytes`] is.
    pub fn truncate_after(&self, keep: Option<u64>) -> Result<Ticket, WriteError> {
        unimplemented!()
    }

    /// Queues replacing the hard state, a small blob (Raft's vote and the like). Written atomically.
    pub fn save_hard_state(&self, bytes: Bytes) -> Result<Ticket, WriteError> {
        unimplemented!()
    }

    /// Queues dropping everything and starting anew after `base`, because a snapshot was installed. After a crash there is either the
    /// old log or the empty new one.
    pub fn reset(&self, base: Base) -> Result<Ticket, WriteError> {
        unimplemented!()
    }

    /// Notes that Raft no longer needs entries up to and including `upto`. Nothing is deleted: see [`Log::release`].
    pub fn purge(&self, upto: LogId) -> Result<Ticket, WriteError> {
        unimplemented!()
    }

    /// Queues deleting the segments that hold only indexes up to and including `upto`; reading these is [`ReadError::Gone`] from now
    /// on. Deletes what it can: call it again as the log grows.
    pub fn release(&self, upto: u64) -> Result<Ticket, WriteError> {
        unimplemented!()
    }

    /// All that waits, as a job; `None` if nothing waits, if a job is under way (its end lets the next begin: group commit), or if the
    /// log is poisoned.
    pub fn next_flush(&self) -> Option<FlushJob> {
        unimplemented!()
    }

    /// Takes the outcome of a job. Everything up to the ticket is durable. Ask [`Log::next_flush`] again afterwards.
    pub fn flushed(&self, done: FlushDone) -> Result<Ticket, Poisoned> {
        unimplemented!()
    }

    /// The last entry appended, durable or not; the base's if there is none after it.
    pub fn last_id(&self) -> Option<LogId> {
        unimplemented!()
    }

    /// The chain value at [`Log::last_id`].
    pub fn last_chain(&self) -> Chain {
        unimplemented!()
    }

    /// The last index that is durable, or the base's; `None` when the log is empty from its beginning.
    pub fn durable_index(&self) -> Option<u64> {
        unimplemented!()
    }

    /// The ticket of the latest change that is durable.
    pub fn durable_ticket(&self) -> Ticket {
        unimplemented!()
    }

    /// The first index that can be read (one past the last if there is no entry).
    pub fn first_index(&self) -> u64 {
        unimplemented!()
    }

    /// The last entry that Raft no longer needs, or that is gone.
    pub fn purged(&self) -> Option<LogId> {
        unimplemented!()
    }

    /// The hard state last saved, durable or not.
    pub fn hard_state(&self) -> Option<Bytes> {
        unimplemented!()
    }

    /// The I/O error after which the log takes no more writes, if there was one.
    pub fn poisoned(&self) -> Option<Poisoned> {
        unimplemented!()
    }

    /// Entries from `from` on, up to and including `to`, about `max_bytes` of them but at least one if there is any; perhaps fewer
    /// than asked for: go on after the last. Served from the cache if `from` is in it, else by a blocking read.
    pub fn read(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        unimplemented!()
    }

    /// Whether [`Log::read`] and its kin would find `index` without touching the disk.
    pub fn is_cached(&self, index: u64) -> bool {
        unimplemented!()
    }

    /// Term and index of the entry at `index`; `None` beyond the end. Known for the base, too.
    pub fn id_at(&self, index: u64) -> Result<Option<LogId>, ReadError> {
        unimplemented!()
    }

    /// The chain value at `index`; `None` beyond the end. Known for the base, too.
    pub fn chain_at(&self, index: u64) -> Result<Option<Chain>, ReadError> {
        unimplemented!()
    }

    /// Counters.
    pub fn stats(&self) -> LogStats {
        unimplemented!()
    }
}
