//! What the protocol asks of its driver, and what it tells whoever watches.

use crate::ids::{Address, LinkId, LogPosition, NodeId, Peer};
use crate::message::{KickReason, LeaveReason, Message, RefuseReason, Saved};
use crate::path::Path;
use core::fmt;
use core::time::Duration;

/// One thing to do. Do them in the order they are polled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the node at this address (`S7`), on a control connection. Report the answer to
    /// [`handle_answer`](crate::TreeNode::handle_answer), however late, that it is too busy to answer to
    /// [`handle_busy`](crate::TreeNode::handle_busy), or a failure to
    /// [`handle_ask_failed`](crate::TreeNode::handle_ask_failed). Giving up is this crate's business, not the driver's.
    Ask {
        /// Whom to ask.
        to: Address,
    },
    /// Open a session: connect to the address, send what [`register`](crate::TreeNode::register) then returns, and deliver
    /// what comes back. If that fails report [`handle_link_closed`](crate::TreeNode::handle_link_closed).
    Connect {
        /// Whom to connect to.
        to: Address,
        /// The name of the connection from now on.
        link: LinkId,
    },
    /// Send a message on a session. If the connection is closed already there is nothing to do.
    Send {
        /// On which.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// Close a connection, after what was sent on it. It need not be reported closed; what still comes from it need not be
    /// delivered. It may be closed already: then there is nothing to do.
    Close {
        /// Which.
        link: LinkId,
    },
    /// Push the committed log to a downstream, from behind `from` (`S4`, `S5`).
    StartFeeding {
        /// On which session.
        link: LinkId,
        /// Who it is.
        listener: Peer,
        /// Where its log ended when it registered.
        from: LogPosition,
    },
    /// Push nothing more on this session.
    StopFeeding {
        /// Which.
        link: LinkId,
    },
    /// Take entries from this session from now on, and from no other.
    StartFollowing {
        /// Which.
        link: LinkId,
        /// Who is there.
        upstream: Peer,
        /// The upstream's committed position when it accepted. If our log goes further, wait; when it has caught up, compare
        /// (`B12`).
        committed: LogPosition,
    },
    /// Take no more entries from this session.
    StopFollowing {
        /// Which.
        link: LinkId,
    },
    /// Write this to disk (`S6`, `B5`), then report [`handle_persisted`](crate::TreeNode::handle_persisted).
    Persist {
        /// Counts the versions; a later one makes all earlier ones needless.
        version: u64,
        /// What to write.
        saved: Saved,
    },
    /// Something that people want to see. Nothing needs doing.
    Event(Event),
}

/// What happened, for people to see (`B15`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The listener has a new upstream.
    Moved {
        /// The upstream it had until now, if any.
        from: Option<NodeId>,
        /// The one it has now.
        to: NodeId,
        /// Why it looked for one.
        why: Why,
    },
    /// The listener has lost its upstream and looks for another.
    Lost {
        /// Who it was.
        upstream: NodeId,
        /// Why.
        why: Why,
    },
    /// The chain above the listener reaches a voter again.
    Attached {
        /// Its path.
        path: Path,
    },
    /// The chain above the listener no longer reaches a voter.
    Detached {
        /// The node the chain ends at.
        head: NodeId,
    },
    /// An upstream has refused the listener.
    Refused {
        /// At which address.
        by: Address,
        /// Why.
        reason: RefuseReason,
    },
    /// A whole round of questions found no place; there will be another.
    NoPlace {
        /// How many rounds in a row have failed.
        rounds: u32,
        /// When the next one starts.
        retry_in: Duration,
        /// The leader answered that it is the only voter. Then there is no follower, and nobody may feed a listener.
        leader_alone: bool,
    },
    /// There is a reason to leave the upstream, and no other place. The listener stays, and will look again; it says so once
    /// for each reason.
    Stays {
        /// With whom.
        upstream: NodeId,
        /// Why it looked for another.
        why: Why,
    },
    /// The log that the listener started with has been compared: from now on it takes others on (`B11`).
    Compared,
    /// The node has been asked to drain, and the last of its downstreams has left (`B16`).
    Drained,
    /// A listener has registered here.
    Joined {
        /// Who.
        listener: NodeId,
    },
    /// A listener that was registered here no longer is.
    Left {
        /// Who.
        listener: NodeId,
        /// Why.
        why: Left,
    },
}

/// Why a listener looks, or looked, for an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has just started.
    Start,
    /// It was a voter until now.
    Demoted,
    /// It was given a new list (`S14`).
    NewList,
    /// Its upstream kicked it.
    Kicked(KickReason),
    /// The connection to its upstream closed.
    Closed,
    /// Its upstream sent what no upstream sends.
    Misbehaved,
    /// Its upstream was silent (`S13`).
    Silent,
    /// It found itself in its upstream's path (`B1`).
    Loop,
    /// Its upstream's path is as long as a path may be (`B1`).
    TooDeep,
    /// It has waited long enough for a detached head above it (`B3`).
    HeadDetached,
    /// The upstream is stale, and so is all that comes from it (`B8`).
    Stale,
    /// There may be a better place (`B7`).
    Better,
    /// It is pinned to another node (`B16`).
    Pinned,
    /// It is to avoid its upstream (`B16`).
    Avoids,
    /// Its upstream is draining (`B16`).
    Draining,
}

/// Why a listener is no longer registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was kicked.
    Kicked(KickReason),
    /// It said so.
    Said(LeaveReason),
    /// Its connection closed.
    Closed,
    /// It registered anew, on another connection (`S9`).
    Replaced,
    /// It sent what no listener sends.
    Misbehaved,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Start => f.write_str("it started"),
            Why::Demoted => f.write_str("it was demoted"),
            Why::NewList => f.write_str("it was given a new list"),
            Why::Kicked(reason) => write!(f, "it was kicked: {reason}"),
            Why::Closed => f.write_str("the connection closed"),
            Why::Misbehaved => f.write_str("the upstream sent what no upstream sends"),
            Why::Silent => f.write_str("the upstream was silent"),
            Why::Loop => f.write_str("it found a loop"),
            Why::TooDeep => f.write_str("the path grew too long"),
            Why::HeadDetached => f.write_str("the head above it stayed detached"),
            Why::Stale => f.write_str("the upstream is stale"),
            Why::Better => f.write_str("there may be a better place"),
            Why::Pinned => f.write_str("it is pinned to another"),
            Why::Avoids => f.write_str("it is to avoid its upstream"),
            Why::Draining => f.write_str("the upstream is draining"),
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Left::Kicked(reason) => write!(f, "kicked: {reason}"),
            Left::Said(reason) => write!(f, "left: {reason}"),
            Left::Closed => f.write_str("the connection closed"),
            Left::Replaced => f.write_str("it registered anew"),
            Left::Misbehaved => f.write_str("it sent what no listener sends"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Moved {
                from: None,
                to,
                why,
            } => write!(f, "moved to {to} because {why}"),
            Event::Moved {
                from: Some(from),
                to,
                why,
            } => write!(f, "moved from {from} to {to} because {why}"),
            Event::Lost { upstream, why } => write!(f, "lost {upstream} because {why}"),
            Event::Attached { path } => write!(f, "attached at {path}"),
            Event::Detached { head } => write!(f, "detached below {head}"),
            Event::Refused { by, reason } => write!(f, "refused by {by} because {reason}"),
            Event::NoPlace {
                rounds,
                retry_in,
                leader_alone,
            } => {
                write!(
                    f,
                    "found no place in round {rounds}, tries again in {} ms",
                    retry_in.as_millis()
                )?;
                if *leader_alone {
                    f.write_str(": the leader is the only voter and feeds nobody, add a voter")?;
                }
                Ok(())
            }
            Event::Stays { upstream, why } => {
                write!(
                    f,
                    "stays with {upstream} though {why}: there is no other place yet"
                )
            }
            Event::Compared => f.write_str("has had its log compared, and takes listeners on"),
            Event::Drained => f.write_str("is drained: nobody is registered here any more"),
            Event::Joined { listener } => write!(f, "took on {listener}"),
            Event::Left { listener, why } => write!(f, "let go of {listener}, {why}"),
        }
    }
}
