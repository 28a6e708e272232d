//! How fresh a node's view of the group is (`B8`): an age that grows, never a timestamp of another clock.

use crate::time::Instant;
use core::time::Duration;

/// When a leader was last heard, here or, for a listener, by the root above it.
///
/// A listener keeps the age its upstream told and adds the time since. So every hop adds what it held the word back, and
/// clocks need not agree; only the time on the wire is missing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Freshness(Option<(Duration, Instant)>);

impl Freshness {
    /// A leader was heard here and now.
    pub(crate) fn heard(now: Instant) -> Freshness {
        Freshness(Some((Duration::ZERO, now)))
    }

    /// The upstream says that the word is this old.
    pub(crate) fn told(age: Duration, now: Instant) -> Freshness {
        Freshness(Some((age, now)))
    }

    /// How old the last word from a leader is; `Duration::MAX` if there never was one.
    pub(crate) fn age(self, now: Instant) -> Duration {
        match self.0 {
            None => Duration::MAX,
            Some((age, at)) => age.saturating_add(now.since(at)),
        }
    }
}
