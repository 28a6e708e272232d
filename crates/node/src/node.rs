//! A running node: how it starts, what its user may ask, how it stops.
//!
//! Start is the same for both roles up to the last step: lock and identify the directory, open log and state and check that they fit
//! each other, listen for peers; then become what the directory says. The tasks share one [`Core`] and end when it says so.
//!
//! What an administrator asks of another node than this one travels as an order, whatever it is: see `orders`.

use crate::admission::AdmissionCounts;
use crate::committed::Committed;
use crate::config::Config;
use crate::core::{Core, REQUEST_TIMEOUT, RoleState};
use crate::cpu::CpuMeter;
use crate::describe;
use crate::differing::Differing;
use crate::edges::{self, Edges};
use crate::error::{ReadError, StartError, WriteError};
use crate::intake::Following;
use crate::keeper::Keeper;
use crate::member::Member;
use crate::opening;
use crate::peer::client::{Me, Peers};
use crate::peer::connections::Connections;
use crate::peer::server;
use crate::reads::{self, Reads};
use crate::recover::Origin;
use crate::roles::{self, Changes, RoleChange, RoleChangeError, Tenure};
use crate::snapshot::Snapshots;
use crate::state_machine::StateMachine;
use crate::status::{
    Counters, EdgeLag, NodeEvent, Positions, Role, SnapshotProgress, Status, TreePicture, TreeRow,
};
use crate::steer::Steering;
use crate::tree_handle::TreeHandle;
use crate::unfed::Unfed;
use bytes::Bytes;
use eaves_log::DirLock;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

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
        let lock = Arc::new(DirLock::acquire(&*config.disk, &config.data_dir)?);
        config.dir().settle()?;
        let listener = config.network.listen(&config.listen_peer).await;
        let listener = listener.map_err(|cause| StartError::Listen {
            address: config.listen_peer.clone(),
            cause,
        })?;
        let address = match &config.advertise_peer {
            Some(address) => address.clone(),
            None => listener.address()?,
        };
        let (mut identity, kept) = opening::identify(&config).await?;
        let applier = opening::open_state(&config, machine)?;
        let snapshots = Snapshots::open(&config)?;
        let flusher = opening::open_log(&config, &mut identity, &applier, &snapshots).await?;
        let keeper = Keeper::new(
            flusher.clone(),
            applier.clone(),
            config.log_retention_bytes,
            config.blocking,
        );
        let cluster_id = identity
            .cluster_id
            .expect("an identified node knows its cluster");
        let me = Me {
            cluster_id,
            node_id: identity.node_id,
        };
        let peers = Peers::new(config.network.clone(), me);
        let (tree, ends) = TreeHandle::new();
        let role = match identity.is_voter {
            true => Role::Follower,
            false => Role::Listener,
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
            origin: Origin::load(&config.dir()),
            node_id: identity.node_id,
            address,
            committed: Committed::new(applier.state().last),
            status: watch::Sender::new(status),
            events: broadcast::Sender::new(EVENTS_KEPT),
            counters: Mutex::new(Counters::default()),
            role: RwLock::new(RoleState::Listener),
            heard: Mutex::default(),
            stopping: watch::Sender::new(false),
            admission: Arc::default(),
            reads: Reads::default(),
            following: Following::default(),
            unfed: Unfed::default(),
            differing: Differing::open(config.dir())?,
            edges: Edges::default(),
            feed_cpu: CpuMeter::default(),
            connections: Connections::default(),
            next_link: AtomicU64::new(1),
            snapshots,
            apply_turn: tokio::sync::Mutex::default(),
            save_turn: tokio::sync::Mutex::default(),
            random: Mutex::new(SmallRng::seed_from_u64(config.seed)),
            tenure: tokio::sync::Mutex::new(Tenure::new(identity)),
            changes: Changes::default(),
            config,
            flusher,
            applier,
            keeper,
            peers,
            tree,
        });
        roles::start(&core, kept, ends).await?;
        roles::start_common(&core);
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

    /// The commands this node has taken on, of its own clients and of nodes below.
    pub fn admission(&self) -> AdmissionCounts {
        self.core.admission.counts()
    }

    /// Returns when everything committed before the call began is applied on this node (a read index; Raft dissertation 6.4).
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        self.core.count(|counters| counters.reads += 1);
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        reads::catch_up(&self.core, deadline).await.map(|_| ())
    }

    /// Returns when every write acknowledged more than `max_staleness` before the call began is applied on this node (B14), at once
    /// if that is known. Returns how old the state is at most: it has all that was acknowledged longer ago.
    ///
    /// The age is measured on this node's monotonic clock alone; nobody else's counts.
    pub async fn read_barrier_within(
        &self,
        max_staleness: Duration,
    ) -> Result<Duration, ReadError> {
        self.core.count(|counters| counters.bounded_reads += 1);
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        reads::catch_up_within(&self.core, max_staleness, deadline).await
    }

    /// Returns once `holds` does, which is looked at now and whenever something has been applied here.
    pub async fn applied_until(&self, mut holds: impl FnMut() -> bool) -> Result<(), ReadError> {
        let mut applied = self.core.applier.applied();
        let mut stopping = self.core.stopping.subscribe();
        tokio::select! {
            biased;
            // The applier lives as long as the node.
            _ = applied.wait_for(|_| holds()) => Ok(()),
            _ = stopping.wait_for(|stop| *stop) => Err(ReadError::Stopped("the node is stopping".into())),
        }
    }

    /// The latest status; `changed()` on the receiver waits for the next.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.core.status.subscribe()
    }

    /// How far this node is, right now.
    pub fn positions(&self) -> Positions {
        self.core.positions()
    }

    /// How far a snapshot on its way here is; `None` when there is none.
    pub fn snapshot_progress(&self) -> Option<SnapshotProgress> {
        self.core.snapshots.progress()
    }

    /// The voters, with the addresses they have published.
    pub fn members(&self) -> Vec<Member> {
        self.core.membership().voters().cloned().collect()
    }

    /// The whole tree, surveyed within `timeout`, and what is missing in it. The same from any node.
    pub async fn survey(&self, timeout: Duration) -> TreePicture {
        describe::survey(&self.core, timeout).await
    }

    /// The rows of a [`Node::survey`].
    pub async fn tree(&self, timeout: Duration) -> Vec<TreeRow> {
        self.survey(timeout).await.rows
    }

    /// Steers any node of the tree from this one (B16).
    pub fn steer(&self) -> Steering<'_> {
        Steering::new(&self.core)
    }

    /// Has a change of roles carried out, asked from any node; `progress` is told in words how far it is. Returns how it ended. The
    /// same change asked for again succeeds, and says that nothing was to be done (S15, S16, B16).
    ///
    /// Dropping the future ends the asking, not the change.
    pub async fn change_role(
        &self,
        change: RoleChange,
        progress: impl FnMut(String) + Send,
    ) -> Result<String, RoleChangeError> {
        roles::change_role(&self.core, change, progress).await
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// What happens on this node from now on.
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.core.events.subscribe()
    }

    /// This node's counters.
    pub fn counters(&self) -> Counters {
        let commits = self.core.keeper.commits();
        Counters {
            feed_cpu: self.core.feed_cpu.spent(),
            state_commits: commits.count,
            state_commit_time: commits.time,
            ..self.core.counters.lock().unwrap().clone()
        }
    }

    /// How far each listener that this node feeds is behind it, as it said last (B15). At most as many as the node's capacity.
    pub fn downstream_lags(&self) -> Vec<EdgeLag> {
        edges::downstream_lags(&self.core)
    }

    /// How far this listener is behind its upstream; `None` without one.
    pub fn upstream_lag(&self) -> Option<EdgeLag> {
        edges::upstream_lag(&self.core)
    }

    /// How many connections from peers are open, by what they are for.
    pub fn peer_connections(&self) -> Vec<(&'static str, u64)> {
        self.core.connections.counts()
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
        // A change of role under way stops at its next pause.
        let mut tenure = self.core.tenure.lock().await;
        if let Some(consensus) = self.core.consensus() {
            consensus.stop().await;
        }
        // Both know the node, and the node knows them: nothing of it would ever be freed.
        tenure.end().await;
        self.core.keeper.set_purge(None);
        let _save = self.core.save_turn.lock().await;
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

#[cfg(test)]
mod tests;
