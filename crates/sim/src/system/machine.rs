//! A machine: a disk that stays, and one process after the other.

use super::clock::TICK;
use super::invariants::applied::Ledger;
use super::network::{Cut, Handle, HostId, Net};
use super::process::{Phase, Process, Up, client_address, peer_address};
use super::scenario::{Plans, Scenario};
use super::trace;
use crate::engine::{Micros, SECOND};
use crate::rng::Rng;
use eaves::{Blocking, Config, Group, StartAs};
use eaves_log::sim::SimDisk;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where a node keeps its data, on its own disk.
const DATA_DIR: &str = "/data";

/// Starts in a thousand that find the disk slow, as long as the process runs.
const SLOW_PERMILLE: u64 = 80;

/// How many times as long everything takes then.
const SLOW_TIMES: u64 = 10;

/// How long after its disk failed a node may end at the latest: it lets clients go, and tries to save what it can.
pub const BREAKS_WITHIN: Micros = 15 * SECOND;

/// A machine.
pub struct Machine {
    /// Which it is.
    pub host: HostId,
    /// What was drawn for it.
    pub plans: Plans,
    /// Its disk.
    pub disk: SimDisk,
    /// Its process, if one runs.
    pub process: Option<Process>,
    /// How many processes it has had.
    pub run: u32,
    /// Until when its process stands still.
    pub paused_until: Micros,
    /// Until when its disk may fail, and so its process may break.
    pub disk_fails_until: Micros,
    /// It loses power once its disk has done so many operations, for so long.
    pub falls_at: Option<(u64, Micros)>,
    /// Processes that began while its disk was slow.
    pub slow_starts: u64,
    start_as: StartAs,
    raft: eaves::RaftTimes,
}

impl Machine {
    /// All machines of a scenario, without processes.
    pub fn all(scenario: &Scenario) -> Vec<Machine> {
        let address = |plans: &Plans| (plans.name.to_string(), peer_address(plans.name));
        let founders: Vec<_> = scenario.machines[..scenario.founders]
            .iter()
            .map(address)
            .collect();
        let group = Group::new("sim", &founders);
        let machines = scenario.machines.iter().enumerate();
        machines
            .map(|(host, plans)| Machine {
                host,
                plans: plans.clone(),
                disk: SimDisk::new(),
                process: None,
                run: 0,
                paused_until: 0,
                disk_fails_until: 0,
                falls_at: None,
                slow_starts: 0,
                start_as: match host < scenario.founders {
                    true => StartAs::Voter {
                        group: group.clone(),
                    },
                    false => StartAs::Listener {
                        upstreams: plans
                            .upstreams
                            .iter()
                            .map(|upstream| peer_address(scenario.machines[*upstream].name))
                            .collect(),
                    },
                },
                raft: scenario.raft,
            })
            .collect()
    }

    /// Starts a process.
    pub fn start(
        &mut self,
        now: Micros,
        net: &Arc<Net>,
        ledger: &Arc<Mutex<Ledger>>,
        rng: &mut Rng,
    ) {
        assert!(
            self.process.is_none(),
            "a machine runs one process at a time"
        );
        self.run += 1;
        let (host, seed) = (self.host, rng.any());
        let slow = rng.permille(SLOW_PERMILLE);
        self.slow_starts += u64::from(slow);
        let disk = self.plans.disk * if slow { SLOW_TIMES } else { 1 };
        let life = net.start(host);
        let handle = |clock| Handle {
            net: net.clone(),
            host,
            life,
            clock,
        };
        let configure = |handle: &Handle| self.config(handle, seed, disk);
        let process = Process::start(
            self.plans.name,
            now,
            handle,
            configure,
            ledger.clone(),
            self.run,
        );
        self.process = Some(process);
    }

    fn config(&self, handle: &Handle, seed: u64, disk: Micros) -> Config {
        let plans = &self.plans;
        let address = peer_address(plans.name);
        let mut config = Config::new(plans.name, DATA_DIR, address, self.start_as.clone());
        config.client_urls = vec![format!("http://{}", client_address(plans.name))];
        config.zone = plans.zone.to_string();
        config.capacity = plans.capacity;
        config.raft = self.raft;
        config.snapshot_entries = plans.snapshot_entries;
        config.log.segment_bytes = plans.segment_bytes;
        config.log.cache_bytes = plans.cache_bytes;
        config.log_retention_bytes = plans.retention_bytes;
        config.network = Arc::new(handle.clone());
        config.disk = Arc::new(self.disk.clone());
        config.blocking = Blocking::Inline(Duration::from_micros(disk.max(TICK)));
        config.seed = seed;
        config
    }

    /// Lets its process run until `to`, if it does not stand still.
    pub fn run_until(&mut self, to: Micros, window: Micros) {
        if self.paused_until >= to {
            return;
        }
        if let Some(process) = &mut self.process {
            process.run_until(to, window);
        }
    }

    /// The node, if it runs.
    pub fn up(&self) -> Option<Up> {
        self.process.as_ref().and_then(Process::up)
    }

    /// How far its process is, if there is one.
    pub fn phase(&self) -> Option<Phase> {
        self.process.as_ref().map(Process::phase)
    }

    /// Whether its disk may have failed its process by now.
    pub fn disk_may_fail(&self, now: Micros) -> bool {
        now <= self.disk_fails_until
    }

    /// Its disk fails from time to time until then, or is healed then.
    pub fn let_disk_fail_until(&mut self, until: Micros) {
        self.disk_fails_until = self.disk_fails_until.max(until + BREAKS_WITHIN);
    }

    /// Its process is gone from one moment to the next; what it had written is there. Returns whether one ran.
    pub fn kill(&mut self, net: &Net, how: Cut) -> bool {
        let Some(process) = self.process.take() else {
            return false;
        };
        trace::note(format_args!("{} is killed: {how:?}", self.plans.name));
        net.stop(self.host, how);
        self.paused_until = 0;
        // Nothing is tidied up by who is killed.
        self.disk.fail_all_after(0);
        drop(process);
        self.disk.heal();
        true
    }

    /// Its power fails, and with it what was not flushed. Returns whether a process ran.
    pub fn lose_power(&mut self, net: &Net, seed: u64) -> bool {
        let process = self.process.take();
        trace::note(format_args!("{} loses power", self.plans.name));
        net.stop(self.host, Cut::Silent);
        self.paused_until = 0;
        self.falls_at = None;
        self.disk.crash(seed);
        self.disk.fail_all_after(0);
        let ran = process.is_some();
        drop(process);
        self.disk.heal();
        ran
    }
}
