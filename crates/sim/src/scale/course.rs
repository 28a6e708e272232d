//! One course: what is done to the tree, and what is measured.

use super::{Report, START_SPREAD};
use crate::engine::{MILLISECOND, Micros, SECOND};
use crate::ledger::Gap;
use crate::network::Quality;
use crate::raft::Times;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::{HostSetup, Setup, World};
use std::fmt;

/// How long a step may take until everybody is fed again, before it is given up.
const STEP_BOUND: Micros = 120 * SECOND;
/// How often it is looked whether a step is over.
const LOOK: Micros = 10 * MILLISECOND;
/// One in so many inner listeners dies at once.
const INNER_SHARE: usize = 10;

/// What a tree is like, and its network.
#[derive(Clone, Debug)]
pub struct Course {
    /// How many listeners.
    pub listeners: u32,
    /// N, of all nodes.
    pub capacity: u32,
    /// How many voters.
    pub voters: u32,
    /// On average.
    pub round_trip: Micros,
    /// How long a node works on a question.
    pub question_cost: Micros,
    /// How long nothing is done after the cold start and after each loss.
    pub quiet: Micros,
    /// Where all random numbers come from.
    pub seed: u64,
}

/// What one step did to the tree.
#[derive(Clone, Debug)]
pub struct Row {
    /// The step.
    pub step: &'static str,
    /// From its begin until everybody was fed.
    pub all: Micros,
    /// Those that had to find an upstream.
    pub searched: Vec<Gap>,
    /// Those for whom somebody above them found one.
    pub waited: Vec<Gap>,
    /// Who was still cut off when the step was given up.
    pub unfed: usize,
    /// How many listeners found a better place (`B7`).
    pub moves: u64,
    /// The depths after it: the largest, and the mean.
    pub depth: (u32, f64),
}

impl Course {
    /// The least possible largest depth of a tree of so many listeners.
    pub fn least_depth(&self) -> u32 {
        let (mut level, mut room, mut depth) = (u64::from(self.voters) - 1, 0, 0);
        while room < u64::from(self.listeners) {
            level *= u64::from(self.capacity);
            room += level;
            depth += 1;
        }
        depth
    }

    /// The shortest and the longest round trip between two nodes.
    pub fn round_trips(&self) -> (Micros, Micros) {
        let near = self.near();
        (2 * near, 2 * (near + near / 2))
    }

    /// The least delay one way. Delays are between it and half more, so the mean is a quarter more.
    fn near(&self) -> Micros {
        self.round_trip / 2 * 4 / 5
    }

    /// Runs it, and says on the way how far it is.
    pub fn run(&self, say: &dyn Fn(&str)) -> Report {
        let began = std::time::Instant::now();
        let mut run = Run {
            course: self,
            world: World::new(self.setup(), Trace::default(), |_| {}),
            rng: Rng::new(self.seed, 4),
            rows: Vec::new(),
            say,
        };
        run.found();
        run.cold();
        run.quiet();
        run.leader_steps_down();
        run.leader_is_lost();
        run.inner_listeners_die("a tenth of the inner ones killed", false);
        run.quiet();
        run.inner_listeners_die("a tenth of the inner ones lost", true);
        Report {
            course: self.clone(),
            leader_heartbeats: run.world.ledger.leader_heartbeats,
            leader_entries: run.world.ledger.leader_entries,
            violation: run.world.violation().cloned(),
            rows: run.rows,
            happened: run.world.events(),
            took: began.elapsed(),
        }
    }

    fn setup(&self) -> Setup {
        let host = |number| HostSetup {
            capacity: self.capacity,
            zone: 0,
            upstreams: match number < self.voters {
                true => Vec::new(),
                false => vec![0],
            },
        };
        let near = self.near();
        Setup {
            seed: self.seed,
            hosts: (0..self.voters + self.listeners).map(host).collect(),
            founders: self.voters,
            quality: Quality {
                near,
                far: near,
                jitter: 0,
                loss_permille: 0,
                reset_permille: 0,
                repeat_permille: 0,
                connect_round_trips: 1,
            },
            // openraft's rule of thumb: a heartbeat well above the round trip, an election at ten heartbeats or more.
            times: Times {
                heartbeat: (2 * self.round_trip).max(100 * MILLISECOND),
                election: 10 * (2 * self.round_trip).max(100 * MILLISECOND),
            },
            flush: MILLISECOND,
            flush_interval: SECOND,
            write_interval: 3600 * SECOND,
            retention: 1000,
            improve: 60 * SECOND,
            question_cost: self.question_cost,
            snapshot: MILLISECOND,
        }
    }
}

struct Run<'a> {
    course: &'a Course,
    world: World,
    rng: Rng,
    rows: Vec<Row>,
    say: &'a dyn Fn(&str),
}

impl Run<'_> {
    /// The group elects a leader.
    fn found(&mut self) {
        while self.world.leader().is_none() {
            self.world.run_until(self.world.now() + LOOK);
        }
        self.world.run_until(self.world.now() + SECOND);
    }

    fn cold(&mut self) {
        let began = self.world.now();
        let listeners = self.course.voters..self.course.voters + self.course.listeners;
        let mut starts: Vec<(Micros, u32)> = listeners
            .map(|host| (began + self.rng.below(START_SPREAD), host))
            .collect();
        starts.sort_unstable();
        for (at, host) in starts {
            self.world.run_until(at);
            self.world.start(host);
        }
        self.row("cold start", began);
    }

    /// Nothing is done; listeners look for better places.
    fn quiet(&mut self) {
        self.world.ledger.begin();
        let (began, moves) = (self.world.now(), self.world.counts.moves);
        self.world.run_until(began + self.course.quiet);
        self.push("quiet", began, moves);
    }

    fn leader_steps_down(&mut self) {
        let Some(old) = self.world.leader() else {
            return;
        };
        let voters = self.world.hosts[old as usize].log.voters().without(old);
        let busiest = voters.iter().max_by_key(|&voter| self.registered(voter));
        let heir = busiest.expect("a group of two or more");
        self.world.ledger.begin();
        let began = self.world.now();
        self.world
            .group_act(old, |raft, env| raft.transfer(env, heir));
        self.until_led_by_another(old);
        self.row("leader steps down", began);
    }

    fn leader_is_lost(&mut self) {
        let Some(old) = self.world.leader() else {
            return;
        };
        self.world.ledger.begin();
        let began = self.world.now();
        (self.say)(&format!("the leader, n{}, is lost", old + 1));
        self.world.crash(old, true, 0);
        self.until_led_by_another(old);
        self.row("leader lost", began);
        self.world.start(old);
        self.quiet();
    }

    /// The new leader has kicked its listeners, and they know it.
    fn until_led_by_another(&mut self, old: u32) {
        let bound = self.world.now() + STEP_BOUND;
        while self.world.leader().is_none_or(|leader| leader == old) && !self.is_over(bound) {
            self.world.run_until(self.world.now() + LOOK);
        }
        self.world
            .run_until(self.world.now() + self.course.round_trip);
    }

    fn inner_listeners_die(&mut self, step: &'static str, with_machines: bool) {
        let first = self.course.voters;
        let mut inner: Vec<u32> = self
            .world
            .numbers()
            .filter(|&host| host >= first && self.registered(host) > 0)
            .collect();
        self.world.ledger.begin();
        let began = self.world.now();
        for _ in 0..inner.len().div_ceil(INNER_SHARE) {
            let victim = inner.swap_remove(self.rng.below(inner.len() as u64) as usize);
            self.world.crash(victim, with_machines, 0);
        }
        // A lost machine is noticed after the timeout; before that nobody is cut off, as far as anybody knows.
        self.world.run_until(began + 5 * SECOND);
        self.row(step, began);
    }

    fn registered(&self, host: u32) -> u32 {
        let node = self.world.hosts[host as usize].node.as_ref();
        node.map_or(0, |node| node.registered())
    }

    fn is_over(&self, bound: Micros) -> bool {
        self.world.violation().is_some() || self.world.now() >= bound
    }

    /// Lets everybody find an upstream, then notes what it took.
    fn row(&mut self, step: &'static str, began: Micros) {
        let moves = self.world.counts.moves;
        while self.world.ledger.open() > 0 && !self.is_over(began + STEP_BOUND) {
            self.world.run_until(self.world.now() + LOOK);
        }
        self.push(step, began, moves);
    }

    fn push(&mut self, step: &'static str, began: Micros, moves: u64) {
        let ledger = &self.world.ledger;
        let (searched, waited) = ledger.gaps.iter().partition(|gap| gap.searched);
        let ends = ledger.gaps.iter().map(|gap| gap.until);
        let row = Row {
            step,
            all: ends.max().map_or(0, |end| end - began),
            searched,
            waited,
            unfed: ledger.open(),
            moves: self.world.counts.moves - moves,
            depth: self.depth(),
        };
        (self.say)(&row.to_string());
        self.rows.push(row);
    }

    fn depth(&self) -> (u32, f64) {
        let listeners = &self.world.hosts[self.course.voters as usize..];
        let nodes = listeners.iter().filter_map(|host| host.node.as_ref());
        let depths = nodes
            .filter(|node| node.is_attached())
            .map(|node| node.path().depth());
        let (mut most, mut sum, mut count) = (0, 0, 0u32);
        for depth in depths {
            most = most.max(depth);
            sum += u64::from(depth);
            count += 1;
        }
        (most, sum as f64 / f64::from(count.max(1)))
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} listeners, N {}, {} ms",
            self.listeners,
            self.capacity,
            self.round_trip / MILLISECOND
        )
    }
}
