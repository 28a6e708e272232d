//! Paths: the node ids from the root, or from a detached head, down to a node (`B1`).

use crate::ids::NodeId;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// The longest path. A node that far down registers nobody, so a loop that slipped through cannot grow a path for ever.
pub const PATH_LIMIT: usize = 64;

/// The node ids from the root down to a node, the node itself last. Of a detached node: from the detached head down.
///
/// Cloning does not allocate, so a path can ride on every heartbeat.
///
/// Invariants:
/// - **path-not-empty**: a path holds at least the node it leads to.
/// - **path-limit**: and at most [`PATH_LIMIT`] nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Arc<[NodeId]>);

impl Path {
    /// The path of a node that has nobody above it: a voter, or a detached head.
    pub fn of(id: NodeId) -> Path {
        Path(Arc::from([id]))
    }

    /// The path one level further down, or `None` if it would be longer than [`PATH_LIMIT`].
    pub fn then(&self, id: NodeId) -> Option<Path> {
        if self.0.len() >= PATH_LIMIT {
            return None;
        }
        Some(Path(self.0.iter().copied().chain([id]).collect()))
    }

    /// The topmost node: the root, or the detached head.
    pub fn head(&self) -> NodeId {
        self.0[0]
    }

    /// The node the path leads to.
    pub fn last(&self) -> NodeId {
        self.0[self.0.len() - 1]
    }

    /// How many levels the last node is below the first. Below a root this is the depth.
    pub fn depth(&self) -> u32 {
        self.0.len() as u32 - 1
    }

    /// Whether `id` is anywhere on the path.
    pub fn contains(&self, id: NodeId) -> bool {
        self.0.contains(&id)
    }

    /// Whether nobody may register below the last node, because the path would grow too long.
    pub fn is_full(&self) -> bool {
        self.0.len() >= PATH_LIMIT
    }

    /// The ids, topmost first.
    pub fn ids(&self) -> &[NodeId] {
        &self.0
    }
}

/// Why a list of ids that came from a peer is no path. Drop the connection it came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// There is no id in it.
    Empty,
    /// It has more than [`PATH_LIMIT`] ids; this many.
    TooLong(usize),
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathError::Empty => f.write_str("reject a path without nodes"),
            PathError::TooLong(length) => write!(
                f,
                "reject a path of {length} nodes, the limit is {PATH_LIMIT}"
            ),
        }
    }
}

impl core::error::Error for PathError {}

impl TryFrom<Vec<NodeId>> for Path {
    type Error = PathError;

    /// Takes a path from a peer.
    fn try_from(ids: Vec<NodeId>) -> Result<Path, PathError> {
        match ids.len() {
            0 => Err(PathError::Empty),
            length if length > PATH_LIMIT => Err(PathError::TooLong(length)),
            _ => Ok(Path(Arc::from(ids))),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (level, id) in self.0.iter().enumerate() {
            let separator = if level == 0 { "" } else { "/" };
            write!(f, "{separator}{id}")?;
        }
        Ok(())
    }
}
