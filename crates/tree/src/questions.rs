//! The questions of one search that are on their way, and the servers that were too busy to answer (`S7`, `B19`).

use crate::config::ASKED_AT_ONCE;
use crate::ids::Address;
use crate::time::Instant;
use alloc::vec::Vec;

/// How often a busy server is asked again in one round (`B19`), so that a round ends.
const BUSY_MAX: u32 = 3;

/// A question on its way.
#[derive(Debug)]
struct Question {
    to: Address,
    asked: Instant,
    deadline: Instant,
    /// How often this server has said in this round that it is busy.
    times_busy: u32,
}

/// A server that was too busy to answer.
#[derive(Debug)]
struct Busy {
    to: Address,
    /// When to ask it again.
    again: Instant,
    times_busy: u32,
    is_due: bool,
}

/// The questions of one round.
///
/// Invariants:
/// - **asked-at-once**: no more than [`ASKED_AT_ONCE`] questions are on their way that are not late.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: Vec<Question>,
    busy: Vec<Busy>,
}

impl Questions {
    /// Whether another question may go out.
    pub(crate) fn may_ask(&self) -> bool {
        self.open.len() < ASKED_AT_ONCE
    }

    /// Whether any is on its way and not late.
    pub(crate) fn is_any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether a busy server is to be asked again.
    pub(crate) fn is_any_put_off(&self) -> bool {
        !self.busy.is_empty()
    }

    /// A server whose time to be asked again has come.
    pub(crate) fn busy_due(&self) -> Option<&Address> {
        self.busy
            .iter()
            .find(|busy| busy.is_due)
            .map(|busy| &busy.to)
    }

    /// A question goes out, first or, to a server that was busy, again.
    pub(crate) fn ask(&mut self, now: Instant, to: Address, deadline: Instant) {
        assert!(
            self.may_ask(),
            "asked-at-once: too many questions on their way"
        );
        let busy = self.busy.iter().position(|busy| busy.to == to);
        let times_busy = busy.map_or(0, |busy| self.busy.swap_remove(busy).times_busy);
        self.open.push(Question {
            to,
            asked: now,
            deadline,
            times_busy,
        });
    }

    /// The answer has come, or will not come. Returns when the question was asked, unless it was given up already.
    pub(crate) fn close(&mut self, to: &Address) -> Option<Instant> {
        self.take(to).map(|question| question.asked)
    }

    /// The server wants to be asked again later, and is, if it has not said so too often. Returns whether there was such a
    /// question.
    pub(crate) fn put_off(&mut self, to: &Address, again: Instant) -> bool {
        let Some(Question { times_busy, .. }) = self.take(to) else {
            return false;
        };
        if times_busy < BUSY_MAX {
            self.busy.push(Busy {
                to: to.clone(),
                again,
                times_busy: times_busy + 1,
                is_due: false,
            });
        }
        true
    }

    /// Gives up a question whose time is over.
    pub(crate) fn take_late(&mut self, now: Instant) -> Option<Address> {
        let late = self
            .open
            .iter()
            .position(|question| question.deadline <= now)?;
        Some(self.open.swap_remove(late).to)
    }

    /// Makes due the busy servers whose time has come.
    pub(crate) fn recall_busy(&mut self, now: Instant) {
        for busy in &mut self.busy {
            busy.is_due |= busy.again <= now;
        }
    }

    /// When the next question is late, or a busy server due.
    pub(crate) fn next(&self) -> Option<Instant> {
        let late = self.open.iter().map(|question| question.deadline);
        let put_off = self.busy.iter().filter(|busy| !busy.is_due);
        late.chain(put_off.map(|busy| busy.again)).min()
    }

    fn take(&mut self, to: &Address) -> Option<Question> {
        let question = self.open.iter().position(|question| question.to == *to)?;
        Some(self.open.swap_remove(question))
    }
}
