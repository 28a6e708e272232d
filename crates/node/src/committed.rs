//! The committed position of a node: what may be applied and sent down.

use eaves_log::LogId;
use tokio::sync::watch;

/// Up to where this node knows the log committed (S5: nothing beyond goes downstream). Clones are the same position.
///
/// Invariant `monotonic`: it never goes back; whoever is late with an older position changes nothing.
#[derive(Clone)]
pub(crate) struct Committed(watch::Sender<Option<LogId>>);

impl Committed {
    pub fn new(at: Option<LogId>) -> Committed {
        Committed(watch::Sender::new(at))
    }

    /// The position now; `None` before the first entry.
    pub fn get(&self) -> Option<LogId> {
        *self.0.borrow()
    }

    /// Everything up to `to` is committed. Wakes those who wait, if that is news.
    pub fn raise(&self, to: Option<LogId>) {
        self.0.send_if_modified(|known| {
            let is_news = to > *known;
            if is_news {
                *known = to;
            }
            is_news
        });
    }

    /// To wait for changes.
    pub fn subscribe(&self) -> watch::Receiver<Option<LogId>> {
        self.0.subscribe()
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
}
