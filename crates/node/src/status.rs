//! What a node says about itself.

use crate::member::Member;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a node is right now. A value, not a type: it may change while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A voter that leads.
    Leader,
    /// A voter that follows.
    Follower,
    /// A voter that stands for election.
    Candidate,
    /// A replica outside the group (S2).
    Listener,
}

impl Role {
    /// The name used in `eaves tree --json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Listener => "listener",
        }
    }

    pub(crate) fn to_number(self) -> u32 {
        match self {
            Role::Leader => 1,
            Role::Follower => 2,
            Role::Candidate => 3,
            Role::Listener => 4,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Role> {
        [
            Role::Leader,
            Role::Follower,
            Role::Candidate,
            Role::Listener,
        ]
        .into_iter()
        .find(|role| role.to_number() == number)
    }
}

/// A node's view of itself, published whenever role, leader or place in the tree change. The positions are those of that moment;
/// [`crate::Node::positions`] has the current ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The cluster.
    pub cluster_id: u64,
    /// This node.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Raft term; a listener's is the term of its last committed entry. 0 when there is none.
    pub term: u64,
    /// The leader this node knows of; a listener hears it from its upstream.
    pub leader: Option<u64>,
    /// Who feeds this node: a listener's upstream when attached.
    pub upstream: Option<u64>,
    /// 0 for a voter, the upstream's depth + 1 for an attached listener.
    pub depth: Option<u32>,
}

/// How far a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Last log index known committed; 0 when none is.
    pub committed: u64,
    /// Last log index applied to the state machine; 0 when none is.
    pub applied: u64,
    /// Last index in the log; 0 when it is empty.
    pub last: u64,
    /// The term of the last committed entry.
    pub committed_term: u64,
}

/// One node of the tree, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeRow {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Where clients reach it.
    pub client_url: String,
    /// Where peers reach it.
    pub peer_url: String,
    /// Who feeds it; `None` for voters and for detached listeners.
    pub upstream: Option<u64>,
    /// 0 for voters; `None` when detached.
    pub depth: Option<u32>,
    /// Its zone, empty when it has none.
    pub zone: String,
    /// Last index it knows committed.
    pub committed: u64,
    /// Last index it applied.
    pub applied: u64,
    /// How many entries it is behind the node that is furthest.
    pub lag_entries: u64,
    /// For how long it has been behind its root, as far as its log goes: how long the oldest entry that it has not got has been known
    /// committed, added up over the edges of its path. Zero when it has everything.
    pub lag: Duration,
    /// How many listeners are registered with it.
    pub registered: u32,
    /// How many it accepts.
    pub capacity: u32,
    /// How old its last word from a leader is, every hop added (B8): how old what it shows may be when it lags no entries. `None` when
    /// there never was one.
    pub age: Option<Duration>,
    /// Whether it has heard no leader for too long (B8): others use it only when nothing fresher exists.
    pub stale: bool,
    /// Since how long it has its upstream; `None` when it has none.
    pub fed_for: Option<Duration>,
    /// Whether it hands its listeners over and takes none (B16).
    pub draining: bool,
    /// The upstream it is pinned to (B16).
    pub pin: Option<u64>,
    /// The nodes it never registers with (B16).
    pub avoids: Vec<u64>,
    /// The snapshot on its way to it (B9).
    pub snapshot: Option<SnapshotProgress>,
}

/// The whole tree as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreePicture {
    /// All nodes that described themselves: voters first, then listeners by depth, then those that hang nowhere.
    pub rows: Vec<TreeRow>,
    /// What is not in the picture, as far as anybody told.
    pub missing: Vec<Missing>,
}

/// A node that is part of the tree and did not describe itself, or not what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its id.
    pub id: u64,
    /// Its name, if known; else empty.
    pub name: String,
    /// Where its peers look for it.
    pub peer_address: String,
    /// What is missing and why, in words.
    pub why: String,
}

impl TreeRow {
    /// Where peers reach it, `host:port`.
    pub fn peer_address(&self) -> &str {
        self.peer_url
            .strip_prefix("http://")
            .unwrap_or(&self.peer_url)
    }
}

/// Something that happened on this node, for people to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// The role, the term or the known leader changed.
    Role {
        /// What the node is now.
        role: Role,
        /// In which term.
        term: u64,
        /// Who leads, as far as it knows.
        leader: Option<u64>,
    },
    /// Its place in the tree changed, or that of a listener below it; in words.
    Tree(String),
    /// A snapshot was received, made or refused; in words.
    Snapshot(String),
    /// The node broke and stops: an administrator must look.
    Failed(String),
}

/// Plain counters of one node; the edge turns them into whatever is scraped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands proposed through this node.
    pub writes: u64,
    /// Writes passed on towards the leader.
    pub writes_forwarded: u64,
    /// Linearizable reads of this node's own clients.
    pub reads: u64,
    /// Reads of its clients that allow a bounded staleness (B14).
    pub bounded_reads: u64,
    /// Questions for a read index that it sent one hop up (B13): few, since all that wait share one.
    pub read_index_sent: u64,
    /// Such questions that came from below, or at the leader from other voters.
    pub read_index_received: u64,
    /// Rounds among the voters by which this node, as leader, confirmed that it leads: each answers all questions that wait.
    pub read_index_rounds: u64,
    /// Bytes of entries pushed to listeners (B18: stays 0 on a leader).
    pub feed_bytes: u64,
    /// Entries pushed to listeners (B18).
    pub feed_entries: u64,
    /// Processor time spent on feeding listeners (B18: stays zero on a leader), sampled; what is read for them from disk is left out.
    pub feed_cpu: Duration,
    /// Times that a piece of the applied state was made durable.
    pub state_commits: u64,
    /// How long that took together, waiting for the disk included.
    pub state_commit_time: Duration,
    /// Snapshots sent and received (B9).
    pub snapshots: SnapshotCounters,
    /// Times this listener found a new upstream, by why it looked for one.
    pub moves: ByReason,
    /// Times this listener was fed again after it had lost its upstream.
    pub fed_again: u64,
    /// Microseconds between the loss of an upstream and being fed again: all of them together, the longest, and the last.
    pub unfed_us: u64,
    /// See [`Counters::unfed_us`].
    pub unfed_max_us: u64,
    /// See [`Counters::unfed_us`].
    pub unfed_last_us: u64,
    /// Listeners that this node let go, by why.
    pub listeners_left: ByReason,
    /// Those of them that it kicked off, by why (S10, S11, S12).
    pub kicks: ByReason,
    /// Listeners that it refused, by why (S9).
    pub refusals: ByReason,
}

/// A counter for each reason that has occurred. Reasons are few, and their names stable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByReason(BTreeMap<&'static str, u64>);

impl ByReason {
    /// Counts one more.
    pub fn add(&mut self, reason: &'static str) {
        *self.0.entry(reason).or_default() += 1;
    }

    /// How often this reason has occurred.
    pub fn get(&self, reason: &str) -> u64 {
        self.0.get(reason).copied().unwrap_or(0)
    }

    /// All reasons together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Each reason that has occurred, with its count, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(reason, count)| (*reason, *count))
    }
}

/// How far the receiving end of an edge of the tree is behind the feeding end (B15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeLag {
    /// The node at the other end.
    pub peer: u64,
    /// Entries that the feeding end knows committed and the receiving end has not got.
    pub entries: u64,
    /// Their bytes; entries that are not in this node's tail cache are taken to be of average size.
    pub bytes: u64,
    /// How long the oldest of them has been known committed; zero when there is none.
    pub time: Duration,
}

/// What became of snapshots on one node (B9), by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounters {
    /// Read from the state machine to be sent, to one receiver or to many.
    pub made: u64,
    /// Begun to be sent to listeners that were new.
    pub served_new: u64,
    /// Begun to be sent to listeners whose log ends before what is kept here.
    pub served_behind: u64,
    /// Begun to be pushed to voters by this node as the leader.
    pub pushed: u64,
    /// Bytes of chunks sent to listeners (B18: stays 0 on a leader).
    pub served_bytes: u64,
    /// Bytes of chunks pushed to voters.
    pub pushed_bytes: u64,
    /// Received from the upstream because this listener was new.
    pub received_new: u64,
    /// Received from the upstream because it had purged its log beyond the end of this listener's.
    pub received_behind: u64,
    /// Received from the leader.
    pub received_pushed: u64,
    /// Bytes of chunks received, damaged ones included.
    pub received_bytes: u64,
    /// Chunks received undamaged.
    pub received_chunks: u64,
    /// Chunks that arrived damaged and were asked for again.
    pub damaged_chunks: u64,
    /// Transfers that began with a part of the content here already.
    pub resumed: u64,
    /// Bytes that need not be sent because of that.
    pub resumed_bytes: u64,
}

impl SnapshotCounters {
    /// Begun to be sent to listeners, whatever the reason.
    pub fn served(&self) -> u64 {
        self.served_new + self.served_behind
    }

    /// Received complete, whatever the reason.
    pub fn received(&self) -> u64 {
        self.received_new + self.received_behind + self.received_pushed
    }
}

/// How far a snapshot on its way to this node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Bytes of it that are here.
    pub received_bytes: u64,
    /// Bytes it has; 0 until that is known, an estimate until its sender has read all of it.
    pub total_bytes: u64,
    /// Whether all is here and being installed.
    pub installing: bool,
}

/// The parts of a [`Member`] that it tells about itself.
pub(crate) fn same_publication(one: &Member, other: &Member) -> bool {
    one.name == other.name && one.client_urls == other.client_urls
}
