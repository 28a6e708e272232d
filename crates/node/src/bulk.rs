//! Work of seconds to hours beside which everything else is to go on as before: a snapshot being read, sent, received and made a state.
//!
//! Three things keep it from holding up the writes and reads of the same machine. Its threads have a lower priority: a node's own wait for a
//! processor behind each piece of it otherwise. It rests where a state is read or made; what is sent and received has a rate. And it gives the
//! disk little at once ([`BULK_SYNC_BYTES`](eaves_log::disk::BULK_SYNC_BYTES)), which is up to who writes.
//!
//! Caveats. A priority counts only on Linux here, and only among the threads of one control group. Nobody waits for a thread of bulk when
//! a node or a process ends: a state or a file half made is removed at the next start. A result that its caller no longer waits for is dropped by
//! whoever drops it last, which may be the event loop.

use crate::blocking::Blocking;
use std::io;
use std::sync::mpsc;
use std::time::Instant;
use tokio::sync::oneshot;

/// How much less a thread for bulk counts than others where processors are short, in steps of nice(2): about a third. With none
/// left for it, a new listener on the machine of a busy voter would never catch up.
#[cfg(target_os = "linux")]
const BULK_NICE: i32 = 5;

/// A spell of work is followed by a rest of this part of the time that it took.
const REST_DIVISOR: u32 = 3;

type Job = Box<dyn FnOnce() + Send>;

/// A place for bulk, one piece after the other.
pub(crate) struct Bulk {
    blocking: Blocking,
    /// Of a thread of its own, from the first piece on. The pool's threads would not do: none gets its priority back. It ends with this,
    /// after the piece it is at.
    jobs: Option<mpsc::Sender<Job>>,
}

impl Bulk {
    pub fn new(blocking: Blocking) -> Bulk {
        Bulk {
            blocking,
            jobs: None,
        }
    }

    /// Runs `work`, which goes on to its end even if the caller is dropped. An error means that it panicked, or an earlier piece, or that
    /// the system has no thread for it.
    pub async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        if self.blocking != Blocking::Threads {
            return self.blocking.run(work).await;
        }
        let jobs = match &self.jobs {
            Some(jobs) => jobs,
            None => self.jobs.insert(start_thread()?),
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

fn start_thread() -> io::Result<mpsc::Sender<Job>> {
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

/// A spell of work. Only on a thread does it take time, and have to rest.
pub(crate) struct Spell(Option<Instant>);

impl Spell {
    pub fn begin(blocking: Blocking) -> Spell {
        Spell((blocking == Blocking::Threads).then(Instant::now))
    }

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
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn inline_it_is_work_like_any_other() {
        const LATENCY: Duration = Duration::from_secs(3600);
        let (begin, here) = (tokio::time::Instant::now(), std::thread::current().id());
        let mut bulk = Bulk::new(Blocking::Inline(LATENCY));
        let there = bulk.run(|| std::thread::current().id()).await.unwrap();
        assert_eq!(there, here);
        assert!(begin.elapsed() >= LATENCY);
        assert!(Spell::begin(Blocking::Inline(LATENCY)).0.is_none());
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn it_has_one_thread_that_gives_way_to_all_others() {
        let mut bulk = Bulk::new(Blocking::Threads);
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
    async fn a_piece_that_panics_is_an_error_and_so_is_what_follows() {
        let mut bulk = Bulk::new(Blocking::Threads);
        let panics = bulk.run(|| panic!("as this test wants")).await;
        panics.expect_err("it did not return");
        bulk.run(|| ()).await.expect_err("the thread is gone");
    }
}
