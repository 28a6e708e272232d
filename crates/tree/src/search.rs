//! The search for an upstream: one round of questions after another, until somebody accepts us (`S7`, `S8`, `B2`, `B4`, `B19`).
//! A listener that is attached searches too, for one round, if it may or should go elsewhere (`B7`, `B8`, `B16`).
//!
//! ```text
//!            +--> ask, four at a time <--+  answers name others to ask
//!            |            |              |
//!            |            v--------------+
//!            |      an eligible answer, settled
//!            |            |
//!   nobody   |            v            refused, nobody else eligible
//!   is left  |        register  -----------------> ask on
//!            |            |
//!            |            v
//!          rest       accepted: the search ends
//! ```
//!
//! This file only decides; [`TreeNode`](crate::TreeNode) asks, registers and keeps the timers.

use crate::choice::{Choice, Considered, Verdict};
use crate::config::{ASKED_AT_ONCE, ROUND_QUESTIONS_MAX, UPSTREAMS_MAX};
use crate::ids::{Address, LinkId, NodeId, Peer};
use crate::message::{ALTERNATIVES_MAX, Alternative, Answer, Place};
use crate::order::{OrderKey, Rank};
use crate::output::Why;
use crate::questions::Questions;
use crate::time::Instant;
use alloc::vec::Vec;
use core::time::Duration;

/// How many servers may wait to be asked: a full list, and what the answers name.
const QUEUE_MAX: usize = UPSTREAMS_MAX + ROUND_QUESTIONS_MAX;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this server.
    Ask(Address),
    /// Register with this server.
    Register {
        /// Where it is.
        to: Address,
        /// Whether the present upstream may be kept until this one accepts (`B1`).
        keeping: bool,
    },
    /// The best place is the one we have.
    Stay,
    /// Wait for what was asked.
    Wait,
    /// Nobody is left: rest, then begin another round.
    Rest,
}

/// Where the name of a server came from, in the order in which they are tried (`B2`, `B5`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The one we are pinned to (`B16`).
    Pinned,
    /// Named as having a free slot below.
    Free,
    /// Named as a voter.
    Voter,
    /// On the configured list.
    Configured,
    /// Learned earlier.
    Learned,
    /// Named as full, to descend through.
    Full,
    /// Named as the leader: it takes nobody, but knows the voters.
    Leader,
}

/// A server to ask.
#[derive(Clone, Debug)]
struct Target {
    address: Address,
    id: Option<NodeId>,
    source: Source,
}

/// A server that would take us.
#[derive(Debug)]
struct Offer {
    address: Address,
    rank: Rank,
    keeping: bool,
    /// It is the upstream we have.
    is_current: bool,
}

/// What an answer is worth, as its judge sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worth {
    pub(crate) verdict: Verdict,
    pub(crate) rank: Rank,
    /// Whether the present upstream may be kept until this one accepts (`B1`).
    pub(crate) keeping: bool,
    /// Whether the upstream we have is as good a place as any other, so that we may stay (`S14`).
    pub(crate) may_stay: bool,
    pub(crate) follow: Follow,
}

/// Which of the alternatives in an answer are worth asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// All.
    All,
    /// Those with a free place (`B7`).
    Free,
    /// The voters: what is below a stale node is as stale (`B8`).
    Voters,
    /// None.
    Nobody,
}

/// A registration on its way.
#[derive(Debug)]
pub(crate) struct Registering {
    pub(crate) link: LinkId,
    pub(crate) address: Address,
}

impl Offer {
    fn step(self) -> Step {
        match self.is_current {
            true => Step::Stay,
            false => Step::Register {
                to: self.address,
                keeping: self.keeping,
            },
        }
    }
}

/// What a search knows that outlives no search.
///
/// Invariants:
/// - **once-a-round**: no address is asked twice in a round, unless it said that it was busy.
/// - **late-asks-nothing**: an answer that came too late adds no server to ask (`B19`).
#[derive(Debug)]
pub(crate) struct Search {
    me: Peer,
    choice: Choice,
    queue: Vec<Target>,
    questions: Questions,
    offers: Vec<Offer>,
    registering: Option<Registering>,
    /// The settling time is over: take the best offer there is.
    settled: bool,
    /// The round is over, the next has not begun.
    resting: bool,
    /// The configured list is short: all of it is asked (`S7`).
    asks_whole_list: bool,
    /// The leader says that it is the only voter, so nobody feeds.
    leader_alone: bool,
}

/// The servers that a round can start from.
pub(crate) struct Known<'a> {
    /// The one we are pinned to (`B16`).
    pub(crate) pinned: Option<&'a Peer>,
    /// Named by a kick; none otherwise.
    pub(crate) named: &'a [Alternative],
    /// The configured list.
    pub(crate) upstreams: &'a [Address],
    /// The learned peers.
    pub(crate) learned: &'a [Peer],
    /// Not to be tried in this round: it has just become leader.
    pub(crate) except: Option<&'a Peer>,
}

impl Search {
    /// A search that has not begun its first round.
    pub(crate) fn new(now: Instant, me: Peer, why: Why) -> Search {
        Search {
            me,
            choice: Choice {
                why,
                began: now,
                considered: Vec::new(),
            },
            queue: Vec::new(),
            questions: Questions::default(),
            offers: Vec::new(),
            registering: None,
            settled: false,
            resting: true,
            asks_whole_list: false,
            leader_alone: false,
        }
    }

    /// Begins a round. The order of [`Source`] decides who is asked first; within a source the order given.
    pub(crate) fn begin_round(&mut self, now: Instant, known: Known<'_>) {
        assert!(
            self.registering.is_none(),
            "a round began while a registration was on its way"
        );
        self.choice.began = now;
        self.choice.considered.clear();
        self.queue.clear();
        self.questions = Questions::default();
        self.offers.clear();
        self.settled = false;
        self.resting = false;
        if let Some(peer) = known.except {
            self.consider(&peer.address, Verdict::Leader).id = Some(peer.id);
        }
        self.leader_alone = false;
        self.asks_whole_list = known.upstreams.len() <= ASKED_AT_ONCE;
        if let Some(peer) = known.pinned {
            self.enqueue(peer.address.clone(), Some(peer.id), Source::Pinned);
        }
        self.enqueue_alternatives(known.named, Follow::All);
        for address in known.upstreams {
            self.enqueue(address.clone(), None, Source::Configured);
        }
        for peer in known.learned {
            self.enqueue(peer.address.clone(), Some(peer.id), Source::Learned);
        }
    }

    /// What to do next. An [`Step::Ask`] or [`Step::Register`] counts as done from here on.
    pub(crate) fn next_step(&mut self) -> Step {
        if self.resting || self.registering.is_some() {
            return Step::Wait;
        }
        let pinned = self.offers.iter().any(|offer| !offer.rank.not_pinned);
        if (self.settled || pinned)
            && let Some(offer) = self.take_best_offer()
        {
            return offer.step();
        }
        if self.questions.may_ask() {
            if let Some(to) = self.questions.busy_due() {
                return Step::Ask(to.clone());
            }
            if let Some(target) = self.take_target() {
                self.consider(&target.address, Verdict::Asked).id = target.id;
                return Step::Ask(target.address);
            }
        }
        if self.questions.is_any_open() {
            return Step::Wait;
        }
        match self.take_best_offer() {
            Some(offer) => offer.step(),
            None if self.questions.is_any_put_off() => Step::Wait,
            None => {
                self.resting = true;
                Step::Rest
            }
        }
    }

    /// The first server named by whoever kicked us, a free place or a voter, or else the pinned one: it is registered with
    /// unasked (`B2`). Not one that is `unwanted`.
    pub(crate) fn take_named(&mut self, unwanted: impl Fn(NodeId) -> bool) -> Option<Address> {
        let first = self.queue.iter().position(|target| {
            target.source <= Source::Voter && !target.id.is_some_and(&unwanted)
        })?;
        let target = self.queue.remove(first);
        self.consider(&target.address, Verdict::Registering).id = target.id;
        Some(target.address)
    }

    /// Whether the only server known in this round is the one about to be asked (`B19`).
    pub(crate) fn is_lone(&self) -> bool {
        self.queue.is_empty() && self.choice.considered.len() == 1
    }

    /// A question went out.
    pub(crate) fn asked(&mut self, now: Instant, to: Address, deadline: Instant) {
        self.questions.ask(now, to, deadline);
    }

    /// A server is too busy to answer: it is neither late nor has it refused, and is asked again at `again` (`B19`).
    pub(crate) fn answered_busy(&mut self, from: &Address, again: Instant) {
        if self.questions.put_off(from, again) {
            self.consider(from, Verdict::Busy);
        }
    }

    /// A registration went out.
    pub(crate) fn register(&mut self, link: LinkId, address: Address) {
        assert!(self.registering.is_none(), "two registrations on their way");
        self.consider(&address, Verdict::Registering);
        self.registering = Some(Registering { link, address });
    }

    /// Takes in an answer. Returns how long to settle from now on if this is the first good offer, in round trips as
    /// measured: `Some(rtt)`, which is zero for a late answer.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        from: &Address,
        answer: &Answer,
        worth: Worth,
    ) -> Option<Duration> {
        let Worth { verdict, rank, .. } = worth;
        let asked = self.questions.close(from);
        let considered = self.consider(from, verdict);
        considered.id = Some(answer.id());
        considered.depth = answer.attached.then(|| answer.depth());
        considered.key = answer.attached.then_some(rank.key);

        if asked.is_some() {
            self.enqueue_alternatives(&answer.alternatives, worth.follow);
        }
        let names_voters = answer
            .alternatives
            .iter()
            .any(|alternative| alternative.place == Place::Voter);
        self.leader_alone |= verdict == Verdict::Leader && !names_voters;
        let is_current = verdict == Verdict::Current && worth.may_stay;
        if verdict != Verdict::Eligible && !is_current {
            return None;
        }
        let first = !self.offers.iter().any(|offer| !offer.rank.key.stale);
        self.offers.retain(|offer| offer.address != *from);
        self.offers.push(Offer {
            address: from.clone(),
            rank,
            keeping: worth.keeping,
            is_current,
        });
        // B19: a late answer that found us resting is used at once.
        self.resting = false;
        (first && !rank.key.stale).then(|| asked.map_or(Duration::ZERO, |asked| now.since(asked)))
    }

    /// A question failed.
    pub(crate) fn ask_failed(&mut self, to: &Address) {
        if self.questions.close(to).is_some() {
            self.consider(to, Verdict::Failed);
        }
    }

    /// Gives up the questions whose time is over; their answers may still be used. And recalls the servers that were busy.
    pub(crate) fn give_up_late(&mut self, now: Instant) {
        while let Some(late) = self.questions.take_late(now) {
            self.consider(&late, Verdict::Late);
        }
        self.questions.recall_busy(now);
    }

    /// When the oldest question is given up, or a busy server is asked again.
    pub(crate) fn next_late(&self) -> Option<Instant> {
        self.questions.next()
    }

    /// The settling time is over.
    pub(crate) fn settle(&mut self) {
        self.settled = true;
    }

    /// The registration on its way came to nothing. The next choice is taken at once (`S9`): there is no new settling while
    /// offers are left.
    pub(crate) fn registration_failed(&mut self, verdict: Verdict, alternatives: &[Alternative]) {
        let registering = self
            .registering
            .take()
            .expect("a registration was on its way");
        self.consider(&registering.address, verdict);
        self.enqueue_alternatives(alternatives, Follow::All);
        self.settled = !self.offers.is_empty();
    }

    /// The upstream was lost while a registration elsewhere was on its way: that is why we look now, and these are named.
    pub(crate) fn lost_meanwhile(&mut self, why: Why, alternatives: &[Alternative]) {
        self.choice.why = why;
        self.enqueue_alternatives(alternatives, Follow::All);
    }

    /// The registration on its way was accepted: the search is over.
    pub(crate) fn accepted(mut self, by: NodeId, depth: u32, key: OrderKey) -> Choice {
        let registering = self
            .registering
            .take()
            .expect("a registration was on its way");
        let considered = self.consider(&registering.address, Verdict::Accepted);
        considered.id = Some(by);
        considered.depth = Some(depth);
        considered.key = Some(key);
        self.choice.bounded()
    }

    /// The search ends where it began.
    pub(crate) fn given_up(self) -> Choice {
        self.choice.bounded()
    }

    /// The registration on its way, if any.
    pub(crate) fn registering(&self) -> Option<&Registering> {
        self.registering.as_ref()
    }

    /// Whether the leader said in this round that it is the only voter.
    pub(crate) fn is_leader_alone(&self) -> bool {
        self.leader_alone
    }

    /// How the search has gone so far.
    pub(crate) fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Adds the alternatives of an answer, refusal or kick (`B2`).
    fn enqueue_alternatives(&mut self, alternatives: &[Alternative], follow: Follow) {
        for Alternative { peer, place } in alternatives.iter().take(ALTERNATIVES_MAX) {
            let wanted = match follow {
                Follow::All => true,
                Follow::Free => *place == Place::Free,
                Follow::Voters => *place == Place::Voter,
                Follow::Nobody => false,
            };
            if !wanted {
                continue;
            }
            let source = match place {
                Place::Free => Source::Free,
                Place::Voter => Source::Voter,
                Place::Full => Source::Full,
                Place::Leader => Source::Leader,
            };
            self.enqueue(peer.address.clone(), Some(peer.id), source);
        }
    }

    /// Adds a server to ask, unless it is this node, or known in this round already.
    fn enqueue(&mut self, address: Address, id: Option<NodeId>, source: Source) {
        let same = |other: &Address, other_id: Option<NodeId>| {
            *other == address || (id.is_some() && other_id == id)
        };
        let known = self
            .choice
            .considered
            .iter()
            .any(|known| same(&known.address, known.id))
            || self
                .queue
                .iter()
                .any(|known| same(&known.address, known.id))
            || same(&self.me.address, Some(self.me.id));
        if known || self.queue.len() >= QUEUE_MAX {
            return;
        }
        let place = self.queue.partition_point(|other| other.source <= source);
        self.queue.insert(
            place,
            Target {
                address,
                id,
                source,
            },
        );
    }

    /// The next server that is worth a question.
    fn take_target(&mut self) -> Option<Target> {
        let next = self
            .queue
            .iter()
            .position(|target| self.is_worth_asking(target))?;
        Some(self.queue.remove(next))
    }

    /// Whether to ask a server now. The configured list is asked while something better is possible, all of it if it is
    /// short (`S7`); everybody else only if the list has no fresh place to offer (`B4`, `B5`). So where an operator points a
    /// listener, there it goes.
    fn is_worth_asking(&self, target: &Target) -> bool {
        let best = self.offers.iter().map(|offer| offer.rank).min();
        let nothing_fresh = best.is_none_or(|best| best.key.stale);
        let few_enough = self.choice.considered.len() < ROUND_QUESTIONS_MAX;
        match target.source {
            Source::Pinned => true,
            Source::Configured => {
                self.asks_whole_list || best.is_none_or(|best| best.key.could_be_better())
            }
            Source::Learned if self.prefers_list() => {
                nothing_fresh && few_enough && !self.questions.is_any_open()
            }
            // B6: there may be a free place in our own zone one level further down.
            Source::Free => {
                let abroad = best.is_some_and(|best| best.key.other_zone);
                (nothing_fresh || abroad) && few_enough
            }
            _ => nothing_fresh && few_enough,
        }
    }

    /// Whether the learned peers wait until the whole list has answered or failed. Not after a loss: being fed again soon is
    /// worth more then.
    fn prefers_list(&self) -> bool {
        matches!(self.choice.why, Why::Start | Why::NewList)
    }

    fn take_best_offer(&mut self) -> Option<Offer> {
        let best = (0..self.offers.len()).min_by_key(|&offer| self.offers[offer].rank)?;
        Some(self.offers.swap_remove(best))
    }

    /// Notes what became of a server.
    fn consider(&mut self, address: &Address, verdict: Verdict) -> &mut Considered {
        let considered = &mut self.choice.considered;
        let index = considered
            .iter()
            .position(|known| known.address == *address)
            .unwrap_or_else(|| {
                considered.push(Considered {
                    address: address.clone(),
                    id: None,
                    depth: None,
                    key: None,
                    verdict,
                });
                considered.len() - 1
            });
        considered[index].verdict = verdict;
        &mut considered[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LogPosition;
    use crate::message::{FreePlaces, Role};
    use crate::path::Path;

    const NOW: Instant = Instant(1_000);
    const LATER: Instant = Instant(2_000_000);

    fn peer(number: u64) -> Peer {
        let names = ["a", "b", "c", "d", "e"];
        Peer {
            id: NodeId(number),
            address: Address::from(names[number as usize]),
        }
    }

    /// A search of node 0 whose list is `listed`, after it has asked them.
    fn asking(listed: &[u64]) -> Search {
        let upstreams: Vec<Address> = listed.iter().map(|&number| peer(number).address).collect();
        let mut search = Search::new(NOW, peer(0), Why::Closed);
        search.begin_round(
            NOW,
            Known {
                pinned: None,
                named: &[],
                upstreams: &upstreams,
                learned: &[],
                except: None,
            },
        );
        while let Step::Ask(to) = search.next_step() {
            search.asked(NOW, to, LATER);
        }
        search
    }

    /// The root `number` answers, with a free slot if `free`, and names others.
    fn answers(search: &mut Search, number: u64, free: bool, named: &[u64]) -> Option<Duration> {
        let voter = |&number: &u64| Alternative {
            peer: peer(number),
            place: Place::Voter,
        };
        let answer = Answer {
            role: Role::Follower,
            attached: true,
            stale: false,
            age: Duration::ZERO,
            draining: false,
            uncompared: false,
            path: Path::of(NodeId(number)),
            zone: None,
            capacity: u32::from(free),
            registered: 0,
            free: FreePlaces::default(),
            committed: LogPosition::default(),
            alternatives: named.iter().map(voter).collect(),
        };
        let rank = Rank {
            not_pinned: true,
            key: OrderKey::of(false, 0, None, None),
            tie: number,
        };
        let worth = Worth {
            verdict: if free {
                Verdict::Eligible
            } else {
                Verdict::Full
            },
            rank,
            keeping: true,
            may_stay: false,
            follow: Follow::All,
        };
        search.answered(LATER, &peer(number).address, &answer, worth)
    }

    #[test]
    fn late_asks_nothing() {
        let mut search = asking(&[1]);
        answers(&mut search, 1, false, &[2]);
        assert_eq!(search.next_step(), Step::Ask(peer(2).address));

        let mut search = asking(&[1]);
        search.give_up_late(LATER);
        answers(&mut search, 1, false, &[2]);
        assert_eq!(search.next_step(), Step::Rest);
    }

    #[test]
    fn once_a_round() {
        let mut search = asking(&[1, 2]);
        answers(&mut search, 1, false, &[0, 1, 2, 3]);
        assert_eq!(search.next_step(), Step::Ask(peer(3).address));
        search.asked(LATER, peer(3).address, LATER);
        answers(&mut search, 2, false, &[3]);
        assert_eq!(search.next_step(), Step::Wait);
    }

    #[test]
    fn a_refused_listener_takes_the_next_offer_at_once_and_settles_anew_without_one() {
        let mut search = asking(&[1, 2, 3, 4]);
        assert!(answers(&mut search, 1, true, &[]).is_some());
        assert!(
            answers(&mut search, 2, true, &[]).is_none(),
            "the settling time begins only once"
        );
        assert_eq!(search.next_step(), Step::Wait);
        search.settle();
        for number in [1, 2] {
            assert_eq!(search.next_step(), registers(number));
            search.register(LinkId::Up(number), peer(number).address);
            search.registration_failed(Verdict::Refused(crate::message::RefuseReason::Full), &[]);
        }
        assert_eq!(search.next_step(), Step::Wait);
        assert!(answers(&mut search, 3, true, &[]).is_some());
        assert_eq!(search.next_step(), Step::Wait);
        search.ask_failed(&peer(4).address);
        assert_eq!(search.next_step(), registers(3));
    }

    fn registers(number: u64) -> Step {
        Step::Register {
            to: peer(number).address,
            keeping: true,
        }
    }
}
