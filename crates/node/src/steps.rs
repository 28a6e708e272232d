//! The steps of a change of role, as data: what a test enumerates to stop each participant between any two of them.
//!
//! In production nobody observes them; they cost a look at an `Option`.

use crate::net::Task;
use std::fmt;

/// A step of a change of role that a node has just finished. The order within each group is the order in which they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Leader: it knows where the listener to be promoted stands, close enough.
    PositionTaken,
    /// New voter: it has left its upstream and takes no more entries from it.
    UpstreamLeft,
    /// New voter: all it holds is on disk and applied.
    LogFlushed,
    /// New voter: its directory says that it is a voter.
    VoterPersisted,
    /// New voter: Raft is open on the log and the state it had.
    RaftOpened,
    /// Leader: the listener has opened Raft.
    Prepared,
    /// Leader: the listener is a Raft learner, by a committed membership.
    LearnerAdded,
    /// Leader: the learner has caught up.
    CaughtUp,
    /// Leader: it has found another voter that can take over leadership.
    SuccessorFound,
    /// Former leader: another voter leads.
    LeadershipMoved,
    /// Leader: the new set of voters is committed, and is the only one.
    VotersChanged,
    /// Former voter: the leader has confirmed that it votes no more.
    Dismissed,
    /// Former voter: Raft is stopped and cut off the state machine.
    RaftStopped,
    /// Former voter: its directory says that it is a listener, and up to where its log is good.
    ListenerPersisted,
    /// Former voter: what was not committed is gone from its log.
    TailCut,
    /// Former voter: it looks for an upstream.
    Listening,
    /// Leader: the former voter listens, or cannot be reached.
    Retired,
}

impl Step {
    /// All steps.
    pub const ALL: [Step; 17] = [
        Step::PositionTaken,
        Step::UpstreamLeft,
        Step::LogFlushed,
        Step::VoterPersisted,
        Step::RaftOpened,
        Step::Prepared,
        Step::LearnerAdded,
        Step::CaughtUp,
        Step::SuccessorFound,
        Step::LeadershipMoved,
        Step::VotersChanged,
        Step::Dismissed,
        Step::RaftStopped,
        Step::ListenerPersisted,
        Step::TailCut,
        Step::Listening,
        Step::Retired,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Told of every step a node has finished, before the next begins: [`crate::Config::step_observer`]. The node waits for the answer, so
/// an observer that never answers holds it there, to be stopped between two steps.
pub trait StepObserver: Send + Sync + 'static {
    /// The node of this name has finished `step`.
    fn reached<'a>(&'a self, node: &'a str, step: Step) -> Task<'a, ()>;
}
