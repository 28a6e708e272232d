//! The listener tree: how replicas outside a Raft group find an upstream that feeds them the committed log, and keep one.
#![no_std]
extern crate alloc;

mod config;
mod downstreams;
mod freshness;
mod ids;
mod message;
mod node;
mod order;
mod output;
mod path;
mod rng;
mod search;
mod session;
mod time;
mod timers;

pub use config::{
    ASKED_AT_ONCE, Config, DOWNSTREAMS_NAMED, GRACE_LEVELS_MAX, LEARNED_MAX, PROTOCOL_VERSION,
    ROUND_QUESTIONS_MAX, UPSTREAMS_MAX,
};
pub use downstreams::Downstream;
pub use ids::{Address, ClusterId, LinkId, LogEnd, LogPosition, NodeId, Peer, Zone};
pub use message::{
    ALTERNATIVES_MAX, Accept, Alternative, Answer, FreePlaces, Heartbeat, HeartbeatAck, Kick,
    KickReason, LeaveReason, LogVerdict, Message, Place, Refuse, RefuseReason, Register, Role,
    Saved,
};
pub use node::{TreeNode, Voter, VoterState};
pub use output::{Event, Left, Output, Why};
pub use path::{PATH_LIMIT, Path, PathError};
pub use search::{Choice, Considered, Verdict};
pub use session::Upstream;
pub use time::Instant;
