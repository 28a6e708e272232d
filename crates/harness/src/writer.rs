//! Writers that put unique keys through ever other nodes and remember what was acknowledged.

use crate::cluster::{Cluster, Content, Node, put};
use crate::process::eventually;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

/// Writers at the same time.
const WRITERS: usize = 4;
/// The rest of a writer after a failure: a node that is down answers at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// Writers at work.
pub struct Writing {
    writes: Arc<Mutex<Writes>>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What became of every write.
#[derive(Default)]
pub struct Writes {
    /// Revision by key.
    acknowledged: BTreeMap<String, i64>,
    /// Keys of writes that failed, or whose answer was lost: they may be there or not.
    unknown: BTreeSet<String>,
}

impl Writing {
    /// Starts writers that go round all nodes of `cluster`, those that do not run included.
    pub fn start(cluster: &Cluster) -> Writing {
        Writing::through(cluster.nodes().iter())
    }

    /// Starts writers that go round these nodes.
    pub fn through<'a>(nodes: impl Iterator<Item = &'a Node>) -> Writing {
        let clients: Vec<KvClient<Channel>> = nodes.map(|node| node.kv()).collect();
        let writes = Arc::new(Mutex::new(Writes::default()));
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            tasks.spawn(write(
                writer,
                clients.clone(),
                writes.clone(),
                stopping.clone(),
            ));
        }
        Writing {
            writes,
            stop,
            tasks,
        }
    }

    /// Waits until that many more writes are acknowledged.
    pub async fn more(&self, count: usize) {
        let acknowledged = || self.writes.lock().unwrap().acknowledged.len();
        let wanted = acknowledged() + count;
        let what = format!("{count} more writes are acknowledged");
        eventually(&what, async || (acknowledged() >= wanted).then_some(())).await;
    }

    /// Puts one more key through `node`, and remembers what became of it.
    pub async fn put(&self, node: &Node, key: &str) -> Result<i64, Status> {
        let written = put(node.kv(), key.to_owned(), value_of(key)).await;
        self.writes.lock().unwrap().note(key.to_owned(), &written);
        written
    }

    /// Ends the writers and gives what became of the writes.
    pub async fn stop(mut self) -> Writes {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer does not panic");
        }
        std::mem::take(&mut *self.writes.lock().unwrap())
    }
}

async fn write(
    writer: usize,
    clients: Vec<KvClient<Channel>>,
    writes: Arc<Mutex<Writes>>,
    stopping: watch::Receiver<bool>,
) {
    for number in 0.. {
        if *stopping.borrow() {
            return;
        }
        let key = format!("{writer}/{number}");
        let client = clients[(writer + number) % clients.len()].clone();
        let written = put(client, key.clone(), value_of(&key)).await;
        writes.lock().unwrap().note(key, &written);
        if written.is_err() {
            tokio::time::sleep(FAILURE_PAUSE).await;
        }
    }
}

/// Values of various lengths, each the only one of its key.
fn value_of(key: &str) -> String {
    let length = key.bytes().map(usize::from).sum::<usize>() % 300;
    format!("{key} {}", "x".repeat(length))
}

impl Writes {
    fn note(&mut self, key: String, written: &Result<i64, Status>) {
        match written {
            Ok(revision) => drop(self.acknowledged.insert(key, *revision)),
            Err(_) => drop(self.unknown.insert(key)),
        }
    }

    /// Forgets acknowledged writes after `revision`, which a cluster that was made anew from there does not have.
    pub fn lose_after(&mut self, revision: i64) {
        let before = self.acknowledged.len();
        self.acknowledged.retain(|_, at| *at <= revision);
        println!(
            "{} acknowledged writes are lost",
            before - self.acknowledged.len()
        );
    }

    /// Checks what a cluster holds after these writes, and nothing else, went into it: every acknowledged one is there with its
    /// revision, every one whose outcome is unknown is there once or not at all.
    pub fn assert_held(&self, content: &Content) {
        let mut held = BTreeMap::new();
        for pair in &content.pairs {
            let key = std::str::from_utf8(&pair.key).expect("our keys are text");
            assert_eq!(pair.value, value_of(key), "the value of {key}");
            // A write that was applied twice would be at version 2.
            assert_eq!(
                (pair.version, pair.create_revision),
                (1, pair.mod_revision),
                "{key} was written once"
            );
            held.insert(key, pair.mod_revision);
        }
        for (key, revision) in &self.acknowledged {
            assert_eq!(
                held.remove(key.as_str()),
                Some(*revision),
                "{key} was acknowledged at revision {revision}"
            );
        }
        for key in held.keys() {
            assert!(self.unknown.contains(*key), "nobody wrote {key}");
        }
        // A new store stands at revision 1 and every write adds one.
        assert_eq!(content.revision, 1 + content.pairs.len() as i64);
        println!(
            "{} writes acknowledged, {} failed or unknown, of which {} are there",
            self.acknowledged.len(),
            self.unknown.len(),
            held.len()
        );
    }
}
