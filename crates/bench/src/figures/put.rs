//! Puts: throughput, latency, and what they cost the servers, beside etcd.

use super::loads::{self, SIDES};
use super::{Bound, Figure, Running, Target, beside};
use crate::context::{Context, Recorder};
use eaves_server::failure::Outcome;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(6);
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

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "put",
    title: "Puts, beside etcd",
    minutes: 6,
    about: "Three voters, three members; values of 256 bytes, 100,000 keys, all clients at the leader, each with one put under way. \
            CPU is user and system time of the three server processes until a second after the load, divided by the puts done.",
    metrics: loads::METRICS,
    beside: Some("etcd"),
    targets: TARGETS,
    plotted: loads::PLOTTED,
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
    let groups = loads::groups(context, 3, &[]).await?;
    for group in &groups {
        let leader = group.address(group.leader().await?);
        let time = context.time(WARM_UP);
        loads::puts(64, 8).drive(leader, time).await?;
    }
    for (case, clients, connections) in CASES.iter().filter(|(case, ..)| context.wants(case)) {
        let load = loads::puts(*clients, *connections);
        loads::in_turn(context, recorder, &groups, (case, None), &load, TIME).await?;
    }
    Ok(())
}
