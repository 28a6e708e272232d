//! One run: what the seed has drawn happens, then all faults end, then what must come true has to, and what clients saw is checked.

use super::invariants::Violation;
use super::process::Up;
use super::scenario::Scenario;
use super::world::World;
use super::{entropy, faults, trace};
use crate::engine::{MILLISECOND, Micros, SECOND};
use crate::history;
use eaves::Role;
use eaves_kv::proto::etcdserverpb::RangeRequest;
use std::collections::BTreeMap;

/// How long after the faults everybody must run, lead, follow and be fed. Orders that are under way may take a minute of it.
const HEAL_BOUND: Micros = 150 * SECOND;

/// How long after that every node must take a write, and all must have applied the same.
const CONVERGE_BOUND: Micros = 60 * SECOND;

/// How long clients then have to read everything and to see their watches through.
const FAREWELL_BOUND: Micros = 120 * SECOND;

/// How often it is looked whether something has come true.
const LOOK: Micros = 100 * MILLISECOND;

/// How a run ended.
pub struct Outcome {
    /// What does not hold, and when that was seen.
    pub violation: Option<(Micros, Violation)>,
    /// What happened how often.
    pub counts: Counts,
    /// Hash of the trace.
    pub hash: u64,
}

/// What happened how often, by name.
pub type Counts = BTreeMap<String, u64>;

/// Runs a scenario from start to end, on a thread that runs no other.
pub fn run(scenario: &Scenario) -> Outcome {
    entropy::follow(scenario.seed);
    for line in scenario.to_string().lines() {
        trace::note(line);
    }
    let mut run = Run {
        world: World::new(scenario),
        counts: Counts::new(),
    };
    let ended = run.live(scenario);
    let violation = ended.err().map(|violation| (run.world.now(), violation));
    if let Some((_, violation)) = &violation {
        trace::note(format_args!(
            "{} does not hold: {}",
            violation.invariant, violation.what
        ));
    }
    run.count();
    let (hash, lines) = trace::hash();
    run.add("lines of trace", lines);
    Outcome {
        violation,
        counts: run.counts,
        hash,
    }
}

struct Run {
    world: World,
    counts: Counts,
}

impl Run {
    fn live(&mut self, scenario: &Scenario) -> Result<(), Violation> {
        self.world.run_until(scenario.calm_at)?;
        self.world.calm();
        let began = self.world.now();
        self.wait("heals", HEAL_BOUND, leaderless)?;
        // Where nobody may go, nobody has to have gone.
        self.world.unsteer();
        self.wait("heals", HEAL_BOUND, unhealthy)?;
        self.add(
            "milliseconds to heal",
            (self.world.now() - began) / MILLISECOND,
        );
        let written = self.world.clients.write_everywhere();
        self.wait("takes-writes", CONVERGE_BOUND, |_| {
            (!*written.borrow()).then(|| "a node takes no write".to_string())
        })?;
        self.world.clients.be_quiet();
        self.wait("converges", CONVERGE_BOUND, |world| {
            let quiet = world.clients.are_quiet();
            differing(world).or((!quiet).then(|| "a client still waits".to_string()))
        })?;
        let ups = self.ups();
        let revision = ups[0].store.revision();
        self.world.clients.end_watches_at(revision);
        let read = self.world.clients.read_everywhere();
        self.wait("says-farewell", FAREWELL_BOUND, |world| {
            let done = *read.borrow() && world.clients.have_seen_all();
            (!done).then(|| "a read or a watch does not end".to_string())
        })?;
        same_contents(&ups)?;
        self.check_history()
    }

    fn check_history(&mut self) -> Result<(), Violation> {
        let history = self.world.clients.history();
        let verdict = history::check(&history);
        let checked = verdict.checked;
        self.add("operations searched for an order", checked.searched as u64);
        self.add("writes known by revision", checked.written as u64);
        self.add("reads compared by revision", checked.reads as u64);
        self.add("watch events", checked.events as u64);
        match verdict.violations.into_iter().next() {
            None => Ok(()),
            Some(violation) => {
                let what = format!("{:?}: {}", violation.rule, violation.what);
                Err(Violation::new("client-history", what))
            }
        }
    }

    fn ups(&self) -> Vec<Up> {
        self.world
            .machines
            .iter()
            .filter_map(|machine| machine.up())
            .collect()
    }

    /// Waits until `lacks` finds nothing any more.
    fn wait(
        &mut self,
        invariant: &'static str,
        bound: Micros,
        mut lacks: impl FnMut(&World) -> Option<String>,
    ) -> Result<(), Violation> {
        let end = self.world.now() + bound;
        loop {
            let Some(lack) = lacks(&self.world) else {
                return Ok(());
            };
            if self.world.now() >= end {
                let what = format!("after {} s {lack}", bound / SECOND);
                return Err(Violation::new(invariant, what));
            }
            self.world.run_until(self.world.now() + LOOK)?;
        }
    }

    fn add(&mut self, name: &str, count: u64) {
        *self.counts.entry(name.to_string()).or_default() += count;
    }

    fn count(&mut self) {
        let tallies = self.world.clients.tallies();
        let orders = self.world.orders.tallies();
        let happened = self.world.happened.clone();
        let (applied, installed) = {
            let ledger = self.world.ledger.lock().unwrap();
            (ledger.applied, ledger.installed)
        };
        let slow_starts = self
            .world
            .machines
            .iter()
            .map(|machine| machine.slow_starts)
            .sum();
        for (name, count) in [
            ("starts on a slow disk", slow_starts),
            ("requests done", tallies.done),
            ("requests not done", tallies.failed),
            ("requests of unknown outcome", tallies.unknown),
            ("watches gone elsewhere", tallies.rewatched),
            ("watches overtaken by compaction", tallies.overtaken),
            ("compactions", tallies.compactions),
            ("orders of what was so already", orders.idle),
            ("orders refused or failed", orders.failed),
            ("orders whose node went down", orders.lost),
            ("elections", self.world.watch.elections),
            ("moves to another upstream", self.world.watch.moves),
            ("turns between voter and listener", self.world.watch.turns),
            ("connections broken", self.world.broken_connections()),
            ("processes broken by their disk", happened.broke),
            ("restarts", happened.restarts),
            ("entries applied", applied),
            ("snapshots installed", installed),
            ("virtual milliseconds", self.world.now() / MILLISECOND),
        ] {
            self.add(name, count);
        }
        for kind in faults::KINDS {
            let count = happened.faults.get(kind).copied().unwrap_or(0);
            self.add(&format!("fault: {kind}"), count);
        }
        for kind in faults::ORDERS {
            let count = |of: &BTreeMap<&str, u64>| of.get(kind).copied().unwrap_or(0);
            self.add(&format!("asked: {kind}"), count(&happened.faults));
            self.add(&format!("carried out: {kind}"), count(&orders.done));
        }
    }
}

/// Whether somebody does not run, or not one voter leads.
fn leaderless(world: &World) -> Option<String> {
    let mut leaders = 0;
    for machine in &world.machines {
        match machine.up() {
            None => return Some(format!("{} does not run", machine.plans.name)),
            Some(up) => leaders += u64::from(up.node.status().borrow().role == Role::Leader),
        }
    }
    (leaders != 1).then(|| format!("{leaders} nodes lead"))
}

/// What is not yet as it should be once nothing is wrong any more.
fn unhealthy(world: &World) -> Option<String> {
    if let Some(lack) = leaderless(world) {
        return Some(lack);
    }
    if world.orders.tallies().pending > 0 {
        return Some("an order is not carried out".to_string());
    }
    let statuses = world.machines.iter().filter_map(|machine| {
        let status = machine.up()?.node.status().borrow().clone();
        Some((machine.plans.name, status))
    });
    let statuses: Vec<_> = statuses.collect();
    let voters = statuses
        .iter()
        .filter(|(_, status)| status.role != Role::Listener);
    // A leader feeds nobody, and a group of one has nobody else.
    let feeds_nobody = voters.count() < 2;
    let lost = statuses.iter().find(|(_, status)| {
        let detached = status.depth.is_none() || status.leader.is_none();
        detached && !(feeds_nobody && status.role == Role::Listener)
    });
    lost.map(|(name, status)| format!("{name} is not where it should be: {status:?}"))
}

/// Whether nodes have not applied the same yet.
fn differing(world: &World) -> Option<String> {
    let mut first = None;
    for machine in &world.machines {
        let Some(up) = machine.up() else {
            return Some(format!("{} does not run", machine.plans.name));
        };
        let stands = (up.node.positions().applied, up.store.revision());
        if *first.get_or_insert(stands) != stands {
            return Some(format!(
                "{} stands at {stands:?}, another at {first:?}",
                machine.plans.name
            ));
        }
    }
    None
}

/// All that stand at the same revision have the same keys.
fn same_contents(ups: &[Up]) -> Result<(), Violation> {
    let everything = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..RangeRequest::default()
    };
    let mut contents = ups
        .iter()
        .map(|up| up.store.range(&everything).map(|range| range.kvs));
    let first = contents.next();
    match contents.all(|other| Some(other) == first) {
        true => Ok(()),
        false => Err(Violation::new(
            "state-machine-safety",
            "stores at the same revision differ",
        )),
    }
}
