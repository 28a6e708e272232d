//! A listener that is attached and looks for another place: a better one (`B6`, `B7`), a fresher one (`B8`), the one it is
//! pinned to, or any other because it is to avoid its upstream or that one is draining (`B16`).
//!
//! ```text
//!   attached --- a reason, and its time has come ---> looking: one round of questions
//!      ^  ^                                             |                |
//!      |  +------ nothing found: look again later ------+                | somebody accepts:
//!      |                                                                 | only now the old upstream is left
//!      +-----------------------------------------------------------------+
//! ```
//!
//! The old upstream is kept until another has accepted, wherever that is safe. It is safe below what is less than this
//! listener in (stale, depth, id): along a path that triple only grows, so listeners that move at the same time cannot come
//! to stand below each other (`B1`). A better or a fresher place is only taken if it is safe. Who *must* go where it is not
//! (deeper down, because nothing else is left or an administrator says so) leaves first, and is detached for a round trip.

use super::TreeNode;
use crate::choice::{Aim, Seeker, Verdict};
use crate::config::{GRACE_LEVELS_MAX, IMPROVEMENT_WINDOW, IMPROVEMENTS_MAX};
use crate::ids::{Address, NodeId, Peer, Zone};
use crate::message::{Answer, LeaveReason, Role};
use crate::mutation::Mutation;
use crate::order::OrderKey;
use crate::output::{Event, Why};
use crate::search::Follow;
use crate::time::Instant;
use crate::timers::Timer;
use alloc::vec::Vec;
use core::time::Duration;

/// The bound of the random wait before a listener that hangs right below a stale root looks for another (`B8`): its siblings
/// hear of it at the same moment.
const STALE_JITTER: Duration = Duration::from_secs(1);

/// The bound of the random wait after the first look that found no way out of a place that is to be left. Doubles up to the
/// improvement interval.
const VAIN_LOOK_WAIT: Duration = Duration::from_secs(1);

impl TreeNode {
    /// Why this listener should be elsewhere, if it is attached and should.
    fn wish(&self, now: Instant) -> Option<Why> {
        let session = self.session.as_ref().filter(|session| session.attached)?;
        let upstream = session.upstream.peer.id;
        let steering = &self.saved.steering;
        if steering.avoids(upstream) {
            return Some(Why::Avoids);
        }
        if session.draining {
            return Some(Why::Draining);
        }
        if steering.is_pinned(upstream) {
            return None;
        }
        if self.is_stale(now) {
            return Some(Why::Stale);
        }
        if steering.pin.is_some() {
            return Some(Why::Pinned);
        }
        let (_, key) = self.current(now)?;
        (key.could_be_better() || self.config.lacks(Mutation::B7)).then_some(Why::Better)
    }

    /// Looks whether there is a reason to be elsewhere, after anything that may have changed it. Cheap.
    pub(super) fn review(&mut self, now: Instant) {
        let wish = self.wish(now);
        if wish == self.wish {
            return;
        }
        self.wish = wish;
        self.vain_looks = 0;
        if self.is_attached() && self.aim() != Aim::AsListed {
            self.stop_searching();
        }
        match wish {
            Some(why) => {
                let wait = self.first_wait(why);
                self.timers.set(Timer::Look, now + wait);
            }
            None => self.timers.stop(Timer::Look),
        }
    }

    /// How long to wait before the first look.
    fn first_wait(&mut self, why: Why) -> Duration {
        match why {
            Why::Better | Why::Pinned => self.improvement_wait(),
            // B8: from the top down, so that those below come along, as under a detached head (B3).
            Why::Stale => {
                let levels = self.path.depth().saturating_sub(1).min(GRACE_LEVELS_MAX);
                2 * self.config.timeout * levels + self.rng.up_to(STALE_JITTER)
            }
            _ => Duration::ZERO,
        }
    }

    /// The improvement interval, jittered by half (`B7`).
    fn improvement_wait(&mut self) -> Duration {
        self.config.improve / 2 + self.rng.up_to(self.config.improve)
    }

    /// The time to look for another place has come.
    pub(super) fn look(&mut self, now: Instant) {
        let Some(why) = self.wish.filter(|_| self.search.is_none()) else {
            return;
        };
        if why == Why::Better && !self.may_improve(now) {
            let wait = self.improvement_wait();
            self.timers.set(Timer::Look, now + wait);
            return;
        }
        self.begin_search(now, why);
    }

    /// A look found nowhere to go: stay, and look again later.
    pub(super) fn stay(&mut self, now: Instant) {
        let search = self.search.take().expect("only a look can end in staying");
        self.stop_searching();
        let choice = search.given_up();
        let why = choice.why;
        let is_first = self.vain_looks == 0;
        self.vain_looks = self.vain_looks.saturating_add(1);
        let is_listed = choice
            .considered
            .iter()
            .any(|considered| considered.verdict == Verdict::Current);
        self.last_look = Some(choice);
        let upstream = self
            .session
            .as_ref()
            .map(|session| session.upstream.peer.id);
        let must_go = matches!(why, Why::Avoids | Why::Draining | Why::Stale | Why::Pinned)
            || why == Why::NewList && !is_listed;
        if must_go
            && is_first
            && let Some(upstream) = upstream
        {
            self.event(Event::Stays { upstream, why });
        }
        let wait = match self.wish {
            None => return,
            Some(Why::Better | Why::Pinned) => self.improvement_wait(),
            Some(_) => {
                let bound = VAIN_LOOK_WAIT * (1 << (self.vain_looks - 1).min(16));
                self.rng.up_to(bound.min(self.config.improve))
            }
        };
        self.timers.set(Timer::Look, now + wait);
    }

    /// Notes a move, and why it was made in the end.
    pub(super) fn count_move(&mut self, now: Instant, why: Why, to: NodeId) -> Why {
        let why = match why {
            Why::Stale | Why::Pinned if self.saved.steering.is_pinned(to) => Why::Pinned,
            Why::Pinned => Why::Better,
            why => why,
        };
        if why == Why::Better {
            self.improved.push(now);
        }
        why
    }

    /// Whether another move to a better place is allowed by now (`B7`).
    fn may_improve(&mut self, now: Instant) -> bool {
        self.improved
            .retain(|&moved| now.since(moved) < IMPROVEMENT_WINDOW);
        self.improved.len() < IMPROVEMENTS_MAX
    }

    /// Leaves the upstream because the next one may only be joined without it (`B1`).
    pub(super) fn leave_first(&mut self, now: Instant) {
        if !self.is_attached() {
            return;
        }
        let why = self.search.as_ref().map(|search| search.choice().why);
        self.leave(match why {
            Some(Why::NewList) => LeaveReason::NewList,
            _ => LeaveReason::Moved,
        });
        self.event(Event::Detached {
            head: self.config.id,
        });
        self.stand_alone(now);
    }

    // What the search is for, and whom it asks.

    /// What the search wants.
    pub(super) fn aim(&self) -> Aim {
        let Some(search) = self.search.as_ref().filter(|_| self.is_attached()) else {
            return Aim::Any;
        };
        match search.choice().why {
            Why::NewList => Aim::AsListed,
            Why::Stale => Aim::Fresher,
            Why::Better | Why::Pinned => Aim::Better,
            _ => Aim::Elsewhere,
        }
    }

    /// This listener as the judge of what it is offered.
    pub(super) fn seeker(&self, now: Instant) -> Seeker<'_> {
        Seeker {
            me: self.config.id,
            aim: self.aim(),
            current: self.current(now),
            depth: self.path.depth(),
            stale: self.is_stale(now),
            age: self.age(now),
            steering: &self.saved.steering,
            kicker: self.kicker_at(now),
            fresher_by: self.config.fresher_by,
            is_restless: self.config.lacks(Mutation::B7),
            is_blind: self.config.lacks(Mutation::B1),
        }
    }

    /// Who is not to be gone back to yet, because an administrator had it kick us (`S12`).
    pub(super) fn kicker_at(&self, now: Instant) -> Option<NodeId> {
        let (kicker, until) = self.kicker?;
        (now < until).then_some(kicker)
    }

    /// The upstream and its place in the order.
    fn current(&self, now: Instant) -> Option<(NodeId, OrderKey)> {
        let session = self.session.as_ref()?;
        let key = self.key(
            self.is_stale(now),
            session.path.depth(),
            session.zone.as_ref(),
        );
        Some((session.upstream.peer.id, key))
    }

    /// The place of an upstream in this listener's order.
    pub(super) fn key(&self, stale: bool, depth: u32, zone: Option<&Zone>) -> OrderKey {
        let stale = stale && !self.config.lacks(Mutation::B8);
        OrderKey::of(stale, depth, zone, self.config.zone.as_ref())
    }

    /// The servers to ask in a round: those of the list, and peers that were learned (`B5`) or are above us (`B7`).
    pub(super) fn servers(&mut self, now: Instant) -> (Vec<Address>, Vec<Peer>) {
        let listed = self.saved.upstreams.clone();
        let learned = self.saved.learned.clone();
        let upstream = self
            .session
            .as_ref()
            .map(|session| session.upstream.peer.clone());
        match self.aim() {
            Aim::Any | Aim::Fresher => (listed, learned),
            Aim::AsListed => (listed, Vec::new()),
            // The upstream itself knows who else could take us.
            Aim::Elsewhere => (listed, upstream.into_iter().chain(learned).collect()),
            Aim::Better => (Vec::new(), self.who_knows_better(now)),
        }
    }

    /// Whom to ask for a better place (`B7`): a random voter that is not ours, for its own tree; and if the root of ours says
    /// that there is one, those above us, the root first, since it knows of the nearest.
    fn who_knows_better(&mut self, now: Instant) -> Vec<Peer> {
        let Some(session) = &self.session else {
            return Vec::new();
        };
        let root = session.path.head();
        let strangers: Vec<&Peer> = self
            .voters
            .iter()
            .filter(|voter| voter.id != root && Some(voter.id) != session.leader)
            .collect();
        let mut peers = Vec::new();
        if !strangers.is_empty() {
            let voter = self.rng.below(strangers.len() as u64) as usize;
            peers.push(strangers[voter].clone());
        }
        let tree_has_better = session
            .free_depth
            .is_some_and(|depth| self.would_be_better(now, depth));
        if tree_has_better {
            let mut above = session.path.ids();
            let is_abroad = self.current(now).is_some_and(|(_, key)| key.other_zone);
            if !is_abroad {
                // What is below our upstream is only better if it is in our zone.
                above = &above[..above.len() - 1];
            }
            let known = |id: &NodeId| {
                let mut known = session.ancestors.iter().chain(&self.voters);
                known.find(|peer| peer.id == *id).cloned()
            };
            peers.extend(above.iter().filter_map(known));
        }
        peers
    }

    /// Whether a free place at this depth could be better than where we are (`B7`).
    fn would_be_better(&self, now: Instant, depth: u32) -> bool {
        self.config.lacks(Mutation::B7)
            || self
                .current(now)
                .is_some_and(|(_, key)| key.is_worse_than_depth(depth))
    }

    /// Which alternatives in an answer are worth asking.
    pub(super) fn follow(&self, now: Instant, answer: &Answer) -> Follow {
        match self.aim() {
            Aim::Any | Aim::Elsewhere | Aim::AsListed => Follow::All,
            Aim::Fresher if answer.stale && answer.role != Role::Leader => Follow::Voters,
            Aim::Fresher => Follow::All,
            Aim::Better => {
                let nearest = answer.depth().saturating_add(answer.free.levels);
                let is_worth = answer.attached
                    && !answer.stale
                    && answer.free.slots > 0
                    && self.would_be_better(now, nearest);
                if is_worth {
                    Follow::Free
                } else {
                    Follow::Nobody
                }
            }
        }
    }
}
