//! One run: what the seed has drawn happens, then all faults end, then what must come true has to.

use crate::engine::{MILLISECOND, Micros, SECOND};
use crate::faults::Undo;
use crate::host::{Power, host_of};
use crate::invariants::Violation;
use crate::invariants::liveness::{self, Order};
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::summary::Summary;
use crate::trace::Trace;
use crate::world::World;
use eaves_tree::Config;

/// How long administrators may take to get done what they have begun.
const JOBS_BOUND: Micros = 60 * SECOND;
/// How long after that every listener must be fed again at the latest. The parts: a silent upstream is noticed after 3 s,
/// patience below a detached head takes up to 24 s and may begin again once or twice, a rest takes 5 s, a question 5 s.
const REATTACH_BOUND: Micros = 90 * SECOND;
/// How long the views may take to be true after that.
const VIEWS_BOUND: Micros = 15 * SECOND;
/// How long it may take, beside some rounds of looking, until no listener could have a better place: a listener that has
/// improved three times waits an hour (`B7`).
const IMPROVE_BOUND: Micros = 4 * 3600 * SECOND;
/// How often it is looked whether something has come true.
const LOOK: Micros = 50 * MILLISECOND;

/// How a run ended.
pub struct Outcome {
    /// What was found wrong, if anything.
    pub violation: Option<Violation>,
    /// Hash of the trace.
    pub hash: u64,
    /// Hash of what the group did while there were faults.
    pub group_hash: u64,
    /// What happened.
    pub summary: Summary,
}

/// Runs a scenario from start to end.
pub fn run(scenario: Scenario, trace: Trace) -> Outcome {
    run_with(scenario, trace, |_| {})
}

/// The same, with each node's configuration changed by `tune`.
pub fn run_with(scenario: Scenario, mut trace: Trace, tune: impl Fn(&mut Config)) -> Outcome {
    for line in scenario.to_string().lines() {
        trace.line(0, line);
    }
    let world = World::new(scenario.setup, trace, tune);
    let mut run = Run {
        world,
        rng: Rng::new(scenario.seed, 3),
        undo: Vec::new(),
        summary: Summary::default(),
    };
    run.with_faults(scenario.starts, scenario.faults, scenario.calm_at);
    let group_hash = run.world.trace.group_hash();
    run.calm();
    run.reattach();
    run.be_quiet();
    run.finish(group_hash)
}

struct Run {
    world: World,
    rng: Rng,
    /// What ends the faults that go on, and when.
    undo: Vec<(Micros, Undo)>,
    summary: Summary,
}

impl Run {
    fn is_over(&self) -> bool {
        self.world.violation().is_some()
    }

    fn fail(&mut self, invariant: &'static str, what: String) {
        let at = self.world.now();
        self.world.checks.violation.get_or_insert(Violation {
            invariant,
            at,
            what,
        });
    }

    fn with_faults(
        &mut self,
        starts: Vec<(Micros, u32)>,
        faults: Vec<(Micros, crate::faults::Fault)>,
        end: Micros,
    ) {
        let mut starts = starts.into_iter().peekable();
        let mut faults = faults.into_iter().peekable();
        while !self.is_over() {
            self.undo.sort_by_key(|(at, _)| *at);
            let due = [
                starts.peek().map(|start| start.0),
                faults.peek().map(|fault| fault.0),
                self.undo.first().map(|undo| undo.0),
            ];
            let Some(next) = due.into_iter().flatten().min().filter(|next| *next < end) else {
                break;
            };
            self.world.run_until(next);
            if let Some((_, host)) = starts.next_if(|start| start.0 <= next) {
                self.world.start(host);
            } else if let Some((_, fault)) = faults.next_if(|fault| fault.0 <= next) {
                self.world.trace.line(next, &fault.to_string());
                *self.summary.faults.entry(fault.kind()).or_default() += 1;
                let undo = fault.happen(&mut self.world, &mut self.rng);
                self.undo
                    .extend(undo.into_iter().map(|(after, undo)| (next + after, undo)));
            } else {
                let (_, undo) = self.undo.remove(0);
                undo.happen(&mut self.world, &mut self.rng);
            }
        }
        self.world.run_until(end);
    }

    /// Ends all faults, and takes back what administrators asked of single nodes; pins stay in some runs.
    fn calm(&mut self) {
        if self.is_over() {
            return;
        }
        let world = &mut self.world;
        world.trace.line(world.now(), "the faults stop");
        world.network.quality.loss_permille = 0;
        world.network.quality.repeat_permille = 0;
        for (_, undo) in std::mem::take(&mut self.undo) {
            undo.happen(world, &mut self.rng);
        }
        let unpins = self.rng.permille(500);
        for host in world.numbers() {
            match world.hosts[host as usize].power {
                Power::Running => {}
                Power::Paused => world.resume(host, true),
                Power::Dead | Power::Silent => world.start(host),
            }
            let node = world.hosts[host as usize].node.as_ref();
            let steering = node.expect("all processes run").steering().clone();
            for avoided in steering.avoided {
                world.avoid(host, host_of(avoided), false);
            }
            if steering.pin.is_some() && unpins {
                world.pin(host, None);
            }
            if steering.draining {
                world.drain(host, false);
            }
        }
    }

    /// reattach and true-views.
    fn reattach(&mut self) {
        let began = self.world.now();
        self.wait(JOBS_BOUND, "reattach", |world| {
            let job = world.jobs.front();
            job.map(|job| format!("{job:?} is not done"))
        });
        if self.feeds_nobody() {
            return;
        }
        let target = self.world.checks.log.last_index();
        let mut waiting: Vec<u32> = liveness::listeners(&self.world).collect();
        let mut took = Vec::new();
        self.wait(REATTACH_BOUND, "reattach", |world| {
            let now = world.now();
            waiting.retain(|&host| {
                let fed = liveness::is_fed(world, host, target);
                if fed {
                    took.push(now - began);
                }
                !fed
            });
            let host = *waiting.first()?;
            Some(format!(
                "n{} is not fed: {}",
                host + 1,
                standing(world, host)
            ))
        });
        self.summary.reattach = took;
        self.wait(VIEWS_BOUND, "true-views", |world| {
            liveness::listeners(world).find_map(|host| liveness::untrue(world, host))
        });
    }

    /// Whether nobody can be fed, because there is no follower.
    fn feeds_nobody(&self) -> bool {
        self.world.checks.log.voters().len() < 2
    }

    /// min-depth and steady: places get better until none can be; and if that is so by the whole order, nobody moves any more.
    fn be_quiet(&mut self) {
        if self.is_over() || self.feeds_nobody() {
            return;
        }
        // A log of another history stays refused; an administrator takes it away.
        for host in self.world.numbers() {
            if self.world.hosts[host as usize].diverged {
                self.world.crash(host, false, 0);
            }
        }
        let improve = self.world.setup.improve;
        self.world.setup.write_interval = SECOND;
        self.world.run_until(self.world.now() + VIEWS_BOUND);
        self.world.checks.loops.quiet = true;
        self.wait(
            IMPROVE_BOUND + 20 * improve,
            "min-depth",
            lasting(Order::Levels),
        );
        if self.comes_true(20 * improve, lasting(Order::Whole)) {
            self.stay_steady(3 * improve);
        }
    }

    fn stay_steady(&mut self, time: Micros) {
        let before = self.world.counts.moves;
        self.world.run_until(self.world.now() + time);
        let moves = self.world.counts.moves - before;
        if moves > 0 && !self.is_over() {
            let what = format!(
                "{moves} moves in {} s though no place could be better",
                time / SECOND
            );
            self.fail("steady", what);
        }
        self.summary.steady += 1;
    }

    /// Waits until `lacks` finds nothing any more; what it still finds in the end is a violation.
    fn wait(
        &mut self,
        bound: Micros,
        invariant: &'static str,
        mut lacks: impl FnMut(&World) -> Option<String>,
    ) {
        if !self.comes_true(bound, &mut lacks) && !self.is_over() {
            let what = lacks(&self.world).unwrap_or_default();
            self.fail(invariant, format!("after {} s {what}", bound / SECOND));
        }
    }

    /// Whether `lacks` finds nothing any more within a time.
    fn comes_true(
        &mut self,
        bound: Micros,
        mut lacks: impl FnMut(&World) -> Option<String>,
    ) -> bool {
        let began = self.world.now();
        while !self.is_over() {
            if lacks(&self.world).is_none() {
                return true;
            }
            let now = self.world.now();
            if now > began + bound {
                return false;
            }
            // Looking often is only worth it as long as it goes fast.
            let pause = if now < began + 20 * SECOND {
                LOOK
            } else {
                SECOND
            };
            self.world.run_until(now + pause);
        }
        false
    }

    fn finish(mut self, group_hash: u64) -> Outcome {
        let world = &self.world;
        self.summary.seeds = 1;
        self.summary.happened = world.queue.popped();
        self.summary.simulated = world.now();
        self.summary.counts = world.counts.clone();
        self.summary.network = [
            world.network.losses,
            world.network.resets,
            world.network.repeats,
        ];
        self.summary.loops = world.checks.loops.lives.clone();
        Outcome {
            violation: world.violation().cloned(),
            hash: world.trace.hash(),
            group_hash,
            summary: self.summary,
        }
    }
}

/// Where a listener is, for a report.
fn standing(world: &World, host: u32) -> String {
    let machine = &world.hosts[host as usize];
    match &machine.node {
        Some(node) => format!(
            "it is at {}, attached {}, its log ends at {}, its last choice was {:?}",
            node.path(),
            node.is_attached(),
            machine.log.last(),
            node.last_choice()
        ),
        None => "it does not run".into(),
    }
}

/// Looks for a place that could be better; that there is none must last for a while, since who moves has two places for a
/// moment.
fn lasting(order: Order) -> impl FnMut(&World) -> Option<String> {
    let mut lacked_at = None;
    move |world| {
        let now = world.now();
        let better = liveness::could_do_better(world, order).or_else(|| liveness::moves(world));
        if better.is_some() {
            lacked_at = Some(now);
        }
        let just_now = now < *lacked_at.get_or_insert(now) + 2 * SECOND;
        better.or(just_now.then(|| "somebody has just moved".into()))
    }
}
