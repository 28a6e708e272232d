//! The leader's side of a change of roles: promote, demote, replace, transfer leadership.
//!
//! One change at a time. It runs in a task of the leader's own, whoever still listens; whoever asks for the same change meanwhile joins
//! it. Each looks first where things stand and does only what is missing, so that it may be begun again at any time by anybody: after
//! the asker went away, after a leader died in the middle, after it succeeded.
//!
//! `run.rs` is a change as those see it who asked for it, `joining.rs` how a node is brought in, `quorum.rs` what must not be lost by it.

mod joining;
mod quorum;
mod run;

pub(crate) use run::Changes;

use super::message::{
    Ask, ChangeAsk, ChangeKind, ChangeState, ChangeTold, StandTold, Target, Told,
};
use super::standing::tell_to_look;
use super::until_stopped;
use crate::core::{Core, Up};
use crate::member::{Member, Membership};
use crate::message::{Purpose, Reason, Reject, Reply};
use crate::raft::Consensus;
use crate::steps::Step;
use quorum::COMMIT_TIMEOUT;
use run::{Outcome, Run, Stop, refused};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often a node that is catching up is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// How long a node may take to say where it stands.
const STAND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may take to open Raft, or to go back to listening.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a call that waits for news may take, hops included.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(4);

/// How often a leader looks for a joint configuration that somebody has left behind.
const JOINT_INTERVAL: Duration = Duration::from_secs(2);

impl ChangeAsk {
    /// Whether it asks for another leader, whoever that be.
    fn is_to_anybody(&self) -> bool {
        self.kind() == ChangeKind::TransferLeader && self.node.is_none()
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
    if ask.is_to_anybody() && ask.leads_no_more != core.node_id {
        return match still_leads(&consensus).await {
            Ok(()) => Told::Change(not_for_me(core, &ask)).into(),
            Err(why) => Reply::Reject(Reject::new(Reason::NoLeader, why)),
        };
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
                state: ChangeState::Refused as i32,
                text,
                ..ChangeTold::default()
            };
            return Told::Change(told).into();
        }
    };
    Told::Change(run.news(&ask).await).into()
}

/// The answer to who wants anybody else to lead than some leader, which is not this one: there is another already. One that does not know
/// yet who leads is told: whoever leads next would not know that it does because of this command, and would hand on once more.
fn not_for_me(core: &Core, ask: &ChangeAsk) -> ChangeTold {
    match ask.leads_no_more {
        0 => ChangeTold {
            leader: core.node_id,
            ..ChangeTold::default()
        },
        _ => ChangeTold {
            state: ChangeState::Done as i32,
            text: format!("{} leads", core.config.name),
            ..ChangeTold::default()
        },
    }
}

/// Fails unless a quorum says, after this was asked, that this node leads.
async fn still_leads(consensus: &Consensus) -> Result<(), String> {
    match tokio::time::timeout(ASK_TIMEOUT, consensus.read_index()).await {
        Ok(confirmed) => confirmed.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err("no quorum answers the leader".into()),
    }
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
            (ChangeKind::Learn, Some(node), _) => self.learn(node).await,
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
            // An earlier leader, whose lines the asker has seen, may have handed on to this one.
            Some(to) if to.id == me => {
                let already = match self.run.ask.run {
                    0 => " already",
                    _ => "",
                };
                return Ok(format!("{} leads{already}", to.label()));
            }
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

    fn who_votes(&self) -> String {
        let membership = self.consensus.view().membership;
        format!("voters: {}", names(membership.voters()))
    }
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
