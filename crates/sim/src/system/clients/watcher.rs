//! A client that watches a range of keys from the first revision to the end of the run, now at this node, now at that one.

use super::Shared;
use super::channel::Channels;
use crate::calls;
use crate::engine::{MILLISECOND, Micros, SECOND};
use crate::history::{WatchMessage, WatchPiece, WatchStream};
use crate::rng::Rng;
use crate::system::trace;
use eaves_kv::proto::etcdserverpb::watch_client::WatchClient;
use eaves_kv::proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use futures_util::StreamExt;
use futures_util::stream;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Streaming;

/// How long a watch that is told nothing stays: progress is told about every second.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long a watch stays at one node, from and to.
const STAY: (Micros, Micros) = (500 * MILLISECOND, 15 * SECOND);

/// A watcher.
pub struct Watcher {
    shared: Arc<Shared>,
    channels: Channels,
    rng: Rng,
    stream: WatchStream,
    /// Everything before it has been told.
    next: i64,
}

/// Why a watch ended at a node.
enum End {
    /// It was cut, was told nothing, or went elsewhere by itself.
    Left,
    /// What it asks for is compacted; it can go on from here.
    Overtaken(i64),
    /// It has seen everything.
    Done,
}

impl Watcher {
    /// The watcher of this number.
    pub fn new(number: u32, shared: Arc<Shared>, rng: &mut Rng) -> Watcher {
        let mut rng = Rng::new(rng.any(), u64::from(number));
        let (from, until) = match rng.below(3) {
            0 => {
                let group = rng.below(shared.plan.groups);
                (format!("g{group}/"), Some(format!("g{group}0")))
            }
            _ => ("g".to_string(), None),
        };
        Watcher {
            channels: shared.channels(),
            stream: stream_from(number, from, until, 1),
            shared,
            rng,
            next: 1,
        }
    }

    /// Until the run ends.
    pub async fn run(mut self) {
        loop {
            let node = self.rng.below(self.shared.nodes.len() as u64) as usize;
            match self.watch(node).await {
                Ok(End::Done) => return self.end(None),
                Ok(End::Left) => {}
                Ok(End::Overtaken(revision)) => {
                    self.shared.record.lock().unwrap().tallies.overtaken += 1;
                    self.end(Some(revision));
                }
                Err(nonsense) => {
                    self.shared.record.lock().unwrap().wrong = Some(nonsense);
                    return;
                }
            }
            let pause = self.rng.scale(1, 500 * MILLISECOND);
            sleep(Duration::from_micros(pause)).await;
            self.shared.record.lock().unwrap().tallies.rewatched += 1;
        }
    }

    /// What was told goes into the history. A new watch begins at `revision`, if there is one.
    fn end(&mut self, revision: Option<i64>) {
        let next = stream_from(
            self.stream.client,
            self.stream.from.clone(),
            self.stream.until.clone(),
            revision.unwrap_or(0),
        );
        let mut stream = std::mem::replace(&mut self.stream, next);
        stream.must_reach = match revision {
            None => self.shared.last_revision().unwrap_or(0),
            Some(_) => 0,
        };
        self.next = revision.unwrap_or(self.next);
        let record = &mut *self.shared.record.lock().unwrap();
        record.history.watches.push(stream);
    }

    /// Watches at one node for a while.
    async fn watch(&mut self, node: usize) -> Result<End, String> {
        let run = self.shared.run_of(node);
        let name = self.shared.nodes[node];
        let node_run = {
            let record = &mut *self.shared.record.lock().unwrap();
            record.node_run(name, run, run)
        };
        let create = WatchCreateRequest {
            key: self.stream.from.clone().into(),
            range_end: match &self.stream.until {
                Some(until) => until.clone().into(),
                None => vec![0].into(),
            },
            start_revision: self.next,
            progress_notify: true,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        let requests = stream::iter([create]).chain(stream::pending());
        let mut client = WatchClient::new(self.channels.to(node));
        let Ok(Ok(answers)) = timeout(PATIENCE, client.watch(requests)).await else {
            return Ok(End::Left);
        };
        self.stream.pieces.push(WatchPiece {
            node: node_run,
            start_revision: self.next,
            messages: Vec::new(),
        });
        trace::note(format_args!(
            "w{} watches at {name} from {}",
            self.stream.client, self.next
        ));
        let stay = Duration::from_micros(self.rng.scale(STAY.0, STAY.1));
        match timeout(stay, self.listen(answers.into_inner())).await {
            Ok(end) => end,
            Err(_) => Ok(End::Left),
        }
    }

    async fn listen(&mut self, mut answers: Streaming<WatchResponse>) -> Result<End, String> {
        loop {
            if self
                .shared
                .last_revision()
                .is_some_and(|last| self.next > last)
            {
                return Ok(End::Done);
            }
            let answer = match timeout(PATIENCE, answers.next()).await {
                Ok(Some(Ok(answer))) => answer,
                Ok(Some(Err(_)) | None) | Err(_) => return Ok(End::Left),
            };
            if answer.compact_revision > 0 {
                return Ok(End::Overtaken(answer.compact_revision));
            }
            if answer.canceled {
                return Ok(End::Left);
            }
            if !answer.created {
                self.take(&answer)?;
            }
        }
    }

    fn take(&mut self, answer: &WatchResponse) -> Result<(), String> {
        let message = if answer.events.is_empty() {
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            self.next = self.next.max(revision + 1);
            WatchMessage::Progress(revision)
        } else {
            let events = answer.events.iter().map(calls::watch_event);
            let events = events.collect::<Result<Vec<_>, _>>()?;
            for event in &events {
                self.next = self.next.max(event.revision + 1);
            }
            WatchMessage::Events(events)
        };
        trace::note(format_args!("w{} is told {message:?}", self.stream.client));
        let piece = self.stream.pieces.last_mut();
        piece.expect("a watch was begun").messages.push(message);
        Ok(())
    }
}

fn stream_from(
    client: u32,
    from: String,
    until: Option<String>,
    start_revision: i64,
) -> WatchStream {
    WatchStream {
        client,
        from,
        until,
        start_revision,
        pieces: Vec::new(),
        must_reach: 0,
    }
}
