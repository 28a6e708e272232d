//! Drives each voter's Raft, and tells its protocol state what it sees: who leads, who votes, whether the leader is heard.

use super::{Event, World};
use crate::engine::{MILLISECOND, Micros};
use crate::host::{Power, id, peer};
use crate::log::Payload;
use crate::raft::{Env, Raft, RaftMessage, RaftRole};
use eaves_tree::{Voter, VoterState};
use std::time::Duration;

/// How often a voter's freshness is looked at (`B8`), as in a real node.
pub(super) const FRESHNESS_INTERVAL: Micros = 500 * MILLISECOND;

impl World {
    /// Lets a voter's Raft act, then does what follows.
    pub(crate) fn group_act<T>(
        &mut self,
        host: u32,
        act: impl FnOnce(&mut Raft, &mut Env<'_>) -> T,
    ) -> Option<T> {
        let now = self.queue.now();
        let machine = &mut self.hosts[host as usize];
        let raft = machine.raft.as_mut()?;
        let mut sent = Vec::new();
        let before = (raft.term, raft.role, machine.committed, machine.log.last());
        let base = machine.log.base();
        let mut env = Env {
            now,
            log: &mut machine.log,
            committed: &mut machine.committed,
            rng: &mut machine.rng,
            sent: &mut sent,
        };
        let result = act(raft, &mut env);
        let after = (raft.term, raft.role, machine.committed, machine.log.last());
        // On disk before anybody is told.
        (machine.disk.term, machine.disk.vote) = (raft.term, raft.vote);
        let role = raft.role;
        // Raft purges nothing.
        if machine.log.base() != base {
            machine.log_was_replaced();
        }

        if (before.0, before.1) != (after.0, after.1) {
            self.trace.group(now, host, [30, after.0, role as u64], || {
                format!("is {role:?} in term {}", after.0)
            });
        }
        if role == RaftRole::Leader && before.1 != RaftRole::Leader {
            self.counts.elections += 1;
            self.checks.elected(now, host, &self.hosts);
        }
        if after.2 != before.2 {
            self.trace
                .group(now, host, [31, after.2.term, after.2.index], || {
                    format!("knows {} committed", after.2)
                });
            self.checks
                .committed(now, host, before.2.index, &self.hosts);
        }
        for (to, message) in sent {
            self.send_to_voter(host, to, message);
        }
        if after.3 != before.3 {
            self.flush_soon(host);
        }
        if after.2 != before.2 {
            self.feed_all(host);
        }
        self.set_group_timer(host);
        self.tell_group(host);
        Some(result)
    }

    fn send_to_voter(&mut self, from: u32, to: u32, message: RaftMessage) {
        self.checks
            .sends(self.queue.now(), from, to, &message, &self.hosts);
        for after in self.network.group_datagram(from, to).into_iter().flatten() {
            let message = message.clone();
            self.queue.post(after, Event::Group { from, to, message });
        }
    }

    pub(super) fn on_group(&mut self, from: u32, to: u32, message: RaftMessage) {
        if !self.network.is_cut(from, to) {
            self.group_act(to, |raft, env| raft.handle(env, from, message));
        }
    }

    fn set_group_timer(&mut self, host: u32) {
        let now = self.queue.now();
        let machine = self.host(host);
        let Some(raft) = &machine.raft else { return };
        let at = raft.next_timer().max(now);
        if machine.power == Power::Running && at < machine.raft_timer_at {
            machine.raft_timer_at = at;
            let life = machine.life;
            self.queue.post_at(at, Event::GroupTimer { host, life });
        }
    }

    pub(super) fn on_group_timer(&mut self, host: u32, life: u32) {
        let now = self.queue.now();
        let machine = self.host(host);
        if machine.life != life || machine.raft_timer_at != now {
            return;
        }
        machine.raft_timer_at = Micros::MAX;
        if machine.power == Power::Running {
            self.group_act(host, |raft, env| raft.tick(env));
        }
    }

    /// Tells a voter's protocol state who leads and who votes, when that has changed.
    fn tell_group(&mut self, host: u32) {
        let now = self.queue.now();
        let machine = self.host(host);
        let Some(raft) = &machine.raft else { return };
        let view = (raft.leader, machine.log.voters());
        if machine.told == Some(view) {
            return;
        }
        machine.told = Some(view);
        let voter = |other: u32| Voter {
            peer: peer(other),
            heard: raft.heard(other).map(|at| Duration::from_micros(now - at)),
        };
        let state = VoterState {
            leader: view.0.map(id),
            voters: view.1.iter().map(voter).collect(),
        };
        self.report(host, |node, now| node.handle_voter_state(now, state));
    }

    pub(super) fn on_freshness(&mut self, host: u32, life: u32) {
        if self.is_gone(host, life) {
            return;
        }
        let now = self.queue.now();
        let Some(raft) = &self.host(host).raft else {
            return;
        };
        let heard = raft.leader.and_then(|leader| raft.heard(leader));
        if raft.role == RaftRole::Leader
            || heard.is_some_and(|at| now - at < 2 * FRESHNESS_INTERVAL)
        {
            self.report(host, |node, now| node.handle_leader_heard(now));
        }
        self.queue
            .post(FRESHNESS_INTERVAL, Event::Freshness { host, life });
    }

    /// Whether a host leads, as it believes.
    pub(super) fn leads(&self, host: u32) -> bool {
        let raft = self.hosts[host as usize].raft.as_ref();
        raft.is_some_and(|raft| raft.role == RaftRole::Leader)
    }

    /// Who leads: of those that believe it, the one of the latest term.
    pub fn leader(&self) -> Option<u32> {
        let leads = |&host: &u32| {
            let machine = &self.hosts[host as usize];
            machine.is_running()
                && machine
                    .raft
                    .as_ref()
                    .is_some_and(|raft| raft.role == RaftRole::Leader)
        };
        let term = |&host: &u32| {
            self.hosts[host as usize]
                .raft
                .as_ref()
                .map(|raft| raft.term)
        };
        self.possible_voters().filter(leads).max_by_key(term)
    }

    /// The hosts that may vote at all.
    pub(crate) fn possible_voters(&self) -> impl Iterator<Item = u32> + use<> {
        0..(self.hosts.len() as u32).min(64)
    }

    pub(super) fn on_write(&mut self) {
        self.written += 1;
        let number = self.written;
        if let Some(leader) = self.leader() {
            self.group_act(leader, |raft, env| {
                raft.propose(env, Payload::Write(number))
            });
        }
        let after = 1 + self.group_rng.below(2 * self.setup.write_interval);
        self.queue.post(after, Event::Write);
    }
}
