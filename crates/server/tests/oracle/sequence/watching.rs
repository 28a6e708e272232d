//! What a sequence does to watches: creates, cancels, asks for progress, closes streams; on all nodes alike.

use std::time::Duration;

use eaves_kv::proto::etcdserverpb::watch_request::RequestUnion;
use eaves_kv::proto::etcdserverpb::{WatchCancelRequest, WatchCreateRequest, WatchProgressRequest};
use rand::Rng;
use rand::seq::IndexedRandom;

use super::Run;
use super::streams::{Ended, StreamSet, Watch, last_revision, watch_of_everything};
use crate::replies::catch_up;
use crate::requests::Revisions;
use crate::watches::{RESPONSE_LIMIT, Stream, StreamLog};

/// How many live watches a stream has at most.
const WATCHES_MAX: usize = 8;

/// How long is waited for an answer to a progress request before it is repeated.
const PROGRESS_AGAIN: Duration = Duration::from_millis(200);

impl Run {
    pub async fn watch_everything(&mut self) {
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

    pub fn open_stream(&mut self) {
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

    pub async fn create_watch(&mut self) {
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

    pub async fn cancel_watch(&mut self) {
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

    pub async fn ask_progress(&mut self) {
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

    pub async fn close_stream(&mut self) {
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
    pub async fn sync_watches(&mut self) {
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
}
