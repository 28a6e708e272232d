//! The listeners registered with one node, and which of them it names to others.

use crate::config::DOWNSTREAMS_NAMED;
use crate::ids::{LinkId, LogPosition, NodeId, Peer, Zone};
use crate::message::{Alternative, FreePlaces, Place};
use crate::order::OrderKey;
use crate::rng::Rng;
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

/// How many siblings a newly accepted listener learns of (`B5`).
const SIBLINGS_NAMED: usize = 4;

/// A listener that is registered here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// Who it is.
    pub peer: Peer,
    /// On which connection.
    pub link: LinkId,
    /// Its zone.
    pub zone: Option<Zone>,
    /// Since when it is registered.
    pub since: Instant,
    /// When it was last heard.
    pub heard: Instant,
    /// Up to where it held the committed log when it last said so.
    pub committed: LogPosition,
    /// The free places of its subtree when it last said so, less those given out since (`B4`).
    pub free: FreePlaces,
    /// Where its log ended when it registered, if that was beyond what this node knew committed and nobody had compared it since
    /// the listener started: it waits until this node has come as far (`B11`).
    pub waits_for: Option<u64>,
    /// It has waited for so long that its place counts as free (`B11`).
    pub overdue: bool,
}

impl Downstream {
    /// Whether it makes room for a listener that need not wait (`B11`): it feeds nobody, cannot be fed, and has had its time.
    pub(crate) fn yields(&self, committed: LogPosition) -> bool {
        self.overdue && self.waits_for.is_some_and(|end| end > committed.index)
    }
}

/// All listeners registered with one node.
///
/// Invariants:
/// - **capacity**: there are never more than N (`S9`).
/// - **one-session**: a listener is there once.
#[derive(Debug)]
pub(crate) struct Downstreams {
    capacity: u32,
    /// Whether **capacity** is asserted. It is, unless `S9` is switched off.
    is_counted: bool,
    by_link: BTreeMap<LinkId, Downstream>,
}

impl Downstreams {
    pub(crate) fn new(capacity: u32, is_counted: bool) -> Downstreams {
        Downstreams {
            capacity,
            is_counted,
            by_link: BTreeMap::new(),
        }
    }

    /// Registers a listener. The caller has seen that there is room, and that it is not there yet.
    pub(crate) fn insert(&mut self, downstream: Downstream) {
        assert!(
            !self.is_full() || !self.is_counted,
            "capacity: {} registered beyond N",
            downstream.peer
        );
        assert!(
            self.link_of(downstream.peer.id).is_none(),
            "one-session: {} registered twice",
            downstream.peer
        );
        let replaced = self.by_link.insert(downstream.link, downstream);
        assert!(
            replaced.is_none(),
            "one-session: two listeners on one connection"
        );
    }

    pub(crate) fn remove(&mut self, link: LinkId) -> Option<Downstream> {
        self.by_link.remove(&link)
    }

    pub(crate) fn get_mut(&mut self, link: LinkId) -> Option<&mut Downstream> {
        self.by_link.get_mut(&link)
    }

    pub(crate) fn link_of(&self, listener: NodeId) -> Option<LinkId> {
        self.iter()
            .find(|downstream| downstream.peer.id == listener)
            .map(|downstream| downstream.link)
    }

    /// Any one of them.
    pub(crate) fn first_link(&self) -> Option<LinkId> {
        self.by_link.keys().next().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Downstream> {
        self.by_link.values()
    }

    pub(crate) fn len(&self) -> u32 {
        self.by_link.len() as u32
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_link.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// How many slots are taken by others than this listener (`S9`).
    pub(crate) fn taken_by_others_than(&self, listener: NodeId) -> u32 {
        self.len() - u32::from(self.link_of(listener).is_some())
    }

    /// The same without those that would make room for it (`B11`), this node knowing that much committed.
    pub(crate) fn kept_from(&self, listener: NodeId, committed: LogPosition) -> u32 {
        let others = self
            .iter()
            .filter(|downstream| downstream.peer.id != listener);
        others
            .filter(|downstream| !downstream.yields(committed))
            .count() as u32
    }

    /// Who makes room first: the one that has waited longest.
    pub(crate) fn first_to_yield(&self, committed: LogPosition) -> Option<LinkId> {
        let yielding = self
            .iter()
            .filter(|downstream| downstream.yields(committed));
        let longest = yielding.min_by_key(|downstream| (downstream.since, downstream.link));
        longest.map(|downstream| downstream.link)
    }

    /// When the next that waits to be compared will have done so for long enough.
    pub(crate) fn next_overdue(&self, patience: Duration) -> Option<Instant> {
        self.iter()
            .filter(|downstream| downstream.waits_for.is_some() && !downstream.overdue)
            .map(|downstream| downstream.since + patience)
            .min()
    }

    /// Notes who has waited to be compared for long enough.
    pub(crate) fn note_overdue(&mut self, now: Instant, patience: Duration) {
        for downstream in self.by_link.values_mut() {
            downstream.overdue =
                downstream.waits_for.is_some() && downstream.since + patience <= now;
        }
    }

    /// When the longest silence reaches the timeout (`S11`).
    pub(crate) fn next_silent(&self, timeout: Duration) -> Option<Instant> {
        self.iter()
            .map(|downstream| downstream.heard + timeout)
            .min()
    }

    /// A listener whose silence has reached the timeout (`S11`).
    pub(crate) fn first_silent(&self, now: Instant, timeout: Duration) -> Option<LinkId> {
        self.iter()
            .find(|downstream| downstream.heard + timeout <= now)
            .map(|downstream| downstream.link)
    }

    /// The free places of the whole subtree, our own slots included (`B4`), also those of who would make room (`B11`).
    pub(crate) fn free_places(&self, committed: LogPosition) -> FreePlaces {
        let kept = self
            .iter()
            .filter(|downstream| !downstream.yields(committed));
        let own = self.capacity.saturating_sub(kept.count() as u32);
        let mut free = FreePlaces {
            slots: own,
            levels: if own > 0 { 0 } else { u32::MAX },
        };
        for below in self
            .iter()
            .map(|downstream| downstream.free)
            .filter(|below| below.slots > 0)
        {
            free.slots = free.slots.saturating_add(below.slots);
            free.levels = free.levels.min(below.levels.saturating_add(1));
        }
        if free.slots == 0 {
            FreePlaces::default()
        } else {
            free
        }
    }

    /// Up to two downstreams to try instead (`B2`): those whose subtree has a free slot, nearest first in the asker's order,
    /// in which another zone than its own is one level further (`B6`), random among equals; filled up with random full ones
    /// to descend through. Never the asker itself. When `giving_out`, the first one named counts as one slot fewer until it
    /// says more, so that a crowd is spread and not sent to one slot (`B4`).
    ///
    /// If the asker has a zone, the second is any one with a free slot: nobody knows of what zone the free slots below a
    /// downstream are, and if the two nearest were named each time, those of the asker's zone might never be found.
    pub(crate) fn name(
        &mut self,
        asker: NodeId,
        zone: Option<&Zone>,
        giving_out: bool,
        rng: &mut Rng,
    ) -> Vec<Alternative> {
        let others = self
            .by_link
            .values()
            .filter(|downstream| downstream.peer.id != asker);
        let key = |downstream: &Downstream| {
            let Downstream {
                zone: its, free, ..
            } = downstream;
            (
                free.slots == 0,
                OrderKey::of(false, free.levels, its.as_ref(), zone),
            )
        };
        let mut ranked: Vec<_> = others
            .map(|downstream| (key(downstream), rng.next(), downstream.link))
            .collect();
        ranked.sort_unstable();
        let free = ranked.partition_point(|((is_full, _), ..)| !is_full);
        if zone.is_some() && free > DOWNSTREAMS_NAMED {
            let last = DOWNSTREAMS_NAMED - 1;
            let any = last + rng.below((free - last) as u64) as usize;
            ranked.swap(last, any);
        }
        ranked.truncate(DOWNSTREAMS_NAMED);

        let mut named = Vec::with_capacity(ranked.len());
        for (position, (_, _, link)) in ranked.into_iter().enumerate() {
            let downstream = self
                .by_link
                .get_mut(&link)
                .expect("a ranked downstream is registered");
            let place = if downstream.free.slots > 0 {
                Place::Free
            } else {
                Place::Full
            };
            named.push(Alternative {
                peer: downstream.peer.clone(),
                place,
            });
            if position == 0 && giving_out {
                downstream.free.slots = downstream.free.slots.saturating_sub(1);
            }
        }
        named
    }

    /// Some of the other downstreams of a listener's upstream, latest first (`B5`).
    pub(crate) fn siblings(&self, listener: NodeId) -> Vec<Peer> {
        let mut others: Vec<&Downstream> = self
            .iter()
            .filter(|downstream| downstream.peer.id != listener)
            .collect();
        others.sort_unstable_by_key(|downstream| {
            core::cmp::Reverse((downstream.since, downstream.link))
        });
        others
            .into_iter()
            .take(SIBLINGS_NAMED)
            .map(|downstream| downstream.peer.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Address;
    use alloc::collections::BTreeSet;

    fn downstream(number: u64, slots: u32, levels: u32) -> Downstream {
        Downstream {
            peer: Peer {
                id: NodeId(number),
                address: Address::from("a:1"),
            },
            link: LinkId::Down(number),
            zone: None,
            since: Instant(number),
            heard: Instant(number),
            committed: LogPosition::default(),
            free: FreePlaces { slots, levels },
            waits_for: None,
            overdue: false,
        }
    }

    fn ids(named: &[Alternative]) -> Vec<u64> {
        named
            .iter()
            .map(|alternative| alternative.peer.id.0)
            .collect()
    }

    #[test]
    fn a_downstream_costs_less_than_a_kibibyte() {
        let text = "a-rather-long-host-name.of-a-rather-long-domain.example.org:12345".len();
        assert!(size_of::<Downstream>() + size_of::<LinkId>() + 2 * text < 1024);
    }

    #[test]
    fn free_places_are_counted_over_the_whole_subtree() {
        let mut table = Downstreams::new(3, true);
        assert_eq!(
            table.free_places(LogPosition::default()),
            FreePlaces {
                slots: 3,
                levels: 0
            }
        );
        table.insert(downstream(1, 0, 0));
        table.insert(downstream(2, 4, 2));
        assert_eq!(
            table.free_places(LogPosition::default()),
            FreePlaces {
                slots: 5,
                levels: 0
            }
        );
        table.insert(downstream(3, 1, 1));
        assert_eq!(
            table.free_places(LogPosition::default()),
            FreePlaces {
                slots: 5,
                levels: 2
            }
        );
    }

    #[test]
    fn the_nearest_free_slot_is_named_first_and_given_out_once() {
        let mut rng = Rng::new(1);
        let mut table = Downstreams::new(4, true);
        table.insert(downstream(1, 0, 0));
        table.insert(downstream(2, 9, 1));
        table.insert(downstream(3, 1, 0));
        assert_eq!(ids(&table.name(NodeId(9), None, false, &mut rng)), [3, 2]);
        assert_eq!(ids(&table.name(NodeId(9), None, true, &mut rng)), [3, 2]);
        let third = table.name(NodeId(9), None, true, &mut rng);
        assert_eq!(ids(&third)[0], 2);
        assert_eq!(third[1].place, Place::Full);
    }

    #[test]
    fn the_askers_zone_is_worth_one_level() {
        let mut rng = Rng::new(1);
        let mut table = Downstreams::new(4, true);
        let place = |number, zone: &str, levels| Downstream {
            zone: Some(Zone::from(zone)),
            ..downstream(number, 9, levels)
        };
        table.insert(place(1, "a", 1));
        table.insert(place(2, "b", 0));
        table.insert(place(3, "a", 2));
        let a = Zone::from("a");
        let mut second = BTreeSet::new();
        for _ in 0..50 {
            let named = ids(&table.name(NodeId(9), Some(&a), false, &mut rng));
            assert_eq!(named[0], 1);
            second.insert(named[1]);
        }
        assert_eq!(second, BTreeSet::from([2, 3]), "the second is any");
        assert_eq!(ids(&table.name(NodeId(9), None, false, &mut rng)), [2, 1]);
    }

    #[test]
    fn the_asker_is_not_named_to_itself() {
        let mut table = Downstreams::new(4, true);
        table.insert(downstream(1, 1, 0));
        assert!(
            table
                .name(NodeId(1), None, true, &mut Rng::new(1))
                .is_empty()
        );
        assert_eq!(table.taken_by_others_than(NodeId(1)), 0);
        assert_eq!(table.taken_by_others_than(NodeId(2)), 1);
    }

    #[test]
    #[should_panic(expected = "capacity: n2 registered beyond N")]
    fn beyond_n_is_a_bug() {
        let mut table = Downstreams::new(1, true);
        table.insert(downstream(1, 0, 0));
        table.insert(downstream(2, 0, 0));
    }
}
