//! The clients of a benchmark.

use super::pacer;
use super::plan::{Operation, Plan};
use super::wire::{CallError, Connection};
use crate::address::Address;
use crate::failure::{Failure, Outcome};
use crate::histogram::Histogram;
use bytes::Bytes;
use eaves_kv::proto::etcdserverpb::RangeResponse;
use indicatif::{ProgressBar, ProgressStyle};
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long to wait before a broken connection is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the progress bar moves.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What [`Measured::longest`] is told of.
pub const SLICE: Duration = Duration::from_millis(50);

/// What was measured.
pub struct Measured {
    /// When the first request was due.
    pub began: Instant,
    /// Of the requests that succeeded.
    pub latencies: Histogram,
    /// The longest of those that were due in each [`SLICE`] since it began.
    pub longest: Vec<Duration>,
    /// Failed requests, by message.
    pub errors: BTreeMap<String, u64>,
    /// Gets that found no key.
    pub not_found: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

/// Runs the plan to its end, or to an interruption: what was measured until then is the result.
pub async fn run(plan: &Plan) -> Outcome<Measured> {
    let links = open_links(plan).await?;
    let start = Instant::now();
    let load = Arc::new(Load {
        plan: plan.clone(),
        start,
        claimed: AtomicU64::new(0),
        permits: plan.rate.map(|rate| pacer::start(start, rate, plan.total)),
        measured: Mutex::new(Measured::default()),
    });
    let mut clients = JoinSet::new();
    for number in 0..plan.clients {
        let link = links[number as usize % links.len()].clone();
        clients.spawn(client(load.clone(), link, u64::from(number)));
    }
    let progress = tokio::spawn(show_progress(load.clone()));
    tokio::select! {
        () = async { while clients.join_next().await.is_some() {} } => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    clients.shutdown().await;
    progress.abort();
    if let Some(permits) = &load.permits {
        permits.close();
    }
    let mut measured = load.measured.lock().expect("no client panicked");
    measured.began = start;
    measured.elapsed = start.elapsed();
    Ok(std::mem::take(&mut *measured))
}

/// What all clients share.
struct Load {
    plan: Plan,
    start: Instant,
    /// Requests taken by a client, done or under way.
    claimed: AtomicU64,
    /// One for each request that is due; none in a closed loop.
    permits: Option<Arc<Semaphore>>,
    measured: Mutex<Measured>,
}

/// One client: claims a request, waits until it is due, sends it, waits for the answer, and so on until none is left.
async fn client(load: Arc<Load>, link: Arc<Link>, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let (mut generation, mut connection) = link.current().await;
    while let Some((number, began)) = load.claim().await {
        let answer = timeout(
            load.plan.timeout,
            connection.call(load.plan.request(number, &mut random)),
        )
        .await;
        let answer =
            answer.unwrap_or_else(|_| Err(CallError::Refused("no answer in time".to_string())));
        let broken = matches!(answer, Err(CallError::Broken(_)));
        load.count(began, answer);
        if broken {
            (generation, connection) = link.reopen(generation).await;
        }
    }
}

impl Load {
    /// The next request's number and the moment it counts from, once it is due; `None` when no request is left.
    async fn claim(&self) -> Option<(u64, Instant)> {
        let number = self.claimed.fetch_add(1, Ordering::Relaxed);
        if number >= self.plan.total || self.is_over() {
            return None;
        }
        match (&self.permits, self.plan.rate) {
            (Some(permits), Some(rate)) => {
                permits.acquire().await.ok()?.forget();
                Some((number, self.start + pacer::due(number, rate)))
            }
            _ => Some((number, Instant::now())),
        }
    }

    fn is_over(&self) -> bool {
        let limit = self.plan.limit;
        limit.is_some_and(|limit| self.start.elapsed() >= limit)
    }

    fn count(&self, began: Instant, answer: Result<Bytes, CallError>) {
        let latency = began.elapsed();
        let mut measured = self.measured.lock().expect("no client panicked");
        match answer {
            Ok(message) => {
                measured.latencies.record(latency);
                measured.note_longest(began - self.start, latency);
                if matches!(self.plan.operation, Operation::Get { .. }) && found_nothing(message) {
                    measured.not_found += 1;
                }
            }
            Err(CallError::Refused(cause) | CallError::Broken(cause)) => {
                *measured.errors.entry(cause).or_default() += 1;
            }
        }
    }
}

impl Measured {
    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    fn note_longest(&mut self, due: Duration, latency: Duration) {
        let slice = (due.as_nanos() / SLICE.as_nanos()) as usize;
        if self.longest.len() <= slice {
            self.longest.resize(slice + 1, Duration::ZERO);
        }
        self.longest[slice] = self.longest[slice].max(latency);
    }
}

impl Default for Measured {
    fn default() -> Measured {
        Measured {
            began: Instant::now(),
            longest: Vec::new(),
            latencies: Histogram::new(),
            errors: BTreeMap::new(),
            not_found: 0,
            elapsed: Duration::ZERO,
        }
    }
}

fn found_nothing(message: Bytes) -> bool {
    RangeResponse::decode(message).is_ok_and(|answer| answer.count == 0)
}

/// A connection that several clients share and the first to see it broken opens again.
struct Link {
    address: Address,
    method: &'static str,
    /// How often it was opened, and the latest.
    current: tokio::sync::Mutex<(u64, Connection)>,
}

async fn open_links(plan: &Plan) -> Outcome<Vec<Arc<Link>>> {
    let mut links = Vec::new();
    for address in plan
        .endpoints
        .iter()
        .cycle()
        .take(plan.connections as usize)
    {
        let cannot = |cause: String| {
            Failure::failed(format!(
                "cannot reach {address}: {cause}; start a node there or give other --endpoints"
            ))
        };
        let method = plan.method();
        let connection = open(address, method).await.map_err(cannot)?;
        links.push(Arc::new(Link {
            address: address.clone(),
            method,
            current: tokio::sync::Mutex::new((0, connection)),
        }));
    }
    Ok(links)
}

async fn open(address: &Address, method: &str) -> Result<Connection, String> {
    let opened = timeout(CONNECT_TIMEOUT, Connection::open(address, method)).await;
    opened.unwrap_or_else(|_| {
        Err(format!(
            "no connection within {} s",
            CONNECT_TIMEOUT.as_secs()
        ))
    })
}

impl Link {
    async fn current(&self) -> (u64, Connection) {
        self.current.lock().await.clone()
    }

    /// Opens the connection again unless another client did so since `generation`. Tries until it succeeds: a benchmark outlives a
    /// restart of what it measures.
    async fn reopen(&self, generation: u64) -> (u64, Connection) {
        let mut current = self.current.lock().await;
        let mut told = false;
        while current.0 == generation {
            tokio::time::sleep(REOPEN_PAUSE).await;
            match open(&self.address, self.method).await {
                Ok(connection) => *current = (generation + 1, connection),
                Err(cause) if told => tracing::debug!("cannot reach {}: {cause}", self.address),
                Err(cause) => {
                    tracing::warn!(
                        "cannot reach {}: {cause}; trying until it is back",
                        self.address
                    );
                    told = true;
                }
            }
        }
        current.clone()
    }
}

/// Moves a bar on standard error, if that is a terminal, until it is aborted.
async fn show_progress(load: Arc<Load>) {
    let style = "{bar:40} {pos}/{len} {per_sec}, {eta} left";
    let bar = ProgressBar::new(load.plan.total)
        .with_style(
            ProgressStyle::with_template(style)
                .expect("the template of the progress bar is well formed"),
        )
        .with_finish(indicatif::ProgressFinish::AndClear);
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        bar.set_position(load.claimed.load(Ordering::Relaxed).min(load.plan.total));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slice_has_the_longest_of_what_was_due_in_it() {
        let mut measured = Measured::default();
        for (due_ms, latency_ms) in [(149, 3), (10, 1), (49, 7), (20, 2)] {
            let ms = Duration::from_millis;
            measured.note_longest(ms(due_ms), ms(latency_ms));
        }
        assert_eq!(measured.longest, [7, 0, 3].map(Duration::from_millis));
    }
}
