//! How much a node takes on at once: commands whose outcome is not known yet, by number, by bytes, and by how long they wait.
//!
//! A queue without end only makes everybody wait longer, and in the end takes the memory that heartbeats and elections need. So a
//! command takes a [`Share`] where it enters the node, from a client or from a node below, and keeps it until its outcome is known:
//! until it is applied or refused, not until its caller gives up. Callers give up after seconds, a command on a slow disk does not.
//! Who finds no room is told at once ([`WriteError::Busy`]; etcd's "too many requests"), before anything was proposed.
//!
//! Number and bytes bound memory. They do not suffice on a slow disk: what fits in memory may be a minute's work, and if everybody waits
//! a minute, everybody has given up when the answer comes, and the disk has worked for nobody. So a leader proposes no more than what is
//! done in [`MAX_WAIT`], whatever that is ([`Share::propose`]), and those who are taken on are answered in time. It learns how much that is
//! from those who waited longer: each knows how many bytes were to be done before it was. Until somebody has, it takes on all that fits in
//! memory, but nothing behind one who has waited so long already. When a queue that fills the bound is done well within that time,
//! the bound grows by what is done. A node that does not lead has no such queue: what it passes on
//! waits elsewhere, and elsewhere it is refused. An old leader may be left with many proposals whose outcome nobody can tell it yet, and
//! must not refuse for their sake what the new leader would take.
//!
//! Invariant `shares-given-back`: the sums here are those of the shares that exist.

use crate::error::WriteError;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of commands whose outcome is not known: seconds of what a fast disk takes.
pub const MAX_UNANSWERED_BYTES: usize = 64 << 20;

/// Commands whose outcome is not known. Enough for a full pipeline of small ones: at 50,000 a second, a third of a second.
pub const MAX_UNANSWERED_COMMANDS: usize = 16 << 10;

/// How long the oldest proposed command may have waited when another is proposed: well below what clients wait.
pub const MAX_WAIT: Duration = Duration::from_secs(2);

/// Bytes that are proposed however slow the disk was: one of the largest commands.
pub const ALWAYS_BYTES: usize = 2 << 20;

/// So many are proposed however long they wait: a few clients that wait for a quorum are no overload.
pub const ALWAYS_COMMANDS: usize = 128;

/// Bytes of the leader's log that wait for its disk; more commands are refused. The group may commit without the leader's disk, so the
/// bounds above do not bound this.
pub const MAX_UNFLUSHED_BYTES: u64 = 64 << 20;

/// The shares of one node.
#[derive(Default)]
pub(crate) struct Admission {
    state: Mutex<State>,
}

struct State {
    counts: AdmissionCounts,
    next: u64,
    /// What was proposed here, oldest first.
    proposed: BTreeMap<u64, Proposed>,
    /// Its bytes.
    proposed_bytes: usize,
    /// Bytes that are done in [`MAX_WAIT`], as far as it is known that they are not more.
    proposed_max_bytes: usize,
}

struct Proposed {
    at: Instant,
    bytes: usize,
    /// What was to be done until its own outcome, itself included.
    until_done_bytes: usize,
}

impl Default for State {
    fn default() -> State {
        State {
            counts: AdmissionCounts::default(),
            next: 0,
            proposed: BTreeMap::new(),
            proposed_bytes: 0,
            proposed_max_bytes: MAX_UNANSWERED_BYTES,
        }
    }
}

impl State {
    /// Whether `bytes` more would wait too long, or one waits who has already.
    fn is_slow(&self, bytes: usize, now: Instant) -> bool {
        let oldest = self.proposed.values().next();
        self.proposed.len() >= ALWAYS_COMMANDS
            && (self.proposed_bytes + bytes > self.proposed_max_bytes
                || oldest.is_some_and(|oldest| now.duration_since(oldest.at) > MAX_WAIT))
    }

    fn propose(&mut self, bytes: usize, now: Instant) -> u64 {
        self.next += 1;
        self.proposed_bytes += bytes;
        let proposed = Proposed {
            at: now,
            bytes,
            until_done_bytes: self.proposed_bytes,
        };
        self.proposed.insert(self.next, proposed);
        self.next
    }

    fn withdraw(&mut self, number: u64) -> Proposed {
        let proposed = self.proposed.remove(&number);
        let proposed = proposed.expect("a share knows under which number it is proposed");
        self.proposed_bytes -= proposed.bytes;
        proposed
    }

    /// Learns from the wait of a command whose outcome is known.
    fn learn(&mut self, done: &Proposed, now: Instant) {
        let wait = now.duration_since(done.at);
        if wait > MAX_WAIT {
            let in_time = done.until_done_bytes as f64 * MAX_WAIT.div_duration_f64(wait);
            self.proposed_max_bytes = self
                .proposed_max_bytes
                .min(in_time as usize)
                .max(ALWAYS_BYTES);
        } else if wait < MAX_WAIT / 2 && done.until_done_bytes > self.proposed_max_bytes / 2 {
            // Most of what the bound allows was done in half of the time.
            let more = self.proposed_max_bytes + done.bytes;
            self.proposed_max_bytes = more.min(MAX_UNANSWERED_BYTES);
        }
    }
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
    bytes: usize,
    /// Under which number it is proposed here; 0 if it is not.
    proposed: AtomicU64,
}

impl Admission {
    /// Takes a share for a command of `bytes`.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Share, WriteError> {
        let mut state = self.state.lock().unwrap();
        let is_full = state.counts.bytes + bytes > MAX_UNANSWERED_BYTES
            || state.counts.commands >= MAX_UNANSWERED_COMMANDS;
        if is_full {
            state.counts.refused += 1;
            return Err(WriteError::Busy);
        }
        state.counts.commands += 1;
        state.counts.bytes += bytes;
        Ok(Share {
            of: self.clone(),
            bytes,
            proposed: AtomicU64::new(0),
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

impl Share {
    /// Says that the command is about to be proposed here, unless many are and it, or one before it, would wait for too long.
    pub fn propose(&self) -> Result<(), WriteError> {
        self.withdraw();
        let now = Instant::now();
        let mut state = self.of.state.lock().unwrap();
        if state.is_slow(self.bytes, now) {
            state.counts.refused += 1;
            return Err(WriteError::Busy);
        }
        let number = state.propose(self.bytes, now);
        self.proposed.store(number, Ordering::Relaxed);
        Ok(())
    }

    /// Says that it is not proposed here after all, and never will be as it was.
    pub fn withdraw(&self) {
        let number = self.proposed.swap(0, Ordering::Relaxed);
        if number != 0 {
            self.of.state.lock().unwrap().withdraw(number);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let number = *self.proposed.get_mut();
        let mut state = self.of.state.lock().unwrap();
        if number != 0 {
            let done = state.withdraw(number);
            state.learn(&done, Instant::now());
        }
        state.counts.commands -= 1;
        state.counts.bytes -= self.bytes;
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

    fn proposed(admission: &Arc<Admission>) -> Result<Share, WriteError> {
        let share = admission.take(1)?;
        share.propose()?;
        Ok(share)
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_taken_on_behind_one_who_has_waited_too_long() {
        let admission = Arc::new(Admission::default());
        let oldest = proposed(&admission).unwrap();
        let _few: Vec<Share> = (0..ALWAYS_COMMANDS - 2)
            .map(|_| proposed(&admission).unwrap())
            .collect();
        tokio::time::advance(MAX_WAIT + Duration::from_millis(1)).await;
        let last = proposed(&admission).unwrap();
        assert!(matches!(proposed(&admission), Err(WriteError::Busy)));
        drop(oldest);
        drop(last);
        assert!(proposed(&admission).is_ok(), "few enough again");
        let _last = [1, 1].map(|_| proposed(&admission).unwrap());
        assert!(matches!(proposed(&admission), Err(WriteError::Busy)));
    }

    /// A disk that does `BYTES_PER_SECOND` of commands of `COMMAND_BYTES`, one after the other, for as long as it is asked for more; the waits
    /// of those that it did in the last `seconds` seconds.
    async fn served(
        admission: &Arc<Admission>,
        seconds: u64,
        bytes_per_second: usize,
    ) -> Vec<Duration> {
        const COMMAND_BYTES: usize = 16 << 10;
        let mut queue = std::collections::VecDeque::new();
        let mut waits = Vec::new();
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            // Everybody asks for more than there is room for, all the time.
            while let Ok(share) = admission.take(COMMAND_BYTES) {
                if share.propose().is_err() {
                    break;
                }
                queue.push_back((Instant::now(), share));
            }
            tokio::time::advance(
                Duration::from_secs(1) * COMMAND_BYTES as u32 / bytes_per_second as u32,
            )
            .await;
            let (at, done) = queue.pop_front().expect("some are always taken on");
            waits.push(at.elapsed());
            drop(done);
        }
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn under_overload_nobody_waits_much_longer_than_he_may_once_the_disk_is_known() {
        let admission = Arc::new(Admission::default());
        let first = served(&admission, 30, 4 << 20).await;
        assert!(
            first.iter().max() > Some(&(5 * MAX_WAIT)),
            "it was not known"
        );
        let waits = served(&admission, 30, 4 << 20).await;
        let last = &waits[waits.len() / 2..];
        assert!(
            last.iter().all(|wait| *wait < MAX_WAIT * 3 / 2),
            "{:?}",
            last.iter().max()
        );
        // The disk has always something to do.
        assert!(
            last.iter().all(|wait| *wait > MAX_WAIT / 4),
            "{:?}",
            last.iter().min()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_disk_is_quick_again_memory_is_the_bound_again() {
        let admission = Arc::new(Admission::default());
        served(&admission, 60, 4 << 20).await;
        served(&admission, 10, 200 << 20).await;
        let bound = admission.state.lock().unwrap().proposed_max_bytes;
        assert_eq!(bound, MAX_UNANSWERED_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_old_leader_still_waits_for_keeps_nobody_from_the_new_one() {
        let admission = Arc::new(Admission::default());
        let stuck: Vec<Share> = (0..2 * ALWAYS_COMMANDS)
            .map(|_| proposed(&admission).unwrap())
            .collect();
        tokio::time::advance(10 * MAX_WAIT).await;
        // Passed on, it is not proposed here.
        let forwarded = admission.take(1).expect("there is room to pass it on");
        let refused = forwarded.propose();
        assert!(matches!(refused, Err(WriteError::Busy)), "{refused:?}");
        drop(stuck);
        forwarded.propose().expect("nobody waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_waited_for_a_leader_do_not_refuse_one_another_when_there_is_one() {
        let admission = Arc::new(Admission::default());
        let waiting: Vec<Share> = (0..2 * ALWAYS_COMMANDS)
            .map(|_| admission.take(1).unwrap())
            .collect();
        tokio::time::advance(2 * MAX_WAIT).await;
        for share in &waiting {
            share.propose().expect("nobody has waited for the disk");
        }
        // Raft knew better: this node does not lead any more.
        waiting.iter().for_each(Share::withdraw);
        tokio::time::advance(2 * MAX_WAIT).await;
        waiting[0].propose().expect("none of them is proposed");
    }
}
