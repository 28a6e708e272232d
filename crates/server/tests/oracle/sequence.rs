//! One random sequence, run in lockstep against a reference and a subject.
//!
//! Writes go to both, on the subject to each of its nodes in turn; reads go to every node. Before a read from a node's
//! own state, a watch or a progress request, the node catches up, so that a difference is never one of timing. Each side
//! also has a *witness* on every node, a stream that watches everything from the first revision: from its events follows
//! how many events every other watch must get, so the run waits for those rather than for a time.
//!
//! Allowances, the only ones:
//!
//! - ids and terms differ (see `replies`), and how revisions are batched into watch responses (see `watches`);
//! - etcd before 3.4.34 and 3.5.16 drops a deletion at exactly the compacted revision, later ones keep it: a watch from
//!   that revision sees it on a cluster that [keeps](Side::keeps_deletion_at_compaction) it, and must;
//! - a progress request is answered by etcd 3.5.1 at once, by later ones only when all watches of the stream are synced
//!   and at or after their start: so it is repeated until answered, and only sent on a stream with a watch and no watch
//!   that starts in the future;
//! - a watch from a negative revision is refused by later etcds and not by 3.5.1: none is made;
//! - the id of a watch that a compaction ended is free at once with us, in etcd only after the client cancels it: so it is
//!   not asked for again, and no watch that will end so has an id of the client's choice, which the automatic ids skip.

use std::collections::BTreeMap;
use std::time::Duration;

use eaves_kv::proto::etcdserverpb::watch_request::RequestUnion;
use eaves_kv::proto::etcdserverpb::{WatchCancelRequest, WatchCreateRequest, WatchProgressRequest};
use eaves_kv::proto::mvccpb::event::EventType;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::processes::{Cluster, Node};
use crate::replies::{Reply, catch_up, send};
use crate::requests::{Call, Generator, Revisions};
use crate::watches::{RESPONSE_LIMIT, Stream, StreamLog, event_revision, sees};

/// How many differences a sequence reports before it gives up.
const DIFFERENCES_MAX: usize = 5;

/// How many streams a sequence keeps open besides the witnesses.
const STREAMS_MAX: usize = 3;

/// How many live watches a stream has at most.
const WATCHES_MAX: usize = 8;

/// How long is waited for an answer to a progress request before it is repeated.
const PROGRESS_AGAIN: Duration = Duration::from_millis(200);

/// How long the end of a sequence waits for events that should not come.
const EXTRAS_WAIT: Duration = Duration::from_millis(300);

/// One of the two systems.
pub struct Side<'a> {
    pub cluster: &'a mut Cluster,
    /// Whether a deletion at exactly the compacted revision survives the compaction.
    pub keeps_deletion_at_compaction: bool,
}

/// What came of a sequence.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Where the subject did not do as the reference.
    pub differences: Vec<String>,
    /// How often the reference answered what.
    pub coverage: BTreeMap<String, usize>,
    /// The reference's replies and its streams, for the test of the comparison itself.
    pub replies: Vec<Reply>,
    pub streams: Vec<StreamLog>,
}

/// Runs the sequence that `seed` stands for.
pub async fn run(seed: u64, steps: usize, reference: Side<'_>, subject: Side<'_>) -> Outcome {
    let reference_nodes = reference.cluster.nodes.len();
    assert_eq!(
        reference_nodes, 1,
        "the reference is one node, so that it is always current"
    );
    let nodes: Vec<Node> = reference
        .cluster
        .nodes
        .iter()
        .chain(&subject.cluster.nodes)
        .cloned()
        .collect();
    let keeps = nodes.iter().enumerate().map(|(index, _)| match index {
        0 => reference.keeps_deletion_at_compaction,
        _ => subject.keeps_deletion_at_compaction,
    });
    let mut run = Run {
        generator: Generator::new(seed),
        keeps_deletion: keeps.collect(),
        witnesses: nodes.iter().map(Stream::open).collect(),
        nodes,
        revisions: Revisions {
            current: 1,
            compacted: 0,
        },
        streams: Vec::new(),
        writer: 0,
        step: 0,
        past_watches: false,
        over: false,
        outcome: Outcome::default(),
    };
    run.watch_everything().await;
    while run.step < steps && !run.gave_up() {
        reference.cluster.assert_alive();
        subject.cluster.assert_alive();
        run.step += 1;
        run.random_step().await;
    }
    run.finish().await;
    run.outcome
}

/// The same stream on every node, the reference's first.
struct StreamSet {
    streams: Vec<Stream>,
    /// The accepted watches, in the order in which they were made.
    watches: Vec<Watch>,
}

struct Watch {
    id: i64,
    create: WatchCreateRequest,
    /// The first revision it sees.
    start: i64,
    /// Its start, if that was the compacted revision: a deletion there is kept by some versions and not by others.
    stale_start: Option<i64>,
    ended_by: Option<Ended>,
}

#[derive(PartialEq)]
enum Ended {
    Request,
    Compaction,
}

struct Run {
    generator: Generator,
    /// The reference, then the subject's nodes.
    nodes: Vec<Node>,
    keeps_deletion: Vec<bool>,
    witnesses: Vec<Stream>,
    revisions: Revisions,
    streams: Vec<StreamSet>,
    /// How many writes there were: which node of the subject gets the next.
    writer: usize,
    step: usize,
    /// Whether a watch from the past was made that may still be reading it.
    past_watches: bool,
    /// Whether a difference was found after which nothing can be compared.
    over: bool,
    outcome: Outcome,
}

impl Run {
    fn gave_up(&self) -> bool {
        self.over || self.outcome.differences.len() >= DIFFERENCES_MAX
    }

    fn differ(&mut self, what: String) {
        self.outcome
            .differences
            .push(format!("step {}: {what}", self.step));
    }

    /// Ends the sequence: what follows would differ because of this.
    fn differ_fatally(&mut self, what: String) {
        self.differ(what);
        self.over = true;
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.outcome.coverage.entry(what.into()).or_default() += 1;
    }

    async fn random_step(&mut self) {
        match self.generator.random.random_range(0..100) {
            0..80 => self.call().await,
            80..84 if self.streams.len() < STREAMS_MAX => self.open_stream(),
            80..93 => self.create_watch().await,
            93..96 => self.cancel_watch().await,
            96..99 => self.ask_progress().await,
            _ => self.close_stream().await,
        }
    }

    // Unary calls.

    async fn call(&mut self) {
        let call = self.generator.request(self.revisions);
        if let Call::Compact(_) = call {
            // What a compaction ends or hides must not depend on how far a watch has come.
            self.settle().await;
            self.sync_watches().await;
        }
        let expected = send(&self.nodes[0], &call).await;
        self.count(expected.kind());
        for index in self.askers(&call) {
            if call.serializable()
                && let Err(problem) = catch_up(&self.nodes[index]).await
            {
                return self.differ_fatally(problem);
            }
            let got = send(&self.nodes[index], &call).await;
            if got != expected {
                let node = &self.nodes[index].name;
                let what = format!(
                    "{node} answers {call:?}\n    with      {got:?}\n    should be {expected:?}"
                );
                if call.reads_only() {
                    self.differ(what)
                } else {
                    self.differ_fatally(what)
                }
            }
        }
        self.note_revisions(&call, &expected);
        self.outcome.replies.push(expected);
    }

    /// Which of the subject's nodes get the call: one of them if it writes, else all.
    fn askers(&mut self, call: &Call) -> Vec<usize> {
        let subjects = self.nodes.len() - 1;
        if call.reads_only() {
            return (1..=subjects).collect();
        }
        self.writer += 1;
        vec![1 + self.writer % subjects]
    }

    fn note_revisions(&mut self, call: &Call, reply: &Reply) {
        if let Some(revision) = reply.revision() {
            self.revisions.current = revision;
        }
        if let (Call::Compact(request), Reply::Compact(_)) = (call, reply) {
            self.revisions.compacted = request.revision;
        }
    }

    // Watches.

    async fn watch_everything(&mut self) {
        // The first revision that can hold an event, and not yet there: so the watch is synced at once.
        let create = watch_of_everything(2);
        for index in 0..self.nodes.len() {
            let witness = &mut self.witnesses[index];
            witness
                .request(RequestUnion::CreateRequest(create.clone()))
                .await;
            if !witness
                .read_until(RESPONSE_LIMIT, |log| !log.watches.is_empty())
                .await
            {
                let (node, log) = (&self.nodes[index].name, &witness.log);
                let what = format!("{node} did not create the watch of everything: {log:?}");
                return self.differ_fatally(what);
            }
        }
    }

    fn open_stream(&mut self) {
        let streams = self.nodes.iter().map(Stream::open).collect();
        self.streams.push(StreamSet {
            streams,
            watches: Vec::new(),
        });
    }

    fn pick_stream(&mut self) -> Option<usize> {
        (!self.streams.is_empty())
            .then(|| self.generator.random.random_range(0..self.streams.len()))
    }

    async fn create_watch(&mut self) {
        let Some(set) = self.pick_stream() else {
            return self.open_stream();
        };
        if self.streams[set].live().count() >= WATCHES_MAX {
            return;
        }
        let create = self.watch_request(set);
        if !self.all_catch_up().await {
            return;
        }
        let answers = self.streams[set].answers();
        for index in 0..self.nodes.len() {
            let stream = &mut self.streams[set].streams[index];
            stream
                .request(RequestUnion::CreateRequest(create.clone()))
                .await;
            let answered = |log: &StreamLog| {
                log.watches.len() + log.refused.len() > answers || log.ended.is_some()
            };
            if !stream.read_until(RESPONSE_LIMIT, answered).await {
                let node = &self.nodes[index].name;
                return self.differ_fatally(format!("{node} did not answer {create:?}"));
            }
        }
        self.note_watch(set, create);
    }

    fn watch_request(&mut self, set: usize) -> WatchCreateRequest {
        let revisions = self.revisions;
        let generator = &mut self.generator;
        let key = generator.watch_key();
        let range_end = generator.range_end(&key);
        let mut create = WatchCreateRequest {
            key,
            range_end,
            ..Default::default()
        };
        if generator.one_in(2) {
            create.start_revision = generator.revision(revisions).max(0);
        }
        create.prev_kv = generator.one_in(2);
        create.fragment = generator.one_in(4);
        create.progress_notify = generator.one_in(8);
        for filter in [0, 1] {
            if generator.one_in(6) {
                create.filters.push(filter);
            }
        }
        let compacted_start =
            create.start_revision != 0 && create.start_revision < revisions.compacted;
        if !compacted_start && generator.one_in(4) {
            create.watch_id = generator.random.random_range(1..8);
            let compacted = |watch: &Watch| {
                watch.id == create.watch_id && watch.ended_by == Some(Ended::Compaction)
            };
            if self.streams[set].watches.iter().any(compacted) {
                create.watch_id = 0;
            }
        }
        create
    }

    /// Notes what the reference made of the request, so that the run knows what to wait for.
    fn note_watch(&mut self, set: usize, create: WatchCreateRequest) {
        let log = &self.streams[set].streams[0].log;
        let accepted = log.watches.len() > self.streams[set].watches.len();
        if !accepted {
            let reason = log
                .refused
                .last()
                .map(|response| response.cancel_reason.clone());
            return self.count(format!("watch refused {:?}", reason.unwrap_or_default()));
        }
        let made = &log.watches[self.streams[set].watches.len()];
        let Revisions { current, compacted } = self.revisions;
        let start = if create.start_revision == 0 {
            made.created_at + 1
        } else {
            create.start_revision
        };
        let watch = Watch {
            id: made.id,
            start,
            stale_start: (start == compacted).then_some(compacted),
            ended_by: (start < compacted).then_some(Ended::Compaction),
            create,
        };
        self.past_watches |= watch.start <= current;
        let kind = match watch.start {
            start if start < compacted => "compacted revision",
            start if start > current + 1 => "future revision",
            start if start > current => "now",
            _ => "past revision",
        };
        self.streams[set].watches.push(watch);
        self.count(format!("watch from {kind}"));
    }

    async fn cancel_watch(&mut self) {
        let Some(set) = self.pick_stream() else {
            return;
        };
        self.settle().await;
        let live: Vec<usize> = self.streams[set].live().collect();
        let unknown = self.generator.one_in(4);
        let Some(chosen) = live
            .choose(&mut self.generator.random)
            .copied()
            .filter(|_| !unknown)
        else {
            // Nothing comes back for an id that is not there; the later steps see to it that nothing did.
            for stream in &self.streams[set].streams {
                stream
                    .request(RequestUnion::CancelRequest(WatchCancelRequest {
                        watch_id: 99,
                    }))
                    .await;
            }
            return self.count("watch cancel of an unknown id");
        };
        let watch_id = self.streams[set].watches[chosen].id;
        for index in 0..self.nodes.len() {
            let stream = &mut self.streams[set].streams[index];
            stream
                .request(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
                .await;
            let cancelled = |log: &StreamLog| {
                log.watches
                    .get(chosen)
                    .is_none_or(|watch| watch.cancelled.is_some())
            };
            if !stream.read_until(RESPONSE_LIMIT, cancelled).await {
                let node = &self.nodes[index].name;
                return self.differ_fatally(format!(
                    "{node} did not confirm the cancel of watch {watch_id}"
                ));
            }
        }
        self.streams[set].watches[chosen].ended_by = Some(Ended::Request);
        self.count("watch cancel");
        self.compare_streams();
    }

    async fn ask_progress(&mut self) {
        let Some(set) = self.pick_stream() else {
            return;
        };
        let current = self.revisions.current;
        let StreamSet { watches, .. } = &self.streams[set];
        let future = self.streams[set]
            .live()
            .any(|index| watches[index].create.start_revision > current);
        if future || self.streams[set].live().next().is_none() {
            return;
        }
        self.settle().await;
        if !self.all_catch_up().await {
            return;
        }
        for index in 0..self.nodes.len() {
            let stream = &mut self.streams[set].streams[index];
            let answered =
                |log: &StreamLog| log.progress.last() >= Some(&current) || log.ended.is_some();
            let mut tries = RESPONSE_LIMIT.as_millis() / PROGRESS_AGAIN.as_millis();
            loop {
                stream
                    .request(RequestUnion::ProgressRequest(WatchProgressRequest {}))
                    .await;
                if stream.read_until(PROGRESS_AGAIN, answered).await {
                    break;
                }
                tries -= 1;
                if tries == 0 {
                    let node = &self.nodes[index].name;
                    return self.differ(format!(
                        "{node} did not answer a progress request at revision {current}"
                    ));
                }
            }
        }
        self.count("watch progress");
        self.compare_streams();
    }

    async fn close_stream(&mut self) {
        self.settle().await;
        if let Some(set) = self.pick_stream() {
            let closed = self.streams.remove(set);
            self.outcome
                .streams
                .extend(closed.streams.into_iter().take(1).map(|stream| stream.log));
            self.count("watch stream closed");
        }
    }

    /// Waits until no watch is still reading the past. etcd brings all such watches forward in rounds, so when a watch
    /// that was made after them has had its event from the past, they are through too, even those that got no event.
    async fn sync_watches(&mut self) {
        let Revisions { current, compacted } = self.revisions;
        // At the compacted revision there may be no event any more, and no watch that another compaction could end.
        if current == compacted || current == 1 || !std::mem::take(&mut self.past_watches) {
            return;
        }
        for index in 0..self.nodes.len() {
            let mut marker = Stream::open(&self.nodes[index]);
            marker
                .request(RequestUnion::CreateRequest(watch_of_everything(current)))
                .await;
            if !marker
                .read_until(RESPONSE_LIMIT, |log| last_revision(log) >= current)
                .await
            {
                let (node, log) = (&self.nodes[index].name, &marker.log);
                return self.differ_fatally(format!(
                    "{node} did not report revision {current} to a watch from there: {log:?}"
                ));
            }
        }
    }

    async fn all_catch_up(&mut self) -> bool {
        for index in 1..self.nodes.len() {
            if let Err(problem) = catch_up(&self.nodes[index]).await {
                self.differ_fatally(problem);
                return false;
            }
        }
        true
    }

    // Waiting and comparing.

    /// Waits until every watch of every node has what it must get by now, and compares.
    async fn settle(&mut self) {
        let current = self.revisions.current;
        for index in 0..self.nodes.len() {
            let witness = &mut self.witnesses[index];
            let seen = |log: &StreamLog| current == 1 || last_revision(log) >= current;
            if !witness.read_until(RESPONSE_LIMIT, seen).await {
                let (node, last) = (&self.nodes[index].name, last_revision(&witness.log));
                return self.differ_fatally(format!(
                    "{node} reported events up to {last}, not to {current}"
                ));
            }
        }
        for set in 0..self.streams.len() {
            for index in 0..self.nodes.len() {
                self.settle_stream(set, index).await;
            }
        }
        self.compare_streams();
    }

    async fn settle_stream(&mut self, set: usize, index: usize) {
        let due = self.due(set, index);
        let watches = &self.streams[set].watches;
        let compacted: Vec<bool> = watches
            .iter()
            .map(|watch| watch.ended_by == Some(Ended::Compaction))
            .collect();
        let has_all = |log: &StreamLog| {
            log.watches
                .iter()
                .zip(due.iter().zip(&compacted))
                .all(|(watch, (due, compacted))| {
                    watch.events.len() >= *due && (!compacted || watch.cancelled.is_some())
                })
        };
        let stream = &mut self.streams[set].streams[index];
        if !stream.read_until(RESPONSE_LIMIT, has_all).await {
            let got: Vec<(usize, bool)> = stream
                .log
                .watches
                .iter()
                .map(|watch| (watch.events.len(), watch.cancelled.is_some()))
                .collect();
            let node = &self.nodes[index].name;
            let wanted: Vec<_> = due.iter().zip(&compacted).collect();
            let creates: Vec<_> = self.streams[set]
                .watches
                .iter()
                .map(|watch| &watch.create)
                .collect();
            let what = format!(
                "{node}: (events, cancelled) of the watches {creates:?} are {got:?}, should be {wanted:?}"
            );
            self.differ_fatally(what);
        }
    }

    /// How many events each watch of a stream must get on a node, counted from what the reference's witness saw.
    fn due(&self, set: usize, index: usize) -> Vec<usize> {
        let events = self.witnesses[0]
            .log
            .watches
            .first()
            .map_or(&[][..], |watch| &watch.events);
        let due = |watch: &Watch| match watch.ended_by {
            // Ended watches were compared when they ended.
            Some(_) => 0,
            None => events
                .iter()
                .filter(|event| {
                    let dropped = !self.keeps_deletion[index]
                        && event.r#type() == EventType::Delete
                        && Some(event_revision(event)) == watch.stale_start;
                    sees(&watch.create, watch.start, event) && !dropped
                })
                .count(),
        };
        self.streams[set].watches.iter().map(due).collect()
    }

    fn compare_streams(&mut self) {
        let mut found = Vec::new();
        for set in &mut self.streams {
            let stale_starts: Vec<Option<i64>> =
                set.watches.iter().map(|watch| watch.stale_start).collect();
            let (reference, subjects) = set
                .streams
                .split_first_mut()
                .expect("the reference has a stream");
            for (node, subject) in self.nodes[1..].iter().zip(subjects) {
                if let Some(what) = subject.log.difference(&reference.log, &stale_starts) {
                    let creates: Vec<_> = set.watches.iter().map(|watch| &watch.create).collect();
                    found.push(format!(
                        "{}: {what}\n    among the watches {creates:?}",
                        node.name
                    ));
                }
            }
            if !reference.log.broken.is_empty() {
                found.push(format!(
                    "the reference broke a promise: {:?}",
                    reference.log.broken
                ));
            }
        }
        let (reference, subjects) = self
            .witnesses
            .split_first()
            .expect("the reference has a witness");
        for (node, subject) in self.nodes[1..].iter().zip(subjects) {
            if let Some(what) = subject.log.difference(&reference.log, &[]) {
                found.push(format!("{}, the watch of everything: {what}", node.name));
            }
        }
        for what in found {
            self.differ_fatally(what);
        }
    }

    /// Waits once more for events that should not come, and compares for the last time.
    async fn finish(&mut self) {
        if self.gave_up() {
            return;
        }
        self.settle().await;
        tokio::time::sleep(EXTRAS_WAIT).await;
        let open = self.streams.iter_mut().flat_map(|set| &mut set.streams);
        open.chain(&mut self.witnesses).for_each(Stream::drain);
        self.compare_streams();
        let open = self
            .streams
            .drain(..)
            .filter_map(|set| set.streams.into_iter().next());
        self.outcome.streams.extend(open.map(|stream| stream.log));
    }
}

impl StreamSet {
    /// The places of the watches that have not ended.
    fn live(&self) -> impl Iterator<Item = usize> {
        self.watches
            .iter()
            .enumerate()
            .filter(|(_, watch)| watch.ended_by.is_none())
            .map(|(index, _)| index)
    }

    /// How many create requests were answered.
    fn answers(&self) -> usize {
        self.streams[0].log.watches.len() + self.streams[0].log.refused.len()
    }
}

fn watch_of_everything(start_revision: i64) -> WatchCreateRequest {
    let everything = "\0";
    WatchCreateRequest {
        key: everything.into(),
        range_end: everything.into(),
        start_revision,
        prev_kv: true,
        ..Default::default()
    }
}

fn last_revision(log: &StreamLog) -> i64 {
    let events = log.watches.first().and_then(|watch| watch.events.last());
    events.map_or(0, event_revision)
}
