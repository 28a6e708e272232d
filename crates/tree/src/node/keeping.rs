//! What a node learns on the way and keeps on disk (`S6`, `B5`, `B16`).

use super::TreeNode;
use crate::config::LEARNED_MAX;
use crate::ids::Peer;
use crate::message::ALTERNATIVES_MAX;
use crate::output::Output;
use alloc::vec::Vec;

impl TreeNode {
    pub(super) fn learn_voters(&mut self, mut voters: Vec<Peer>) {
        voters.truncate(ALTERNATIVES_MAX);
        voters.retain(|voter| voter.id != self.config.id);
        self.voters = voters;
    }

    /// Renews the learned peers: the voters, then the path above us, then our siblings, then what was learned before.
    pub(super) fn learn_neighbours(&mut self, siblings: &[Peer]) {
        let ancestors = self
            .session
            .as_ref()
            .map_or(&[][..], |session| &session.ancestors);
        let newer: Vec<Peer> = self
            .voters
            .iter()
            .chain(ancestors)
            .chain(siblings)
            .cloned()
            .collect();
        self.remember(newer);
    }

    fn remember(&mut self, newer: Vec<Peer>) {
        let before = core::mem::take(&mut self.saved.learned);
        let mut learned: Vec<Peer> = Vec::with_capacity(LEARNED_MAX);
        for peer in newer.into_iter().chain(before.iter().cloned()) {
            let known =
                learned.iter().any(|known| known.id == peer.id) || peer.id == self.config.id;
            if !known && learned.len() < LEARNED_MAX {
                learned.push(peer);
            }
        }
        let changed = learned != before;
        self.saved.learned = learned;
        if changed {
            self.persist();
        }
    }

    pub(super) fn persist(&mut self) {
        self.saved_version += 1;
        let mut saved = self.saved.clone();
        if let Some((_, list)) = &self.new_list {
            saved.upstreams.clone_from(list);
        }
        self.output(Output::Persist {
            version: self.saved_version,
            saved,
        });
    }
}
