//! Watches that go on until the end of the run, from one node to the next: when a connection ends, when nothing is heard on it, and now
//! and then for no reason.

use super::clients::{KEYS, KEYS_END, Shared, connect};
use crate::calls;
use crate::history::{NodeRun, WatchMessage, WatchPiece, WatchStream};
use crate::rng::Rng;
use eaves_kv::proto::etcdserverpb::watch_client::WatchClient;
use eaves_kv::proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_request,
};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Streaming;

/// Watches of everything, and beside them one for each of so many tables.
const WATCHES_OF_ALL: u32 = 4;
const WATCHES_OF_A_TABLE: u32 = 2;
/// A watch on which nothing is heard, not even how far it is when it is asked, moves on after this time.
const SILENCE: Duration = Duration::from_secs(5);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// The longest life of a connection.
const LIFE_MS: u64 = 30_000;
const REST_MS: u64 = 300;

/// The watches of a run.
pub struct Watching {
    streams: Vec<Arc<Watcher>>,
    ending: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

/// One of them, and what it was told so far.
struct Watcher {
    stream: Mutex<WatchStream>,
    reached: AtomicI64,
}

/// An open watch.
struct Connection {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    node: NodeRun,
}

impl Watching {
    pub fn start(seed: u64, shared: &Arc<Shared>) -> Watching {
        let all = (0..WATCHES_OF_ALL).map(|_| (KEYS.to_owned(), KEYS_END.to_owned()));
        // '0' comes after '/'.
        let tables = (0..WATCHES_OF_A_TABLE)
            .map(|table| (format!("{KEYS}{table}/"), format!("{KEYS}{table}0")));
        let mut watching = Watching {
            streams: Vec::new(),
            ending: Arc::default(),
            tasks: JoinSet::new(),
        };
        for (number, (from, until)) in (0..).zip(all.chain(tables)) {
            let stream = WatchStream {
                client: 10_000 + number,
                from,
                until: Some(until),
                start_revision: 1,
                pieces: Vec::new(),
                must_reach: 0,
            };
            let watcher = Arc::new(Watcher {
                stream: Mutex::new(stream),
                reached: AtomicI64::new(0),
            });
            let rng = Rng::new(seed, 10_000 + u64::from(number));
            let ending = watching.ending.clone();
            watching
                .tasks
                .spawn(watcher.clone().follow(rng, shared.clone(), ending));
            watching.streams.push(watcher);
        }
        watching
    }

    /// Events so far.
    pub fn events(&self) -> usize {
        let events = |watcher: &Arc<Watcher>| {
            let stream = watcher.stream.lock().unwrap();
            let messages = stream.pieces.iter().flat_map(|piece| &piece.messages);
            let events = messages.map(|message| match message {
                WatchMessage::Events(events) => events.len(),
                WatchMessage::Progress(_) => 0,
            });
            events.sum::<usize>()
        };
        self.streams.iter().map(events).sum()
    }

    /// From now on no connection is left for no reason.
    pub fn settle(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Whether all have told of everything up to `revision`.
    pub fn have_reached(&self, revision: i64) -> bool {
        let mut streams = self.streams.iter();
        streams.all(|watcher| watcher.reached.load(Ordering::SeqCst) >= revision)
    }

    /// Ends them. Each must have come to `revision`.
    pub fn end(mut self, revision: i64) -> Vec<WatchStream> {
        self.tasks.abort_all();
        let take = |watcher: &Arc<Watcher>| WatchStream {
            must_reach: revision,
            ..watcher.stream.lock().unwrap().clone()
        };
        self.streams.iter().map(take).collect()
    }
}

impl Watcher {
    async fn follow(
        self: Arc<Watcher>,
        mut rng: Rng,
        shared: Arc<Shared>,
        ending: Arc<AtomicBool>,
    ) {
        loop {
            let target = rng.pick(&shared.targets);
            let node = shared.run_of(target);
            if let Ok(channel) = connect(target.address).await
                && let Some(connection) = self.open(channel, node).await
            {
                let life = Duration::from_millis(rng.below(LIFE_MS));
                self.listen(connection, life, &ending, &shared.nonsense)
                    .await;
            }
            tokio::time::sleep(Duration::from_millis(rng.below(REST_MS))).await;
        }
    }

    /// Opens the watch where the last connection ended.
    async fn open(&self, channel: tonic::transport::Channel, node: NodeRun) -> Option<Connection> {
        let (requests, queue) = mpsc::channel(4);
        let create = {
            let stream = self.stream.lock().unwrap();
            WatchCreateRequest {
                key: stream.from.clone().into_bytes().into(),
                range_end: stream.until.clone().unwrap_or_default().into_bytes().into(),
                start_revision: self.next_revision(&stream),
                ..Default::default()
            }
        };
        requests
            .send(request(watch_request::RequestUnion::CreateRequest(create)))
            .await
            .ok()?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
        let responses = timeout(SILENCE, client.watch(queue)).await.ok()?.ok()?;
        Some(Connection {
            requests,
            responses: responses.into_inner(),
            node,
        })
    }

    fn next_revision(&self, stream: &WatchStream) -> i64 {
        stream
            .start_revision
            .max(self.reached.load(Ordering::SeqCst) + 1)
    }

    async fn listen(
        &self,
        mut connection: Connection,
        life: Duration,
        ending: &AtomicBool,
        nonsense: &Mutex<Vec<String>>,
    ) {
        {
            let mut stream = self.stream.lock().unwrap();
            let start_revision = self.next_revision(&stream);
            stream.pieces.push(WatchPiece {
                node: connection.node.clone(),
                start_revision,
                messages: Vec::new(),
            });
        }
        let began = Instant::now();
        let (mut heard, mut asked) = (began, began);
        while ending.load(Ordering::SeqCst) || began.elapsed() < life {
            match timeout(ASK_EVERY, connection.responses.message()).await {
                Ok(Ok(Some(response))) if !response.canceled => {
                    heard = Instant::now();
                    if let Err(wrong) = self.note(&response) {
                        let wrong = format!("a watch at {}: {wrong}", connection.node);
                        nonsense.lock().unwrap().push(wrong);
                    }
                }
                Ok(_) => return,
                Err(_) if heard.elapsed() > SILENCE => return,
                Err(_) => {}
            }
            if asked.elapsed() > ASK_EVERY {
                asked = Instant::now();
                let ask = watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {});
                if connection.requests.try_send(request(ask)).is_err() {
                    return;
                }
            }
        }
    }

    /// Keeps what a watch tells. Returns what of it makes no sense, in which case nothing is kept.
    fn note(&self, response: &WatchResponse) -> Result<(), String> {
        if response.created {
            return Ok(());
        }
        let message = match response.events.is_empty() {
            true => WatchMessage::Progress(response.header.map_or(0, |header| header.revision)),
            false => {
                let events = response.events.iter().map(calls::watch_event);
                WatchMessage::Events(events.collect::<Result<_, _>>()?)
            }
        };
        let reached = match &message {
            WatchMessage::Events(events) => {
                events.iter().map(|event| event.revision).max().unwrap_or(0)
            }
            WatchMessage::Progress(revision) => *revision,
        };
        let mut stream = self.stream.lock().unwrap();
        if let Some(piece) = stream.pieces.last_mut() {
            piece.messages.push(message);
        }
        self.reached.fetch_max(reached, Ordering::SeqCst);
        Ok(())
    }
}

fn request(union: watch_request::RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves_kv::proto::mvccpb::{Event, KeyValue};

    #[test]
    fn an_event_without_a_key_makes_no_sense() {
        let stream = WatchStream {
            client: 1,
            from: KEYS.into(),
            until: None,
            start_revision: 1,
            pieces: Vec::new(),
            must_reach: 0,
        };
        let watcher = Watcher {
            stream: Mutex::new(stream),
            reached: AtomicI64::new(0),
        };
        let tells = |kv| WatchResponse {
            events: vec![Event {
                kv,
                ..Event::default()
            }],
            ..WatchResponse::default()
        };
        let change = KeyValue {
            mod_revision: 7,
            ..KeyValue::default()
        };
        assert_eq!(watcher.note(&tells(Some(change))), Ok(()));
        assert!(watcher.note(&tells(None)).is_err());
        assert_eq!(watcher.reached.load(Ordering::SeqCst), 7);
    }
}
