//! What a node is told once: who it is, where it keeps its data, whom it talks to, and its bounds.

use crate::blocking::Blocking;
use crate::dir::Dir;
use crate::net::{Network, TcpNetwork};
use crate::raft::RaftTimes;
use crate::steps::StepObserver;
use eaves_log::{Disk, RealDisk};
use std::path::PathBuf;
use std::sync::Arc;

/// How one node is started. [`Config::new`] has the defaults.
#[derive(Clone)]
pub struct Config {
    /// Name for people; unique in a group.
    pub name: String,
    /// Directory for log, identity and the tree's addresses; one process at a time.
    pub data_dir: PathBuf,
    /// What the node is on its first start. Later starts check that the directory was made for this, and go by what the node has become
    /// since (B16): a promoted listener is still started as a listener, and starts as a voter.
    pub start_as: StartAs,
    /// Address to listen on for peers, `host:port`; port 0 takes a free one.
    pub listen_peer: String,
    /// Address under which peers reach this node; `None` means the one it listens on.
    pub advertise_peer: Option<String>,
    /// URLs under which clients reach this node, only passed on.
    pub client_urls: Vec<String>,
    /// Zone, empty for none (B6).
    pub zone: String,
    /// How many listeners this node accepts (S9). Default 32.
    pub capacity: u32,
    /// Raft's times.
    pub raft: RaftTimes,
    /// Entries between two of Raft's snapshots, which are cheap here. Default 10,000, as `--snapshot-count` of etcd 3.6.
    pub snapshot_entries: u64,
    /// Sizes of the log's segments and cache.
    pub log: eaves_log::Options,
    /// How much log is kept for those who are behind, even when no longer needed here. Default 256 MiB. Less means more snapshots.
    pub log_retention_bytes: u64,
    /// Bytes per second that this node sends of snapshots, to all receivers together (B9); 0 is no bound. Default 100 MiB.
    pub snapshot_rate: u64,
    /// The network.
    pub network: Arc<dyn Network>,
    /// The disk, for all files of the node; the state machine's are its own.
    pub disk: Arc<dyn Disk>,
    /// Where work runs that blocks.
    pub blocking: Blocking,
    /// Seed of the node's random choices, of its id as a new listener too. No two nodes may have the same, nor two starts of one.
    pub seed: u64,
    /// For measurements alone: stay one of Raft's learners once made one ([`crate::RoleChange::Learn`]). Such a node asks
    /// whether it is still in the group only when no leader has fed it for ten seconds. Default false.
    pub stays_learner: bool,
    /// Told of every step of a change of role; for tests.
    pub step_observer: Option<Arc<dyn StepObserver>>,
}

/// What a node is on its first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAs {
    /// A founding member of a group.
    Voter {
        /// The group.
        group: Group,
    },
    /// A listener, which makes its own id and learns its cluster from whoever it meets first.
    Listener {
        /// Where to look for an upstream, `host:port` each: any mix of voters and listeners (S6).
        upstreams: Vec<String>,
    },
}

/// A group as its founders know it: ids follow from names and addresses, so that all founders compute the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The founders, in the order given.
    pub founders: Vec<Founder>,
}

/// A founding member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Node id.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Peer address, `host:port`.
    pub peer_address: String,
}

/// Ids stay below 2^53, so that they survive JSON.
const ID_MASK: u64 = (1 << 53) - 1;

impl Group {
    /// Computes the ids of a group from `token` and the founders' `(name, peer address)`, as etcd does from `--initial-cluster` and
    /// `--initial-cluster-token`.
    pub fn new(token: &str, founders: &[(String, String)]) -> Group {
        let founders: Vec<Founder> = founders
            .iter()
            .map(|(name, peer_address)| Founder {
                id: stable_hash(&[token, name, peer_address]) & ID_MASK,
                name: name.clone(),
                peer_address: peer_address.clone(),
            })
            .collect();
        let mut parts: Vec<String> = founders
            .iter()
            .map(|founder| format!("{:x}", founder.id))
            .collect();
        parts.sort();
        parts.insert(0, token.to_string());
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Group {
            cluster_id: stable_hash(&parts),
            founders,
        }
    }

    /// The founder of this name.
    pub fn founder(&self, name: &str) -> Option<&Founder> {
        self.founders.iter().find(|founder| founder.name == name)
    }
}

/// A random id for a listener.
pub(crate) fn random_id(seed: u64) -> u64 {
    use rand::{RngCore, SeedableRng};
    (rand::rngs::SmallRng::seed_from_u64(seed).next_u64() & ID_MASK).max(1)
}

/// A number nobody can guess or repeat.
fn random_number() -> u64 {
    use rand::{RngCore, SeedableRng};
    rand::rngs::SmallRng::from_os_rng().next_u64()
}

/// FNV-1a, 64 bit: ids computed by one version must be computed alike by every later one, so no library's choice is in it.
fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash.max(1)
}

impl Config {
    /// A node with default bounds on the real network and disk. The seed is taken from the system.
    pub fn new(
        name: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        listen_peer: impl Into<String>,
        start_as: StartAs,
    ) -> Config {
        Config {
            name: name.into(),
            data_dir: data_dir.into(),
            start_as,
            listen_peer: listen_peer.into(),
            advertise_peer: None,
            client_urls: Vec::new(),
            zone: String::new(),
            capacity: 32,
            raft: RaftTimes::default(),
            snapshot_entries: 10_000,
            log: eaves_log::Options::default(),
            log_retention_bytes: 256 << 20,
            snapshot_rate: 100 << 20,
            network: Arc::new(TcpNetwork),
            disk: Arc::new(RealDisk),
            blocking: Blocking::Threads,
            seed: random_number(),
            stays_learner: false,
            step_observer: None,
        }
    }

    /// The data directory.
    pub(crate) fn dir(&self) -> Dir {
        Dir::new(self.disk.clone(), &self.data_dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn founders_agree_whatever_the_order() {
        let (a, b) = (
            ("a".to_string(), "h:1".to_string()),
            ("b".to_string(), "h:2".to_string()),
        );
        let one = Group::new("t", &[a.clone(), b.clone()]);
        let two = Group::new("t", &[b.clone(), a.clone()]);
        assert_eq!(one.cluster_id, two.cluster_id);
        assert_eq!(one.founder("a"), two.founder("a"));
        assert_ne!(one.cluster_id, Group::new("other", &[a, b]).cluster_id);
        assert!(one.founders.iter().all(|founder| founder.id <= ID_MASK));
    }
}
