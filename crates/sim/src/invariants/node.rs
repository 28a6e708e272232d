//! What one node shows of itself at any time.
//!
//! - **capacity** (`S9`): registered downstreams never exceed N.
//! - **leader-feeds-none** (`S1`, `S10`): a node that knows itself leader has no downstream.
//! - **monotonic**: while a process runs, its committed position, and so what it has applied, never goes back. (A crash may
//!   take back what was not flushed, `B11`.)
//! - **list-on-disk** (`S6`, `S14`): the list that a listener uses is on its disk.

use super::Broken;
use crate::host::Host;
use eaves_tree::{LogPosition, Role};

/// Where each node was when it was last looked at.
pub struct Seen {
    committed: Vec<LogPosition>,
}

impl Seen {
    pub(super) fn new(hosts: usize) -> Seen {
        Seen {
            committed: vec![LogPosition::default(); hosts],
        }
    }

    pub(super) fn forget(&mut self, number: u32) {
        self.committed[number as usize] = LogPosition::default();
    }

    pub(super) fn look(&mut self, number: u32, host: &Host) -> Result<(), Broken> {
        let Some(node) = &host.node else {
            return Ok(());
        };
        let id = node.config().id;
        if node.registered() > node.config().capacity {
            let what = format!(
                "{id} has {} listeners, N is {}",
                node.registered(),
                node.config().capacity
            );
            return Err(("capacity", what));
        }
        let leads = host
            .raft
            .as_ref()
            .is_some_and(|raft| raft.leader == Some(number));
        let told = host.told.is_some_and(|told| told.0 == Some(number));
        if (node.role() == Role::Leader || (leads && told)) && node.registered() > 0 {
            let what = format!("{id} leads and has {} listeners", node.registered());
            return Err(("leader-feeds-none", what));
        }
        let committed = &mut self.committed[number as usize];
        if host.committed < *committed {
            let what = format!("{id} went back from {committed} to {}", host.committed);
            return Err(("monotonic", what));
        }
        *committed = host.committed;
        Ok(())
    }
}

/// A list is taken into use only when it is on disk; it may stay in use while a newer one already is.
pub(super) fn list_is_on_disk(number: u32, host: &Host) -> Result<(), Broken> {
    let Some(node) = host.node.as_ref().filter(|_| !host.is_voter()) else {
        return Ok(());
    };
    let list = &node.saved().upstreams;
    if *list == host.disk.saved.upstreams || *list == host.list_in_use {
        return Ok(());
    }
    let what = format!("n{} uses a list that is not on its disk", number + 1);
    Err(("list-on-disk", what))
}
