//! The leader's side of a change of roles: promote, demote, replace, transfer leadership.
//!
//! One change at a time. It runs in a task of the leader's own, whoever still listens; whoever asks for the same change meanwhile joins
//! it. Each looks first where things stand and does only what is missing, so that it may be begun again at any time by anybody: after
//! the asker went away, after a leader died in the middle, after it succeeded.

use super::message::{
    Ask, ChangeAsk, ChangeKind, ChangeState, ChangeTold, Nothing, StandTold, Target, Told,
};
use super::standing::tell_to_look;
use super::until_stopped;
use crate::core::{Core, Up};
use crate::member::{Member, Membership};
use crate::message::{Purpose, Reason, Reject, Reply};
use crate::raft::{ChangeError, Consensus};
use crate::steps::Step;
use eaves_log::{LogId, ReadError};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How far behind the leader a listener may be to be promoted (S15). Raft brings it the rest in a moment; more would have to come from
/// the leader that the tree can bring at no cost to it.
pub const PROMOTION_LAG_ENTRIES: u64 = 1_000;

/// How far behind a voter may be to take over leadership: writes wait while it catches up. Under many writes all are further behind than
/// this all the time; then who has everything that the leader had a [`LOOK_PAUSE`] ago is close enough.
const TRANSFER_LAG_ENTRIES: u64 = 100;

/// How long a node that is catching up may come no nearer before it is given up.
const NO_PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do about a listener whose log is not the group's.
const NOT_OURS: &str = "its data is damaged or of another history: compare with other nodes, then remove its data directory and let it join anew";

/// How often a node that is catching up is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// How often a person is told how far it is.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// How long a node may take to say where it stands.
const STAND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may take to open Raft, or to go back to listening.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long voters may take to be there, and close: under writes one is behind for a moment now and then.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a change of the membership may take to be committed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an asker waits for news.
const NEWS_WAIT: Duration = Duration::from_secs(1);

/// How long a call that waits for news may take, hops included.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(4);

/// How often a leader looks for a joint configuration that somebody has left behind.
const JOINT_INTERVAL: Duration = Duration::from_secs(2);

/// The latest change that this node, as leader, was asked for.
#[derive(Default)]
pub(crate) struct Changes(Mutex<Option<Arc<Run>>>);

/// One change being carried out, or carried out.
struct Run {
    id: u64,
    ask: ChangeAsk,
    news: watch::Sender<News>,
}

#[derive(Clone, Default)]
struct News {
    lines: Vec<String>,
    end: Option<(ChangeState, String)>,
    /// The node that this change may make a voter; it must not go back to listening meanwhile.
    bringing_in: Option<u64>,
}

/// Why a change stopped early.
enum Stop {
    /// It cannot be, and was left, or put back, as it was.
    Refused(String),
    /// Who leads or what is committed is not certain: whoever leads looks again.
    LookAgain(String),
}

type Outcome<T = ()> = Result<T, Stop>;

fn refused<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Stop::Refused(text.into()))
}

impl From<ChangeError> for Stop {
    fn from(error: ChangeError) -> Stop {
        match error {
            ChangeError::LookAgain(text) => Stop::LookAgain(text),
            ChangeError::Refused(text) => Stop::Refused(text),
        }
    }
}

impl Changes {
    /// Whether a change under way may make `node` a voter.
    pub fn is_bringing_in(&self, node: u64) -> bool {
        let latest = self.0.lock().unwrap();
        latest.as_ref().is_some_and(|run| {
            let news = run.news.borrow();
            news.end.is_none() && news.bringing_in == Some(node)
        })
    }

    fn is_idle(&self) -> bool {
        let latest = self.0.lock().unwrap();
        latest
            .as_ref()
            .is_none_or(|run| run.news.borrow().end.is_some())
    }

    /// The run that this asker belongs to, and whether it has yet to be started. Another change under way is in the way.
    fn join(&self, ask: &ChangeAsk, new_id: u64) -> Result<(Arc<Run>, bool), String> {
        let mut latest = self.0.lock().unwrap();
        if let Some(run) = &*latest {
            let is_over = run.news.borrow().end.is_some();
            if run.is_same(ask) && (!is_over || run.ask.attempt == ask.attempt) {
                return Ok((run.clone(), false));
            }
            if !is_over {
                return Err(format!(
                    "another change is under way, {}; wait for its end and ask again",
                    run.describe()
                ));
            }
        }
        let run = Arc::new(Run {
            id: new_id,
            ask: ask.clone(),
            news: watch::Sender::default(),
        });
        *latest = Some(run.clone());
        Ok((run, true))
    }
}

impl Run {
    fn is_same(&self, ask: &ChangeAsk) -> bool {
        let id = |target: &Option<Target>| target.as_ref().map(|target| target.id);
        (self.ask.kind, id(&self.ask.node), id(&self.ask.replaced))
            == (ask.kind, id(&ask.node), id(&ask.replaced))
    }

    fn describe(&self) -> String {
        let name = |target: &Option<Target>| target.as_ref().map_or(String::new(), Target::label);
        match self.ask.kind() {
            ChangeKind::Promote => format!("promote {}", name(&self.ask.node)),
            ChangeKind::Demote => format!("demote {}", name(&self.ask.node)),
            ChangeKind::Replace => format!(
                "replace {} {}",
                name(&self.ask.replaced),
                name(&self.ask.node)
            ),
            ChangeKind::TransferLeader => format!("transfer-leader {}", name(&self.ask.node)),
            ChangeKind::Unknown => "one that this version does not know".into(),
        }
    }

    fn tell(&self, line: impl Into<String>) {
        let line = line.into();
        tracing::info!("{}: {line}", self.describe());
        self.news.send_modify(|news| news.lines.push(line));
    }

    fn bring_in(&self, node: Option<u64>) {
        self.news.send_modify(|news| news.bringing_in = node);
    }

    fn end(&self, outcome: Outcome<String>) {
        let end = match outcome {
            Ok(text) => (ChangeState::Done, text),
            Err(Stop::Refused(text)) => (ChangeState::Refused, text),
            Err(Stop::LookAgain(text)) => (ChangeState::GoOn, text),
        };
        tracing::info!("{}: {}", self.describe(), end.1);
        self.news.send_modify(|news| news.end = Some(end));
    }

    /// What the asker has not seen yet; waits a moment for it.
    async fn news(&self, ask: &ChangeAsk) -> ChangeTold {
        let seen = if ask.run == self.id { ask.seen } else { 0 } as usize;
        let mut news = self.news.subscribe();
        let is_news = news.wait_for(|news| news.lines.len() > seen || news.end.is_some());
        let _ = tokio::time::timeout(NEWS_WAIT, is_news).await;
        let news = self.news.borrow().clone();
        let (state, text) = news.end.unwrap_or((ChangeState::Running, String::new()));
        ChangeTold {
            run: self.id,
            lines: news.lines.into_iter().skip(seen).collect(),
            state: state as i32,
            text,
        }
    }
}

impl Target {
    /// What people call it.
    pub fn label(&self) -> String {
        match self.name.is_empty() {
            true => format!("{:x}", self.id),
            false => self.name.clone(),
        }
    }
}

/// Begins, or tells about, a change if this node leads; else passes the question up.
pub(super) async fn answer(core: &Arc<Core>, ask: ChangeAsk) -> Reply {
    let no_leader = |why: String| Reply::Reject(Reject::new(Reason::NoLeader, why));
    match core.up(ask.leader_only) {
        Up::Here(consensus) => serve(core, consensus, ask).await,
        Up::At {
            address,
            leader_only,
        } => {
            let call = Ask::Change(ChangeAsk { leader_only, ..ask }).into();
            let called = core
                .peers
                .call(&address, Purpose::Forward, call, &[], ASK_TIMEOUT);
            match called.await {
                Ok((reply, _)) => reply,
                Err(error) => no_leader(error.to_string()),
            }
        }
        Up::Nowhere(why) => no_leader(why),
    }
}

async fn serve(core: &Arc<Core>, consensus: Arc<Consensus>, ask: ChangeAsk) -> Reply {
    if ask.kind() == ChangeKind::Unknown {
        let text = "a change that this version does not know: upgrade the leader";
        return Reply::Reject(Reject::new(Reason::Invalid, text));
    }
    let run = match core.changes.join(&ask, core.random_number()) {
        Ok((run, false)) => run,
        Ok((run, true)) => {
            let (core, begun) = (core.clone(), run.clone());
            until_stopped(&core.clone(), async move {
                let outcome = Change {
                    core: &core,
                    consensus: &consensus,
                    run: &begun,
                }
                .carry_out()
                .await;
                begun.end(outcome);
            });
            run
        }
        Err(text) => {
            let told = ChangeTold {
                run: 0,
                lines: Vec::new(),
                state: ChangeState::Refused as i32,
                text,
            };
            return Told::Change(told).into();
        }
    };
    Told::Change(run.news(&ask).await).into()
}

/// A leader that died between the two steps of a membership change leaves both sets of voters in force. Its successor ends that, unless
/// somebody repeats the command first.
pub(super) async fn finish_left_joints(core: Arc<Core>) {
    let mut was_joint = false;
    loop {
        tokio::time::sleep(JOINT_INTERVAL).await;
        let Some(consensus) = core.consensus().filter(|consensus| consensus.is_leader()) else {
            was_joint = false;
            continue;
        };
        let is_joint = core.changes.is_idle()
            && consensus
                .committed_membership()
                .is_some_and(|membership| membership.configs.len() > 1);
        if is_joint && was_joint {
            tracing::info!("finish a change of the group that another leader began");
            let finished = tokio::time::timeout(COMMIT_TIMEOUT, consensus.finish_joint()).await;
            if let Ok(Err(error)) = finished {
                tracing::warn!("finish a change of the group: {error}");
            }
        }
        was_joint = is_joint;
    }
}

/// Asks a node something that it answers with where it stands.
pub(super) async fn ask_stand(
    core: &Core,
    address: &str,
    ask: Ask,
    timeout: Duration,
) -> Result<StandTold, String> {
    match core.peers.ask_once(address, ask.into(), timeout).await {
        Ok(Reply::Roles(reply)) => match reply.told {
            Some(Told::Stand(told)) => Ok(told),
            _ => Err(format!("{address} answered another question")),
        },
        Ok(_) => Err(format!("{address} answered another question")),
        Err(error) => Err(error.to_string()),
    }
}

/// What the steps of a change lean on.
struct Change<'a> {
    core: &'a Arc<Core>,
    consensus: &'a Arc<Consensus>,
    run: &'a Run,
}

impl Change<'_> {
    async fn carry_out(&self) -> Outcome<String> {
        let ask = &self.run.ask;
        match (ask.kind(), &ask.node, &ask.replaced) {
            (ChangeKind::Promote, Some(node), _) => self.promote(node).await,
            (ChangeKind::Demote, Some(node), _) => self.demote(node).await,
            (ChangeKind::Replace, Some(node), Some(replaced)) => self.replace(replaced, node).await,
            (ChangeKind::TransferLeader, node, _) => self.transfer_leader(node.as_ref()).await,
            _ => refused("the request names no node"),
        }
    }

    /// Adds a voter that has caught up (S15).
    async fn promote(&self, node: &Target) -> Outcome<String> {
        let label = node.label();
        let before = self.settled().await?;
        if before.is_voter(node.id) {
            return Ok(format!("{label} is a voter already"));
        }
        let voters: BTreeSet<u64> = voter_ids(&before).chain([node.id]).collect();
        self.bring_in(node, &before, voters).await?;
        self.core.step(Step::VotersChanged).await;
        Ok(format!("{label} is a voter; {}", self.who_votes()))
    }

    /// Replaces a voter, dead or alive, in one joint change (S16). A leader hands over first, and the next leader goes on.
    async fn replace(&self, old: &Target, new: &Target) -> Outcome<String> {
        let (old_label, new_label) = (old.label(), new.label());
        if old.id == new.id {
            return refused(format!("{old_label} cannot replace itself"));
        }
        let before = self.settled().await?;
        match (before.is_voter(old.id), before.is_voter(new.id)) {
            (true, false) => {}
            (false, true) => {
                self.retire(old).await;
                return Ok(format!(
                    "{new_label} is a voter already, and {old_label} is not; {}",
                    self.who_votes()
                ));
            }
            (true, true) => {
                return refused(format!(
                    "{new_label} is a voter already: `eaves demote {old_label}` takes the other out"
                ));
            }
            (false, false) => {
                return refused(format!(
                    "{old_label} is no voter: `eaves promote {new_label}` adds a voter"
                ));
            }
        }
        let voters: BTreeSet<u64> = voter_ids(&before)
            .filter(|id| *id != old.id)
            .chain([new.id])
            .collect();
        self.check_quorum(&before, &voters, Some(new.id)).await?;
        if old.id == self.core.node_id {
            if voters.len() == 1 {
                return refused(format!(
                    "{old_label} is the only voter and leads: `eaves promote {new_label}`, then `eaves demote {old_label}`"
                ));
            }
            return self.hand_over(&before, &[new.id]).await;
        }
        self.bring_in(new, &before, voters).await?;
        self.core.step(Step::VotersChanged).await;
        self.retire(&addressed(old, &before)).await;
        Ok(format!(
            "{new_label} votes in place of {old_label}; {}",
            self.who_votes()
        ))
    }

    /// Takes a voter out of the group, by a joint change; then tells it to look.
    async fn demote(&self, node: &Target) -> Outcome<String> {
        let label = node.label();
        let before = self.settled().await?;
        if !before.is_voter(node.id) {
            // Perhaps an earlier run, or the node, did not come to the end.
            self.retire(node).await;
            return Ok(format!("{label} votes no more already"));
        }
        let voters: BTreeSet<u64> = voter_ids(&before).filter(|id| *id != node.id).collect();
        if voters.is_empty() {
            return refused(format!(
                "{label} is the last voter; promote a listener first"
            ));
        }
        self.check_quorum(&before, &voters, None).await?;
        if node.id == self.core.node_id {
            return self.hand_over(&before, &[]).await;
        }
        if voters.len() == 1 {
            self.run
                .tell("one voter will be left: nobody feeds listeners until there is another (S1)");
        }
        self.set_voters(&before, voters).await?;
        self.core.step(Step::VotersChanged).await;
        self.retire(&addressed(node, &before)).await;
        Ok(format!("{label} votes no more; {}", self.who_votes()))
    }

    async fn transfer_leader(&self, to: Option<&Target>) -> Outcome<String> {
        let before = self.settled().await?;
        let me = self.core.node_id;
        let candidates: Vec<Member> = match to {
            Some(to) if to.id == me => return Ok(format!("{} leads already", to.label())),
            Some(to) if !before.is_voter(to.id) => {
                let label = to.label();
                return refused(format!(
                    "{label} is no voter: `eaves promote {label}` makes it one"
                ));
            }
            Some(to) => before
                .voters()
                .filter(|voter| voter.id == to.id)
                .cloned()
                .collect(),
            None => before
                .voters()
                .filter(|voter| voter.id != me)
                .cloned()
                .collect(),
        };
        if candidates.is_empty() {
            return refused("there is no other voter to lead");
        }
        let leader = self.move_leadership(candidates).await?;
        Ok(format!("{leader} leads"))
    }

    /// Brings `node` into the group as one of `voters`: (1) it is close, (2) it opens Raft, (3) it catches up as a learner, (4) one joint
    /// change. When it fails before (4), it goes back to listening (5).
    async fn bring_in(&self, node: &Target, before: &Membership, voters: BTreeSet<u64>) -> Outcome {
        self.wait_until_close(node, before).await?;
        self.core.step(Step::PositionTaken).await;
        self.run.bring_in(Some(node.id));
        let joined = self.join_as_learner(node).await;
        let result = match joined {
            Ok(()) => self.set_voters(before, voters).await,
            Err(stop) => Err(stop),
        };
        if let Err(Stop::Refused(_)) = &result {
            self.put_back(node).await;
        }
        self.run.bring_in(None);
        result
    }

    async fn wait_until_close(&self, node: &Target, before: &Membership) -> Outcome {
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

    async fn join_as_learner(&self, node: &Target) -> Outcome {
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
    async fn put_back(&self, node: &Target) {
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

    /// Makes `voters` of those who vote in `before`. While this leader waited for a node, another may have led and changed them: its
    /// change must not be undone.
    async fn set_voters(&self, before: &Membership, voters: BTreeSet<u64>) -> Outcome {
        if self.consensus.view().membership.configs != before.configs {
            return Err(Stop::LookAgain("the voters have changed meanwhile".into()));
        }
        self.run.tell("change the voters");
        match self.in_time(self.consensus.set_voters(voters)).await {
            // The first of two entries may be in the log: only a leader that looks can tell.
            Err(Stop::Refused(text) | Stop::LookAgain(text)) => Err(Stop::LookAgain(text)),
            Ok(()) => Ok(()),
        }
    }

    /// Makes a node that votes no more go back to listening. One that does not answer finds out when it can.
    async fn retire(&self, node: &Target) {
        let label = node.label();
        match tell_to_look(self.core, &node.peer_address, TURN_TIMEOUT).await {
            Ok(told) if !told.is_voter => self.run.tell(format!("{label} is a listener")),
            Ok(_) => self
                .run
                .tell(format!("{label} is no voter, and will be a listener in a moment")),
            Err(error) => self.run.tell(format!(
                "{label} does not answer ({error}); when it comes back it finds out that it votes no more, and listens"
            )),
        }
        self.core.step(Step::Retired).await;
    }

    /// Moves leadership away from this node because it is to leave the group; the next leader goes on.
    async fn hand_over(&self, before: &Membership, except: &[u64]) -> Outcome<String> {
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
    async fn move_leadership(&self, candidates: Vec<Member>) -> Outcome<String> {
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
    async fn check_quorum(
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
    async fn settled(&self) -> Outcome<Membership> {
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

    async fn in_time(&self, change: impl Future<Output = Result<(), ChangeError>>) -> Outcome {
        match tokio::time::timeout(COMMIT_TIMEOUT, change).await {
            Ok(changed) => changed.map_err(Stop::from),
            Err(_) => Err(Stop::LookAgain(
                "the group did not commit it in time: is there a quorum?".into(),
            )),
        }
    }

    fn who_votes(&self) -> String {
        let membership = self.consensus.view().membership;
        format!("voters: {}", names(membership.voters()))
    }
}

/// Where a leader's log ended when it was last looked at whether somebody is close.
#[derive(Default)]
struct Pursuit {
    last_index: Option<u64>,
}

impl Pursuit {
    fn of(leader: &Consensus) -> Pursuit {
        Pursuit {
            last_index: Some(leader.last_index()),
        }
    }

    /// Whether a follower or learner lacks little, or nothing of what the leader had then.
    fn is_close(&self, leader: &Consensus, id: u64) -> bool {
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

fn voter_ids(membership: &Membership) -> impl Iterator<Item = u64> {
    membership.voters().map(|voter| voter.id)
}

fn names<'m>(members: impl Iterator<Item = &'m Member>) -> String {
    let mut names: Vec<&str> = members.map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    names.join(", ")
}

/// The target at the address that the membership has for it: the asker may have seen an older one, or none.
fn addressed(target: &Target, membership: &Membership) -> Target {
    match membership.members.get(&target.id) {
        Some(member) => Target {
            peer_address: member.peer_address.clone(),
            ..target.clone()
        },
        None => target.clone(),
    }
}
