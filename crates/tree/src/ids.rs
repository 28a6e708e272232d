//! The small values the protocol is about: who a node is, where it listens, what names a connection, how far a log goes.

use alloc::sync::Arc;
use core::fmt;

/// A node's identity, the same for as long as its data lives. Made once, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// The cluster a node belongs to. Nodes of different clusters never feed each other (`B12`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where a node answers its peers, `host:port`. Opaque here: names are resolved by whoever opens the connection, and anew at
/// every attempt (`B5`). Cloning does not allocate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Arc<str>);

impl Address {
    /// The address as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Address {
        Address(Arc::from(text))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A zone's name: a rack, a data centre, a region (`B6`). Cloning does not allocate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Arc<str>);

impl Zone {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Zone {
    fn from(text: &str) -> Zone {
        Zone(Arc::from(text))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node and where to find it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Who.
    pub id: NodeId,
    /// Where.
    pub address: Address,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// Names one feed connection of one node. Each side numbers the connections it is the first to know of, so the two kinds
/// never clash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkId {
    /// A connection to an upstream. [`TreeNode`](crate::TreeNode) numbers it in [`Output::Connect`](crate::Output::Connect).
    Up(u64),
    /// A connection from a downstream. Whoever accepts connections numbers it, never using a number twice.
    Down(u64),
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkId::Up(number) => write!(f, "up{number}"),
            LinkId::Down(number) => write!(f, "down{number}"),
        }
    }
}

/// A log id: the term of an entry and its index. Ordered by term first, as in Raft; the default is "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The entry's index in the log.
    pub index: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// Where a log ends, and the chain value over all that leads there: two logs that agree in both are equal up to there
/// (`B12`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogEnd {
    /// The last entry's log id.
    pub position: LogPosition,
    /// The running checksum over every entry up to it. Opaque here.
    pub chain: u64,
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} chain {:x}", self.position, self.chain)
    }
}
