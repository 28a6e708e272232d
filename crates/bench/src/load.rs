//! Puts load on a group, and counts what it costs.

use crate::group::Group;
use crate::processor::Meter;
use crate::results::Values;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use eaves_kv::proto::etcdserverpb::request_op::Request;
use eaves_kv::proto::etcdserverpb::{
    CompactionRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use eaves_server::address::Address;
use eaves_server::bench::{Measured, Operation, Plan, run_load};
use eaves_server::failure::{Failure, Outcome};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// After the load, until processor time is read: what a server puts off belongs to the load, and would be paid by who comes next.
pub const SETTLE: Duration = Duration::from_millis(1_000);
/// No answer takes longer, or the run is of no use.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Clients and connections by which a store is filled.
const FILLERS: u32 = 256;
const FILLING_CONNECTIONS: u32 = 8;

/// Puts in a transaction; servers take 128.
const TRANSACTION_PUTS: u64 = 100;
/// Keys that are put one by one all the same: twice as many as etcd has in its log between two snapshots.
const ONE_BY_ONE: u64 = 200_000;

/// A load.
#[derive(Clone, Debug)]
pub struct Load {
    /// What each request does.
    pub operation: Operation,
    /// Clients, each with one request under way at a time.
    pub clients: u32,
    /// Connections that they share.
    pub connections: u32,
    /// Keys to choose from.
    pub keys: u64,
    /// Requests per second; none: as fast as the clients go.
    pub rate: Option<u64>,
}

impl Load {
    /// Puts it on a server for `time`. A request that fails makes the run fail: figures of a server that refuses mean nothing.
    pub async fn drive(&self, server: Address, time: Duration) -> Outcome<Measured> {
        let plan = Plan {
            operation: self.operation.clone(),
            clients: self.clients,
            connections: self.connections,
            // A paced load prepares for all its requests.
            total: match self.rate {
                Some(rate) => (rate as f64 * time.as_secs_f64()).ceil() as u64,
                None => u64::MAX,
            },
            limit: Some(time),
            rate: self.rate,
            key_space: self.keys,
            in_turn: false,
            endpoints: vec![server.clone()],
            timeout: TIMEOUT,
        };
        run(plan).await
    }

    /// Puts it on the leader of a group and tells throughput, latencies and processor time per operation.
    pub async fn measure(&self, group: &Group, time: Duration) -> Outcome<Values> {
        let leader = group.leader().await?;
        let meter = Meter::start(group.processes())?;
        let measured = self.drive(group.address(leader), time).await?;
        tokio::time::sleep(SETTLE).await;
        let used = meter.end()?;
        let operations = measured.latencies.count() as f64;
        let microseconds = |seconds: f64| seconds / operations * 1e6;
        let quantile =
            |per_mille| measured.latencies.quantile(per_mille).as_nanos() as f64 / 1_000_000.0;
        let values = [
            (
                "throughput",
                operations / measured.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            ),
            ("p50", quantile(500)),
            ("p99", quantile(990)),
            ("max", quantile(1000)),
            ("server_cpu", microseconds(used.total())),
            ("leader_cpu", microseconds(used.each[leader])),
            ("client_cpu", microseconds(used.own)),
            ("others", used.others),
        ];
        Ok(values.map(|(name, value)| (name.to_owned(), value)).into())
    }
}

/// Puts every one of `keys` keys, values of so many bytes.
pub async fn fill(server: Address, keys: u64, value_bytes: usize) -> Outcome {
    fill_by(FILLERS, server, keys, value_bytes).await
}

/// The same, by so many clients.
pub async fn fill_by(clients: u32, server: Address, keys: u64, value_bytes: usize) -> Outcome {
    let plan = Plan {
        operation: Operation::put(value_bytes),
        clients,
        connections: FILLING_CONNECTIONS,
        total: keys,
        limit: None,
        rate: None,
        key_space: keys,
        in_turn: true,
        endpoints: vec![server],
        timeout: TIMEOUT,
    };
    run(plan).await.map(drop)
}

/// The same for millions of keys: most of them by transactions of a hundred, which takes a fraction of the time. The last are put one by
/// one, so that what a server has of its log, and when it last made a snapshot, is as if all had been.
pub async fn fill_by_transactions(server: Address, keys: u64, value_bytes: usize) -> Outcome {
    let failed = |cause: String| Failure::failed(format!("cannot fill {server}: {cause}"));
    let endpoint =
        Endpoint::from_shared(server.url()).map_err(|error| failed(error.to_string()))?;
    let one_by_one = keys.min(ONE_BY_ONE);
    let next = Arc::new(AtomicU64::new(one_by_one));
    let mut filling = JoinSet::new();
    for _ in 0..FILLING_CONNECTIONS {
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| failed(error.to_string()))?;
        for _ in 0..FILLERS / FILLING_CONNECTIONS / 8 {
            let (next, channel) = (next.clone(), channel.clone());
            filling.spawn(transactions(channel, next, keys, value_bytes));
        }
    }
    while let Some(done) = filling.join_next().await {
        let done = done.map_err(|error| failed(error.to_string()))?;
        done.map_err(|status| failed(status.to_string()))?;
    }
    fill(server, one_by_one, value_bytes).await
}

/// Gives up, again and again after so long, the history up to where the store stood the time before. Ends when a server refuses.
pub async fn compact_every(server: Address, pause: Duration) -> Failure {
    match compactions(&server, pause).await {
        Err(cause) => Failure::failed(format!("cannot compact {server}: {cause}")),
    }
}

async fn compactions(
    server: &Address,
    pause: Duration,
) -> Result<Infallible, Box<dyn std::error::Error>> {
    let channel = Endpoint::from_shared(server.url())?.connect().await?;
    let mut client = KvClient::new(channel);
    let any = RangeRequest {
        key: "/bench/".into(),
        ..Default::default()
    };
    let mut before = None;
    loop {
        let answer = client.range(any.clone()).await?.into_inner();
        let revision = answer.header.unwrap_or_default().revision;
        if let Some(revision) = before.replace(revision) {
            let request = CompactionRequest {
                revision,
                physical: false,
            };
            client.compact(request).await?;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn transactions(
    channel: Channel,
    next: Arc<AtomicU64>,
    keys: u64,
    value_bytes: usize,
) -> Result<(), Status> {
    let Operation::Put(value) = Operation::put(value_bytes) else {
        unreachable!("a put is a put");
    };
    let mut client = KvClient::new(channel);
    loop {
        let begin = next.fetch_add(TRANSACTION_PUTS, Ordering::Relaxed);
        if begin >= keys {
            return Ok(());
        }
        let puts = (begin..keys.min(begin + TRANSACTION_PUTS)).map(|number| RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                // As a load names them.
                key: format!("/bench/{number:08}").into(),
                value: value.clone(),
                ..Default::default()
            })),
        });
        let transaction = TxnRequest {
            success: puts.collect(),
            ..Default::default()
        };
        client.txn(transaction).await?;
    }
}

async fn run(plan: Plan) -> Outcome<Measured> {
    let server = &plan.endpoints[0];
    let measured = run_load(&plan).await?;
    match measured.errors.iter().next() {
        Some((cause, count)) => Err(Failure::failed(format!(
            "{server} failed {} requests, {count} of them with: {cause}",
            measured.failed()
        ))),
        None if measured.latencies.count() == 0 => Err(Failure::failed(format!(
            "{server} answered no request within {:?}; measure longer",
            measured.elapsed
        ))),
        None => Ok(measured),
    }
}
