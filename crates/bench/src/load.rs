//! Puts load on a group, and counts what it costs.

use crate::group::Group;
use crate::processor::Meter;
use crate::results::Values;
use eaves_server::address::Address;
use eaves_server::bench::{Measured, Operation, Plan, run_load};
use eaves_server::failure::{Failure, Outcome};
use std::time::Duration;

/// After the load, until processor time is read: what a server puts off belongs to the load, and would be paid by who comes next.
pub const SETTLE: Duration = Duration::from_millis(1_000);
/// No answer takes longer, or the run is of no use.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Clients and connections by which a store is filled.
const FILLERS: u32 = 256;
const FILLING_CONNECTIONS: u32 = 8;

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
