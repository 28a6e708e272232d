//! Clients of etcd's API, on a machine of their own that never fails: what they ask, what they are told, what they watch.
//!
//! They speak gRPC to the nodes' own services, over the simulated network. Everything goes into one [`History`], which is checked when
//! the run is over.

mod channel;
mod draw;
mod kv;
mod watcher;

use super::network::Handle;
use super::process::runtime_at;
use super::{clock::Clock, trace};
use crate::engine::Micros;
use crate::history::{History, NodeRun};
use crate::rng::Rng;
use channel::Channels;
use draw::Sets;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The name of the machine they are on.
pub const MACHINE: &str = "cli";

/// How many of each, and how busy they are.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Groups of clients, each with keys of its own: what is connected by transactions stays small.
    pub groups: u64,
    /// Clients for each set.
    pub clients: u64,
    /// Clients that watch.
    pub watchers: u64,
    /// The longest pause between an answer and the next request.
    pub pause: Micros,
    /// So many of a thousand pauses compact everything before, instead of doing something else.
    pub compact_permille: u64,
}

/// All clients together.
pub struct Clients {
    runtime: Runtime,
    clock: Clock,
    shared: Arc<Shared>,
    askers: Vec<watch::Receiver<bool>>,
    watchers: Vec<watch::Receiver<bool>>,
}

/// What they have in common.
struct Shared {
    handle: Handle,
    clock: Clock,
    nodes: Vec<&'static str>,
    record: Mutex<Record>,
    stage: watch::Sender<Stage>,
    plan: Plan,
}

#[derive(Default)]
struct Record {
    history: History,
    /// Which process of each node it is; none while it does not run.
    runs: Vec<Option<u32>>,
    /// Runs that nothing can be compared with.
    unsure: u32,
    /// For each group of clients, the keys it has used.
    sets: Vec<Sets>,
    wrong: Option<String>,
    tallies: Tallies,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Requests that were done.
    pub done: u64,
    /// Requests that certainly were not.
    pub failed: u64,
    /// Requests of which nobody knows.
    pub unknown: u64,
    /// Connections of watches, beyond the first of each.
    pub rewatched: u64,
    /// Watches that compaction overtook.
    pub overtaken: u64,
    /// Compactions.
    pub compactions: u64,
}

/// How far the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Whatever comes to mind.
    Busy,
    /// No more requests.
    Quiet,
    /// Watches go on up to this revision, and end.
    Ending(i64),
}

impl Clients {
    /// Clients of `nodes`, from `now` on.
    pub fn start(
        plan: Plan,
        nodes: Vec<&'static str>,
        now: Micros,
        handle: impl FnOnce(Clock) -> Handle,
        mut rng: Rng,
    ) -> Clients {
        let (runtime, clock) = runtime_at(now);
        // Connections belong to the runtime in which they are made.
        let entered = runtime.enter();
        let record = Record {
            runs: vec![None; nodes.len()],
            sets: vec![Sets::default(); plan.groups as usize],
            ..Record::default()
        };
        let shared = Arc::new(Shared {
            handle: handle(clock),
            clock,
            nodes,
            record: Mutex::new(record),
            stage: watch::Sender::new(Stage::Busy),
            plan,
        });
        let (groups, asking) = (shared.plan.groups, shared.plan.groups * shared.plan.clients);
        let askers = (0..asking).map(|number| {
            let client = kv::Client::new(number as u32, number % groups, shared.clone(), &mut rng);
            finished(&runtime, client.run())
        });
        let askers = askers.collect();
        let watchers = (asking..asking + shared.plan.watchers).map(|number| {
            let watcher = watcher::Watcher::new(number as u32, shared.clone(), &mut rng);
            finished(&runtime, watcher.run())
        });
        let watchers = watchers.collect();
        drop(entered);
        Clients {
            runtime,
            clock,
            shared,
            askers,
            watchers,
        }
    }

    /// Lets them run until `to`.
    pub fn run_until(&mut self, to: Micros) {
        trace::turn(MACHINE, Some(self.clock), to);
        let at = self.clock.instant(to);
        self.runtime
            .block_on(async { tokio::time::sleep_until(at).await });
        trace::turn("", None, to);
    }

    /// Says which process of a node runs, or that none does.
    pub fn tell_run(&self, node: usize, run: Option<u32>) {
        self.shared.record.lock().unwrap().runs[node] = run;
    }

    /// Lets them ask no more.
    pub fn be_quiet(&self) {
        self.shared.stage.send_replace(Stage::Quiet);
    }

    /// Whether nobody asks any more.
    pub fn are_quiet(&self) -> bool {
        self.askers.iter().all(|done| *done.borrow())
    }

    /// Lets watches end once they have told of `revision`.
    pub fn end_watches_at(&self, revision: i64) {
        self.shared.stage.send_replace(Stage::Ending(revision));
    }

    /// Whether all watches have ended.
    pub fn have_seen_all(&self) -> bool {
        self.watchers.iter().all(|done| *done.borrow())
    }

    /// What an answer had in it that makes no sense, if any had.
    pub fn wrong(&self) -> Option<String> {
        self.shared.record.lock().unwrap().wrong.clone()
    }

    /// How often what happened so far.
    pub fn tallies(&self) -> Tallies {
        self.shared.record.lock().unwrap().tallies
    }

    /// What they asked and were told so far.
    pub fn history(&self) -> History {
        self.shared.record.lock().unwrap().history.clone()
    }

    /// Has something written through every node. The receiver says when that has succeeded.
    pub fn write_everywhere(&self) -> watch::Receiver<bool> {
        finished(&self.runtime, kv::write_everywhere(self.shared.clone()))
    }

    /// Has all keys that anybody may have written read at every node.
    pub fn read_everywhere(&self) -> watch::Receiver<bool> {
        let sets = self.shared.record.lock().unwrap().sets.clone();
        let groups = sets.into_iter().zip(0..);
        let keys = groups.flat_map(|(sets, group)| sets.keys(group));
        finished(
            &self.runtime,
            kv::read_everywhere(self.shared.clone(), keys.collect()),
        )
    }
}

/// Runs `work`; the receiver says when it is done.
fn finished(
    runtime: &Runtime,
    work: impl Future<Output = ()> + Send + 'static,
) -> watch::Receiver<bool> {
    let (done, receiver) = watch::channel(false);
    runtime.spawn(async move {
        work.await;
        done.send_replace(true);
    });
    receiver
}

impl Shared {
    fn now_ns(&self) -> u64 {
        self.clock.now() * 1_000
    }

    fn channels(self: &Arc<Self>) -> Channels {
        Channels::new(&self.handle, &self.nodes)
    }

    fn run_of(&self, node: usize) -> Option<u32> {
        self.record.lock().unwrap().runs[node]
    }

    fn is_over(&self) -> bool {
        *self.stage.borrow() != Stage::Busy
    }
}

impl Record {
    /// Whose answer it is that began when a node's process was `before`. If it is not sure, nothing is to be concluded from it about one
    /// process.
    fn node_run(&mut self, name: &str, before: Option<u32>, after: Option<u32>) -> NodeRun {
        let run = match before {
            Some(run) if before == after => run,
            _ => {
                self.unsure += 1;
                1_000_000 + self.unsure
            }
        };
        NodeRun {
            name: name.to_string(),
            run,
        }
    }
}
