//! The edges of the tree below this node: who is fed, and how far each has come (B10, B15).
//!
//! A listener says how far it is at least every [`crate::intake::ACK_INTERVAL`] while entries come, so what is told here is that old.

use crate::core::Core;
use crate::status::EdgeLag;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// One listener that is, or is about to be, fed.
#[derive(Default)]
pub(crate) struct Edge {
    /// Whether it is registered: entries may be pushed (S9).
    fed: AtomicBool,
    /// One past the last index that it said it holds.
    received_end: AtomicU64,
}

impl Edge {
    pub fn is_fed(&self) -> bool {
        self.fed.load(Ordering::Relaxed)
    }

    pub fn received_end(&self) -> u64 {
        self.received_end.load(Ordering::Relaxed)
    }

    /// The listener holds everything below `end`.
    pub fn received(&self, end: u64) {
        self.received_end.store(end, Ordering::Relaxed);
    }
}

/// All that are fed, by listener.
#[derive(Default)]
pub(crate) struct Edges(Mutex<BTreeMap<u64, Arc<Edge>>>);

impl Edges {
    /// The edge's listener is fed from now on, or is not. A newer connection of the same listener replaces the older one (S9).
    pub fn set_fed(&self, listener: u64, edge: &Arc<Edge>, fed: bool) {
        if edge.fed.swap(fed, Ordering::Relaxed) == fed {
            return;
        }
        let mut edges = self.0.lock().unwrap();
        if fed {
            edges.insert(listener, edge.clone());
        } else if edges
            .get(&listener)
            .is_some_and(|known| Arc::ptr_eq(known, edge))
        {
            edges.remove(&listener);
        }
    }

    fn all(&self) -> Vec<(u64, u64)> {
        let edges = self.0.lock().unwrap();
        edges
            .iter()
            .map(|(listener, edge)| (*listener, edge.received_end()))
            .collect()
    }
}

/// How far each listener that this node feeds is behind it.
pub(crate) fn downstream_lags(core: &Core) -> Vec<EdgeLag> {
    let committed_end = core.committed.get().map_or(0, |id| id.index + 1);
    let edges = core.edges.all().into_iter();
    edges
        .map(|(peer, received_end)| EdgeLag {
            peer,
            entries: committed_end.saturating_sub(received_end),
            bytes: entry_bytes(core, received_end, committed_end),
            time: core.committed.known_for(received_end),
        })
        .collect()
}

/// How far this listener is behind what its upstream said is committed; `None` without an upstream.
pub(crate) fn upstream_lag(core: &Core) -> Option<EdgeLag> {
    let peer = core.tree.upstream()?.id;
    let (told_end, behind_since) = core.following.told()?;
    let own_end = core.flusher.log().last_id().map_or(0, |id| id.index + 1);
    Some(EdgeLag {
        peer,
        entries: told_end.saturating_sub(own_end),
        bytes: entry_bytes(core, own_end, told_end),
        time: behind_since.map_or_else(Default::default, |since| since.elapsed()),
    })
}

fn entry_bytes(core: &Core, from: u64, end: u64) -> u64 {
    match from < end {
        true => core.flusher.log().entry_bytes(from, end - 1),
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ghost_that_ends_late_does_not_take_its_successor_along() {
        let edges = Edges::default();
        let (ghost, successor) = (Arc::new(Edge::default()), Arc::new(Edge::default()));
        edges.set_fed(7, &ghost, true);
        ghost.received(3);
        edges.set_fed(7, &successor, true);
        successor.received(5);
        edges.set_fed(7, &ghost, false);
        assert_eq!(edges.all(), [(7, 5)]);
        edges.set_fed(7, &successor, false);
        assert_eq!(edges.all(), []);
    }
}
