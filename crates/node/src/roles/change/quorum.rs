//! What a change must not cost the group: enough voters that are there and close, a leader that can lead, a membership that is committed.

use super::joining::PROMOTION_LAG_ENTRIES;
use super::run::{Outcome, Stop, refused};
use super::{Change, LOOK_PAUSE, STAND_TIMEOUT, ask_stand, names};
use crate::member::{Member, Membership};
use crate::raft::{ChangeError, Consensus};
use crate::roles::message::{Ask, Nothing};
use crate::steps::Step;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How far behind a voter may be to take over leadership: writes wait while it catches up. Under many writes all are further behind than
/// this all the time; then who has everything that the leader had a [`LOOK_PAUSE`] ago is close enough.
const TRANSFER_LAG_ENTRIES: u64 = 100;

/// How long voters may take to be there, and close: under writes one is behind for a moment now and then.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a change of the membership may take to be committed.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

impl Change<'_> {
    /// Moves leadership away from this node because it is to leave the group; the next leader goes on.
    pub(super) async fn hand_over(&self, before: &Membership, except: &[u64]) -> Outcome<String> {
        let me = self.core.node_id;
        let others = before
            .voters()
            .filter(|voter| voter.id != me && !except.contains(&voter.id));
        let leader = self.move_leadership(others.cloned().collect()).await?;
        self.run.tell(format!("{leader} leads now"));
        Err(Stop::LookAgain(format!("{leader} leads now")))
    }

    /// Hands leadership to the best of `candidates`, and returns the name of whoever leads then. A transfer to a voter that cannot take
    /// over would stop all writes until an election, so it must answer, and be close.
    pub(super) async fn move_leadership(&self, candidates: Vec<Member>) -> Outcome<String> {
        let to = self.successor(&candidates).await?;
        self.core.step(Step::SuccessorFound).await;
        self.run.tell(format!("hand leadership to {}", to.name));
        self.consensus.transfer(to.id).await?;
        let deadline = Instant::now() + 6 * self.core.config.raft.election_timeout;
        while Instant::now() < deadline {
            let view = self.consensus.view();
            let leader = view.leader.filter(|leader| *leader != self.core.node_id);
            if let Some(leader) = leader {
                self.core.step(Step::LeadershipMoved).await;
                let member = view.membership.members.get(&leader);
                return Ok(member.map_or(format!("{leader:x}"), |member| member.name.clone()));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(Stop::LookAgain(format!(
            "{} has not taken over in time",
            to.name
        )))
    }

    /// The closest of `candidates`, which has a moment to come close.
    async fn successor<'m>(&self, candidates: &'m [Member]) -> Outcome<&'m Member> {
        let deadline = Instant::now() + QUORUM_TIMEOUT;
        let mut pursuit = Pursuit::default();
        loop {
            let answering = self.answering(candidates.iter()).await;
            let closest = candidates
                .iter()
                .filter(|member| answering.contains(&member.id))
                .filter_map(|member| Some((self.consensus.lag_of(member.id)?, member)))
                .min_by_key(|(lag, _)| *lag);
            match closest {
                Some((_, member)) if pursuit.is_close(self.consensus, member.id) => {
                    return Ok(member);
                }
                _ if Instant::now() < deadline => {}
                Some((lag, member)) => {
                    return refused(format!(
                        "leadership stays: {} is {lag} entries behind, and writes would wait for it; ask again when it has caught up",
                        member.name
                    ));
                }
                None => {
                    let names = names(candidates.iter());
                    return refused(format!("leadership stays: {names} cannot be reached"));
                }
            }
            pursuit = Pursuit::of(self.consensus);
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Refuses voters of whom no majority would be there, and close: without one that is far behind, nothing is committed until it has
    /// caught up.
    pub(super) async fn check_quorum(
        &self,
        before: &Membership,
        voters: &BTreeSet<u64>,
        known_alive: Option<u64>,
    ) -> Outcome {
        let members: Vec<&Member> = before
            .voters()
            .filter(|voter| voters.contains(&voter.id))
            .collect();
        let deadline = Instant::now() + QUORUM_TIMEOUT;
        loop {
            let answering = self.answering(members.iter().copied()).await;
            let (mut close, far): (BTreeSet<u64>, BTreeSet<u64>) =
                answering.iter().partition(|id| self.is_close(**id));
            close.extend(known_alive);
            if 2 * close.len() > voters.len() {
                return Ok(());
            }
            if Instant::now() < deadline {
                tokio::time::sleep(LOOK_PAUSE).await;
                continue;
            }
            let named = |is_meant: &dyn Fn(&u64) -> bool| {
                names(
                    members
                        .iter()
                        .copied()
                        .filter(|member| is_meant(&member.id)),
                )
            };
            let silent = |id: &u64| !close.contains(id) && !far.contains(id);
            let mut missing = Vec::new();
            if members.iter().any(|member| silent(&member.id)) {
                missing.push(format!("{} cannot be reached", named(&silent)));
            }
            if !far.is_empty() {
                let who = named(&|id| far.contains(id));
                missing.push(format!("{who} has not caught up with the leader"));
            }
            return refused(format!(
                "the group would lose its quorum: of the {} voters that would be left, {}",
                voters.len(),
                missing.join(", and ")
            ));
        }
    }

    fn is_close(&self, voter: u64) -> bool {
        voter == self.core.node_id
            || (self.consensus.lag_of(voter)).is_some_and(|lag| lag <= PROMOTION_LAG_ENTRIES)
    }

    /// Which of these nodes answer right now. This one does.
    async fn answering<'m>(&self, members: impl Iterator<Item = &'m Member>) -> BTreeSet<u64> {
        let asked = members.map(async |member| {
            let is_me = member.id == self.core.node_id;
            let ask = Ask::Stand(Nothing {});
            let answers = is_me
                || ask_stand(self.core, &member.peer_address, ask, STAND_TIMEOUT)
                    .await
                    .is_ok_and(|told| told.member.id() == member.id);
            answers.then_some(member.id)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// The membership, committed and with one set of voters: what another leader left half way is finished first.
    pub(super) async fn settled(&self) -> Outcome<Membership> {
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        while Instant::now() < deadline {
            match self.consensus.committed_membership() {
                Some(membership) if membership.configs.len() == 1 => return Ok(membership),
                Some(_) => self.in_time(self.consensus.finish_joint()).await?,
                None => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
        Err(Stop::LookAgain(
            "a change of the membership is not committed yet: is there a quorum?".into(),
        ))
    }

    pub(super) async fn in_time(
        &self,
        change: impl Future<Output = Result<(), ChangeError>>,
    ) -> Outcome {
        match tokio::time::timeout(COMMIT_TIMEOUT, change).await {
            Ok(changed) => changed.map_err(Stop::from),
            Err(_) => Err(Stop::LookAgain(
                "the group did not commit it in time: is there a quorum?".into(),
            )),
        }
    }
}

/// Where a leader's log ended when it was last looked at whether somebody is close.
#[derive(Default)]
pub(super) struct Pursuit {
    last_index: Option<u64>,
}

impl Pursuit {
    pub(super) fn of(leader: &Consensus) -> Pursuit {
        Pursuit {
            last_index: Some(leader.last_index()),
        }
    }

    /// Whether a follower or learner lacks little, or nothing of what the leader had then.
    pub(super) fn is_close(&self, leader: &Consensus, id: u64) -> bool {
        let lacks_little = leader
            .lag_of(id)
            .is_some_and(|lag| lag <= TRANSFER_LAG_ENTRIES);
        let has_come = leader
            .matched_index(id)
            .zip(self.last_index)
            .is_some_and(|(matched, last)| matched >= last);
        lacks_little || has_come
    }
}
