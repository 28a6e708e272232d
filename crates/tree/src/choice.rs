//! How a listener came to its upstream: what each server it asks is worth to it (`S8`, `B1`, `B7`, `B8`, `B16`), and what became
//! of it, kept for people to see (`B15`).

use crate::config::CONSIDERED_MAX;
use crate::ids::{Address, NodeId};
use crate::message::{Accept, Answer, RefuseReason, Role};
use crate::order::OrderKey;
use crate::output::Why;
use crate::path::Path;
use crate::steering::Steering;
use crate::time::Instant;
use alloc::vec::Vec;
use core::time::Duration;

/// How a listener came to its upstream (`B15`): whom it asked, and why each was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Why it looked for an upstream.
    pub why: Why,
    /// When the last round of questions began.
    pub began: Instant,
    /// All that were asked or tried in that round, in that order; once the choice is made at most
    /// [`CONSIDERED_MAX`](crate::CONSIDERED_MAX) of them, the best.
    pub considered: Vec<Considered>,
}

impl Choice {
    /// Cut to [`CONSIDERED_MAX`] servers: those it could have gone to, and the best of the others.
    pub(crate) fn bounded(mut self) -> Choice {
        if self.considered.len() > CONSIDERED_MAX {
            self.considered.sort_by_key(|considered| {
                let chosen = considered.verdict == Verdict::Accepted;
                (!chosen, considered.key.is_none(), considered.key)
            });
            self.considered.truncate(CONSIDERED_MAX);
        }
        self.considered.shrink_to_fit();
        self
    }
}

/// One server that was asked or tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Its address.
    pub address: Address,
    /// Who it is, once known.
    pub id: Option<NodeId>,
    /// Its depth, if it answered and was attached.
    pub depth: Option<u32>,
    /// Its place in the order, if it answered and was attached; smaller is better.
    pub key: Option<OrderKey>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a server that was asked or tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Asked; no answer yet.
    Asked,
    /// It could not be reached, or the connection failed.
    Failed,
    /// It did not answer in time.
    Late,
    /// It is too busy to answer (`B19`).
    Busy,
    /// It leads.
    Leader,
    /// It is full.
    Full,
    /// It is detached.
    Detached,
    /// It is this node, or below it.
    Loop,
    /// Its path is as long as a path may be.
    TooDeep,
    /// It is draining (`B16`).
    Draining,
    /// Its own log has not been compared since it started (`B11`).
    Uncompared,
    /// It is to be avoided (`B16`).
    Avoided,
    /// It has just kicked the listener off, because an administrator asked for it (`S12`).
    Kicker,
    /// It is the upstream that the listener has.
    Current,
    /// It is not so much fresher that a stale upstream would be left for it (`B8`), or stale itself.
    NotFresher,
    /// It is not strictly better than the upstream that the listener has (`B7`).
    NotBetter,
    /// It is better, but not less than the listener in (depth, id): two that move at once could adopt each other (`B1`).
    OutOfOrder,
    /// It would have taken the listener, but another ranked better.
    Eligible,
    /// It was asked to register the listener.
    Registering,
    /// It refused.
    Refused(RefuseReason),
    /// It accepted.
    Accepted,
}

/// What a search wants, which decides what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Not attached: any place is better than none.
    Any,
    /// Attached, and to go elsewhere: any place but the present one.
    Elsewhere,
    /// Attached, and to go wherever the list says, which may be where it is (`S14`).
    AsListed,
    /// Attached to a stale upstream: only a fresher place, or the pinned one (`B8`, `B16`).
    Fresher,
    /// Attached: only a strictly better place, or the pinned one (`B7`, `B16`).
    Better,
}

/// The listener that looks for a place, as far as it matters for what a place is worth to it.
pub(crate) struct Seeker<'a> {
    pub(crate) me: NodeId,
    pub(crate) aim: Aim,
    /// The upstream it has, and its place in the order.
    pub(crate) current: Option<(NodeId, OrderKey)>,
    pub(crate) depth: u32,
    pub(crate) stale: bool,
    pub(crate) age: Duration,
    pub(crate) steering: &'a Steering,
    /// Who has just kicked it off (`S12`).
    pub(crate) kicker: Option<NodeId>,
    /// How much fresher a place must be (`B8`).
    pub(crate) fresher_by: Duration,
    /// Takes a place that is only as good as its own: `B7` switched off.
    pub(crate) is_restless: bool,
    /// Does not see that it is itself in a path: `B1` switched off.
    pub(crate) is_blind: bool,
}

/// A place under an upstream, as the upstream describes it.
pub(crate) struct Offered<'a> {
    pub(crate) path: &'a Path,
    pub(crate) attached: bool,
    pub(crate) stale: bool,
    pub(crate) age: Duration,
    pub(crate) draining: bool,
    pub(crate) key: OrderKey,
}

impl<'a> Offered<'a> {
    pub(crate) fn by_answer(answer: &'a Answer, key: OrderKey) -> Offered<'a> {
        Offered {
            path: &answer.path,
            attached: answer.attached,
            stale: answer.stale,
            age: answer.age,
            draining: answer.draining,
            key,
        }
    }

    pub(crate) fn by_accept(accept: &'a Accept, key: OrderKey) -> Offered<'a> {
        let heartbeat = &accept.heartbeat;
        Offered {
            path: &heartbeat.path,
            attached: heartbeat.attached,
            stale: heartbeat.stale,
            age: heartbeat.age,
            draining: heartbeat.draining,
            key,
        }
    }
}

impl Seeker<'_> {
    /// What an answer is worth (`S8`, `B1`).
    pub(crate) fn judge(&self, answer: &Answer, key: OrderKey) -> Verdict {
        let place = Offered::by_answer(answer, key);
        if place.path.contains(self.me) && !self.is_blind {
            Verdict::Loop
        } else if answer.role == Role::Leader {
            Verdict::Leader
        } else if !place.attached {
            Verdict::Detached
        } else if place.path.is_full() {
            Verdict::TooDeep
        } else if place.draining {
            Verdict::Draining
        } else if answer.uncompared {
            Verdict::Uncompared
        } else if answer.registered >= answer.capacity {
            Verdict::Full
        } else {
            self.weigh(&place)
        }
    }

    /// What a place that could be had is worth.
    pub(crate) fn weigh(&self, place: &Offered<'_>) -> Verdict {
        let id = place.path.last();
        if self.steering.avoids(id) {
            return Verdict::Avoided;
        }
        if self.kicker == Some(id) {
            return Verdict::Kicker;
        }
        if let Some((current, _)) = self.current
            && current == id
        {
            return Verdict::Current;
        }
        match self.aim {
            Aim::Any | Aim::Elsewhere | Aim::AsListed => Verdict::Eligible,
            Aim::Fresher | Aim::Better if self.steering.is_pinned(id) => Verdict::Eligible,
            Aim::Fresher if place.stale || place.age.saturating_add(self.fresher_by) > self.age => {
                Verdict::NotFresher
            }
            Aim::Fresher if !self.may_move_below(place) => Verdict::OutOfOrder,
            Aim::Fresher => Verdict::Eligible,
            Aim::Better if !self.is_better(place) => Verdict::NotBetter,
            Aim::Better if !self.may_move_below(place) => Verdict::OutOfOrder,
            Aim::Better => Verdict::Eligible,
        }
    }

    /// Whether the place is strictly smaller in the order than the present one (`B7`); stale ones never are (`B8`).
    fn is_better(&self, place: &Offered<'_>) -> bool {
        self.current.is_some_and(|(_, current)| {
            !place.stale && (place.key < current || self.is_restless && place.key == current)
        })
    }

    /// Whether this listener may register there while it is attached elsewhere (`B1`): only below what is less than itself in
    /// (stale, depth, id), so that two that move at once cannot adopt each other. For along a path that triple only grows.
    pub(crate) fn may_move_below(&self, place: &Offered<'_>) -> bool {
        let theirs = (place.stale, place.path.depth(), place.path.last());
        theirs < (self.stale, self.depth, self.me)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(5);

    /// A listener at depth 2 below node 9 at depth 1.
    fn seeker(aim: Aim, steering: &Steering) -> Seeker<'_> {
        Seeker {
            me: ME,
            aim,
            current: Some((NodeId(9), OrderKey::of(false, 1, None, None))),
            depth: 2,
            stale: false,
            age: Duration::from_secs(3),
            steering,
            kicker: None,
            fresher_by: Duration::from_secs(2),
            is_restless: false,
            is_blind: false,
        }
    }

    /// What the place below node `id` at `depth` is worth, whose freshness is `age` old.
    fn weigh(seeker: &Seeker<'_>, id: u64, depth: u64, age: Duration, stale: bool) -> Verdict {
        let ids: Vec<NodeId> = (0..depth).map(|level| NodeId(100 + level)).collect();
        let path = Path::try_from([ids, Vec::from([NodeId(id)])].concat()).unwrap();
        seeker.weigh(&Offered {
            path: &path,
            attached: true,
            stale,
            age,
            draining: false,
            key: OrderKey::of(stale, path.depth(), None, None),
        })
    }

    #[test]
    fn better_is_strictly_smaller_and_never_stale() {
        let steering = Steering::default();
        let seeker = seeker(Aim::Better, &steering);
        let weigh = |id, depth, stale| weigh(&seeker, id, depth, Duration::ZERO, stale);
        assert_eq!(weigh(9, 1, false), Verdict::Current);
        assert_eq!(weigh(8, 0, false), Verdict::Eligible);
        assert_eq!(weigh(8, 0, true), Verdict::NotBetter);
        assert_eq!(weigh(8, 1, false), Verdict::NotBetter);
    }

    #[test]
    fn fresher_is_by_two_seconds_and_below_what_is_less() {
        let steering = Steering::default();
        let mut seeker = seeker(Aim::Fresher, &steering);
        let second = Duration::from_secs(1);
        let nearly = second + Duration::from_micros(1);
        assert_eq!(weigh(&seeker, 4, 2, second, false), Verdict::Eligible);
        assert_eq!(weigh(&seeker, 4, 2, nearly, false), Verdict::NotFresher);
        assert_eq!(
            weigh(&seeker, 4, 2, Duration::ZERO, true),
            Verdict::NotFresher
        );
        assert_eq!(weigh(&seeker, 6, 2, second, false), Verdict::OutOfOrder);
        seeker.stale = true;
        assert_eq!(weigh(&seeker, 6, 7, second, false), Verdict::Eligible);
        seeker.age = Duration::MAX;
        assert_eq!(
            weigh(&seeker, 6, 7, Duration::MAX, true),
            Verdict::NotFresher
        );
    }

    #[test]
    fn wishes_go_before_what_is_better() {
        let steering = Steering {
            pin: Some(crate::ids::Peer {
                id: NodeId(6),
                address: Address::from("a:1"),
            }),
            avoided: Vec::from([NodeId(7)]),
            draining: false,
        };
        let mut seeker = seeker(Aim::Better, &steering);
        seeker.kicker = Some(NodeId(8));
        let weigh = |id, depth| weigh(&seeker, id, depth, Duration::ZERO, false);
        assert_eq!(weigh(6, 9), Verdict::Eligible);
        assert_eq!(weigh(7, 0), Verdict::Avoided);
        assert_eq!(weigh(8, 0), Verdict::Kicker);
    }
}
