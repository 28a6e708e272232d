//! A client that asks one thing after the other, and goes to another node when it is not served.

use super::channel::Channels;
use super::draw::Draw;
use super::{Shared, Stage};
use crate::calls;
use crate::engine::{MILLISECOND, Micros};
use crate::history::{Freshness, Operation, Outcome, Request, Step};
use crate::rng::Rng;
use crate::system::trace;
use eaves_kv::proto::etcdserverpb::CompactionRequest;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The shortest and the longest time that a client waits for an answer. A server gives up after 7 s.
const PATIENCE: (Micros, Micros) = (200 * MILLISECOND, 10_000 * MILLISECOND);

/// How long the reads at the end wait: nothing is wrong any more then.
const LAST_PATIENCE: Duration = Duration::from_secs(20);

/// Pause before what must succeed at the end is tried again.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// The number under which the first of those is recorded; there is one for each node.
const LAST_CLIENT: u32 = 1_000;

/// A client.
pub struct Client {
    shared: Arc<Shared>,
    channels: Channels,
    rng: Rng,
    draw: Draw,
    node: usize,
}

impl Client {
    /// The client of this number, for one set of keys.
    pub fn new(number: u32, group: u64, shared: Arc<Shared>, rng: &mut Rng) -> Client {
        let mut rng = Rng::new(rng.any(), u64::from(number));
        Client {
            channels: shared.channels(),
            node: rng.below(shared.nodes.len() as u64) as usize,
            draw: Draw {
                group,
                set: 0,
                client: number,
                written: 0,
                known: BTreeMap::new(),
                revision: 0,
            },
            shared,
            rng,
        }
    }

    /// Until the run ends.
    pub async fn run(mut self) {
        while !self.shared.is_over() {
            let pause = self.rng.scale(1, self.shared.plan.pause);
            sleep(Duration::from_micros(pause)).await;
            if self.rng.permille(self.shared.plan.compact_permille) {
                self.compact().await;
            } else {
                self.ask().await;
            }
        }
    }

    async fn ask(&mut self) {
        let group = self.draw.group as usize;
        self.draw.set = self.shared.record.lock().unwrap().sets[group].next();
        let request = self.draw.request(&mut self.rng);
        let patience = self.rng.scale(PATIENCE.0, PATIENCE.1);
        let patience = Duration::from_micros(patience);
        let (shared, node) = (&self.shared, self.node);
        let outcome = ask(
            shared,
            &self.channels,
            self.draw.client,
            node,
            request.clone(),
            patience,
        )
        .await;
        match &outcome {
            Outcome::Ok(answer) => {
                self.draw.revision = self.draw.revision.max(answer.revision);
                for (step, found) in request.branch(answer.succeeded).iter().zip(&answer.found) {
                    let value = match step {
                        Step::Put { value, .. } => Some(value.clone()),
                        Step::Delete { .. } => None,
                        Step::Get { .. } => found.as_ref().map(|found| found.value.clone()),
                    };
                    self.draw.known.insert(step.key().to_string(), value);
                }
            }
            Outcome::Failed(_) | Outcome::Unknown(_) => self.go_elsewhere(700),
        }
        if matches!(outcome, Outcome::Unknown(_)) && !request.only_reads() {
            let sets = &mut self.shared.record.lock().unwrap().sets;
            sets[group].is_unknown(self.draw.set);
        }
        self.go_elsewhere(30);
    }

    fn go_elsewhere(&mut self, permille: u64) {
        if self.rng.permille(permille) {
            self.node = self.rng.below(self.shared.nodes.len() as u64) as usize;
        }
    }

    /// Compacts what is older than what this client knows by a few revisions.
    async fn compact(&mut self) {
        let revision = self.draw.revision - self.rng.below(50) as i64;
        if revision < 2 {
            return;
        }
        let request = CompactionRequest {
            revision,
            physical: false,
        };
        let mut client = KvClient::new(self.channels.to(self.node));
        let compacted = timeout(Duration::from_secs(5), client.compact(request)).await;
        if matches!(compacted, Ok(Ok(_))) {
            self.shared.record.lock().unwrap().tallies.compactions += 1;
            trace::note(format_args!(
                "c{} compacted up to {revision}",
                self.draw.client
            ));
        }
    }
}

/// Asks a node, and records it.
async fn ask(
    shared: &Arc<Shared>,
    channels: &Channels,
    client: u32,
    node: usize,
    request: Request,
    patience: Duration,
) -> Outcome {
    let before = shared.run_of(node);
    let invoked_ns = shared.now_ns();
    let mut kv = KvClient::new(channels.to(node));
    let outcome = match timeout(patience, calls::call(&mut kv, &request)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(nonsense)) => {
            shared.record.lock().unwrap().wrong = Some(format!("{nonsense}: {request:?}"));
            Outcome::Unknown(nonsense)
        }
        Err(_) => Outcome::Unknown(format!("no answer within {} ms", patience.as_millis())),
    };
    let record = &mut *shared.record.lock().unwrap();
    let after = record.runs[node];
    let operation = Operation {
        client,
        node: record.node_run(shared.nodes[node], before, after),
        invoked_ns,
        returned_ns: shared.now_ns(),
        request,
        outcome: outcome.clone(),
    };
    trace::note(&operation);
    match &outcome {
        Outcome::Ok(_) => record.tallies.done += 1,
        Outcome::Failed(_) => record.tallies.failed += 1,
        Outcome::Unknown(_) => record.tallies.unknown += 1,
    }
    record.history.operations.push(operation);
    outcome
}

/// Writes through every node, again and again until it is done.
pub async fn write_everywhere(shared: Arc<Shared>) {
    let channels = shared.channels();
    for node in 0..shared.nodes.len() {
        for attempt in 0.. {
            let request = Request::One(Step::Put {
                key: format!("gz/{}", shared.nodes[node]),
                value: format!("last-{node}-{attempt}"),
            });
            let asked = ask(
                &shared,
                &channels,
                LAST_CLIENT,
                node,
                request,
                LAST_PATIENCE,
            )
            .await;
            if matches!(asked, Outcome::Ok(_)) {
                break;
            }
            sleep(LAST_PAUSE).await;
        }
    }
}

/// Reads all `keys` from every node, each until it is answered, so that nothing that is lost stays unseen.
pub async fn read_everywhere(shared: Arc<Shared>, keys: Vec<String>) {
    let nodes = 0..shared.nodes.len();
    futures_util::future::join_all(nodes.map(|node| read_all(&shared, &keys, node))).await;
}

async fn read_all(shared: &Arc<Shared>, keys: &[String], node: usize) {
    let channels = shared.channels();
    for (number, key) in keys.iter().enumerate() {
        // Those that must be put into one order with everything else are few, since that is hard.
        let freshness = match (number + node) % 3 {
            0 => Freshness::Linearizable,
            _ => Freshness::Serializable,
        };
        let request = Request::Read {
            key: key.clone(),
            freshness,
            min_revision: 0,
        };
        loop {
            let asked = ask(
                shared,
                &channels,
                LAST_CLIENT + node as u32,
                node,
                request.clone(),
                LAST_PATIENCE,
            )
            .await;
            if matches!(asked, Outcome::Ok(_)) {
                break;
            }
            sleep(LAST_PAUSE).await;
        }
    }
}

impl Shared {
    /// Where the watches are to end; none while it is not known.
    pub(super) fn last_revision(&self) -> Option<i64> {
        match *self.stage.borrow() {
            Stage::Busy | Stage::Quiet => None,
            Stage::Ending(revision) => Some(revision),
        }
    }
}
