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
    ALTERNATIVES_MAX, Accept, Address, Alternative, Answer, ClusterId, FreePlaces, Heartbeat,
    HeartbeatAck, Kick, KickReason, LEARNED_MAX, LeaveReason, LogEnd, LogPosition, Message, NodeId,
    Path, PathError, Peer, Place, Refuse, RefuseReason, Register, Role, Saved, UPSTREAMS_MAX, Zone,
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
}

#[derive(Clone, PartialEq, prost::Message)]
struct RefuseBytes {
    #[prost(oneof = "RefuseReasonBytes", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
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
            path: path(bytes.path)?,
            zone: bytes.zone.as_deref().map(Zone::from),
            capacity: bytes.capacity,
            registered: bytes.registered,
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
        }
    }
}

impl TryFrom<SavedBytes> for Saved {
    type Error = TreeWireError;

    fn try_from(bytes: SavedBytes) -> Result<Self, TreeWireError> {
        Ok(Saved {
            upstreams: bounded("upstream servers", bytes.upstreams, UPSTREAMS_MAX, address)?,
            learned: bounded("learned peers", bytes.learned, LEARNED_MAX, peer)?,
        })
    }
}

fn accept_bytes(accept: &Accept) -> AcceptBytes {
    AcceptBytes {
        heartbeat: Some(heartbeat_bytes(&accept.heartbeat)),
        voters: first(&accept.voters, peer_bytes),
        ancestors: first(&accept.ancestors, peer_bytes),
        siblings: first(&accept.siblings, peer_bytes),
    }
}

fn accept(bytes: AcceptBytes) -> Result<Accept, TreeWireError> {
    Ok(Accept {
        heartbeat: heartbeat(required("heartbeat", bytes.heartbeat)?)?,
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
        age_micros: Some(u64::try_from(heartbeat.age.as_micros()).unwrap_or(NEVER)),
        committed: Some(heartbeat.committed.into()),
    }
}

fn heartbeat(bytes: HeartbeatBytes) -> Result<Heartbeat, TreeWireError> {
    Ok(Heartbeat {
        path: path(bytes.path)?,
        attached: bytes.attached,
        stale: bytes.stale,
        leader: bytes.leader.map(NodeId),
        age: match required("age", bytes.age_micros)? {
            NEVER => Duration::MAX,
            micros => Duration::from_micros(micros),
        },
        committed: required("committed position", bytes.committed)?.into(),
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
            index: bytes.index,
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
codes!("kick reason": KickReason, kick_code, kick_reason, { Leader = 1, Silent = 2, Admin = 3 });
codes!("leave reason": LeaveReason, leave_code, leave_reason, {
    Moved = 1, Loop = 2, TooDeep = 3, Detached = 4, NewList = 5, BecameVoter = 6, UnknownSession = 7
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
mod tests {
    use super::*;
    use eaves_tree::PATH_LIMIT;
    use prost::Message as _;
    use std::fmt::Debug;

    fn a_peer(id: u64) -> Peer {
        Peer {
            id: NodeId(id),
            address: Address::from(format!("127.0.0.1:{id}").as_str()),
        }
    }

    fn peers(count: usize) -> Vec<Peer> {
        (1..=count as u64).map(a_peer).collect()
    }

    fn a_path(length: usize) -> Path {
        Path::try_from((1..=length as u64).map(NodeId).collect::<Vec<_>>()).unwrap()
    }

    fn alternatives(count: usize) -> Vec<Alternative> {
        let places = [Place::Voter, Place::Free, Place::Leader, Place::Full];
        peers(count)
            .into_iter()
            .zip(places.into_iter().cycle())
            .map(|(peer, place)| Alternative { peer, place })
            .collect()
    }

    fn position() -> LogPosition {
        LogPosition {
            term: 3,
            index: u64::MAX,
        }
    }

    fn an_end() -> LogEnd {
        LogEnd {
            position: position(),
            chain: u64::MAX - 1,
        }
    }

    fn an_answer(role: Role) -> Answer {
        Answer {
            role,
            attached: true,
            stale: false,
            path: a_path(3),
            zone: Some(Zone::from("north")),
            capacity: 32,
            registered: 5,
            committed: position(),
            alternatives: alternatives(4),
        }
    }

    fn a_register() -> Register {
        Register {
            listener: a_peer(9),
            zone: Some(Zone::from("north")),
            cluster: ClusterId(u64::MAX),
            protocol: 1,
            last_log: an_end(),
            free: FreePlaces {
                slots: 7,
                levels: 2,
            },
        }
    }

    fn a_heartbeat() -> Heartbeat {
        Heartbeat {
            path: a_path(2),
            attached: true,
            stale: false,
            leader: Some(NodeId(0)),
            age: Duration::from_micros(1_500_001),
            committed: position(),
        }
    }

    /// Every variant of every enum, every field set and left out, every list at its limit.
    fn messages() -> Vec<Message> {
        let heartbeats = [
            a_heartbeat(),
            Heartbeat {
                path: a_path(PATH_LIMIT),
                attached: false,
                stale: true,
                leader: None,
                ..a_heartbeat()
            },
            Heartbeat {
                age: Duration::MAX,
                committed: LogPosition::default(),
                ..a_heartbeat()
            },
            Heartbeat {
                age: Duration::ZERO,
                ..a_heartbeat()
            },
        ];
        let accepts = [0, 3, ALTERNATIVES_MAX].map(|count| {
            let (voters, ancestors, siblings) = (peers(count), peers(count / 2), peers(count / 3));
            Accept {
                heartbeat: a_heartbeat(),
                voters,
                ancestors,
                siblings,
            }
        });
        let refuses = [
            RefuseReason::Leader,
            RefuseReason::Full,
            RefuseReason::Detached,
            RefuseReason::Loop,
            RefuseReason::TooDeep,
            RefuseReason::Cluster { ours: ClusterId(0) },
            RefuseReason::Protocol { ours: 0 },
            RefuseReason::Log { ours: an_end() },
            RefuseReason::Log {
                ours: LogEnd::default(),
            },
        ]
        .map(|reason| Refuse {
            reason,
            alternatives: alternatives(5),
        });
        let kicks =
            [KickReason::Leader, KickReason::Silent, KickReason::Admin].map(|reason| Kick {
                reason,
                alternatives: alternatives(ALTERNATIVES_MAX),
            });
        let acks = [
            HeartbeatAck {
                committed: position(),
                free: FreePlaces {
                    slots: u32::MAX,
                    levels: 1,
                },
            },
            HeartbeatAck {
                committed: LogPosition::default(),
                free: FreePlaces::default(),
            },
        ];
        use LeaveReason::*;
        let leaves = [
            Moved,
            Loop,
            TooDeep,
            Detached,
            NewList,
            BecameVoter,
            UnknownSession,
        ];
        heartbeats
            .into_iter()
            .map(Message::Heartbeat)
            .chain(accepts.into_iter().map(Message::Accept))
            .chain(refuses.into_iter().map(Message::Refuse))
            .chain(kicks.into_iter().map(Message::Kick))
            .chain(acks.into_iter().map(Message::HeartbeatAck))
            .chain(leaves.into_iter().map(Message::Leave))
            .collect()
    }

    /// Through real bytes and back.
    fn assert_round_trip<D, B>(value: &D)
    where
        D: TryFrom<B, Error = TreeWireError> + PartialEq + Debug,
        B: for<'a> From<&'a D> + prost::Message + Default,
    {
        let bytes = B::from(value).encode_to_vec();
        assert_eq!(
            D::try_from(B::decode(&bytes[..]).unwrap()).as_ref(),
            Ok(value)
        );
    }

    #[test]
    fn session_messages_round_trip() {
        for message in messages() {
            assert_round_trip::<Message, SessionBytes>(&message);
        }
    }

    #[test]
    fn answers_registrations_and_saved_lists_round_trip() {
        for role in [Role::Leader, Role::Follower, Role::Listener] {
            assert_round_trip::<Answer, AnswerBytes>(&an_answer(role));
        }
        let bare = Answer {
            attached: false,
            stale: true,
            zone: None,
            alternatives: vec![],
            ..an_answer(Role::Listener)
        };
        assert_round_trip::<Answer, AnswerBytes>(&bare);
        assert_round_trip::<Register, RegisterBytes>(&a_register());
        let bare = Register {
            zone: None,
            last_log: LogEnd::default(),
            free: FreePlaces::default(),
            ..a_register()
        };
        assert_round_trip::<Register, RegisterBytes>(&bare);
        assert_round_trip::<Saved, SavedBytes>(&Saved::default());
        let upstreams = peers(UPSTREAMS_MAX)
            .into_iter()
            .map(|peer| peer.address)
            .collect();
        assert_round_trip::<Saved, SavedBytes>(&Saved {
            upstreams,
            learned: peers(LEARNED_MAX),
        });
    }

    #[test]
    fn ages_are_cut_to_microseconds_and_the_longest_are_never() {
        let age_after = |age| {
            heartbeat(heartbeat_bytes(&Heartbeat {
                age,
                ..a_heartbeat()
            }))
            .unwrap()
            .age
        };
        assert_eq!(
            age_after(Duration::from_nanos(1_999)),
            Duration::from_micros(1)
        );
        assert_eq!(
            age_after(Duration::from_micros(NEVER - 1)),
            Duration::from_micros(NEVER - 1)
        );
        assert_eq!(
            age_after(Duration::from_micros(NEVER) + Duration::from_micros(1)),
            Duration::MAX
        );
    }

    #[test]
    fn long_lists_of_ours_are_cut_to_what_a_reader_takes() {
        let long = Message::Kick(Kick {
            reason: KickReason::Admin,
            alternatives: alternatives(ALTERNATIVES_MAX + 1),
        });
        let cut = Message::Kick(Kick {
            reason: KickReason::Admin,
            alternatives: alternatives(ALTERNATIVES_MAX),
        });
        assert_eq!(Message::try_from(SessionBytes::from(&long)), Ok(cut));
    }

    #[test]
    fn the_format_stays_as_it_is() {
        let ack = HeartbeatAck {
            committed: LogPosition {
                term: 3,
                index: 300,
            },
            free: FreePlaces {
                slots: 2,
                levels: 1,
            },
        };
        let bytes = SessionBytes::from(&Message::HeartbeatAck(ack)).encode_to_vec();
        assert_eq!(
            bytes,
            [
                0x2a, 13, 0x0a, 5, 0x08, 3, 0x10, 0xac, 2, 0x12, 4, 0x08, 2, 0x10, 1
            ]
        );
        let bytes =
            SessionBytes::from(&Message::Leave(LeaveReason::UnknownSession)).encode_to_vec();
        assert_eq!(bytes, [0x30, 7]);
    }

    #[track_caller]
    fn assert_rejected<D: Debug>(read: Result<D, TreeWireError>, why: &str) {
        assert_eq!(read.unwrap_err().to_string(), why);
    }

    #[test]
    fn answers_with_wrong_values_are_rejected() {
        let good = AnswerBytes::from(&an_answer(Role::Follower));
        let reject = |change: fn(&mut AnswerBytes), why| {
            let mut bytes = good.clone();
            change(&mut bytes);
            assert_rejected(Answer::try_from(bytes), why);
        };
        reject(|bytes| bytes.role = 0, "reject unknown role 0");
        reject(|bytes| bytes.role = 4, "reject unknown role 4");
        reject(|bytes| bytes.path.clear(), "reject a path without nodes");
        reject(
            |bytes| bytes.path = vec![1; PATH_LIMIT + 1],
            "reject a path of 65 nodes, the limit is 64",
        );
        reject(
            |bytes| bytes.committed = None,
            "reject bytes without a known committed position",
        );
        reject(
            |bytes| bytes.alternatives[0].peer = None,
            "reject bytes without a known alternative's peer",
        );
        reject(
            |bytes| bytes.alternatives[1].place = 9,
            "reject unknown place 9",
        );
        reject(
            |bytes| bytes.alternatives[2].peer = Some(PeerBytes::default()),
            "reject bytes without a known address",
        );
        reject(
            |bytes| bytes.alternatives = vec![bytes.alternatives[0].clone(); ALTERNATIVES_MAX + 1],
            "reject 65 alternatives, the limit is 64",
        );
    }

    #[test]
    fn registrations_without_a_required_part_are_rejected() {
        let good = RegisterBytes::from(&a_register());
        let reject = |bytes, why| assert_rejected(Register::try_from(bytes), why);
        reject(
            RegisterBytes {
                listener: None,
                ..good.clone()
            },
            "reject bytes without a known listener",
        );
        reject(
            RegisterBytes {
                last_log: None,
                ..good.clone()
            },
            "reject bytes without a known end of the log",
        );
        let no_position = Some(LogEndBytes {
            position: None,
            chain: 1,
        });
        reject(
            RegisterBytes {
                last_log: no_position,
                ..good.clone()
            },
            "reject bytes without a known position of the log's end",
        );
        reject(
            RegisterBytes { free: None, ..good },
            "reject bytes without a known count of free places",
        );
    }

    #[test]
    fn session_messages_with_wrong_values_are_rejected() {
        let reject =
            |message, why| assert_rejected(Message::try_from(SessionBytes { message }), why);
        let many = vec![peer_bytes(&a_peer(1)); ALTERNATIVES_MAX + 1];
        let beat = heartbeat_bytes(&a_heartbeat());
        let accepts = |accept| Some(SessionKind::Accept(accept));
        let accept = AcceptBytes {
            heartbeat: Some(beat.clone()),
            ..AcceptBytes::default()
        };
        let beats = |heartbeat| Some(SessionKind::Heartbeat(heartbeat));
        let acks = |ack| Some(SessionKind::HeartbeatAck(ack));
        let kick = |reason| {
            Some(SessionKind::Kick(KickBytes {
                reason,
                alternatives: vec![],
            }))
        };

        reject(None, "reject bytes without a known session message");
        reject(
            accepts(AcceptBytes::default()),
            "reject bytes without a known heartbeat",
        );
        reject(
            accepts(AcceptBytes {
                voters: many.clone(),
                ..accept.clone()
            }),
            "reject 65 voters, the limit is 64",
        );
        reject(
            accepts(AcceptBytes {
                ancestors: many.clone(),
                ..accept.clone()
            }),
            "reject 65 ancestors, the limit is 64",
        );
        reject(
            accepts(AcceptBytes {
                siblings: many,
                ..accept
            }),
            "reject 65 siblings, the limit is 64",
        );
        reject(
            Some(SessionKind::Refuse(RefuseBytes::default())),
            "reject bytes without a known refuse reason",
        );
        reject(
            beats(HeartbeatBytes {
                path: vec![],
                ..beat.clone()
            }),
            "reject a path without nodes",
        );
        reject(
            beats(HeartbeatBytes {
                age_micros: None,
                ..beat.clone()
            }),
            "reject bytes without a known age",
        );
        reject(
            beats(HeartbeatBytes {
                committed: None,
                ..beat
            }),
            "reject bytes without a known committed position",
        );
        reject(kick(0), "reject unknown kick reason 0");
        reject(kick(4), "reject unknown kick reason 4");
        reject(
            acks(HeartbeatAckBytes::default()),
            "reject bytes without a known committed position",
        );
        let no_free = HeartbeatAckBytes {
            committed: Some(position().into()),
            free: None,
        };
        reject(
            acks(no_free),
            "reject bytes without a known count of free places",
        );
        reject(Some(SessionKind::Leave(0)), "reject unknown leave reason 0");
        reject(Some(SessionKind::Leave(8)), "reject unknown leave reason 8");
    }

    #[test]
    fn saved_lists_with_wrong_values_are_rejected() {
        let reject = |bytes, why| assert_rejected(Saved::try_from(bytes), why);
        let upstreams = |text: &str, count| SavedBytes {
            upstreams: vec![text.into(); count],
            learned: vec![],
        };
        reject(upstreams("", 1), "reject bytes without a known address");
        reject(
            upstreams("a:1", UPSTREAMS_MAX + 1),
            "reject 1025 upstream servers, the limit is 1024",
        );
        let learned = vec![peer_bytes(&a_peer(1)); LEARNED_MAX + 1];
        reject(
            SavedBytes {
                upstreams: vec![],
                learned,
            },
            "reject 17 learned peers, the limit is 16",
        );
    }

    #[test]
    fn damaged_bytes_are_read_or_rejected_and_never_asserted() {
        for message in messages() {
            let bytes = SessionBytes::from(&message).encode_to_vec();
            for (at, flip) in
                (0..bytes.len()).flat_map(|at| [0x01, 0x08, 0x80].map(|flip| (at, flip)))
            {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                for damaged in [&bytes[..at], &damaged[..]] {
                    let _: Result<_, _> = SessionBytes::decode(damaged).map(Message::try_from);
                }
            }
        }
    }
}
