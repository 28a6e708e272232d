//! The listener tree: how replicas outside a Raft group find an upstream that feeds them the committed log, and keep one.
#![no_std]
extern crate alloc;

mod config;
mod ids;
mod message;
mod node;
mod output;
mod path;
mod rng;
mod time;
mod timers;

pub use config::{
    ASKED_AT_ONCE, Config, DOWNSTREAMS_NAMED, GRACE_LEVELS_MAX, LEARNED_MAX, PROTOCOL_VERSION,
    ROUND_QUESTIONS_MAX, UPSTREAMS_MAX,
};
pub use ids::{Address, ClusterId, LinkId, LogEnd, LogPosition, NodeId, Peer, Zone};
pub use message::{
    ALTERNATIVES_MAX, Accept, Alternative, Answer, FreePlaces, Heartbeat, HeartbeatAck, Kick,
    KickReason, LeaveReason, LogVerdict, Message, Place, Refuse, RefuseReason, Register, Role,
    Saved,
};
pub use node::{Choice, Considered, Downstream, TreeNode, Upstream, Verdict, Voter, VoterState};
pub use output::{Event, Left, Output, Why};
pub use path::{PATH_LIMIT, Path, PathError};
pub use time::Instant;
