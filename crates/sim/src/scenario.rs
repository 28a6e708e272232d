//! What a seed draws: how the world is made, and what goes wrong in it when. Printed before anything else.

use crate::engine::{MILLISECOND, Micros, SECOND};
use crate::faults::{Fault, Target};
use crate::network::{Cut, Quality};
use crate::raft::Times;
use crate::rng::Rng;
use crate::world::{HostSetup, Setup};
use std::fmt;

/// The most hosts of one run: as many as a set of voters can hold, so that each of them can be promoted.
pub const HOSTS_MAX: u64 = 64;

/// So many of a thousand runs are storms: long thin trees on slow links, whose inner nodes are killed many at a time. Else
/// hardly a loop would ever form.
const STORMS_PERMILLE: u64 = 60;

/// So many of a thousand runs are made to [form loops](Scenario::draw_stalls).
const STALLS_PERMILLE: u64 = 40;

/// So many of a thousand runs have [more listeners that nobody can compare than places for them](Scenario::draw_waiters).
const WAITERS_PERMILLE: u64 = 30;

/// Everything that a seed decides before the run begins.
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// How the world is made.
    pub setup: Setup,
    /// When each listener is started first.
    pub starts: Vec<(Micros, u32)>,
    /// What goes wrong when.
    pub faults: Vec<(Micros, Fault)>,
    /// When all that ends.
    pub calm_at: Micros,
}

impl Scenario {
    /// What `seed` draws.
    pub fn draw(seed: u64) -> Scenario {
        if Rng::new(seed, 6).permille(STALLS_PERMILLE) {
            Scenario::draw_stalls(seed)
        } else if Rng::new(seed, 7).permille(WAITERS_PERMILLE) {
            Scenario::draw_waiters(seed)
        } else {
            Scenario::draw_any(seed)
        }
    }

    fn draw_any(seed: u64) -> Scenario {
        let rng = &mut Rng::new(seed, 1);
        let storm = rng.permille(STORMS_PERMILLE);
        let founders = *rng.pick(&[1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5]);
        let listeners = if storm {
            rng.between(20, HOSTS_MAX - founders)
        } else {
            rng.scale(1, HOSTS_MAX - founders)
        };
        let hosts = draw_hosts(rng, founders as u32, listeners as u32, storm);
        let starts = draw_starts(rng, founders as u32, listeners as u32);
        let calm_at = rng.between(10 * SECOND, 60 * SECOND);
        let mut faults = draw_faults(
            &mut Rng::new(seed, 2),
            founders as u32,
            hosts.len() as u32,
            calm_at,
        );
        let mut quality = draw_quality(rng);
        if storm {
            quality.near = 50 * MILLISECOND;
            faults = draw_storm(&mut Rng::new(seed, 2), calm_at);
        }
        let write_interval = rng.scale(10 * MILLISECOND, SECOND);
        let retention = rng.scale(20, 2000);
        let setup = Setup {
            seed,
            hosts,
            founders: founders as u32,
            quality,
            times: Times {
                heartbeat: 100 * MILLISECOND,
                election: 500 * MILLISECOND,
            },
            flush: rng.scale(200, 20_000),
            flush_interval: rng.scale(10 * MILLISECOND, SECOND),
            write_interval,
            retention,
            improve: rng.scale(5 * SECOND, 60 * SECOND),
            question_cost: 0,
            // Slower, and no log would be left that continues it.
            snapshot: rng
                .scale(MILLISECOND, 2 * SECOND)
                .min(retention * write_interval / 4),
        };
        Scenario {
            seed,
            setup,
            starts,
            faults,
            calm_at,
        }
    }

    /// A world in which loops want to form: chains on slow links whose roots all die while some of those in between are stopped.
    /// Who is below a stopped node believes itself attached for some seconds more, and the only free places there are are at
    /// the ends of the chains: the listener that looks for a place is offered the one below itself (`B1`). Nothing is lost,
    /// so that nothing excuses a loop that lasts.
    pub fn draw_stalls(seed: u64) -> Scenario {
        let mut scenario = Scenario::draw_any(seed);
        let rng = &mut Rng::new(seed, 5);
        let founders = rng.between(2, 3) as u32;
        let listeners = rng.between(6, 24) as u32;
        let count = founders + listeners;
        let hosts = (0..count).map(|number| {
            let is_founder = number < founders;
            HostSetup {
                capacity: if is_founder { 2 } else { 1 },
                zone: 0,
                upstreams: match is_founder {
                    true => Vec::new(),
                    false => list_of(rng, 40, founders, count),
                },
            }
        });
        scenario.setup.hosts = hosts.collect();
        scenario.setup.founders = founders;
        scenario.setup.quality = Quality {
            near: rng.between(50 * MILLISECOND, 150 * MILLISECOND),
            loss_permille: 0,
            ..scenario.setup.quality
        };
        scenario.starts = draw_starts(rng, founders, listeners);
        scenario.faults = draw_stalls(rng, founders, count, scenario.calm_at);
        scenario
    }

    /// A world with few places right below the voters, most of which listeners take that come back with a log which nobody can
    /// compare, while all others have just lost theirs. They wait, and feed nobody (`B11`): if they kept their places, the others would
    /// find none.
    pub fn draw_waiters(seed: u64) -> Scenario {
        let mut scenario = Scenario::draw_any(seed);
        let rng = &mut Rng::new(seed, 8);
        let founders = rng.between(2, 3) as u32;
        let capacity = rng.between(1, 3) as u32;
        // Enough of them to take each place below the voters, and some others.
        let waiters = founders * capacity;
        let count = founders + waiters + rng.between(1, 12) as u32;
        let hosts = (0..count).map(|number| HostSetup {
            capacity,
            zone: 0,
            upstreams: match number < founders {
                true => Vec::new(),
                false => draw_list(rng, founders, count),
            },
        });
        scenario.setup.hosts = hosts.collect();
        scenario.setup.founders = founders;
        scenario.starts = draw_starts(rng, founders, count - founders);
        scenario.faults = draw_overtaking(rng, founders, waiters, scenario.calm_at);
        scenario
    }

    /// The same without listeners: what the group does must not change (no-vote). Only for a run that
    /// [is about the group alone](Self::is_about_the_group_alone).
    pub fn without_listeners(mut self) -> Scenario {
        self.setup.hosts.truncate(self.setup.founders as usize);
        self.starts.clear();
        self
    }

    /// Whether nothing that happens to listeners is meant to change the group: none gets a vote, and no fault is drawn by
    /// looking at them.
    pub fn is_about_the_group_alone(&self) -> bool {
        let founders = self.setup.founders;
        let is_founder = |target: &Target| match target {
            Target::Host(host) => *host < founders,
            Target::Leader => true,
            Target::Inner => false,
        };
        self.faults.iter().all(|(_, fault)| match fault {
            Fault::Kill(target, _) | Fault::Vanish(target, _) | Fault::Pause(target, _) => {
                is_founder(target)
            }
            Fault::Cut(..) | Fault::Transfer => true,
            _ => false,
        })
    }
}

fn draw_hosts(rng: &mut Rng, founders: u32, listeners: u32, storm: bool) -> Vec<HostSetup> {
    let zones = *rng.pick(&[1, 1, 2, 3]);
    let (least, most) = *rng.pick(&[(1, 2), (1, 4), (2, 4), (2, 8), (8, 32)]);
    let (least, most) = if storm { (1, 1) } else { (least, most) };
    let alike = rng.permille(500);
    let count = founders + listeners;
    let mut hosts = Vec::new();
    for number in 0..count {
        let capacity = if alike {
            most
        } else {
            rng.between(least, most)
        } as u32;
        let zone = match zones {
            1 => 0,
            _ => 1 + rng.below(zones) as u32,
        };
        if storm && number < founders {
            hosts.push(HostSetup {
                capacity: 8,
                zone: 0,
                upstreams: Vec::new(),
            });
            continue;
        }
        let upstreams = match (number < founders, storm) {
            (true, _) => Vec::new(),
            (false, true) => list_of(rng, 40, founders, count),
            (false, false) => draw_list(rng, founders, count),
        };
        hosts.push(HostSetup {
            capacity,
            zone,
            upstreams,
        });
    }
    hosts
}

/// Any servers, and one founder among them: who knows only others that know nobody cannot be helped.
fn draw_list(rng: &mut Rng, founders: u32, count: u32) -> Vec<u32> {
    let others = *rng.pick(&[0, 0, 1, 2, 3, 6, 40]);
    list_of(rng, others, founders, count)
}

fn list_of(rng: &mut Rng, others: u32, founders: u32, count: u32) -> Vec<u32> {
    let mut list = vec![rng.below(u64::from(founders)) as u32];
    for _ in 0..others {
        let other = rng.below(u64::from(count)) as u32;
        if !list.contains(&other) {
            let place = rng.below(list.len() as u64 + 1) as usize;
            list.insert(place, other);
        }
    }
    list
}

fn draw_starts(rng: &mut Rng, founders: u32, listeners: u32) -> Vec<(Micros, u32)> {
    let spread = *rng.pick(&[1, 100 * MILLISECOND, 5 * SECOND]);
    let begin = *rng.pick(&[0, 2 * SECOND]);
    let mut starts: Vec<(Micros, u32)> = (founders..founders + listeners)
        .map(|host| (begin + rng.below(spread), host))
        .collect();
    starts.sort_unstable();
    starts
}

fn draw_quality(rng: &mut Rng) -> Quality {
    let near = rng.scale(100, 10 * MILLISECOND);
    Quality {
        near,
        far: near + rng.scale(MILLISECOND, 150 * MILLISECOND),
        jitter: rng.below(near) + *rng.pick(&[0, 0, 5 * MILLISECOND]),
        loss_permille: *rng.pick(&[0, 0, 1, 10, 100]),
        reset_permille: *rng.pick(&[0, 20, 200]),
        repeat_permille: *rng.pick(&[0, 0, 50]),
        connect_round_trips: rng.below(3),
    }
}

/// Some kinds of faults, not all: a run in which everything goes wrong finds only what needs everything.
fn draw_faults(rng: &mut Rng, founders: u32, count: u32, calm_at: Micros) -> Vec<(Micros, Fault)> {
    let kinds: Vec<u64> = (0..15).filter(|_| rng.permille(450)).collect();
    let times = match kinds.len() {
        0 => 0,
        _ => rng.scale(1, 50),
    };
    let lasts_most = rng.scale(200 * MILLISECOND, 20 * SECOND);
    let mut faults: Vec<(Micros, Fault)> = (0..times)
        .map(|_| {
            let kind = *rng.pick(&kinds);
            let at = rng.between(SECOND, calm_at);
            let lasts = rng.scale(20 * MILLISECOND, lasts_most);
            (at, draw_fault(rng, kind, founders, count, lasts))
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// Inner nodes killed many at a time, with a while to get up again in between.
fn draw_storm(rng: &mut Rng, calm_at: Micros) -> Vec<(Micros, Fault)> {
    let mut faults = Vec::new();
    let mut at = 5 * SECOND;
    while at < calm_at {
        let lasts = rng.between(500 * MILLISECOND, 5 * SECOND);
        let fault = match rng.permille(700) {
            true => Fault::KillFollowers(lasts),
            false => Fault::KillInner(rng.between(100, 500), lasts),
        };
        faults.push((at, fault));
        at += lasts + rng.between(SECOND, 10 * SECOND);
    }
    faults
}

/// Some listeners stopped, and a moment later all followers killed, again and again.
fn draw_stalls(rng: &mut Rng, founders: u32, count: u32, calm_at: Micros) -> Vec<(Micros, Fault)> {
    let mut faults = Vec::new();
    let mut at = 8 * SECOND;
    while at < calm_at {
        // Shorter than anybody is silent without being given up (`S11`, `S13`).
        let pause = rng.between(SECOND, 5 * SECOND / 2);
        for host in (founders..count).filter(|_| rng.permille(250)) {
            faults.push((at, Fault::Pause(Target::Host(host), pause)));
        }
        let lasts = rng.between(2 * SECOND, 8 * SECOND);
        faults.push((at + MILLISECOND, Fault::KillFollowers(lasts)));
        at += lasts + rng.between(8 * SECOND, 15 * SECOND);
    }
    faults
}

/// So many listeners are killed and come back with logs that nobody can compare. All followers are killed at about the same time, so
/// that all search for the same places; and again and again later.
fn draw_overtaking(
    rng: &mut Rng,
    founders: u32,
    waiters: u32,
    calm_at: Micros,
) -> Vec<(Micros, Fault)> {
    // Until then everybody has got something.
    let mut at = 8 * SECOND;
    let mut faults = Vec::new();
    for host in founders..founders + waiters {
        let lasts = rng.between(20 * MILLISECOND, SECOND);
        faults.push((at, Fault::Overtake(host, lasts)));
    }
    while at < calm_at {
        let lasts = rng.between(100 * MILLISECOND, 2 * SECOND);
        faults.push((at, Fault::KillFollowers(lasts)));
        at += lasts + rng.between(2 * SECOND, 30 * SECOND);
    }
    faults
}

fn draw_fault(rng: &mut Rng, kind: u64, founders: u32, count: u32, lasts: Micros) -> Fault {
    let anybody = rng.below(u64::from(count)) as u32;
    let founder = rng.below(u64::from(founders)) as u32;
    let listener = founders + rng.below(u64::from(count - founders)) as u32;
    let target = *rng.pick(&[
        Target::Host(anybody),
        Target::Host(founder),
        Target::Leader,
        Target::Inner,
        Target::Inner,
    ]);
    match kind {
        0 => Fault::Kill(target, lasts),
        1 => Fault::Vanish(target, lasts),
        2 => Fault::Pause(target, lasts),
        3 | 4 => {
            let (out, inward) =
                *rng.pick(&[(true, true), (true, true), (true, false), (false, true)]);
            let share = *rng.pick(&[20, 200, 500]);
            let mut hosts: Vec<u32> = (0..count).filter(|_| rng.permille(share)).collect();
            if hosts.is_empty() {
                hosts.push(*rng.pick(&[anybody, founder]));
            }
            let inside = hosts.iter().copied().collect();
            Fault::Cut(
                Cut {
                    inside,
                    out,
                    inward,
                },
                hosts,
                lasts,
            )
        }
        5 => Fault::Transfer,
        6 => Fault::Kick(target),
        7 => Fault::NewList(listener, draw_list(rng, founders, count)),
        8 => Fault::Promote(listener),
        9 => Fault::Demote(*rng.pick(&[Target::Host(founder), Target::Leader])),
        10 => Fault::Pin(listener, anybody),
        11 => Fault::Avoid(listener, *rng.pick(&[anybody, founder])),
        13 => Fault::KillInner(*rng.pick(&[200, 500, 1000]), lasts),
        12 => Fault::Drain(target, lasts),
        _ => Fault::Diverge(listener, lasts),
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup {
            hosts, founders, ..
        } = &self.setup;
        writeln!(
            f,
            "seed {}: {founders} voters, {} listeners",
            self.seed,
            hosts.len() - *founders as usize
        )?;
        writeln!(f, "network: {:?}", self.setup.quality)?;
        writeln!(
            f,
            "times: {:?}, flush {} us, listeners flush every {} ms, a write every {} ms, {} entries kept, a snapshot takes {} ms, a better place is looked for every {} ms",
            self.setup.times,
            self.setup.flush,
            self.setup.flush_interval / 1000,
            self.setup.write_interval / 1000,
            self.setup.retention,
            self.setup.snapshot / 1000,
            self.setup.improve / 1000
        )?;
        for (number, host) in hosts.iter().enumerate() {
            write!(
                f,
                "n{}: N {}, zone {}",
                number + 1,
                host.capacity,
                host.zone
            )?;
            if let Some((at, _)) = self
                .starts
                .iter()
                .find(|(_, host)| *host as usize == number)
            {
                let list: Vec<String> = host
                    .upstreams
                    .iter()
                    .map(|host| format!("n{}", host + 1))
                    .collect();
                write!(
                    f,
                    ", starts after {} ms with the list {}",
                    at / 1000,
                    list.join(" ")
                )?;
            }
            writeln!(f)?;
        }
        for (at, fault) in &self.faults {
            writeln!(f, "{:>6} ms: {fault}", at / 1000)?;
        }
        write!(f, "{:>6} ms: the faults stop", self.calm_at / 1000)
    }
}
