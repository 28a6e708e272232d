//! Where a state machine stands in the log, with all that a node needs to go on from there.

use crate::member::{Membership, MembershipError};
use crate::state_machine::Position;
use eaves_log::{Chain, LogId, MAX_INDEX};
use prost::Message;

/// What a [`Position`] says: stored by the state machine with its state, carried by snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The last entry applied, if any.
    pub last: Option<LogId>,
    /// The log's chain value up to and including `last` (B12).
    pub chain: Chain,
    /// The last membership applied and the entry that carried it.
    pub membership: (Option<LogId>, Membership),
}

impl Default for Applied {
    fn default() -> Self {
        Applied {
            last: None,
            chain: Chain::START,
            membership: (None, Membership::default()),
        }
    }
}

impl Applied {
    /// The index of the last entry applied; `None` before the first.
    pub fn index(&self) -> Option<u64> {
        self.last.map(|id| id.index)
    }

    /// The index of the next entry to apply.
    pub fn next_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }

    pub fn to_position(&self) -> Position {
        let (membership_id, membership) = &self.membership;
        let bytes = AppliedBytes {
            last: self.last.map(LogIdBytes::from),
            chain: self.chain.0,
            membership_id: membership_id.map(LogIdBytes::from),
            membership: membership.to_bytes(),
        };
        Position(bytes.encode_to_vec().into())
    }

    pub fn from_position(position: &Position) -> Result<Applied, PositionError> {
        let read = AppliedBytes::decode(position.0.clone())
            .map_err(|error| PositionError::Damaged(error.to_string()))?;
        Ok(Applied {
            last: read.last.map(LogId::from),
            chain: Chain(read.chain),
            membership: (
                read.membership_id.map(LogId::from),
                Membership::from_bytes(&read.membership)?,
            ),
        })
    }
}

/// Position bytes that no node of this version wrote.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PositionError {
    #[error("read position: {0}")]
    Damaged(String),
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

#[derive(Clone, PartialEq, Message)]
struct AppliedBytes {
    #[prost(message, optional, tag = "1")]
    last: Option<LogIdBytes>,
    #[prost(fixed64, tag = "2")]
    chain: u64,
    #[prost(message, optional, tag = "3")]
    membership_id: Option<LogIdBytes>,
    #[prost(bytes = "vec", tag = "4")]
    membership: Vec<u8>,
}

/// A log id as bytes, in positions and on the wire.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct LogIdBytes {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub index: u64,
}

impl From<LogId> for LogIdBytes {
    fn from(id: LogId) -> Self {
        LogIdBytes {
            term: id.term,
            index: id.index,
        }
    }
}

impl LogIdBytes {
    /// The index, of which there always is a next one: a greater one, which no log comes near, is cut down to [`MAX_INDEX`].
    pub fn index(&self) -> u64 {
        self.index.min(MAX_INDEX)
    }
}

impl From<LogIdBytes> for LogId {
    fn from(bytes: LogIdBytes) -> Self {
        LogId {
            term: bytes.term,
            index: bytes.index(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the fuzzer: a heartbeat, or the offer of a snapshot, that names the last index of all made whoever counted on overflow.
    #[test]
    fn every_index_that_a_peer_names_has_a_next_one() {
        let last = LogIdBytes {
            term: 1,
            index: u64::MAX,
        };
        let bytes = AppliedBytes {
            last: Some(last),
            chain: 0,
            membership_id: None,
            membership: Vec::new(),
        };
        let applied = Applied::from_position(&Position(bytes.encode_to_vec().into()));
        assert_eq!(applied.unwrap().next_index(), u64::MAX);
    }
}
