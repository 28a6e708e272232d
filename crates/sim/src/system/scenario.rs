//! What a seed draws: the machines, the network, the clients, and what goes wrong when.

use super::clients::Plan;
use super::clock::TICK;
use super::faults::{self, Fault};
use super::network::{HostId, Shape};
use crate::engine::{MILLISECOND, Micros, SECOND};
use crate::rng::Rng;
use eaves::RaftTimes;
use std::fmt;
use std::time::Duration;

/// Names of voters that found the group.
const VOTERS: [&str; 5] = ["v1", "v2", "v3", "v4", "v5"];

/// Names of listeners.
const LISTENERS: [&str; 8] = ["l1", "l2", "l3", "l4", "l5", "l6", "l7", "l8"];

/// Names of zones.
const ZONES: [&str; 2] = ["east", "west"];

/// Everything that a seed decides before the run begins.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// The machines: the founders first, then the listeners.
    pub machines: Vec<Plans>,
    /// How many of them found the group.
    pub founders: usize,
    /// What the network is like.
    pub shape: Shape,
    /// Raft's times, the same for all.
    pub raft: RaftTimes,
    /// The clients.
    pub clients: Plan,
    /// What goes wrong when, in order.
    pub faults: Vec<(Micros, Fault)>,
    /// When all that ends.
    pub calm_at: Micros,
}

/// What one machine is like.
#[derive(Clone, Debug)]
pub struct Plans {
    /// Its name.
    pub name: &'static str,
    /// When it is started first.
    pub starts_at: Micros,
    /// Where a listener looks for an upstream; empty for a founder.
    pub upstreams: Vec<HostId>,
    /// Its zone, perhaps none.
    pub zone: &'static str,
    /// How many listeners it takes.
    pub capacity: u32,
    /// How long a flush of its disk takes, and every other piece of work that blocks.
    pub disk: Micros,
    /// Size of the log's segments.
    pub segment_bytes: u64,
    /// Memory for the log's tail.
    pub cache_bytes: usize,
    /// How much log is kept.
    pub retention_bytes: u64,
    /// Entries between two of Raft's snapshots.
    pub snapshot_entries: u64,
}

impl Scenario {
    /// What `seed` draws.
    pub fn draw(seed: u64) -> Scenario {
        let rng = &mut Rng::new(seed, 101);
        let founders = *rng.pick(&[3, 3, 3, 3, 5]);
        let listeners = rng.scale(1, LISTENERS.len() as u64 + 1) as usize - 1;
        let names = VOTERS[..founders].iter().chain(&LISTENERS[..listeners]);
        let zones = rng.permille(300);
        let log = Log::draw(rng);
        let narrow = rng.permille(500);
        let machines: Vec<Plans> = names
            .enumerate()
            .map(|(host, name)| Plans {
                name,
                starts_at: match host < founders {
                    true => 0,
                    false => TICK * rng.below(4_000),
                },
                upstreams: match host < founders {
                    true => Vec::new(),
                    false => draw_upstreams(rng, host, founders),
                },
                zone: match zones {
                    true => ZONES[rng.below(ZONES.len() as u64) as usize],
                    false => "",
                },
                capacity: if narrow {
                    rng.between(1, 2)
                } else {
                    rng.between(1, 8)
                } as u32,
                disk: rng.scale(TICK, 20 * TICK) / TICK * TICK,
                segment_bytes: log.segment_bytes,
                cache_bytes: log.cache_bytes,
                retention_bytes: log.retention_bytes,
                snapshot_entries: log.snapshot_entries,
            })
            .collect();
        let shape = draw_shape(rng);
        // openraft waits three quarters of the interval for the answer to a heartbeat; a leader that never hears one in time answers no
        // linearizable read, and is not followed for long.
        let there_and_back = 2 * (shape.window + shape.spread + shape.jitter) + 20 * TICK;
        let heartbeat = (MILLISECOND * *rng.pick(&[60, 100, 100, 200])).max(2 * there_and_back);
        let calm_at = rng.between(10 * SECOND, 40 * SECOND) / TICK * TICK;
        let faults = faults::draw(&mut Rng::new(seed, 102), founders, machines.len(), calm_at);
        Scenario {
            seed,
            founders,
            shape,
            raft: RaftTimes {
                heartbeat_interval: Duration::from_micros(heartbeat),
                election_timeout: Duration::from_micros(5 * heartbeat),
            },
            clients: draw_clients(rng),
            faults,
            calm_at,
            machines,
        }
    }
}

/// The sizes of all logs.
struct Log {
    segment_bytes: u64,
    cache_bytes: usize,
    retention_bytes: u64,
    snapshot_entries: u64,
}

impl Log {
    /// Mostly so small that log is purged and snapshots are needed.
    fn draw(rng: &mut Rng) -> Log {
        let segment_bytes = rng.scale(4 << 10, 64 << 10);
        Log {
            segment_bytes,
            cache_bytes: rng.scale(4 << 10, 256 << 10) as usize,
            retention_bytes: rng.scale(4 << 10, 256 << 10),
            snapshot_entries: rng.scale(20, 1_000),
        }
    }
}

fn draw_upstreams(rng: &mut Rng, host: HostId, founders: usize) -> Vec<HostId> {
    // One founder is always among them, so that nobody is left with those who have not met their cluster themselves.
    let mut upstreams = vec![rng.below(founders as u64) as HostId];
    for other in 0..host {
        if rng.permille(300) && !upstreams.contains(&other) {
            upstreams.push(other);
        }
    }
    upstreams
}

fn draw_shape(rng: &mut Rng) -> Shape {
    let window = TICK * *rng.pick(&[2, 4, 4, 8]);
    Shape {
        window,
        spread: TICK * rng.scale(1, 40),
        jitter: TICK * rng.scale(1, 10),
        bytes_per_second: rng.scale(200_000, 100_000_000),
        short_writes_permille: *rng.pick(&[0, 20, 200]),
        late_accepts_permille: *rng.pick(&[0, 0, 50]),
    }
}

fn draw_clients(rng: &mut Rng) -> Plan {
    Plan {
        groups: rng.between(1, 3),
        clients: rng.between(1, 3),
        watchers: rng.between(1, 3),
        pause: MILLISECOND * rng.scale(20, 300),
        compact_permille: *rng.pick(&[0, 0, 5, 30]),
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "{:?}", self.shape)?;
        writeln!(f, "{:?}", self.raft)?;
        writeln!(f, "{:?}", self.clients)?;
        for machine in &self.machines {
            writeln!(f, "{machine:?}")?;
        }
        for (at, fault) in &self.faults {
            writeln!(
                f,
                "{:>4}.{:03} {fault:?}",
                at / SECOND,
                at % SECOND / MILLISECOND
            )?;
        }
        write!(f, "calm at {} ms", self.calm_at / MILLISECOND)
    }
}
