//! Whether this voter still leads: asked of the others for every read index (Raft dissertation 6.4).
//!
//! A leader that has been replaced does not know it. So a read index counts only when, after it was taken, a quorum has said that it follows
//! this leader: whoever replaced it needs the vote of one of these voters, and gets it only afterwards. So no other leader can have
//! acknowledged anything before the read was asked for.
//!
//! openraft confirms reads too, and is not used for it: it counts an answer that was long on its way for every request that it has made since
//! and that ends at the same entry (`InflightAppendQueue::drain_acked`, 0.10.0-alpha.37), so that a leader that was cut off believes in itself
//! once more when the cut ends. Here each question has its own answers, and there is no clock.

use super::types::{Types, VoteBytes, from_raft_log_id};
use crate::message::{Call, ConfirmCall, Purpose};
use crate::peer::client::Peers;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::{RaftState, ServerState};
use std::collections::BTreeSet;
use std::time::Duration;

/// A leader's office at one moment.
pub(super) struct Office {
    id: u64,
    /// By which it leads; nobody else ever leads by it.
    vote: VoteBytes,
    /// One past the last entry known to be committed then, if that is of this term: before that a leader does not know what others have
    /// committed.
    committed_end: Option<u64>,
    /// The sets of voters of which each must confirm by its majority: two while they change.
    configs: Vec<BTreeSet<u64>>,
    /// The others that vote, with their addresses.
    others: Vec<(u64, String)>,
}

impl Office {
    /// The office of voter `id`; none if it does not lead.
    pub fn of(id: u64, state: &RaftState<Types>) -> Option<Office> {
        let vote = VoteBytes::from(state.vote_ref());
        let leads = state.server_state == ServerState::Leader && vote.committed;
        if !leads || vote.voted_for != id {
            return None;
        }
        let committed = state.local_committed().map(from_raft_log_id);
        let members = state.membership_state.effective();
        let configs = members.get_joint_config().clone();
        let votes = |voter: &u64| configs.iter().any(|config| config.contains(voter));
        let others = members
            .nodes()
            .filter(|(voter, _)| **voter != id && votes(voter))
            .map(|(voter, member)| (*voter, member.peer_address.clone()))
            .collect();
        Some(Office {
            id,
            vote,
            committed_end: committed
                .filter(|committed| committed.term == vote.term)
                .map(|committed| committed.index + 1),
            configs,
            others,
        })
    }

    /// One past the index that a read must have seen, once the office is confirmed.
    pub fn committed_end(&self) -> Option<u64> {
        self.committed_end
    }

    /// Whether a quorum says, within `timeout` and after this was called, that it follows this leader.
    pub async fn is_confirmed(&self, peers: &Peers, timeout: Duration) -> bool {
        let mut agree = BTreeSet::from([self.id]);
        let mut asked: FuturesUnordered<_> = self
            .others
            .iter()
            .map(|other| self.asks(peers, other, timeout))
            .collect();
        while !self.is_quorum(&agree) {
            match asked.next().await {
                Some(answer) => agree.extend(answer),
                None => return false,
            }
        }
        true
    }

    /// The voter, if it follows.
    async fn asks(
        &self,
        peers: &Peers,
        (voter, address): &(u64, String),
        timeout: Duration,
    ) -> Option<u64> {
        let call = Call::Confirm(ConfirmCall { vote: self.vote });
        let answer = peers
            .call_node((*voter, address), Purpose::Control, call, &[], timeout)
            .await;
        answer.is_ok().then_some(*voter)
    }

    fn is_quorum(&self, agree: &BTreeSet<u64>) -> bool {
        self.configs
            .iter()
            .all(|config| config.intersection(agree).count() > config.len() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_one_of_each_set_of_voters() {
        let office = |configs: &[&[u64]]| Office {
            id: 1,
            vote: VoteBytes::default(),
            committed_end: None,
            configs: configs
                .iter()
                .map(|config| config.iter().copied().collect())
                .collect(),
            others: Vec::new(),
        };
        let agree = |voters: &[u64]| voters.iter().copied().collect::<BTreeSet<u64>>();
        assert!(office(&[&[1]]).is_quorum(&agree(&[1])));
        assert!(!office(&[&[1, 2]]).is_quorum(&agree(&[1])));
        assert!(!office(&[&[1, 2, 3, 4]]).is_quorum(&agree(&[1, 2])));
        assert!(office(&[&[1, 2, 3]]).is_quorum(&agree(&[1, 3])));
        let changing = office(&[&[1, 2, 3], &[3, 4, 5]]);
        assert!(!changing.is_quorum(&agree(&[1, 2])));
        assert!(!changing.is_quorum(&agree(&[1, 2, 4])));
        assert!(changing.is_quorum(&agree(&[1, 2, 4, 5])));
        // Who is on its way out asks the others, and does not count itself.
        assert!(!office(&[&[2, 3]]).is_quorum(&agree(&[1, 2])));
    }
}
