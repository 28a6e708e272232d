//! The one order by which upstreams are compared everywhere (`S8`, `B6`, `B7`, `B8`).

use crate::ids::Zone;
use crate::message::Answer;

/// How good an upstream is for one listener; smaller is better. Stale ones rank behind all others (`B8`); then
/// (depth, one more if in another zone; in another zone; random), as `S8` and `B6` ask.
///
/// One order for first choice, zones and improvement, because two of them contradict each other: a listener that prefers its
/// zone at the price of a level, and then improves back to less depth, moves for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    stale: bool,
    depth: u32,
    other_zone: bool,
    tie: u64,
}

impl Rank {
    /// The rank of who gave this answer, for a listener in `zone`. `tie` is random.
    pub(crate) fn of(answer: &Answer, zone: Option<&Zone>, tie: u64) -> Rank {
        let other_zone = zone.is_some() && answer.zone.as_ref() != zone;
        Rank {
            stale: answer.stale,
            depth: answer.depth().saturating_add(u32::from(other_zone)),
            other_zone,
            tie,
        }
    }

    /// Whether the upstream is stale.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether an upstream that ranks strictly better could exist, ties aside.
    pub(crate) fn could_be_better(&self) -> bool {
        (self.stale, self.depth) != (false, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LogPosition, NodeId};
    use crate::message::Role;
    use crate::path::Path;
    use alloc::vec::Vec;

    fn answer(depth: u32, zone: &str, stale: bool) -> Answer {
        let ids: Vec<NodeId> = (0..=u64::from(depth)).map(NodeId).collect();
        Answer {
            role: Role::Follower,
            attached: true,
            stale,
            path: Path::try_from(ids).unwrap(),
            zone: Some(Zone::from(zone)),
            capacity: 1,
            registered: 0,
            committed: LogPosition::default(),
            alternatives: Vec::new(),
        }
    }

    #[test]
    fn own_zone_is_worth_one_level_and_no_more() {
        let zone = Zone::from("a");
        let rank = |depth, zone_of, stale| Rank::of(&answer(depth, zone_of, stale), Some(&zone), 7);
        let order = [
            rank(0, "a", false),
            rank(1, "a", false),
            rank(0, "b", false),
            rank(2, "a", false),
            rank(1, "b", false),
            rank(0, "a", true),
        ];
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn without_a_zone_of_its_own_a_listener_looks_at_depth_only() {
        let rank = |depth, zone| Rank::of(&answer(depth, zone, false), None, 7);
        assert_eq!(rank(1, "a"), rank(1, "b"));
        assert!(rank(0, "b") < rank(1, "a"));
    }

    #[test]
    fn nothing_is_better_than_a_fresh_voter_of_the_own_zone() {
        let zone = Zone::from("a");
        let rank = |depth, zone_of, stale| Rank::of(&answer(depth, zone_of, stale), Some(&zone), 7);
        assert!(!rank(0, "a", false).could_be_better());
        assert!(rank(0, "a", true).could_be_better());
        assert!(rank(0, "b", false).could_be_better());
        assert!(rank(1, "a", false).could_be_better());
    }
}
