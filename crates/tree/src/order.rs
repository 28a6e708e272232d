//! The one order by which upstreams are compared everywhere (`S8`, `B6`, `B7`, `B8`).

use crate::ids::Zone;
use core::fmt;

/// How good an upstream is for one listener, as far as the rules say; smaller is better. Stale ones rank behind all others
/// (`B8`); then (depth, one more if in another zone; in another zone), as `S8` and `B6` ask.
///
/// One order for first choice, zones and improvement, because two of them contradict each other: a listener that prefers its
/// zone at the price of a level, and then improves back to less depth, moves for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderKey {
    /// It is stale.
    pub stale: bool,
    /// Its depth, and one more if it is in another zone.
    pub depth: u32,
    /// It is in another zone than the listener, which has one.
    pub other_zone: bool,
}

impl OrderKey {
    /// The key of a node at `depth` in `its_zone`, for a listener in `zone`.
    pub(crate) fn of(
        stale: bool,
        depth: u32,
        its_zone: Option<&Zone>,
        zone: Option<&Zone>,
    ) -> Self {
        let other_zone = zone.is_some() && its_zone != zone;
        OrderKey {
            stale,
            depth: depth.saturating_add(u32::from(other_zone)),
            other_zone,
        }
    }

    /// Whether an upstream that ranks strictly better could exist.
    pub(crate) fn could_be_better(&self) -> bool {
        (self.stale, self.depth) != (false, 0)
    }

    /// Whether a free place at this depth would rank strictly better, if it is in the listener's own zone (`B7`).
    pub(crate) fn is_worse_than_depth(&self, depth: u32) -> bool {
        let best = OrderKey {
            stale: false,
            depth,
            other_zone: false,
        };
        best < *self
    }
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stale = if self.stale { ", stale" } else { "" };
        let zone = if self.other_zone { ", other zone" } else { "" };
        write!(f, "{}{zone}{stale}", self.depth)
    }
}

/// The place of an upstream in the order of one search: the pinned one first (`B16`), then by key, equals at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) not_pinned: bool,
    pub(crate) key: OrderKey,
    pub(crate) tie: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(depth: u32, its_zone: &str, stale: bool) -> OrderKey {
        let zone = Zone::from("a");
        OrderKey::of(stale, depth, Some(&Zone::from(its_zone)), Some(&zone))
    }

    #[test]
    fn own_zone_is_worth_one_level_and_no_more() {
        let order = [
            key(0, "a", false),
            key(1, "a", false),
            key(0, "b", false),
            key(2, "a", false),
            key(1, "b", false),
            key(0, "a", true),
        ];
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn without_a_zone_of_its_own_a_listener_looks_at_depth_only() {
        let key = |depth, zone| OrderKey::of(false, depth, Some(&Zone::from(zone)), None);
        assert_eq!(key(1, "a"), key(1, "b"));
        assert!(key(0, "b") < key(1, "a"));
    }

    #[test]
    fn nothing_is_better_than_a_fresh_voter_of_the_own_zone() {
        assert!(!key(0, "a", false).could_be_better());
        assert!(key(0, "a", true).could_be_better());
        assert!(key(0, "b", false).could_be_better());
        assert!(key(1, "a", false).could_be_better());
    }

    #[test]
    fn a_free_place_may_be_better_by_depth_or_by_zone() {
        let better = |key: OrderKey| [0, 1, 2, 3].map(|depth| key.is_worse_than_depth(depth));
        assert_eq!(better(key(1, "a", false)), [true, false, false, false]);
        assert_eq!(better(key(1, "b", false)), [true, true, true, false]);
        assert_eq!(better(key(0, "a", true)), [true, true, true, true]);
    }

    #[test]
    fn the_pinned_one_is_before_all_others() {
        let rank = |not_pinned, key| Rank {
            not_pinned,
            key,
            tie: 1,
        };
        assert!(rank(false, key(5, "b", true)) < rank(true, key(0, "a", false)));
    }
}
