//! Read indexes, merged: however many reads wait here, one question at a time goes up (B13).
//!
//! A read may use the answer to any question that was asked after the read began. So reads that arrive while a question is on its way
//! share the next one, and the leader's load is one question per round trip and neighbour, whatever the number of readers.

use crate::core::Core;
use crate::error::ReadError;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long one question may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// The reads of a node that wait for a read index.
#[derive(Default)]
pub(crate) struct Reads {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether a question is on its way.
    asking: bool,
    /// Those who came after it left.
    waiting: Vec<oneshot::Sender<Result<u64, ReadError>>>,
}

impl Reads {
    /// One past the index that a read which begins now must have seen.
    pub async fn ask(
        &self,
        core: &Arc<Core>,
        leader_only: bool,
        deadline: Instant,
    ) -> Result<u64, ReadError> {
        if leader_only
            && core
                .consensus()
                .is_none_or(|consensus| !consensus.is_leader())
        {
            return Err(ReadError::NoLeader("this voter does not lead".into()));
        }
        let (answer, wait) = oneshot::channel();
        if self.join(answer) {
            tokio::spawn(ask_until_idle(core.clone()));
        }
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ReadError::Stopped("the node is stopping".into())),
            Err(_) => Err(ReadError::Timeout("a read index".into())),
        }
    }

    /// Queues a read; true when the caller must start the asking.
    fn join(&self, answer: oneshot::Sender<Result<u64, ReadError>>) -> bool {
        let mut state = self.state.lock().unwrap();
        state.waiting.push(answer);
        !std::mem::replace(&mut state.asking, true)
    }

    /// Takes all who wait; an empty answer ends the asking.
    fn take(&self) -> Vec<oneshot::Sender<Result<u64, ReadError>>> {
        let mut state = self.state.lock().unwrap();
        let waiting = std::mem::take(&mut state.waiting);
        state.asking = !waiting.is_empty();
        waiting
    }
}

async fn ask_until_idle(core: Arc<Core>) {
    loop {
        let waiting = core.reads.take();
        if waiting.is_empty() {
            return;
        }
        // A question may be asked again at no risk, so one that got lost holds nobody up for long.
        let mut status = core.status.subscribe();
        let result = tokio::select! {
            result = core.read_index(false, Instant::now() + QUESTION_TIMEOUT) => result,
            _ = status.changed() => Err(ReadError::NoLeader("the way to the leader has changed".into())),
        };
        for read in waiting {
            let _ = read.send(result.clone());
        }
    }
}
