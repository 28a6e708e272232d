//! The session a listener is fed on, as the listener knows it.

use crate::ids::{LinkId, LogPosition, NodeId, Peer, Zone};
use crate::message::{ALTERNATIVES_MAX, Accept, FreePlaces, Heartbeat};
use crate::path::Path;
use crate::time::Instant;
use alloc::vec::Vec;

/// Who feeds a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Who it is.
    pub peer: Peer,
    /// On which connection.
    pub link: LinkId,
    /// Since when.
    pub since: Instant,
    /// When it was last heard.
    pub heard: Instant,
    /// Up to where it knows the log committed.
    pub committed: LogPosition,
}

/// A session with an upstream that has accepted us, and what the upstream says about itself.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) upstream: Upstream,
    /// The upstream's path, the upstream last.
    pub(crate) path: Path,
    /// Whether the upstream is attached.
    pub(crate) attached: bool,
    /// The upstream's zone (`B6`).
    pub(crate) zone: Option<Zone>,
    /// Whether the upstream is draining (`B16`).
    pub(crate) draining: bool,
    /// Where the nearest free place of the tree is, says the root (`B7`).
    pub(crate) free_depth: Option<u32>,
    /// The free places that the upstream was told of last (`B4`).
    pub(crate) told: FreePlaces,
    /// Whether the upstream says it is stale.
    pub(crate) stale: bool,
    /// Who leads, says the upstream.
    pub(crate) leader: Option<NodeId>,
    /// The upstream and what is above it, nearest first, as far as their addresses are known (`B5`).
    pub(crate) ancestors: Vec<Peer>,
}

impl Session {
    /// The session that begins with this acceptance. The registration told the upstream of these free places.
    pub(crate) fn new(
        now: Instant,
        peer: Peer,
        link: LinkId,
        accept: &Accept,
        told: FreePlaces,
    ) -> Session {
        let mut ancestors = Vec::from([peer.clone()]);
        ancestors.extend(accept.ancestors.iter().take(ALTERNATIVES_MAX - 1).cloned());
        Session {
            upstream: Upstream {
                peer,
                link,
                since: now,
                heard: now,
                committed: accept.heartbeat.committed,
            },
            path: accept.heartbeat.path.clone(),
            attached: accept.heartbeat.attached,
            zone: accept.zone.clone(),
            told,
            draining: accept.heartbeat.draining,
            free_depth: accept.heartbeat.free_depth,
            stale: accept.heartbeat.stale,
            leader: accept.heartbeat.leader,
            ancestors,
        }
    }

    /// Takes in what the upstream says. Returns whether its path or attachment changed (`B1`).
    pub(crate) fn update(&mut self, now: Instant, heartbeat: Heartbeat) -> bool {
        self.upstream.heard = now;
        self.upstream.committed = heartbeat.committed;
        self.stale = heartbeat.stale;
        self.draining = heartbeat.draining;
        self.free_depth = heartbeat.free_depth;
        self.leader = heartbeat.leader;
        let changed = self.attached != heartbeat.attached || self.path != heartbeat.path;
        self.attached = heartbeat.attached;
        self.path = heartbeat.path;
        changed
    }
}
