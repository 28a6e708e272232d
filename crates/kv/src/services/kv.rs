//! The KV service: writes go through consensus, reads to the local store.
//!
//! ```text
//! Put, DeleteRange, Txn, Compact   check -> command bytes -> Node::write -> answer bytes -> response
//! Range, Txn that only reads       check -> what the read demands (a read index, an age, a revision) -> Store
//! ```
//!
//! The service is not tonic's: it is most of what a node does, so nothing stands between it and HTTP/2, and a serializable read of
//! few keys is answered on the spot. `Node::write` returns once the command is applied on this very node, so a client that reads its own write here finds it.

use super::{errors::write_failed, freshness::Demand, replica::Replica, validate};
use crate::{
    proto::etcdserverpb::*,
    store::{KvCommand, KvError, Store, decode_answer},
};
use bytes::{Bytes, BytesMut};
use eaves_http2::Head;
use futures_util::future::BoxFuture;
use prost::Message;
use std::{sync::Arc, time::Duration};
use tonic::Status;

/// In a store of at most this many keys any range is read at once, in well under a millisecond.
const QUICK_RANGE_KEYS: usize = 1000;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KvService(Arc<Replica>);

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    RangeStream,
}

/// What a call leads to.
pub(crate) struct Reply {
    pub message: ReplyMessage,
    /// How old the state was at most, if its read limited that.
    pub staleness: Option<Duration>,
}

/// The message of a reply.
pub(crate) enum ReplyMessage {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
}

/// A call, begun.
pub(crate) enum Started {
    /// There was nothing to wait for.
    Done(Result<Reply, Status>),
    Waiting(BoxFuture<'static, Result<Reply, Status>>),
}

impl Method {
    /// By the last part of its path.
    pub fn named(name: &str) -> Option<Method> {
        Some(match name {
            "Range" => Method::Range,
            "Put" => Method::Put,
            "DeleteRange" => Method::DeleteRange,
            "Txn" => Method::Txn,
            "Compact" => Method::Compact,
            "RangeStream" => Method::RangeStream,
            _ => return None,
        })
    }

    /// Whether a call of it may propose a command.
    pub fn writes(self) -> bool {
        !matches!(self, Method::Range | Method::RangeStream)
    }
}

impl ReplyMessage {
    pub fn encoded_len(&self) -> usize {
        match self {
            ReplyMessage::Range(message) => message.encoded_len(),
            ReplyMessage::Put(message) => message.encoded_len(),
            ReplyMessage::DeleteRange(message) => message.encoded_len(),
            ReplyMessage::Txn(message) => message.encoded_len(),
            ReplyMessage::Compact(message) => message.encoded_len(),
        }
    }

    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            ReplyMessage::Range(message) => message.encode(out),
            ReplyMessage::Put(message) => message.encode(out),
            ReplyMessage::DeleteRange(message) => message.encode(out),
            ReplyMessage::Txn(message) => message.encode(out),
            ReplyMessage::Compact(message) => message.encode(out),
        }
        .expect("a growing buffer has room for any message");
    }
}

impl From<ReplyMessage> for Reply {
    fn from(message: ReplyMessage) -> Reply {
        Reply {
            message,
            staleness: None,
        }
    }
}

impl KvService {
    pub fn new(replica: Replica) -> KvService {
        KvService(Arc::new(replica))
    }

    /// Begins a call: its head, and its message without gRPC's frame.
    pub fn start(&self, method: Method, head: &Head, message: Bytes) -> Started {
        match method {
            Method::Range => self.start_range(head, message),
            Method::Put => self.wait(message, Self::put),
            Method::DeleteRange => self.wait(message, Self::delete_range),
            Method::Txn => match Demand::of(head) {
                Ok(demand) => self.wait(message, move |this, request| this.txn(demand, request)),
                Err(status) => Started::Done(Err(status)),
            },
            Method::Compact => self.wait(message, Self::compact),
            Method::RangeStream => Started::Done(Err(Status::unimplemented(
                "eaves: streams of ranges are not supported yet: use Range with a limit",
            ))),
        }
    }

    fn wait<M, F>(&self, message: Bytes, call: impl FnOnce(Self, M) -> F) -> Started
    where
        M: Message + Default,
        F: Future<Output = Result<Reply, Status>> + Send + 'static,
    {
        match decode(message) {
            Ok(request) => Started::Waiting(Box::pin(call(self.clone(), request))),
            Err(status) => Started::Done(Err(status)),
        }
    }

    /// A serializable read that demands nothing and finds little is over at once.
    fn start_range(&self, head: &Head, message: Bytes) -> Started {
        let checked = || -> Result<(Demand, RangeRequest), Status> {
            let demand = Demand::of(head)?;
            let request = decode(message)?;
            validate::range(&request)?;
            Ok((demand, request))
        };
        match checked() {
            Err(status) => Started::Done(Err(status)),
            Ok((demand, request))
                if request.serializable && demand.is_nothing() && self.is_quick(&request) =>
            {
                let response = self.0.store.range(&request).map_err(Status::from);
                Started::Done(response.map(|response| self.ranged(response, None)))
            }
            Ok((demand, request)) => {
                Started::Waiting(Box::pin(self.clone().range(demand, request)))
            }
        }
    }

    async fn range(self, demand: Demand, request: RangeRequest) -> Result<Reply, Status> {
        let staleness = demand.met(&self.0, request.serializable).await?;
        let quick = self.is_quick(&request);
        let response = self.read(quick, move |store| store.range(&request)).await?;
        Ok(self.ranged(response, staleness))
    }

    fn ranged(&self, mut response: RangeResponse, staleness: Option<Duration>) -> Reply {
        self.complete(&mut response.header);
        Reply {
            message: ReplyMessage::Range(response),
            staleness,
        }
    }

    async fn put(self, request: PutRequest) -> Result<Reply, Status> {
        validate::put(&request)?;
        let mut response: PutResponse = self.write(KvCommand::Put(request)).await?;
        self.complete(&mut response.header);
        Ok(ReplyMessage::Put(response).into())
    }

    async fn delete_range(self, request: DeleteRangeRequest) -> Result<Reply, Status> {
        validate::delete_range(&request)?;
        let mut response: DeleteRangeResponse = self.write(KvCommand::DeleteRange(request)).await?;
        self.complete(&mut response.header);
        Ok(ReplyMessage::DeleteRange(response).into())
    }

    async fn txn(self, demand: Demand, request: TxnRequest) -> Result<Reply, Status> {
        validate::txn(&request)?;
        let mut staleness = None;
        let mut response = if validate::txn_only_reads(&request) {
            let serializable = validate::txn_is_serializable(&request);
            staleness = demand.met(&self.0, serializable).await?;
            let quick = validate::ranges(&request).all(|range| self.is_quick(range));
            self.read(quick, move |store| store.txn_read_only(&request))
                .await?
        } else {
            // It sees everything before it, so whatever was demanded is there.
            self.write(KvCommand::Txn(request)).await?
        };
        self.complete(&mut response.header);
        Ok(Reply {
            message: ReplyMessage::Txn(response),
            staleness,
        })
    }

    async fn compact(self, request: CompactionRequest) -> Result<Reply, Status> {
        let mut response: CompactionResponse = self.write(KvCommand::Compact(request)).await?;
        if request.physical {
            self.scrubbed(request.revision).await?;
        }
        self.complete(&mut response.header);
        Ok(ReplyMessage::Compact(response).into())
    }

    /// Proposes `command` and waits for its answer.
    async fn write<M: Message + Default>(&self, command: KvCommand) -> Result<M, KvError> {
        let bytes = command.encode();
        // What waits for the disk is in memory once less without it.
        drop(command);
        validate::size(bytes.len())?;
        let answer = self.0.node.write(bytes).await.map_err(write_failed)?;
        decode_answer(answer)
    }

    /// Reads the store here when that is quick, and else on a thread where it delays nobody: a long range would hold up the very
    /// heartbeats that keep a leader in office.
    async fn read<T: Send + 'static>(
        &self,
        quick: bool,
        read: impl FnOnce(&Store) -> Result<T, KvError> + Send + 'static,
    ) -> Result<T, KvError> {
        if quick {
            return read(&self.0.store);
        }
        let store = self.0.store.clone();
        let turn = self.0.long_reads.clone().acquire_owned().await;
        let turn = turn.map_err(|_| KvError::Stopped)?;
        let read = move || {
            // It is over when the read is, also when nobody waits for that any more.
            let _turn = turn;
            read(&store)
        };
        // It fails only when the runtime shuts down.
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or(Err(KvError::Stopped))
    }

    fn is_quick(&self, request: &RangeRequest) -> bool {
        request.range_end.is_empty() || self.0.store.key_count() <= QUICK_RANGE_KEYS
    }

    /// Waits until nothing below the compacted `revision` is left on this node's disk.
    async fn scrubbed(&self, revision: i64) -> Result<(), KvError> {
        let mut scrubbed = self.0.store.scrubbed_revision();
        let done = scrubbed.wait_for(|scrubbed| *scrubbed >= revision).await;
        done.map(|_| ()).map_err(|_| KvError::Stopped)
    }

    /// Completes the header of an answer, which has only the revision, with who answers.
    fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.0.header_at(revision));
    }
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::internal(error.to_string()))
}
