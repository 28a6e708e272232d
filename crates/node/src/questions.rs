//! The questions (S7) that wait for the tree loop: whether one more may wait, or is to come back later (B19).

use eaves_tree::{QUESTION_WAIT_MAX, QUESTIONS_WAITING_MAX};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How many questions wait, and how long the last one that was taken had waited.
#[derive(Default)]
pub(crate) struct Questions {
    waiting: AtomicUsize,
    waited_us: AtomicU64,
}

impl Questions {
    /// One more wants to wait: false if it may not. Those that come while nobody waits always may, so a node that was slow once
    /// is not taken for busy for ever.
    pub fn wait(&self) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let waited = Duration::from_micros(self.waited_us.load(Ordering::Relaxed));
        if waiting >= QUESTIONS_WAITING_MAX || (waiting > 0 && waited >= QUESTION_WAIT_MAX) {
            return false;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The loop takes one that has waited so long.
    pub fn taken(&self, waited: Duration) {
        let before = self.waiting.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a question was taken that did not wait");
        self.waited_us
            .store(waited.as_micros() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_waits_unless_they_wait_too_long_already() {
        let questions = Questions::default();
        assert!(questions.wait() && questions.wait() && questions.wait());
        questions.taken(Duration::from_millis(10));
        assert!(questions.wait());
        questions.taken(QUESTION_WAIT_MAX);
        assert!(!questions.wait(), "two wait, and for too long");
        questions.taken(QUESTION_WAIT_MAX);
        questions.taken(QUESTION_WAIT_MAX);
        assert!(questions.wait(), "nobody waits");
    }

    #[test]
    fn only_so_many_wait() {
        let questions = Questions::default();
        assert!((0..QUESTIONS_WAITING_MAX).all(|_| questions.wait()));
        assert!(!questions.wait());
    }
}
