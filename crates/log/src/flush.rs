//! Group commit: all that waits becomes one job, and while that runs, more gathers for the next.
//!
//! ```text
//!   append, truncate_after, ...        next_flush()          run()             flushed()
//!   ───────────► waiting ───────────────► FlushJob ───────► FlushDone ───────────► durable
//!                   ▲                     (writes, one fdatasync)                     │
//!                   └────────── meanwhile more waits; then next_flush() again ◄───────┘
//! ```
//!
//! A job carries the [`Writer`] with it, so there is never more than one, and nothing is locked while the disk works. Whoever drives
//! the log runs it on a thread, or, in a simulator, at some later moment of virtual time.

use crate::cache::Slot;
use crate::error::Poisoned;
use crate::log::Ticket;
use crate::segment::Change;
use crate::state::Shared;
use crate::state_file::SmallState;
use crate::writer::{Op, Writer};
use std::sync::Arc;

/// Operations in order, and the entries that they append.
#[derive(Default)]
pub(crate) struct Batch {
    pub ops: Vec<Op>,
    pub slots: Vec<Slot>,
    /// Bytes of the entries.
    pub bytes: u64,
}

impl Batch {
    /// Adds an entry to append.
    pub fn append(&mut self, slot: Slot) {
        self.bytes += slot.frame.as_bytes().len() as u64;
        self.slots.push(slot);
        match self.ops.last_mut() {
            Some(Op::Append { count }) => *count += 1,
            _ => self.ops.push(Op::Append { count: 1 }),
        }
    }

    /// Adds a new small state. Of several in a row only the last matters.
    pub fn save(&mut self, state: SmallState) {
        match self.ops.last_mut() {
            Some(Op::Save(waiting)) => *waiting = state,
            _ => self.ops.push(Op::Save(state)),
        }
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.slots.clear();
        self.bytes = 0;
    }
}

/// All that waited, to be written and synced by [`FlushJob::run`] wherever blocking is allowed.
#[must_use = "the log waits until the job has run and its outcome went to `Log::flushed`"]
pub struct FlushJob {
    pub(crate) writer: Writer,
    pub(crate) batch: Batch,
    pub(crate) ticket: Ticket,
    pub(crate) in_flight: InFlight,
}

/// The outcome of a [`FlushJob`], for [`crate::Log::flushed`].
#[must_use = "the log waits until `Log::flushed` is told"]
pub struct FlushDone {
    pub(crate) outcome: Result<Flushed, Poisoned>,
    pub(crate) in_flight: InFlight,
}

/// What a successful job gives back.
pub(crate) struct Flushed {
    pub writer: Writer,
    pub batch: Batch,
    pub ticket: Ticket,
    pub changes: Vec<Change>,
    pub written_bytes: u64,
}

impl FlushJob {
    /// Carries out all that waited, with one fdatasync unless a segment fills up or something else than entries waited. Blocks.
    pub fn run(mut self) -> FlushDone {
        let before = self.writer.written_bytes();
        let outcome = match self.writer.run(&self.batch.ops, &self.batch.slots) {
            Ok(()) => Ok(Flushed {
                written_bytes: self.writer.written_bytes() - before,
                changes: self.writer.take_changes(),
                writer: self.writer,
                batch: self.batch,
                ticket: self.ticket,
            }),
            Err(error) => Err(Poisoned(error.to_string())),
        };
        FlushDone {
            outcome,
            in_flight: self.in_flight,
        }
    }

    /// Bytes of entries that it will write.
    pub fn bytes(&self) -> u64 {
        self.batch.bytes
    }

    /// Entries that it will write.
    pub fn entries(&self) -> usize {
        self.batch.slots.len()
    }
}

/// Poisons the log if a job or its outcome is dropped: the log would wait for it for ever.
pub(crate) struct InFlight {
    shared: Option<Arc<Shared>>,
}

impl InFlight {
    pub fn new(shared: Arc<Shared>) -> InFlight {
        InFlight {
            shared: Some(shared),
        }
    }

    /// Whether this is a flush of the log `shared`.
    pub fn is_of(&self, shared: &Arc<Shared>) -> bool {
        self.shared
            .as_ref()
            .is_some_and(|mine| Arc::ptr_eq(mine, shared))
    }

    /// The flush came to its end.
    pub fn landed(mut self) {
        self.shared = None;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.poison(Poisoned("a flush was abandoned".to_string()));
        }
    }
}
