//! How this node turns from listener to voter and back, step by step, each on disk before the next.

use super::message::{StandTold, Told};
use super::{Tenure, apply_all, open_listener, open_voter, until_stopped};
use crate::core::Core;
use crate::identity::Identity;
use crate::member::Member;
use crate::message::{Reason, Reject, Reply};
use crate::opening;
use crate::position::LogIdBytes;
use crate::saved;
use crate::status::{NodeEvent, Role};
use crate::steps::Step;
use eaves_tree::{NodeId, Saved};
use std::io;
use std::sync::Arc;

/// Where this node stands, by its own word.
pub(super) fn stand(core: &Core) -> Told {
    let end = core.flusher.log().end();
    Told::Stand(StandTold {
        member: core.me().into(),
        is_voter: core.consensus().is_some(),
        last: end.last.map(LogIdBytes::from),
        chain: end.chain.0,
        differs: core.differing.how(),
    })
}

/// Carries `work` out to its end whether or not somebody still waits for it; `None` when the node stops before.
pub(super) async fn to_the_end<T: Send + 'static>(
    core: &Arc<Core>,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (done, wait) = tokio::sync::oneshot::channel();
    until_stopped(core, async move { drop(done.send(work.await)) });
    wait.await.ok()
}

/// The leader wants this node for a voter.
pub(super) async fn answer_open(core: &Arc<Core>) -> Reply {
    let turning = core.clone();
    let opened = to_the_end(core, async move { open_raft(&turning).await }).await;
    match opened {
        Some(Ok(())) => stand(core).into(),
        Some(Err(error)) => {
            let text = format!("it cannot open Raft: {error}");
            Reply::Reject(Reject::new(Reason::Invalid, text))
        }
        None => Reply::Reject(Reject::new(Reason::Stopped, "the node is stopping")),
    }
}

async fn open_raft(core: &Arc<Core>) -> io::Result<()> {
    let mut tenure = core.tenure.lock().await;
    if core.consensus().is_some() {
        return Ok(());
    }
    let Err(error) = become_voter(core, &mut tenure).await else {
        return Ok(());
    };
    tracing::warn!("become a voter: {error}; go back to listening");
    if let Err(worse) = go_back(core, &mut tenure).await {
        core.fail("go back to listening", worse);
    }
    Err(error)
}

/// Listener to voter. Downstreams stay, and this node becomes their root (B16).
async fn become_voter(core: &Arc<Core>, tenure: &mut Tenure) -> io::Result<()> {
    core.tree.become_voter().await?;
    // From here on nobody appends but Raft. A snapshot that is being installed holds the turn.
    core.following.set(None);
    drop(core.apply_turn.lock().await);
    core.step(Step::UpstreamLeft).await;

    tenure.end().await;
    opening::let_log_follow(&core.flusher, &core.applier).await?;
    apply_all(core).await?;
    let ticket = core.flusher.log().append(&[]).map_err(io::Error::other)?;
    core.flusher.durable(ticket).await?;
    core.step(Step::LogFlushed).await;

    persist(core, tenure, |identity| identity.is_voter = true).await?;
    core.step(Step::VoterPersisted).await;

    open_voter(core, tenure).await?;
    core.unfed.forget();
    announce(core, Role::Follower);
    core.step(Step::RaftOpened).await;
    Ok(())
}

/// A promotion failed before Raft was open: this node was in no quorum, so nothing but its own state is to be put back.
async fn go_back(core: &Arc<Core>, tenure: &mut Tenure) -> io::Result<()> {
    tenure.end().await;
    if tenure.identity.is_voter {
        persist(core, tenure, |identity| identity.is_voter = false).await?;
    }
    let (saved, _) = saved::load(&core.config.dir())?;
    core.tree.become_listener(saved).await?;
    open_listener(core, tenure);
    Ok(())
}

/// Voter to listener, on the word of a leader that this node votes no more; `voters` are those who do. The vote stays where it is, in
/// the log's hard state (`one-vote-per-term`).
///
/// Raft is stopped before the role is persisted: then the committed position that is persisted along is the last that this node will
/// have acted upon. A crash in between leaves a voter outside the group, which asks again.
pub(super) async fn become_listener(
    core: &Arc<Core>,
    tenure: &mut Tenure,
    voters: Vec<Member>,
) -> io::Result<()> {
    tenure.end().await;
    if let Some(consensus) = core.consensus() {
        consensus.stop().await;
    }
    core.keeper.set_purge(None);
    core.step(Step::RaftStopped).await;

    opening::let_log_follow(&core.flusher, &core.applier).await?;
    let saved = remember(core, &voters)?;
    let committed = core.committed.get().max(core.applier.state().last);
    let end = committed.map_or(0, |id| id.index + 1);
    persist(core, tenure, |identity| {
        identity.is_voter = false;
        identity.keep_below = Some(end);
    })
    .await?;
    core.step(Step::ListenerPersisted).await;

    opening::cut_tail(&core.flusher, end).await?;
    persist(core, tenure, |identity| identity.keep_below = None).await?;
    core.step(Step::TailCut).await;

    core.tree.become_listener(saved).await?;
    open_listener(core, tenure);
    announce(core, Role::Listener);
    core.step(Step::Listening).await;
    Ok(())
}

/// Keeps the voters on disk, so that a listener that was a voter knows where to look for an upstream, after a restart too (B5).
fn remember(core: &Core, voters: &[Member]) -> io::Result<Saved> {
    let (mut saved, started_with) = saved::load(&core.config.dir())?;
    let others = voters.iter().filter(|voter| voter.id != core.node_id);
    let mut learned: Vec<eaves_tree::Peer> = others.map(super::peer).collect();
    for peer in saved.learned {
        let known = learned.iter().any(|known| known.id == peer.id);
        if !known && peer.id != NodeId(core.node_id) {
            learned.push(peer);
        }
    }
    learned.truncate(eaves_tree::LEARNED_MAX);
    saved.learned = learned;
    saved::store(&core.config.dir(), &saved, &started_with)?;
    Ok(saved)
}

async fn persist(
    core: &Core,
    tenure: &mut Tenure,
    change: impl FnOnce(&mut Identity),
) -> io::Result<()> {
    change(&mut tenure.identity);
    let (identity, dir) = (tenure.identity.clone(), core.config.dir());
    let saving = core.config.blocking.run(move || identity.save(&dir));
    saving.await?.map_err(io::Error::other)
}

fn announce(core: &Core, role: Role) {
    tracing::info!("this node is a {} now", role_word(role));
    let status = core.status.borrow().clone();
    let _ = core.events.send(NodeEvent::Role {
        role,
        term: status.term,
        leader: status.leader,
    });
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Listener => "listener",
        Role::Leader | Role::Follower | Role::Candidate => "voter",
    }
}
