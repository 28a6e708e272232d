//! openraft's outgoing side: one object per peer and purpose, over the node's peer connections.
//!
//! Replication is one pipelined connection per follower, on which entries travel as the log's own bytes. Votes, heartbeats and
//! transfers are calls on the control connection, so that none of them waits behind a batch of entries.

use super::convert::{
    append_packet, stream_result, transfer_call, unary_response, vote_call, vote_response,
};
use super::machine::SnapshotData;
use super::types::Types;
use crate::core::Core;
use crate::member::Member;
use crate::message::{Call, Purpose, Reply};
use crate::peer::client::{CallError, Greeted, Peers};
use crate::snapshot;
use crate::wire::{Kind, PacketReader, write_packet};
use futures_util::{Stream, StreamExt};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Makes the connections of one openraft instance.
pub(crate) struct Network {
    peers: Arc<Peers>,
    core: Weak<Core>,
}

impl Network {
    pub fn new(peers: Arc<Peers>, core: Weak<Core>) -> Network {
        Network { peers, core }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, member: &Member) -> Link {
        Link {
            peers: self.peers.clone(),
            core: self.core.clone(),
            target,
            address: member.peer_address.clone(),
            beats: false,
        }
    }

    /// Raft sends every heartbeat as a stream of one request, which would be a new connection each.
    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Link {
        Link {
            beats: true,
            ..self.new_client(target, member).await
        }
    }
}

/// The way to one voter.
pub(crate) struct Link {
    peers: Arc<Peers>,
    /// Whose snapshots are sent. The node owns this, and not the other way round.
    core: Weak<Core>,
    target: u64,
    address: String,
    /// Carries heartbeats: as calls on the control connection, where no batch of entries is before them.
    beats: bool,
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type Results<'a> =
    Pin<Box<dyn Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> + Send + 'a>>;

impl Link {
    async fn control(
        &self,
        call: Call,
        tail: &[u8],
        option: &RPCOption,
    ) -> Result<Reply, RPCError<Types>> {
        // Anybody refuses a pre-vote: a removed voter that took this for a sign of its leader would never ask whether it still votes.
        let is_sign = !matches!(call, Call::PreVote(_));
        let called = self
            .peers
            .call_node(
                (self.target, &self.address),
                Purpose::Control,
                call,
                tail,
                option.soft_ttl(),
            )
            .await;
        if let (true, Ok(_), Some(core)) = (is_sign, &called, self.core.upgrade()) {
            core.hear(self.target);
        }
        called
            .map(|(reply, _)| reply)
            .map_err(|error| self.failed(error))
    }

    fn failed(&self, error: CallError) -> RPCError<Types> {
        match error {
            CallError::NotSent(_) | CallError::Rejected(_) => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
            CallError::Lost(_) => RPCError::Network(NetworkError::new(&error)),
        }
    }

    fn broken(&self, error: io::Error) -> RPCError<Types> {
        RPCError::Network(NetworkError::new(&error))
    }

    /// An answer to another question: the peer is out of order.
    fn confused(&self) -> RPCError<Types> {
        self.broken(io::Error::other(format!(
            "voter {:x} at {} answered another question",
            self.target, self.address
        )))
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let (head, pieces) = append_packet(&request);
        match self
            .control(Call::Append(head), &pieces.concat(), &option)
            .await?
        {
            Reply::Appended(appended) => {
                unary_response(appended).map_err(|error| self.broken(error))
            }
            _ => Err(self.confused()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> Boxed<'s, Result<Results<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        if self.beats {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            // Raft waits between attempts inside its stream: who connects first would try again without any pause.
            let mut input = input;
            let Some(first) = input.next().await else {
                return Ok(futures_util::stream::empty().boxed() as Results<'s>);
            };
            let input = futures_util::stream::iter([first]).chain(input);
            let connecting = tokio::time::timeout(
                option.hard_ttl().max(crate::net::CONNECT_TIMEOUT),
                self.peers
                    .connect_node((self.target, &self.address), Purpose::Append),
            );
            let greeted = match connecting.await {
                Ok(connected) => connected.map_err(|error| self.failed(error))?,
                Err(_) => return Err(self.broken(io::ErrorKind::TimedOut.into())),
            };
            let Greeted { reader, writer, .. } = greeted;
            // Ends when the returned stream is dropped, and with it the sending.
            let sending = Abort(tokio::spawn(send_requests(input, writer)));
            let results =
                futures_util::stream::unfold(Some((reader, sending)), move |state| async move {
                    let (mut reader, sending) = state?;
                    match next_result(&mut reader).await {
                        Ok(Some(result)) => Some((Ok(result), Some((reader, sending)))),
                        // Every request is answered: we ended the sending, and the peer has nothing left to say.
                        Ok(None) if sending.0.is_finished() => None,
                        Ok(None) => {
                            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                            Some((Err(RPCError::Network(NetworkError::new(&error))), None))
                        }
                        Err(error) => {
                            Some((Err(RPCError::Network(NetworkError::new(&error))), None))
                        }
                    }
                });
            Ok(results.boxed() as Results<'s>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self
            .control(Call::Vote(vote_call(&request)), &[], &option)
            .await?
        {
            Reply::Vote(reply) => Ok(vote_response(reply)),
            _ => Err(self.confused()),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self
            .control(Call::PreVote(vote_call(&request)), &[], &option)
            .await?
        {
            Reply::Vote(reply) => Ok(vote_response(reply)),
            _ => Err(self.confused()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotData::Source(source) = snapshot.snapshot else {
            let error = io::Error::other("a received snapshot cannot be sent on");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        };
        let Some(core) = self.core.upgrade() else {
            let error = io::Error::other("the node is stopping");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        };
        let sending = snapshot::push(&core, (self.target, &self.address), (&vote).into(), source);
        tokio::select! {
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote.into())),
                Err(error) => Err(StreamingError::Network(NetworkError::new(&error))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self
            .control(Call::TransferLeader(transfer_call(&request)), &[], &option)
            .await?
        {
            Reply::Done(_) => Ok(Ok(())),
            _ => Err(self.confused()),
        }
    }
}

/// A task that ends when its owner goes.
struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send_requests<S>(mut input: S, mut writer: Box<dyn AsyncWrite + Send + Unpin>)
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    while let Some(request) = input.next().await {
        let (head, pieces) = append_packet(&request);
        if let Err(error) = write_packet(&mut writer, Kind::Append, &head, &pieces).await {
            // The reading side sees the same connection end and reports it.
            tracing::debug!("stop sending entries: {error}");
            return;
        }
    }
    let _ = writer.shutdown().await;
}

/// The next answer; `None` when the peer has closed the connection between two.
async fn next_result(reader: &mut PacketReader) -> io::Result<Option<StreamAppendResult<Types>>> {
    match reader.next().await? {
        Some(packet) => stream_result(packet.expect(Kind::Appended)?).map(Some),
        None => Ok(None),
    }
}
