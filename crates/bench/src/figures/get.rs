//! Gets: linearizable and serializable, beside etcd.

use super::loads::{self, KEYS, SIDES, VALUE_BYTES};
use super::{Bound, Figure, Running, Target, beside};
use crate::context::{Context, Recorder};
use crate::load::{Load, fill};
use eaves_server::bench::Operation;
use eaves_server::failure::Outcome;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(6);
const CLIENTS: u32 = 256;
const CONNECTIONS: u32 = 16;
const LINEARIZABLE: &str = "linearizable";
const SERIALIZABLE: &str = "serializable";

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "get",
    title: "Gets, beside etcd",
    minutes: 3,
    about: "256 clients on 16 connections get random ones of 100,000 keys with values of 256 bytes from the leader of three.",
    metrics: loads::METRICS,
    beside: Some("etcd"),
    targets: TARGETS,
    plotted: loads::PLOTTED,
    run,
};

const TARGETS: &[Target] = &[
    beside(
        "linearizable gets per second, 256 clients, over etcd's",
        "throughput",
        LINEARIZABLE,
        SIDES,
        Bound::AtLeast(2.2),
    ),
    beside(
        "serializable gets per second, 256 clients, over etcd's",
        "throughput",
        SERIALIZABLE,
        SIDES,
        Bound::AtLeast(1.4),
    ),
    beside(
        "server CPU per linearizable get, over etcd's",
        "server_cpu",
        LINEARIZABLE,
        SIDES,
        Bound::AtMost(0.4),
    ),
    beside(
        "server CPU per serializable get, over etcd's",
        "server_cpu",
        SERIALIZABLE,
        SIDES,
        Bound::AtMost(0.6),
    ),
];

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let groups = loads::groups(context, 3, &[]).await?;
    let keys = context.amount(KEYS, 1_000);
    for group in &groups {
        fill(group.address(group.leader().await?), keys, VALUE_BYTES).await?;
    }
    for case in [LINEARIZABLE, SERIALIZABLE]
        .into_iter()
        .filter(|case| context.wants(case))
    {
        let load = Load {
            operation: Operation::Get {
                serializable: case == SERIALIZABLE,
            },
            clients: CLIENTS,
            connections: CONNECTIONS,
            keys,
            rate: None,
        };
        loads::in_turn(context, recorder, &groups, (case, None), &load, TIME).await?;
    }
    Ok(())
}
