//! The types openraft is instantiated with, and their conversions to ours.

use crate::member::{Member, Membership};
use crate::position::LogIdBytes;
use bytes::Bytes;
use eaves_log::{Frame, Kind, LogId};
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::vote::RaftLeaderId;
use prost::Message;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

openraft::declare_raft_types!(
    /// Raft as Eaves uses it: one leader per term, entries that are encoded once.
    pub Types:
        D = Data,
        R = Bytes,
        NodeId = u64,
        Node = Member,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        Payload = Payload,
        Entry = Entry,
);

pub(crate) type CommittedLeaderId =
    <openraft::impls::leader_id_std::LeaderId<u64, u64> as RaftLeaderId>::Committed;
pub(crate) type RaftLogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type RaftMembership = openraft::Membership<u64, Member>;
pub(crate) type RaftStoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Member>;
pub(crate) type RaftVote = openraft::type_config::alias::VoteOf<Types>;

/// A command, opaque here.
#[derive(Clone, PartialEq, Eq)]
pub struct Data(pub Bytes);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What an entry is made of, before it has a place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Blank,
    Normal(Data),
    Membership(RaftMembership),
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Blank => f.write_str("blank"),
            Payload::Normal(data) => write!(f, "{data}"),
            Payload::Membership(membership) => write!(f, "{membership}"),
        }
    }
}

impl RaftPayload for Payload {
    type D = Data;
    type NodeId = u64;
    type Node = Member;

    fn blank() -> Self {
        Payload::Blank
    }

    fn with_normal(self, data: Data) -> Self {
        Payload::Normal(data)
    }

    fn with_membership(self, membership: RaftMembership) -> Self {
        Payload::Membership(membership)
    }

    fn get_membership(&self) -> Option<RaftMembership> {
        match self {
            Payload::Membership(membership) => Some(membership.clone()),
            Payload::Blank | Payload::Normal(_) => None,
        }
    }
}

/// A log entry: the frame it is in the log, on the wire and in every listener's log, made once, in [`RaftEntry::new`].
#[derive(Clone)]
pub struct Entry {
    leader: CommittedLeaderId,
    frame: Frame,
    /// Decoded where the frame came in, since Raft asks every entry for it.
    membership: Option<Arc<RaftMembership>>,
}

impl Entry {
    /// Wraps a frame from disk or from a peer; fails when it carries a membership that cannot be read.
    pub fn from_frame(frame: Frame) -> Result<Entry, crate::member::MembershipError> {
        let membership = match frame.kind() {
            Kind::Membership => Some(Arc::new(membership_to_raft(&Membership::from_bytes(
                &frame.payload(),
            )?))),
            Kind::Blank | Kind::Normal => None,
        };
        Ok(Entry {
            leader: committed_leader(frame.id().term),
            frame,
            membership,
        })
    }

    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    pub fn into_frame(self) -> Frame {
        self.frame
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}", self.frame.id(), self.frame.kind())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = CommittedLeaderId;
    type Payload = Payload;

    fn new(log_id: RaftLogId, payload: Payload) -> Self {
        let id = from_raft_log_id(&log_id);
        let (frame, membership) = match payload {
            Payload::Blank => (Frame::encode(id, Kind::Blank, &[]), None),
            Payload::Normal(data) => (Frame::encode(id, Kind::Normal, &data.0), None),
            Payload::Membership(membership) => {
                let bytes = membership_from_raft(&membership).to_bytes();
                (
                    Frame::encode(id, Kind::Membership, &bytes),
                    Some(Arc::new(membership)),
                )
            }
        };
        Entry {
            leader: log_id.leader_id,
            frame,
            membership,
        }
    }

    fn log_id_parts(&self) -> (&CommittedLeaderId, u64) {
        (&self.leader, self.frame.id().index)
    }

    fn set_log_id(&mut self, log_id: RaftLogId) {
        let frame = Frame::encode(
            from_raft_log_id(&log_id),
            self.frame.kind(),
            &self.frame.payload(),
        );
        *self = Entry {
            leader: log_id.leader_id,
            frame,
            membership: self.membership.take(),
        };
    }

    fn get_membership(&self) -> Option<RaftMembership> {
        self.membership.as_deref().cloned()
    }
}

pub(crate) fn committed_leader(term: u64) -> CommittedLeaderId {
    use openraft::vote::RaftLeaderId as _;
    openraft::impls::leader_id_std::LeaderId {
        term,
        voted_for: 0u64,
    }
    .to_committed()
}

pub(crate) fn to_raft_log_id(id: LogId) -> RaftLogId {
    openraft::LogId::new(committed_leader(id.term), id.index)
}

pub(crate) fn from_raft_log_id(id: &RaftLogId) -> LogId {
    LogId {
        term: *id.leader_id,
        index: id.index,
    }
}

pub(crate) fn membership_to_raft(membership: &Membership) -> RaftMembership {
    if membership.configs.is_empty() {
        return RaftMembership::default();
    }
    let nodes = membership
        .members
        .iter()
        .map(|(id, member)| (*id, keyed(member.clone())));
    RaftMembership::new(
        membership.configs.clone(),
        nodes.collect::<BTreeMap<_, _>>(),
    )
    .expect("a membership that was read is consistent")
}

pub(crate) fn membership_from_raft(membership: &RaftMembership) -> Membership {
    Membership {
        configs: membership.get_joint_config().clone(),
        members: membership
            .nodes()
            .map(|(id, member)| {
                (
                    *id,
                    Member {
                        id: *id,
                        ..member.clone()
                    },
                )
            })
            .collect(),
    }
}

/// A member as openraft holds it: under its id, not with it, so that members compare alike wherever they come from.
pub(crate) fn keyed(member: Member) -> Member {
    Member { id: 0, ..member }
}

pub(crate) fn stored_membership_to_raft(
    stored: &(Option<LogId>, Membership),
) -> RaftStoredMembership {
    RaftStoredMembership::new(stored.0.map(to_raft_log_id), membership_to_raft(&stored.1))
}

/// A Raft vote as bytes: in the log's hard state and in every Raft message.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct VoteBytes {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub voted_for: u64,
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

impl From<&RaftVote> for VoteBytes {
    fn from(vote: &RaftVote) -> Self {
        VoteBytes {
            term: vote.leader_id().term,
            voted_for: vote.leader_id().voted_for,
            committed: vote.is_committed(),
        }
    }
}

impl From<VoteBytes> for RaftVote {
    fn from(bytes: VoteBytes) -> Self {
        match bytes.committed {
            true => RaftVote::new_committed(bytes.term, bytes.voted_for),
            false => RaftVote::new(bytes.term, bytes.voted_for),
        }
    }
}

pub(crate) fn log_id_bytes(id: Option<&RaftLogId>) -> Option<LogIdBytes> {
    id.map(|id| from_raft_log_id(id).into())
}

pub(crate) fn raft_log_id(bytes: Option<LogIdBytes>) -> Option<RaftLogId> {
    bytes.map(|bytes| to_raft_log_id(bytes.into()))
}
