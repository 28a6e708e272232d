//! What peers say to each other, as protobuf: the handshake, questions and answers, and the packets of each kind of stream.
//!
//! The tree's own messages are in `tree_wire`; Raft's are here as plain numbers and converted in `raft`.

use crate::member::MemberBytes;
use crate::orders::{OrderCall, OrderDone};
use crate::position::LogIdBytes;
use crate::raft::VoteBytes;
use crate::roles::{RolesCall, RolesReply};
use crate::tree_wire::AnswerBytes;
use prost::{Message, Oneof};

/// The version of everything between peers. A peer of another version is refused with both numbers (B12).
pub(crate) const PROTOCOL_VERSION: u32 = 4;

/// First on every connection.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// 0: the caller does not belong to a cluster yet.
    #[prost(fixed64, tag = "2")]
    pub cluster_id: u64,
    #[prost(uint64, tag = "3")]
    pub from: u64,
    #[prost(enumeration = "Purpose", tag = "4")]
    pub purpose: i32,
}

/// What a connection is for. One each, so that a large snapshot never stands before a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
pub(crate) enum Purpose {
    Unknown = 0,
    /// Votes, heartbeats, tree questions: small and urgent.
    Control = 1,
    /// Writes and reads on their way to the leader.
    Forward = 2,
    /// Raft's AppendEntries, pipelined.
    Append = 3,
    /// A listener and its upstream.
    Feed = 4,
    /// A snapshot, in either direction.
    Snapshot = 5,
}

impl Purpose {
    /// Its name, for people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Unknown => "unknown",
            Purpose::Control => "control",
            Purpose::Forward => "forward",
            Purpose::Append => "append",
            Purpose::Feed => "feed",
            Purpose::Snapshot => "snapshot",
        }
    }
}

/// The answer to [`Hello`], when welcome.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Welcome {
    #[prost(fixed64, tag = "1")]
    pub cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
}

/// The answer to [`Hello`], when not; or to a request.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reject {
    #[prost(enumeration = "Reason", tag = "1")]
    pub reason: i32,
    #[prost(string, tag = "2")]
    pub text: String,
}

/// Why a peer said no, by what the asker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(crate) enum Reason {
    Unknown = 0,
    /// Another cluster, version or protocol: an administrator must look.
    Mismatch = 1,
    /// Nothing was done: try again later.
    NoLeader = 2,
    /// Nothing was done: slow down.
    Busy = 3,
    /// It may have been done.
    OutcomeUnknown = 4,
    /// The peer stops.
    Stopped = 5,
    /// The request makes no sense there.
    Invalid = 6,
}

/// A question, with an id that the answer repeats. Payloads (a command, log frames) ride in the packet's tail.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(oneof = "Call", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 21")]
    pub call: Option<Call>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Call {
    #[prost(message, tag = "2")]
    Vote(VoteCall),
    #[prost(message, tag = "3")]
    PreVote(VoteCall),
    #[prost(message, tag = "4")]
    TransferLeader(TransferCall),
    #[prost(message, tag = "5")]
    Append(AppendHead),
    #[prost(message, tag = "6")]
    ReadIndex(ForwardCall),
    #[prost(message, tag = "7")]
    Write(ForwardCall),
    #[prost(message, tag = "8")]
    Ask(AskCall),
    #[prost(message, tag = "9")]
    Describe(DescribeCall),
    #[prost(message, tag = "10")]
    Publish(MemberBytes),
    /// An administrator's, for the node asked.
    #[prost(message, tag = "11")]
    Order(OrderCall),
    /// Of a leader that was asked for a read index.
    #[prost(message, tag = "12")]
    Confirm(ConfirmCall),
    #[prost(message, tag = "21")]
    Roles(RolesCall),
}

/// The answer to the [`Request`] of the same id.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(oneof = "Reply", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 21")]
    pub reply: Option<Reply>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Reply {
    #[prost(message, tag = "2")]
    Reject(Reject),
    #[prost(message, tag = "3")]
    Vote(VoteReply),
    #[prost(message, tag = "4")]
    Done(Empty),
    #[prost(message, tag = "5")]
    Appended(AppendedHead),
    #[prost(message, tag = "6")]
    ReadIndex(IndexReply),
    /// The state machine's answer is the tail.
    #[prost(message, tag = "7")]
    Written(IndexReply),
    #[prost(message, tag = "8")]
    Answer(AnswerBytes),
    #[prost(message, tag = "9")]
    Rows(Rows),
    #[prost(message, tag = "10")]
    Ordered(OrderDone),
    #[prost(message, tag = "20")]
    Busy(BusyReply),
    #[prost(message, tag = "21")]
    Roles(RolesReply),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Empty {}

/// A listener looks for an upstream (S7).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AskCall {
    #[prost(string, optional, tag = "1")]
    pub zone: Option<String>,
}

/// Ask again later (B19).
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct BusyReply {
    #[prost(uint32, tag = "1")]
    pub retry_after_ms: u32,
}

/// A request for the leader, on its way there.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ForwardCall {
    /// Whether the receiver must be the leader itself and pass it on to nobody.
    #[prost(bool, tag = "1")]
    pub leader_only: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct VoteCall {
    #[prost(message, required, tag = "1")]
    pub vote: VoteBytes,
    #[prost(message, optional, tag = "2")]
    pub last_log_id: Option<LogIdBytes>,
    #[prost(bool, tag = "3")]
    pub leadership_transfer: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct VoteReply {
    #[prost(message, required, tag = "1")]
    pub vote: VoteBytes,
    #[prost(bool, tag = "2")]
    pub granted: bool,
    #[prost(message, optional, tag = "3")]
    pub last_log_id: Option<LogIdBytes>,
}

/// Whether the voter follows who leads by this vote, and has promised nobody else to follow. It is done if so, and rejected if not.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ConfirmCall {
    #[prost(message, required, tag = "1")]
    pub vote: VoteBytes,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct TransferCall {
    #[prost(message, required, tag = "1")]
    pub from_leader: VoteBytes,
    #[prost(uint64, tag = "2")]
    pub to: u64,
    #[prost(message, optional, tag = "3")]
    pub last_log_id: Option<LogIdBytes>,
}

/// Raft's AppendEntries (paper, figure 2); the entries are the packet's tail.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct AppendHead {
    #[prost(message, required, tag = "1")]
    pub vote: VoteBytes,
    #[prost(message, optional, tag = "2")]
    pub prev_log_id: Option<LogIdBytes>,
    #[prost(message, optional, tag = "3")]
    pub leader_commit: Option<LogIdBytes>,
}

/// What became of an [`AppendHead`].
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct AppendedHead {
    #[prost(oneof = "Appended", tags = "1, 2, 3")]
    pub outcome: Option<Appended>,
}

#[derive(Clone, Copy, PartialEq, Oneof)]
pub(crate) enum Appended {
    /// Matches up to here; absent inside when nothing does yet.
    #[prost(message, tag = "1")]
    Matching(MaybeLogId),
    #[prost(message, tag = "2")]
    Conflict(LogIdBytes),
    #[prost(message, tag = "3")]
    HigherVote(VoteBytes),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct MaybeLogId {
    #[prost(message, optional, tag = "1")]
    pub id: Option<LogIdBytes>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct IndexReply {
    /// One past the index: everything below must be applied.
    #[prost(uint64, tag = "1")]
    pub end: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct DescribeCall {
    /// How long the asker waits, in milliseconds; whoever passes the question on keeps a part of it.
    #[prost(uint32, tag = "1")]
    pub timeout_ms: u32,
    /// Whether to describe the downstreams too, and who else to ask.
    #[prost(bool, tag = "2")]
    pub below: bool,
}

/// What a node says about itself and its neighbours.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Rows {
    /// Its own row, then those of its downstreams as they describe themselves.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<RowBytes>,
    /// Downstreams that did not answer.
    #[prost(message, repeated, tag = "2")]
    pub silent: Vec<PeerAtBytes>,
    /// Listeners that were registered until lately.
    #[prost(message, repeated, tag = "3")]
    pub former: Vec<FormerBytes>,
    /// Its upstream.
    #[prost(message, optional, tag = "4")]
    pub above: Option<PeerAtBytes>,
}

/// A node and where to find it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(crate) struct PeerAtBytes {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub address: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct SnapshotBytes {
    #[prost(uint64, tag = "1")]
    pub received_bytes: u64,
    #[prost(uint64, tag = "2")]
    pub total_bytes: u64,
    #[prost(bool, tag = "3")]
    pub installing: bool,
}

/// A listener that is registered no more.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FormerBytes {
    #[prost(message, required, tag = "1")]
    pub peer: PeerAtBytes,
    /// How long ago it went, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub ago_ms: u64,
    /// Why, in words.
    #[prost(string, tag = "3")]
    pub why: String,
    /// Whether it said that it has another place.
    #[prost(bool, tag = "4")]
    pub moved: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RowBytes {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint32, tag = "3")]
    pub role: u32,
    #[prost(string, tag = "4")]
    pub client_url: String,
    #[prost(string, tag = "5")]
    pub peer_url: String,
    #[prost(uint64, optional, tag = "6")]
    pub upstream: Option<u64>,
    #[prost(uint32, optional, tag = "7")]
    pub depth: Option<u32>,
    #[prost(string, tag = "8")]
    pub zone: String,
    #[prost(uint64, tag = "9")]
    pub committed: u64,
    #[prost(uint64, tag = "10")]
    pub applied: u64,
    #[prost(uint32, tag = "11")]
    pub registered: u32,
    #[prost(uint32, tag = "12")]
    pub capacity: u32,
    /// How old the last word from a leader is; absent when there never was one.
    #[prost(uint64, optional, tag = "13")]
    pub age_ms: Option<u64>,
    #[prost(bool, tag = "14")]
    pub stale: bool,
    /// Since how long it has its upstream.
    #[prost(uint64, optional, tag = "15")]
    pub fed_for_ms: Option<u64>,
    #[prost(bool, tag = "16")]
    pub draining: bool,
    #[prost(uint64, optional, tag = "17")]
    pub pin: Option<u64>,
    #[prost(uint64, repeated, tag = "18")]
    pub avoids: Vec<u64>,
    /// The snapshot on its way to it.
    #[prost(message, optional, tag = "19")]
    pub snapshot: Option<SnapshotBytes>,
    /// How long the oldest entry that it has not got has been known committed by its upstream.
    #[prost(uint64, tag = "20")]
    pub behind_ms: u64,
}

/// A listener says from where it wants to be fed, once accepted.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct FeedFrom {
    /// The last entry of its log.
    #[prost(message, optional, tag = "1")]
    pub last: Option<LogIdBytes>,
    /// The chain value up to there (B12).
    #[prost(fixed64, tag = "2")]
    pub chain: u64,
}

/// The upstream answers a [`FeedFrom`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FeedStart {
    #[prost(oneof = "Start", tags = "1, 2, 3")]
    pub start: Option<Start>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Start {
    /// Entries follow, or will once there are any.
    #[prost(message, tag = "1")]
    Entries(Empty),
    /// The log no longer reaches back: fetch a snapshot first (B9).
    #[prost(message, tag = "2")]
    NeedSnapshot(NeedSnapshot),
    /// The logs differ: an administrator must look (B12).
    #[prost(message, tag = "3")]
    Mismatch(Mismatch),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct NeedSnapshot {
    /// The first index the upstream still has.
    #[prost(uint64, tag = "1")]
    pub first: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Mismatch {
    /// The index at which the logs were compared.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(fixed64, tag = "2")]
    pub upstream_chain: u64,
    #[prost(fixed64, tag = "3")]
    pub listener_chain: u64,
}

/// Head of a batch of entries; the frames are the tail.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct EntriesHead {
    /// The index of the first frame.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// One past the last index that the upstream knows committed: how much is still to come.
    #[prost(uint64, tag = "2")]
    pub committed_end: u64,
}

/// A listener says how far it came, for flow control (B10) and for people (B15).
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct PositionHead {
    /// One past the last index it holds.
    #[prost(uint64, tag = "1")]
    pub received_end: u64,
    /// One past the last index it applied.
    #[prost(uint64, tag = "2")]
    pub applied_end: u64,
}

/// A listener asks its upstream for a snapshot (B9).
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct SnapshotAsk {
    /// The end of its log, which lies before what the upstream still has; absent on a new listener.
    #[prost(message, optional, tag = "1")]
    pub last: Option<LogIdBytes>,
}

/// First of a snapshot, which may still be in the making. With a vote it is Raft's InstallSnapshot, pushed by a leader.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotOffer {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteBytes>,
    /// The state's position (`Applied` as bytes).
    #[prost(bytes = "bytes", tag = "2")]
    pub position: bytes::Bytes,
    /// About how many bytes it has, for progress bars; 0 when unknown.
    #[prost(uint64, tag = "5")]
    pub expected_bytes: u64,
}

/// What chunks must be that follow those told before; their sums are in the tail.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct SnapshotSums {
    /// The digest of position and chunks up to here.
    #[prost(fixed64, tag = "1")]
    pub digest: u64,
    /// Whether no others follow.
    #[prost(bool, tag = "2")]
    pub is_all: bool,
}

/// What a receiver lacks of the chunks that it was told of; nothing when it is ready to hear of others.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotWant {
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<ChunkRange>,
}

/// Chunks that follow one another.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ChunkRange {
    #[prost(uint64, tag = "1")]
    pub first: u64,
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

/// A chunk of a snapshot, in the tail. What it must be was said before.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ChunkHead {
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

/// From the receiver: it has every chunk. A voter says so when it is installed, with its vote.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct SnapshotEnd {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteBytes>,
}

impl Reject {
    pub fn new(reason: Reason, text: impl Into<String>) -> Reject {
        Reject {
            reason: reason as i32,
            text: text.into(),
        }
    }
}
