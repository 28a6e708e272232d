//! Processes start, end, and are paused; machines crash.

use super::{Event, World};
use crate::engine::Micros;
use crate::host::{Part, Power, address};
use crate::network::{LISTENER, UPSTREAM};
use crate::raft::{Env, Raft};
use crate::rng::mix;
use eaves_tree::{LinkId, OwnLog, TreeNode};

impl World {
    /// Starts a process from its disk.
    pub fn start(&mut self, host: u32) {
        let now = self.queue.now();
        let seed = mix(self.setup.seed ^ mix(u64::from(host)));
        let was_silent = self.host(host).power == Power::Silent;
        let machine = &mut self.hosts[host as usize];
        assert!(machine.node.is_none(), "a process was started twice");
        machine.life += 1;
        machine.power = Power::Running;
        machine.started_at = now;
        machine.timer_at = Micros::MAX;
        machine.raft_timer_at = Micros::MAX;
        machine.told = None;
        let seed = mix(seed ^ u64::from(machine.life));
        self.checks.started(host);
        self.trace
            .note(now, host, [40, seed, 0], || "starts".into());
        match self.host(host).disk.part {
            Part::Voter => {
                let machine = self.host(host);
                let saved = machine.disk.saved.clone();
                machine.node = Some(TreeNode::voter(machine.config.clone(), saved, seed));
                self.start_raft(host);
            }
            Part::Listener => self.start_listener(host, seed),
        }
        if was_silent {
            self.release_streams();
        }
    }

    /// Opens Raft on the log that is there.
    pub(super) fn start_raft(&mut self, host: u32) {
        let now = self.queue.now();
        let times = self.setup.times;
        let machine = &mut self.hosts[host as usize];
        // What is purged was committed; more is not known before a leader says it.
        machine.committed = machine.committed.max(machine.log.base().position);
        let mut env = Env {
            now,
            log: &mut machine.log,
            committed: &mut machine.committed,
            rng: &mut machine.rng,
            sent: &mut Vec::new(),
        };
        let raft = Raft::new(&mut env, host, times, machine.disk.term, machine.disk.vote);
        machine.raft = Some(raft);
        let life = machine.life;
        self.queue.post(0, Event::Freshness { host, life });
        self.group_act(host, |_, _| {});
        self.perform(host);
    }

    fn start_listener(&mut self, host: u32, seed: u64) {
        let now = self.queue.now();
        self.ledger.started(now, host);
        let machine = &mut self.hosts[host as usize];
        // Everything in a listener's log is committed (S5).
        machine.committed = machine.log.last().position;
        let saved = machine.disk.saved.clone();
        let is_new = saved.upstreams.is_empty();
        let log = match machine.log.last_index() {
            0 => OwnLog::Empty,
            _ => OwnLog::Uncompared,
        };
        let clock = machine.clock(now);
        let node = TreeNode::listener(clock, machine.config.clone(), saved, log, seed);
        machine.node = Some(node);
        if is_new {
            let list = self.setup.hosts[host as usize]
                .upstreams
                .iter()
                .copied()
                .map(address)
                .collect();
            self.report(host, |node, now| node.handle_upstream_list(now, list));
        } else {
            self.perform(host);
        }
        self.tell_voters(host);
    }

    /// A process ends, or its machine does: then nobody is told. Of what was not on disk `kept` entries survive.
    pub fn crash(&mut self, host: u32, silent: bool, kept: u64) {
        let now = self.queue.now();
        let machine = self.host(host);
        if machine.node.take().is_none() {
            return;
        }
        machine.free_at = 0;
        machine.power = if silent { Power::Silent } else { Power::Dead };
        machine.raft = None;
        machine.log.crash(kept);
        machine.following = None;
        machine.committed = Default::default();
        machine.flush_posted = false;
        machine.heard.clear();
        machine.inbox.clear();
        let links = std::mem::take(&mut machine.links);
        self.trace
            .note(now, host, [41, u64::from(silent), kept], || {
                if silent {
                    "loses its machine".into()
                } else {
                    "is killed".into()
                }
            });
        self.ledger.ended(host);
        for (link, key) in links {
            let end = match link {
                LinkId::Up(_) => LISTENER,
                LinkId::Down(_) => UPSTREAM,
            };
            if silent {
                if let Some(connection) = self.network.get_mut(key) {
                    connection.ends[end].open = false;
                }
            } else {
                self.close_end(key, end);
            }
            self.network.forget_if_closed(key);
        }
    }

    /// Stops a process (SIGSTOP).
    pub fn pause(&mut self, host: u32) {
        if self.host(host).power == Power::Running {
            self.host(host).power = Power::Paused;
            self.trace
                .note(self.queue.now(), host, [42, 0, 0], || "is paused".into());
        }
    }

    /// Lets a paused process go on. Its loop finds timers and messages waiting, and may take either first.
    pub fn resume(&mut self, host: u32, timers_first: bool) {
        let now = self.queue.now();
        if self.host(host).power != Power::Paused {
            return;
        }
        self.host(host).power = Power::Running;
        self.trace
            .note(now, host, [43, u64::from(timers_first), 0], || {
                "goes on".into()
            });
        self.group_act(host, |raft, env| raft.tick(env));
        let inbox = std::mem::take(&mut self.host(host).inbox);
        if timers_first {
            self.report(host, |node, now| {
                if node.poll_timeout().is_some_and(|at| at <= now) {
                    node.handle_timeout(now);
                }
            });
        }
        for event in inbox {
            self.dispatch(event);
        }
        self.set_timer(host);
        self.group_act(host, |_, _| {});
    }
}
