//! Where work runs that blocks: the log's flushes, the state made durable, snapshots, small files.
//!
//! In production it runs on threads, so that a disk never holds up the node's event loop. A simulation of nodes has one thread and a
//! clock of its own: there the work is a task of the node's runtime, which waits for as long as the work is to take and then does it at
//! once. Other tasks run meanwhile, as they would beside a thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How much less a thread for bulk counts than others where processors are short, in steps of nice(2): about a third. With none
/// left for it, a new listener on the machine of a busy voter would never catch up.
#[cfg(target_os = "linux")]
const BULK_NICE: i32 = 5;

/// A spell of bulk is followed by a rest of this part of the time that it took.
const REST_DIVISOR: u32 = 3;

/// Where a node's blocking work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// The log's flushes on a thread of their own, bulk on others, all else on the runtime's pool of threads.
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

    /// A place for bulk: work of seconds to hours beside which everything else is to go on as before.
    pub(crate) fn bulk(self) -> io::Result<Bulk> {
        match self {
            Blocking::Threads => Ok(Bulk::Thread(start_bulk_thread()?)),
            Blocking::Inline(_) => Ok(Bulk::Inline(self)),
        }
    }

    /// Begins a spell of bulk, after which it is to rest.
    pub(crate) fn begin_spell(self) -> Spell {
        Spell((self == Blocking::Threads).then(Instant::now))
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

type Job = Box<dyn FnOnce() + Send>;

/// A place for bulk, one piece after the other.
pub(crate) enum Bulk {
    /// A thread of its own, which gives way to all others: the pool's cannot, since no thread gets its priority back. It ends with
    /// this, after the piece it is at.
    Thread(mpsc::Sender<Job>),
    Inline(Blocking),
}

impl Bulk {
    /// Runs `work`, which goes on to its end even if the caller is dropped. An error means that it panicked, or an earlier piece.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let jobs = match self {
            Bulk::Thread(jobs) => jobs,
            Bulk::Inline(blocking) => return blocking.run(work).await,
        };
        let (done, result) = oneshot::channel();
        let job = move || drop(done.send(work()));
        // A thread that is gone drops the job, and with it `done`.
        let _ = jobs.send(Box::new(job));
        result
            .await
            .map_err(|_| io::Error::other("a thread for bulk panicked"))
    }
}

fn start_bulk_thread() -> io::Result<mpsc::Sender<Job>> {
    let (jobs, received) = mpsc::channel::<Job>();
    let work = move || {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::nice(BULK_NICE) {
            tracing::debug!("lower the priority of a thread for bulk: {error}");
        }
        received.into_iter().for_each(|job| job());
    };
    std::thread::Builder::new()
        .name("eaves-bulk".into())
        .spawn(work)?;
    Ok(jobs)
}

/// A spell of bulk. Only on a thread of its own does it take time, and have to rest.
pub(crate) struct Spell(Option<Instant>);

impl Spell {
    /// Pauses for a part of the time that the work took: processor and disk belong to those who write and read, too.
    pub fn rest(self) {
        if let Some(begin) = self.0 {
            std::thread::sleep(begin.elapsed() / REST_DIVISOR);
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
        assert!(Blocking::Inline(LATENCY).begin_spell().0.is_none());
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn bulk_has_one_thread_that_gives_way_to_all_others() {
        let bulk = Blocking::Threads.bulk().unwrap();
        let here = rustix::process::getpriority_process(None).unwrap();
        let about = || {
            let id = std::thread::current().id();
            (id, rustix::process::getpriority_process(None).unwrap())
        };
        let first = bulk.run(about).await.unwrap();
        assert_eq!(bulk.run(about).await.unwrap(), first);
        assert_ne!(first.0, std::thread::current().id());
        assert_eq!(first.1, (here + BULK_NICE).min(19));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), here);
    }

    #[tokio::test]
    async fn bulk_that_panics_is_an_error_and_so_is_what_follows() {
        let bulk = Blocking::Threads.bulk().unwrap();
        let panics = bulk.run(|| panic!("as this test wants")).await;
        panics.expect_err("it did not return");
        bulk.run(|| ()).await.expect_err("the thread is gone");
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
