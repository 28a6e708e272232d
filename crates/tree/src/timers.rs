//! Timers as data: a table of instants. Nothing sleeps.

use crate::time::Instant;

/// What a node may be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// To heartbeat the downstreams (`S11`).
    Heartbeat,
    /// To look for downstreams that have been silent too long (`S11`).
    Reap,
    /// To look whether the upstream has been silent too long (`S13`).
    Silence,
    /// To give up the oldest question, or to ask a busy server again (`B19`).
    Probe,
    /// To choose among the answers that have come (`S8`).
    Settle,
    /// To give up a registration that is not answered (`B19`).
    Registration,
    /// To start the next round (`B2`).
    Retry,
    /// To stop hoping for a detached head (`B3`).
    Grace,
    /// To forget failed rounds, having been attached long enough (`B2`).
    Steady,
    /// To look for another place while attached (`B7`, `B8`, `B16`).
    Look,
    /// To kick those whom draining has left behind (`B16`).
    Drain,
    /// To count those as overdue who have waited long enough to be compared (`B11`).
    Patience,
}

impl Timer {
    /// All of them, in the order in which those that are due together go off.
    pub(crate) const ALL: [Timer; 12] = [
        Timer::Heartbeat,
        Timer::Reap,
        Timer::Silence,
        Timer::Probe,
        Timer::Settle,
        Timer::Registration,
        Timer::Retry,
        Timer::Grace,
        Timer::Steady,
        Timer::Look,
        Timer::Drain,
        Timer::Patience,
    ];
}

/// When each timer goes off, if it is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers([Option<Instant>; Timer::ALL.len()]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    /// Stops the timer and returns true if it is due.
    pub(crate) fn take_due(&mut self, timer: Timer, now: Instant) -> bool {
        let due = self.0[timer as usize].is_some_and(|at| at <= now);
        if due {
            self.stop(timer);
        }
        due
    }

    /// When the next timer goes off.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }
}
