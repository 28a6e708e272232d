//! The world: hosts, a network, a group, and one queue of what will happen.
//!
//! [`World::step`] takes one event and lets everything happen that follows from it at once; the invariants are checked on the
//! way, on those that were touched. Who drives what:
//!
//! | file | does |
//! | --- | --- |
//! | `driver.rs` | drives each [`TreeNode`](eaves_tree::TreeNode), as the loop of a real node does |
//! | `streams.rs` | what arrives on connections, or never does |
//! | `feed.rs` | pushes the log down the tree, compares logs, sends snapshots |
//! | `group.rs` | drives each voter's Raft, and tells its protocol state what it sees |
//! | `life.rs` | starts, ends and pauses processes; what a crash takes with it |
//! | `operator.rs` | what administrators do |

mod driver;
pub mod feed;
mod group;
mod life;
mod operator;
mod streams;

pub use operator::Job;

use crate::engine::{Micros, Queue};
use crate::host::{Host, Part, Power, address, id};
use crate::invariants::{Checks, Violation};
use crate::ledger::Ledger;
use crate::log::{Log, VoterSet};
use crate::network::{Key, Network, Quality};
use crate::raft::{RaftMessage, Times};
use crate::rng::Rng;
use crate::summary::Counts;
use crate::trace::Trace;
use eaves_tree::{Answer, Config, LinkId, LogEnd, Saved, Zone};
use std::time::Duration;

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A node's timers may be due.
    Timer { host: u32, life: u32 },
    /// A question arrives.
    Ask { from: u32, life: u32, to: u32 },
    /// A node has worked off a question.
    Worked { from: u32, life: u32, to: u32 },
    /// A node says that it is too busy for a question (`B19`).
    Busy { from: u32, to: u32, life: u32 },
    /// Its answer arrives.
    Answer {
        from: u32,
        to: u32,
        life: u32,
        answer: Box<Answer>,
    },
    /// A question has failed.
    AskFailed { of: u32, to: u32, life: u32 },
    /// Something arrives at an end of a connection.
    Arrive { key: Key, to: usize },
    /// What is on its way to an end of a connection is given up, if it still waits.
    Unacknowledged { key: Key, to: usize },
    /// A node is told that a connection is gone.
    LinkClosed { host: u32, life: u32, link: LinkId },
    /// What a node wanted kept is on disk.
    Persisted {
        host: u32,
        life: u32,
        version: u64,
        saved: Box<Saved>,
    },
    /// A listener's log is to be flushed.
    FlushDue { host: u32, life: u32 },
    /// A flush is done.
    Flushed { host: u32, life: u32 },
    /// A snapshot has been fetched.
    Snapshot {
        key: Key,
        at: LogEnd,
        voters: VoterSet,
    },
    /// A message of the group arrives.
    Group {
        from: u32,
        to: u32,
        message: RaftMessage,
    },
    /// A voter's election or heartbeat may be due.
    GroupTimer { host: u32, life: u32 },
    /// A voter looks whether its leader was heard (`B8`).
    Freshness { host: u32, life: u32 },
    /// A client writes.
    Write,
    /// The operator goes on with what is to be done.
    Operate,
}

/// How the world is made, before anything happens.
pub struct Setup {
    /// Where all random numbers come from.
    pub seed: u64,
    /// The founders of the group, then the listeners.
    pub hosts: Vec<HostSetup>,
    /// How many of them found the group.
    pub founders: u32,
    /// The network.
    pub quality: Quality,
    /// The group's times.
    pub times: Times,
    /// How long a flush, or a write of a small file, takes.
    pub flush: Micros,
    /// How often a listener flushes.
    pub flush_interval: Micros,
    /// How often clients write, on average.
    pub write_interval: Micros,
    /// How many entries each node keeps though it could purge them.
    pub retention: u64,
    /// How often a listener looks for a better place (`B7`).
    pub improve: Micros,
    /// How long a node works on a question; questions that come meanwhile wait.
    pub question_cost: Micros,
    /// How long a snapshot takes beside the network's delays.
    pub snapshot: Micros,
}

/// One host of a [`Setup`].
pub struct HostSetup {
    /// N.
    pub capacity: u32,
    /// The number of its zone; 0 is none.
    pub zone: u32,
    /// The list a listener is given.
    pub upstreams: Vec<u32>,
}

/// The world.
pub struct World {
    /// How it was made.
    pub setup: Setup,
    /// What will happen.
    pub(crate) queue: Queue<Event>,
    /// The machines: founders first.
    pub hosts: Vec<Host>,
    /// The network.
    pub network: Network,
    /// What has happened.
    pub trace: Trace,
    /// What must hold.
    pub checks: Checks,
    /// How often things have happened.
    pub counts: Counts,
    /// Who was cut off for how long.
    pub ledger: Ledger,
    /// What administrators want done, in that order.
    pub jobs: std::collections::VecDeque<Job>,
    group_rng: Rng,
    written: u64,
    operating: bool,
}

impl World {
    /// A world in which nothing runs yet. `tune` may change each node's configuration.
    pub fn new(setup: Setup, trace: Trace, tune: impl Fn(&mut Config)) -> World {
        let founders = VoterSet::first(setup.founders);
        let hosts: Vec<Host> = (0..)
            .zip(&setup.hosts)
            .map(|(number, host)| {
                let (part, log) = match number < setup.founders {
                    true => (Part::Voter, Log::founded(founders)),
                    false => (Part::Listener, Log::default()),
                };
                let mut config = Config::new(id(number), address(number), crate::host::CLUSTER);
                config.capacity = host.capacity;
                config.zone =
                    (host.zone > 0).then(|| Zone::from(format!("z{}", host.zone).as_str()));
                config.improve = Duration::from_micros(setup.improve);
                // As a real node does.
                config.silent_voter = Duration::from_micros(setup.times.election);
                config.stale_voter = config.stale_voter.max(4 * config.silent_voter);
                tune(&mut config);
                Host::new(setup.seed, number, config, part, log)
            })
            .collect();
        let zones = setup.hosts.iter().map(|host| host.zone).collect();
        let mut world = World {
            network: Network::new(setup.seed, setup.quality.clone(), zones),
            group_rng: Rng::new(setup.seed, 103),
            checks: Checks::new(hosts.len(), founders),
            ledger: Ledger::new(hosts.len()),
            queue: Queue::default(),
            hosts,
            trace,
            counts: Counts::default(),
            jobs: Default::default(),
            written: 0,
            operating: false,
            setup,
        };
        for host in 0..world.setup.founders {
            world.start(host);
        }
        world.queue.post(0, Event::Write);
        world
    }

    /// The time.
    pub fn now(&self) -> Micros {
        self.queue.now()
    }

    /// The host's machine.
    pub fn host(&mut self, host: u32) -> &mut Host {
        &mut self.hosts[host as usize]
    }

    /// How many events there were so far.
    pub fn events(&self) -> u64 {
        self.queue.popped()
    }

    /// The numbers of all hosts.
    pub fn numbers(&self) -> std::ops::Range<u32> {
        0..self.hosts.len() as u32
    }

    /// What has been found wrong, if anything.
    pub fn violation(&self) -> Option<&Violation> {
        self.checks.violation.as_ref()
    }

    /// Lets everything happen up to a time, or until something is found wrong.
    pub fn run_until(&mut self, end: Micros) {
        while self.violation().is_none() && self.queue.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        if self.violation().is_none() {
            self.queue.advance_to(end);
        }
    }

    /// Lets the next event happen.
    pub fn step(&mut self) {
        let Some(event) = self.queue.pop() else {
            return;
        };
        self.dispatch(event);
        self.checks
            .loops_are_broken(self.queue.now(), &self.hosts, &self.network);
    }

    fn dispatch(&mut self, event: Event) {
        let Some(event) = self.unless_paused(event) else {
            return;
        };
        match event {
            Event::Timer { host, life } => self.on_timer(host, life),
            Event::Ask { from, life, to } => self.on_ask(from, life, to),
            Event::Worked { from, life, to } => self.answer(from, life, to),
            Event::Busy { from, to, life } => self.on_busy(from, to, life),
            Event::Answer {
                from,
                to,
                life,
                answer,
            } => self.on_answer(from, to, life, *answer),
            Event::AskFailed { of, to, life } => self.on_ask_failed(of, to, life),
            Event::Arrive { key, to } => self.on_arrival(key, to),
            Event::Unacknowledged { key, to } => self.on_unacknowledged(key, to),
            Event::LinkClosed { host, life, link } => self.on_link_closed(host, life, link),
            Event::Persisted {
                host,
                life,
                version,
                saved,
            } => self.on_persisted(host, life, version, *saved),
            Event::FlushDue { host, life } => self.on_flush_due(host, life),
            Event::Flushed { host, life } => self.on_flushed(host, life),
            Event::Snapshot { key, at, voters } => self.on_snapshot(key, at, voters),
            Event::Group { from, to, message } => self.on_group(from, to, message),
            Event::GroupTimer { host, life } => self.on_group_timer(host, life),
            Event::Freshness { host, life } => self.on_freshness(host, life),
            Event::Write => self.on_write(),
            Event::Operate => self.on_operate(),
        }
    }

    /// The event, unless it is for a paused process: then it waits until that goes on.
    fn unless_paused(&mut self, event: Event) -> Option<Event> {
        let host = match &event {
            Event::Ask { to, .. }
            | Event::Worked { to, .. }
            | Event::Busy { to, .. }
            | Event::Answer { to, .. }
            | Event::AskFailed { to, .. }
            | Event::Group { to, .. } => *to,
            Event::LinkClosed { host, .. }
            | Event::Persisted { host, .. }
            | Event::FlushDue { host, .. }
            | Event::Flushed { host, .. }
            | Event::Freshness { host, .. } => *host,
            Event::Snapshot { key, .. } => {
                self.network.get(*key)?.ends[crate::network::LISTENER].host
            }
            // Timers are looked at when a process goes on; the kernel takes in what arrives.
            Event::Timer { .. }
            | Event::GroupTimer { .. }
            | Event::Arrive { .. }
            | Event::Unacknowledged { .. }
            | Event::Write
            | Event::Operate => return Some(event),
        };
        if self.host(host).power == Power::Paused {
            self.host(host).inbox.push(event);
            return None;
        }
        Some(event)
    }

    /// Whether an event is for a process that has ended, or been paused since.
    fn is_gone(&self, host: u32, life: u32) -> bool {
        let host = &self.hosts[host as usize];
        host.life != life || host.node.is_none()
    }
}
