//! The watch hub: who watches what on this node, and handing each change to those it concerns.
//!
//! ```text
//!   apply ──► fan out ──► queue of each stream ──┐
//!               │           (bounded)            ├──► WatchEvents::recv ──► client
//!               └─ queue full: watcher falls     │
//!                  behind ──► catches up from ───┘
//!                             memory or disk, when and as fast as its client reads
//! ```
//!
//! The fan-out goes in steps of [`FAN_OUT_STEP`]: the first is part of `apply`, and if there is more to do a task goes on, in whose
//! pauses the rest of the node has its turns. So ten thousand watchers of one key delay neither heartbeats nor each other's streams.
//!
//! A watcher is *synced* or *behind*. The fan-out, after every `apply`, puts each revision's changes into the queues of the streams with a
//! synced watcher that wants one of them: a reference to shared records, not a copy. A watcher that starts in the past, or whose stream's
//! queue is full, is behind: it gets nothing from the fan-out, and its stream reads for it from history (see `catch_up.rs`) whenever the
//! client has taken all that was queued for it before, until there is no more; then it is synced again. Both changes of state happen under
//! the hub's lock, against `handed_out`, the revision up to which the fan-out went: so there is neither gap nor duplicate. A client that
//! stops reading costs one bounded queue, and loses nothing but what is compacted meanwhile.
//!
//! Invariants:
//! - a synced watcher's queue has, or had, every change it wants from its start up to `handed_out`, or is listed to get it next;
//! - a watcher that is behind was given every change it wants before `next_revision`, and none from there on;
//! - a queue has at most [`QUEUE_MAX_REVISIONS`] revisions, and more than [`QUEUE_MAX_BYTES`] only as a single revision;
//! - all queues together hold at most [`QUEUES_MAX_BYTES`] and one revision: changes that are in several are there once.
//!
//! Caveat: watchers of one key, and of one prefix, are found by hashing, however many there are; every other range is tried in turn for every
//! change, so thousands of different ranges that are no prefixes cost some microseconds a change.

use super::Shared;
use super::catch_up::{Changes, Wanted, read_changes};
use super::index::KeyRange;
use super::record::Record;
use super::subscriptions::Subscriptions;
use super::table::StateFileError;
use super::watch_api::{WatchItem, WatchRefusal, WatchSpec};
use super::watch_stream::{RevisionChanges, Stream, WatchEvents, WatchHandle};
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Revisions that may wait in one stream's queue.
pub const QUEUE_MAX_REVISIONS: usize = 1024;

/// Bytes of changes that may wait in one stream's queue.
pub const QUEUE_MAX_BYTES: usize = 1 << 20;

/// Bytes of changes that may wait in all streams' queues; beyond, watchers fall behind as if their queues were full.
pub const QUEUES_MAX_BYTES: usize = 64 << 20;

/// Watchers of one node; one more is refused. Each takes about half a kilobyte.
pub const MAX_WATCHERS: usize = 256 << 10;

/// Changes put into queues at once. Each wakes a stream, and the next step comes when those have had their turn: some milliseconds.
pub const FAN_OUT_STEP: usize = 512;

/// Makes watch streams on a store. Cheap to clone.
#[derive(Clone)]
pub struct WatchHub {
    shared: Arc<Shared>,
}

impl WatchHub {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Opens a stream: a handle to ask with, and what the client is to be told. See [`WatchItem`] for the order.
    pub fn open_stream(&self) -> (WatchHandle, WatchEvents) {
        let stream = super::lock(&self.shared.hub).open_stream();
        (
            WatchHandle::new(self.shared.clone(), stream.clone()),
            WatchEvents::new(self.shared.clone(), stream),
        )
    }
}

/// What a watcher wants, with defaults filled in and checked.
#[derive(Debug)]
pub struct Interest {
    pub key: Bytes,
    /// As in requests: empty for one key, `\0` for everything from `key`.
    pub range_end: Bytes,
    puts: bool,
    deletes: bool,
    pub prev_kv: bool,
}

impl Interest {
    fn new(spec: &WatchSpec) -> Result<Self, WatchRefusal> {
        let key = if spec.key.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            spec.key.clone()
        };
        if let KeyRange::Between(from, to) = KeyRange::new(&key, &spec.range_end)
            && from >= to
        {
            return Err(WatchRefusal::EmptyRange);
        }
        Ok(Self {
            key,
            range_end: spec.range_end.clone(),
            puts: !spec.no_put,
            deletes: !spec.no_delete,
            prev_kv: spec.prev_kv,
        })
    }

    pub fn wanted(&self) -> Wanted<'_> {
        Wanted {
            range: KeyRange::new(&self.key, &self.range_end),
            puts: self.puts,
            deletes: self.deletes,
        }
    }

    pub fn matches(&self, record: &Record) -> bool {
        self.wanted().matches(&record.key, record.is_tombstone())
    }
}

/// All streams and watchers of a store. Lives under the hub's lock, which is taken before the state's.
pub struct Hub {
    /// All changes up to this main revision have been handed to the synced watchers.
    handed_out: i64,
    next_key: u64,
    streams: BTreeMap<u64, StreamEntry>,
    watchers: BTreeMap<WatcherKey, Watcher>,
    synced: Subscriptions,
    /// What happened at `handed_out`, and the watchers that have yet to get it.
    handing: Option<(Arc<RevisionChanges>, Vec<WatcherKey>)>,
    /// Bytes of all changes that are in a queue.
    queued_bytes: Arc<AtomicUsize>,
    /// Whether a task goes on with the fan-out.
    pub is_driven: bool,
}

/// Identifies a watcher on this node, over all streams.
pub type WatcherKey = u64;

struct StreamEntry {
    stream: Arc<Stream>,
    watcher_keys: BTreeMap<i64, WatcherKey>,
    next_watch_id: i64,
    /// Those behind, in the order in which they are served.
    behind: BTreeSet<WatcherKey>,
}

struct Watcher {
    stream_key: u64,
    watch_id: i64,
    interest: Arc<Interest>,
    /// The start it asked for, or 0. No progress is told before it.
    asked_revision: i64,
    /// First main revision that the fan-out may give it.
    start_revision: i64,
    /// `None` when synced.
    behind: Option<Behind>,
}

#[derive(Clone, Copy)]
struct Behind {
    /// First main revision not given yet.
    next_revision: i64,
    /// What was queued for it before lies before this place in the queue.
    after: u64,
}

/// A piece of catching up to do.
pub struct CatchUpTask {
    pub key: WatcherKey,
    pub watch_id: i64,
    pub interest: Arc<Interest>,
    pub next_revision: i64,
}

impl Hub {
    pub fn new(revision: i64) -> Self {
        Self {
            handed_out: revision,
            next_key: 0,
            streams: BTreeMap::new(),
            watchers: BTreeMap::new(),
            synced: Subscriptions::default(),
            handing: None,
            queued_bytes: Arc::default(),
            is_driven: false,
        }
    }

    /// Bytes of changes that wait in queues.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// Whether the stream still has a reader.
    pub fn is_open(&self, stream: &Stream) -> bool {
        self.streams.contains_key(&stream.key)
    }

    /// All changes up to this main revision have been handed to the synced watchers.
    pub fn handed_out(&self) -> i64 {
        self.handed_out
    }

    /// Number of watchers, and of those the ones behind.
    pub fn watcher_counts(&self) -> (usize, usize) {
        let behind = self.streams.values().map(|stream| stream.behind.len());
        (self.watchers.len(), behind.sum())
    }

    /// Hands what was applied since to the watchers it concerns, about `step` times at most. Returns whether more may be left.
    pub fn fan_out(&mut self, shared: &Shared, mut step: usize) -> Result<bool, StateFileError> {
        self.deliver(&mut step);
        loop {
            if self.handing.is_some() {
                return Ok(true);
            }
            if self.synced.is_empty() {
                self.handed_out = super::read(&shared.state).revision;
                return Ok(false);
            }
            let Changes { records, through } =
                read_changes(&shared.state, self.handed_out + 1, &Wanted::ALL)?;
            if through <= self.handed_out {
                return Ok(false);
            }
            for changes in records.chunk_by(|a, b| a.revision.main == b.revision.main) {
                if step == 0 {
                    return Ok(true);
                }
                self.hand_out(shared, changes)?;
                self.deliver(&mut step);
                if self.handing.is_some() {
                    return Ok(true);
                }
                // To find nobody takes time, too.
                step = step.saturating_sub(1);
            }
            self.handed_out = through;
        }
    }

    /// Gives what is being handed out to all that have yet to get it.
    pub fn finish_handing(&mut self) {
        self.deliver(&mut usize::MAX.clone());
    }

    /// Begins to hand out what happened at one main revision.
    fn hand_out(&mut self, shared: &Shared, records: &[Record]) -> Result<(), StateFileError> {
        let revision = records[0].revision.main;
        let mut concerned = Vec::new();
        for record in records {
            self.synced.find(record, &mut concerned);
        }
        concerned.retain(|key| self.watchers[key].start_revision <= revision);
        if records.len() > 1 {
            concerned.sort_unstable();
            concerned.dedup();
        }
        let wants_previous = concerned
            .iter()
            .any(|key| self.watchers[key].interest.prev_kv);
        let previous = if wants_previous {
            previous_values(shared, records)?
        } else {
            Vec::new()
        };
        self.handed_out = revision;
        if !concerned.is_empty() {
            let changes = RevisionChanges::new(records.to_vec(), previous, &self.queued_bytes);
            self.handing = Some((Arc::new(changes), concerned));
        }
        Ok(())
    }

    /// Gives what is being handed out to at most `step` watchers, and counts them off.
    fn deliver(&mut self, step: &mut usize) {
        let Some((changes, mut concerned)) = self.handing.take() else {
            return;
        };
        while *step > 0 {
            let Some(key) = concerned.pop() else {
                return;
            };
            *step -= 1;
            self.queue(key, &changes);
        }
        if !concerned.is_empty() {
            self.handing = Some((changes, concerned));
        }
    }

    /// Queues a revision's changes for a synced watcher, or lets it fall behind if there is no room.
    fn queue(&mut self, key: WatcherKey, changes: &Arc<RevisionChanges>) {
        // It may have been canceled since it was listed.
        let Some(watcher) = self.watchers.get_mut(&key) else {
            return;
        };
        let has_room = self.queued_bytes.load(Ordering::Relaxed) <= QUEUES_MAX_BYTES;
        let entry = self
            .streams
            .get_mut(&watcher.stream_key)
            .expect("a watcher has a stream");
        let queued = super::lock(&entry.stream.queue).push_changes(
            watcher.watch_id,
            &watcher.interest,
            changes,
            has_room,
        );
        if let Err(after) = queued {
            watcher.behind = Some(Behind {
                next_revision: changes.revision(),
                after,
            });
            entry.behind.insert(key);
            self.synced.remove(&watcher.interest, key);
        }
        entry.stream.readable.notify_one();
    }

    fn open_stream(&mut self) -> Arc<Stream> {
        let stream = Arc::new(Stream::new(self.take_key()));
        self.streams.insert(
            stream.key,
            StreamEntry {
                stream: stream.clone(),
                watcher_keys: BTreeMap::new(),
                next_watch_id: 0,
                behind: BTreeSet::new(),
            },
        );
        stream
    }

    /// Ends a stream and all its watchers.
    pub fn close_stream(&mut self, stream: &Stream) {
        let Some(entry) = self.streams.remove(&stream.key) else {
            return;
        };
        for key in entry.watcher_keys.into_values() {
            self.remove_watcher(key);
        }
    }

    /// Creates a watcher, or refuses to; either way the stream's queue says so.
    pub fn watch(&mut self, shared: &Shared, stream: &Stream, spec: &WatchSpec) {
        // What is applied and not handed out yet lies before it, too.
        let revision = super::read(&shared.state).revision;
        let item = match self.create(stream, spec, revision) {
            Ok(watch_id) => WatchItem::Created { watch_id, revision },
            Err(refusal) => WatchItem::Refused { revision, refusal },
        };
        stream.tell(item);
    }

    fn create(
        &mut self,
        stream: &Stream,
        spec: &WatchSpec,
        revision: i64,
    ) -> Result<i64, WatchRefusal> {
        let interest = Arc::new(Interest::new(spec)?);
        if spec.start_revision < 0 {
            return Err(WatchRefusal::NegativeStart);
        }
        if self.watchers.len() >= MAX_WATCHERS {
            return Err(WatchRefusal::TooMany);
        }
        let key = self.take_key();
        let entry = self
            .streams
            .get_mut(&stream.key)
            .expect("a stream that asks is open");
        let watch_id = entry.take_watch_id(spec.watch_id)?;
        entry.watcher_keys.insert(watch_id, key);
        let next = revision + 1;
        let starts_in_past = spec.start_revision != 0 && spec.start_revision < next;
        let behind = starts_in_past.then(|| Behind {
            next_revision: spec.start_revision,
            // After the item that says that it is created, which is about to be queued.
            after: super::lock(&stream.queue).end() + 1,
        });
        if behind.is_some() {
            entry.behind.insert(key);
        } else {
            self.synced.add(&interest, key);
        }
        self.watchers.insert(
            key,
            Watcher {
                stream_key: stream.key,
                watch_id,
                interest,
                asked_revision: spec.start_revision,
                start_revision: match starts_in_past {
                    true => spec.start_revision,
                    false => next.max(spec.start_revision),
                },
                behind,
            },
        );
        Ok(watch_id)
    }

    /// Ends a watcher if there is one of this id; the stream's queue then says so.
    pub fn cancel(&mut self, stream: &Stream, watch_id: i64) {
        let entry = self.streams.get_mut(&stream.key);
        let Some(key) = entry.and_then(|entry| entry.watcher_keys.remove(&watch_id)) else {
            return;
        };
        self.remove_watcher(key);
        stream.tell(WatchItem::Canceled {
            watch_id,
            revision: self.handed_out,
        });
    }

    /// Queues a progress item for the whole stream if all its watchers are synced and have reached their start. Else says nothing, as etcd
    /// does; a stream without watchers is told too.
    pub fn progress(&mut self, stream: &Stream) {
        let entry = &self.streams[&stream.key];
        let reached = |key| self.has_progress(key);
        if entry.watcher_keys.values().all(reached) {
            stream.tell(WatchItem::Progress {
                watch_id: -1,
                revision: self.handed_out,
            });
        }
    }

    /// Queues a progress item for one watcher under the same condition; returns whether it did.
    pub fn progress_of(&mut self, stream: &Stream, watch_id: i64) -> bool {
        let entry = &self.streams[&stream.key];
        let Some(key) = entry.watcher_keys.get(&watch_id) else {
            return false;
        };
        let reached = self.has_progress(key);
        if reached {
            stream.tell(WatchItem::Progress {
                watch_id,
                revision: self.handed_out,
            });
        }
        reached
    }

    fn has_progress(&self, key: &WatcherKey) -> bool {
        let watcher = &self.watchers[key];
        watcher.behind.is_none() && watcher.asked_revision <= self.handed_out
    }

    /// The next watcher of a stream that is behind and whose queued changes have all been taken, in turn after `last`.
    pub fn next_behind(&self, stream: &Stream, last: WatcherKey) -> Option<CatchUpTask> {
        let behind = &self.streams.get(&stream.key)?.behind;
        if behind.is_empty() {
            return None;
        }
        let taken = super::lock(&stream.queue).start();
        let in_turn = behind.range(last + 1..).chain(behind.range(..=last));
        for &key in in_turn {
            let watcher = &self.watchers[&key];
            let state = watcher.behind.expect("it is among those behind");
            if state.after <= taken {
                return Some(CatchUpTask {
                    key,
                    watch_id: watcher.watch_id,
                    interest: watcher.interest.clone(),
                    next_revision: state.next_revision,
                });
            }
        }
        None
    }

    /// Says that a watcher behind was given everything before `next_revision`. It is synced if the fan-out did not get further; returns
    /// false if the watcher is gone.
    pub fn caught_up(&mut self, key: WatcherKey, next_revision: i64) -> bool {
        let Some(watcher) = self.watchers.get_mut(&key) else {
            return false;
        };
        let behind = watcher.behind.as_mut().expect("only one catches it up");
        behind.next_revision = next_revision;
        if next_revision > self.handed_out {
            watcher.behind = None;
            // What the fan-out is about to hand out below `next_revision` it was given already.
            watcher.start_revision = next_revision.max(watcher.start_revision);
            let entry = self.streams.get_mut(&watcher.stream_key);
            entry.expect("a watcher has a stream").behind.remove(&key);
            self.synced.add(&watcher.interest, key);
        }
        true
    }

    /// Ends a watcher whose history is gone; returns false if it is gone already.
    pub fn remove_compacted(&mut self, task: &CatchUpTask) -> bool {
        let Some(watcher) = self.watchers.get(&task.key) else {
            return false;
        };
        let entry = self.streams.get_mut(&watcher.stream_key);
        entry
            .expect("a watcher has a stream")
            .watcher_keys
            .remove(&task.watch_id);
        self.remove_watcher(task.key);
        true
    }

    /// Says that the state was replaced by another node's: nobody is synced until it caught up there, from where it was.
    pub fn state_replaced(&mut self, revision: i64) {
        self.finish_handing();
        let next = self.handed_out + 1;
        self.synced = Subscriptions::default();
        for (key, watcher) in &mut self.watchers {
            let entry = self
                .streams
                .get_mut(&watcher.stream_key)
                .expect("a watcher has a stream");
            if watcher.behind.is_none() {
                watcher.behind = Some(Behind {
                    next_revision: next.max(watcher.start_revision),
                    after: super::lock(&entry.stream.queue).end(),
                });
                entry.behind.insert(*key);
            }
            entry.stream.readable.notify_one();
        }
        self.handed_out = revision;
    }

    fn remove_watcher(&mut self, key: WatcherKey) {
        let watcher = self.watchers.remove(&key).expect("the watcher is there");
        self.synced.remove(&watcher.interest, key);
        if let Some(entry) = self.streams.get_mut(&watcher.stream_key) {
            entry.behind.remove(&key);
        }
    }

    fn take_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }
}

impl StreamEntry {
    fn take_watch_id(&mut self, asked: i64) -> Result<i64, WatchRefusal> {
        if asked != 0 {
            let in_use = self.watcher_keys.contains_key(&asked);
            return if in_use {
                Err(WatchRefusal::DuplicateId)
            } else {
                Ok(asked)
            };
        }
        while self.watcher_keys.contains_key(&self.next_watch_id) {
            self.next_watch_id += 1;
        }
        self.next_watch_id += 1;
        Ok(self.next_watch_id - 1)
    }
}

/// The value each record's key had just before, if it existed and history still has it.
fn previous_values(
    shared: &Shared,
    records: &[Record],
) -> Result<Vec<Option<KeyValue>>, StateFileError> {
    let mut values = Vec::with_capacity(records.len());
    for record in records {
        values.push(previous_value(shared, record)?);
    }
    Ok(values)
}

/// The value a record's key had at the revision before, if it existed and history still has it. A put that makes the key has none, as in
/// etcd: not even when the same transaction deleted the key first.
pub fn previous_value(
    shared: &Shared,
    record: &Record,
) -> Result<Option<KeyValue>, StateFileError> {
    if record.version == 1 {
        return Ok(None);
    }
    let before = record.revision.main - 1;
    let (found, view) = {
        let state = super::read(&shared.state);
        if before < state.compact_revision {
            return Ok(None);
        }
        let found = state.index.get(&record.key, before);
        (
            found.map(|revision| state.locate(revision)),
            state.view.clone(),
        )
    };
    let record = found.map(|found| found.fetch(&view)).transpose()?;
    Ok(record.map(|record| record.to_key_value()))
}

#[cfg(test)]
mod tests {
    use super::super::{KvCommand, Store, WatchSpec, lock, write};
    use super::*;
    use crate::proto::etcdserverpb::PutRequest;
    use crate::store::WatchItem;
    use eaves::{Command, Position};

    /// Changes the state as `apply` does, up to where it would hand the change out.
    fn put_without_fan_out(store: &Store, key: &'static str, index: u64) {
        let put = KvCommand::Put(PutRequest {
            key: key.into(),
            ..Default::default()
        });
        let command = Command {
            index,
            data: put.encode(),
        };
        write(&store.shared.state)
            .apply(&[command], index, Position::default())
            .unwrap();
    }

    #[tokio::test]
    async fn what_a_watcher_read_ahead_of_the_fan_out_is_not_handed_out_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let fan_out = || {
            let mut hub = lock(&store.shared.hub);
            while hub.fan_out(&store.shared, FAN_OUT_STEP).unwrap() {}
        };
        put_without_fan_out(&store, "a", 1);
        let (handle, mut events) = store.watch_hub().open_stream();
        handle.watch(WatchSpec {
            key: "a".into(),
            start_revision: 2,
            ..WatchSpec::default()
        });
        put_without_fan_out(&store, "a", 2);
        let mut heard = Vec::new();
        while heard.last() != Some(&3) {
            if let WatchItem::Events { revision, .. } = events.recv().await.unwrap() {
                heard.push(revision);
            }
        }
        fan_out();
        put_without_fan_out(&store, "a", 3);
        fan_out();
        let WatchItem::Events { events, .. } = events.recv().await.unwrap() else {
            panic!("only the third put is left to hear of");
        };
        let kv = events[0].kv.as_ref().unwrap();
        assert_eq!((events.len(), kv.mod_revision), (1, 4));
    }
}
