//! A node as a listener with an upstream: it follows it, loses it, and waits for a detached head (`S6`, `S13`, `S14`, `B1`,
//! `B3`, `B5`). How it looks for another is in `searching.rs`.

use super::{TreeNode, sanitized};
use crate::choice::{Offered, Verdict};
use crate::config::{GRACE_LEVELS_MAX, UPSTREAMS_MAX};
use crate::freshness::Freshness;
use crate::ids::{Address, LinkId, Peer};
use crate::message::{
    Accept, Alternative, FreePlaces, Heartbeat, HeartbeatAck, Kick, KickReason, LeaveReason,
    Message, RefuseReason, Role,
};
use crate::mutation::Mutation;
use crate::order::OrderKey;
use crate::output::{Event, Output, Why};
use crate::path::Path;
use crate::search::Search;
use crate::session::Session;
use crate::time::Instant;
use crate::timers::Timer;
use alloc::vec::Vec;
use core::time::Duration;

impl TreeNode {
    // Inputs.

    /// A listener is given its list of upstream servers, first or anew (`S6`, `S14`). It is persisted before it is used. The
    /// list it already has changes nothing. Beyond [`UPSTREAMS_MAX`](crate::UPSTREAMS_MAX) it is cut.
    pub fn handle_upstream_list(&mut self, _now: Instant, upstreams: Vec<Address>) {
        assert!(
            self.role == Role::Listener,
            "a voter was given a list of upstream servers"
        );
        let upstreams = sanitized(upstreams, UPSTREAMS_MAX);
        let latest = self
            .new_list
            .as_ref()
            .map_or(&self.saved.upstreams, |(_, list)| list);
        if upstreams != *latest {
            self.new_list = Some((self.saved_version + 1, upstreams));
            self.persist();
        }
        self.check();
    }

    /// The given version of [`Output::Persist`] is on disk. If a new list waited for that, the listener now chooses from it,
    /// and leaves its upstream, if it has one, when another has accepted it (`S14`).
    pub fn handle_persisted(&mut self, now: Instant, version: u64) {
        if let Some((_, list)) = self.new_list.take_if(|(awaited, _)| *awaited <= version) {
            let first = self.session.is_none() && self.search.is_none();
            self.saved.upstreams = list;
            self.stop_searching();
            self.begin_search(now, if first { Why::Start } else { Why::NewList });
        }
        self.check();
    }

    /// A listener has read the group's voters from the log (`B5`). One that knew nobody to ask begins to search with them, as
    /// after a restart; if a new list is on its way to disk, it waits for that (`S6`).
    pub fn handle_voters(&mut self, now: Instant, voters: Vec<Peer>) {
        assert!(
            self.role == Role::Listener,
            "a voter was given the voters of a listener"
        );
        // The order in which the upstream named those we know is worth more than the log's.
        let (mut ranked, rest): (Vec<Peer>, Vec<Peer>) = voters
            .into_iter()
            .partition(|voter| self.voters.contains(voter));
        ranked.sort_by_key(|voter| self.voters.iter().position(|known| known == voter));
        self.learn_voters(ranked.into_iter().chain(rest).collect());
        self.learn_neighbours(&[]);
        if self.session.is_none() && self.search.is_none() && self.new_list.is_none() {
            self.restart(now);
        }
        self.check();
    }

    /// An upstream that holds as much as this listener has compared its log, or sent a snapshot in its place. From now on it
    /// may take others on (`B11`). To say it again changes nothing.
    pub fn handle_log_compared(&mut self) {
        if !self.compared {
            self.compared = true;
            self.event(Event::Compared);
            self.report_if_moved();
        }
        self.check();
    }

    pub(super) fn handle_upstream_message(&mut self, now: Instant, link: LinkId, message: Message) {
        if self.registering_on(link) {
            match message {
                Message::Accept(accept) => self.handle_accept(now, link, accept),
                Message::Refuse(refuse) => self.handle_refuse(now, link, refuse),
                _ => self.registration_failed(now, Verdict::Failed, &[]),
            }
        } else if self.following_on(link) {
            match message {
                Message::Heartbeat(heartbeat) => self.handle_heartbeat(now, heartbeat),
                Message::Kick(kick) => self.handle_kick(now, kick),
                _ => self.lost(now, Why::Misbehaved, &[]),
            }
        } else {
            // S9: a heartbeat of an unknown session is answered with leave.
            self.send(link, Message::Leave(LeaveReason::UnknownSession));
            self.output(Output::Close { link });
        }
    }

    pub(super) fn upstream_link_closed(&mut self, now: Instant, link: LinkId) {
        if self.registering_on(link) {
            self.registration_failed(now, Verdict::Failed, &[]);
        } else if self.following_on(link) {
            self.lost(now, Why::Closed, &[]);
        }
    }

    // The session.

    fn following_on(&self, link: LinkId) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.upstream.link == link)
    }

    /// Somebody takes us on: leave the old upstream, if there is one, only now (`B3`). What has changed above the new one
    /// since it answered may still make it unfit.
    fn handle_accept(&mut self, now: Instant, link: LinkId, accept: Accept) {
        let unfit = match &accept.heartbeat {
            heartbeat
                if heartbeat.path.contains(self.config.id) && !self.config.lacks(Mutation::B1) =>
            {
                Some((LeaveReason::Loop, RefuseReason::Loop))
            }
            heartbeat if heartbeat.path.is_full() => {
                Some((LeaveReason::TooDeep, RefuseReason::TooDeep))
            }
            heartbeat if !heartbeat.attached => {
                Some((LeaveReason::Detached, RefuseReason::Detached))
            }
            _ => None,
        };
        if let Some((leave, refused)) = unfit {
            self.send(link, Message::Leave(leave));
            self.registration_failed(now, Verdict::Refused(refused), &[]);
            return;
        }
        let key = self.key(
            accept.heartbeat.stale,
            accept.heartbeat.path.depth(),
            accept.zone.as_ref(),
        );
        if let Some(verdict) = self.reason_to_stay(now, &accept, key) {
            self.send(link, Message::Leave(LeaveReason::NotBetter));
            self.registration_failed(now, verdict, &[]);
            return;
        }

        let was_attached = self.is_attached();
        let from = self
            .session
            .as_ref()
            .map(|session| session.upstream.peer.id);
        if self.session.is_some() {
            self.leave(LeaveReason::Moved);
        }
        let search = self
            .search
            .take()
            .expect("an acceptance answers a registration");
        let address = search
            .registering()
            .expect("an acceptance answers a registration")
            .address
            .clone();
        let upstream = Peer {
            id: accept.heartbeat.path.last(),
            address,
        };
        let mut choice = search.accepted(upstream.id, accept.heartbeat.path.depth(), key);
        choice.why = self.count_move(now, choice.why, upstream.id);
        let why = choice.why;
        self.last_look = None;
        self.last_choice = Some(choice);
        self.stop_searching();

        let told = self.free_places();
        self.session = Some(Session::new(now, upstream.clone(), link, &accept, told));
        self.timers.set(Timer::Silence, now + self.config.timeout);
        self.fresh = Freshness::told(accept.heartbeat.age, now);
        self.output(Output::StartFollowing {
            link,
            upstream: upstream.clone(),
            committed: accept.heartbeat.committed,
        });
        self.event(Event::Moved {
            from,
            to: upstream.id,
            why,
        });
        self.learn_voters(accept.voters);
        self.learn_neighbours(&accept.siblings);
        self.tell_standing(now, was_attached);
    }

    /// Why not to go where we are accepted: it is to be avoided, or is no longer what it was when it answered (`B1`, `B7`).
    fn reason_to_stay(&self, now: Instant, accept: &Accept, key: OrderKey) -> Option<Verdict> {
        let seeker = self.seeker(now);
        let place = Offered::by_accept(accept, key);
        match seeker.weigh(&place) {
            Verdict::Eligible if self.is_attached() && !seeker.may_move_below(&place) => {
                Some(Verdict::OutOfOrder)
            }
            // Its registration replaced the session we have (S9): that one is going to be closed.
            Verdict::Eligible | Verdict::Current => None,
            verdict => Some(verdict),
        }
    }

    /// The upstream is alive and says where it stands. Answered at once and relayed at once.
    fn handle_heartbeat(&mut self, now: Instant, heartbeat: Heartbeat) {
        let was_attached = self.is_attached();
        let session = self
            .session
            .as_mut()
            .expect("a heartbeat belongs to a session");
        if heartbeat.path.last() != session.upstream.peer.id {
            self.lost(now, Why::Misbehaved, &[]);
            return;
        }
        self.fresh = Freshness::told(heartbeat.age, now);
        let changed = session.update(now, heartbeat);
        let link = session.upstream.link;
        if session.path.contains(self.config.id) && !self.config.lacks(Mutation::B1) {
            // B1: a loop. Leave it.
            self.send(link, Message::Leave(LeaveReason::Loop));
            self.lost(now, Why::Loop, &[]);
        } else if session.path.is_full() {
            self.send(link, Message::Leave(LeaveReason::TooDeep));
            self.lost(now, Why::TooDeep, &[]);
        } else {
            self.report();
            if changed {
                self.tell_standing(now, was_attached);
            } else {
                self.heartbeat_downstreams(now);
                self.review(now);
            }
        }
    }

    /// Tells the upstream how far we are and where there is room below us (`S11`, `B4`).
    pub(super) fn report(&mut self) {
        let free = self.free_places();
        if let Some(session) = &mut self.session {
            session.told = free;
            let link = session.upstream.link;
            let ack = HeartbeatAck {
                committed: self.committed,
                free,
            };
            self.send(link, Message::HeartbeatAck(ack));
        }
    }

    /// Reports at once if the nearest free place below us is no longer where the upstream believes (`B4`): else it sends
    /// newcomers here in vain until the next heartbeat. How many there are can wait.
    pub(super) fn report_if_moved(&mut self) {
        let Some(session) = &self.session else { return };
        let nearest = |free: FreePlaces| (free.slots > 0).then_some(free.levels);
        if nearest(session.told) != nearest(self.free_places()) {
            self.report();
        }
    }

    fn handle_kick(&mut self, now: Instant, kick: Kick) {
        if kick.reason == KickReason::Admin
            && let Some(session) = &self.session
        {
            // S12: not straight back.
            let until = now + self.config.kick_away;
            self.kicker = Some((session.upstream.peer.id, until));
        }
        self.lost(now, Why::Kicked(kick.reason), &kick.alternatives);
    }

    /// Looks whether the upstream has been silent for the timeout (`S13`).
    pub(super) fn look_for_silence(&mut self, now: Instant) {
        let Some(session) = &self.session else { return };
        let silent_at = session.upstream.heard + self.config.timeout;
        if silent_at <= now {
            self.lost(now, Why::Silent, &[]);
        } else {
            self.timers.set(Timer::Silence, silent_at);
        }
    }

    /// The upstream is gone: tell the downstreams at once that they hang below a detached head (`B3`), and look for another
    /// upstream. After a kick the first alternative is registered with unasked (`B2`).
    fn lost(&mut self, now: Instant, why: Why, alternatives: &[Alternative]) {
        let session = self.session.take().expect("an upstream is lost only once");
        if why != Why::Kicked(KickReason::Admin) {
            // S12 was obeyed by going elsewhere. Now that this place is gone too, any is better than none.
            self.kicker = None;
        }
        let upstream = session.upstream;
        self.output(Output::StopFollowing {
            link: upstream.link,
        });
        self.output(Output::Close {
            link: upstream.link,
        });
        self.event(Event::Lost {
            upstream: upstream.peer.id,
            why,
        });
        let was_steady = !self.timers.is_set(Timer::Steady);
        self.session_ended();
        if session.attached {
            self.event(Event::Detached {
                head: self.config.id,
            });
        }
        self.stand_alone(now);
        if let Some(search) = self
            .search
            .as_mut()
            .filter(|search| search.registering().is_some())
        {
            search.lost_meanwhile(why, alternatives);
            return;
        }
        self.stop_searching();
        self.search = Some(Search::new(now, self.peer(), why));
        if alternatives.is_empty() && !was_steady {
            // B2: a place that is lost as soon as it is won counts as a round that found none.
            self.rest(now);
            return;
        }
        let except = matches!(why, Why::Kicked(KickReason::Leader)).then_some(&upstream.peer);
        self.fill_round(now, alternatives, except);
        let named = if alternatives.is_empty() {
            None
        } else {
            let kicker = self.kicker_at(now);
            let steering = &self.saved.steering;
            let unwanted = |id| steering.avoids(id) || kicker == Some(id);
            let search = self.search.as_mut();
            search.and_then(|search| search.take_named(unwanted))
        };
        if let Some(first) = named {
            self.connect(now, first);
        }
        self.go_on(now);
    }

    /// Leaves the upstream of our own accord.
    pub(super) fn leave(&mut self, reason: LeaveReason) {
        let session = self.session.take().expect("only a session can be left");
        let link = session.upstream.link;
        self.send(link, Message::Leave(reason));
        self.output(Output::StopFollowing { link });
        self.output(Output::Close { link });
        self.session_ended();
    }

    fn session_ended(&mut self) {
        for timer in [Timer::Silence, Timer::Grace, Timer::Steady, Timer::Look] {
            self.timers.stop(timer);
        }
        self.wish = None;
    }

    /// There is nobody above this node any more: its path is itself. Tells the downstreams at once.
    pub(super) fn stand_alone(&mut self, now: Instant) {
        assert!(
            self.session.is_none(),
            "a node with an upstream does not stand alone"
        );
        self.path = Path::of(self.config.id);
        self.heartbeat_downstreams(now);
    }

    /// The upstream's path or attachment is new to us. Tells the downstreams at once (`B1`), and decides whether to wait, to
    /// search or to stay (`B3`).
    fn tell_standing(&mut self, now: Instant, was_attached: bool) {
        let session = self
            .session
            .as_ref()
            .expect("only a session changes our standing");
        let head_before = self.path.head();
        let attached = session.attached;
        self.path = session
            .path
            .then(self.config.id)
            .expect("a full path was refused before");
        self.heartbeat_downstreams(now);
        if attached {
            self.timers.stop(Timer::Grace);
            if !was_attached {
                self.stop_searching();
                self.timers.set(Timer::Steady, now + self.config.timeout);
                self.event(Event::Attached {
                    path: self.path.clone(),
                });
            }
        } else if was_attached || head_before != self.path.head() {
            self.timers.stop(Timer::Steady);
            self.stop_searching();
            self.timers.set(Timer::Grace, now + self.grace());
            self.event(Event::Detached {
                head: self.path.head(),
            });
        }
        self.review(now);
    }

    /// How long to hope for the detached head: two timeouts for each level below it, of at most four (`B3`). So a subtree
    /// comes loose from the top, and mostly stays together.
    fn grace(&self) -> Duration {
        if self.config.lacks(Mutation::B3) {
            return Duration::ZERO;
        }
        2 * self.config.timeout * self.path.depth().min(GRACE_LEVELS_MAX)
    }

    /// The head stayed detached for too long: search, without leaving (`B3`).
    pub(super) fn give_up_head(&mut self, now: Instant) {
        if self.session.is_some() && self.search.is_none() {
            self.begin_search(now, Why::HeadDetached);
        }
    }
}
