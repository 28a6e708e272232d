//! The KV service: writes go through consensus, reads to the local store.
//!
//! ```text
//! Put, DeleteRange, Txn, Compact   check -> command bytes -> Node::write -> answer bytes -> response
//! Range, Txn that only reads       check -> what the read demands (a read index, an age, a revision) -> Store
//! ```
//!
//! `Node::write` returns once the command is applied on this very node, so a client that reads its own write here finds it.

use super::{
    errors::write_failed,
    freshness::{Demand, STALENESS},
    partial::NoStream,
    replica::Replica,
    validate,
};
use crate::{
    proto::etcdserverpb::{kv_server::Kv, *},
    store::{KvCommand, KvError, Store, decode_answer},
};
use prost::Message;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// In a store of at most this many keys any range is read at once, in well under a millisecond.
const QUICK_RANGE_KEYS: usize = 1000;

#[derive(Clone)]
pub(crate) struct KvService(pub Replica);

impl KvService {
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
        let turn = self.0.long_reads.acquire().await;
        let _turn = turn.map_err(|_| KvError::Stopped)?;
        // It fails only when the runtime shuts down.
        tokio::task::spawn_blocking(move || read(&store))
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

/// An answer that says how old the state was at most, if its read limited that. Rounded up: the truth is never later.
fn telling<M>(staleness: Option<Duration>, message: M) -> Response<M> {
    let mut response = Response::new(message);
    if let Some(staleness) = staleness {
        let milliseconds = staleness.as_nanos().div_ceil(1_000_000) as u64;
        response
            .metadata_mut()
            .insert(STALENESS, milliseconds.into());
    }
    response
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let demand = Demand::of(&request)?;
        let request = request.into_inner();
        validate::range(&request)?;
        let staleness = demand.met(&self.0, request.serializable).await?;
        let quick = self.is_quick(&request);
        let mut response = self.read(quick, move |store| store.range(&request)).await?;
        self.complete(&mut response.header);
        Ok(telling(staleness, response))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = request.into_inner();
        validate::put(&request)?;
        let mut response: PutResponse = self.write(KvCommand::Put(request)).await?;
        self.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let request = request.into_inner();
        validate::delete_range(&request)?;
        let mut response: DeleteRangeResponse = self.write(KvCommand::DeleteRange(request)).await?;
        self.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let demand = Demand::of(&request)?;
        let request = request.into_inner();
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
        Ok(telling(staleness, response))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let request = request.into_inner();
        let mut response: CompactionResponse = self.write(KvCommand::Compact(request)).await?;
        if request.physical {
            self.scrubbed(request.revision).await?;
        }
        self.complete(&mut response.header);
        Ok(Response::new(response))
    }

    type RangeStreamStream = NoStream<RangeStreamResponse>;

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented(
            "eaves: streams of ranges are not supported yet: use Range with a limit",
        ))
    }
}
