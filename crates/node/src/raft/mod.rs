//! Consensus: openraft, and everything that knows its types.
//!
//! The rest of the node sees [`Consensus`]: propose, ask for a read index, hand in what peers sent, watch what this voter is. The
//! settings are the ones that openraft leaves to its users and that matter for correctness; each says why.

#[cfg(test)]
mod conformance;
mod convert;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod log_store;
mod machine;
mod membership;
mod network;
mod office;
mod types;

pub(crate) use membership::ChangeError;
pub(crate) use types::VoteBytes;

use crate::admission::{MAX_UNFLUSHED_BYTES, Share};
use crate::applier::Applier;
use crate::blocking::Blocking;
use crate::committed::Committed;
use crate::core::Core;
use crate::error::{ReadError, WriteError};
use crate::flusher::Flusher;
use crate::keeper::Keeper;
use crate::member::{Member, Membership};
use crate::message::{AppendHead, AppendedHead, TransferCall, VoteCall, VoteReply};
use crate::peer::client::Peers;
use crate::position::Applied;
use crate::status::Role;
use crate::wire::{Kind, PacketReader, garbage, put_packet};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use log_store::{DurableVote, LogStore};
use machine::{Fence, Machine, SnapshotData, meta};
use office::Office;
use openraft::async_runtime::WatchReceiver as _;
use openraft::error::{ClientWriteError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::{AppendEntriesResponse, ClientWriteResult};
use openraft::type_config::alias::OneshotReceiverOf;
use openraft::{Raft, ServerState, SnapshotPolicy};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use types::{Data, Types};

/// A heartbeat is answered within this part of the time until the next, if this voter can answer it by itself.
const BEAT_PATIENCE_DIVISOR: u32 = 10;

/// Raft's times, named as etcd names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTimes {
    /// How often a leader that has nothing to say says so. etcd's default, 100 ms.
    pub heartbeat_interval: Duration,
    /// How long a follower waits for that before it stands for election: between once and twice this.
    pub election_timeout: Duration,
}

impl Default for RaftTimes {
    fn default() -> Self {
        RaftTimes {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(500),
        }
    }
}

/// What this voter is, as it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VoterView {
    pub role: Role,
    pub term: u64,
    pub leader: Option<u64>,
    pub membership: Membership,
}

/// A running voter.
pub(crate) struct Consensus {
    id: u64,
    raft: Raft<Types, Machine>,
    flusher: Arc<Flusher>,
    durable_vote: DurableVote,
    /// How long a heartbeat waits for Raft's own answer.
    beat_patience: Duration,
    peers: Arc<Peers>,
    /// How long a leader waits for a quorum to confirm it.
    confirm_timeout: Duration,
    fence: Fence,
    /// Held by whoever changes the membership.
    changing: tokio::sync::Mutex<()>,
}

impl Consensus {
    /// Opens Raft on the node's log and state.
    pub async fn start(
        id: u64,
        times: RaftTimes,
        snapshot_entries: u64,
        parts: (Arc<Flusher>, Arc<Applier>, Arc<Keeper>, Arc<Peers>),
        blocking: Blocking,
        committed: Committed,
        core: Weak<Core>,
    ) -> io::Result<Consensus> {
        let (flusher, applier, keeper, peers) = parts;
        let fence = Fence::default();
        let log = LogStore::new(flusher.clone(), applier.clone(), committed);
        let durable_vote = log.durable_vote();
        let machine = Machine::new(applier, keeper, fence.clone(), blocking);
        let config = Arc::new(
            settings(times, snapshot_entries)
                .validate()
                .map_err(io::Error::other)?,
        );
        let network = network::Network::new(peers.clone(), core);
        let raft = Raft::new(id, config, network, log, machine)
            .await
            .map_err(io::Error::other)?;
        Ok(Consensus {
            id,
            raft,
            flusher,
            durable_vote,
            beat_patience: times.heartbeat_interval / BEAT_PATIENCE_DIVISOR,
            peers,
            confirm_timeout: times.election_timeout,
            fence,
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// Starts a new group. Every founder may call it, with the same members; those that already have a log ignore it.
    pub async fn found(&self, members: &[Member]) -> io::Result<()> {
        let members: BTreeMap<u64, Member> = members
            .iter()
            .map(|member| (member.id, types::keyed(member.clone())))
            .collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(openraft::error::InitializeError::NotAllowed(_))) => {
                Ok(())
            }
            Err(error) => Err(io::Error::other(format!("found the group: {error}"))),
        }
    }

    /// Proposes a command. Returns one past its index, and the state machine's answer. `share` is kept until the outcome is known, even
    /// when the caller gives up before.
    pub async fn write(
        &self,
        command: Bytes,
        share: Arc<Share>,
    ) -> Result<(u64, Bytes), WriteError> {
        let (responder, answer) = ProgressResponder::complete_only();
        self.raft
            .client_write_ff(Data(command), Some(responder))
            .await
            .map_err(|fatal| WriteError::Unknown(fatal.to_string()))?;
        let proposed = Proposed {
            answer: Some(answer),
            share: Some(share),
        };
        match proposed.outcome().await {
            Some(Ok(written)) => Ok((written.log_id.index + 1, written.data)),
            Some(Err(ClientWriteError::ForwardToLeader(_))) => {
                Err(WriteError::NoLeader("this voter does not lead".into()))
            }
            Some(Err(error)) => Err(WriteError::Unknown(error.to_string())),
            None => Err(WriteError::Unknown(
                "Raft stopped before it answered".into(),
            )),
        }
    }

    /// One past the index that a linearizable read must have seen (Raft dissertation 6.4).
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let id = self.id;
        let office = self
            .raft
            .with_raft_state(move |state| Office::of(id, state))
            .await
            .map_err(|fatal| ReadError::Stopped(fatal.to_string()))?;
        let no_leader = |why: &str| ReadError::NoLeader(why.into());
        let office = office.ok_or_else(|| no_leader("this voter does not lead"))?;
        let end = office
            .committed_end()
            .ok_or_else(|| no_leader("the leader is too new to know what is committed"))?;
        match office.is_confirmed(&self.peers, self.confirm_timeout).await {
            true => Ok(end),
            false => Err(no_leader("no quorum says that this voter leads")),
        }
    }

    /// Whether this voter follows who leads by `vote`, and has promised nobody else to follow. A promise is given when it is on disk.
    pub fn follows(&self, vote: &VoteBytes) -> bool {
        self.durable_vote.is(vote)
    }

    /// Whether this voter leads right now.
    pub fn is_leader(&self) -> bool {
        self.view().role == Role::Leader
    }

    /// What this voter is right now.
    pub fn view(&self) -> VoterView {
        let metrics = self.raft.server_metrics();
        let now = metrics.borrow_watched();
        let role = match now.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower | ServerState::Learner | ServerState::Shutdown => Role::Follower,
        };
        VoterView {
            role,
            term: now.vote.leader_id().term,
            // A node that led when its term's vote was saved and does not now, after a restart or a demotion, still finds itself there.
            leader: now
                .current_leader
                .filter(|leader| *leader != now.id || role == Role::Leader),
            membership: types::membership_from_raft(now.membership_config.membership()),
        }
    }

    /// Calls `changed` whenever the view may have changed; ends with the voter.
    pub async fn watch(&self, mut changed: impl FnMut(VoterView)) {
        let mut metrics = self.raft.server_metrics();
        loop {
            changed(self.view());
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// What ended this voter, when nobody told it to stop.
    pub fn why_stopped(&self) -> String {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        match &now.running_state {
            Err(fatal) => fatal.to_string(),
            Ok(()) => "it has stopped; the log above says why".to_owned(),
        }
    }

    pub async fn handle_vote(&self, call: VoteCall) -> io::Result<VoteReply> {
        check_other(call.vote, self.id)?;
        let answer = self
            .raft
            .vote(convert::vote_request(call))
            .await
            .map_err(io::Error::other)?;
        Ok(convert::vote_reply(&answer))
    }

    pub async fn handle_pre_vote(&self, call: VoteCall) -> io::Result<VoteReply> {
        check_other(call.vote, self.id)?;
        let answer = self
            .raft
            .pre_vote(convert::vote_request(call))
            .await
            .map_err(io::Error::other)?;
        Ok(convert::vote_reply(&answer))
    }

    pub async fn handle_transfer(&self, call: TransferCall) -> io::Result<()> {
        check_leader(call.from_leader, self.id)?;
        let answer = self
            .raft
            .handle_transfer_leader(convert::transfer_request(call))
            .await
            .map_err(io::Error::other)?;
        answer.map_err(io::Error::other)
    }

    /// Takes entries, or a heartbeat, from the leader.
    ///
    /// Raft answers a heartbeat when all entries that came before it are on disk. A leader whose followers have slow disks would hear
    /// nothing for that long, and give up its office (`quorum_loss_probe_interval`). But what its heartbeat asks is whether this voter
    /// has promised to follow it and has promised nobody else since, and that is so while the vote on disk is the leader's: who would
    /// vote for another answers that vote only after the other's is on disk.
    pub async fn handle_append(&self, head: AppendHead, tail: Bytes) -> io::Result<AppendedHead> {
        check_leader(head.vote, self.id)?;
        let is_heartbeat = tail.is_empty();
        let request = convert::append_request(head, tail)?;
        let mut answering = std::pin::pin!(self.raft.append_entries(request));
        let mut answer = None;
        if is_heartbeat {
            let in_time = tokio::time::timeout(self.beat_patience, &mut answering).await;
            if in_time.is_err() && self.durable_vote.is(&head.vote) {
                answer = Some(AppendEntriesResponse::Success);
            }
            if let Ok(in_time) = in_time {
                answer = Some(in_time.map_err(io::Error::other)?);
            }
        }
        let answer = match answer {
            Some(answer) => answer,
            None => answering.await.map_err(io::Error::other)?,
        };
        Ok(convert::unary_outcome(head.prev_log_id, answer))
    }

    /// Serves a leader's replication connection until it ends. `heard` is called for every request.
    pub async fn serve_append(
        &self,
        reader: PacketReader,
        mut writer: Box<dyn AsyncWrite + Send + Unpin>,
        heard: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        let (failed, failure) = tokio::sync::oneshot::channel();
        let (id, flusher) = (self.id, self.flusher.clone());
        let requests = futures_util::stream::unfold(
            (reader, Some(failed)),
            move |(mut reader, mut failed)| {
                heard();
                let flusher = flusher.clone();
                async move {
                    let next = async {
                        // Entries stay in memory until they are on disk: a slow one holds the leader back.
                        flusher.room(MAX_UNFLUSHED_BYTES).await?;
                        match reader.next().await? {
                            Some(packet) => {
                                let head: AppendHead = packet.expect(Kind::Append)?;
                                check_leader(head.vote, id)?;
                                Ok(Some(convert::append_request(head, packet.tail.clone())?))
                            }
                            None => Ok::<_, io::Error>(None),
                        }
                    };
                    match next.await {
                        Ok(request) => Some((request?, (reader, failed))),
                        Err(error) => {
                            let _ = failed.take().map(|failed| failed.send(error));
                            None
                        }
                    }
                }
            },
        );
        let mut results = std::pin::pin!(self.raft.stream_append(requests));
        let mut out = BytesMut::new();
        while let Some(result) = results.next().await {
            let result = result.map_err(io::Error::other)?;
            put_packet(
                &mut out,
                Kind::Appended,
                &convert::stream_outcome(&result),
                &[],
            );
            writer.write_all(&out).await?;
            out.clear();
        }
        // The leader sees the end of the answers and closes; then the reading ends too.
        drop(writer);
        match failure.await {
            Ok(error) => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// This voter's own vote, if it is ahead of a leader's, who then leads no more.
    pub fn vote_ahead_of(&self, leader: VoteBytes) -> Option<VoteBytes> {
        let metrics = self.raft.server_metrics();
        let own = metrics.borrow_watched().vote;
        let leads = types::RaftVote::from(leader) >= own;
        (!leads).then(|| VoteBytes::from(&own))
    }

    /// Installs a snapshot that a leader pushed and that is complete beside the live state.
    pub async fn install(
        &self,
        vote: VoteBytes,
        sink: Box<dyn crate::state_machine::SnapshotSink>,
        at: Applied,
    ) -> io::Result<VoteBytes> {
        check_leader(vote, self.id)?;
        let snapshot = openraft::Snapshot {
            meta: meta(&at),
            snapshot: SnapshotData::Staged(sink, at),
        };
        let answer = self
            .raft
            .install_full_snapshot(vote.into(), snapshot)
            .await
            .map_err(io::Error::other)?;
        Ok((&answer.vote).into())
    }

    /// Tells Raft that entries up to and including `index` are on their way out.
    pub async fn purge(&self, index: u64) {
        if let Err(error) = self.raft.trigger().purge_log(index).await {
            tracing::debug!("purge Raft's log: {error}");
        }
    }

    /// Stops this voter and cuts it off the state machine; the log and the state stay for the next role.
    pub async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!("stop Raft: {error}");
        }
        // Waits for an apply or an install under way.
        self.fence.close();
    }
}

/// A command on its way through Raft. Whoever gives it up leaves its share with it.
struct Proposed {
    answer: Option<OneshotReceiverOf<Types, ClientWriteResult<Types>>>,
    share: Option<Arc<Share>>,
}

impl Proposed {
    /// What became of the command; `None` when Raft ended without saying so.
    async fn outcome(mut self) -> Option<ClientWriteResult<Types>> {
        let answer = self.answer.as_mut().expect("it is taken below only");
        let outcome = answer.await;
        self.answer = None;
        outcome.ok()
    }
}

impl Drop for Proposed {
    fn drop(&mut self) {
        let (answer, share) = (self.answer.take(), self.share.take());
        if let (Some(answer), Ok(runtime)) = (answer, tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let _ = answer.await;
                drop(share);
            });
        }
    }
}

/// Refuses what says that node `me` itself leads, or that nobody does, as a leader's message to `me`. openraft asserts that there is no
/// such thing, in debug builds, and takes it for its own in others. It comes from who has this node's id, or sent it to itself at the
/// address of another.
fn check_leader(vote: VoteBytes, me: u64) -> io::Result<()> {
    match vote.committed {
        true => check_other(vote, me),
        false => Err(garbage("a message of a leader whom nobody elected".into())),
    }
}

/// Refuses what says that it is of node `me` itself.
fn check_other(vote: VoteBytes, me: u64) -> io::Result<()> {
    match vote.voted_for == me {
        true => Err(garbage(
            "a message of Raft that says it is of the node it came to".into(),
        )),
        false => Ok(()),
    }
}

fn settings(times: RaftTimes, snapshot_entries: u64) -> openraft::Config {
    let election_ms = times.election_timeout.as_millis() as u64;
    openraft::Config {
        cluster_name: "eaves".into(),
        heartbeat_interval: times.heartbeat_interval.as_millis() as u64,
        election_timeout_min: election_ms,
        election_timeout_max: 2 * election_ms,
        // A restarted or partitioned voter must not disturb a working leader (dissertation 9.6).
        enable_pre_vote: Some(true),
        // Without it a partial partition can block elections for ever.
        quorum_loss_probe_interval: Some(4 * election_ms),
        // A stale vote for itself must not make a node a leader again after a change of role.
        enable_leader_restore: Some(false),
        allow_log_reversion: None,
        // What "caught up" means for a new member: a few entries, not thousands.
        replication_lag_threshold: 100,
        // One write's entries go out at once, not at the end of the core's turn.
        broadcast_submitted_on_append: Some(true),
        backoff: "50ms..1s".into(),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_entries),
        // The keeper says when the log goes, by size; a snapshot alone purges nothing.
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        // Bounded by bytes in the log store.
        max_payload_entries: 4096,
        install_snapshot_timeout: 10 * 60 * 1000,
        ..openraft::Config::default()
    }
}
