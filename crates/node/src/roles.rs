//! What runs in a node because of its role: a voter's Raft and what watches it, a listener's applying. And how roles change.
//!
//! A role is a value in [`Core`], not a type, and changes while the node runs: client connections, watches and downstreams stay. The
//! tasks that belong to a role are its [`Tenure`]; they end with it. What both roles share is started by [`start_common`].
//!
//! # How a role changes
//!
//! An administrator asks any node ([`asking`]), which asks the leader, again and again until it is done. The leader carries the change
//! out ([`change`]): it looks where things stand and does what is missing, so the same command repeated goes on where another leader,
//! or another asker, left off. The node concerned turns ([`turning`]) in this order, and each step is on disk before the next:
//!
//! - to voter: leave the upstream, flush and apply everything, persist the role, open Raft on what is there;
//! - to listener: stop Raft and cut it off the state, persist the role together with the committed position, cut off what is beyond,
//!   look for an upstream.
//!
//! # What keeps this safe
//!
//! A node that has Raft open may be counted in a quorum, now or soon. So it goes back to listening on one ground only ([`standing`]):
//! it asked, and a leader that has just confirmed that it leads answered that the committed membership is without this node and that
//! nobody is about to bring it in. It holds its [`Tenure`] from the question to the end, so that it cannot be promoted in between. The
//! same question mends every interruption: a promotion that came to nothing, a demotion whose last word was lost, a voter that was
//! replaced while it was down.
//!
//! The vote is kept in the log's hard state through all roles: a node never votes twice in a term (`one-vote-per-term`).

mod asking;
mod change;
mod message;
mod standing;
mod turning;

pub(crate) use asking::change_role;
pub use asking::{RoleChange, RoleChangeError};
pub(crate) use change::Changes;
pub(crate) use message::{RolesCall, RolesReply};

use crate::config::{Founder, Group, StartAs};
use crate::core::{Core, REQUEST_TIMEOUT, RoleState};
use crate::error::StartError;
use crate::identity::Identity;
use crate::member::Member;
use crate::message::{Call, Purpose, Reason, Reject, Reply};
use crate::raft::{Consensus, VoterView};
use crate::saved::{self, Kept};
use crate::snapshot;
use crate::status::{NodeEvent, Role, same_publication};
use crate::tree_handle::{Input, TreeEnds};
use crate::tree_loop;
use eaves_tree::{Address, ClusterId, NodeId, OwnLog, Peer, TreeNode, Voter, VoterState};
use message::Ask;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes of entries a listener applies at once.
const APPLY_BYTES: usize = 1 << 20;

/// Pause between attempts to publish oneself.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A node's time in one role. Whoever changes the role holds its lock.
pub(crate) struct Tenure {
    /// What the directory says.
    identity: Identity,
    /// What runs because of the role.
    tasks: JoinSet<()>,
}

impl Tenure {
    pub fn new(identity: Identity) -> Tenure {
        Tenure {
            identity,
            tasks: JoinSet::new(),
        }
    }

    /// Ends what runs because of the role.
    pub async fn end(&mut self) {
        self.tasks.shutdown().await;
    }
}

/// Starts what belongs to the role that the directory says, and the tree's loop.
pub(crate) async fn start(core: &Arc<Core>, kept: Kept, ends: TreeEnds) -> Result<(), StartError> {
    let mut tenure = core.tenure.lock().await;
    let started = Instant::now();
    let tree = match tenure.identity.is_voter {
        true => {
            open_voter(core, &mut tenure).await?;
            if let (StartAs::Voter { group }, true) =
                (&core.config.start_as, tenure.identity.is_founder())
            {
                found(core, group).await?;
            }
            let (saved, _) = saved::load(&core.config.dir())?;
            TreeNode::voter(tree_config(core), saved, core.config.seed)
        }
        false => {
            if let Some(list) = kept.new_list {
                core.tree.tell(Input::UpstreamList(list));
            }
            open_listener(core, &mut tenure);
            TreeNode::listener(
                eaves_tree::Instant(0),
                tree_config(core),
                kept.saved,
                own_log(core),
                core.config.seed,
            )
        }
    };
    tokio::spawn(tree_loop::run(core.clone(), tree, ends, started));
    Ok(())
}

/// What a listener starts with (B11).
fn own_log(core: &Core) -> OwnLog {
    match core.flusher.log().last_id() {
        None => OwnLog::Empty,
        Some(_) => OwnLog::Uncompared,
    }
}

/// Opens Raft on the log and the state as they are, and starts what belongs to a voter.
async fn open_voter(core: &Arc<Core>, tenure: &mut Tenure) -> io::Result<()> {
    let parts = (
        core.flusher.clone(),
        core.applier.clone(),
        core.keeper.clone(),
        core.peers.clone(),
    );
    let consensus = Consensus::start(
        core.node_id,
        core.config.raft,
        core.config.snapshot_entries,
        parts,
        core.config.blocking,
        core.committed.clone(),
        Arc::downgrade(core),
    )
    .await?;
    let consensus = Arc::new(consensus);
    *core.role.write().unwrap() = RoleState::Voter(consensus.clone());
    let purger = consensus.clone();
    let runtime = tokio::runtime::Handle::current();
    core.keeper.set_purge(Some(Box::new(move |index| {
        let purger = purger.clone();
        runtime.spawn(async move { purger.purge(index).await });
    })));
    tenure
        .tasks
        .spawn(watch_voter(core.clone(), consensus.clone()));
    tenure.tasks.spawn(publish(core.clone(), consensus));
    Ok(())
}

/// Makes the group, unless it is there already.
async fn found(core: &Core, group: &Group) -> io::Result<()> {
    let member = |founder: &Founder| Member {
        id: founder.id,
        name: founder.name.clone(),
        peer_address: founder.peer_address.clone(),
        client_urls: Vec::new(),
    };
    let founders: Vec<Member> = group.founders.iter().map(member).collect();
    if founders.len() == 1 {
        tracing::warn!(
            "this group has one voter, which leads: nobody feeds listeners until there is a follower (S1)"
        );
    }
    let consensus = core.consensus().expect("only a voter founds a group");
    consensus.found(&founders).await
}

/// Starts what belongs to a listener. Everything in its log is committed (S5).
fn open_listener(core: &Arc<Core>, tenure: &mut Tenure) {
    core.committed
        .raise(core.flusher.log().last_id().max(core.applier.state().last));
    *core.role.write().unwrap() = RoleState::Listener;
    core.keeper.set_purge(None);
    tenure.tasks.spawn(apply_committed(core.clone()));
    tenure.tasks.spawn(watch_place(core.clone()));
    tenure.tasks.spawn(watch_voters(core.clone()));
}

pub(crate) fn start_common(core: &Arc<Core>) {
    until_stopped(core, snapshot::tidy(core.clone()));
    let keeping = core.clone();
    until_stopped(core, async move {
        let error = keeping.keeper.clone().run().await;
        keeping.fail("keep the state", error);
    });
    let watching = core.clone();
    until_stopped(core, async move {
        let mut failure = watching.flusher.failure();
        let failed = failure
            .wait_for(Option::is_some)
            .await
            .map(|text| text.clone());
        if let Ok(Some(text)) = failed {
            watching.fail("write the log", text);
        }
    });
    until_stopped(core, standing::watch(core.clone()));
    until_stopped(core, change::finish_left_joints(core.clone()));
}

/// Answers what another node asks about roles.
pub(crate) async fn answer(core: &Arc<Core>, call: RolesCall) -> Reply {
    match call.ask {
        Some(Ask::Stand(_)) => turning::stand(core).into(),
        Some(Ask::OpenRaft(_)) => turning::answer_open(core).await,
        Some(Ask::Look(ask)) => standing::answer_look(core, ask.leader_address).await,
        Some(Ask::Standing(ask)) => standing::answer(core, ask).await,
        Some(Ask::Change(ask)) => change::answer(core, ask).await,
        None => Reply::Reject(Reject::new(
            Reason::Invalid,
            "a question about roles that this version does not know",
        )),
    }
}

/// Runs `work` until it is done or the node stops.
fn until_stopped(core: &Arc<Core>, work: impl Future<Output = ()> + Send + 'static) {
    let mut stopping = core.stopping.subscribe();
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
}

/// A listener's applying: whatever is committed, in order.
async fn apply_committed(core: Arc<Core>) {
    let mut committed = core.committed.subscribe();
    let mut stopping = core.stopping.subscribe();
    loop {
        if let Err(error) = apply_all(&core).await {
            return core.fail("apply the log", error);
        }
        tokio::select! {
            changed = committed.changed() => if changed.is_err() { return },
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

async fn apply_all(core: &Core) -> std::io::Result<()> {
    loop {
        core.keeper.room_to_apply().await?;
        let _turn = core.apply_turn.lock().await;
        let next = core.applier.state().next_index();
        let Some(committed) = core.committed.get().filter(|id| id.index >= next) else {
            return Ok(());
        };
        let frames = core
            .read_log(next, committed.index, APPLY_BYTES)
            .await
            .map_err(std::io::Error::other)?;
        core.applier.apply(&frames)?;
        tokio::task::yield_now().await;
    }
}

/// Passes a voter's view on to the tree, the status and the watchers of events.
async fn watch_voter(core: Arc<Core>, consensus: Arc<Consensus>) {
    let mut last: Option<VoterView> = None;
    let watching = consensus.watch(|view| {
        if last.as_ref() == Some(&view) {
            return;
        }
        core.tree.tell(Input::Voter(voter_state(&core, &view)));
        let changed = last.as_ref().is_none_or(|last| {
            (last.role, last.term, last.leader) != (view.role, view.term, view.leader)
        });
        if changed {
            core.update_status(|status| {
                status.role = core.live_role(&view);
                status.term = view.term;
                status.leader = core.live_leader(&view);
                status.upstream = None;
                status.depth = Some(0);
            });
            let _ = core.events.send(NodeEvent::Role {
                role: view.role,
                term: view.term,
                leader: view.leader,
            });
        }
        last = Some(view);
    });
    let mut stopping = core.stopping.subscribe();
    tokio::select! {
        // A broken log stops Raft too; whoever watches the log says what is wrong with it.
        () = watching => if core.flusher.failure().borrow().is_none() {
            core.fail("run Raft", consensus.why_stopped());
        },
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

fn voter_state(core: &Core, view: &VoterView) -> VoterState {
    let voter = |member: &Member| Voter {
        peer: peer(member),
        heard: core.heard_ago(member.id),
    };
    VoterState {
        leader: view.leader.map(NodeId),
        voters: view.membership.voters().map(voter).collect(),
    }
}

/// Keeps a listener's status in step with its place in the tree and with the term of the log.
async fn watch_place(core: Arc<Core>) {
    let mut place = core.tree.place();
    let mut committed = core.committed.subscribe();
    loop {
        let now = place.borrow_and_update().clone();
        let term = core.positions().committed_term;
        core.update_status(|status| {
            status.role = Role::Listener;
            status.upstream = now.upstream.map(|upstream| upstream.id);
            status.depth = now.depth;
            status.leader = now.leader;
            status.term = term;
        });
        // Entries come all the time, another term hardly ever.
        let other_term = committed.wait_for(|id| id.map_or(0, |id| id.term) != term);
        let open = tokio::select! {
            changed = place.changed() => changed.is_ok(),
            changed = other_term => changed.is_ok(),
        };
        if !open {
            return;
        }
    }
}

/// Tells a listener's protocol side who votes, as the log says (B5).
async fn watch_voters(core: Arc<Core>) {
    let mut membership = core.applier.membership();
    loop {
        let voters: Vec<Peer> = membership.borrow_and_update().voters().map(peer).collect();
        if !voters.is_empty() {
            core.tree.tell(Input::Voters(voters));
        }
        if membership.changed().await.is_err() {
            return;
        }
    }
}

/// Puts this voter's name and client URLs into the membership, where every node finds them; as etcd's members publish theirs.
async fn publish(core: Arc<Core>, consensus: Arc<Consensus>) {
    let mut stopping = core.stopping.subscribe();
    let me = core.me();
    while !*stopping.borrow_and_update() {
        let view = consensus.view();
        match view.membership.members.get(&core.node_id) {
            Some(known) if same_publication(known, &me) => return,
            Some(known) => {
                // The founding address stays: it is what the others know this node by.
                let member = Member {
                    peer_address: known.peer_address.clone(),
                    ..me.clone()
                };
                let _ = match view.leader {
                    Some(leader) if leader == core.node_id => consensus
                        .publish(member)
                        .await
                        .map_err(|error| error.to_string()),
                    Some(leader) => publish_at(&core, &view, leader, member).await,
                    None => Ok(()),
                }
                .map_err(|error| tracing::debug!("publish the client URLs: {error}"));
            }
            None => {}
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn publish_at(
    core: &Core,
    view: &VoterView,
    leader: u64,
    member: Member,
) -> Result<(), String> {
    let Some(leader) = view.membership.members.get(&leader) else {
        return Ok(());
    };
    let call = Call::Publish(member.into());
    core.peers
        .call(
            &leader.peer_address,
            Purpose::Control,
            call,
            &[],
            REQUEST_TIMEOUT,
        )
        .await
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn tree_config(core: &Core) -> eaves_tree::Config {
    let mut config = eaves_tree::Config::new(
        NodeId(core.node_id),
        Address::from(core.address.as_str()),
        ClusterId(core.cluster_id),
    );
    config.capacity = core.config.capacity;
    let election_timeout = core.config.raft.election_timeout;
    config.silent_voter = election_timeout;
    // An election that takes its time makes nobody stale.
    config.stale_voter = config.stale_voter.max(4 * election_timeout);
    config.zone = (!core.config.zone.is_empty()).then(|| core.config.zone.as_str().into());
    config
}

fn peer(member: &Member) -> Peer {
    Peer {
        id: NodeId(member.id),
        address: Address::from(member.peer_address.as_str()),
    }
}
