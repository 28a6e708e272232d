//! What an administrator asks of a node, and what is kept of it (`B16`).

use crate::ids::{NodeId, Peer};
use alloc::vec::Vec;
use core::fmt;

/// How many nodes a listener can be told to avoid. More would be a zone or a list (`B6`, `S14`).
pub const AVOIDED_MAX: usize = 64;

/// What an administrator has asked of one node, on disk with the rest of [`Saved`](crate::Saved).
///
/// Invariants:
/// - **steering-not-contradictory**: the pinned node is not avoided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// The upstream to use whenever it is reachable, attached and accepts this listener.
    pub pin: Option<Peer>,
    /// Nodes never to register with; at most [`AVOIDED_MAX`], without repetition.
    pub avoided: Vec<NodeId>,
    /// Hands its downstreams over and accepts none.
    pub draining: bool,
}

impl Steering {
    /// Whether this is the pinned node.
    pub fn is_pinned(&self, id: NodeId) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.id == id)
    }

    /// Whether this node is not to be registered with.
    pub fn avoids(&self, id: NodeId) -> bool {
        self.avoided.contains(&id)
    }
}

/// Why an administrator's wish is not granted. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteerError {
    /// A node was told to pin or avoid itself.
    Itself(NodeId),
    /// It was told to pin a node that it avoids.
    IsAvoided(NodeId),
    /// It was told to avoid the node that it is pinned to.
    IsPinned(NodeId),
    /// It avoids [`AVOIDED_MAX`] nodes already.
    TooMany,
}

impl fmt::Display for SteerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SteerError::Itself(id) => {
                write!(f, "{id} cannot be its own upstream: name another node")
            }
            SteerError::IsAvoided(id) => {
                write!(f, "{id} is avoided by this node: stop avoiding it first")
            }
            SteerError::IsPinned(id) => write!(f, "this node is pinned to {id}: unpin it first"),
            SteerError::TooMany => {
                write!(
                    f,
                    "this node avoids {AVOIDED_MAX} nodes already: stop avoiding one first, or give it another list"
                )
            }
        }
    }
}

impl core::error::Error for SteerError {}
