//! What nodes say to each other about roles.

use crate::member::MemberBytes;
use crate::position::LogIdBytes;
use prost::{Message, Oneof};

/// A question about roles, in [`crate::message::Call`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RolesCall {
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5")]
    pub ask: Option<Ask>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Ask {
    /// Leader to anybody: what are you, and where does your log end?
    #[prost(message, tag = "1")]
    Stand(Nothing),
    /// Leader to a listener: open Raft.
    #[prost(message, tag = "2")]
    OpenRaft(Nothing),
    /// Leader to a former voter: find out what you are.
    #[prost(message, tag = "3")]
    Look(LookAsk),
    /// Anybody, up to the leader: is this node a voter?
    #[prost(message, tag = "4")]
    Standing(StandingAsk),
    /// Anybody, up to the leader: change roles, or say how far that is.
    #[prost(message, tag = "5")]
    Change(ChangeAsk),
}

/// The answer, in [`crate::message::Reply`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RolesReply {
    #[prost(oneof = "Told", tags = "1, 2, 3")]
    pub told: Option<Told>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Told {
    #[prost(message, tag = "1")]
    Stand(StandTold),
    #[prost(message, tag = "2")]
    Standing(StandingTold),
    #[prost(message, tag = "3")]
    Change(ChangeTold),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Nothing {}

/// Where a node stands, by its own word.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StandTold {
    /// As the membership would show it.
    #[prost(message, required, tag = "1")]
    pub member: MemberBytes,
    /// Whether it has Raft open.
    #[prost(bool, tag = "2")]
    pub is_voter: bool,
    /// The last entry of its log.
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdBytes>,
    /// The chain value there (B12).
    #[prost(fixed64, tag = "4")]
    pub chain: u64,
    /// How its log was found to differ from an upstream's, if it was and nobody has said otherwise since (B12).
    #[prost(string, optional, tag = "5")]
    pub differs: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LookAsk {
    /// The peer address of the leader that says so.
    #[prost(string, tag = "1")]
    pub leader_address: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct StandingAsk {
    /// Whether the receiver must be the leader itself.
    #[prost(bool, tag = "1")]
    pub leader_only: bool,
    /// Who is asked about.
    #[prost(uint64, tag = "2")]
    pub node: u64,
}

/// What a leader that has just confirmed that it leads says about a node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StandingTold {
    #[prost(enumeration = "Standing", tag = "1")]
    pub standing: i32,
    /// Who votes.
    #[prost(message, repeated, tag = "2")]
    pub voters: Vec<MemberBytes>,
}

/// What a node is to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum Standing {
    Unknown = 0,
    /// It votes.
    Voter = 1,
    /// A change that concerns it is under way: ask later.
    Changing = 2,
    /// It is not in the group, by a committed membership, and nobody is about to bring it in.
    Outside = 3,
}

/// Asks the leader to carry out a change of roles; asked again, how far it is. Waits a moment for news.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChangeAsk {
    #[prost(bool, tag = "1")]
    pub leader_only: bool,
    /// Chosen by the asker, the same for one command however often it asks, so that the result of an earlier run is told once and not
    /// taken for that of a new one.
    #[prost(fixed64, tag = "2")]
    pub attempt: u64,
    /// The run whose lines the asker has seen, and how many of them.
    #[prost(fixed64, tag = "3")]
    pub run: u64,
    #[prost(uint32, tag = "4")]
    pub seen: u32,
    #[prost(enumeration = "ChangeKind", tag = "5")]
    pub kind: i32,
    /// The node to be promoted, demoted, or to lead.
    #[prost(message, optional, tag = "6")]
    pub node: Option<Target>,
    /// The voter that a promoted node replaces.
    #[prost(message, optional, tag = "7")]
    pub replaced: Option<Target>,
    /// If anybody but the leader is to lead: which leader that is. 0 as long as the asker does not know who leads.
    #[prost(fixed64, tag = "8")]
    pub leads_no_more: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum ChangeKind {
    Unknown = 0,
    Promote = 1,
    Demote = 2,
    Replace = 3,
    TransferLeader = 4,
    /// For measurements, see [`super::RoleChange::Learn`].
    Learn = 5,
}

/// A node that a change is about.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Target {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub peer_address: String,
}

/// How far a change is.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChangeTold {
    #[prost(fixed64, tag = "1")]
    pub run: u64,
    /// What the asker has not seen yet.
    #[prost(string, repeated, tag = "2")]
    pub lines: Vec<String>,
    #[prost(enumeration = "ChangeState", tag = "3")]
    pub state: i32,
    /// How it ended.
    #[prost(string, tag = "4")]
    pub text: String,
    /// Who leads, for an asker that has to say so before anything is done; else 0.
    #[prost(fixed64, tag = "5")]
    pub leader: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum ChangeState {
    /// Ask again for more.
    Running = 0,
    /// Done, or nothing was to be done.
    Done = 1,
    /// Refused, and left as it was.
    Refused = 2,
    /// The leader changed, or cannot tell what became of it: ask again, whoever leads then looks and goes on.
    GoOn = 3,
}

impl From<Ask> for crate::message::Call {
    fn from(ask: Ask) -> Self {
        crate::message::Call::Roles(RolesCall { ask: Some(ask) })
    }
}

impl From<Told> for crate::message::Reply {
    fn from(told: Told) -> Self {
        crate::message::Reply::Roles(RolesReply { told: Some(told) })
    }
}
