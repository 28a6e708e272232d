//! What goes wrong, and what administrators do meanwhile: kinds of faults, and how each is done to a world.

use crate::engine::Micros;
use crate::host::Power;
use crate::network::Cut;
use crate::rng::Rng;
use crate::world::{Job, World};
use std::fmt;

/// A log of another history goes at most so many entries beyond its end, which nobody can compare before the group has as many (`B11`).
const OTHER_ENTRIES_MAX: u64 = 40;

/// More entries than a group writes in one run, in which faults last a minute at most and all is fed again two and a half later.
const UNREACHED_ENTRIES: u64 = 30_000;

/// Whom a fault hits. Those that matter most are found when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This host.
    Host(u32),
    /// Whoever leads then.
    Leader,
    /// The listener with the most downstreams then.
    Inner,
}

/// One thing that goes wrong, or that somebody does.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A process is killed, and started again after a while. Some of what was not on disk is lost.
    Kill(Target, Micros),
    /// So many of a thousand listeners are killed at the same moment, those with downstreams only: whole subtrees come loose at
    /// once.
    KillInner(u64, Micros),
    /// All voters but the leader are killed at the same moment: every tree comes loose at its root.
    KillFollowers(Micros),
    /// A machine is gone without a word, and comes back after a while. All that was not on disk is lost.
    Vanish(Target, Micros),
    /// A process is stopped for a while.
    Pause(Target, Micros),
    /// Some hosts cannot reach, be reached by, or both, any other for a while.
    Cut(Cut, Vec<u32>, Micros),
    /// The leader asks another voter to take over.
    Transfer,
    /// A downstream of this node is kicked off (`S12`).
    Kick(Target),
    /// A listener is given a new list (`S14`).
    NewList(u32, Vec<u32>),
    /// A listener gets a vote (`S15`).
    Promote(u32),
    /// A voter loses its vote.
    Demote(Target),
    /// A listener is pinned to a node (`B16`).
    Pin(u32, u32),
    /// A listener is to avoid a node (`B16`).
    Avoid(u32, u32),
    /// A node is drained for a while (`B16`).
    Drain(Target, Micros),
    /// A listener is killed, and comes back with a log whose end is of another history (`B12`).
    Diverge(u32, Micros),
    /// The same, and the log goes further than the group ever gets: nobody can compare it (`B11`).
    Overtake(u32, Micros),
}

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
pub enum Undo {
    /// The process starts again.
    Start(u32),
    /// The process goes on.
    Resume(u32),
    /// The node is drained no longer.
    Undrain(u32),
    /// The cut with this number heals.
    Heal(u64),
}

impl Fault {
    /// The name it is counted by.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill(..) => "kills",
            Fault::KillInner(..) => "kills of many",
            Fault::KillFollowers(..) => "kills of all followers",
            Fault::Vanish(..) => "machines lost",
            Fault::Pause(..) => "pauses",
            Fault::Cut(cut, ..) if cut.out && cut.inward => "partitions",
            Fault::Cut(..) => "one-way partitions",
            Fault::Transfer => "transfers",
            Fault::Kick(_) => "kicks by hand",
            Fault::NewList(..) => "new lists",
            Fault::Promote(_) => "promotes",
            Fault::Demote(_) => "demotes",
            Fault::Pin(..) => "pins",
            Fault::Avoid(..) => "avoidances",
            Fault::Drain(..) => "drains",
            Fault::Diverge(..) => "logs of another history",
            Fault::Overtake(..) => "logs nobody can compare",
        }
    }

    /// Does it. Returns what ends it, and after which time.
    pub fn happen(&self, world: &mut World, rng: &mut Rng) -> Vec<(Micros, Undo)> {
        match self {
            Fault::KillInner(share, lasts) => kill_many(world, rng, inner(world), *share, *lasts),
            Fault::KillFollowers(lasts) => kill_many(world, rng, followers(world), 1000, *lasts),
            _ => self.happen_to_one(world, rng).into_iter().collect(),
        }
    }

    fn happen_to_one(&self, world: &mut World, rng: &mut Rng) -> Option<(Micros, Undo)> {
        match self {
            Fault::Kill(target, lasts) => {
                let host = running(world, *target)?;
                let kept = rng.below(8);
                world.crash(host, false, kept);
                Some((*lasts, Undo::Start(host)))
            }
            Fault::KillInner(..) | Fault::KillFollowers(_) => None,
            Fault::Vanish(target, lasts) => {
                let host = running(world, *target)?;
                world.crash(host, true, 0);
                Some((*lasts, Undo::Start(host)))
            }
            Fault::Pause(target, lasts) => {
                let host = running(world, *target)?;
                world.pause(host);
                Some((*lasts, Undo::Resume(host)))
            }
            Fault::Cut(cut, _, lasts) => {
                let number = rng.any();
                world.network.cuts.push((number, cut.clone()));
                Some((*lasts, Undo::Heal(number)))
            }
            Fault::Transfer => {
                let leader = world.leader()?;
                let voters = world.hosts[leader as usize].log.voters().without(leader);
                let others: Vec<u32> = voters.iter().collect();
                if !others.is_empty() {
                    let heir = *rng.pick(&others);
                    world.group_act(leader, |raft, env| raft.transfer(env, heir));
                }
                None
            }
            Fault::Kick(target) => {
                let upstream = running(world, *target)?;
                let downstreams = world.hosts[upstream as usize].node.as_ref()?.downstreams();
                let listeners: Vec<u32> = downstreams
                    .map(|listener| crate::host::host_of(listener.peer.id))
                    .collect();
                if !listeners.is_empty() {
                    world.kick(upstream, *rng.pick(&listeners));
                }
                None
            }
            Fault::NewList(host, list) => {
                world.give_list(*host, list);
                None
            }
            Fault::Promote(host) => {
                world.want(Job::Promote(*host));
                None
            }
            Fault::Demote(target) => {
                let host = running(world, *target)?;
                if world.hosts[host as usize].is_voter() {
                    world.want(Job::Demote(host));
                }
                None
            }
            Fault::Pin(host, upstream) => {
                world.pin(*host, Some(*upstream));
                None
            }
            Fault::Avoid(host, upstream) => {
                world.avoid(*host, *upstream, true);
                None
            }
            Fault::Drain(target, lasts) => {
                let host = running(world, *target)?;
                world.drain(host, true);
                Some((*lasts, Undo::Undrain(host)))
            }
            Fault::Diverge(host, lasts) => {
                let host = listener_with_a_log(world, *host)?;
                let salt = diverge(world, rng, host);
                if world.hosts[host as usize].diverged && rng.permille(500) {
                    let count = rng.below(OTHER_ENTRIES_MAX);
                    world.host(host).log.go_on(count, salt);
                }
                Some((*lasts, Undo::Start(host)))
            }
            Fault::Overtake(host, lasts) => {
                let host = listener_with_a_log(world, *host)?;
                let salt = diverge(world, rng, host);
                let machine = world.host(host);
                machine.log.go_on(UNREACHED_ENTRIES, salt);
                machine.diverged = true;
                Some((*lasts, Undo::Start(host)))
            }
        }
    }
}

impl Undo {
    /// Ends the fault.
    pub fn happen(self, world: &mut World, rng: &mut Rng) {
        match self {
            Undo::Start(host) if world.hosts[host as usize].node.is_none() => world.start(host),
            Undo::Start(_) => {}
            Undo::Resume(host) => world.resume(host, rng.permille(500)),
            Undo::Undrain(host) => world.drain(host, false),
            Undo::Heal(number) => {
                world.network.cuts.retain(|(known, _)| *known != number);
                world.release_streams();
            }
        }
    }
}

/// This host, if it is a listener that runs and holds anything.
fn listener_with_a_log(world: &World, host: u32) -> Option<u32> {
    let host = running(world, Target::Host(host))?;
    let machine = &world.hosts[host as usize];
    (!machine.is_voter() && machine.log.last_index() > 0).then_some(host)
}

/// Kills a listener and rewrites the last entries of its log, if there are any that were not purged. Returns what makes them others.
fn diverge(world: &mut World, rng: &mut Rng, host: u32) -> u64 {
    world.crash(host, false, 0);
    let machine = world.host(host);
    let count = 1 + rng.below(8) as usize;
    let salt = rng.any();
    machine.diverged |= machine.log.rewrite_tail(count, salt) > 0;
    salt
}

/// The listeners that have downstreams.
fn inner(world: &World) -> Vec<u32> {
    let feeds = |host: &u32| {
        let machine = &world.hosts[*host as usize];
        let node = machine.node.as_ref();
        machine.is_running()
            && !machine.is_voter()
            && node.is_some_and(|node| node.registered() > 0)
    };
    world.numbers().filter(feeds).collect()
}

fn followers(world: &World) -> Vec<u32> {
    let leader = world.leader();
    let follows = |host: &u32| {
        let machine = &world.hosts[*host as usize];
        machine.is_running() && machine.is_voter() && Some(*host) != leader
    };
    world.numbers().filter(follows).collect()
}

/// Kills so many of a thousand of these at the same moment.
fn kill_many(
    world: &mut World,
    rng: &mut Rng,
    mut hosts: Vec<u32>,
    share: u64,
    lasts: Micros,
) -> Vec<(Micros, Undo)> {
    hosts.retain(|_| rng.permille(share));
    for &host in &hosts {
        world.crash(host, false, rng.below(8));
    }
    hosts
        .into_iter()
        .map(|host| (lasts, Undo::Start(host)))
        .collect()
}

/// The host that is meant, if its process runs.
fn running(world: &World, target: Target) -> Option<u32> {
    let host = match target {
        Target::Host(host) => host,
        Target::Leader => world.leader()?,
        Target::Inner => {
            let registered = |&host: &u32| {
                world.hosts[host as usize]
                    .node
                    .as_ref()
                    .map(|node| node.registered())
            };
            let listeners = world
                .numbers()
                .filter(|&host| !world.hosts[host as usize].is_voter());
            listeners.max_by_key(|host| (registered(host), std::cmp::Reverse(*host)))?
        }
    };
    (world.hosts[host as usize].power == Power::Running).then_some(host)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Host(host) => write!(f, "n{}", host + 1),
            Target::Leader => f.write_str("the leader"),
            Target::Inner => f.write_str("the listener with the most downstreams"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |hosts: &[u32]| {
            let names: Vec<String> = hosts.iter().map(|host| format!("n{}", host + 1)).collect();
            names.join(" ")
        };
        match self {
            Fault::Kill(target, lasts) => write!(f, "kill {target} for {} ms", lasts / 1000),
            Fault::KillInner(share, lasts) => {
                write!(
                    f,
                    "kill {share} of 1000 inner listeners for {} ms",
                    lasts / 1000
                )
            }
            Fault::KillFollowers(lasts) => write!(f, "kill all followers for {} ms", lasts / 1000),
            Fault::Vanish(target, lasts) => {
                write!(f, "lose the machine of {target} for {} ms", lasts / 1000)
            }
            Fault::Pause(target, lasts) => write!(f, "pause {target} for {} ms", lasts / 1000),
            Fault::Cut(cut, hosts, lasts) => {
                let way = match (cut.out, cut.inward) {
                    (true, true) => "cut off",
                    (true, false) => "let nothing out of",
                    _ => "let nothing into",
                };
                write!(f, "{way} {} for {} ms", names(hosts), lasts / 1000)
            }
            Fault::Transfer => f.write_str("transfer leadership"),
            Fault::Kick(target) => write!(f, "kick a downstream of {target}"),
            Fault::NewList(host, list) => write!(f, "give n{} the list {}", host + 1, names(list)),
            Fault::Promote(host) => write!(f, "promote n{}", host + 1),
            Fault::Demote(target) => write!(f, "demote {target}"),
            Fault::Pin(host, upstream) => write!(f, "pin n{} to n{}", host + 1, upstream + 1),
            Fault::Avoid(host, upstream) => write!(f, "have n{} avoid n{}", host + 1, upstream + 1),
            Fault::Drain(target, lasts) => write!(f, "drain {target} for {} ms", lasts / 1000),
            Fault::Diverge(host, lasts) => write!(
                f,
                "kill n{} for {} ms and change the end of its log",
                host + 1,
                lasts / 1000
            ),
            Fault::Overtake(host, lasts) => write!(
                f,
                "kill n{} for {} ms and let its log go further than the group's ever will",
                host + 1,
                lasts / 1000
            ),
        }
    }
}
