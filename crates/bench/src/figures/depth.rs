//! How long it takes from the leader down to a listener at some depth.

use super::loads::{self, SIDES};
use super::steady::half_rate;
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::load::Load;
use crate::programs::Program;
use crate::results::{Values, values};
use crate::statistics::quantile;
use crate::watchers::{Seen, Watchers};
use crate::zookeeper::{self, Ensemble, Feeder};
use crate::zookeeper_client::Session;
use eaves_harness::cluster::put;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use eaves_server::address::Address;
use eaves_server::failure::{Failure, Outcome};
use std::collections::HashMap;
use std::time::Duration;
use tonic::transport::Endpoint;

/// Not among the keys of the load.
const PROBE: &str = "/probe";
/// Between two probes: all nodes have become quiet.
const PAUSE: Duration = Duration::from_millis(5);
/// After the last probe, for its event to arrive everywhere.
const LAST: Duration = Duration::from_secs(1);
/// How many there are in a measurement.
const PROBES: u32 = 1_000;
/// What half load is half of is measured for so long.
const FULL_LOAD: Duration = Duration::from_secs(8);
const DEPTHS: [usize; 4] = [1, 2, 4, 8];

/// What is told of the times to one place.
pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "p50",
        title: "median",
        unit: "us",
    },
    Metric {
        name: "p99",
        title: "p99",
        unit: "us",
    },
    Metric {
        name: "p50_per_hop",
        title: "median per hop",
        unit: "us",
    },
    Metric {
        name: "p99_per_hop",
        title: "p99 per hop",
        unit: "us",
    },
];

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "depth",
    title: "From the leader to a listener, by depth",
    minutes: 7,
    about: "A chain of eight listeners below one follower, each a process. A client puts a key every 5 ms at the leader, and watches it there, \
            at the follower and at listeners: what is told is the time from the event at the leader to the event elsewhere. A listener at \
            depth d is d + 1 hops away, the first of them Raft's. Half load: 64 other clients put 256 bytes at half the rate that this group \
            reached before. Beside it a watch at a follower of etcd, which is one hop; and watches at a follower of ZooKeeper, at an observer that \
            a follower feeds (`observerMasterPort`), which is as deep as depth 1, and at one that the leader feeds.",
    metrics: METRICS,
    beside: None,
    targets: &[
        per_hop("median per hop to depth 1, idle", "depth 1, idle"),
        per_hop("median per hop to depth 2, idle", "depth 2, idle"),
        per_hop("median per hop to depth 4, idle", "depth 4, idle"),
        per_hop("median per hop to depth 8, idle", "depth 8, idle"),
    ],
    plotted: &[
        Plotted {
            metric: "p50",
            logarithmic: true,
        },
        Plotted {
            metric: "p99",
            logarithmic: true,
        },
    ],
    run,
};

const fn per_hop(what: &'static str, case: &'static str) -> Target {
    Target {
        what,
        metric: "p50_per_hop",
        of: Place {
            case,
            side: SIDES[0],
        },
        over: None,
        bound: Bound::AtMost(150.0),
    }
}

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

/// Servers, and where they are watched besides at the leader.
pub(super) struct Watched {
    servers: Servers,
    leader: usize,
    at: Vec<At>,
    /// Puts per second.
    half_load: u64,
}

enum Servers {
    Group(Group),
    Zookeeper(Ensemble),
}

/// A server that is watched: the case's name, hops from the leader, place.
struct At {
    name: String,
    hops: usize,
    place: usize,
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let mut all = vec![(SIDES[0], chain(context, &DEPTHS).await?)];
    if let Some(program) = &context.programs.etcd {
        let group = Group::start(program, 3, &context.data, &[]).await?;
        let leader = group.leader().await?;
        let at = vec![at("follower", 1, (leader + 1) % 3)];
        let watched = Watched::new(context, Servers::Group(group), leader, at).await?;
        all.push((SIDES[1], watched));
    }
    if let Some(program) = &context.programs.zookeeper {
        all.push((program.side, observers(context, program).await?));
    }
    for round in 1..=context.rounds {
        for loaded in [false, true] {
            for (side, watched) in &all {
                let measured = watched.measure(context, loaded).await?;
                for (at, values) in watched.at.iter().zip(measured) {
                    let how = if loaded { "half load" } else { "idle" };
                    let case = format!("{}, {how}", at.name);
                    recorder.add(&case, None, side, round, values);
                }
            }
        }
    }
    Ok(())
}

/// A chain of listeners below a follower, watched at these depths, in rising order; depth 0 is the follower.
pub(super) async fn chain(context: &Context, depths: &[usize]) -> Outcome<Watched> {
    let mut group = Group::start(&context.programs.eaves, 3, &context.data, &[]).await?;
    let deepest = depths.last().copied().unwrap_or(0);
    let root = group.add_chain(deepest).await?;
    let leader = group.leader().await?;
    let mut watched: Vec<At> = depths
        .iter()
        .map(|depth| match depth {
            0 => at("follower", 1, root),
            depth => at(&format!("depth {depth}"), depth + 1, 2 + depth),
        })
        .collect();
    if !depths.contains(&0) {
        watched.insert(0, at("follower", 1, root));
    }
    Watched::new(context, Servers::Group(group), leader, watched).await
}

/// A ZooKeeper with an observer that a follower feeds, as a listener at depth 1 is fed, and one that the leader feeds.
async fn observers(context: &Context, program: &Program) -> Outcome<Watched> {
    let feeders = [Feeder::Follower, Feeder::Leader];
    let ensemble = Ensemble::start(program, &context.data, &feeders).await?;
    let leader = ensemble.leader().await?;
    let watched = vec![
        at("follower", 1, (leader + 1) % Ensemble::VOTERS),
        at("depth 1", 2, Ensemble::VOTERS),
        at("below the leader", 1, Ensemble::VOTERS + 1),
    ];
    Watched::new(context, Servers::Zookeeper(ensemble), leader, watched).await
}

fn at(name: &str, hops: usize, place: usize) -> At {
    At {
        name: name.to_owned(),
        hops,
        place,
    }
}

impl Watched {
    async fn new(
        context: &Context,
        servers: Servers,
        leader: usize,
        at: Vec<At>,
    ) -> Outcome<Watched> {
        let time = context.time(FULL_LOAD);
        let (count, elapsed) = servers.load(leader, None, time).await?;
        Ok(Watched {
            half_load: half_rate(count, elapsed),
            servers,
            leader,
            at,
        })
    }

    /// Times to each place.
    pub(super) async fn measure(&self, context: &Context, loaded: bool) -> Outcome<Vec<Values>> {
        let mut watchers = Watchers::default();
        let leader = self.servers.watch(&mut watchers, self.leader).await?;
        let mut elsewhere = Vec::new();
        for at in &self.at {
            elsewhere.push(self.servers.watch(&mut watchers, at.place).await?);
        }
        let probes = context.amount(PROBES, 100);
        let probe = self.servers.probe(self.leader, probes);
        match loaded {
            false => probe.await?,
            true => {
                let (rate, time) = (Some(self.half_load), PAUSE * 2 * probes);
                let load = self.servers.load(self.leader, rate, time);
                let (loaded, probed) = tokio::join!(load, probe);
                (loaded?, probed?).1
            }
        }
        tokio::time::sleep(LAST).await;
        let pairs = self.at.iter().zip(&elsewhere);
        pairs.map(|(at, seen)| times(&leader, seen, at)).collect()
    }
}

fn times(leader: &Seen, seen: &Seen, at: &At) -> Outcome<Values> {
    let mut us = behind(leader, seen);
    let missing = || Failure::failed(format!("no event came to {}", at.name));
    let p50 = quantile(&mut us, 500).ok_or_else(missing)?;
    let p99 = quantile(&mut us, 990).ok_or_else(missing)?;
    Ok(values([
        ("p50", p50),
        ("p99", p99),
        ("p50_per_hop", p50 / at.hops as f64),
        ("p99_per_hop", p99 / at.hops as f64),
    ]))
}

impl Servers {
    async fn watch(&self, watchers: &mut Watchers, place: usize) -> Outcome<Seen> {
        match self {
            Servers::Group(group) => watchers.note(&group.address(place), PROBE).await,
            Servers::Zookeeper(ensemble) => {
                let session = Session::connect(&ensemble.address(place)).await?;
                let (seen, watching) = session.watch(zookeeper::PROBE).await?;
                watchers.keep(watching);
                Ok(seen)
            }
        }
    }

    /// Puts the key again and again.
    async fn probe(&self, place: usize, probes: u32) -> Outcome {
        match self {
            Servers::Group(group) => probe(&group.address(place), probes).await,
            Servers::Zookeeper(ensemble) => {
                let mut session = Session::connect(&ensemble.address(place)).await?;
                for _ in 0..probes {
                    session.write(zookeeper::PROBE, b"x").await?;
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            }
        }
    }

    /// Other clients put; how many, and in which time.
    async fn load(
        &self,
        place: usize,
        rate: Option<u64>,
        time: Duration,
    ) -> Outcome<(u64, Duration)> {
        match self {
            Servers::Group(group) => {
                let load = Load {
                    rate,
                    ..loads::puts(64, 8)
                };
                let measured = load.drive(group.address(place), time).await?;
                Ok((measured.latencies.count(), measured.elapsed))
            }
            Servers::Zookeeper(ensemble) => ensemble.drive(place, 8, rate, time).await,
        }
    }
}

/// Puts the key again and again.
async fn probe(server: &Address, probes: u32) -> Outcome {
    let failed = |cause: String| Failure::failed(format!("cannot put at {server}: {cause}"));
    let endpoint =
        Endpoint::from_shared(server.url()).map_err(|error| failed(error.to_string()))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| failed(error.to_string()))?;
    for _ in 0..probes {
        put(KvClient::new(channel.clone()), PROBE, "x")
            .await
            .map_err(|status| failed(status.to_string()))?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// How many microseconds after the leader's each event came. One that came before it, by a client's whim, counts as none.
fn behind(leader: &Seen, elsewhere: &Seen) -> Vec<f64> {
    let leader = leader.lock().expect("nobody panics with it");
    let leader: HashMap<_, _> = leader.iter().copied().collect();
    let elsewhere = elsewhere.lock().expect("nobody panics with it");
    let came = elsewhere.iter().filter_map(|(revision, at)| {
        let since = at.saturating_duration_since(*leader.get(revision)?);
        Some(since.as_secs_f64() * 1e6)
    });
    came.collect()
}
