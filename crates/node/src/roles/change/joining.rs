//! A listener on its way into the group: it is close (S15), its log is the group's (B12), it opens Raft, it catches up as a learner; or it
//! goes back to listening.

use super::quorum::Pursuit;
use super::run::{Outcome, Run, Stop, refused};
use super::{Change, LOOK_PAUSE, STAND_TIMEOUT, TURN_TIMEOUT, ask_stand, voter_ids};
use crate::member::{Member, Membership};
use crate::roles::message::{Ask, Nothing, StandTold, Target};
use crate::roles::standing::tell_to_look;
use crate::steps::Step;
use eaves_log::{LogId, ReadError};
use std::time::Duration;
use tokio::time::Instant;

/// How far behind the leader a listener may be to be promoted (S15). Raft brings it the rest in a moment; more would have to come from
/// the leader that the tree can bring at no cost to it.
pub const PROMOTION_LAG_ENTRIES: u64 = 1_000;

/// How long a node that is catching up may come no nearer before it is given up.
const NO_PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do about a listener whose log is not the group's.
const NOT_OURS: &str = "its data is damaged or of another history: compare with other nodes, then remove its data directory and let it join anew";

/// How often a person is told how far it is.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

impl Change<'_> {
    pub(super) async fn wait_until_close(&self, node: &Target, before: &Membership) -> Outcome {
        let label = node.label();
        let mut patience = Patience::new();
        loop {
            let told = self.where_it_stands(node).await?;
            if told.is_voter {
                // It takes part already.
                return Ok(());
            }
            let ours = self.core.committed.get().map_or(0, |id| id.index + 1);
            let theirs = told.last.map_or(0, |id| id.index() + 1);
            let lag = ours.abs_diff(theirs);
            if theirs > ours {
                let text = format!("{label} is {lag} entries ahead of the leader");
                patience.look(self.run, lag, text, NOT_OURS)?;
            } else if voter_ids(before).count() == 1 {
                // There is no follower to feed it: what it lacks comes by Raft.
                if !self.is_prefix(&label, &told).await? {
                    self.check_replaceable(&label, &told)?;
                }
                return Ok(());
            } else if lag <= PROMOTION_LAG_ENTRIES {
                if !self.is_prefix(&label, &told).await? {
                    return refused(format!(
                        "the log of {label} ends before what the leader still holds: they cannot be compared; let {label} catch up from \
                         the tree, and ask again"
                    ));
                }
                self.run
                    .tell(format!("{label} is {lag} entries behind the leader"));
                return Ok(());
            } else {
                let text = format!("{label} is {lag} entries behind the leader");
                patience.look(self.run, lag, text, "ask again when it has caught up")?;
            }
            tokio::time::sleep(TELL_INTERVAL).await;
        }
    }

    /// Whether a listener's log is a prefix of this leader's; false if it ends before what the leader still holds. One that differs is
    /// refused (B12): Raft would not find out, it compares terms and indices only.
    async fn is_prefix(&self, label: &str, told: &StandTold) -> Outcome<bool> {
        let Some(last) = told.last.map(LogId::from) else {
            return Ok(true);
        };
        let log = self.core.flusher.log().clone();
        let read = self.core.config.blocking;
        let ours = match read.run(move || log.chain_at(last.index)).await {
            Ok(Ok(ours)) => ours,
            Ok(Err(ReadError::Gone { .. })) => None,
            Ok(Err(error)) => return refused(format!("the leader cannot read its log: {error}")),
            Err(error) => return refused(format!("the leader cannot read its log: {error}")),
        };
        match ours {
            Some(ours) if ours.0 == told.chain => Ok(true),
            Some(ours) => refused(format!(
                "the log of {label} differs from the leader's at {last} or before (chain {:016x}, the leader has {:016x}); {NOT_OURS}",
                told.chain, ours.0
            )),
            None => Ok(false),
        }
    }

    /// Refuses a listener whose log must not be replaced by a snapshot: that nobody can compare it any more is no reason to overwrite what
    /// was found to differ. All others are as any listener that is so far behind (B9, B12), only that the snapshot comes by Raft.
    fn check_replaceable(&self, label: &str, told: &StandTold) -> Outcome {
        if let Some(how) = &told.differs {
            return refused(format!(
                "the log of {label} was found to differ ({how}), and ends before what the leader still holds; {NOT_OURS}"
            ));
        }
        self.run.tell(format!(
            "the log of {label} ends before what the leader still holds: a snapshot takes its place"
        ));
        Ok(())
    }

    async fn where_it_stands(&self, node: &Target) -> Outcome<StandTold> {
        let ask = Ask::Stand(Nothing {});
        match ask_stand(self.core, &node.peer_address, ask, STAND_TIMEOUT).await {
            Ok(told) if told.member.id() == node.id => Ok(told),
            Ok(_) => refused(another_answers(node)),
            Err(error) => refused(format!("{} cannot be reached: {error}", node.label())),
        }
    }

    pub(super) async fn join_as_learner(&self, node: &Target) -> Outcome {
        let label = node.label();
        let opened = ask_stand(
            self.core,
            &node.peer_address,
            Ask::OpenRaft(Nothing {}),
            TURN_TIMEOUT,
        );
        let told = match opened.await {
            Ok(told) if told.member.id() == node.id => told,
            // The address has changed hands since it was asked where it stands. Whoever has it now is told to look, as after any failure.
            Ok(_) => return refused(another_answers(node)),
            Err(error) => return refused(format!("{label} did not open Raft: {error}")),
        };
        self.run
            .tell(format!("{label} has left its upstream and opened Raft"));
        self.core.step(Step::Prepared).await;
        let member = Member::from(told.member);
        self.in_time(self.consensus.add_learner(member)).await?;
        self.run
            .tell(format!("{label} is a learner: the leader sends it the log"));
        self.core.step(Step::LearnerAdded).await;
        self.wait_until_caught_up(node).await?;
        self.run.tell(format!("{label} has caught up"));
        self.core.step(Step::CaughtUp).await;
        Ok(())
    }

    /// For measurements: the first three steps of a promotion, and no fourth. It is not this leader that keeps the node a learner, but the
    /// node itself, which does not ask where it stands while it is fed ([`crate::Config::stays_learner`]).
    pub(super) async fn learn(&self, node: &Target) -> Outcome<String> {
        let label = node.label();
        let before = self.settled().await?;
        if before.members.contains_key(&node.id) {
            return Ok(format!("{label} is in the group already"));
        }
        self.wait_until_close(node, &before).await?;
        self.run.bring_in(Some(node.id));
        let joined = self.join_as_learner(node).await;
        if let Err(Stop::Refused(_)) = &joined {
            self.put_back(node).await;
        }
        self.run.bring_in(None);
        joined?;
        Ok(format!("{label} is a learner"))
    }

    async fn wait_until_caught_up(&self, node: &Target) -> Outcome {
        let mut patience = Patience::new();
        // Mostly it takes a moment, of which there is nothing to tell.
        patience.told_at = Some(Instant::now());
        let mut pursuit = Pursuit::default();
        loop {
            if !self.consensus.is_leader() {
                return Err(Stop::LookAgain("the leader has changed".into()));
            }
            if pursuit.is_close(self.consensus, node.id) {
                return Ok(());
            }
            pursuit = Pursuit::of(self.consensus);
            let lag = self.consensus.lag_of(node.id).unwrap_or(u64::MAX);
            let label = node.label();
            let text = match lag {
                u64::MAX => format!("{label} has not answered the leader yet"),
                lag => format!("{label} is {lag} entries behind the leader"),
            };
            patience.look(self.run, lag, text, "it goes back to listening")?;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// (5): nothing of a failed promotion stays behind. If this fails too the node finds out by itself.
    pub(super) async fn put_back(&self, node: &Target) {
        self.run.bring_in(None);
        self.run
            .tell(format!("{} goes back to listening", node.label()));
        if let Err(Stop::Refused(text) | Stop::LookAgain(text)) =
            self.in_time(self.consensus.remove_learner(node.id)).await
        {
            tracing::debug!("remove the learner {}: {text}", node.label());
        }
        if let Err(error) = tell_to_look(self.core, &node.peer_address, TURN_TIMEOUT).await {
            self.run.tell(format!(
                "{} does not answer ({error}); it finds out by itself when it can",
                node.label()
            ));
        }
    }
}

/// Bounds the waiting for a node that catches up, and tells how far it is.
struct Patience {
    nearest: u64,
    nearest_at: Instant,
    told_at: Option<Instant>,
}

impl Patience {
    fn new() -> Patience {
        Patience {
            nearest: u64::MAX,
            nearest_at: Instant::now(),
            told_at: None,
        }
    }

    fn look(&mut self, run: &Run, lag: u64, text: String, advice: &str) -> Outcome {
        if lag < self.nearest {
            (self.nearest, self.nearest_at) = (lag, Instant::now());
        }
        if self.nearest_at.elapsed() > NO_PROGRESS_TIMEOUT {
            return refused(format!("{text} and comes no nearer; {advice}"));
        }
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            self.told_at = Some(Instant::now());
            run.tell(text);
        }
        Ok(())
    }
}

fn another_answers(node: &Target) -> String {
    format!(
        "another node than {} answers at {}; look at `eaves tree`",
        node.label(),
        node.peer_address
    )
}
