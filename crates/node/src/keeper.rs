//! Keeps the disk in order: makes the applied state durable in the background, and decides how much log stays.
//!
//! State: durable about every [`PERSIST_INTERVAL`], so that a restart re-applies little, and never ahead of the durable log. The state
//! machine does it piece by piece; between two pieces whoever waits for one has its turn, and whoever waits for room goes on. Nobody
//! waits for most pieces, so between two of those the keeper rests ([`REST`]): what became of half a second's writes, made durable in one
//! go, was seen to hold up the writes of now on a machine with few processors. The upkeep of the state, such as a compaction, goes on in
//! pieces with rests too, until none is left.
//!
//! Log: an entry may go once the durable state holds it, and stays anyway while the log is smaller than the retention bound (B9), since
//! every entry kept is a snapshot that somebody downstream does not need. openraft's own purge is logical and follows ours. A segment that
//! goes loses its name at once, and gives its space back step by step.

use crate::applier::Applier;
use crate::blocking::Blocking;
use crate::flusher::Flusher;
use eaves_log::Released;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long applied state may stay in memory only. Short enough that a restart re-applies little, long enough that the state's
/// commits are few beside the log's flushes.
pub const PERSIST_INTERVAL: Duration = Duration::from_millis(500);

/// Applied but not yet durable bytes beyond which applying waits. With the log's cache, the larger part of a busy node's memory.
pub const UNPERSISTED_MAX_BYTES: usize = 64 << 20;

/// How long the keeper rests after a piece that nobody waits for, in times that the piece took; at least [`REST_MIN`] and at most
/// [`PERSIST_INTERVAL`].
const REST: u32 = 3;

/// A piece that took next to no time is followed by a rest all the same.
const REST_MIN: Duration = Duration::from_millis(5);

/// Applied but not yet durable bytes beyond which the keeper does not rest: somebody may have to wait soon.
const RESTLESS_BYTES: usize = UNPERSISTED_MAX_BYTES / 4;

/// Bytes a listener takes in before it flushes at once.
const UNFLUSHED_MAX_BYTES: u64 = 4 << 20;

/// How many times the retention bound the log may grow while somebody takes a snapshot after which it goes on. Beyond, the snapshot
/// may have been sent in vain.
const HELD_FACTOR: u64 = 4;

/// Tells Raft that its log up to an index is no longer needed.
pub(crate) type Purge = Box<dyn Fn(u64) + Send>;

/// Whether anybody waits for what is made durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Nobody: it rests between two pieces.
    Restful,
    /// Somebody does.
    Restless,
}

/// What making the state durable came to since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commits {
    /// Pieces, those that had nothing left to do among them.
    pub count: u64,
    /// How long they took together.
    pub time: Duration,
}

/// Persists and releases. One per node, kept across changes of role.
pub(crate) struct Keeper {
    flusher: Arc<Flusher>,
    applier: Arc<Applier>,
    retention_bytes: u64,
    blocking: Blocking,
    /// One past the last index in the durable state.
    persisted_end: watch::Sender<u64>,
    commits: Mutex<Commits>,
    /// On a voter: tells Raft that the log up to an index should go.
    purge: Mutex<Option<Purge>>,
    /// The log from here on is wanted by whoever takes a snapshot; `u64::MAX` when nobody does.
    held_from: AtomicU64,
    turn: tokio::sync::Mutex<()>,
}

impl Keeper {
    pub fn new(
        flusher: Arc<Flusher>,
        applier: Arc<Applier>,
        retention_bytes: u64,
        blocking: Blocking,
    ) -> Arc<Keeper> {
        let persisted_end = watch::Sender::new(applier.state().next_index());
        Arc::new(Keeper {
            flusher,
            applier,
            retention_bytes,
            blocking,
            persisted_end,
            commits: Mutex::default(),
            purge: Mutex::default(),
            held_from: AtomicU64::new(u64::MAX),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// On a voter, how to tell Raft that the log up to an index should go; on a listener `None`.
    pub fn set_purge(&self, purge: Option<Purge>) {
        *self.purge.lock().unwrap() = purge;
    }

    /// What making the state durable came to.
    pub fn commits(&self) -> Commits {
        *self.commits.lock().unwrap()
    }

    /// Keeps the log from index `from` on, beyond the retention bound but not beyond [`HELD_FACTOR`] times it: what follows a snapshot
    /// that is on its way (B9).
    pub fn hold(&self, from: Option<u64>) {
        self.held_from
            .store(from.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Works until an I/O error; returns it. The node must stop then.
    pub async fn run(self: Arc<Keeper>) -> io::Error {
        tokio::select! {
            error = self.take_turns() => error,
            never = self.free_space() => match never {},
        }
    }

    /// Frees the space of deleted segments in small steps, beside everything else: a whole one at once takes tens of milliseconds.
    async fn free_space(&self) -> Infallible {
        loop {
            tokio::time::sleep(PERSIST_INTERVAL).await;
            if let Some(released) = self.flusher.log().take_released()
                && let Err(error) = self.free(released).await
            {
                // The system frees what is left when the file is closed, which it is by now.
                tracing::warn!("free the space of a deleted segment: {error}");
            }
        }
    }

    async fn free(&self, mut released: Released) -> io::Result<()> {
        loop {
            let begin = Instant::now();
            let step = move || (released.free_step(), released);
            let (more, rest) = self.blocking.run(step).await?;
            if !more? {
                return Ok(());
            }
            released = rest;
            tokio::time::sleep(rest_after(begin.elapsed())).await;
        }
    }

    async fn take_turns(&self) -> io::Error {
        let mut pause = PERSIST_INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            match self.turn().await {
                Ok(next) => pause = next,
                Err(error) => return error,
            }
        }
    }

    /// Returns how long to pause until the next.
    async fn turn(&self) -> io::Result<Duration> {
        self.flusher.kick();
        let durable_end = *self.flusher.durable_end().borrow();
        let took = self.persist_to(durable_end, Pace::Restful).await?;
        self.release();
        match self.applier.has_upkeep() {
            true => Ok(rest_after(took)),
            false => Ok(PERSIST_INTERVAL),
        }
    }

    /// Waits until all that is applied at this moment is durable, which the next turn makes it. Unlike [`Keeper::persist_applied`] it adds
    /// no work: Raft asks at the same entry on every node, and a group that persisted all at once would have nobody who answers meanwhile.
    pub async fn applied_is_durable(&self) -> io::Result<()> {
        let end = self.applier.state().next_index();
        let mut persisted_end = self.persisted_end.subscribe();
        let by_itself = persisted_end.wait_for(|persisted| *persisted >= end);
        let came = tokio::time::timeout(2 * PERSIST_INTERVAL, by_itself)
            .await
            .is_ok();
        match came {
            true => Ok(()),
            false => self.persist_applied().await,
        }
    }

    /// Makes all that is applied at this moment durable, waiting for the log where it is behind.
    pub async fn persist_applied(&self) -> io::Result<()> {
        let end = self.applier.state().next_index();
        let log_end = self.flusher.log().last_id().map_or(0, |id| id.index + 1);
        self.log_durable(end.min(log_end)).await?;
        self.persist_to(end, Pace::Restless).await.map(drop)
    }

    /// Says that the state was replaced by a durable one that ends before index `end`.
    pub fn installed(&self, end: u64) {
        self.persisted_end
            .send_if_modified(|known| std::mem::replace(known, end.max(*known)) < end);
    }

    /// Waits while too much is applied but not durable.
    pub async fn room_to_apply(&self) -> io::Result<()> {
        while self.lacks_room() {
            let durable_end = *self.flusher.durable_end().borrow();
            if self.make_room(durable_end).await? {
                continue;
            }
            // The state waits for the log.
            let end = self.applier.state().next_index();
            let log_end = self.flusher.log().last_id().map_or(0, |id| id.index + 1);
            self.log_durable(end.min(log_end).min(durable_end + 1))
                .await?;
        }
        Ok(())
    }

    fn lacks_room(&self) -> bool {
        self.applier.unpersisted_bytes() > UNPERSISTED_MAX_BYTES
    }

    /// Makes a piece durable if there is still no room when its turn has come; false when the durable log, which ends before index
    /// `durable_end`, allows none.
    async fn make_room(&self, durable_end: u64) -> io::Result<bool> {
        let _turn = self.turn.lock().await;
        let before = *self.persisted_end.borrow();
        Ok(!self.lacks_room() || self.persist_piece(durable_end).await? > before)
    }

    /// Waits until the log is durable up to before index `end`.
    async fn log_durable(&self, end: u64) -> io::Result<()> {
        let mut durable_end = self.flusher.durable_end();
        let mut failure = self.flusher.failure();
        tokio::select! {
            biased;
            durable = durable_end.wait_for(|durable| *durable >= end) => {
                durable.map(|_| ()).map_err(io::Error::other)
            }
            // A broken log never gets there.
            failure = failure.wait_for(Option::is_some) => {
                let failure = failure.map_err(io::Error::other)?.clone();
                Err(io::Error::other(failure.unwrap_or_default()))
            }
        }
    }

    /// Makes durable what is applied now, of that what comes before index `end`. Returns how long the last piece took.
    async fn persist_to(&self, end: u64, pace: Pace) -> io::Result<Duration> {
        let target_end = end.min(self.applier.state().next_index());
        loop {
            // Even when nothing was applied since: the state machine may have work of its own left, such as a compaction.
            let turn = self.turn.lock().await;
            let before = *self.persisted_end.borrow();
            let time_before = self.commits().time;
            let now = self.persist_piece(end).await?;
            let took = self.commits().time - time_before;
            drop(turn);
            if now >= target_end || now == before {
                return Ok(took);
            }
            if pace == Pace::Restful && self.applier.unpersisted_bytes() <= RESTLESS_BYTES {
                // The log is not to wait for the end of this turn.
                tokio::time::sleep(rest_after(took)).await;
                self.flusher.kick();
            }
        }
    }

    /// Makes durable what the state machine does in one piece, of what comes before index `end`. Returns one past the last index in the
    /// durable state. The caller holds the turn.
    async fn persist_piece(&self, end: u64) -> io::Result<u64> {
        if let Some(durable_index) = end.checked_sub(1) {
            let applier = self.applier.clone();
            let persist = move || applier.persist(durable_index);
            let begin = Instant::now();
            let persisted = self.blocking.run(persist).await??;
            let mut commits = self.commits.lock().unwrap();
            commits.count += 1;
            commits.time += begin.elapsed();
            drop(commits);
            // An index in a received state is what another node said: nothing beyond what is applied here may be let go for it.
            let now = persisted.map_or(0, |index| index.saturating_add(1));
            let now = now.min(self.applier.state().next_index());
            self.persisted_end
                .send_if_modified(|known| std::mem::replace(known, now.max(*known)) < now);
        }
        Ok(*self.persisted_end.borrow())
    }

    /// Flushes within [`PERSIST_INTERVAL`], or at once when much waits: for a listener, on whose disk nobody waits.
    pub fn flush_soon(&self) {
        if self.flusher.log().stats().waiting_bytes > UNFLUSHED_MAX_BYTES {
            self.flusher.kick();
        }
    }

    /// Deletes the oldest segments that the durable state covers while the log is larger than the bound.
    fn release(&self) {
        let log = self.flusher.log();
        while log.stats().disk_bytes > self.retention_bytes {
            let Some(last) = log.oldest_segment_end() else {
                return;
            };
            let held = last >= self.held_from.load(Ordering::Relaxed);
            if held && log.stats().disk_bytes <= HELD_FACTOR * self.retention_bytes {
                return;
            }
            // On a voter Raft says first that it no longer needs them; a listener has no other bound than its own state.
            let raft_allows = match &*self.purge.lock().unwrap() {
                Some(purge) => {
                    purge(last);
                    log.purged().is_some_and(|purged| purged.index >= last)
                }
                None => true,
            };
            if *self.persisted_end.borrow() <= last || !raft_allows {
                return;
            }
            match log.release(last) {
                Ok(_) => self.flusher.kick(),
                Err(error) => return tracing::debug!("release log up to {last}: {error}"),
            }
            if log.oldest_segment_end() == Some(last) {
                return;
            }
        }
    }
}

/// After a piece that took so long.
fn rest_after(took: Duration) -> Duration {
    (took * REST).clamp(REST_MIN, PERSIST_INTERVAL)
}

#[cfg(test)]
mod tests;
