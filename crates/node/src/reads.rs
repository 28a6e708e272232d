//! Read indexes, merged, and what they prove: however many reads wait here, one question at a time goes up (B13, B14).
//!
//! A *read index* is the commit index of a leader that has just confirmed that it leads (Raft dissertation 6.4). It proves something
//! about time: every write that anybody was told of before the question was asked lies at or below it.
//!
//! ```text
//!   read 1   read 2      read 3   read 4             read 1 and 2 share the first question,
//!     |        |            |        |               3 and 4 the second: they came after the first
//!     v        v            v        v               was asked, so its answer may lack what they must see
//!   [ question 1 .......... answer ][ question 2 .......... answer ]
//! ```
//!
//! So a read may use the answer to any question that was asked after the read began, and no other. The same holds for a question that
//! comes from below: it is a read like any other. Thus every node has at most one question on its way up, and the leader, which merges
//! too, confirms itself once for all that wait: its load is one question per round trip and neighbour, whatever the number of readers.
//!
//! # Bounded staleness
//!
//! Once a node has applied up to a read index, its state has every write that was acknowledged before the question was asked. It notes
//! that moment, on its own clock. A read that allows a state `x` old needs no question as long as the note is younger than `x` (B14).
//! From half of `x` on a new question goes out in the background, so that steady readers never wait, and go on for at least half of `x`
//! after the leader is lost.
//!
//! Why not the freshness that heartbeats carry (B8)? It serves to compare places in the tree, and no promise can be built on it: the
//! time on the wire is missing from it, and a leader that was deposed behind a partition may still be heard while the others
//! acknowledge writes. A question asked and answered needs neither to be bounded: only the asker's own clock counts.
//!
//! # Caveats
//!
//! - The clock is the monotonic one. It stands still while the machine is suspended; a read right after that may be served by a note
//!   that is older than it seems.
//! - A question that got lost holds up those behind it for [`QUESTION_TIMEOUT`], unless the node hears of a change above it earlier.

use crate::core::Core;
use crate::error::ReadError;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long one question may take. Asking again is no risk, so one that got lost holds nobody up for long.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before a read that met no leader asks again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What the answer to a question proves: whoever was told of a write before `asked` finds it below `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadIndex {
    /// One past the index.
    pub end: u64,
    /// A moment before the question left, and after all reads that share it began.
    pub asked: Instant,
}

type Answer = Result<ReadIndex, ReadError>;

/// The reads of a node that wait for a read index, and the latest moment of which its state is known to have everything.
///
/// Invariants:
/// - `one-question`: at most one question is on its way.
/// - `asked-after`: nobody gets the answer to a question that was asked before they came.
#[derive(Default)]
pub(crate) struct Reads {
    state: Mutex<State>,
    /// Whether a question in the background is on its way.
    refreshing: AtomicBool,
}

#[derive(Default)]
struct State {
    asking: bool,
    /// Those who came after the question under way had left, and when.
    waiting: Vec<(Instant, oneshot::Sender<Answer>)>,
    /// All that was acknowledged before is applied here.
    complete_as_of: Option<Instant>,
}

impl Reads {
    /// A read index for a read, or a question from below, that begins now.
    pub async fn ask(&self, core: &Arc<Core>, leader_only: bool, deadline: Instant) -> Answer {
        if leader_only
            && core
                .consensus()
                .is_none_or(|consensus| !consensus.is_leader())
        {
            return Err(ReadError::NoLeader("this voter does not lead".into()));
        }
        let (answer, wait) = oneshot::channel();
        if self.join(answer) {
            let core = core.clone();
            tokio::spawn(
                async move { ask_until_idle(&core.reads, || question(core.clone())).await },
            );
        }
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ReadError::Stopped("the node is stopping".into())),
            Err(_) => Err(ReadError::Timeout("a read index".into())),
        }
    }

    /// How old this node's state is at most, at `now`: it has every write acknowledged longer ago than that. `None` while nobody has
    /// asked.
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        let complete_as_of = self.state.lock().unwrap().complete_as_of;
        complete_as_of.map(|at| now.saturating_duration_since(at))
    }

    /// What the answer proves has been applied here.
    fn applied(&self, index: ReadIndex) {
        let mut state = self.state.lock().unwrap();
        state.complete_as_of = state.complete_as_of.max(Some(index.asked));
    }

    /// Queues a read; true when the caller must start the asking.
    fn join(&self, answer: oneshot::Sender<Answer>) -> bool {
        let mut state = self.state.lock().unwrap();
        state.waiting.push((Instant::now(), answer));
        !std::mem::replace(&mut state.asking, true)
    }

    /// Takes all who wait; an empty answer ends the asking.
    fn take(&self) -> Vec<(Instant, oneshot::Sender<Answer>)> {
        let mut state = self.state.lock().unwrap();
        let waiting = std::mem::take(&mut state.waiting);
        state.asking = !waiting.is_empty();
        waiting
    }
}

/// Returns when all that was committed before the call is applied here; with the read index that proves it. Asks again while there
/// is no leader, up to `deadline`.
pub(crate) async fn catch_up(core: &Arc<Core>, deadline: Instant) -> Answer {
    let index = loop {
        match core.reads.ask(core, false, deadline).await {
            Ok(index) => break index,
            Err(ReadError::NoLeader(_)) if Instant::now() + RETRY_PAUSE < deadline => {
                tokio::time::sleep(RETRY_PAUSE).await
            }
            Err(error) => return Err(error),
        }
    };
    core.applied(index.end, deadline).await?;
    core.reads.applied(index);
    Ok(index)
}

/// Returns when all that was acknowledged more than `allowed` before the call is applied here. The answer is how old the state is at
/// most, when it returns.
pub(crate) async fn catch_up_within(
    core: &Arc<Core>,
    allowed: Duration,
    deadline: Instant,
) -> Result<Duration, ReadError> {
    let known = core.reads.staleness(Instant::now());
    let Some(staleness) = known.filter(|staleness| *staleness <= allowed) else {
        return Ok(catch_up(core, deadline).await?.asked.elapsed());
    };
    if staleness > allowed / 2 && !core.reads.refreshing.swap(true, Ordering::Relaxed) {
        let core = core.clone();
        tokio::spawn(async move {
            // Whoever needs the answer asks again, and says why there is none.
            let _ = catch_up(&core, deadline).await;
            core.reads.refreshing.store(false, Ordering::Relaxed);
        });
    }
    Ok(staleness)
}

/// One question on its way up. A change of leader or upstream ends it, since its answer may never come.
async fn question(core: Arc<Core>) -> Result<u64, ReadError> {
    let mut status = core.status.subscribe();
    tokio::select! {
        end = core.read_index(Instant::now() + QUESTION_TIMEOUT) => end,
        _ = status.changed() => Err(ReadError::NoLeader("the way to the leader has changed".into())),
    }
}

/// Asks for all who wait, then for those who came meanwhile, and so on until nobody waits.
async fn ask_until_idle<Q: Future<Output = Result<u64, ReadError>>>(
    reads: &Reads,
    question: impl Fn() -> Q,
) {
    loop {
        let waiting = reads.take();
        if waiting.is_empty() {
            return;
        }
        let asked = Instant::now();
        let answer = question().await.map(|end| ReadIndex { end, asked });
        for (came, read) in waiting {
            assert!(
                came <= asked,
                "asked-after: a read got the answer to an earlier question"
            );
            // A reader that gave up is gone.
            let _ = read.send(answer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// Questions that the test answers, in the order they were asked.
    struct Upstream {
        reads: Arc<Reads>,
        asked: mpsc::UnboundedReceiver<oneshot::Sender<Result<u64, ReadError>>>,
        questions: mpsc::UnboundedSender<oneshot::Sender<Result<u64, ReadError>>>,
    }

    impl Upstream {
        fn new() -> Upstream {
            let (questions, asked) = mpsc::unbounded_channel();
            Upstream {
                reads: Arc::default(),
                asked,
                questions,
            }
        }

        fn read(&self) -> oneshot::Receiver<Answer> {
            let (answer, wait) = oneshot::channel();
            if self.reads.join(answer) {
                let (reads, questions) = (self.reads.clone(), self.questions.clone());
                tokio::spawn(async move {
                    ask_until_idle(&reads, || {
                        let (answer, wait) = oneshot::channel();
                        questions.send(answer).unwrap();
                        async { wait.await.unwrap() }
                    })
                    .await
                });
            }
            wait
        }

        async fn question(&mut self) -> oneshot::Sender<Result<u64, ReadError>> {
            self.asked.recv().await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_read_that_comes_while_a_question_is_under_way_waits_for_the_next() {
        let mut upstream = Upstream::new();
        let early: Vec<_> = (0..100).map(|_| upstream.read()).collect();
        let first = upstream.question().await;
        let late: Vec<_> = (0..100).map(|_| upstream.read()).collect();
        first.send(Ok(7)).unwrap();
        for read in early {
            assert_eq!(read.await.unwrap().unwrap().end, 7);
        }
        let second = upstream.question().await;
        second.send(Ok(9)).unwrap();
        for read in late {
            assert_eq!(read.await.unwrap().unwrap().end, 9, "asked-after");
        }
        assert!(upstream.asked.is_empty(), "200 reads, two questions");
    }

    #[tokio::test]
    async fn a_failed_question_fails_those_who_shared_it_and_no_other() {
        let mut upstream = Upstream::new();
        let early = upstream.read();
        let first = upstream.question().await;
        let late = upstream.read();
        let failure = ReadError::NoLeader("nobody".into());
        first.send(Err(failure.clone())).unwrap();
        assert_eq!(early.await.unwrap(), Err(failure));
        upstream.question().await.send(Ok(3)).unwrap();
        assert_eq!(late.await.unwrap().unwrap().end, 3);
        let again = upstream.read();
        upstream.question().await.send(Ok(4)).unwrap();
        assert_eq!(again.await.unwrap().unwrap().end, 4, "it rests in between");
    }

    #[tokio::test]
    async fn a_reader_that_gives_up_holds_nobody_up() {
        let mut upstream = Upstream::new();
        drop(upstream.read());
        let first = upstream.question().await;
        let read = upstream.read();
        first.send(Ok(1)).unwrap();
        upstream.question().await.send(Ok(2)).unwrap();
        assert_eq!(read.await.unwrap().unwrap().end, 2);
    }

    #[test]
    fn the_state_is_as_old_as_the_latest_question_whose_answer_was_applied() {
        let reads = Reads::default();
        let now = Instant::now();
        assert_eq!(reads.staleness(now), None);
        let second = Duration::from_secs(1);
        let index = |asked| ReadIndex { end: 1, asked };
        reads.applied(index(now));
        assert_eq!(reads.staleness(now + second), Some(second));
        reads.applied(index(now + second));
        reads.applied(index(now));
        assert_eq!(
            reads.staleness(now + second),
            Some(Duration::ZERO),
            "a late one changes nothing"
        );
    }
}
