//! Where work runs that blocks: the log's flushes, the state made durable, snapshots, small files.
//!
//! In production it runs on threads, so that a disk never holds up the node's event loop. A simulation of nodes has one thread and a
//! clock of its own: there the work is a task of the node's runtime, which waits for as long as the work is to take and then does it at
//! once. Other tasks run meanwhile, as they would beside a thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where a node's blocking work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// The log's flushes on a thread of their own, bulk (`bulk.rs`) on others, all else on the runtime's pool of threads.
    #[default]
    Threads,
    /// On the node's runtime, each piece and each flush this long after it was asked for, by the runtime's clock. For simulations:
    /// a real disk would hold up everything else.
    Inline(Duration),
}

impl Blocking {
    /// Runs `work`, which goes on to its end even if the caller is dropped. An error means that it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let running = match self {
            Blocking::Threads => tokio::task::spawn_blocking(work),
            Blocking::Inline(latency) => tokio::spawn(async move {
                tokio::time::sleep(latency).await;
                work()
            }),
        };
        running.await.map_err(io::Error::other)
    }

    /// Like [`Blocking::run`]; the work is told when the caller was dropped.
    pub(crate) async fn interruptible<T: Send + 'static>(
        self,
        work: impl FnOnce(Interrupt) -> T + Send + 'static,
    ) -> io::Result<T> {
        struct Caller(Arc<AtomicBool>);
        impl Drop for Caller {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let caller = Caller(Arc::default());
        let interrupt = Interrupt(caller.0.clone());
        self.run(move || work(interrupt)).await
    }

    /// Drops what takes long to drop, where blocking work runs.
    pub(crate) fn dispose<T: Send + 'static>(self, value: T) {
        let runtime = tokio::runtime::Handle::try_current();
        match (self, runtime) {
            (Blocking::Threads, Ok(runtime)) => drop(runtime.spawn_blocking(move || drop(value))),
            _ => drop(value),
        }
    }
}

/// Tells work that blocks that nobody waits for it any more.
#[derive(Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::Error::other("nobody waits for this any more")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn inline_work_takes_virtual_time_and_runs_on_this_thread() {
        let begin = tokio::time::Instant::now();
        let here = std::thread::current().id();
        let there = Blocking::Inline(LATENCY).run(|| std::thread::current().id());
        assert_eq!(there.await.unwrap(), here);
        assert!(begin.elapsed() >= LATENCY);
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_without_its_caller_and_is_told() {
        let (done, told) = tokio::sync::oneshot::channel();
        let work = Blocking::Inline(LATENCY).interruptible(move |interrupt| {
            done.send(interrupt.check().is_err()).unwrap();
        });
        let given_up = tokio::time::timeout(LATENCY / 2, work).await;
        assert!(given_up.is_err(), "not done yet");
        assert!(told.await.unwrap(), "it ran, and knew");
    }
}
