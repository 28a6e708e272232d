//! Eaves, the library: a replicated log with a tree of listeners.
#![allow(missing_docs, unused_variables)]

mod state_machine;

pub use state_machine::{Command, Position, SnapshotSink, SnapshotSource, StateMachine};

use bytes::Bytes;
use std::time::Duration;
use tokio::sync::watch;

/// A running node, voter or listener. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node {
    status: watch::Receiver<Status>,
}

/// What a node is right now. A value, not a type: it may change while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Listener,
}

/// A node's view of itself, published whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub cluster_id: u64,
    pub node_id: u64,
    pub name: String,
    pub role: Role,
    /// Raft term (0 when none was seen); a listener's is the term of its last committed entry.
    pub term: u64,
    /// The leader this node knows of: for a listener, the one its upstream told it of.
    pub leader: Option<u64>,
    /// Last log index known committed.
    pub committed: u64,
    /// Last log index applied to the state machine.
    pub applied: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// Who feeds this node: a listener's upstream when attached.
    pub upstream: Option<u64>,
    /// 0 for a voter, upstream's depth + 1 for an attached listener.
    pub depth: Option<u32>,
}

/// A voter as the membership knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    pub name: String,
    pub peer_url: String,
    pub client_urls: Vec<String>,
}

/// One node of the tree, as it describes itself. `eaves tree --json` prints exactly these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeRow {
    pub id: u64,
    pub name: String,
    pub role: Role,
    pub client_url: String,
    pub peer_url: String,
    pub upstream: Option<u64>,
    pub depth: Option<u32>,
    pub zone: String,
    pub committed: u64,
    pub applied: u64,
    pub lag_entries: u64,
    pub registered: u32,
    pub capacity: u32,
}

/// Why a write did not give an answer, by what the caller does next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// Nothing was proposed: try again, here or elsewhere.
    #[error("no leader: {0}")]
    NoLeader(String),
    /// It may or may not have been committed: find out before trying again.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The node falls behind: slow down and try again.
    #[error("too many requests")]
    Busy,
    /// This node is shutting down or broken: go to another.
    #[error("stopped: {0}")]
    Stopped(String),
}

/// Why a linearizable read could not be ordered. Nothing happened: try again, here or elsewhere.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no leader: {0}")]
    NoLeader(String),
    #[error("leader changed")]
    LeaderChanged,
    #[error("timed out waiting for {0}")]
    Timeout(String),
    #[error("stopped: {0}")]
    Stopped(String),
}

impl Node {
    /// Proposes a command from any node; returns the state machine's answer once it is committed and applied here too, so that a
    /// local read that follows sees it.
    pub async fn write(&self, command: Bytes) -> Result<Bytes, WriteError> {
        unimplemented!()
    }

    /// Returns when everything committed before the call began is applied on this node (a read index; Raft dissertation 6.4).
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        unimplemented!()
    }

    /// The latest status; `changed()` on the receiver waits for the next.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The voters.
    pub fn members(&self) -> Vec<Member> {
        unimplemented!()
    }

    /// The whole tree, gathered within `timeout`; nodes that did not answer are left out.
    pub async fn tree(&self, timeout: Duration) -> Vec<TreeRow> {
        unimplemented!()
    }

    /// This node's own counters.
    pub fn metrics(&self) -> Vec<(&'static str, u64)> {
        unimplemented!()
    }

    /// Stops everything, flushing what is in memory.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
