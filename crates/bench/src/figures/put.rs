//! Puts: throughput, latency, and what they cost the servers, beside etcd.

use super::{Bound, Figure, Metric, Plotted, Running, Target, beside};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::load::Load;
use eaves_server::bench::Operation;
use eaves_server::failure::Outcome;
use std::time::Duration;

const VALUE_BYTES: usize = 256;
const KEYS: u64 = 100_000;
const TIME: Duration = Duration::from_secs(8);
/// Before the first measurement: files are made, caches and windows grow.
const WARM_UP: Duration = Duration::from_secs(4);

/// Clients on connections.
const CASES: &[(&str, u32, u32)] = &[
    ("1 client", 1, 1),
    ("64 clients on 8 connections", 64, 8),
    ("64 clients on 16 connections", 64, 16),
    ("1,024 clients on 8 connections", 1_024, 8),
    ("1,024 clients on 16 connections", 1_024, 16),
];

/// What every load on a group tells.
pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "throughput",
        title: "per second",
        unit: "",
    },
    Metric {
        name: "server_cpu",
        title: "server CPU per operation, all three",
        unit: "us",
    },
    Metric {
        name: "leader_cpu",
        title: "of it the leader's",
        unit: "us",
    },
    Metric {
        name: "client_cpu",
        title: "load generator's CPU per operation",
        unit: "us",
    },
    Metric {
        name: "p50",
        title: "latency, median",
        unit: "ms",
    },
    Metric {
        name: "p99",
        title: "latency, p99",
        unit: "ms",
    },
    Metric {
        name: "others",
        title: "processors busy with other things",
        unit: "",
    },
];

const SIDES: [&str; 2] = ["eaves", "etcd"];

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "put",
    title: "Puts, beside etcd",
    about: "Three voters, three members; values of 256 bytes, 100,000 keys, all clients at the leader, each with one put under way. \
            CPU is user and system time of the three server processes until a second after the load, divided by the puts done.",
    metrics: METRICS,
    beside: Some("etcd"),
    targets: TARGETS,
    plotted: &[
        Plotted {
            metric: "throughput",
            logarithmic: false,
        },
        Plotted {
            metric: "server_cpu",
            logarithmic: true,
        },
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

const TARGETS: &[Target] = &[
    beside(
        "server CPU per put, 64 clients, over etcd's",
        "server_cpu",
        "64 clients on 8 connections",
        SIDES,
        Bound::AtMost(1.0 / 3.0),
    ),
    beside(
        "server CPU per put, 1,024 clients, over etcd's",
        "server_cpu",
        "1,024 clients on 16 connections",
        SIDES,
        Bound::AtMost(1.0 / 3.0),
    ),
    beside(
        "put throughput, 64 clients on 8 connections, over etcd's",
        "throughput",
        "64 clients on 8 connections",
        SIDES,
        Bound::AtLeast(2.5),
    ),
    beside(
        "put throughput, 64 clients on 16 connections, over etcd's",
        "throughput",
        "64 clients on 16 connections",
        SIDES,
        Bound::AtLeast(2.5),
    ),
    beside(
        "put throughput, 1,024 clients on 8 connections, over etcd's",
        "throughput",
        "1,024 clients on 8 connections",
        SIDES,
        Bound::AtLeast(2.2),
    ),
    beside(
        "put throughput, 1,024 clients on 16 connections, over etcd's",
        "throughput",
        "1,024 clients on 16 connections",
        SIDES,
        Bound::AtLeast(2.2),
    ),
    beside(
        "put latency, one client, median, over etcd's",
        "p50",
        "1 client",
        SIDES,
        Bound::AtMost(0.7),
    ),
];

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let groups = groups(context).await?;
    let load = |clients, connections| Load {
        operation: Operation::put(VALUE_BYTES),
        clients,
        connections,
        keys: KEYS,
        rate: None,
    };
    for group in &groups {
        let leader = group.leader().await?;
        load(64, 8)
            .drive(group.address(leader), context.time(WARM_UP))
            .await?;
    }
    for (case, clients, connections) in CASES.iter().filter(|(case, ..)| context.wants(case)) {
        for round in 1..=context.rounds {
            for group in &groups {
                let values = load(*clients, *connections)
                    .measure(group, context.time(TIME))
                    .await?;
                recorder.add(case, None, group.side(), round, values);
            }
        }
    }
    Ok(())
}

/// Three servers of each program that there is.
pub(super) async fn groups(context: &Context) -> Outcome<Vec<Group>> {
    let mut groups = Vec::new();
    for program in [
        Some(&context.programs.eaves),
        context.programs.etcd.as_ref(),
    ]
    .into_iter()
    .flatten()
    {
        groups.push(Group::start(program, 3, &context.data, &[]).await?);
    }
    Ok(groups)
}
