//! The watchers: many that read what concerns them, and some that never read.

use super::{Plan, connect};
use crate::cluster::Node;
use crate::process::eventually;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use eaves_kv::proto::etcdserverpb::watch_client::WatchClient;
use eaves_kv::proto::etcdserverpb::{
    PutRequest, WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::Streaming;
use tonic::transport::Channel;

/// The key that all watchers watch that read.
const KEY: &str = "watched";
/// How long a change is waited for.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pause before a change that was refused is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Watchers at work. Dropping it ends them.
pub struct Watchers {
    changes: mpsc::UnboundedSender<()>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
    _lazy: Vec<Streaming<WatchResponse>>,
}

struct Shared {
    /// Changes asked for and not done.
    pending: AtomicU64,
    /// Revision of the last change that was acknowledged.
    acknowledged: Mutex<(u64, i64)>,
    /// How far each watcher has heard: the revision, and how many changes.
    heard: Vec<(AtomicU64, AtomicU64)>,
}

impl Watchers {
    /// Opens all watches and waits until they are created.
    pub async fn start(nodes: &[Node], channels: &[Channel], plan: &Plan) -> Watchers {
        let mut lazy = Vec::new();
        for number in 0..plan.lazy_watchers {
            let channel = connect(&nodes[number % nodes.len()]).await;
            // Everything there is, so that there is much not to read.
            lazy.push(watch(channel, "", "\0").await);
        }
        let heard = (0..plan.watchers).map(|_| Default::default());
        let shared = Arc::new(Shared {
            pending: AtomicU64::new(0),
            acknowledged: Mutex::default(),
            heard: heard.collect(),
        });
        let mut tasks = JoinSet::new();
        for number in 0..plan.watchers {
            let channel = channels[number % channels.len()].clone();
            let responses = watch(channel, KEY, "").await;
            tasks.spawn(listen(shared.clone(), number, responses));
        }
        let (changes, wanted) = mpsc::unbounded_channel();
        tasks.spawn(change(
            shared.clone(),
            KvClient::new(nodes[0].channel()),
            wanted,
        ));
        Watchers {
            changes,
            shared,
            _tasks: tasks,
            _lazy: lazy,
        }
    }

    /// Asks for one more change of what is watched.
    pub fn change(&self) {
        self.shared.pending.fetch_add(1, Ordering::Relaxed);
        let _ = self.changes.send(());
    }

    /// Waits until all that was asked for is done, and every watcher that reads has heard of it. Returns how many changes it was.
    pub async fn all_heard(&self) -> u64 {
        let done = async || (self.shared.pending.load(Ordering::Relaxed) == 0).then_some(());
        eventually("all changes that are watched are done", done).await;
        let (_, revision) = *self.shared.acknowledged.lock().unwrap();
        let all = async || {
            let mut heard = self.shared.heard.iter();
            heard
                .all(|(at, _)| at.load(Ordering::Relaxed) >= revision as u64)
                .then_some(())
        };
        eventually("every watcher has heard of the last change", all).await;
        let counts = self.shared.heard.iter();
        let mut counts = counts.map(|(_, count)| count.load(Ordering::Relaxed));
        let first = counts.next().unwrap_or(0);
        assert!(
            counts.all(|count| count == first),
            "all watchers have heard of the same changes"
        );
        let (acknowledged, _) = *self.shared.acknowledged.lock().unwrap();
        assert!(first >= acknowledged, "{first} of {acknowledged} changes");
        first
    }
}

async fn watch(channel: Channel, key: &str, range_end: &str) -> Streaming<WatchResponse> {
    let create = WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..Default::default()
    };
    let create = WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
    };
    let requests = tokio_stream::once(create).chain(tokio_stream::pending());
    let answer = WatchClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .watch(requests)
        .await;
    let mut responses = answer.expect("the watch service answers").into_inner();
    let created = responses.message().await.expect("a stream").expect("open");
    assert!(created.created && !created.canceled);
    responses
}

/// One watcher: fails when a change comes twice or out of order.
async fn listen(shared: Arc<Shared>, number: usize, mut responses: Streaming<WatchResponse>) {
    let (at, count) = &shared.heard[number];
    while let Some(response) = responses.message().await.expect("the stream goes on") {
        for event in response.events {
            let revision = event.kv.expect("an event has a pair").mod_revision as u64;
            let before = at.swap(revision, Ordering::Relaxed);
            assert!(before < revision, "{revision} comes after {before}");
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Changes what is watched as often as it is asked for, one change at a time, and again when it was refused.
async fn change(
    shared: Arc<Shared>,
    mut kv: KvClient<Channel>,
    mut wanted: mpsc::UnboundedReceiver<()>,
) {
    while wanted.recv().await.is_some() {
        loop {
            let put = PutRequest {
                key: KEY.into(),
                ..Default::default()
            };
            // One whose answer does not come may have been done; then it is heard of twice.
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, kv.put(put)).await {
                let header = answer.into_inner().header.expect("an answer has a header");
                let mut acknowledged = shared.acknowledged.lock().unwrap();
                *acknowledged = (acknowledged.0 + 1, header.revision);
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        shared.pending.fetch_sub(1, Ordering::Relaxed);
    }
}
