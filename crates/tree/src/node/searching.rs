//! A node as a listener that looks for an upstream: it does what the [`Search`] decides, and keeps its timers (`S7`, `S8`,
//! `B2`, `B19`).

use super::TreeNode;
use crate::choice::{Aim, Offered, Verdict};
use crate::config::{ASKED_AT_ONCE, BUSY_RETRY_AFTER_MAX};
use crate::ids::{Address, LinkId, Peer};
use crate::message::{Alternative, Answer, Refuse, Saved};
use crate::order::Rank;
use crate::output::{Event, Output, Why};
use crate::search::{Known, Search, Step, Worth};
use crate::time::Instant;
use crate::timers::Timer;
use core::time::Duration;

/// The timers of a search.
const SEARCH_TIMERS: [Timer; 4] = [
    Timer::Probe,
    Timer::Settle,
    Timer::Registration,
    Timer::Retry,
];

impl TreeNode {
    /// A question was answered, in time or late. A late answer may be used, but asks nothing further (`B19`).
    pub fn handle_answer(&mut self, now: Instant, from: &Address, answer: Answer) {
        if self.search.is_none() {
            return;
        }
        let worth = self.worth(now, &answer);
        let search = self.search.as_mut().expect("seen above");
        if let Some(rtt) = search.answered(now, from, &answer, worth) {
            // S8: the settling time.
            self.timers
                .set(Timer::Settle, now + self.config.settle + 2 * rtt);
        }
        self.go_on(now);
        self.check();
    }

    /// A node that was asked is too busy to answer, and wants to be asked again after a while (`B19`).
    pub fn handle_busy(&mut self, now: Instant, from: &Address, retry_after: Duration) {
        let wait = retry_after.min(BUSY_RETRY_AFTER_MAX);
        let again = now + wait + self.rng.up_to(wait);
        if let Some(search) = self.search.as_mut() {
            search.answered_busy(from, again);
            self.go_on(now);
        }
        self.check();
    }

    /// What an answer is worth to this listener now.
    fn worth(&mut self, now: Instant, answer: &Answer) -> Worth {
        let tie = self.rng.next();
        let key = self.key(answer.stale, answer.depth(), answer.zone.as_ref());
        let seeker = self.seeker(now);
        let verdict = seeker.judge(answer, key);
        let is_current = verdict == Verdict::Current;
        Worth {
            verdict,
            rank: Rank {
                not_pinned: !self.saved.steering.is_pinned(answer.id()),
                key,
                // Among equals the upstream we have is best.
                tie: if is_current { 0 } else { tie },
            },
            keeping: seeker.may_move_below(&Offered::by_answer(answer, key)),
            may_stay: seeker.aim == Aim::AsListed,
            follow: self.follow(now, answer),
        }
    }

    /// A question could not be asked, or its connection failed.
    pub fn handle_ask_failed(&mut self, now: Instant, to: &Address) {
        if let Some(search) = self.search.as_mut() {
            search.ask_failed(to);
            self.go_on(now);
        }
        self.check();
    }

    /// Begins to search with what an earlier run left (`S6`, `B5`), if it left anything. One that knows a single server waits a while, so that a crowd
    /// that restarts together does not fall on it together (`B19`).
    pub(super) fn restart(&mut self, now: Instant) {
        let Saved {
            upstreams,
            learned,
            steering,
        } = &self.saved;
        let known = learned
            .iter()
            .chain(&steering.pin)
            .filter(|peer| !upstreams.contains(&peer.address))
            .count()
            + upstreams.len();
        match known {
            0 => {}
            1 => {
                self.search = Some(Search::new(now, self.peer(), Why::Start));
                let spread = self.rng.up_to(self.config.restart_spread);
                self.timers.set(Timer::Retry, now + spread);
            }
            _ => self.begin_search(now, Why::Start),
        }
    }

    /// Begins to search, now.
    pub(super) fn begin_search(&mut self, now: Instant, why: Why) {
        self.search = Some(Search::new(now, self.peer(), why));
        self.begin_round(now);
    }

    /// Begins a round of questions.
    pub(super) fn begin_round(&mut self, now: Instant) {
        self.fill_round(now, &[], None);
        self.go_on(now);
    }

    /// Collects the servers of a new round.
    pub(super) fn fill_round(
        &mut self,
        now: Instant,
        named: &[Alternative],
        except: Option<&Peer>,
    ) {
        let (mut upstreams, learned) = self.servers(now);
        // A long list is asked in random order, or all who share it ask its first four.
        if upstreams.len() > ASKED_AT_ONCE {
            self.rng.shuffle(&mut upstreams);
        }
        let search = self.search.as_mut().expect("a round belongs to a search");
        search.begin_round(
            now,
            Known {
                pinned: self.saved.steering.pin.as_ref(),
                named,
                upstreams: &upstreams,
                learned: &learned,
                except,
            },
        );
        self.timers.stop(Timer::Retry);
        self.timers.stop(Timer::Settle);
    }

    /// Does whatever the search asks for until it has to wait.
    pub(super) fn go_on(&mut self, now: Instant) {
        while let Some(search) = self.search.as_mut() {
            match search.next_step() {
                Step::Ask(to) => self.ask(now, to),
                Step::Register { to, keeping } => {
                    if !keeping {
                        self.leave_first(now);
                    }
                    self.connect(now, to);
                }
                Step::Rest if self.is_attached() => self.stay(now),
                Step::Rest => self.rest(now),
                Step::Stay if self.is_attached() => self.stay(now),
                // The upstream was lost since it answered.
                Step::Stay => {}
                Step::Wait => break,
            }
        }
        self.set_probe_timer();
    }

    fn ask(&mut self, now: Instant, to: Address) {
        let patience = self.patience();
        let search = self
            .search
            .as_mut()
            .expect("a question belongs to a search");
        search.asked(now, to.clone(), now + patience);
        self.output(Output::Ask { to });
    }

    pub(super) fn connect(&mut self, now: Instant, to: Address) {
        let patience = self.patience();
        self.last_link += 1;
        let link = LinkId::Up(self.last_link);
        let search = self
            .search
            .as_mut()
            .expect("a registration belongs to a search");
        search.register(link, to.clone());
        self.timers.set(Timer::Registration, now + patience);
        self.timers.stop(Timer::Retry);
        self.timers.stop(Timer::Settle);
        self.output(Output::Connect { to, link });
    }

    /// How long to wait for an answer (`B19`).
    fn patience(&self) -> Duration {
        match &self.search {
            Some(search) if search.is_lone() => self.config.probe_timeout_lone,
            _ => self.config.probe_timeout,
        }
    }

    /// Rests before the next round: full jitter, its bound doubling with every round in a row that found no place (`B2`).
    pub(super) fn rest(&mut self, now: Instant) {
        let doublings = self.failed_rounds.min(16);
        let bound = (self.config.backoff_min * (1 << doublings)).min(self.config.backoff_max);
        let retry_in = self.rng.up_to(bound);
        self.failed_rounds = self.failed_rounds.saturating_add(1);
        self.timers.stop(Timer::Settle);
        self.timers.set(Timer::Retry, now + retry_in);
        let leader_alone = self.search.as_ref().is_some_and(Search::is_leader_alone);
        self.event(Event::NoPlace {
            rounds: self.failed_rounds,
            retry_in,
            leader_alone,
        });
    }

    fn set_probe_timer(&mut self) {
        match self.search.as_ref().and_then(Search::next_late) {
            Some(at) => self.timers.set(Timer::Probe, at),
            None => self.timers.stop(Timer::Probe),
        }
    }

    pub(super) fn give_up_late_questions(&mut self, now: Instant) {
        if let Some(search) = self.search.as_mut() {
            search.give_up_late(now);
            self.go_on(now);
        }
    }

    pub(super) fn settle(&mut self, now: Instant) {
        if let Some(search) = self.search.as_mut() {
            search.settle();
            self.go_on(now);
        }
    }

    pub(super) fn give_up_registration(&mut self, now: Instant) {
        self.registration_failed(now, Verdict::Late, &[]);
    }

    pub(super) fn handle_refuse(&mut self, now: Instant, link: LinkId, refuse: Refuse) {
        let search = self
            .search
            .as_ref()
            .expect("a refusal answers a registration");
        let by = search
            .registering()
            .expect("a refusal answers a registration")
            .address
            .clone();
        assert!(
            self.registering_on(link),
            "a refusal came on another connection than the registration"
        );
        self.event(Event::Refused {
            by,
            reason: refuse.reason,
        });
        self.registration_failed(now, Verdict::Refused(refuse.reason), &refuse.alternatives);
    }

    /// The registration on its way came to nothing: on to the next choice, at once (`S9`).
    pub(super) fn registration_failed(
        &mut self,
        now: Instant,
        verdict: Verdict,
        alternatives: &[Alternative],
    ) {
        let Some(search) = self.search.as_mut() else {
            return;
        };
        let Some(link) = search.registering().map(|registering| registering.link) else {
            return;
        };
        search.registration_failed(verdict, alternatives);
        self.timers.stop(Timer::Registration);
        self.output(Output::Close { link });
        self.go_on(now);
    }

    /// Ends the search without a result.
    pub(super) fn stop_searching(&mut self) {
        let search = self.search.take();
        if let Some(registering) = search.as_ref().and_then(Search::registering) {
            self.output(Output::Close {
                link: registering.link,
            });
        }
        for timer in SEARCH_TIMERS {
            self.timers.stop(timer);
        }
    }

    pub(super) fn registering_on(&self, link: LinkId) -> bool {
        let registering = self.search.as_ref().and_then(Search::registering);
        registering.is_some_and(|registering| registering.link == link)
    }
}
