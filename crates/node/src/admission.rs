//! How much a node takes on at once: commands whose outcome is not known yet, by number, by bytes, and by how long they wait.
//!
//! A queue without end only makes everybody wait longer, and in the end takes the memory that heartbeats and elections need. So a
//! command takes a [`Share`] where it enters the node, from a client or from a node below, and keeps it until its outcome is known:
//! until it is applied or refused, not until its caller gives up. Callers give up after seconds, a command on a slow disk does not.
//! Who finds no room is told at once ([`WriteError::Busy`]; etcd's "too many requests"), before anything was proposed.
//!
//! Number and bytes bound memory. They do not suffice on a slow disk: what fits in memory may be a minute's work, and if everybody waits
//! a minute, everybody has given up when the answer comes, and the disk has worked for nobody. So no more is taken on while the oldest
//! command has waited for [`MAX_WAIT`]: the queue stays as long as what is done in that time, whatever that is, and those who are taken
//! on are answered in time.
//!
//! Invariant `shares-given-back`: the sums here are those of the shares that exist.

use crate::error::WriteError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of commands whose outcome is not known: seconds of what a fast disk takes.
pub const MAX_UNANSWERED_BYTES: usize = 64 << 20;

/// Commands whose outcome is not known. Enough for a full pipeline of small ones: at 50,000 a second, a third of a second.
pub const MAX_UNANSWERED_COMMANDS: usize = 16 << 10;

/// How long the oldest command may have waited when another is taken on: well below what clients wait.
pub const MAX_WAIT: Duration = Duration::from_secs(2);

/// So many are taken on however long they wait: a few clients that wait for an election are no overload.
pub const ALWAYS_COMMANDS: usize = 128;

/// Bytes of the leader's log that wait for its disk; more commands are refused. The group may commit without the leader's disk, so the
/// bounds above do not bound this.
pub const MAX_UNFLUSHED_BYTES: u64 = 64 << 20;

/// The shares of one node.
#[derive(Default)]
pub(crate) struct Admission {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counts: AdmissionCounts,
    next: u64,
    /// When each command was taken on, oldest first.
    since: BTreeMap<u64, Instant>,
}

/// What is taken on at present, and what was refused so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionCounts {
    /// Commands whose outcome is not known.
    pub commands: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Commands refused since the start because there was no room.
    pub refused: u64,
}

/// One command's part; given back when it is dropped.
pub(crate) struct Share {
    of: Arc<Admission>,
    number: u64,
    bytes: usize,
}

impl Admission {
    /// Takes a share for a command of `bytes`.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Share, WriteError> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap();
        let waits = |oldest: &Instant| now.duration_since(*oldest) > MAX_WAIT;
        let is_slow = state.counts.commands >= ALWAYS_COMMANDS
            && state.since.values().next().is_some_and(waits);
        let is_full = state.counts.bytes + bytes > MAX_UNANSWERED_BYTES
            || state.counts.commands >= MAX_UNANSWERED_COMMANDS;
        if is_slow || is_full {
            state.counts.refused += 1;
            return Err(WriteError::Busy);
        }
        state.counts.commands += 1;
        state.counts.bytes += bytes;
        state.next += 1;
        let number = state.next;
        state.since.insert(number, now);
        Ok(Share {
            of: self.clone(),
            number,
            bytes,
        })
    }

    /// Counts a refusal.
    pub fn refuse(&self) -> WriteError {
        self.state.lock().unwrap().counts.refused += 1;
        WriteError::Busy
    }

    pub fn counts(&self) -> AdmissionCounts {
        self.state.lock().unwrap().counts
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.of.state.lock().unwrap();
        state.counts.commands -= 1;
        state.counts.bytes -= self.bytes;
        state.since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let admission = Arc::new(Admission::default());
        let half = admission.take(MAX_UNANSWERED_BYTES / 2).unwrap();
        let other = admission.take(MAX_UNANSWERED_BYTES / 2).unwrap();
        assert!(matches!(admission.take(1), Err(WriteError::Busy)));
        drop(half);
        let small = admission.take(1).unwrap();
        drop((other, small));
        let counts = AdmissionCounts {
            refused: 1,
            ..AdmissionCounts::default()
        };
        assert_eq!(admission.counts(), counts, "shares-given-back");
    }

    #[test]
    fn commands_are_bounded_however_small() {
        let admission = Arc::new(Admission::default());
        let shares: Vec<Share> = (0..MAX_UNANSWERED_COMMANDS)
            .map(|_| admission.take(0).unwrap())
            .collect();
        assert!(matches!(admission.take(0), Err(WriteError::Busy)));
        drop(shares);
        assert!(admission.take(0).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_taken_on_behind_one_who_has_waited_too_long() {
        let admission = Arc::new(Admission::default());
        let oldest = admission.take(1).unwrap();
        let _few: Vec<Share> = (0..ALWAYS_COMMANDS - 2)
            .map(|_| admission.take(1).unwrap())
            .collect();
        tokio::time::advance(MAX_WAIT + Duration::from_millis(1)).await;
        let last = admission.take(1).unwrap();
        assert!(matches!(admission.take(1), Err(WriteError::Busy)));
        drop(oldest);
        drop(last);
        assert!(admission.take(1).is_ok(), "few enough again");
        let _last = [1, 1].map(|bytes| admission.take(bytes).unwrap());
        assert!(matches!(admission.take(1), Err(WriteError::Busy)));
    }
}
