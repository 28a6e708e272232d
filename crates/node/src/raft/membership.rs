//! The group's membership as its leader changes it: one change at a time, each returning only when it is committed.

use super::{Consensus, types};
use crate::member::{Member, Membership};
use openraft::async_runtime::WatchReceiver as _;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Why the membership was not changed, by what the caller does next.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// Leadership was lost, or another change is not committed yet: look again who leads and what the membership is.
    #[error("{0}")]
    LookAgain(String),
    /// Raft refuses it for good.
    #[error("{0}")]
    Refused(String),
}

impl Consensus {
    /// Puts a member's current name and addresses into the membership, if this voter leads.
    pub async fn publish(&self, member: Member) -> Result<(), ChangeError> {
        if !self.view().membership.members.contains_key(&member.id) {
            let text = format!("{} is no member of the group", member.name);
            return Err(ChangeError::Refused(text));
        }
        self.add_learner(member).await
    }

    /// Makes a node a Raft learner: it gets the log, and is in no quorum.
    pub async fn add_learner(&self, member: Member) -> Result<(), ChangeError> {
        let nodes = BTreeMap::from([(member.id, types::keyed(member))]);
        self.change(ChangeMembers::SetNodes(nodes)).await
    }

    /// Forgets a Raft learner.
    pub async fn remove_learner(&self, id: u64) -> Result<(), ChangeError> {
        if !self.view().membership.members.contains_key(&id) {
            return Ok(());
        }
        self.change(ChangeMembers::RemoveNodes([id].into())).await
    }

    /// Makes `voters` the group, by one joint change (dissertation 4.3); those who are no longer in it are forgotten. Returns when the
    /// new configuration is committed and is the only one. Asked again after a leader has gone in the middle, it finishes the change.
    pub async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), ChangeError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Ends a joint configuration that a leader has left behind.
    pub async fn finish_joint(&self) -> Result<(), ChangeError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new()))
            .await
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), ChangeError> {
        // Raft changes its membership once at a time, and a change of two steps must not meet another between them.
        let _turn = self.changing.lock().await;
        match self.raft.change_membership(change, false).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            ))) => Err(ChangeError::LookAgain(
                "another change of the membership is not committed yet".into(),
            )),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Err(ChangeError::Refused(error.to_string()))
            }
            Err(error) => Err(ChangeError::LookAgain(error.to_string())),
        }
    }

    /// The latest membership in the log, if it is committed; `None` while it is not.
    pub fn committed_membership(&self) -> Option<Membership> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        (now.membership_config == now.committed_membership_config)
            .then(|| types::membership_from_raft(now.membership_config.membership()))
    }

    /// How far a follower or learner is behind this leader, in entries; `None` while this is not known, or when this voter does not lead.
    pub fn lag_of(&self, id: u64) -> Option<u64> {
        Some(self.last_index().saturating_sub(self.matched_index(id)?))
    }

    /// The last index of this voter's log, as Raft knows it.
    pub fn last_index(&self) -> u64 {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().last_log_index.unwrap_or(0)
    }

    /// The last index up to which a follower or learner is known to have this leader's log; `None` as for [`Consensus::lag_of`].
    pub fn matched_index(&self, id: u64) -> Option<u64> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        Some(now.replication.as_ref()?.get(&id)?.as_ref()?.index)
    }

    /// How long ago a quorum last acknowledged this leader; `None` when this voter does not lead or was never acknowledged. A group of
    /// one voter acknowledges itself all the time.
    pub fn quorum_heard_ago(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        if now.state != openraft::ServerState::Leader {
            return None;
        }
        let mut voters = now.membership_config.membership().voter_ids();
        if voters.next() == Some(now.id) && voters.next().is_none() {
            return Some(Duration::ZERO);
        }
        now.last_quorum_acked.as_ref().map(|at| at.elapsed())
    }

    /// Asks the voter `to` to take over. Writes wait from now on until somebody leads, so the caller makes sure first that it is there
    /// and close (dissertation 3.10).
    pub async fn transfer(&self, to: u64) -> Result<(), ChangeError> {
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|error| ChangeError::LookAgain(error.to_string()))
    }
}
