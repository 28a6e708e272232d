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

    /// Whether an unknown node at this depth or below could rank strictly better, ties aside.
    pub(crate) fn could_be_beaten_at(&self, depth: u32) -> bool {
        (false, depth, false) < (self.stale, self.depth, self.other_zone)
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
    fn a_node_is_asked_only_if_it_could_be_better() {
        let zone = Zone::from("a");
        let own = Rank::of(&answer(1, "a", false), Some(&zone), 7);
        assert!(own.could_be_beaten_at(0));
        assert!(!own.could_be_beaten_at(1));
        let other = Rank::of(&answer(1, "b", false), Some(&zone), 7);
        assert!(other.could_be_beaten_at(2));
        assert!(!other.could_be_beaten_at(3));
    }
}
