//! What administrators do: kick, new lists, promote and demote, one job after another and each until it is done.
//!
//! Promotion and demotion follow the order of the design: catch up, persist the role, then one membership change at a time.

use super::{Event, World};
use crate::engine::{MILLISECOND, Micros};
use crate::host::{Part, Power, address, id, peer};
use crate::log::Payload;
use eaves_tree::{Address, Instant, Saved, TreeNode};

/// How often the operator looks whether the next step can be done.
const LOOK: Micros = 200 * MILLISECOND;
/// How close to the end of the leader's log a new voter must be (`S15`).
const CLOSE_ENTRIES: u64 = 200;

/// Something to be done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A listener gets a vote (`S15`, `B16`).
    Promote(u32),
    /// A voter loses it.
    Demote(u32),
}

impl World {
    /// Has a node kick one of its downstreams off (`S12`).
    pub fn kick(&mut self, upstream: u32, listener: u32) -> bool {
        self.report(upstream, |node, now| node.kick(now, id(listener)))
            .unwrap_or(false)
    }

    /// Gives a listener a new list (`S14`).
    pub fn give_list(&mut self, host: u32, list: &[u32]) {
        if !self.host(host).is_running() || self.host(host).is_voter() {
            return;
        }
        let list: Vec<Address> = list.iter().copied().map(address).collect();
        self.trace
            .note(self.queue.now(), host, [50, list.len() as u64, 0], || {
                format!(
                    "is given the list {}",
                    list.iter()
                        .map(Address::as_str)
                        .collect::<Vec<_>>()
                        .join(" ")
                )
            });
        self.report(host, |node, now| node.handle_upstream_list(now, list));
    }

    /// Pins a node to an upstream, or to none (`B16`).
    pub fn pin(&mut self, host: u32, upstream: Option<u32>) {
        self.steer(host, "pin", |node, now| {
            node.pin(now, upstream.map(peer)).is_ok()
        });
    }

    /// Has a node avoid another, or no longer (`B16`).
    pub fn avoid(&mut self, host: u32, upstream: u32, on: bool) {
        self.steer(host, "avoid", |node, now| {
            node.avoid(now, id(upstream), on).is_ok()
        });
    }

    /// Has a node hand its downstreams over and take none, or take them again (`B16`).
    pub fn drain(&mut self, host: u32, on: bool) {
        self.steer(host, "drain", |node, now| {
            match on {
                true => node.drain(now),
                false => node.undrain(now),
            }
            true
        });
    }

    fn steer(&mut self, host: u32, what: &str, act: impl FnOnce(&mut TreeNode, Instant) -> bool) {
        if self.host(host).is_running() {
            let granted = self.report(host, act).unwrap_or(false);
            let steering = self
                .host(host)
                .node
                .as_ref()
                .map(|node| node.steering().clone());
            self.trace
                .note(self.queue.now(), host, [54, u64::from(granted), 0], || {
                    format!("is asked to {what}: granted {granted}, now {steering:?}")
                });
        }
    }

    /// Wants something done, after all that waits already.
    pub fn want(&mut self, job: Job) {
        self.jobs.push_back(job);
        if !self.operating {
            self.operating = true;
            self.queue.post(LOOK, Event::Operate);
        }
    }

    pub(super) fn on_operate(&mut self) {
        if let Some(&job) = self.jobs.front() {
            let done = match job {
                Job::Promote(host) => self.promote(host),
                Job::Demote(host) => self.demote(host),
            };
            if done {
                self.trace.note(self.queue.now(), 0, [51, 0, 0], || {
                    format!("sees {job:?} done")
                });
                self.jobs.pop_front();
            }
        }
        self.operating = !self.jobs.is_empty();
        if self.operating {
            self.queue.post(LOOK, Event::Operate);
        }
    }

    /// Does the next step of a promotion; true when there is nothing left to do.
    fn promote(&mut self, host: u32) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let log = &self.hosts[leader as usize].log;
        let committed = self.hosts[leader as usize].committed;
        let (voters, voters_index, end) = (log.voters(), log.voters_index(), log.last_index());
        let machine = &self.hosts[host as usize];
        if machine.disk.part == Part::Listener {
            let theirs = machine.log.last();
            let index = theirs.position.index;
            // A leader alone feeds nobody (S1): then Raft has to bring the newcomer everything.
            let is_close = voters.len() == 1 || index + CLOSE_ENTRIES >= committed.index;
            if index > committed.index {
                // Compared when the leader has as much (B11).
                return false;
            }
            // Refused if it differs, or is close and cannot be compared (B12). Who differs is fed by nobody and comes no nearer. A leader
            // alone replaces what it cannot compare by a snapshot, unless it was found to differ before (B9).
            let ours = log.end_at(index);
            let agrees = index == 0 || ours == Some(theirs);
            let is_replaced = voters.len() == 1 && ours.is_none() && !machine.disk.differs;
            if !agrees && !is_replaced && (ours.is_some() || is_close) {
                return true;
            }
            if !is_close || !machine.is_running() {
                return false;
            }
            self.counts.promotions_by_snapshot += u64::from(!agrees);
            self.become_voter(host);
            return false;
        }
        if voters.contains(host) {
            return voters_index <= committed.index;
        }
        self.group_act(leader, |raft, env| {
            raft.learners = raft.learners.with(host);
            let is_close = raft.durable_of(host) + CLOSE_ENTRIES >= end;
            if is_close && raft.may_change_voters(env.log, *env.committed) {
                let voters = env.log.voters().with(host);
                raft.learners = raft.learners.without(host);
                raft.propose(env, Payload::Voters(voters));
            }
        });
        false
    }

    /// The listener flushes, persists its new role, and opens Raft on the log it has.
    fn become_voter(&mut self, host: u32) {
        self.counts.promotions += 1;
        self.trace.note(self.queue.now(), host, [52, 0, 0], || {
            "becomes a voter".into()
        });
        let machine = self.host(host);
        machine.log.begin_flush();
        machine.log.end_flush();
        machine.disk.part = Part::Voter;
        machine.told = None;
        self.report(host, |node, now| node.become_voter(now));
        self.start_raft(host);
    }

    /// Does the next step of a demotion; true when there is nothing left to do.
    fn demote(&mut self, host: u32) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        if self.host(host).disk.part == Part::Listener {
            return true;
        }
        let machine = &self.hosts[leader as usize];
        let voters = machine.log.voters();
        if !voters.contains(host) {
            let has_left = machine.log.voters_index() <= machine.committed.index;
            if has_left && self.host(host).power == Power::Running {
                let voters: Vec<u32> = voters.iter().collect();
                self.become_listener(host, &voters);
            }
            return false;
        }
        // The last voter stays, and the leader does when it has but one heir: in this model, which has no pre-vote, two that hand leadership
        // over on a slow link may go on doing so.
        if voters.len() == 1 || (voters.len() == 2 && leader == host) {
            return true;
        }
        if leader == host {
            // Whoever lags behind cannot win, and would only hold the group up.
            let durable = |other: &u32| machine.raft.as_ref().map(|raft| raft.durable_of(*other));
            let heir = voters.without(host).iter().max_by_key(durable);
            if let Some(heir) = heir {
                self.group_act(leader, |raft, env| raft.transfer(env, heir));
            }
            return false;
        }
        self.group_act(leader, |raft, env| {
            if voters.contains(host) && raft.may_change_voters(env.log, *env.committed) {
                raft.propose(env, Payload::Voters(voters.without(host)));
            }
        });
        false
    }

    /// The voter persists its new role, stops Raft, cuts its uncommitted tail, and looks for an upstream. Its vote stays.
    fn become_listener(&mut self, host: u32, voters: &[u32]) {
        self.counts.demotions += 1;
        self.trace.note(self.queue.now(), host, [53, 0, 0], || {
            "becomes a listener".into()
        });
        let saved = Saved {
            upstreams: voters.iter().copied().map(address).collect(),
            ..self.host(host).disk.saved.clone()
        };
        let machine = self.host(host);
        machine.disk.part = Part::Listener;
        machine.disk.saved = saved.clone();
        machine.raft = None;
        machine.log.truncate(machine.committed.index);
        machine.flush_posted = false;
        machine.raft_timer_at = Micros::MAX;
        self.report(host, |node, now| node.become_listener(now, saved));
        self.flush_soon(host);
    }
}
