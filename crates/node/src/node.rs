//! A running node: how it starts, what its user may ask, how it stops.
//!
//! Start is the same for both roles up to the last step: lock and identify the directory, open log and state and check that they fit
//! each other, listen for peers; then become what the directory says. The tasks share one [`Core`] and end when it says so.

use crate::applier::Applier;
use crate::committed::Committed;
use crate::config::{Config, Founder, Group, StartAs, random_id};
use crate::core::{Core, REQUEST_TIMEOUT, RoleState};
use crate::describe;
use crate::error::{ReadError, StartError, WriteError};
use crate::flusher::Flusher;
use crate::identity::Identity;
use crate::intake::Following;
use crate::keeper::Keeper;
use crate::member::Member;
use crate::message::{Call, Purpose};
use crate::peer::client::{CallError, Me, Peers, connect};
use crate::peer::server;
use crate::position::Applied;
use crate::raft::{Consensus, VoterView};
use crate::reads::Reads;
use crate::snapshot;
use crate::state_machine::StateMachine;
use crate::status::{Counters, NodeEvent, Positions, Role, Status, TreeRow, same_publication};
use crate::tree_loop::{self, Input, TreeEnds, TreeHandle};
use bytes::Bytes;
use eaves_log::{Base, DirLock, Log};
use eaves_tree::{Address, ClusterId, NodeId, Peer, TreeNode, Voter, VoterState};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::time::Instant;

/// Bytes of entries a listener applies at once.
const APPLY_BYTES: usize = 1 << 20;

/// Pause between attempts to meet a cluster, or to publish oneself.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long an upstream may take to say at the start that it is of another cluster.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// Events kept for a reader that is behind; it loses the oldest.
const EVENTS_KEPT: usize = 1024;

/// How long a follower that answered a forwarded write waits to have applied it itself.
const OWN_APPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// A running node, voter or listener. Cheap to clone; all clones are the same node. Runs until [`Node::shutdown`].
#[derive(Clone)]
pub struct Node {
    core: Arc<Core>,
    accepting: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
    _lock: Arc<DirLock>,
}

impl Node {
    /// Starts a node on its data directory, with the state machine that belongs to it. Must be called inside a tokio runtime.
    ///
    /// A listener that has never met its cluster returns once it has: its upstream list must name somebody who answers.
    pub async fn start(config: Config, machine: Arc<dyn StateMachine>) -> Result<Node, StartError> {
        let lock = Arc::new(DirLock::acquire(&config.data_dir)?);
        let listener = config.network.listen(&config.listen_peer).await;
        let listener = listener.map_err(|cause| StartError::Listen {
            address: config.listen_peer.clone(),
            cause,
        })?;
        let address = match &config.advertise_peer {
            Some(address) => address.clone(),
            None => listener.address()?,
        };
        let identity = identify(&config).await?;
        let applier = open_state(&config, machine)?;
        let flusher = open_log(&config, &applier).await?;
        let keeper = Keeper::new(flusher.clone(), applier.clone(), config.log_retention_bytes);
        let cluster_id = identity
            .cluster_id
            .expect("an identified node knows its cluster");
        let me = Me {
            cluster_id,
            node_id: identity.node_id,
        };
        let peers = Peers::new(config.network.clone(), me);
        let (tree, ends) = TreeHandle::new();
        let role = match config.start_as {
            StartAs::Voter { .. } => Role::Follower,
            StartAs::Listener { .. } => Role::Listener,
        };
        let status = Status {
            cluster_id,
            node_id: identity.node_id,
            name: config.name.clone(),
            role,
            term: 0,
            leader: None,
            upstream: None,
            depth: (role != Role::Listener).then_some(0),
        };
        let core = Arc::new(Core {
            cluster_id,
            node_id: identity.node_id,
            address,
            committed: Committed::new(applier.state().last),
            status: watch::Sender::new(status),
            events: broadcast::Sender::new(EVENTS_KEPT),
            counters: Mutex::new(Counters::default()),
            role: RwLock::new(RoleState::Listener),
            heard: Mutex::default(),
            stopping: watch::Sender::new(false),
            unanswered_bytes: AtomicUsize::new(0),
            reads: Reads::default(),
            following: Following::default(),
            next_link: AtomicU64::new(1),
            snapshot_turns: Semaphore::new(snapshot::MAX_SERVED),
            apply_turn: tokio::sync::Mutex::default(),
            config,
            flusher,
            applier,
            keeper,
            peers,
            tree,
        });
        match core.config.start_as.clone() {
            StartAs::Voter { group } => start_voter(&core, &group, ends).await?,
            StartAs::Listener { upstreams } => start_listener(&core, &upstreams, ends)?,
        }
        spawn_common(&core);
        let accepting = tokio::spawn(server::run(core.clone(), listener));
        Ok(Node {
            core,
            accepting: Arc::new(Mutex::new(Some(accepting))),
            _lock: lock,
        })
    }

    /// Proposes a command from any node; returns the state machine's answer once it is committed, and applied here too, so that a
    /// local read that follows sees it.
    pub async fn write(&self, command: Bytes) -> Result<Bytes, WriteError> {
        self.core.count(|counters| counters.writes += 1);
        let (end, answer) = self
            .core
            .write(command, false, Instant::now() + REQUEST_TIMEOUT)
            .await?;
        if self
            .core
            .applied(end, Instant::now() + OWN_APPLY_TIMEOUT)
            .await
            .is_err()
        {
            tracing::debug!("answer a write before it is applied here: this node is far behind");
        }
        Ok(answer)
    }

    /// Returns when everything committed before the call began is applied on this node (a read index; Raft dissertation 6.4).
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        self.core.count(|counters| counters.reads += 1);
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let end = loop {
            match self.core.reads.ask(&self.core, false, deadline).await {
                Ok(end) => break end,
                Err(ReadError::NoLeader(_)) if Instant::now() + RETRY_PAUSE < deadline => {
                    tokio::time::sleep(RETRY_PAUSE / 4).await
                }
                Err(error) => return Err(error),
            }
        };
        self.core.applied(end, deadline).await
    }

    /// The latest status; `changed()` on the receiver waits for the next.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.core.status.subscribe()
    }

    /// How far this node is, right now.
    pub fn positions(&self) -> Positions {
        self.core.positions()
    }

    /// The voters, with the addresses they have published.
    pub fn members(&self) -> Vec<Member> {
        self.core.membership().voters().cloned().collect()
    }

    /// The whole tree, gathered within `timeout`; nodes that did not answer are left out. The same from any node.
    pub async fn tree(&self, timeout: Duration) -> Vec<TreeRow> {
        describe::gather(&self.core, timeout).await
    }

    /// What happens on this node from now on.
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.core.events.subscribe()
    }

    /// This node's counters.
    pub fn counters(&self) -> Counters {
        *self.core.counters.lock().unwrap()
    }

    /// The log's counters.
    pub fn log_stats(&self) -> eaves_log::LogStats {
        self.core.flusher.log().stats()
    }

    /// The address under which peers reach this node, `host:port`.
    pub fn peer_address(&self) -> &str {
        &self.core.address
    }

    /// Resolves when the node stops, on request or because it broke (then an event has said why).
    pub async fn stopped(&self) {
        let mut stopping = self.core.stopping.subscribe();
        // The sender lives as long as `self`.
        let _ = stopping.wait_for(|stop| *stop).await;
    }

    /// Stops everything, making durable what is in memory.
    pub async fn shutdown(&self) {
        self.core.stopping.send_replace(true);
        let accepting = self.accepting.lock().unwrap().take();
        if let Some(accepting) = accepting {
            // Afterwards the peer port is free.
            let _ = accepting.await;
        }
        if let Some(consensus) = self.core.consensus() {
            consensus.stop().await;
        }
        let _turn = self.core.apply_turn.lock().await;
        self.core.flusher.kick();
        let persisted =
            tokio::time::timeout(REQUEST_TIMEOUT, self.core.keeper.persist_applied()).await;
        if !matches!(persisted, Ok(Ok(()))) {
            tracing::warn!(
                "stop without having made the latest state durable: the next start applies it again from the log"
            );
        }
        self.core.flusher.stop();
    }
}

/// Finds out who this node is: from its directory, or anew.
async fn identify(config: &Config) -> Result<Identity, StartError> {
    let dir = &config.data_dir;
    let found = Identity::load(dir)?;
    match &config.start_as {
        StartAs::Voter { group } => {
            let own = own_founder(group, &config.name)?;
            if let Some(found) = found {
                found.check(dir, true, Some(group.cluster_id), Some(own.id))?;
                return Ok(found);
            }
            let identity = Identity {
                cluster_id: Some(group.cluster_id),
                node_id: own.id,
                is_voter: true,
            };
            identity.save(dir)?;
            Ok(identity)
        }
        StartAs::Listener { upstreams } => {
            let mut identity = found.unwrap_or_else(|| Identity {
                cluster_id: None,
                node_id: random_id(config.seed),
                is_voter: false,
            });
            identity.check(dir, false, None, None)?;
            match identity.cluster_id {
                Some(cluster_id) => {
                    check_upstreams(config, cluster_id, identity.node_id, upstreams).await?
                }
                None => {
                    identity.save(dir)?;
                    identity.cluster_id =
                        Some(meet_cluster(config, identity.node_id, upstreams).await?);
                    identity.save(dir)?;
                }
            }
            Ok(identity)
        }
    }
}

/// Says at the start what would otherwise be found out at every attempt: that an upstream is of another cluster. Those that do not
/// answer at once are left to the tree.
async fn check_upstreams(
    config: &Config,
    cluster_id: u64,
    node_id: u64,
    upstreams: &[String],
) -> Result<(), StartError> {
    let me = Me {
        cluster_id,
        node_id,
    };
    let greetings = upstreams.iter().map(async |address| {
        let greeting = connect(&*config.network, me, address, Purpose::Control);
        match tokio::time::timeout(CHECK_TIMEOUT, greeting).await {
            Ok(Err(CallError::Rejected(reject))) => {
                let (dir, text) = (config.data_dir.display().to_string(), reject.text);
                let advice = "correct --upstream, or choose another --data-dir";
                Err(StartError::State {
                    dir,
                    cause: format!("upstream {address} refuses this node: {text}; {advice}"),
                })
            }
            _ => Ok(()),
        }
    });
    futures_util::future::try_join_all(greetings)
        .await
        .map(|_| ())
}

fn own_founder<'a>(group: &'a Group, name: &str) -> Result<&'a Founder, StartError> {
    let names = || {
        group
            .founders
            .iter()
            .map(|founder| founder.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    group.founder(name).ok_or_else(|| StartError::State {
        dir: "the configuration".into(),
        cause: format!(
            "the name {name} is not among the founding members ({}); correct the name or the list",
            names()
        ),
    })
}

/// Asks the upstream list which cluster it belongs to, until somebody answers.
async fn meet_cluster(
    config: &Config,
    node_id: u64,
    upstreams: &[String],
) -> Result<u64, StartError> {
    let me = Me {
        cluster_id: 0,
        node_id,
    };
    let mut warned = false;
    loop {
        for address in upstreams {
            match connect(&*config.network, me, address, Purpose::Control).await {
                Ok(greeted) => return Ok(greeted.welcome.cluster_id),
                Err(CallError::Rejected(reject)) => {
                    return Err(StartError::Other(std::io::Error::other(format!(
                        "{address}: {}",
                        reject.text
                    ))));
                }
                Err(error) if !warned => {
                    tracing::warn!("meet the cluster: {error}; trying again until somebody answers")
                }
                Err(_) => {}
            }
        }
        warned = true;
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn open_state(config: &Config, machine: Arc<dyn StateMachine>) -> Result<Arc<Applier>, StartError> {
    Applier::open(machine, &config.data_dir).map_err(|error| StartError::State {
        dir: config.data_dir.display().to_string(),
        cause: error.to_string(),
    })
}

/// Opens the log and checks that it and the state fit each other.
async fn open_log(config: &Config, applier: &Arc<Applier>) -> Result<Arc<Flusher>, StartError> {
    let (log, recovered) = Log::open(
        config.disk.clone(),
        &config.data_dir.join("log"),
        config.log,
    )?;
    if recovered.torn_bytes > 0 {
        tracing::info!(
            "dropped {} bytes that a crash had torn off the log's end; none of them was acknowledged",
            recovered.torn_bytes
        );
    }
    let applied = applier.state();
    let flusher = Flusher::start(log, config.flushing)?;
    if applied.last > flusher.log().last_id() {
        match applier.is_ahead_of_log() {
            true => {
                let base = Base {
                    last: applied.last,
                    chain: applied.chain,
                };
                let ticket = flusher.log().reset(base).map_err(std::io::Error::other)?;
                flusher.durable(ticket).await?;
            }
            false => flusher
                .log()
                .require_at_least(applied.index().unwrap_or(0))?,
        }
    }
    // Whatever it said, the log has followed now.
    applier.log_follows()?;
    check_prefix(config, &flusher, &applied)?;
    check_reach(config, &flusher, &applied)?;
    Ok(flusher)
}

/// The state must have been made from this very log.
fn check_prefix(config: &Config, flusher: &Flusher, applied: &Applied) -> Result<(), StartError> {
    let Some(last) = applied.last else {
        return Ok(());
    };
    let chain = flusher.log().chain_at(last.index);
    match chain {
        Ok(Some(chain)) if chain != applied.chain => Err(StartError::State {
            dir: config.data_dir.display().to_string(),
            cause: format!(
                "the state at {last} was not made from this log (chain {:016x}, the log has {:016x}): log and state come from different \
                 backups; restore both together, or remove the directory and let the node join anew",
                applied.chain.0, chain.0
            ),
        }),
        // Gone from the log: nothing to compare with.
        _ => Ok(()),
    }
}

/// The log must go on where the state ends. It does not when somebody took the state away, or brought back an old one.
fn check_reach(config: &Config, flusher: &Flusher, applied: &Applied) -> Result<(), StartError> {
    let log = flusher.log();
    let stands_at = applied.last.map_or("nothing".into(), |id| id.to_string());
    match config.start_as {
        // All of its log is committed, and its upstream has it, as log or as a snapshot (S5, B9).
        StartAs::Listener { .. } if applied.next_index() < log.first_index() => {
            tracing::warn!(
                "the state stands at {stands_at} and the log begins at {} only: take what is between from an upstream",
                log.first_index()
            );
            log.reset(Base {
                last: applied.last,
                chain: applied.chain,
            })
            .map_err(std::io::Error::other)?;
            flusher.kick();
            Ok(())
        }
        // What it holds beyond may be acknowledged, so it must not be thrown away here.
        StartAs::Voter { .. } if applied.last < log.purged() => Err(StartError::State {
            dir: config.data_dir.display().to_string(),
            cause: format!(
                "it stands at {stands_at}, and the log goes on after {} only: bring back the state that belongs to this log, or replace this \
                 node: remove it from the group, wipe its data directory and let it join anew",
                log.purged()
                    .map_or("its beginning".into(), |id| id.to_string())
            ),
        }),
        _ => Ok(()),
    }
}

fn tree_config(core: &Core) -> eaves_tree::Config {
    let mut config = eaves_tree::Config::new(
        NodeId(core.node_id),
        Address::from(core.address.as_str()),
        ClusterId(core.cluster_id),
    );
    config.capacity = core.config.capacity;
    config.zone = (!core.config.zone.is_empty()).then(|| core.config.zone.as_str().into());
    config
}

async fn start_voter(core: &Arc<Core>, group: &Group, ends: TreeEnds) -> Result<(), StartError> {
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
        core.committed.clone(),
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
    let founders: Vec<Member> = group
        .founders
        .iter()
        .map(|founder| Member {
            id: founder.id,
            name: founder.name.clone(),
            peer_address: founder.peer_address.clone(),
            client_urls: Vec::new(),
        })
        .collect();
    consensus.found(&founders).await?;
    let tree = TreeNode::voter(tree_config(core), core.config.seed);
    tokio::spawn(tree_loop::run(core.clone(), tree, ends, Instant::now()));
    tokio::spawn(watch_voter(core.clone(), consensus.clone()));
    tokio::spawn(publish(core.clone(), consensus));
    Ok(())
}

fn start_listener(
    core: &Arc<Core>,
    upstreams: &[String],
    ends: TreeEnds,
) -> Result<(), StartError> {
    let saved = tree_loop::load_saved(&core.config.data_dir)?;
    // Everything in a listener's log is committed (S5).
    core.committed
        .raise(core.flusher.log().last_id().max(core.applier.state().last));
    let list: Vec<Address> = upstreams
        .iter()
        .map(|address| Address::from(address.as_str()))
        .collect();
    let is_new = !list.is_empty() && saved.upstreams != list;
    let started = Instant::now();
    let tree = TreeNode::listener(
        eaves_tree::Instant(0),
        tree_config(core),
        saved,
        core.config.seed,
    );
    if is_new {
        core.tree.tell(Input::UpstreamList(list));
    }
    tokio::spawn(tree_loop::run(core.clone(), tree, ends, started));
    tokio::spawn(apply_committed(core.clone()));
    until_stopped(core, watch_place(core.clone()));
    until_stopped(core, watch_voters(core.clone()));
    Ok(())
}

fn spawn_common(core: &Arc<Core>) {
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
}

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
                status.role = view.role;
                status.term = view.term;
                status.leader = view.leader;
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
            core.fail("run Raft", "it has stopped; the log above says why");
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

fn peer(member: &Member) -> Peer {
    Peer {
        id: NodeId(member.id),
        address: Address::from(member.peer_address.as_str()),
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
