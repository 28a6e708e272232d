//! Runs the log's flushes, and tells who waits for them.
//!
//! The log queues; this runs the blocking part, where [`Blocking`] says: on one thread per node, so that an fsync never holds up the
//! node's event loop, or as a task on the node's own runtime.

use crate::blocking::Blocking;
use eaves_log::{Log, Ticket};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};

type Waiter = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The log together with its flushes. One per node; the only caller of `next_flush`.
pub(crate) struct Flusher {
    log: Log,
    waiters: Mutex<VecDeque<(Ticket, Waiter)>>,
    durable_end: watch::Sender<u64>,
    failure: watch::Sender<Option<String>>,
    signal: Signal,
}

/// Wakes the thread or the task, whichever it is.
struct Signal {
    blocking: Blocking,
    state: Mutex<SignalState>,
    changed: Condvar,
    notify: Notify,
}

#[derive(Default)]
struct SignalState {
    work: bool,
    stop: bool,
}

impl Flusher {
    /// Starts flushing `log`. Inline flushing must be started inside a tokio runtime.
    pub fn start(log: Log, blocking: Blocking) -> io::Result<Arc<Flusher>> {
        let signal = Signal {
            blocking,
            state: Mutex::new(SignalState::default()),
            changed: Condvar::new(),
            notify: Notify::new(),
        };
        let flusher = Arc::new(Flusher {
            durable_end: watch::Sender::new(end(&log)),
            failure: watch::Sender::new(None),
            waiters: Mutex::new(VecDeque::new()),
            signal,
            log,
        });
        let runner = flusher.clone();
        match blocking {
            Blocking::Threads => {
                std::thread::Builder::new()
                    .name("eaves-flush".into())
                    .spawn(move || runner.run_thread())?;
            }
            Blocking::Inline(latency) => {
                tokio::spawn(async move { runner.run_inline(latency).await });
            }
        }
        Ok(flusher)
    }

    /// The log itself, to read and to append to; after an append call [`Flusher::when_durable`] or [`Flusher::kick`].
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Calls `waiter` once everything up to `ticket` is on disk, or has failed. Callers that wait for several tickets are called in
    /// the order they asked.
    pub fn when_durable(
        &self,
        ticket: Ticket,
        waiter: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        self.waiters
            .lock()
            .unwrap()
            .push_back((ticket, Box::new(waiter)));
        self.kick();
    }

    /// Waits until everything up to `ticket` is on disk.
    pub async fn durable(&self, ticket: Ticket) -> io::Result<()> {
        let (done, wait) = tokio::sync::oneshot::channel();
        self.when_durable(ticket, move |result| drop(done.send(result)));
        wait.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Says that something was appended.
    pub fn kick(&self) {
        self.signal.raise(|state| state.work = true);
    }

    /// The first index that is not yet on disk, as it grows. A truncation may take it back.
    pub fn durable_end(&self) -> watch::Receiver<u64> {
        self.durable_end.subscribe()
    }

    /// Waits while more than `max_waiting_bytes` wait for the disk.
    pub async fn room(&self, max_waiting_bytes: u64) -> io::Result<()> {
        let mut durable_end = self.durable_end();
        loop {
            durable_end.borrow_and_update();
            if self.log.stats().waiting_bytes <= max_waiting_bytes {
                return Ok(());
            }
            durable_end.changed().await.map_err(|_| stopped())?;
        }
    }

    /// The error that broke the log, once there is one. The node must stop: nothing more can be acknowledged.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.subscribe()
    }

    /// Flushes what waits and ends. Idempotent.
    pub fn stop(&self) {
        self.signal.raise(|state| state.stop = true);
    }

    fn run_thread(&self) {
        while self.signal.wait() {
            while self.flush_once() {}
        }
        self.finish();
    }

    async fn run_inline(&self, latency: Duration) {
        loop {
            let go_on = self.signal.wait_async().await;
            loop {
                if self.log.has_flush() {
                    tokio::time::sleep(latency).await;
                }
                if !self.flush_once() {
                    break;
                }
            }
            if !go_on {
                return self.finish();
            }
        }
    }

    /// Runs the next flush; false when nothing waited.
    fn flush_once(&self) -> bool {
        let Some(job) = self.log.next_flush() else {
            self.answer_settled();
            return false;
        };
        let result = self.log.flushed(job.run());
        // Also where the end is the one it was: a log that was cut and grew again to where it ended has made room all the same.
        self.durable_end.send_replace(end(&self.log));
        match result {
            Ok(ticket) => self.answer(|waiting| waiting <= ticket, || Ok(())),
            Err(poisoned) => {
                let text = poisoned.to_string();
                tracing::error!("stop writing the log: {text}");
                self.failure.send_replace(Some(text.clone()));
                self.answer(|_| true, || Err(io::Error::other(text.clone())));
            }
        }
        true
    }

    /// Answers those whose ticket an earlier flush had covered before they asked, or whom no flush will ever serve.
    fn answer_settled(&self) {
        let durable = self.log.durable_ticket();
        self.answer(|waiting| waiting <= durable, || Ok(()));
        if let Some(poisoned) = self.log.poisoned() {
            self.answer(|_| true, || Err(io::Error::other(poisoned.to_string())));
        }
    }

    fn answer(&self, ready: impl Fn(Ticket) -> bool, result: impl Fn() -> io::Result<()>) {
        loop {
            // Called outside the lock: a waiter may append again.
            let waiter = {
                let mut waiters = self.waiters.lock().unwrap();
                match waiters.front() {
                    Some((ticket, _)) if ready(*ticket) => {
                        waiters.pop_front().expect("the front was there").1
                    }
                    _ => return,
                }
            };
            waiter(result());
        }
    }

    fn finish(&self) {
        while self.flush_once() {}
        self.answer(|_| true, || Err(stopped()));
    }
}

impl Signal {
    fn raise(&self, set: impl FnOnce(&mut SignalState)) {
        set(&mut self.state.lock().unwrap());
        match self.blocking {
            Blocking::Threads => self.changed.notify_one(),
            Blocking::Inline(_) => self.notify.notify_one(),
        }
    }

    /// Takes the work flag; `None` when there is nothing to do yet, else whether to go on after it.
    fn take(state: &mut SignalState) -> Option<bool> {
        match (std::mem::take(&mut state.work), state.stop) {
            (_, true) => Some(false),
            (true, false) => Some(true),
            (false, false) => None,
        }
    }

    fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        loop {
            match Signal::take(&mut state) {
                Some(go_on) => return go_on,
                None => state = self.changed.wait(state).unwrap(),
            }
        }
    }

    async fn wait_async(&self) -> bool {
        loop {
            if let Some(go_on) = Signal::take(&mut self.state.lock().unwrap()) {
                return go_on;
            }
            self.notify.notified().await;
        }
    }
}

fn end(log: &Log) -> u64 {
    log.durable_index().map_or(0, |index| index + 1)
}

fn stopped() -> io::Error {
    io::Error::other("the node is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves_log::{Frame, Kind, LogId, Options, sim::SimDisk};
    use std::path::Path;

    fn frame(index: u64) -> Frame {
        Frame::encode(LogId { term: 1, index }, Kind::Blank, &[])
    }

    async fn started(blocking: Blocking) -> (Arc<SimDisk>, Arc<Flusher>) {
        let disk = Arc::new(SimDisk::new());
        let (log, _) = Log::open(disk.clone(), Path::new("/log"), Options::default()).unwrap();
        (disk, Flusher::start(log, blocking).unwrap())
    }

    #[tokio::test]
    async fn a_ticket_that_an_earlier_flush_covered_is_answered() {
        for blocking in [Blocking::Threads, Blocking::Inline(Duration::ZERO)] {
            let (_, flusher) = started(blocking).await;
            let ticket = flusher.log().append(&[frame(0)]).unwrap();
            flusher.durable(ticket).await.unwrap();
            flusher.durable(ticket).await.unwrap();
            let nothing_to_cut = flusher.log().truncate_after(Some(7)).unwrap();
            flusher.durable(nothing_to_cut).await.unwrap();
            assert_eq!(*flusher.durable_end().borrow(), 1);
            flusher.stop();
        }
    }

    #[tokio::test]
    async fn room_is_made_by_a_flush_that_ends_where_the_one_before_did() {
        let (_, flusher) = started(Blocking::Inline(Duration::ZERO)).await;
        let ticket = flusher.log().append(&[frame(0), frame(1)]).unwrap();
        flusher.durable(ticket).await.unwrap();
        flusher.log().truncate_after(Some(0)).unwrap();
        let ticket = flusher.log().append(&[frame(1)]).unwrap();
        let mut room = std::pin::pin!(flusher.room(0));
        let waits = futures_util::poll!(&mut room);
        assert!(waits.is_pending(), "nobody has said yet that there is work");
        flusher.durable(ticket).await.unwrap();
        let room = tokio::time::timeout(Duration::from_secs(60), room).await;
        room.expect("there is room, and nobody says so").unwrap();
    }

    #[tokio::test]
    async fn everybody_hears_of_a_broken_disk_those_who_ask_later_too() {
        let (disk, flusher) = started(Blocking::Threads).await;
        let ticket = flusher.log().append(&[frame(0)]).unwrap();
        flusher.durable(ticket).await.unwrap();
        disk.fail_syncs_after(0);
        let ticket = flusher.log().append(&[frame(1)]).unwrap();
        assert!(
            flusher
                .durable(ticket)
                .await
                .unwrap_err()
                .to_string()
                .contains("previous I/O error")
        );
        assert!(flusher.durable(ticket).await.is_err());
        assert!(flusher.failure().borrow().is_some());
        assert_eq!(
            *flusher.durable_end().borrow(),
            1,
            "durable-before-acknowledged"
        );
    }
}
