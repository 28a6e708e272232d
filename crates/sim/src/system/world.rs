//! All machines, the network and the clients together, and how time passes for them.
//!
//! # Turns
//!
//! Each machine has a runtime and a clock of its own, as each process has in reality. Time passes in steps of one *window*, the
//! shortest time that anything takes from one machine to another. In each step the machines run one after the other, each up to the end
//! of the window: what one sends, another cannot have got before, so that it does not matter who comes first. Between two steps
//! everything stands still, and so can be looked at, killed and cut.
//!
//! Why not one runtime for all: then a node could not be killed, since its tasks are anywhere, nor be made to stand still.

use super::clients::Clients;
use super::faults::{Fault, Order, POWER_LOSS_WHILE_WRITING};
use super::invariants::Violation;
use super::invariants::applied::Ledger;
use super::invariants::watch::{Look, Watch};
use super::machine::{BREAKS_WITHIN, Machine};
use super::network::{Cut, Handle, HostId, Net};
use super::operator::Orders;
use super::process::{Ending, Phase};
use super::scenario::Scenario;
use super::{clients, trace};
use crate::engine::{MILLISECOND, Micros, Queue, SECOND};
use crate::rng::Rng;
use eaves::Role;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// How soon an operator starts a process again that has broken.
const OPERATOR_AFTER: (Micros, Micros) = (200 * MILLISECOND, 3 * SECOND);

/// What is going to happen.
enum Event {
    Fault(Fault),
    /// A process is started, if none runs.
    Start(HostId),
    /// Links are mended.
    Mend(Vec<(HostId, HostId)>),
    /// A machine's links are as fast as before.
    Hurry(HostId),
    /// A disk works again.
    Heal(HostId),
}

/// How often what happened.
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// Faults that somebody felt, and orders that somebody heard, by kind. What an order came to, [`Orders`] counts; how often a disk
    /// that was to fail did, `broke`.
    pub faults: BTreeMap<&'static str, u64>,
    /// Processes that broke because their disk did.
    pub broke: u64,
    /// Processes started after the first of each machine.
    pub restarts: u64,
}

/// The world.
pub struct World {
    now: Micros,
    window: Micros,
    /// The machines, by number.
    pub machines: Vec<Machine>,
    /// The clients.
    pub clients: Clients,
    /// What administrators have asked for.
    pub orders: Orders,
    /// What has been seen of the nodes.
    pub watch: Watch,
    /// What they have applied.
    pub ledger: Arc<Mutex<Ledger>>,
    /// How often what happened.
    pub happened: Happened,
    net: Arc<Net>,
    queue: Queue<Event>,
    rng: Rng,
    /// How many voters administrators may still take away.
    demotions_left: usize,
}

impl World {
    /// The world as a scenario draws it.
    pub fn new(scenario: &Scenario) -> World {
        let machines = Machine::all(scenario);
        let nodes: Vec<&'static str> = machines.iter().map(|machine| machine.plans.name).collect();
        let names = [&nodes[..], &[clients::MACHINE]].concat();
        let mut rng = Rng::new(scenario.seed, 103);
        let net = Net::new(&names, scenario.shape.clone(), Rng::new(scenario.seed, 104));
        let clients_host = machines.len();
        let clients_net = net.clone();
        let clients = Clients::start(
            scenario.clients.clone(),
            nodes,
            0,
            |clock| Handle {
                life: clients_net.start(clients_host),
                net: clients_net,
                host: clients_host,
                clock,
            },
            Rng::new(rng.any(), 105),
        );
        let mut queue = Queue::default();
        for machine in &machines {
            queue.post_at(machine.plans.starts_at, Event::Start(machine.host));
        }
        for (at, fault) in &scenario.faults {
            queue.post_at(*at, Event::Fault(fault.clone()));
        }
        World {
            now: 0,
            window: scenario.shape.window,
            machines,
            clients,
            orders: Orders::default(),
            watch: Watch::default(),
            ledger: Arc::default(),
            happened: Happened::default(),
            net,
            queue,
            rng,
            demotions_left: scenario.founders - 2,
        }
    }

    /// What time it is.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Lets time pass until `at`.
    pub fn run_until(&mut self, at: Micros) -> Result<(), Violation> {
        while self.now < at {
            self.step()?;
        }
        Ok(())
    }

    /// One window.
    pub fn step(&mut self) -> Result<(), Violation> {
        self.now += self.window;
        trace::turn("", None, self.now);
        while self.queue.next_at().is_some_and(|at| at <= self.now) {
            let event = self.queue.pop().expect("an event was seen");
            self.happen(event);
        }
        for machine in &mut self.machines {
            machine.run_until(self.now, self.window);
        }
        self.clients.run_until(self.now);
        trace::turn("", None, self.now);
        self.net.tick(self.now);
        self.let_fall();
        self.look_after_processes()?;
        self.check()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(fault) => {
                trace::note(format_args!("{fault:?}"));
                let kind = fault.kind();
                if self.strike(fault) {
                    self.count(kind);
                }
            }
            Event::Start(host) => self.start(host),
            Event::Mend(links) => {
                for (from, to) in links {
                    self.net.set_cut(from, to, false);
                }
            }
            Event::Hurry(host) => self.set_slowed(host, 1),
            Event::Heal(host) => {
                self.machines[host].disk.heal();
                self.machines[host].disk.set_capacity(None);
            }
        }
    }

    fn count(&mut self, kind: &'static str) {
        *self.happened.faults.entry(kind).or_default() += 1;
    }

    /// Lets a fault happen. Returns whether anybody was there to feel it: only what took effect shows anything.
    fn strike(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Kill { who, down, resets } => {
                let how = if resets { Cut::Reset } else { Cut::Closed };
                let mut ran = false;
                for host in who {
                    ran |= self.machines[host].kill(&self.net, how);
                    self.start_after(host, down);
                }
                ran
            }
            Fault::PowerLoss { who, down } => {
                let mut ran = false;
                for host in who {
                    ran |= self.lose_power(host, down);
                }
                ran
            }
            Fault::PowerLossWhileWriting { who, after, down } => {
                let machine = &mut self.machines[who];
                if machine.process.is_some() {
                    machine.disk.fail_all_after(after);
                    let last = machine.disk.operations() + after;
                    machine.falls_at = Some((last, down));
                }
                // It is counted when it falls: what it still had to do may never be done.
                false
            }
            Fault::Restart { who, down } => {
                let Some(process) = &self.machines[who].process else {
                    return false;
                };
                process.tell_to_stop();
                self.start_after(who, down);
                true
            }
            Fault::Pause { who, lasts } => {
                self.machines[who].paused_until = self.now + lasts;
                self.runs(who)
            }
            Fault::Partition {
                sides,
                one_way,
                bridge,
                lasts,
            } => self.partition(&sides, one_way, bridge, lasts),
            Fault::Slow { who, times, lasts } => {
                self.set_slowed(who, times);
                self.queue.post_at(self.now + lasts, Event::Hurry(who));
                self.runs(who)
            }
            Fault::Reset { who } => {
                let hosts = self.machines.len() + 1;
                let mut broken = 0;
                for one in 0..hosts {
                    for other in 0..one {
                        if who.is_none_or(|who| who == one || who == other) {
                            broken += self.net.reset(one, other);
                        }
                    }
                }
                broken > 0
            }
            Fault::FailSyncs { who, after, lasts } => {
                self.machines[who].disk.fail_syncs_after(after);
                self.heal_after(who, lasts);
                self.runs(who)
            }
            Fault::FailWrites { who, after, lasts } => {
                self.machines[who].disk.fail_writes_after(after);
                self.heal_after(who, lasts);
                self.runs(who)
            }
            Fault::FullDisk { who, room, lasts } => {
                let disk = &self.machines[who].disk;
                disk.set_capacity(Some(disk.used_bytes() + room));
                self.heal_after(who, lasts);
                self.runs(who)
            }
            Fault::Wipe { who, down } => self.wipe(who, down),
            Fault::Order { at, order } => self.give(at, order),
        }
    }

    fn runs(&self, host: HostId) -> bool {
        self.machines[host].process.is_some()
    }

    /// Returns whether a node has heard the order.
    fn give(&mut self, at: HostId, order: Order) -> bool {
        let name = |host: HostId| self.machines[host].plans.name.to_string();
        // A group of one feeds nobody (S1): nobody wants one who has listeners.
        if matches!(order, Order::Demote(_)) {
            if self.demotions_left == 0 {
                return false;
            }
            self.demotions_left -= 1;
        }
        let asked = &self.machines[at];
        let (Some(process), Some(up)) = (&asked.process, asked.up()) else {
            return false;
        };
        self.orders.give(process, up.node, &order, name);
        true
    }

    /// What is on its disk is gone for good: only a listener may lose it, and nobody about to be something else. Returns whether
    /// it was.
    fn wipe(&mut self, who: HostId, down: Micros) -> bool {
        let listens = self
            .watch
            .status(who)
            .is_some_and(|status| status.role == Role::Listener);
        if !listens || self.orders.may_have_promoted() {
            return false;
        }
        self.machines[who].kill(&self.net, Cut::Closed);
        self.machines[who].disk = Default::default();
        self.start_after(who, down);
        true
    }

    /// Returns whether any link was cut that was not before.
    fn partition(
        &mut self,
        sides: &[u8],
        one_way: bool,
        bridge: Option<HostId>,
        lasts: Micros,
    ) -> bool {
        let mut links = Vec::new();
        for from in 0..sides.len() {
            for to in 0..sides.len() {
                let apart = sides[from] != sides[to] && Some(from) != bridge && Some(to) != bridge;
                if apart && !(one_way && sides[from] != 0) && !self.net.is_cut(from, to) {
                    self.net.set_cut(from, to, true);
                    links.push((from, to));
                }
            }
        }
        let any = !links.is_empty();
        self.queue.post_at(self.now + lasts, Event::Mend(links));
        any
    }

    fn set_slowed(&self, host: HostId, times: u64) {
        for other in 0..=self.machines.len() {
            self.net.set_slowed(host, other, times);
            self.net.set_slowed(other, host, times);
        }
    }

    /// Returns whether a process ran there.
    fn lose_power(&mut self, host: HostId, down: Micros) -> bool {
        let seed = self.rng.any();
        let ran = self.machines[host].lose_power(&self.net, seed);
        self.start_after(host, down);
        ran
    }

    fn heal_after(&mut self, host: HostId, after: Micros) {
        let until = self.now + after;
        self.machines[host].let_disk_fail_until(until);
        self.queue.post_at(self.now + after, Event::Heal(host));
    }

    fn start_after(&mut self, host: HostId, after: Micros) {
        self.queue.post_at(self.now + after, Event::Start(host));
    }

    fn start(&mut self, host: HostId) {
        let machine = &mut self.machines[host];
        if machine.process.is_some() {
            return;
        }
        self.happened.restarts += u64::from(machine.run > 0);
        machine.start(self.now, &self.net, &self.ledger, &mut self.rng);
        trace::note(format_args!("{} starts", machine.plans.name));
    }

    /// Machines whose disk has done as much as it was to do lose power.
    fn let_fall(&mut self) {
        for host in 0..self.machines.len() {
            let machine = &self.machines[host];
            if let Some((at, down)) = machine.falls_at
                && machine.disk.operations() > at
                && self.lose_power(host, down)
            {
                self.count(POWER_LOSS_WHILE_WRITING);
            }
        }
    }

    /// Processes that have ended are started again by somebody; that they ended must have had a reason.
    fn look_after_processes(&mut self) -> Result<(), Violation> {
        for host in 0..self.machines.len() {
            let machine = &mut self.machines[host];
            let run = machine.process.as_ref().map(|_| machine.run);
            self.clients.tell_run(host, run);
            let Some(Phase::Ended(ending)) = machine.phase() else {
                continue;
            };
            let excused = machine.disk_may_fail(self.now) || machine.falls_at.is_some();
            match ending {
                Ending::Told => {}
                Ending::Broke(_) if excused => self.happened.broke += 1,
                Ending::Refused(_) if excused => {}
                Ending::Broke(why) => {
                    let what = format!("{} broke: {why}", machine.plans.name);
                    return Err(Violation::new("never-breaks", what));
                }
                Ending::Refused(why) => {
                    let what = format!("{} does not start: {why}", machine.plans.name);
                    return Err(Violation::new("starts-again", what));
                }
            }
            machine.kill(&self.net, Cut::Closed);
            let after = self.rng.between(OPERATOR_AFTER.0, OPERATOR_AFTER.1);
            self.start_after(host, after);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Violation> {
        let applied = {
            let ledger = self.ledger.lock().unwrap();
            if let Some(violation) = ledger.violation() {
                return Err(violation.clone());
            }
            ledger.highest
        };
        if let Some(wrong) = self.clients.wrong() {
            return Err(Violation::new("answers-make-sense", wrong));
        }
        for machine in &self.machines {
            match machine.up() {
                None => self.watch.forget(machine.host),
                Some(up) if machine.paused_until < self.now => self.watch.look(&Look {
                    host: machine.host,
                    name: machine.plans.name,
                    run: machine.run,
                    status: up.node.status().borrow().clone(),
                    positions: up.node.positions(),
                    feeds: up.node.downstream_lags().len(),
                    capacity: machine.plans.capacity,
                    applied,
                })?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// All faults end: links are mended, disks work, everybody runs.
    pub fn calm(&mut self) {
        trace::note("the faults stop");
        let hosts = self.machines.len() + 1;
        self.queue = Queue::default();
        for host in 0..hosts {
            for other in 0..hosts {
                self.net.set_cut(host, other, false);
                self.net.set_slowed(host, other, 1);
            }
        }
        for host in 0..self.machines.len() {
            let machine = &mut self.machines[host];
            machine.paused_until = 0;
            machine.falls_at = None;
            machine.disk.heal();
            machine.disk.set_capacity(None);
            machine.disk_fails_until = machine.disk_fails_until.min(self.now + BREAKS_WITHIN);
            self.start(host);
        }
    }

    /// Asks a node that runs to take back what administrators asked of single nodes.
    pub fn unsteer(&mut self) {
        let names = self
            .machines
            .iter()
            .map(|machine| machine.plans.name.to_string());
        let names = names.collect();
        for machine in &self.machines {
            if let (Some(process), Some(up)) = (&machine.process, machine.up()) {
                return self.orders.unsteer(process, up.node, names);
            }
        }
    }

    /// Connections that broke or timed out.
    pub fn broken_connections(&self) -> u64 {
        self.net.broken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is counted when these faults happen to a world in which `running` run.
    fn counted(running: &[HostId], faults: Vec<Fault>) -> Vec<&'static str> {
        let mut world = World::new(&Scenario::draw(1));
        for host in running {
            world.start(*host);
        }
        for fault in faults {
            world.happen(Event::Fault(fault));
        }
        world.happened.faults.into_keys().collect()
    }

    #[test]
    fn a_fault_that_nobody_feels_is_not_counted() {
        let (who, down, lasts) = (0, SECOND, SECOND);
        let faults = || {
            vec![
                Fault::Wipe { who, down },
                Fault::Reset { who: None },
                Fault::Slow {
                    who,
                    times: 2,
                    lasts,
                },
                Fault::Pause { who, lasts },
                Fault::FailSyncs {
                    who,
                    after: 9,
                    lasts,
                },
                Fault::PowerLossWhileWriting {
                    who,
                    after: 9,
                    down,
                },
                Fault::Order {
                    at: who,
                    order: Order::Kick(1),
                },
                Fault::Restart { who, down },
                Fault::Kill {
                    who: vec![who],
                    down,
                    resets: false,
                },
                Fault::PowerLoss {
                    who: vec![who],
                    down,
                },
            ]
        };
        assert_eq!(counted(&[], faults()), [""; 0]);
        // Who is killed has no power to lose, nor anything to be told while it starts.
        let felt = ["failing flushes", "kill", "pause", "restart", "slow links"];
        assert_eq!(counted(&[0], faults()), felt);
    }
}
