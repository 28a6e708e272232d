//! A watch stream and all that it delivered, sorted by watch so that two systems can be compared.
//!
//! How many revisions a server puts into one response depends on its timing. So events are flattened for each watch,
//! and what etcd promises about the responses is checked as they arrive, on both systems:
//!
//! - **revision-whole**: all events of one revision that a watch sees come in one response (or in its fragments);
//! - **revisions-rise**: the revisions of a watch's events rise from response to response;
//! - **header-covers**: a response's header revision is at least that of its last event;
//! - **progress-final**: after a progress response at revision R no watch made before it has an event at or below R;
//! - **silent-after-cancel**: nothing comes for a watch after it was cancelled.

use std::time::{Duration, Instant};

use eaves_kv::proto::etcdserverpb::watch_create_request::FilterType;
use eaves_kv::proto::etcdserverpb::watch_request::RequestUnion;
use eaves_kv::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use eaves_kv::proto::mvccpb::Event;
use eaves_kv::proto::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::processes::Node;
use crate::replies::clear_identity;

/// How long is waited for a response that must come. Far longer than any needs.
pub const RESPONSE_LIMIT: Duration = Duration::from_secs(20);

/// What one stream delivered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamLog {
    /// The watches that were accepted, in that order.
    pub watches: Vec<WatchLog>,
    /// The answers to the requests that were not: created and cancelled at once.
    pub refused: Vec<WatchResponse>,
    /// The revisions of the answers to progress requests, without repetitions.
    pub progress: Vec<i64>,
    /// The stream's end, if the server ended it.
    pub ended: Option<String>,
    /// Which of the promises were broken, and how.
    pub broken: Vec<String>,
}

/// What one watch delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchLog {
    pub id: i64,
    /// The header revision of the response that said it was created.
    pub created_at: i64,
    pub events: Vec<Event>,
    /// The response that ended it.
    pub cancelled: Option<WatchResponse>,
    /// How many of its responses were marked as fragments. Not compared in general: batches differ.
    pub fragments: usize,
    /// Whether its last response was a fragment with more to come.
    unfinished: bool,
    /// The revision of the last progress response since it was made.
    progress: i64,
}

impl StreamLog {
    pub fn absorb(&mut self, mut response: WatchResponse) {
        let Some(header) = response.header.as_mut() else {
            return self
                .broken
                .push(format!("a response without a header: {response:?}"));
        };
        clear_identity(header);
        let revision = header.revision;
        if response.created && response.canceled {
            self.refused.push(response);
        } else if response.created {
            self.watches.push(WatchLog {
                id: response.watch_id,
                created_at: revision,
                events: Vec::new(),
                cancelled: None,
                fragments: 0,
                unfinished: false,
                progress: 0,
            });
        } else if response.watch_id == -1 && response.events.is_empty() {
            if self.progress.last() != Some(&revision) {
                self.progress.push(revision);
            }
            self.watches
                .iter_mut()
                .for_each(|watch| watch.progress = revision);
        } else {
            self.absorb_for_watch(response, revision);
        }
    }

    fn absorb_for_watch(&mut self, response: WatchResponse, revision: i64) {
        let watch = self
            .watches
            .iter_mut()
            .rev()
            .find(|watch| watch.id == response.watch_id);
        let Some(watch) = watch else {
            return self.broken.push(format!(
                "a response for a watch that was never created: {response:?}"
            ));
        };
        if watch.cancelled.is_some() {
            self.broken
                .push(format!("silent-after-cancel: {response:?}"));
        }
        let last_revision = watch.events.last().map_or(0, event_revision);
        let revisions: Vec<i64> = response.events.iter().map(event_revision).collect();
        if let (Some(first), Some(last)) = (revisions.first(), revisions.last()) {
            if *first < last_revision || !revisions.is_sorted() {
                self.broken.push(format!(
                    "revisions-rise: {revisions:?} after {last_revision}"
                ));
            }
            if *first == last_revision && !watch.unfinished {
                self.broken.push(format!(
                    "revision-whole: revision {first} again in {response:?}"
                ));
            }
            if revision < *last {
                self.broken
                    .push(format!("header-covers: {revision} is below event {last}"));
            }
            if *first <= watch.progress {
                self.broken.push(format!(
                    "progress-final: event {first} after progress {}",
                    watch.progress
                ));
            }
        }
        watch.unfinished = response.fragment;
        watch.fragments += usize::from(response.fragment);
        if response.canceled {
            watch.cancelled = Some(response);
        } else {
            watch.events.extend(response.events);
        }
    }

    /// What differs from `reference`, in words; `None` when they agree.
    pub fn difference(
        &self,
        reference: &StreamLog,
        stale_starts: &[Option<i64>],
    ) -> Option<String> {
        if !self.broken.is_empty() {
            return Some(format!("a promise was broken: {:?}", self.broken));
        }
        if self.ended != reference.ended {
            return Some(format!(
                "the stream's end is {:?}, should be {:?}",
                self.ended, reference.ended
            ));
        }
        if self.refused != reference.refused {
            return Some(format!(
                "refused watches are {:?}, should be {:?}",
                self.refused, reference.refused
            ));
        }
        if self.progress != reference.progress {
            return Some(format!(
                "progress is {:?}, should be {:?}",
                self.progress, reference.progress
            ));
        }
        if self.watches.len() != reference.watches.len() {
            return Some(format!(
                "{} watches, should be {}",
                self.watches.len(),
                reference.watches.len()
            ));
        }
        let pairs = self.watches.iter().zip(&reference.watches).enumerate();
        pairs
            .filter_map(|(index, (ours, theirs))| {
                let kept = stale_starts.get(index).copied().flatten();
                ours.difference(theirs, kept)
            })
            .next()
    }
}

impl WatchLog {
    /// What differs from `reference`. Deletions at revision `kept` may be there or not: see the allowances of the oracle.
    fn difference(&self, reference: &WatchLog, kept: Option<i64>) -> Option<String> {
        let named = |what: String| Some(format!("watch {}: {what}", self.id));
        if (self.id, self.created_at) != (reference.id, reference.created_at) {
            return named(format!(
                "created at revision {}, should be watch {} at {}",
                self.created_at, reference.id, reference.created_at
            ));
        }
        let (ours, theirs) = (
            without_deletions_at(&self.events, kept),
            without_deletions_at(&reference.events, kept),
        );
        for (index, (our, their)) in ours.iter().zip(&theirs).enumerate() {
            if our != their {
                return named(format!("event {index} is {our:?}, should be {their:?}"));
            }
        }
        if ours.len() != theirs.len() {
            let extra = ours.get(theirs.len()).or_else(|| theirs.get(ours.len()));
            return named(format!(
                "{} events, should be {}; the first extra is {extra:?}",
                ours.len(),
                theirs.len()
            ));
        }
        if self.cancelled != reference.cancelled {
            return named(format!(
                "cancelled by {:?}, should be {:?}",
                self.cancelled, reference.cancelled
            ));
        }
        None
    }
}

fn without_deletions_at(events: &[Event], revision: Option<i64>) -> Vec<&Event> {
    let dropped = |event: &Event| {
        event.r#type() == EventType::Delete && Some(event_revision(event)) == revision
    };
    events.iter().filter(|event| !dropped(event)).collect()
}

/// The revision at which the event happened.
pub fn event_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// Whether a watch asked for by `create`, and started at `start`, sees the event.
pub fn sees(create: &WatchCreateRequest, start: i64, event: &Event) -> bool {
    let key = event.kv.as_ref().map_or(&b""[..], |kv| &kv.key);
    let in_range = match (&create.key[..], &create.range_end[..]) {
        // An empty key stands for "\0".
        (b"", end) => covers(b"\0", end, key),
        (start, end) => covers(start, end, key),
    };
    let filtered = match event.r#type() {
        EventType::Put => FilterType::Noput,
        EventType::Delete => FilterType::Nodelete,
    };
    in_range && event_revision(event) >= start && !create.filters.contains(&(filtered as i32))
}

fn covers(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        b"" => key == start,
        b"\0" => key >= start,
        end => key >= start && key < end,
    }
}

/// One stream to one node.
pub struct Stream {
    pub log: StreamLog,
    requests: mpsc::Sender<WatchRequest>,
    responses: mpsc::UnboundedReceiver<Result<WatchResponse, Status>>,
}

impl Stream {
    /// Opens a stream. etcd answers with headers only when a watch is made, so a task waits for them.
    pub fn open(node: &Node) -> Stream {
        let (requests, outgoing) = mpsc::channel(16);
        let (incoming, responses) = mpsc::unbounded_channel();
        let mut client = node.watch.clone();
        tokio::spawn(async move {
            let mut stream = match client.watch(ReceiverStream::new(outgoing)).await {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(incoming.send(Err(status))),
            };
            loop {
                let item = match stream.message().await {
                    Ok(Some(response)) => Ok(response),
                    Ok(None) => Err(Status::ok("the stream ended")),
                    Err(status) => Err(status),
                };
                let last = item.is_err();
                if incoming.send(item).is_err() || last {
                    return;
                }
            }
        });
        Stream {
            log: StreamLog::default(),
            requests,
            responses,
        }
    }

    /// Sends a request on the stream. A stream that has ended shows in the log, not here.
    pub async fn request(&self, request: RequestUnion) {
        let _ = self
            .requests
            .send(WatchRequest {
                request_union: Some(request),
            })
            .await;
    }

    /// Takes in what has arrived.
    pub fn drain(&mut self) {
        while let Ok(response) = self.responses.try_recv() {
            self.absorb(response);
        }
    }

    /// Takes in responses until `enough`, or until `limit` has passed; says which.
    pub async fn read_until(
        &mut self,
        limit: Duration,
        enough: impl Fn(&StreamLog) -> bool,
    ) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            self.drain();
            if enough(&self.log) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.responses.recv()).await {
                Ok(Some(response)) => self.absorb(response),
                Ok(None) | Err(_) => return false,
            }
        }
    }

    fn absorb(&mut self, response: Result<WatchResponse, Status>) {
        match response {
            Ok(response) => self.log.absorb(response),
            Err(status) => {
                self.log.ended = Some(format!("{:?} {:?}", status.code(), status.message()))
            }
        }
    }
}
