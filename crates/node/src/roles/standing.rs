//! The question that decides whether a voter may go back to listening: *am I in the group?*
//!
//! Asked by a voter that is told to look, and by every voter that is not in its own membership or has heard no leader for a while: it
//! may have been removed while it was down or cut off, and nobody tells a removed voter. Answered by the leader only, after it has
//! confirmed that it leads and has applied an entry of its own term; so no membership that it does not know can become committed.

use super::message::{Ask, LookAsk, Standing, StandingAsk, StandingTold, Told};
use super::turning::{become_listener, stand, to_the_end};
use crate::core::{Core, REQUEST_TIMEOUT, Up};
use crate::member::{Member, Membership};
use crate::message::{Purpose, Reason, Reject, Reply};
use crate::raft::Consensus;
use crate::saved;
use crate::status::Role;
use crate::steps::Step;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a voter considers whether it should ask.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A voter that has heard no leader, or a leader that has heard no quorum, for this long asks.
const LONELY: Duration = Duration::from_secs(2);

/// One that is to stay a learner, for a measurement, asks only when no leader has fed it for this long: longer than a machine that is
/// busy with a hundred of them keeps one waiting.
const LONELY_LEARNER: Duration = Duration::from_secs(10);

/// How long the asking may take, all servers together.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Considers now and then whether this node may have been removed, and asks.
pub(super) async fn watch(core: Arc<Core>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        if core
            .consensus()
            .is_some_and(|consensus| is_lonely(&core, &consensus))
        {
            look(&core, None).await;
        }
    }
}

fn is_lonely(core: &Core, consensus: &Consensus) -> bool {
    let view = consensus.view();
    let stays = core.config.stays_learner;
    if !view.membership.is_voter(core.node_id) && !stays {
        return true;
    }
    let heard_ago = match view.role {
        Role::Leader => consensus.quorum_heard_ago(),
        _ => view.leader.and_then(|leader| core.heard_ago(leader)),
    };
    let patience = if stays { LONELY_LEARNER } else { LONELY };
    heard_ago.is_none_or(|ago| ago >= patience)
}

/// A leader says that it has removed this node; believe nobody but whoever answers the question.
pub(super) async fn answer_look(core: &Arc<Core>, leader_address: String) -> Reply {
    let looking = core.clone();
    let looked = to_the_end(core, async move {
        look(&looking, Some(leader_address)).await;
        stand(&looking)
    });
    match looked.await {
        Some(told) => told.into(),
        None => Reply::Reject(Reject::new(Reason::Stopped, "the node is stopping")),
    }
}

/// Asks, and goes back to listening if the answer is that this node is outside. The tenure is held all the time, so that no promotion
/// begins between question and answer.
async fn look(core: &Arc<Core>, leader_address: Option<String>) {
    let mut tenure = core.tenure.lock().await;
    if core.consensus().is_none() {
        return;
    }
    let Some(voters) = ask_whether_outside(core, leader_address).await else {
        return;
    };
    tracing::info!("the group has gone on without this node: become a listener");
    core.step(Step::Dismissed).await;
    if let Err(error) = become_listener(core, &mut tenure, voters).await {
        core.fail("become a listener", error);
    }
}

/// Who votes, if a leader says that this node does not; `None` in every other case.
async fn ask_whether_outside(core: &Core, leader_address: Option<String>) -> Option<Vec<Member>> {
    let mut asked: FuturesUnordered<_> = addresses(core, leader_address)
        .into_iter()
        .map(|address| ask(core, address))
        .collect();
    let first = async {
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(told) => return Some(told),
                Err(error) => tracing::debug!("ask whether this node is in the group: {error}"),
            }
        }
        None
    };
    let told = tokio::time::timeout(ASK_TIMEOUT, first).await.ok()??;
    match told.standing() {
        Standing::Outside => Some(told.voters.into_iter().map(Member::from).collect()),
        Standing::Voter | Standing::Changing | Standing::Unknown => None,
    }
}

/// Everybody who might know a leader: whoever told us to look, the members this node knew, and where it would look for an upstream.
fn addresses(core: &Core, leader_address: Option<String>) -> BTreeSet<String> {
    let members = core.membership().members;
    let (saved, _) = saved::load(&core.config.dir()).unwrap_or_default();
    let others = members
        .into_values()
        .filter(|member| member.id != core.node_id);
    let learned = saved.learned.iter().map(|peer| &peer.address);
    let listed = saved.upstreams.iter().chain(learned);
    leader_address
        .into_iter()
        .chain(others.map(|member| member.peer_address))
        .chain(listed.map(|address| address.as_str().to_string()))
        .filter(|address| *address != core.address)
        .collect()
}

async fn ask(core: &Core, address: String) -> Result<StandingTold, String> {
    let ask = Ask::Standing(StandingAsk {
        leader_only: false,
        node: core.node_id,
    });
    match core.peers.ask_once(&address, ask.into(), ASK_TIMEOUT).await {
        Ok(Reply::Roles(reply)) => match reply.told {
            Some(Told::Standing(told)) => Ok(told),
            _ => Err(format!("{address} answered another question")),
        },
        Ok(_) => Err(format!("{address} answered another question")),
        Err(error) => Err(error.to_string()),
    }
}

/// Answers the question here if this node leads, else passes it up.
pub(super) async fn answer(core: &Arc<Core>, ask: StandingAsk) -> Reply {
    let no_leader = |why: String| Reply::Reject(Reject::new(Reason::NoLeader, why));
    match core.up(ask.leader_only) {
        Up::Here(consensus) => match judge(core, &consensus, ask.node).await {
            Ok((standing, membership)) => {
                let voters = membership.voters().cloned().map(Into::into).collect();
                Told::Standing(StandingTold {
                    standing: standing as i32,
                    voters,
                })
                .into()
            }
            Err(why) => no_leader(why),
        },
        Up::At {
            address,
            leader_only,
        } => {
            let call = Ask::Standing(StandingAsk { leader_only, ..ask }).into();
            let called = core
                .peers
                .call(&address, Purpose::Control, call, &[], ASK_TIMEOUT);
            match called.await {
                Ok((reply, _)) => reply,
                Err(error) => no_leader(error.to_string()),
            }
        }
        Up::Nowhere(why) => no_leader(why),
    }
}

/// The leader's answer. A Raft learner whom nobody is about to make a voter is what a promotion left behind: it is removed first.
async fn judge(
    core: &Core,
    consensus: &Consensus,
    node: u64,
) -> Result<(Standing, Membership), String> {
    // Looked at first: what a change that has ended by now did to the membership shows below, and one that begins later has to wait for
    // the node, which holds its tenure while it asks.
    let was_coming = core.changes.is_bringing_in(node);
    let end = consensus
        .read_index()
        .await
        .map_err(|error| error.to_string())?;
    core.applied(end, Instant::now() + REQUEST_TIMEOUT)
        .await
        .map_err(|error| error.to_string())?;
    let committed = consensus.committed_membership();
    let is_committed = committed.is_some();
    let membership = committed.unwrap_or_else(|| consensus.view().membership);
    if !is_committed || was_coming || core.changes.is_bringing_in(node) {
        return Ok((Standing::Changing, membership));
    }
    if membership.is_voter(node) {
        return Ok((Standing::Voter, membership));
    }
    if membership.members.contains_key(&node) {
        consensus
            .remove_learner(node)
            .await
            .map_err(|error| error.to_string())?;
    }
    Ok((Standing::Outside, membership))
}

/// Tells a former voter to look.
pub(super) async fn tell_to_look(
    core: &Core,
    address: &str,
    timeout: Duration,
) -> Result<super::message::StandTold, String> {
    let ask = Ask::Look(LookAsk {
        leader_address: core.address.clone(),
    });
    super::change::ask_stand(core, address, ask, timeout).await
}
