//! The tree's messages as protobuf: the one place where the types of `eaves-tree`, which know nothing of bytes, become bytes and back.
//!
//! | bytes | type | where |
//! | --- | --- | --- |
//! | [`AnswerBytes`] | [`Answer`] | answers a question on a control connection (S7) |
//! | [`RegisterBytes`] | [`Register`] | first on a session (S9) |
//! | [`SessionBytes`] | [`Message`] | all that follows on it |
//! | [`SavedBytes`] | [`Saved`] | a listener's disk (S6, B5) |
//!
//! Into bytes always works; back is checked, because a peer or a disk may say anything: what is required must be there, what is
//! counted must be within its limit, what is named by a number must be known. The limits are looked at after protobuf has built the
//! lists, so it is the longest packet that bounds the memory a peer can make us spend.
//!
//! Tags and codes are the format: they are never reused, and a change of meaning needs a new protocol version (B12). Code 0 is never
//! given out, so a field left out is not taken for a value. An age is in microseconds; [`NEVER`] stands for `Duration::MAX`.

use crate::position::LogIdBytes;
use eaves_tree::{
    ALTERNATIVES_MAX, AVOIDED_MAX, Accept, Address, Alternative, Answer, ClusterId, FreePlaces,
    Heartbeat, HeartbeatAck, Kick, KickReason, LEARNED_MAX, LeaveReason, LogEnd, LogPosition,
    Message, NodeId, Path, PathError, Peer, Place, Refuse, RefuseReason, Register, Role, Saved,
    Steering, UPSTREAMS_MAX, Zone,
};
use std::time::Duration;

/// The age, in microseconds, of a word from a leader that never came.
const NEVER: u64 = u64::MAX;

/// Bytes that say nothing the tree could use. From a peer: drop its connection; from disk: the file is damaged or of another version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TreeWireError {
    /// A required part is absent, or of a kind this version does not know.
    #[error("reject bytes without a known {0}")]
    Absent(&'static str),
    /// A number that names nothing in this version.
    #[error("reject unknown {field} {code}")]
    Unknown { field: &'static str, code: u32 },
    /// A list longer than its limit.
    #[error("reject {count} {field}, the limit is {limit}")]
    TooMany {
        field: &'static str,
        count: usize,
        limit: usize,
    },
    #[error(transparent)]
    Path(#[from] PathError),
}

/// [`Answer`] as bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AnswerBytes {
    #[prost(uint32, tag = "1")]
    role: u32,
    #[prost(bool, tag = "2")]
    attached: bool,
    #[prost(bool, tag = "3")]
    stale: bool,
    #[prost(uint64, repeated, tag = "4")]
    path: Vec<u64>,
    #[prost(string, optional, tag = "5")]
    zone: Option<String>,
    #[prost(uint32, tag = "6")]
    capacity: u32,
    #[prost(uint32, tag = "7")]
    registered: u32,
    #[prost(message, optional, tag = "8")]
    committed: Option<LogIdBytes>,
    #[prost(message, repeated, tag = "9")]
    alternatives: Vec<AlternativeBytes>,
    #[prost(uint64, optional, tag = "10")]
    age_micros: Option<u64>,
    #[prost(bool, tag = "11")]
    draining: bool,
    #[prost(message, optional, tag = "12")]
    free: Option<FreePlacesBytes>,
    #[prost(bool, tag = "13")]
    uncompared: bool,
}

/// [`Register`] as bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegisterBytes {
    #[prost(message, optional, tag = "1")]
    listener: Option<PeerBytes>,
    #[prost(string, optional, tag = "2")]
    zone: Option<String>,
    #[prost(fixed64, tag = "3")]
    cluster: u64,
    #[prost(uint32, tag = "4")]
    protocol: u32,
    #[prost(message, optional, tag = "5")]
    last_log: Option<LogEndBytes>,
    #[prost(message, optional, tag = "6")]
    free: Option<FreePlacesBytes>,
    #[prost(bool, tag = "7")]
    uncompared: bool,
}

/// [`Message`] as bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionBytes {
    #[prost(oneof = "SessionKind", tags = "1, 2, 3, 4, 5, 6")]
    message: Option<SessionKind>,
}

/// [`Saved`] as bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SavedBytes {
    #[prost(string, repeated, tag = "1")]
    upstreams: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    learned: Vec<PeerBytes>,
    #[prost(message, optional, tag = "3")]
    pin: Option<PeerBytes>,
    #[prost(uint64, repeated, tag = "4")]
    avoided: Vec<u64>,
    #[prost(bool, tag = "5")]
    draining: bool,
    /// The list the listener was started with when this was written; not part of [`Saved`].
    #[prost(string, repeated, tag = "15")]
    pub started_with: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum SessionKind {
    #[prost(message, tag = "1")]
    Accept(AcceptBytes),
    #[prost(message, tag = "2")]
    Refuse(RefuseBytes),
    #[prost(message, tag = "3")]
    Heartbeat(HeartbeatBytes),
    #[prost(message, tag = "4")]
    Kick(KickBytes),
    #[prost(message, tag = "5")]
    HeartbeatAck(HeartbeatAckBytes),
    #[prost(uint32, tag = "6")]
    Leave(u32),
}

#[derive(Clone, PartialEq, prost::Message)]
struct AcceptBytes {
    #[prost(message, optional, tag = "1")]
    heartbeat: Option<HeartbeatBytes>,
    #[prost(message, repeated, tag = "2")]
    voters: Vec<PeerBytes>,
    #[prost(message, repeated, tag = "3")]
    ancestors: Vec<PeerBytes>,
    #[prost(message, repeated, tag = "4")]
    siblings: Vec<PeerBytes>,
    #[prost(string, optional, tag = "5")]
    zone: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RefuseBytes {
    #[prost(oneof = "RefuseReasonBytes", tags = "1, 2, 3, 4, 5, 6, 7, 8, 10, 11")]
    reason: Option<RefuseReasonBytes>,
    #[prost(message, repeated, tag = "9")]
    alternatives: Vec<AlternativeBytes>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum RefuseReasonBytes {
    #[prost(message, tag = "1")]
    Leader(()),
    #[prost(message, tag = "2")]
    Full(()),
    #[prost(message, tag = "3")]
    Detached(()),
    #[prost(message, tag = "4")]
    Loop(()),
    #[prost(message, tag = "5")]
    TooDeep(()),
    #[prost(fixed64, tag = "6")]
    Cluster(u64),
    #[prost(uint32, tag = "7")]
    Protocol(u32),
    #[prost(message, tag = "8")]
    Log(LogEndBytes),
    #[prost(message, tag = "10")]
    Draining(()),
    #[prost(message, tag = "11")]
    Uncompared(()),
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeartbeatBytes {
    #[prost(uint64, repeated, tag = "1")]
    path: Vec<u64>,
    #[prost(bool, tag = "2")]
    attached: bool,
    #[prost(bool, tag = "3")]
    stale: bool,
    #[prost(uint64, optional, tag = "4")]
    leader: Option<u64>,
    /// Optional so that an age left out is not taken for the freshest of all.
    #[prost(uint64, optional, tag = "5")]
    age_micros: Option<u64>,
    #[prost(message, optional, tag = "6")]
    committed: Option<LogIdBytes>,
    #[prost(bool, tag = "7")]
    draining: bool,
    #[prost(uint32, optional, tag = "8")]
    free_depth: Option<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KickBytes {
    #[prost(uint32, tag = "1")]
    reason: u32,
    #[prost(message, repeated, tag = "2")]
    alternatives: Vec<AlternativeBytes>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HeartbeatAckBytes {
    #[prost(message, optional, tag = "1")]
    committed: Option<LogIdBytes>,
    #[prost(message, optional, tag = "2")]
    free: Option<FreePlacesBytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AlternativeBytes {
    #[prost(message, optional, tag = "1")]
    peer: Option<PeerBytes>,
    #[prost(uint32, tag = "2")]
    place: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PeerBytes {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct LogEndBytes {
    #[prost(message, optional, tag = "1")]
    position: Option<LogIdBytes>,
    #[prost(fixed64, tag = "2")]
    chain: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct FreePlacesBytes {
    #[prost(uint32, tag = "1")]
    slots: u32,
    #[prost(uint32, tag = "2")]
    levels: u32,
}

impl From<&Answer> for AnswerBytes {
    fn from(answer: &Answer) -> Self {
        AnswerBytes {
            role: role_code(answer.role),
            attached: answer.attached,
            stale: answer.stale,
            path: path_ids(&answer.path),
            zone: answer.zone.as_ref().map(Zone::to_string),
            capacity: answer.capacity,
            registered: answer.registered,
            committed: Some(answer.committed.into()),
            alternatives: first(&answer.alternatives, alternative_bytes),
            age_micros: Some(age_micros(answer.age)),
            draining: answer.draining,
            free: Some(free_bytes(answer.free)),
            uncompared: answer.uncompared,
        }
    }
}

impl TryFrom<AnswerBytes> for Answer {
    type Error = TreeWireError;

    fn try_from(bytes: AnswerBytes) -> Result<Self, TreeWireError> {
        Ok(Answer {
            role: role(bytes.role)?,
            attached: bytes.attached,
            stale: bytes.stale,
            age: age(bytes.age_micros)?,
            draining: bytes.draining,
            uncompared: bytes.uncompared,
            path: path(bytes.path)?,
            zone: bytes.zone.as_deref().map(Zone::from),
            capacity: bytes.capacity,
            registered: bytes.registered,
            free: free(bytes.free)?,
            committed: required("committed position", bytes.committed)?.into(),
            alternatives: bounded(
                "alternatives",
                bytes.alternatives,
                ALTERNATIVES_MAX,
                alternative,
            )?,
        })
    }
}

impl From<&Register> for RegisterBytes {
    fn from(register: &Register) -> Self {
        RegisterBytes {
            listener: Some(peer_bytes(&register.listener)),
            zone: register.zone.as_ref().map(Zone::to_string),
            cluster: register.cluster.0,
            protocol: register.protocol,
            last_log: Some(log_end_bytes(register.last_log)),
            uncompared: register.uncompared,
            free: Some(free_bytes(register.free)),
        }
    }
}

impl TryFrom<RegisterBytes> for Register {
    type Error = TreeWireError;

    fn try_from(bytes: RegisterBytes) -> Result<Self, TreeWireError> {
        Ok(Register {
            listener: peer(required("listener", bytes.listener)?)?,
            zone: bytes.zone.as_deref().map(Zone::from),
            cluster: ClusterId(bytes.cluster),
            protocol: bytes.protocol,
            last_log: log_end(required("end of the log", bytes.last_log)?)?,
            uncompared: bytes.uncompared,
            free: free(bytes.free)?,
        })
    }
}

impl From<&Message> for SessionBytes {
    fn from(message: &Message) -> Self {
        let kind = match message {
            Message::Accept(accept) => SessionKind::Accept(accept_bytes(accept)),
            Message::Refuse(refuse) => SessionKind::Refuse(refuse_bytes(refuse)),
            Message::Heartbeat(heartbeat) => SessionKind::Heartbeat(heartbeat_bytes(heartbeat)),
            Message::Kick(kick) => SessionKind::Kick(kick_bytes(kick)),
            Message::HeartbeatAck(ack) => SessionKind::HeartbeatAck(ack_bytes(ack)),
            Message::Leave(reason) => SessionKind::Leave(leave_code(*reason)),
        };
        SessionBytes {
            message: Some(kind),
        }
    }
}

impl TryFrom<SessionBytes> for Message {
    type Error = TreeWireError;

    fn try_from(bytes: SessionBytes) -> Result<Self, TreeWireError> {
        Ok(match required("session message", bytes.message)? {
            SessionKind::Accept(bytes) => Message::Accept(accept(bytes)?),
            SessionKind::Refuse(bytes) => Message::Refuse(refuse(bytes)?),
            SessionKind::Heartbeat(bytes) => Message::Heartbeat(heartbeat(bytes)?),
            SessionKind::Kick(bytes) => Message::Kick(kick(bytes)?),
            SessionKind::HeartbeatAck(bytes) => Message::HeartbeatAck(ack(bytes)?),
            SessionKind::Leave(code) => Message::Leave(leave_reason(code)?),
        })
    }
}

impl From<&Saved> for SavedBytes {
    fn from(saved: &Saved) -> Self {
        let upstreams = saved.upstreams.iter().map(Address::to_string).collect();
        SavedBytes {
            upstreams,
            learned: saved.learned.iter().map(peer_bytes).collect(),
            pin: saved.steering.pin.as_ref().map(peer_bytes),
            avoided: saved.steering.avoided.iter().map(|id| id.0).collect(),
            draining: saved.steering.draining,
            started_with: Vec::new(),
        }
    }
}

impl TryFrom<SavedBytes> for Saved {
    type Error = TreeWireError;

    fn try_from(bytes: SavedBytes) -> Result<Self, TreeWireError> {
        Ok(Saved {
            upstreams: bounded("upstream servers", bytes.upstreams, UPSTREAMS_MAX, address)?,
            learned: bounded("learned peers", bytes.learned, LEARNED_MAX, peer)?,
            steering: Steering {
                pin: bytes.pin.map(peer).transpose()?,
                avoided: bounded("avoided nodes", bytes.avoided, AVOIDED_MAX, |id| {
                    Ok(NodeId(id))
                })?,
                draining: bytes.draining,
            },
        })
    }
}

fn accept_bytes(accept: &Accept) -> AcceptBytes {
    AcceptBytes {
        heartbeat: Some(heartbeat_bytes(&accept.heartbeat)),
        voters: first(&accept.voters, peer_bytes),
        ancestors: first(&accept.ancestors, peer_bytes),
        siblings: first(&accept.siblings, peer_bytes),
        zone: accept.zone.as_ref().map(Zone::to_string),
    }
}

fn accept(bytes: AcceptBytes) -> Result<Accept, TreeWireError> {
    Ok(Accept {
        heartbeat: heartbeat(required("heartbeat", bytes.heartbeat)?)?,
        zone: bytes.zone.as_deref().map(Zone::from),
        voters: bounded("voters", bytes.voters, ALTERNATIVES_MAX, peer)?,
        ancestors: bounded("ancestors", bytes.ancestors, ALTERNATIVES_MAX, peer)?,
        siblings: bounded("siblings", bytes.siblings, ALTERNATIVES_MAX, peer)?,
    })
}

fn refuse_bytes(refuse: &Refuse) -> RefuseBytes {
    let reason = match refuse.reason {
        RefuseReason::Leader => RefuseReasonBytes::Leader(()),
        RefuseReason::Full => RefuseReasonBytes::Full(()),
        RefuseReason::Detached => RefuseReasonBytes::Detached(()),
        RefuseReason::Loop => RefuseReasonBytes::Loop(()),
        RefuseReason::TooDeep => RefuseReasonBytes::TooDeep(()),
        RefuseReason::Draining => RefuseReasonBytes::Draining(()),
        RefuseReason::Uncompared => RefuseReasonBytes::Uncompared(()),
        RefuseReason::Cluster { ours } => RefuseReasonBytes::Cluster(ours.0),
        RefuseReason::Protocol { ours } => RefuseReasonBytes::Protocol(ours),
        RefuseReason::Log { ours } => RefuseReasonBytes::Log(log_end_bytes(ours)),
    };
    RefuseBytes {
        reason: Some(reason),
        alternatives: first(&refuse.alternatives, alternative_bytes),
    }
}

fn refuse(bytes: RefuseBytes) -> Result<Refuse, TreeWireError> {
    let reason = match required("refuse reason", bytes.reason)? {
        RefuseReasonBytes::Leader(()) => RefuseReason::Leader,
        RefuseReasonBytes::Full(()) => RefuseReason::Full,
        RefuseReasonBytes::Detached(()) => RefuseReason::Detached,
        RefuseReasonBytes::Loop(()) => RefuseReason::Loop,
        RefuseReasonBytes::TooDeep(()) => RefuseReason::TooDeep,
        RefuseReasonBytes::Draining(()) => RefuseReason::Draining,
        RefuseReasonBytes::Uncompared(()) => RefuseReason::Uncompared,
        RefuseReasonBytes::Cluster(ours) => RefuseReason::Cluster {
            ours: ClusterId(ours),
        },
        RefuseReasonBytes::Protocol(ours) => RefuseReason::Protocol { ours },
        RefuseReasonBytes::Log(ours) => RefuseReason::Log {
            ours: log_end(ours)?,
        },
    };
    Ok(Refuse {
        reason,
        alternatives: bounded(
            "alternatives",
            bytes.alternatives,
            ALTERNATIVES_MAX,
            alternative,
        )?,
    })
}

fn heartbeat_bytes(heartbeat: &Heartbeat) -> HeartbeatBytes {
    HeartbeatBytes {
        path: path_ids(&heartbeat.path),
        attached: heartbeat.attached,
        stale: heartbeat.stale,
        leader: heartbeat.leader.map(|id| id.0),
        age_micros: Some(age_micros(heartbeat.age)),
        committed: Some(heartbeat.committed.into()),
        draining: heartbeat.draining,
        free_depth: heartbeat.free_depth,
    }
}

fn heartbeat(bytes: HeartbeatBytes) -> Result<Heartbeat, TreeWireError> {
    Ok(Heartbeat {
        path: path(bytes.path)?,
        attached: bytes.attached,
        stale: bytes.stale,
        leader: bytes.leader.map(NodeId),
        age: age(bytes.age_micros)?,
        draining: bytes.draining,
        free_depth: bytes.free_depth,
        committed: required("committed position", bytes.committed)?.into(),
    })
}

fn age_micros(age: Duration) -> u64 {
    u64::try_from(age.as_micros()).unwrap_or(NEVER)
}

fn age(micros: Option<u64>) -> Result<Duration, TreeWireError> {
    Ok(match required("age", micros)? {
        NEVER => Duration::MAX,
        micros => Duration::from_micros(micros),
    })
}

fn kick_bytes(kick: &Kick) -> KickBytes {
    KickBytes {
        reason: kick_code(kick.reason),
        alternatives: first(&kick.alternatives, alternative_bytes),
    }
}

fn kick(bytes: KickBytes) -> Result<Kick, TreeWireError> {
    Ok(Kick {
        reason: kick_reason(bytes.reason)?,
        alternatives: bounded(
            "alternatives",
            bytes.alternatives,
            ALTERNATIVES_MAX,
            alternative,
        )?,
    })
}

fn ack_bytes(ack: &HeartbeatAck) -> HeartbeatAckBytes {
    HeartbeatAckBytes {
        committed: Some(ack.committed.into()),
        free: Some(free_bytes(ack.free)),
    }
}

fn ack(bytes: HeartbeatAckBytes) -> Result<HeartbeatAck, TreeWireError> {
    Ok(HeartbeatAck {
        committed: required("committed position", bytes.committed)?.into(),
        free: free(bytes.free)?,
    })
}

fn alternative_bytes(alternative: &Alternative) -> AlternativeBytes {
    AlternativeBytes {
        peer: Some(peer_bytes(&alternative.peer)),
        place: place_code(alternative.place),
    }
}

fn alternative(bytes: AlternativeBytes) -> Result<Alternative, TreeWireError> {
    let place = place(bytes.place)?;
    Ok(Alternative {
        peer: peer(required("alternative's peer", bytes.peer)?)?,
        place,
    })
}

fn peer_bytes(peer: &Peer) -> PeerBytes {
    PeerBytes {
        id: peer.id.0,
        address: peer.address.to_string(),
    }
}

fn peer(bytes: PeerBytes) -> Result<Peer, TreeWireError> {
    Ok(Peer {
        id: NodeId(bytes.id),
        address: address(bytes.address)?,
    })
}

fn log_end_bytes(end: LogEnd) -> LogEndBytes {
    LogEndBytes {
        position: Some(end.position.into()),
        chain: end.chain,
    }
}

fn log_end(bytes: LogEndBytes) -> Result<LogEnd, TreeWireError> {
    Ok(LogEnd {
        position: required("position of the log's end", bytes.position)?.into(),
        chain: bytes.chain,
    })
}

fn free_bytes(free: FreePlaces) -> FreePlacesBytes {
    FreePlacesBytes {
        slots: free.slots,
        levels: free.levels,
    }
}

fn free(bytes: Option<FreePlacesBytes>) -> Result<FreePlaces, TreeWireError> {
    let FreePlacesBytes { slots, levels } = required("count of free places", bytes)?;
    Ok(FreePlaces { slots, levels })
}

impl From<LogPosition> for LogIdBytes {
    fn from(position: LogPosition) -> Self {
        LogIdBytes {
            term: position.term,
            index: position.index,
        }
    }
}

impl From<LogIdBytes> for LogPosition {
    fn from(bytes: LogIdBytes) -> Self {
        LogPosition {
            term: bytes.term,
            index: bytes.index(),
        }
    }
}

/// Writes each code of a plain enum once, for both directions.
macro_rules! codes {
    ($field:literal: $type:ident, $into:ident, $back:ident, { $($value:ident = $code:literal),* }) => {
        fn $into(value: $type) -> u32 {
            match value {
                $($type::$value => $code,)*
            }
        }

        fn $back(code: u32) -> Result<$type, TreeWireError> {
            match code {
                $($code => Ok($type::$value),)*
                _ => Err(TreeWireError::Unknown { field: $field, code }),
            }
        }
    };
}

codes!("role": Role, role_code, role, { Leader = 1, Follower = 2, Listener = 3 });
codes!("place": Place, place_code, place, { Voter = 1, Free = 2, Full = 3, Leader = 4 });
codes!("kick reason": KickReason, kick_code, kick_reason, { Leader = 1, Silent = 2, Admin = 3, Drain = 4, Uncompared = 5 });
codes!("leave reason": LeaveReason, leave_code, leave_reason, {
    Moved = 1, Loop = 2, TooDeep = 3, Detached = 4, NewList = 5, BecameVoter = 6, UnknownSession = 7,
    NotBetter = 8
});

fn path_ids(path: &Path) -> Vec<u64> {
    path.ids().iter().map(|id| id.0).collect()
}

fn path(ids: Vec<u64>) -> Result<Path, TreeWireError> {
    Ok(Path::try_from(
        ids.into_iter().map(NodeId).collect::<Vec<_>>(),
    )?)
}

/// An address; nobody can be reached at an empty one.
fn address(text: String) -> Result<Address, TreeWireError> {
    match text.is_empty() {
        true => Err(TreeWireError::Absent("address")),
        false => Ok(Address::from(text.as_str())),
    }
}

/// As much of a list as its reader takes. Lists are best first, so a long one loses its tail and not the whole message.
fn first<D, B>(items: &[D], write: fn(&D) -> B) -> Vec<B> {
    items.iter().take(ALTERNATIVES_MAX).map(write).collect()
}

fn bounded<B, D>(
    field: &'static str,
    items: Vec<B>,
    limit: usize,
    read: fn(B) -> Result<D, TreeWireError>,
) -> Result<Vec<D>, TreeWireError> {
    match items.len() {
        count if count > limit => Err(TreeWireError::TooMany {
            field,
            count,
            limit,
        }),
        _ => items.into_iter().map(read).collect(),
    }
}

fn required<T>(field: &'static str, part: Option<T>) -> Result<T, TreeWireError> {
    part.ok_or(TreeWireError::Absent(field))
}

#[cfg(test)]
mod tests;
