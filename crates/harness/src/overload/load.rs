//! The writes: closed loops that learn a rate, and the open loop that exceeds it.

use super::watchers::Watchers;
use super::{MAX_UNDER_WAY, Plan};
use crate::cluster::Content;
use bytes::Bytes;
use eaves_kv::proto::etcdserverpb::PutRequest;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A client waits this long.
const PATIENCE: Duration = Duration::from_secs(8);
/// The open loop sends what is due this often.
const TICK: Duration = Duration::from_millis(5);
/// Large values go to so many keys in turn, so that their number stays small.
const LARGE_KEYS: u64 = 16;

/// Writes and what became of them.
pub struct Load {
    shared: Arc<Shared>,
    plan: Plan,
}

struct Shared {
    channels: Vec<Channel>,
    value: Bytes,
    large: Bytes,
    next: AtomicU64,
    under_way: AtomicUsize,
    acknowledged: AtomicU64,
    results: Mutex<Results>,
}

#[derive(Default)]
struct Results {
    /// Revision by key.
    acknowledged: HashMap<String, i64>,
    answers: Answers,
}

/// What came back, by code and text.
#[derive(Clone, Debug, Default)]
pub struct Answers(pub BTreeMap<(String, String), u64>);

impl Answers {
    /// Those that are neither a success nor a word about room or time.
    pub fn unexpected(&self) -> Vec<(&(String, String), &u64)> {
        let expected = [
            Code::Ok,
            Code::ResourceExhausted,
            Code::Unavailable,
            Code::DeadlineExceeded,
        ];
        let expected = expected.map(|code| format!("{code:?}"));
        let unexpected = |answer: &(&(String, String), &u64)| !expected.contains(&answer.0.0);
        self.0.iter().filter(unexpected).collect()
    }

    fn add(&mut self, result: &Result<i64, Status>) {
        let (code, text) = match result {
            Ok(_) => (Code::Ok, String::new()),
            Err(status) => (status.code(), status.message().to_owned()),
        };
        *self.0.entry((format!("{code:?}"), text)).or_default() += 1;
    }
}

/// Writes of a closed loop in each second.
pub struct Seconds {
    pub each_second: Vec<u64>,
}

impl Seconds {
    /// On average, the first second left out: it warms up.
    pub fn per_second(&self) -> f64 {
        let seconds = self.each_second.get(1..).unwrap_or_default();
        seconds.iter().sum::<u64>() as f64 / seconds.len().max(1) as f64
    }
}

/// Writes of an open loop.
pub struct Rates {
    pub sent: u64,
    pub acknowledged: u64,
    pub unsent: u64,
}

impl Load {
    pub fn new(channels: Vec<Channel>, plan: &Plan) -> Load {
        Load {
            shared: Arc::new(Shared {
                channels,
                value: vec![b'v'; plan.value_bytes].into(),
                large: vec![b'V'; plan.large_bytes].into(),
                next: AtomicU64::new(0),
                under_way: AtomicUsize::new(0),
                acknowledged: AtomicU64::new(0),
                results: Mutex::default(),
            }),
            plan: plan.clone(),
        }
    }

    /// Clients that each send a write when the one before is answered.
    pub async fn closed_loop(&mut self, duration: Duration) -> Seconds {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..self.plan.clients {
            let (shared, stop) = (self.shared.clone(), stop.clone());
            clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    shared.put_next().await;
                }
            });
        }
        let mut each_second = Vec::new();
        for _ in 0..duration.as_secs() {
            let before = self.shared.acknowledged.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            each_second.push(self.shared.acknowledged.load(Ordering::Relaxed) - before);
        }
        stop.store(true, Ordering::Relaxed);
        while clients.join_next().await.is_some() {}
        Seconds { each_second }
    }

    /// Sends `rate` writes a second for the time that is planned, and what belongs to it: large values, and changes that are watched.
    pub async fn open_loop(&mut self, rate: f64, watchers: &Watchers) -> Rates {
        let before = self.shared.acknowledged.load(Ordering::Relaxed);
        let start = Instant::now();
        let (mut sent, mut unsent, mut large, mut watched) = (0, 0, 0, 0);
        while start.elapsed() < self.plan.overload {
            let elapsed = start.elapsed().as_secs_f64();
            while ((sent + unsent) as f64) < rate * elapsed {
                match self
                    .shared
                    .send(|shared| async move { shared.put_next().await })
                {
                    true => sent += 1,
                    false => unsent += 1,
                }
            }
            while f64::from(large) < self.plan.large_per_second * elapsed {
                large += 1;
                self.shared
                    .send(|shared| async move { shared.put_large().await });
            }
            while f64::from(watched) < self.plan.watched_per_second * elapsed {
                watched += 1;
                watchers.change();
            }
            tokio::time::sleep(TICK).await;
        }
        Rates {
            sent,
            acknowledged: self.shared.acknowledged.load(Ordering::Relaxed) - before,
            unsent,
        }
    }

    /// Waits until no call is under way any more.
    pub async fn drain(&self) -> Duration {
        let start = Instant::now();
        while self.shared.under_way.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(TICK).await;
        }
        start.elapsed()
    }

    pub fn answers(&self) -> Answers {
        self.shared.results.lock().unwrap().answers.clone()
    }

    /// Fails unless every acknowledged write is there, at its revision, or, for the keys that are written again, a later one.
    pub fn assert_held(&self, node: &str, content: &Content) {
        let held: HashMap<&[u8], i64> = content
            .pairs
            .iter()
            .map(|pair| (&pair.key[..], pair.mod_revision))
            .collect();
        let results = self.shared.results.lock().unwrap();
        for (key, revision) in &results.acknowledged {
            let found = held.get(key.as_bytes()).copied();
            let is_held = match key.starts_with("large/") {
                true => found >= Some(*revision),
                false => found == Some(*revision),
            };
            assert!(
                is_held,
                "{key} was acknowledged at revision {revision} and {node} has it at {found:?}"
            );
        }
    }
}

impl Shared {
    /// Sends one more, unless too many are under way.
    fn send<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        write: impl FnOnce(Arc<Shared>) -> F,
    ) -> bool {
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= MAX_UNDER_WAY {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let (shared, write) = (self.clone(), write(self.clone()));
        tokio::spawn(async move {
            write.await;
            shared.under_way.fetch_sub(1, Ordering::Relaxed);
        });
        true
    }

    /// Puts a new key.
    async fn put_next(&self) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.put(number, format!("load/{number:010}"), &self.value)
            .await;
    }

    /// Puts a large value.
    async fn put_large(&self) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let key = format!("large/{:02}", number % LARGE_KEYS);
        self.put(number, key, &self.large).await;
    }

    async fn put(&self, number: u64, key: String, value: &Bytes) {
        let channel = &self.channels[number as usize % self.channels.len()];
        let mut kv = KvClient::new(channel.clone());
        let put = kv.put(PutRequest {
            key: key.clone().into(),
            value: value.clone(),
            ..Default::default()
        });
        let result = match tokio::time::timeout(PATIENCE, put).await {
            Ok(Ok(answer)) => Ok(answer
                .into_inner()
                .header
                .map_or(0, |header| header.revision)),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::deadline_exceeded("the client waits no longer")),
        };
        let mut results = self.results.lock().unwrap();
        results.answers.add(&result);
        if let Ok(revision) = result {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
            let newest = results.acknowledged.entry(key).or_default();
            *newest = revision.max(*newest);
        }
    }
}
