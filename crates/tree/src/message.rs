//! What nodes say to each other: a question and its answer on a control connection, all else on a session.
//!
//! | message | from -> to | when |
//! | --- | --- | --- |
//! | `Ask` -> [`Answer`] | listener -> any node, and back | `S7`: looking for an upstream |
//! | [`Register`] | listener -> chosen upstream | `S9`: first on a new connection |
//! | [`Accept`] or [`Refuse`] | upstream -> listener | `S9`: the answer to it |
//! | [`Heartbeat`] | upstream -> listener | `S11`: once a second, and at once when path, attachment or drain change (`B1`) |
//! | [`HeartbeatAck`] | listener -> upstream | `S11`: the answer to it |
//! | [`Kick`] | upstream -> listener | `S10`, `S11`, `S12`, `B16`: with where to go instead (`B2`) |
//! | [`LeaveReason`] | listener -> upstream | it has moved, or found a loop |

use crate::ids::{Address, ClusterId, LogEnd, LogPosition, NodeId, Peer, Zone};
use crate::path::Path;
use crate::steering::Steering;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// What a node is to the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A voter that knows itself leader. Feeds nobody (`S1`).
    Leader,
    /// A voter that does not: a follower or a candidate. The root of a tree.
    Follower,
    /// A replica outside the group (`S2`).
    Listener,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Listener => "listener",
        })
    }
}

/// What an alternative is good for (`B2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A voter: a root, perhaps with room.
    Voter,
    /// A downstream whose subtree is said to have a free slot.
    Free,
    /// A downstream without: named to be descended through.
    Full,
    /// The leader: it takes nobody (`S1`), and is asked last, for the voters it knows.
    Leader,
}

/// One node to try instead (`B2`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// Who and where.
    pub peer: Peer,
    /// What it is good for.
    pub place: Place,
}

/// The answer to a question (`S7`): all that a listener needs to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its role.
    pub role: Role,
    /// Whether its chain of upstreams ends at a voter. A detached node registers nobody.
    pub attached: bool,
    /// Whether it is stale (`B8`): used only when nothing fresher exists.
    pub stale: bool,
    /// How old its root's last word from a leader is (`B8`).
    pub age: Duration,
    /// Whether it hands its downstreams over and registers nobody (`B16`).
    pub draining: bool,
    /// Whether it is a listener whose log has not been compared since it started, and registers nobody before that (`B11`).
    pub uncompared: bool,
    /// The ids from the root down to it; the last is the answering node's own.
    pub path: Path,
    /// Its zone.
    pub zone: Option<Zone>,
    /// How many listeners it accepts at most.
    pub capacity: u32,
    /// How many are registered now. Not counted are the asker, whose own slot is no obstacle to it (`S9`), and those that would
    /// make room for it (`B11`).
    pub registered: u32,
    /// The free places of its subtree (`B4`, `B7`).
    pub free: FreePlaces,
    /// Up to where it knows the log committed.
    pub committed: LogPosition,
    /// Who else to ask (`B2`): voters, then downstreams. At most [`ALTERNATIVES_MAX`].
    pub alternatives: Vec<Alternative>,
}

/// The most alternatives, voters, ancestors or siblings a message carries. What a peer sends beyond it is not read.
pub const ALTERNATIVES_MAX: usize = 64;

impl Answer {
    /// Who answers.
    pub fn id(&self) -> NodeId {
        self.path.last()
    }

    /// The answering node's depth.
    pub fn depth(&self) -> u32 {
        self.path.depth()
    }
}

/// The first message on a session: a listener asks to be fed (`S9`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// The listener. Registrations are keyed by it.
    pub listener: Peer,
    /// Its zone.
    pub zone: Option<Zone>,
    /// The cluster it belongs to (`B12`).
    pub cluster: ClusterId,
    /// The protocol version it speaks (`B12`).
    pub protocol: u32,
    /// Where its log ends (`B12`).
    pub last_log: LogEnd,
    /// Whether nobody has compared that log since the listener started (`B11`).
    pub uncompared: bool,
    /// The free places it brings along (`B4`).
    pub free: FreePlaces,
}

/// What the upstream's log says about the log of a listener that registers (`B12`). Found out by whoever holds the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogVerdict {
    /// The listener's log is a prefix of ours, or ends beyond ours, or before what we still have: nothing speaks against it.
    Agrees,
    /// Both logs hold the listener's last position, and differ there or before.
    Differs {
        /// What our own log holds at that index.
        ours: LogEnd,
    },
}

/// What a listener holds when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnLog {
    /// Nothing yet: nothing of another history either.
    Empty,
    /// A log of an earlier run. Whether it is a prefix of the committed log nobody knows before an upstream that has as much
    /// compares it, which may take a while (`B11`, `B12`). Until then the listener takes nobody on: what it holds could be of
    /// another history, and whoever it fed would be misled.
    Uncompared,
}

/// The free slots of a node's subtree, the node's own included (`B4`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreePlaces {
    /// How many slots are free; zero if none.
    pub slots: u32,
    /// How many levels below the node the nearest of them is; zero being its own. Means nothing without slots.
    pub levels: u32,
}

/// What an upstream tells about itself, at least once a heartbeat interval and at once when path, attachment or drain change (`B1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The ids from the root, or the detached head, down to the upstream, the upstream itself last.
    pub path: Path,
    /// Whether that chain ends at a voter.
    pub attached: bool,
    /// Whether its root has lost its leader (`B8`).
    pub stale: bool,
    /// Who leads the group, as the root knows it.
    pub leader: Option<NodeId>,
    /// How old the root's last word from a leader is (`B8`). An age, so clocks do not matter; `Duration::MAX` means never.
    pub age: Duration,
    /// Whether the upstream hands its downstreams over (`B16`): go elsewhere.
    pub draining: bool,
    /// The depth of the least deep node of the whole tree that has a free slot, as the root knows it; `None` if there is
    /// none (`B7`).
    pub free_depth: Option<u32>,
    /// Up to where the upstream knows the log committed.
    pub committed: LogPosition,
}

/// What a listener answers to each heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatAck {
    /// Up to where the listener holds the committed log.
    pub committed: LogPosition,
    /// The free places of its subtree (`B4`).
    pub free: FreePlaces,
}

/// The registration is accepted: entries follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// What a heartbeat would say now. The listener compares its own log's end with `committed` (`B12`).
    pub heartbeat: Heartbeat,
    /// The upstream's zone (`B6`).
    pub zone: Option<Zone>,
    /// The group's voters, best first (`B5`).
    pub voters: Vec<Peer>,
    /// The upstream's own chain, nearest first, the upstream itself left out (`B5`).
    pub ancestors: Vec<Peer>,
    /// Some of the other downstreams of the upstream, latest first (`B5`).
    pub siblings: Vec<Peer>,
}

/// Why a registration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// A leader feeds nobody (`S1`, `S10`).
    Leader,
    /// All slots are taken (`S9`).
    Full,
    /// The upstream has itself no chain to a voter (`B1`).
    Detached,
    /// The listener is above the upstream, or is the upstream (`B1`).
    Loop,
    /// The path below the upstream would be longer than the limit (`B1`).
    TooDeep,
    /// The upstream hands its downstreams over and takes none (`B16`).
    Draining,
    /// The upstream has itself started with a log that nobody has compared yet (`B11`).
    Uncompared,
    /// The listener is of another cluster (`B12`).
    Cluster {
        /// The upstream's cluster.
        ours: ClusterId,
    },
    /// The listener speaks a version the upstream does not (`B12`).
    Protocol {
        /// The upstream's version.
        ours: u32,
    },
    /// The logs differ (`B12`).
    Log {
        /// What the upstream's log holds at the index the listener's log ends at.
        ours: LogEnd,
    },
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefuseReason::Leader => f.write_str("it leads"),
            RefuseReason::Full => f.write_str("it is full"),
            RefuseReason::Detached => f.write_str("it is detached"),
            RefuseReason::Loop => f.write_str("it is below the listener"),
            RefuseReason::TooDeep => f.write_str("it is too deep"),
            RefuseReason::Draining => f.write_str("it is draining"),
            RefuseReason::Uncompared => f.write_str("its own log is not compared yet"),
            RefuseReason::Cluster { ours } => write!(f, "it is of cluster {ours}"),
            RefuseReason::Protocol { ours } => write!(f, "it speaks protocol version {ours}"),
            RefuseReason::Log { ours } => write!(f, "its log differs: {ours}"),
        }
    }
}

/// The registration is refused: where to go instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Why.
    pub reason: RefuseReason,
    /// Who to try instead (`B2`).
    pub alternatives: Vec<Alternative>,
}

/// Why an upstream ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KickReason {
    /// The upstream became leader (`S10`).
    Leader,
    /// The listener was silent for longer than the timeout (`S11`).
    Silent,
    /// An administrator asked for it (`S12`).
    Admin,
    /// The upstream is draining, and has waited long enough (`B16`).
    Drain,
    /// The listener has waited long enough for its log to be compared, and somebody who need not wait wants its place (`B11`).
    Uncompared,
}

impl fmt::Display for KickReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KickReason::Leader => "it became leader",
            KickReason::Silent => "the listener was silent",
            KickReason::Admin => "an administrator asked for it",
            KickReason::Drain => "it is draining",
            KickReason::Uncompared => "its log is ahead and not compared, and its place was wanted",
        })
    }
}

/// The upstream ends the session: where to go instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kick {
    /// Why.
    pub reason: KickReason,
    /// Who to try instead (`B2`); the first may be registered with unasked.
    pub alternatives: Vec<Alternative>,
}

/// Why a listener ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// Another upstream has accepted it (`B3`).
    Moved,
    /// It found itself in the upstream's path (`B1`).
    Loop,
    /// The upstream's path is so long that the listener's own would pass the limit (`B1`).
    TooDeep,
    /// The upstream was detached when it accepted (`B1`).
    Detached,
    /// It was given a new list of upstream servers (`S14`).
    NewList,
    /// It became a voter (`B16`).
    BecameVoter,
    /// It knows no such session (`S9`).
    UnknownSession,
    /// The upstream accepted, but is no longer the better place it was when it answered (`B1`, `B7`).
    NotBetter,
}

impl fmt::Display for LeaveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeaveReason::Moved => "moved",
            LeaveReason::Loop => "found a loop",
            LeaveReason::TooDeep => "too deep",
            LeaveReason::Detached => "accepted by a detached node",
            LeaveReason::NewList => "given a new list",
            LeaveReason::BecameVoter => "became a voter",
            LeaveReason::UnknownSession => "unknown session",
            LeaveReason::NotBetter => "not better than where it is",
        })
    }
}

/// What flows on a session after [`Register`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Upstream to listener: you are registered.
    Accept(Accept),
    /// Upstream to listener: you are not.
    Refuse(Refuse),
    /// Upstream to listener: I am alive, and here.
    Heartbeat(Heartbeat),
    /// Upstream to listener: go elsewhere.
    Kick(Kick),
    /// Listener to upstream: I am alive, and this far.
    HeartbeatAck(HeartbeatAck),
    /// Listener to upstream: I go elsewhere.
    Leave(LeaveReason),
}

/// What a node keeps on disk for the tree (`S6`, `B5`, `B16`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The list of upstream servers it was given.
    pub upstreams: Vec<Address>,
    /// The peers it has learned of, best first; at most [`LEARNED_MAX`](crate::LEARNED_MAX).
    pub learned: Vec<Peer>,
    /// What an administrator asked of it.
    pub steering: Steering,
}
