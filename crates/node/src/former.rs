//! Listeners that were registered here and are no more: remembered for a while, so that those who hang nowhere are found (B15).

use crate::describe::{milliseconds, peer_bytes};
use crate::message::FormerBytes;
use crate::tree_handle::PeerAt;
use eaves_tree::{Address, Event, Instant, LeaveReason, Left, NodeId, TreeNode};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How many are remembered, and for how long.
const FORMER_MAX: usize = 64;
const FORMER_KEPT_FOR: Duration = Duration::from_secs(600);

/// Who was registered here, and where each is that is still.
#[derive(Default)]
pub(crate) struct FormerListeners {
    /// Where the registered listeners are: who leaves is named by its id only.
    addresses: HashMap<NodeId, Address>,
    /// Those that went, the latest last.
    former: VecDeque<Former>,
}

/// One that went.
struct Former {
    peer: PeerAt,
    left: Instant,
    why: String,
    moved: bool,
}

impl FormerListeners {
    /// Takes note of who came and who went. An event that says so comes at once, so `tree` still shows who came.
    pub fn note(&mut self, now: Instant, event: &Event, tree: &TreeNode) {
        match event {
            Event::Joined { listener } => {
                self.former.retain(|former| former.peer.id != listener.0);
                let mut registered = tree.downstreams();
                if let Some(joined) = registered.find(|below| below.peer.id == *listener) {
                    let address = joined.peer.address.clone();
                    self.addresses.insert(*listener, address);
                }
            }
            Event::Left { listener, why } => self.left(now, *listener, why),
            _ => {}
        }
    }

    fn left(&mut self, now: Instant, listener: NodeId, why: &Left) {
        let address = self.addresses.remove(&listener);
        let is_here = matches!(why, Left::Replaced);
        let Some(address) = address.filter(|_| !is_here) else {
            return;
        };
        let is_old = |former: &Former| now.since(former.left) > FORMER_KEPT_FOR;
        self.former.retain(|former| !is_old(former));
        if self.former.len() >= FORMER_MAX {
            self.former.pop_front();
        }
        self.former.push_back(Former {
            peer: PeerAt {
                id: listener.0,
                address: address.as_str().to_string(),
            },
            left: now,
            why: why.to_string(),
            moved: matches!(why, Left::Said(LeaveReason::Moved)),
        });
    }

    /// Those that went, for whoever looks for them.
    pub fn told(&self, now: Instant) -> Vec<FormerBytes> {
        let told = self.former.iter().map(|former| FormerBytes {
            peer: peer_bytes(&former.peer),
            ago_ms: milliseconds(now.since(former.left)),
            why: former.why.clone(),
            moved: former.moved,
        });
        told.collect()
    }
}
