//! Memory: of an idle node, of a watcher, of a listener that is fed, of keys.

use super::curves::filled;
use super::loads::{self, SIDES};
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target, beside};
use crate::context::{Context, Recorder};
use crate::crowd::Crowd;
use crate::group::Group;
use crate::results::values;
use crate::watchers::Watchers;
use eaves_server::failure::Outcome;
use std::time::Duration;

/// After something came, until memory is read: what was made by the way is freed.
const REST: Duration = Duration::from_secs(3);
const STREAMS: usize = 16;

const IDLE: &str = "an idle node";
const WATCHER: &str = "a watcher";
const DOWNSTREAM: &str = "a listener that is fed, with nothing on its way";
const KEYS: &str = "a million keys of 64 bytes";

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "memory",
    title: "Memory, beside etcd",
    minutes: 5,
    about: "Resident memory (VmRSS), shared pages of the program included. An idle node: the largest of three that were just started. A \
            watcher: what 10,000 on 16 streams add to a follower, divided. A listener: what 100 add to the voters that feed them, 64 of them, \
            divided by 64. Keys: what a million, and the log that came with them, add to a single server (most of \
            them by transactions of a hundred).",
    metrics: &[Metric {
        name: "kib",
        title: "memory",
        unit: "KiB",
    }],
    beside: Some("etcd"),
    targets: &[
        at_most("memory of an idle node", IDLE, 40.0 * 1024.0),
        at_most("memory of a watcher", WATCHER, 2.0),
        at_most("memory of a listener that is fed", DOWNSTREAM, 64.0),
        beside(
            "memory of a million keys of 64 bytes, over etcd's",
            "kib",
            KEYS,
            SIDES,
            Bound::AtMost(0.5),
        ),
    ],
    plotted: &[Plotted {
        metric: "kib",
        logarithmic: true,
    }],
    run,
};

const fn at_most(what: &'static str, case: &'static str, kib: f64) -> Target {
    Target {
        what,
        metric: "kib",
        of: Place {
            case,
            side: SIDES[0],
        },
        over: None,
        bound: Bound::AtMost(kib),
    }
}

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    for round in 1..=context.few_rounds {
        for group in loads::groups(context, 3, &[]).await? {
            let side = group.side().to_owned();
            let mut add =
                |case, kib| recorder.add(case, None, &side, round, values([("kib", kib)]));
            add(IDLE, kib_of(&group).await?.into_iter().fold(0.0, f64::max));
            add(WATCHER, per_watcher(context, &group).await?);
            if side == SIDES[0] {
                add(DOWNSTREAM, per_downstream(context, &group).await?);
            }
        }
        keys(context, recorder, round).await?;
    }
    Ok(())
}

async fn kib_of(group: &Group) -> Outcome<Vec<f64>> {
    tokio::time::sleep(REST).await;
    let bytes = group.resident_bytes()?;
    Ok(bytes
        .into_iter()
        .map(|bytes| bytes as f64 / 1024.0)
        .collect())
}

async fn per_watcher(context: &Context, group: &Group) -> Outcome<f64> {
    let place = (group.leader().await? + 1) % 3;
    let before = kib_of(group).await?[place];
    let each = context.amount(10_000, 1_600) / STREAMS;
    let mut watchers = Watchers::default();
    for _ in 0..STREAMS {
        watchers
            .count(&group.address(place), "/watched/", each)
            .await?;
    }
    Ok((kib_of(group).await?[place] - before) / (each * STREAMS) as f64)
}

/// Each voter that does not lead feeds 32.
async fn per_downstream(context: &Context, group: &Group) -> Outcome<f64> {
    let before: f64 = kib_of(group).await?.iter().sum();
    let mut crowd = Crowd::start(100, 32, &group.peer_addresses(), &context.data)?;
    crowd.until(|stand| stand.attached == 100).await?;
    let mut fed = 0.0;
    for place in 0..3 {
        let connections = group.metric(place, "eaves_peer_connections{purpose=\"feed\"}");
        fed += connections.await;
    }
    let after: f64 = kib_of(group).await?.iter().sum();
    Ok((after - before) / fed.max(1.0))
}

async fn keys(context: &Context, recorder: &mut Recorder, round: u32) -> Outcome {
    let keys = context.amount(1_000_000, 10_000);
    let mut empty = Vec::new();
    for group in loads::groups(context, 1, &[]).await? {
        empty.push(kib_of(&group).await?[0]);
    }
    for (group, empty) in filled(context, 1, keys).await?.iter().zip(empty) {
        let kib = (kib_of(group).await?[0] - empty) * 1e6 / keys as f64;
        recorder.add(KEYS, None, group.side(), round, values([("kib", kib)]));
    }
    Ok(())
}
