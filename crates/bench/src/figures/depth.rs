//! How long it takes from the leader down to a listener at some depth.

use super::loads::{self, SIDES};
use super::steady::half_rate;
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::load::Load;
use crate::results::values;
use crate::statistics::quantile;
use crate::watchers::{Seen, Watchers};
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
const DEPTHS: [usize; 4] = [1, 2, 4, 8];

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "depth",
    title: "From the leader to a listener, by depth",
    about: "A chain of eight listeners below one follower, each a process. A client puts a key every 5 ms at the leader, and watches it there, \
            at the follower and at listeners: what is told is the time from the event at the leader to the event elsewhere. A listener at \
            depth d is d + 1 hops away, the first of them Raft's. Half load: 64 other clients put 256 bytes at half the rate that this group \
            reached before. Beside it a watch at a follower of etcd, which is one hop.",
    metrics: &[
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
    ],
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

/// A group, and where it is watched besides at the leader: the case's name, hops, place.
struct Watched {
    group: Group,
    leader: usize,
    at: Vec<(String, usize, usize)>,
    /// Puts per second.
    half_load: u64,
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let mut all = Vec::new();
    for mut group in loads::groups(context, 3, &[]).await? {
        let mut at = Vec::new();
        if group.side() == SIDES[0] {
            let root = group.add_chain(DEPTHS[3]).await?;
            at.push(("follower".to_owned(), 1, root));
            at.extend(DEPTHS.map(|depth| (format!("depth {depth}"), depth + 1, 2 + depth)));
        } else {
            let leader = group.leader().await?;
            at.push(("follower".to_owned(), 1, (leader + 1) % 3));
        }
        let leader = group.leader().await?;
        let time = context.time(Duration::from_secs(8));
        let full = loads::puts(64, 8)
            .drive(group.address(leader), time)
            .await?;
        all.push(Watched {
            half_load: half_rate(full.latencies.count(), full.elapsed),
            group,
            leader,
            at,
        });
    }
    for round in 1..=context.rounds {
        for loaded in [false, true] {
            for watched in &all {
                one_round(context, recorder, watched, (round, loaded)).await?;
            }
        }
    }
    Ok(())
}

async fn one_round(
    context: &Context,
    recorder: &mut Recorder,
    watched: &Watched,
    (round, loaded): (u32, bool),
) -> Outcome {
    let address = |place| watched.group.address(place);
    let mut watchers = Watchers::default();
    let leader = watchers.note(&address(watched.leader), PROBE).await?;
    let mut elsewhere = Vec::new();
    for (_, _, place) in &watched.at {
        elsewhere.push(watchers.note(&address(*place), PROBE).await?);
    }
    let probes = context.amount(2_000, 100);
    let time = PAUSE * 2 * probes;
    let load = Load {
        rate: Some(watched.half_load),
        ..loads::puts(64, 8)
    };
    let server = address(watched.leader);
    match loaded {
        false => probe(&server, probes).await?,
        true => {
            let load = load.drive(server.clone(), time);
            let (loaded, probed) = tokio::join!(load, probe(&server, probes));
            (loaded?, probed?).1
        }
    }
    tokio::time::sleep(LAST).await;
    for ((name, hops, _), seen) in watched.at.iter().zip(&elsewhere) {
        let mut us = behind(&leader, seen);
        let missing = || Failure::failed(format!("no event came to {name}"));
        let p50 = quantile(&mut us, 500).ok_or_else(missing)?;
        let p99 = quantile(&mut us, 990).ok_or_else(missing)?;
        let case = format!("{name}, {}", if loaded { "half load" } else { "idle" });
        let values = values([
            ("p50", p50),
            ("p99", p99),
            ("p50_per_hop", p50 / *hops as f64),
            ("p99_per_hop", p99 / *hops as f64),
        ]);
        recorder.add(&case, None, watched.group.side(), round, values);
    }
    Ok(())
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
