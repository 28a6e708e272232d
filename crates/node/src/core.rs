//! What the parts of a running node share, and what any of them may ask of it: writes, read indexes, positions.
//!
//! A write or a read index that this node cannot serve goes one hop up, towards the leader: from a listener to its upstream, from a
//! follower to the leader (B13). A call that left and got no answer is reported as such and never repeated (its outcome is unknown).

use crate::admission::{Admission, MAX_UNFLUSHED_BYTES, Share};
use crate::applier::Applier;
use crate::committed::Committed;
use crate::config::Config;
use crate::cpu::CpuMeter;
use crate::differing::Differing;
use crate::edges::Edges;
use crate::error::{ReadError, WriteError};
use crate::flusher::Flusher;
use crate::intake::Following;
use crate::keeper::Keeper;
use crate::member::{Member, Membership};
use crate::message::{Call, ForwardCall, Purpose, Reason, Reject, Reply};
use crate::peer::client::{CallError, Peers};
use crate::peer::connections::Connections;
use crate::raft::{Consensus, VoterView};
use crate::reads::Reads;
use crate::recover::Origin;
use crate::roles::{Changes, Tenure};
use crate::snapshot::Snapshots;
use crate::status::{Counters, NodeEvent, Positions, Role, Status};
use crate::steps::Step;
use crate::tree_handle::TreeHandle;
use crate::unfed::Unfed;
use bytes::Bytes;
use eaves_log::Frame;
use rand::RngCore;
use rand::rngs::SmallRng;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

/// How long a write or a linearizable read may take before it is given up: etcd's 5 s plus two election timeouts.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

/// Pause before a request that met no leader tries again.
const NO_LEADER_PAUSE: Duration = Duration::from_millis(50);

/// The largest command: a 1.5 MiB request with its overhead, as etcd bounds a proposal.
pub const MAX_COMMAND_BYTES: usize = (1 << 20) + (1 << 19) + (64 << 10);

/// A leader that was silent, or heard no quorum, for so many election timeouts leads no more as far as anybody can tell.
const SILENT_ELECTIONS: u32 = 4;

/// Peers whose last word is remembered; beyond that, those who have been silent for long are forgotten.
const MAX_HEARD: usize = 1024;

/// The node's shared parts. Everything that runs holds an `Arc` of it.
pub(crate) struct Core {
    pub config: Config,
    pub cluster_id: u64,
    /// The lost cluster that this one was made from, if this directory was made by a recovery (B17).
    pub origin: Option<Origin>,
    pub node_id: u64,
    /// Where peers reach this node.
    pub address: String,
    pub flusher: Arc<Flusher>,
    pub applier: Arc<Applier>,
    pub keeper: Arc<Keeper>,
    pub peers: Arc<Peers>,
    pub tree: TreeHandle,
    /// Up to where this node knows the log committed (S5: nothing beyond goes downstream).
    pub committed: Committed,
    pub status: watch::Sender<Status>,
    pub events: broadcast::Sender<NodeEvent>,
    pub counters: Mutex<Counters>,
    /// What the node is: may change while it runs.
    pub role: RwLock<RoleState>,
    /// When each peer was last heard, to rank alternatives (B2).
    pub heard: Mutex<HashMap<u64, Instant>>,
    pub stopping: watch::Sender<bool>,
    /// The commands that this node has taken on.
    pub admission: Arc<Admission>,
    /// Reads that wait for a read index.
    pub reads: Reads,
    /// The link a listener takes entries from.
    pub following: Following,
    /// The time without an upstream that a listener is in.
    pub unfed: Unfed,
    /// Whether an upstream found this node's log to differ.
    pub differing: Differing,
    /// The listeners that are fed, and how far each is.
    pub edges: Edges,
    /// Processor time spent on them (B18).
    pub feed_cpu: CpuMeter,
    /// Open connections that peers made to this node, by purpose.
    pub connections: Connections,
    /// Numbers the connections from downstreams.
    pub next_link: AtomicU64,
    /// Snapshots, sent and received.
    pub snapshots: Snapshots,
    /// Keeps a listener's applying and its installing of a snapshot apart.
    pub apply_turn: tokio::sync::Mutex<()>,
    /// Held while the tree loop's file is written. Who stops the node waits for it: the next one in this directory writes it, too.
    pub save_turn: tokio::sync::Mutex<()>,
    /// Where this node's random numbers come from.
    pub random: Mutex<SmallRng>,
    /// This node's time in its present role; locked by whoever changes the role.
    pub tenure: tokio::sync::Mutex<Tenure>,
    /// The change of roles that this node, as leader, carries out or has carried out last.
    pub changes: Changes,
}

/// The part of a node that depends on its role.
#[derive(Clone)]
pub(crate) enum RoleState {
    Voter(Arc<Consensus>),
    Listener,
}

/// Where a request goes that is for the leader.
pub(crate) enum Up {
    /// This node leads.
    Here(Arc<Consensus>),
    /// One hop further: `leader_only` says whether that must be the leader itself.
    At { address: String, leader_only: bool },
    /// Nobody knows: why.
    Nowhere(String),
}

impl Core {
    /// This voter's Raft, if it is a voter.
    pub fn consensus(&self) -> Option<Arc<Consensus>> {
        match &*self.role.read().unwrap() {
            RoleState::Voter(consensus) => Some(consensus.clone()),
            RoleState::Listener => None,
        }
    }

    /// The group as far as this node knows.
    pub fn membership(&self) -> Membership {
        match self.consensus() {
            Some(consensus) => consensus.view().membership,
            None => self.applier.membership().borrow().clone(),
        }
    }

    /// This node as the membership shows it.
    pub fn me(&self) -> Member {
        Member {
            id: self.node_id,
            name: self.config.name.clone(),
            peer_address: self.address.clone(),
            client_urls: self.config.client_urls.clone(),
        }
    }

    pub fn positions(&self) -> Positions {
        let committed = self.committed.get();
        Positions {
            committed: committed.map_or(0, |id| id.index),
            applied: self.applier.applied().borrow().map_or(0, |id| id.index),
            last: self.flusher.log().last_id().map_or(0, |id| id.index),
            committed_term: committed.map_or(0, |id| id.term),
        }
    }

    pub fn count(&self, add: impl FnOnce(&mut Counters)) {
        add(&mut self.counters.lock().unwrap());
    }

    /// Notes that a peer was heard just now.
    pub fn hear(&self, peer: u64) {
        let mut heard = self.heard.lock().unwrap();
        if heard.len() >= MAX_HEARD && !heard.contains_key(&peer) {
            heard.retain(|_, at| at.elapsed() < REQUEST_TIMEOUT);
        }
        heard.insert(peer, Instant::now());
    }

    /// How long ago a peer was heard.
    pub fn heard_ago(&self, peer: u64) -> Option<Duration> {
        self.heard.lock().unwrap().get(&peer).map(|at| at.elapsed())
    }

    /// The leader a voter knows, unless it has been silent for so long that it can hardly lead any more.
    pub fn live_leader(&self, view: &VoterView) -> Option<u64> {
        let silence = SILENT_ELECTIONS * self.config.raft.election_timeout;
        view.leader.filter(|leader| {
            let heard_ago = match *leader == self.node_id {
                true => self
                    .consensus()
                    .and_then(|consensus| consensus.quorum_heard_ago()),
                false => self.heard_ago(*leader),
            };
            heard_ago.is_none_or(|ago| ago < silence)
        })
    }

    /// What a voter is to those who ask: Raft leaves a leader that lost its quorum in office, where it can do nothing.
    pub fn live_role(&self, view: &VoterView) -> Role {
        match view.role {
            Role::Leader if self.live_leader(view).is_none() => Role::Candidate,
            role => role,
        }
    }

    /// Proposes a command, here or up the tree. Returns one past its index and the answer. While there is no leader it waits, up to
    /// `deadline`, since nothing has been proposed then.
    pub async fn write(
        &self,
        command: Bytes,
        leader_only: bool,
        deadline: Instant,
    ) -> Result<(u64, Bytes), WriteError> {
        if command.len() > MAX_COMMAND_BYTES {
            return Err(WriteError::TooLarge(command.len()));
        }
        let share = Arc::new(self.admission.take(command.len())?);
        loop {
            let attempt = tokio::time::timeout_at(
                deadline,
                self.write_once(command.clone(), &share, leader_only, deadline),
            )
            .await;
            let error = match attempt {
                Ok(Err(WriteError::NoLeader(why))) => WriteError::NoLeader(why),
                Ok(result) => return result,
                Err(_) => return Err(WriteError::Unknown("no answer in time".into())),
            };
            if leader_only || Instant::now() + NO_LEADER_PAUSE >= deadline {
                return Err(error);
            }
            tokio::time::sleep(NO_LEADER_PAUSE).await;
        }
    }

    async fn write_once(
        &self,
        command: Bytes,
        share: &Arc<Share>,
        leader_only: bool,
        deadline: Instant,
    ) -> Result<(u64, Bytes), WriteError> {
        match self.up(leader_only) {
            Up::Here(_) if self.flusher.log().stats().waiting_bytes > MAX_UNFLUSHED_BYTES => {
                Err(self.admission.refuse())
            }
            Up::Here(consensus) => {
                share.propose()?;
                let written = consensus.write(command, share.clone()).await;
                if matches!(written, Err(WriteError::NoLeader(_))) {
                    share.withdraw();
                }
                written
            }
            Up::Nowhere(why) => Err(WriteError::NoLeader(why)),
            Up::At {
                address,
                leader_only,
            } => {
                self.count(|counters| counters.writes_forwarded += 1);
                let call = Call::Write(ForwardCall { leader_only });
                let left = deadline.saturating_duration_since(Instant::now());
                match self
                    .peers
                    .call(&address, Purpose::Forward, call, &command, left)
                    .await
                {
                    Ok((Reply::Written(written), answer)) => Ok((written.end, answer)),
                    Ok(_) => Err(WriteError::Unknown(format!(
                        "peer {address} answered another question"
                    ))),
                    Err(error) => Err(write_error(error)),
                }
            }
        }
    }

    /// Asks for a read index, here or up the tree: one past the index a linearizable read must have seen.
    /// [`Reads`] merges those who need one.
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, ReadError> {
        match self.up(false) {
            Up::Here(consensus) => {
                self.count(|counters| counters.read_index_rounds += 1);
                tokio::time::timeout_at(deadline, consensus.read_index())
                    .await
                    .unwrap_or_else(|_| {
                        Err(ReadError::NoLeader("no quorum answers the leader".into()))
                    })
            }
            Up::Nowhere(why) => Err(ReadError::NoLeader(why)),
            Up::At {
                address,
                leader_only,
            } => {
                self.count(|counters| counters.read_index_sent += 1);
                let call = Call::ReadIndex(ForwardCall { leader_only });
                let left = deadline.saturating_duration_since(Instant::now());
                match self
                    .peers
                    .call(&address, Purpose::Forward, call, &[], left)
                    .await
                {
                    Ok((Reply::ReadIndex(read), _)) => Ok(read.end),
                    Ok(_) => Err(ReadError::NoLeader(format!(
                        "peer {address} answered another question"
                    ))),
                    Err(error) => Err(ReadError::NoLeader(error.to_string())),
                }
            }
        }
    }

    /// A number that nobody else has.
    pub fn random_number(&self) -> u64 {
        self.random.lock().unwrap().next_u64()
    }

    /// Reads entries; those that left the cache on a thread where a disk may be slow (B10).
    pub async fn read_log(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<Frame>, eaves_log::ReadError> {
        let log = self.flusher.log().clone();
        match log.is_cached(from) {
            true => log.read(from, to, max_bytes),
            false => {
                let reading = move || log.read(from, to, max_bytes);
                self.config
                    .blocking
                    .run(reading)
                    .await
                    .expect("a read ends")
            }
        }
    }

    /// Waits until everything below `end` is applied here.
    pub async fn applied(&self, end: u64, deadline: Instant) -> Result<(), ReadError> {
        let mut applied = self.applier.applied();
        let reached = applied.wait_for(|applied| applied.map_or(0, |id| id.index + 1) >= end);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped("the node is stopping".into())),
            Err(_) => {
                let receiving = match self.snapshots.progress() {
                    Some(_) => ", where a snapshot is being received",
                    None => "",
                };
                Err(ReadError::Timeout(format!(
                    "index {} to be applied here{receiving}",
                    end - 1
                )))
            }
        }
    }

    /// Where a request for the leader goes from here.
    pub fn up(&self, leader_only: bool) -> Up {
        let Some(consensus) = self.consensus() else {
            return match self.tree.upstream() {
                Some(upstream) => Up::At {
                    address: upstream.address,
                    leader_only: false,
                },
                None => Up::Nowhere("this listener is detached".into()),
            };
        };
        let view = consensus.view();
        if view.role == Role::Leader {
            return Up::Here(consensus);
        }
        match view
            .leader
            .filter(|leader| *leader != self.node_id)
            .and_then(|leader| view.membership.members.get(&leader))
        {
            // A voter asks the leader and nobody else, so that two that are wrong about it do not ask each other in circles.
            Some(_) if leader_only => Up::Nowhere("this voter does not lead".into()),
            Some(leader) => Up::At {
                address: leader.peer_address.clone(),
                leader_only: true,
            },
            None => Up::Nowhere("the group has no leader".into()),
        }
    }

    /// A step of a change of role is done: an observer may hold the node here.
    pub async fn step(&self, step: Step) {
        if let Some(observer) = &self.config.step_observer {
            observer.reached(&self.config.name, step).await;
        }
    }

    /// Publishes a change of role or place.
    pub fn update_status(&self, update: impl FnOnce(&mut Status)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            update(status);
            *status != before
        });
    }

    /// Something broke for good: says so, and stops the node.
    pub fn fail(&self, what: &str, error: impl std::fmt::Display) {
        let text = format!("{what}: {error}");
        tracing::error!("{text}");
        // Perhaps it is space that was missing, and the next start needs some.
        self.snapshots.inbox.give_back();
        let _ = self.events.send(NodeEvent::Failed(text));
        self.stopping.send_replace(true);
    }
}

fn write_error(error: CallError) -> WriteError {
    match error.reason() {
        Some(Reason::Busy) => WriteError::Busy,
        // A reason this version does not know may mean anything.
        Some(Reason::OutcomeUnknown | Reason::Unknown) => WriteError::Unknown(error.to_string()),
        Some(_) => WriteError::NoLeader(error.to_string()),
        None => match error {
            CallError::NotSent(_) => WriteError::NoLeader(error.to_string()),
            CallError::Lost(_) | CallError::Rejected(_) => WriteError::Unknown(error.to_string()),
        },
    }
}

impl From<WriteError> for Reject {
    fn from(error: WriteError) -> Reject {
        let reason = match error {
            WriteError::NoLeader(_) => Reason::NoLeader,
            WriteError::Unknown(_) => Reason::OutcomeUnknown,
            WriteError::Busy => Reason::Busy,
            WriteError::TooLarge(_) => Reason::Invalid,
            WriteError::Stopped(_) => Reason::Stopped,
        };
        // The node below says again what the reason is.
        let text = match error {
            WriteError::NoLeader(why) | WriteError::Unknown(why) => why,
            other => other.to_string(),
        };
        Reject::new(reason, text)
    }
}

impl From<ReadError> for Reject {
    fn from(error: ReadError) -> Reject {
        let reason = match error {
            ReadError::NoLeader(_) | ReadError::LeaderChanged | ReadError::Timeout(_) => {
                Reason::NoLeader
            }
            ReadError::Stopped(_) => Reason::Stopped,
        };
        let text = match error {
            ReadError::NoLeader(why) => why,
            other => other.to_string(),
        };
        Reject::new(reason, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_said_once_however_many_nodes_pass_it_on() {
        let mut read = ReadError::NoLeader("nobody leads".into());
        let mut write = WriteError::Unknown("the leader is gone".into());
        for _ in 0..3 {
            read = ReadError::NoLeader(Reject::from(read).text);
            write = write_error(CallError::Rejected(write.into()));
        }
        assert_eq!(read.to_string(), "no leader: nobody leads");
        assert_eq!(write.to_string(), "outcome unknown: the leader is gone");
    }

    /// What was not done is tried again, so it must be certain that it was not.
    #[test]
    fn a_write_whose_answer_is_lost_may_have_been_done() {
        let told = |error| write_error(error).to_string();
        let lost = told(CallError::Lost("connection closed".into()));
        assert_eq!(lost, "outcome unknown: connection closed");
        let not_sent = told(CallError::NotSent("connection refused".into()));
        assert_eq!(not_sent, "no leader: connection refused");
    }
}
