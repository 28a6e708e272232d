//! Drives each [`TreeNode`], in the way the loop of a real node does: before each report the positions and signs of life that
//! came without a report, after it all outputs in their order, then the timers.

use super::{Event, World};
use crate::engine::Micros;
use crate::host::{Power, host_at, host_of, id};
use crate::network::{ASK_TIMEOUT, CONNECT_TIMEOUT, LISTENER, Packet, UPSTREAM};
use eaves_tree::{
    Address, Answer, BUSY_RETRY_AFTER, Event as TreeEvent, Instant, LinkId, Message, Output,
    QUESTION_WAIT_MAX, RefuseReason, Saved, TreeNode,
};

impl World {
    /// Reports something to a node that runs, then does what it asks for.
    pub(crate) fn report<T>(
        &mut self,
        host: u32,
        act: impl FnOnce(&mut TreeNode, Instant) -> T,
    ) -> Option<T> {
        let machine = &mut self.hosts[host as usize];
        let clock = machine.clock(self.queue.now());
        let node = machine.node.as_mut()?;
        node.handle_committed(machine.committed);
        for link in machine.heard.drain(..) {
            node.handle_heard(clock, link);
        }
        let result = act(node, clock);
        self.perform(host);
        Some(result)
    }

    /// Does what a node asks for.
    pub(super) fn perform(&mut self, host: u32) {
        while let Some(output) = self
            .host(host)
            .node
            .as_mut()
            .and_then(TreeNode::poll_output)
        {
            self.output(host, output);
        }
        self.set_timer(host);
        self.checks
            .node(self.queue.now(), host, &self.hosts[host as usize]);
    }

    /// Posts the next call of a node's timers, unless an earlier one is posted.
    pub(super) fn set_timer(&mut self, host: u32) {
        let now = self.queue.now();
        let machine = &mut self.hosts[host as usize];
        if machine.power != Power::Running {
            return;
        }
        let Some(wanted) = machine.node.as_ref().and_then(TreeNode::poll_timeout) else {
            return;
        };
        let at = machine.started_at.saturating_add(wanted.0).max(now);
        if at < machine.timer_at {
            machine.timer_at = at;
            let life = machine.life;
            self.queue.post_at(at, Event::Timer { host, life });
        }
    }

    pub(super) fn on_timer(&mut self, host: u32, life: u32) {
        let now = self.queue.now();
        let machine = self.host(host);
        // A later call is still in the queue when an earlier one was posted; it finds nothing to do.
        if machine.life != life || machine.timer_at != now {
            return;
        }
        machine.timer_at = Micros::MAX;
        if machine.power != Power::Running {
            return;
        }
        let clock = machine.clock(now);
        let timeout = machine.node.as_ref().and_then(TreeNode::poll_timeout);
        if timeout.is_some_and(|at| at <= clock) {
            self.trace.fold(now, host, [1, 0, 0]);
            self.report(host, |node, now| node.handle_timeout(now));
        } else {
            self.set_timer(host);
        }
    }

    fn output(&mut self, host: u32, output: Output) {
        match output {
            Output::Ask { to } => self.ask(host, host_at(&to)),
            Output::Connect { to, link } => self.connect(host, &to, link),
            Output::Send { link, message } => self.send_message(host, link, message),
            Output::Close { link } => self.close_link(host, link),
            Output::StartFeeding { link, .. } => self.start_feeding(host, link),
            Output::StopFeeding { link } => self.stop_feeding(host, link),
            Output::StartFollowing { link, upstream, .. } => {
                self.start_following(host, link, host_of(upstream.id))
            }
            Output::StopFollowing { link } => self.stop_following(host, link),
            Output::Persist { version, saved } => self.persist(host, version, saved),
            Output::Event(event) => self.event(host, event),
        }
    }

    // Questions.

    fn ask(&mut self, host: u32, to: u32) {
        let life = self.host(host).life;
        self.counts.questions += 1;
        self.ledger.asks(host);
        self.checks
            .searches(self.queue.now(), host, &self.hosts[host as usize]);
        self.trace
            .note(self.queue.now(), host, [2, u64::from(to), 0], || {
                format!("asks n{}", to + 1)
            });
        let connect = self.network.connect_delay(host, to);
        let arrivals = self.network.datagram(host, to);
        for after in arrivals.into_iter().flatten() {
            let event = Event::Ask {
                from: host,
                life,
                to,
            };
            self.queue.post(connect + after, event);
        }
        if arrivals[0].is_none() {
            self.fail_question(host, life, to, ASK_TIMEOUT);
        }
    }

    fn fail_question(&mut self, from: u32, life: u32, of: u32, after: Micros) {
        let event = Event::AskFailed { of, to: from, life };
        self.queue.post(after, event);
    }

    pub(super) fn on_ask(&mut self, from: u32, life: u32, to: u32) {
        if self.network.is_cut(from, to) || self.host(to).power == Power::Silent {
            return self.fail_question(from, life, to, CONNECT_TIMEOUT);
        }
        let (now, cost) = (self.queue.now(), self.setup.question_cost);
        if cost == 0 {
            return self.answer(from, life, to);
        }
        let machine = self.host(to);
        let free_at = machine.free_at.max(now);
        if free_at - now >= QUESTION_WAIT_MAX.as_micros() as Micros {
            let back = self.network.delay(to, from);
            let event = Event::Busy {
                from: to,
                to: from,
                life,
            };
            return self.queue.post(back, event);
        }
        machine.free_at = free_at + cost;
        self.queue
            .post_at(free_at + cost, Event::Worked { from, life, to });
    }

    pub(super) fn on_busy(&mut self, from: u32, to: u32, life: u32) {
        if self.is_gone(to, life) {
            return;
        }
        self.ledger.message(to);
        self.trace
            .fold(self.queue.now(), to, [9, u64::from(from), 0]);
        self.report(to, |node, now| {
            node.handle_busy(now, &crate::host::address(from), BUSY_RETRY_AFTER)
        });
    }

    pub(super) fn answer(&mut self, from: u32, life: u32, to: u32) {
        let back = self.network.delay(to, from);
        let zone = self.host(from).config.zone.clone();
        let asked = |node: &mut TreeNode, now| node.handle_ask(now, id(from), zone.as_ref());
        let Some(answer) = self.report(to, asked) else {
            return self.fail_question(from, life, to, back);
        };
        let arrivals = self.network.datagram(to, from);
        for after in arrivals.into_iter().flatten() {
            let event = Event::Answer {
                from: to,
                to: from,
                life,
                answer: Box::new(answer.clone()),
            };
            self.queue.post(after, event);
        }
        if arrivals[0].is_none() {
            self.fail_question(from, life, to, ASK_TIMEOUT);
        }
    }

    pub(super) fn on_answer(&mut self, from: u32, to: u32, life: u32, answer: Answer) {
        if self.is_gone(to, life) {
            return;
        }
        self.ledger.message(to);
        if self.network.is_cut(from, to) {
            return self.fail_question(to, life, from, ASK_TIMEOUT);
        }
        self.trace.note(
            self.queue.now(),
            to,
            [3, u64::from(from), u64::from(answer.registered)],
            || {
                format!(
                    "hears from n{}: {} at {}, {} of {}{}{}, {} alternatives",
                    from + 1,
                    answer.role,
                    answer.path,
                    answer.registered,
                    answer.capacity,
                    if answer.attached { "" } else { ", detached" },
                    if answer.stale { ", stale" } else { "" },
                    answer.alternatives.len(),
                )
            },
        );
        self.checks
            .choices
            .answered(self.queue.now(), to, from, &answer);
        self.report(to, |node, now| {
            node.handle_answer(now, &crate::host::address(from), answer)
        });
    }

    pub(super) fn on_ask_failed(&mut self, of: u32, to: u32, life: u32) {
        if !self.is_gone(to, life) {
            self.trace.fold(self.queue.now(), to, [4, u64::from(of), 0]);
            self.report(to, |node, now| {
                node.handle_ask_failed(now, &crate::host::address(of))
            });
        }
    }

    // Sessions.

    fn connect(&mut self, host: u32, to: &Address, link: LinkId) {
        let to = host_at(to);
        let machine = &self.hosts[host as usize];
        let node = machine.node.as_ref().expect("a node that asks runs");
        let register = node.register(machine.log.last());
        let (life, diverged) = (machine.life, machine.diverged);
        self.counts.registrations += 1;
        self.ledger.message(host);
        self.checks.registers(self.queue.now(), host, to, machine);
        self.trace
            .note(self.queue.now(), host, [5, u64::from(to), 0], || {
                format!(
                    "registers with n{}, log ends at {}",
                    to + 1,
                    register.last_log
                )
            });
        let their_life = self.host(to).life;
        let key = self.network.open((host, life, link), (to, their_life));
        self.host(host).links.push((link, key));
        self.host(host).registered_diverged = diverged;
        let connect = self.network.connect_delay(host, to);
        self.send_packet(key, UPSTREAM, connect, Packet::Register(Box::new(register)));
    }

    fn send_message(&mut self, host: u32, link: LinkId, message: Message) {
        let Some(key) = self.host(host).key_of(link) else {
            return;
        };
        let to = match link {
            LinkId::Up(_) => UPSTREAM,
            LinkId::Down(_) => LISTENER,
        };
        let now = self.queue.now();
        let end = self
            .network
            .get(key)
            .map(|connection| &connection.ends[1 - to]);
        if !end.is_some_and(|end| end.open) {
            return;
        }
        self.counts.message(&message);
        if matches!(message, Message::Heartbeat(_)) && self.leads(host) {
            self.ledger.leader_heartbeats += 1;
        }
        let kind = match &message {
            Message::Heartbeat(_) => 1,
            Message::HeartbeatAck(_) => 2,
            Message::Accept(_) => 3,
            Message::Refuse(_) => 4,
            Message::Kick(_) => 5,
            Message::Leave(_) => 6,
        };
        match &message {
            Message::Refuse(refuse) => self.trace.note(now, host, [6, key.0, kind], || {
                format!(
                    "refuses on {link}: {}, {} alternatives",
                    refuse.reason,
                    refuse.alternatives.len()
                )
            }),
            Message::Leave(reason) => self.trace.note(now, host, [6, key.0, kind], || {
                format!("leaves on {link}: {reason}")
            }),
            _ => self.trace.fold(now, host, [6, key.0, kind]),
        }
        self.send_packet(key, to, 0, Packet::Session(message));
    }

    fn start_following(&mut self, host: u32, link: LinkId, upstream: u32) {
        let now = self.queue.now();
        self.host(host).following = Some(link);
        self.checks
            .follows(now, host, upstream, &self.hosts, &self.network);
        let end = self.hosts[host as usize].log.last();
        if let Some(key) = self.host(host).key_of(link) {
            self.send_packet(key, UPSTREAM, 0, Packet::FeedFrom(end));
        }
    }

    fn stop_following(&mut self, host: u32, link: LinkId) {
        if self.host(host).following == Some(link) {
            self.host(host).following = None;
        }
    }

    // The disk.

    fn persist(&mut self, host: u32, version: u64, saved: Saved) {
        let life = self.host(host).life;
        let event = Event::Persisted {
            host,
            life,
            version,
            saved: Box::new(saved),
        };
        self.queue.post(self.setup.flush, event);
    }

    pub(super) fn on_persisted(&mut self, host: u32, life: u32, version: u64, saved: Saved) {
        if self.is_gone(host, life) {
            return;
        }
        self.trace.fold(self.queue.now(), host, [7, version, 0]);
        self.host(host).disk.saved = saved;
        self.report(host, |node, now| node.handle_persisted(now, version));
        self.checks
            .list_is_on_disk(self.queue.now(), host, &self.hosts[host as usize]);
        let machine = self.host(host);
        if let Some(node) = &machine.node {
            machine.list_in_use.clone_from(&node.saved().upstreams);
        }
    }

    // What people see.

    fn event(&mut self, host: u32, event: TreeEvent) {
        let now = self.queue.now();
        self.counts.event(&event);
        self.ledger.event(now, host, &event);
        self.trace
            .note(now, host, [8, self.counts.events, 0], || event.to_string());
        self.checks.event(now, host, &event, &self.hosts);
        if let TreeEvent::Refused {
            reason: RefuseReason::Log { .. },
            ..
        } = event
        {
            self.host(host).disk.differs = true;
        }
    }
}
