//! The committed position of a node: what may be applied and sent down.

use eaves_log::LogId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Positions that follow within this time share a mark.
const MARK_SPACING: Duration = Duration::from_millis(10);

/// Marks kept. At full speed the younger half covers five seconds exactly; what is older is kept ever more coarsely.
const MARKS_MAX: usize = 1024;

/// Up to where this node knows the log committed (S5: nothing beyond goes downstream). Clones are the same position.
///
/// Invariant `monotonic`: it never goes back; whoever is late with an older position changes nothing.
#[derive(Clone)]
pub(crate) struct Committed {
    position: watch::Sender<Option<LogId>>,
    past: Arc<Mutex<Past>>,
}

impl Committed {
    pub fn new(at: Option<LogId>) -> Committed {
        let committed = Committed {
            position: watch::Sender::new(at),
            past: Arc::default(),
        };
        if let Some(id) = at {
            committed.note(id);
        }
        committed
    }

    /// The position now; `None` before the first entry.
    pub fn get(&self) -> Option<LogId> {
        *self.position.borrow()
    }

    /// Everything up to `to` is committed. Wakes those who wait, if that is news.
    pub fn raise(&self, to: Option<LogId>) {
        let is_news = self.position.send_if_modified(|known| {
            let is_news = to > *known;
            if is_news {
                *known = to;
            }
            is_news
        });
        if let Some(id) = to.filter(|_| is_news) {
            self.note(id);
        }
    }

    /// To wait for changes.
    pub fn subscribe(&self) -> watch::Receiver<Option<LogId>> {
        self.position.subscribe()
    }

    /// For how long the entry at `index` has been known committed; zero if it is not. At most [`MARK_SPACING`] too long, or more if it
    /// is old; never longer than this node runs.
    pub fn known_for(&self, index: u64) -> Duration {
        let since = self.past.lock().unwrap().since(index);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn note(&self, id: LogId) {
        self.past.lock().unwrap().note(id.index + 1, Instant::now());
    }
}

/// When positions became known, for those who tell lag in time.
#[derive(Default)]
struct Past(VecDeque<Mark>);

/// From `since` on, everything below `end` became known committed, until the next mark.
struct Mark {
    end: u64,
    since: Instant,
}

impl Past {
    fn note(&mut self, end: u64, now: Instant) {
        match self.0.back_mut() {
            // Two that raise at the same time may note in the other order.
            Some(last) if end <= last.end => return,
            Some(last) if now.saturating_duration_since(last.since) < MARK_SPACING => {
                last.end = end;
                return;
            }
            _ => self.0.push_back(Mark { end, since: now }),
        }
        if self.0.len() >= MARKS_MAX {
            self.thin();
        }
    }

    /// Joins the older marks two by two.
    fn thin(&mut self) {
        let younger = self.0.split_off(MARKS_MAX / 2);
        let mut number = 0;
        let mut first = None;
        self.0.retain_mut(|mark| {
            number += 1;
            if number % 2 == 1 {
                first = Some(mark.since);
                return false;
            }
            mark.since = first.take().expect("its elder came before");
            true
        });
        self.0.extend(younger);
    }

    fn since(&self, index: u64) -> Option<Instant> {
        let mark = self.0.partition_point(|mark| mark.end <= index);
        self.0.get(mark).map(|mark| mark.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_position_changes_nothing() {
        let committed = Committed::new(None);
        let (older, newer) = (LogId { term: 1, index: 9 }, LogId { term: 2, index: 10 });
        committed.raise(Some(newer));
        let watching = committed.subscribe();
        for late in [None, Some(older), Some(newer)] {
            committed.raise(late);
        }
        assert_eq!(committed.get(), Some(newer));
        assert!(!watching.has_changed().unwrap());
    }

    #[test]
    fn lag_in_time_counts_from_when_the_entry_came() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut past = Past::default();
        past.note(10, at(0));
        past.note(20, at(100));
        past.note(25, at(105));
        past.note(22, at(150));
        past.note(30, at(200));
        assert_eq!(past.since(3), Some(at(0)));
        assert_eq!(past.since(9), Some(at(0)));
        assert_eq!(past.since(10), Some(at(100)));
        assert_eq!(past.since(24), Some(at(100)), "it shares a mark");
        assert_eq!(past.since(25), Some(at(200)));
        assert_eq!(past.since(30), None, "not committed");
    }

    #[test]
    fn the_past_is_bounded_and_exact_where_it_is_young() {
        let start = Instant::now();
        let at = |index: u64| start + MARK_SPACING * index as u32;
        let mut past = Past::default();
        let last = 100_000;
        for index in 0..=last {
            past.note(index + 1, at(index));
            assert!(past.0.len() < MARKS_MAX);
        }
        for index in last - 400..=last {
            assert_eq!(past.since(index), Some(at(index)));
        }
        for index in (0..last).step_by(97) {
            assert!(past.since(index).unwrap() <= at(index), "never too short");
        }
    }
}
