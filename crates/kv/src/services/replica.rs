//! What every service stands on: one node and its store.

use crate::{clients::Clients, proto::etcdserverpb::ResponseHeader, store::Store};
use eaves::{Node, Status};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// Reads that are not quick, at the same time: each holds what it found and its encoded answer. Those beyond wait.
const MAX_LONG_READS: usize = 4;

/// A node, its state, and the node's view of itself. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Replica {
    pub node: Node,
    pub store: Arc<Store>,
    pub status: watch::Receiver<Status>,
    pub clients: Clients,
    /// One permit for each read that may run beside the node's own work.
    pub long_reads: Arc<Semaphore>,
}

impl Replica {
    pub fn new(node: Node, store: Arc<Store>, clients: Clients) -> Self {
        let status = node.status();
        Self {
            node,
            store,
            status,
            clients,
            long_reads: Arc::new(Semaphore::new(MAX_LONG_READS)),
        }
    }

    /// Whether this node knows of a leader.
    pub fn has_leader(&self) -> bool {
        self.status.borrow().leader.is_some()
    }

    /// A response's header at the store's present revision.
    pub fn header(&self) -> ResponseHeader {
        self.header_at(self.store.revision())
    }

    /// A response's header at `revision`: who answers (this node, whoever it is) and its term.
    pub fn header_at(&self, revision: i64) -> ResponseHeader {
        let status = self.status.borrow();
        ResponseHeader {
            cluster_id: status.cluster_id,
            member_id: status.node_id,
            revision,
            raft_term: status.term,
        }
    }
}
