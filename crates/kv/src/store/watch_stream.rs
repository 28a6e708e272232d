//! One watch stream: its queue, the handle to ask with and the end to read from.

use super::Shared;
use super::catch_up::{History, read_history};
use super::error::KvError;
use super::record::Record;
use super::table::StateFileError;
use super::watch::{
    CatchUpTask, Hub, Interest, QUEUE_MAX_BYTES, QUEUE_MAX_REVISIONS, WatcherKey, previous_value,
};
use super::watch_api::{WatchItem, WatchSpec};
use crate::proto::mvccpb::{Event, KeyValue};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// Answers to requests that may wait unread before [`WatchHandle::room`] holds the client back.
const MAX_UNREAD_ANSWERS: usize = 128;

/// Bytes of changes that are joined into one item while more is queued for the same watcher.
const JOIN_MAX_BYTES: usize = 128 << 10;

/// What happened at one main revision, shared by all queues it is in.
#[derive(Debug)]
pub struct RevisionChanges {
    records: Vec<Record>,
    /// The values before, one for each record, or none at all if nobody wanted them.
    previous: Vec<Option<KeyValue>>,
    bytes: usize,
    /// Of all changes that exist.
    all_bytes: Arc<AtomicUsize>,
}

impl RevisionChanges {
    /// Changes that are counted in `all_bytes` while they exist.
    pub fn new(
        records: Vec<Record>,
        previous: Vec<Option<KeyValue>>,
        all_bytes: &Arc<AtomicUsize>,
    ) -> Self {
        let before = previous.iter().flatten();
        let before_bytes: usize = before.map(|kv| kv.key.len() + kv.value.len()).sum();
        let bytes: usize = records.iter().map(Record::memory_bytes).sum();
        all_bytes.fetch_add(bytes + before_bytes, Ordering::Relaxed);
        Self {
            bytes: bytes + before_bytes,
            records,
            previous,
            all_bytes: all_bytes.clone(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.records[0].revision.main
    }

    /// Adds the events that `interest` wants.
    fn add_events(&self, interest: &Interest, events: &mut Vec<Event>) {
        for (i, record) in self.records.iter().enumerate() {
            if interest.matches(record) {
                let mut event = record.to_event();
                if interest.prev_kv {
                    event.prev_kv = self.previous[i].clone();
                }
                events.push(event);
            }
        }
    }
}

impl Drop for RevisionChanges {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A stream as hub, handle and reader share it.
pub struct Stream {
    pub key: u64,
    pub queue: Mutex<Queue>,
    pub readable: Notify,
    room: Notify,
}

impl Stream {
    pub fn new(key: u64) -> Self {
        Self {
            key,
            queue: Mutex::default(),
            readable: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Queues an item that there is always room for.
    pub fn tell(&self, item: WatchItem) {
        super::lock(&self.queue).push_answer(Ok(item));
        self.readable.notify_one();
    }
}

/// What waits for a client. Places in the queue are counted from the stream's beginning.
#[derive(Default)]
pub struct Queue {
    waiting: VecDeque<Queued>,
    start: u64,
    changes: usize,
    changes_bytes: usize,
}

enum Queued {
    Answer(Result<WatchItem, KvError>),
    Changes {
        watch_id: i64,
        interest: Arc<Interest>,
        changes: Arc<RevisionChanges>,
    },
}

impl Queue {
    /// The place of the next to be taken.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The place of the next to be added.
    pub fn end(&self) -> u64 {
        self.start + self.waiting.len() as u64
    }

    /// Adds changes, or returns the queue's end if there is no room, here or in general.
    pub fn push_changes(
        &mut self,
        watch_id: i64,
        interest: &Arc<Interest>,
        changes: &Arc<RevisionChanges>,
        has_room: bool,
    ) -> Result<(), u64> {
        let bytes = self.changes_bytes + changes.bytes;
        if !has_room {
            return Err(self.end());
        }
        if self.changes > 0 && (self.changes >= QUEUE_MAX_REVISIONS || bytes > QUEUE_MAX_BYTES) {
            return Err(self.end());
        }
        self.changes += 1;
        self.changes_bytes = bytes;
        self.waiting.push_back(Queued::Changes {
            watch_id,
            interest: interest.clone(),
            changes: changes.clone(),
        });
        Ok(())
    }

    fn push_answer(&mut self, answer: Result<WatchItem, KvError>) {
        self.waiting.push_back(Queued::Answer(answer));
    }

    fn unread_answers(&self) -> usize {
        self.waiting.len() - self.changes
    }

    fn pop(&mut self) -> Option<Queued> {
        let queued = self.waiting.pop_front()?;
        self.start += 1;
        if let Queued::Changes { changes, .. } = &queued {
            self.changes -= 1;
            self.changes_bytes -= changes.bytes;
        }
        Some(queued)
    }

    /// Takes the next changes if they are for the same watcher.
    fn pop_changes_of(&mut self, id: i64, of: &Arc<Interest>) -> Option<Arc<RevisionChanges>> {
        match self.waiting.front()? {
            Queued::Changes {
                watch_id,
                interest,
                changes,
            } if *watch_id == id && Arc::ptr_eq(interest, of) => {
                let changes = changes.clone();
                self.pop();
                Some(changes)
            }
            _ => None,
        }
    }
}

/// Asks on behalf of a client. Cheap to clone; answers come out of [`WatchEvents`].
#[derive(Clone)]
pub struct WatchHandle {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
}

impl WatchHandle {
    pub(super) fn new(shared: Arc<Shared>, stream: Arc<Stream>) -> Self {
        Self { shared, stream }
    }

    /// Returns when the client has few enough answers unread, or is gone; to be awaited before each of its requests is taken.
    pub async fn room(&self) {
        loop {
            let room = self.stream.room.notified();
            let is_open = super::lock(&self.shared.hub).is_open(&self.stream);
            let unread = super::lock(&self.stream.queue).unread_answers();
            if !is_open || unread < MAX_UNREAD_ANSWERS {
                return;
            }
            room.await;
        }
    }

    /// Creates a watcher: [`WatchItem::Created`] or [`WatchItem::Refused`] follows.
    pub fn watch(&self, spec: WatchSpec) {
        let shared = &self.shared;
        self.ask(|hub, stream| hub.watch(shared, stream, &spec));
    }

    /// Ends a watcher: [`WatchItem::Canceled`] follows, or nothing if there is none of this id.
    pub fn cancel(&self, watch_id: i64) {
        self.ask(|hub, stream| hub.cancel(stream, watch_id));
    }

    /// Asks for [`WatchItem::Progress`] of the whole stream; nothing follows if a watcher is behind or has not reached its start.
    pub fn progress(&self) {
        self.ask(|hub, stream| hub.progress(stream));
    }

    /// Asks for [`WatchItem::Progress`] of one watcher, under the same condition. For the timer of `progress_notify`.
    pub fn progress_of(&self, watch_id: i64) {
        self.ask(|hub, stream| {
            hub.progress_of(stream, watch_id);
        });
    }

    /// Asks the hub when everything up to `handed_out` is in the queues, so that its answers and revisions come after it.
    fn ask(&self, question: impl FnOnce(&mut Hub, &Stream)) {
        let mut hub = super::lock(&self.shared.hub);
        if !hub.is_open(&self.stream) {
            return;
        }
        hub.finish_handing();
        question(&mut hub, &self.stream);
    }
}

/// What a client is to be told. Dropping it ends the stream's watchers.
pub struct WatchEvents {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    /// The watcher that was caught up last, for taking turns.
    last_caught_up: WatcherKey,
    /// Whether a watcher behind comes before the queue this time.
    history_first: bool,
}

/// What one look for something to tell found.
enum Step {
    Tell(WatchItem),
    /// Some history was read and had nothing of interest.
    Again,
    /// There is history to read, and others are at it.
    Wait,
    Nothing,
}

impl Step {
    fn or_else(self, other: impl FnOnce() -> Result<Step, KvError>) -> Result<Step, KvError> {
        match (self, other) {
            (Step::Nothing, other) => other(),
            (Step::Wait, other) => Ok(match other()? {
                Step::Nothing => Step::Wait,
                step => step,
            }),
            (step, _) => Ok(step),
        }
    }
}

impl WatchEvents {
    pub(super) fn new(shared: Arc<Shared>, stream: Arc<Stream>) -> Self {
        Self {
            shared,
            stream,
            last_caught_up: 0,
            history_first: false,
        }
    }

    /// The next thing to tell; waits until there is one. An error ends the stream. Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Result<WatchItem, KvError> {
        let mut turn = None;
        loop {
            // Queue and history take turns, so that neither starves the other.
            self.history_first = !self.history_first;
            let step = if self.history_first {
                self.take_history(&mut turn)?
                    .or_else(|| self.take_queued())?
            } else {
                self.take_queued()?
                    .or_else(|| self.take_history(&mut turn))?
            };
            match step {
                Step::Tell(item) => return Ok(item),
                Step::Again => tokio::task::yield_now().await,
                Step::Wait => turn = self.shared.history_turns.clone().acquire_owned().await.ok(),
                Step::Nothing => self.stream.readable.notified().await,
            }
        }
    }

    fn take_queued(&mut self) -> Result<Step, KvError> {
        let mut queue = super::lock(&self.stream.queue);
        let Some(queued) = queue.pop() else {
            return Ok(Step::Nothing);
        };
        match queued {
            Queued::Answer(answer) => {
                drop(queue);
                self.stream.room.notify_one();
                Ok(Step::Tell(answer?))
            }
            Queued::Changes {
                watch_id,
                interest,
                changes,
            } => {
                let mut bytes = changes.bytes;
                let mut joined = vec![changes];
                while bytes < JOIN_MAX_BYTES
                    && let Some(changes) = queue.pop_changes_of(watch_id, &interest)
                {
                    bytes += changes.bytes;
                    joined.push(changes);
                }
                drop(queue);
                let mut events = Vec::new();
                for changes in &joined {
                    changes.add_events(&interest, &mut events);
                }
                Ok(Step::Tell(WatchItem::Events {
                    watch_id,
                    revision: joined.last().expect("one at least").revision(),
                    events,
                }))
            }
        }
    }

    fn take_history(&mut self, turn: &mut Option<OwnedSemaphorePermit>) -> Result<Step, KvError> {
        let task = super::lock(&self.shared.hub).next_behind(&self.stream, self.last_caught_up);
        let Some(task) = task else {
            return Ok(Step::Nothing);
        };
        if turn.is_none() {
            *turn = self.shared.history_turns.clone().try_acquire_owned().ok();
        }
        if turn.is_none() {
            return Ok(Step::Wait);
        }
        self.last_caught_up = task.key;
        self.catch_up(&task).map_err(|error| {
            tracing::error!("end a watch stream: {error}");
            KvError::Corrupt
        })
    }

    /// Reads a piece of history for a watcher.
    fn catch_up(&mut self, task: &CatchUpTask) -> Result<Step, StateFileError> {
        let history = read_history(
            &self.shared.state,
            task.next_revision,
            &task.interest.wanted(),
        )?;
        let changes = match history {
            History::Kept(changes) => changes,
            History::Compacted(compact_revision) => {
                let is_there = super::lock(&self.shared.hub).remove_compacted(task);
                return Ok(if is_there {
                    Step::Tell(WatchItem::Compacted {
                        watch_id: task.watch_id,
                        compact_revision,
                    })
                } else {
                    Step::Again
                });
            }
        };
        let mut events = Vec::with_capacity(changes.records.len());
        for record in &changes.records {
            let mut event = record.to_event();
            if task.interest.prev_kv {
                event.prev_kv = previous_value(&self.shared, record)?;
            }
            events.push(event);
        }
        let is_there = super::lock(&self.shared.hub).caught_up(task.key, changes.through + 1);
        Ok(if is_there && !events.is_empty() {
            Step::Tell(WatchItem::Events {
                watch_id: task.watch_id,
                revision: changes.through,
                events,
            })
        } else {
            Step::Again
        })
    }
}

impl Drop for WatchEvents {
    fn drop(&mut self) {
        super::lock(&self.shared.hub).close_stream(&self.stream);
        self.stream.room.notify_waiters();
        self.stream.room.notify_one();
    }
}
