//! Who is in the group: voters, their names and addresses, as domain types and as bytes.
//!
//! A membership travels inside log entries (kind `Membership`) and inside positions and snapshots, so its bytes must be the same on
//! every node: the encoding is deterministic (maps are ordered) and is part of the log's format.

use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// A member of the group and where to reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Node id, unique in the cluster.
    pub id: u64,
    /// Human name, as given to `--name`.
    pub name: String,
    /// Peer address, `host:port`.
    pub peer_address: String,
    /// Client URLs, empty until the member has published them.
    pub client_urls: Vec<String>,
}

/// The group's configuration: one set of voters, or two while a joint change is under way (Raft dissertation 4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Voter sets; a quorum of each is needed.
    pub configs: Vec<BTreeSet<u64>>,
    /// All members, voters and Raft learners.
    pub members: BTreeMap<u64, Member>,
}

impl Membership {
    /// A uniform configuration in which every member votes.
    #[cfg(test)]
    fn of_voters(members: impl IntoIterator<Item = Member>) -> Membership {
        let members: BTreeMap<u64, Member> = members
            .into_iter()
            .map(|member| (member.id, member))
            .collect();
        Membership {
            configs: vec![members.keys().copied().collect()],
            members,
        }
    }

    /// Whether `id` votes in any of the sets.
    pub fn is_voter(&self, id: u64) -> bool {
        self.configs.iter().any(|config| config.contains(&id))
    }

    /// The members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members
            .values()
            .filter(|member| self.is_voter(member.id))
    }

    /// The bytes that go into the log.
    pub fn to_bytes(&self) -> Vec<u8> {
        let configs = self
            .configs
            .iter()
            .map(|ids| ConfigBytes {
                ids: ids.iter().copied().collect(),
            })
            .collect();
        let members = self
            .members
            .values()
            .cloned()
            .map(MemberBytes::from)
            .collect();
        MembershipBytes { configs, members }.encode_to_vec()
    }

    /// Reads what [`Membership::to_bytes`] wrote; rejects anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Membership, MembershipError> {
        let read =
            MembershipBytes::decode(bytes).map_err(|error| MembershipError(error.to_string()))?;
        let membership = Membership {
            configs: read
                .configs
                .into_iter()
                .map(|config| config.ids.into_iter().collect())
                .collect(),
            members: read
                .members
                .into_iter()
                .map(|member| (member.id, member.into()))
                .collect(),
        };
        if membership.configs.len() > 2 {
            return Err(MembershipError(format!(
                "{} voter sets, at most 2 are possible",
                membership.configs.len()
            )));
        }
        if membership.configs.iter().any(BTreeSet::is_empty) {
            return Err(MembershipError("a set without voters".into()));
        }
        match membership
            .configs
            .iter()
            .flatten()
            .find(|id| !membership.members.contains_key(id))
        {
            Some(id) => Err(MembershipError(format!("voter {id:x} has no address"))),
            None => Ok(membership),
        }
    }
}

/// Membership bytes that no node of this version wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read membership: {0}")]
pub struct MembershipError(String);

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MembershipBytes {
    #[prost(message, repeated, tag = "1")]
    configs: Vec<ConfigBytes>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberBytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConfigBytes {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemberBytes {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    peer_address: String,
    #[prost(string, repeated, tag = "4")]
    client_urls: Vec<String>,
}

impl MemberBytes {
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl From<Member> for MemberBytes {
    fn from(member: Member) -> Self {
        let Member {
            id,
            name,
            peer_address,
            client_urls,
        } = member;
        MemberBytes {
            id,
            name,
            peer_address,
            client_urls,
        }
    }
}

impl From<MemberBytes> for Member {
    fn from(bytes: MemberBytes) -> Self {
        let MemberBytes {
            id,
            name,
            peer_address,
            client_urls,
        } = bytes;
        Member {
            id,
            name,
            peer_address,
            client_urls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member {
            id,
            name: format!("v{id}"),
            peer_address: format!("127.0.0.1:{id}"),
            client_urls: vec![],
        }
    }

    #[test]
    fn bytes_round_trip_and_are_the_same_in_any_order() {
        let one = Membership::of_voters([member(1), member(2), member(3)]);
        let two = Membership::of_voters([member(3), member(1), member(2)]);
        assert_eq!(one.to_bytes(), two.to_bytes());
        assert_eq!(Membership::from_bytes(&one.to_bytes()), Ok(one));
    }

    #[test]
    fn voters_without_address_and_garbage_are_rejected() {
        let mut membership = Membership::of_voters([member(1)]);
        membership.configs[0].insert(9);
        assert_eq!(
            Membership::from_bytes(&membership.to_bytes())
                .unwrap_err()
                .to_string(),
            "read membership: voter 9 has no address"
        );
        assert!(Membership::from_bytes(&[0xff; 7]).is_err());
    }
}
