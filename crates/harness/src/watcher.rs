//! Clients that watch and read on a node all the time, whatever becomes of the tree above it.

use crate::cluster::{Content, Node, revision};
use crate::process::{POLL, eventually};
use bytes::Bytes;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use eaves_kv::proto::etcdserverpb::watch_client::WatchClient;
use eaves_kv::proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
};
use eaves_kv::proto::mvccpb::KeyValue;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// An open watch: dropping the first part ends it.
pub type Watch = (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>);

/// Watches `key` to `range_end` from `start_revision` on (0: from now), on a connection of its own: a watch that is not read must not
/// hold up another test client.
pub async fn watch(
    address: &str,
    (key, range_end): (impl Into<Bytes>, impl Into<Bytes>),
    start_revision: i64,
) -> Watch {
    let (requests, queue) = mpsc::channel(1);
    let create = WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision,
        ..Default::default()
    };
    let create = WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
    };
    requests.send(create).await.expect("the queue has room");
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .expect("a loopback address is an endpoint");
    let channel: Channel = endpoint.connect().await.expect("the node listens");
    let stream = tokio_stream::wrappers::ReceiverStream::new(queue);
    let responses = WatchClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .watch(stream)
        .await
        .expect("the watch service answers");
    (requests, responses.into_inner())
}

/// One watch of everything, and one reader of the node's own state, on each of several nodes that are to stay up.
pub struct Watching {
    nodes: Vec<(String, Arc<Mutex<Seen>>)>,
    /// Dropping them ends them.
    tasks: JoinSet<()>,
}

/// What the clients of one node saw.
#[derive(Default)]
struct Seen {
    events: Vec<KeyValue>,
    reads: usize,
    wrong: Option<String>,
}

impl Watching {
    /// Starts a watch from the first revision and a reader on each node.
    pub async fn start<'a>(nodes: impl Iterator<Item = &'a Node>) -> Watching {
        let mut watching = Watching {
            nodes: Vec::new(),
            tasks: JoinSet::new(),
        };
        for node in nodes {
            let seen = Arc::new(Mutex::new(Seen::default()));
            let watch = watch(&node.address(), (vec![0], vec![0]), 1).await;
            watching.tasks.spawn(follow(watch, seen.clone()));
            watching.tasks.spawn(read(node.kv(), seen.clone()));
            watching.nodes.push((node.name.clone(), seen));
        }
        watching
    }

    /// Waits until every watch has come to the end of `content`, in which every key was written once. Checks that each told of every
    /// write once and in order, and that no read failed or went back.
    pub async fn assert_gapless(self, content: &Content) {
        let mut expected = content.pairs.clone();
        expected.sort_by_key(|pair| pair.mod_revision);
        for (name, seen) in &self.nodes {
            let what = format!(
                "the watch on {name} has told of {} writes, no more and no fewer",
                expected.len()
            );
            eventually(&what, async || {
                let seen = seen.lock().unwrap();
                assert_eq!(seen.wrong, None, "on {name}");
                (seen.events.len() >= expected.len()).then_some(())
            })
            .await;
            let seen = seen.lock().unwrap();
            assert!(seen.events == expected, "the watch on {name} has a gap");
            assert!(seen.reads > 0, "{name} was never read");
        }
    }
}

async fn follow((requests, mut responses): Watch, seen: Arc<Mutex<Seen>>) {
    let _open = requests;
    loop {
        let next = responses.message().await;
        let mut seen = seen.lock().unwrap();
        match next {
            Ok(Some(response)) if !response.canceled => {
                let pairs = response.events.into_iter().filter_map(|event| event.kv);
                seen.events.extend(pairs);
            }
            ended => {
                seen.wrong = Some(format!("the watch has ended: {ended:?}"));
                return;
            }
        }
    }
}

/// Reads the node's own state again and again: that needs nobody else, so it never fails, and never goes back.
async fn read(kv: KvClient<Channel>, seen: Arc<Mutex<Seen>>) {
    let mut last = 0;
    loop {
        match revision(kv.clone(), true).await {
            Ok(revision) if revision >= last => last = revision,
            other => {
                let wrong = format!("a read after revision {last} gave {other:?}");
                seen.lock().unwrap().wrong = Some(wrong);
                return;
            }
        }
        seen.lock().unwrap().reads += 1;
        tokio::time::sleep(POLL).await;
    }
}
