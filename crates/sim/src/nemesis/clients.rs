//! Clients at work on all nodes: each does one thing after the other and notes what it asked, of whom, when, and what it was told.
//!
//! They work at tables: a table is three keys and three clients, so that transactions connect few keys and few things run at the same
//! time; after some operations it goes on with fresh keys. That keeps the search for an order short.

use crate::calls;
use crate::history::{Compare, Freshness, NodeRun, Operation, Outcome, Request, Step};
use crate::rng::Rng;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

/// All keys begin with this, which ends before [`KEYS_END`].
pub const KEYS: &str = "n/";
/// See [`KEYS`].
pub const KEYS_END: &str = "n0";

/// Sets of keys that are in use at the same time.
const TABLES: u32 = 5;
/// Clients that work on the same keys.
const CLIENTS_AT_A_TABLE: u32 = 3;
/// Keys of a table; transactions write two of them.
const KEYS_OF_A_TABLE: u64 = 3;
/// Keys that a client remembers; it is at three, and will not come back to the others.
const SEEN_MAX: usize = 100;
/// Operations after which a table goes on with fresh keys.
const TABLE_OPERATIONS: u64 = 120;
/// A client gives up on an answer after this time: its outcome is unknown then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Nobody needs longer for a connection on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest rest between two operations, and after one that failed.
const REST_MS: u64 = 50;
const REST_AFTER_FAILURE_MS: u64 = 200;
/// A client stays with a node for so many operations at most.
const STAY: u64 = 40;

/// A node as clients see it. Its run changes whenever its process ends and whenever one is started.
pub struct Target {
    pub name: String,
    pub address: SocketAddr,
    pub run: AtomicU32,
}

/// What clients, watchers and the course of the run share.
pub struct Shared {
    pub targets: Vec<Target>,
    pub began: Instant,
    /// All that was done so far.
    pub operations: Mutex<Vec<Operation>>,
    /// When a write was acknowledged last.
    pub acknowledged_ns: AtomicU64,
    /// Answers that make no sense.
    pub nonsense: Mutex<Vec<String>>,
    tables: Vec<AtomicU64>,
    values: AtomicU64,
    strangers: AtomicU32,
}

impl Shared {
    pub fn new(targets: Vec<Target>) -> Shared {
        Shared {
            targets,
            began: Instant::now(),
            operations: Mutex::default(),
            acknowledged_ns: AtomicU64::new(0),
            nonsense: Mutex::default(),
            tables: (0..TABLES).map(|_| AtomicU64::new(0)).collect(),
            values: AtomicU64::new(0),
            strangers: AtomicU32::new(u32::MAX),
        }
    }

    /// The clock of the history.
    pub fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// The run of a node.
    pub fn run_of(&self, target: &Target) -> NodeRun {
        NodeRun {
            name: target.name.clone(),
            run: target.run.load(Ordering::SeqCst),
        }
    }

    /// Which run has answered: that of before, unless the node was started anew meanwhile. Then it is not known, and it gets a number of
    /// its own: nothing is promised across runs.
    fn answered_by(&self, target: &Target, before: NodeRun) -> NodeRun {
        match self.run_of(target) == before {
            true => before,
            false => NodeRun {
                run: self.strangers.fetch_sub(1, Ordering::SeqCst),
                ..before
            },
        }
    }

    /// A value that nobody writes again.
    pub fn new_value(&self) -> String {
        format!("w{}", self.values.fetch_add(1, Ordering::Relaxed))
    }
}

/// A connection to a node; it fails at once if nobody listens there.
pub async fn connect(address: SocketAddr) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    match timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no connection in time".to_owned()),
    }
}

/// A client of one node after the other.
pub fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// Asks and waits for the answer, but not for ever. What was never sent has certainly not happened.
pub async fn ask(
    shared: &Shared,
    target: &Target,
    channel: &mut Option<Channel>,
    request: &Request,
) -> Outcome {
    let connected = match channel.clone() {
        Some(connected) => connected,
        None => match connect(target.address).await {
            Ok(connected) => channel.insert(connected).clone(),
            Err(reason) => return Outcome::Failed(format!("not sent: {reason}")),
        },
    };
    let outcome = match timeout(ANSWER_TIMEOUT, calls::call(&mut kv(connected), request)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(nonsense)) => {
            shared
                .nonsense
                .lock()
                .unwrap()
                .push(format!("{} to {request:?}: {nonsense}", target.name));
            Outcome::Unknown(nonsense)
        }
        Err(_) => Outcome::Unknown("no answer in time".to_owned()),
    };
    if matches!(outcome, Outcome::Unknown(_)) {
        *channel = None;
    }
    outcome
}

/// Starts all clients. They end when told to, after what they are at.
pub fn start(seed: u64, shared: &Arc<Shared>, stop: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for number in 0..TABLES * CLIENTS_AT_A_TABLE {
        let client = Client {
            number,
            rng: Rng::new(seed, u64::from(number) + 1000),
            shared: shared.clone(),
            seen: HashMap::new(),
            revision: 0,
        };
        tasks.spawn(client.work(stop.clone()));
    }
    tasks
}

struct Client {
    number: u32,
    rng: Rng,
    shared: Arc<Shared>,
    /// What it knows of keys, by which its conditions are made.
    seen: HashMap<String, Option<String>>,
    /// The latest revision that it was told of.
    revision: i64,
}

impl Client {
    async fn work(mut self, stop: watch::Receiver<bool>) {
        let shared = self.shared.clone();
        let mut node = self.rng.below(shared.targets.len() as u64) as usize;
        let mut channel = None;
        while !*stop.borrow() {
            let request = self.next_request();
            let target = &shared.targets[node];
            let run = shared.run_of(target);
            let invoked_ns = shared.now_ns();
            let outcome = ask(&shared, target, &mut channel, &request).await;
            let returned_ns = shared.now_ns();
            let is_answered = matches!(outcome, Outcome::Ok(_));
            self.learn(&request, &outcome);
            self.note(Operation {
                client: self.number,
                node: shared.answered_by(target, run),
                invoked_ns,
                returned_ns,
                request,
                outcome,
            });
            if !is_answered || self.rng.below(STAY) == 0 {
                node = self.rng.below(shared.targets.len() as u64) as usize;
                channel = None;
            }
            let rest_ms = if is_answered {
                REST_MS
            } else {
                REST_AFTER_FAILURE_MS
            };
            tokio::time::sleep(Duration::from_millis(self.rng.below(rest_ms))).await;
        }
    }

    fn note(&self, operation: Operation) {
        let may_write = !matches!(
            &operation.request,
            Request::Read { .. } | Request::One(Step::Get { .. })
        );
        if may_write && operation.answer().is_some() {
            self.shared
                .acknowledged_ns
                .fetch_max(operation.returned_ns, Ordering::SeqCst);
        }
        self.shared.operations.lock().unwrap().push(operation);
    }

    fn learn(&mut self, request: &Request, outcome: &Outcome) {
        let Outcome::Ok(answer) = outcome else {
            return;
        };
        self.revision = self.revision.max(answer.revision);
        let steps = match request {
            Request::One(step) => vec![step.clone()],
            Request::Read { key, .. } => vec![Step::Get { key: key.clone() }],
            Request::Txn { then, or_else, .. } => match answer.succeeded {
                true => then.clone(),
                false => or_else.clone(),
            },
        };
        for (step, found) in steps.iter().zip(&answer.found) {
            let now = match step {
                Step::Put { value, .. } => Some(value.clone()),
                Step::Delete { .. } => None,
                Step::Get { .. } => found.as_ref().map(|found| found.value.clone()),
            };
            self.seen.insert(step.key().to_owned(), now);
        }
    }

    /// The keys that its table is at, in random order.
    fn keys(&mut self) -> Vec<String> {
        let table = self.number % TABLES;
        let done = self.shared.tables[table as usize].fetch_add(1, Ordering::Relaxed);
        if self.seen.len() > SEEN_MAX {
            self.seen.clear();
        }
        let epoch = done / TABLE_OPERATIONS;
        let first = self.rng.below(KEYS_OF_A_TABLE);
        let key = |number: u64| {
            let key = (first + number) % KEYS_OF_A_TABLE;
            format!("{KEYS}{table}/{epoch}/{key}")
        };
        (0..KEYS_OF_A_TABLE).map(key).collect()
    }

    fn next_request(&mut self) -> Request {
        let keys = self.keys();
        let key = keys[0].clone();
        let get = |key: &String| Step::Get { key: key.clone() };
        match self.rng.below(100) {
            0..25 => Request::One(self.put(&key)),
            25..30 => Request::One(Step::Delete { key }),
            30..50 => Request::One(get(&key)),
            50..60 => Request::Txn {
                compares: Vec::new(),
                then: keys.iter().map(get).collect(),
                or_else: Vec::new(),
            },
            60..66 => Request::Txn {
                compares: Vec::new(),
                then: vec![self.put(&keys[0]), self.put(&keys[1])],
                or_else: Vec::new(),
            },
            66..80 => Request::Txn {
                compares: vec![Compare {
                    key: key.clone(),
                    expected: self.seen.get(&key).cloned().flatten(),
                }],
                then: vec![get(&key), self.put(&key), self.put(&keys[1])],
                or_else: vec![get(&key), get(&keys[1])],
            },
            80..90 => self.read(key, Freshness::Serializable, 0),
            90..95 => {
                let min_revision = self.revision;
                self.read(key, Freshness::Serializable, min_revision)
            }
            _ => {
                let bound_ns = self.rng.below(3000) * 1_000_000;
                self.read(key, Freshness::WithinNs(bound_ns), 0)
            }
        }
    }

    fn put(&self, key: &str) -> Step {
        Step::Put {
            key: key.to_owned(),
            value: self.shared.new_value(),
        }
    }

    fn read(&self, key: String, freshness: Freshness, min_revision: i64) -> Request {
        Request::Read {
            key,
            freshness,
            min_revision,
        }
    }
}
