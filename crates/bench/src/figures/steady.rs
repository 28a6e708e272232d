//! Puts at half load for minutes: whether anything stalls them.

use super::loads::{self, SIDES};
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::happenings::{Cause, Happenings, Watcher};
use crate::load::{Load, compact_every};
use crate::results::values;
use eaves_server::bench::{Measured, SLICE};
use eaves_server::failure::Outcome;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(300);
/// How long it is measured what full load is.
const FULL_LOAD: Duration = Duration::from_secs(8);
const CASE: &str = "64 clients, half load";
/// So often in that time the history before the last compaction is given up.
const COMPACTIONS: u32 = 10;
/// What counts as a stall, in medians.
const STALL: u32 = 10;

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "steady",
    title: "Puts at half load for five minutes, beside etcd",
    minutes: 11,
    about: "64 clients on 8 connections put 256 bytes at half the rate that the same group reached before. A latency counts from the moment \
            a put was due, so a stall counts for all that should have been sent during it. Every 30 seconds all history but the last 30 \
            seconds' is compacted. One round of five minutes for each side. What went on meanwhile is told by slices of 50 ms: in how many \
            of them it went on at one of the three servers, as their metrics say (a compaction for five seconds), and in how many of these, \
            and of the others, a put was due that took more than ten medians.",
    metrics: &[
        Metric {
            name: "rate",
            title: "puts per second",
            unit: "",
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
            name: "p999",
            title: "latency, p99.9",
            unit: "ms",
        },
        Metric {
            name: "max",
            title: "latency, longest",
            unit: "ms",
        },
        Metric {
            name: "max_over_p50",
            title: "longest in medians",
            unit: "",
        },
        Metric {
            name: "stalled",
            title: "puts that took more than ten medians, of a million",
            unit: "",
        },
        Metric {
            name: "slices",
            title: "of all slices",
            unit: "%",
        },
        Metric {
            name: "stalled_slices",
            title: "of these, slices with a put that took more than ten medians",
            unit: "%",
        },
    ],
    beside: Some("etcd"),
    targets: &[Target {
        what: "longest put of five minutes, in medians",
        metric: "max_over_p50",
        of: Place {
            case: CASE,
            side: "eaves",
        },
        over: None,
        bound: Bound::AtMost(STALL as f64),
    }],
    plotted: &[
        Plotted {
            metric: "p99",
            logarithmic: true,
        },
        Plotted {
            metric: "max",
            logarithmic: true,
        },
    ],
    run,
};

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let groups = loads::groups(context, 3, &[]).await?;
    for group in &groups {
        let full = loads::puts(64, 8);
        let leader = group.address(group.leader().await?);
        let measured = full.drive(leader, context.time(FULL_LOAD)).await?;
        let rate = half_rate(measured.latencies.count(), measured.elapsed);
        let half = Load {
            rate: Some(rate),
            ..full
        };
        one_round(context, recorder, group, &half).await?;
    }
    Ok(())
}

async fn one_round(
    context: &Context,
    recorder: &mut Recorder,
    group: &Group,
    half: &Load,
) -> Outcome {
    let leader = group.address(group.leader().await?);
    let time = context.time(TIME);
    let watcher = (group.side() == SIDES[0]).then(|| Watcher::start(group.client_ports()));
    let compacting = compact_every(leader.clone(), time / COMPACTIONS);
    let measured = tokio::select! {
        measured = half.drive(leader, time) => measured?,
        failure = compacting => return Err(failure),
    };
    let latencies = &measured.latencies;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let p50 = latencies.quantile(500);
    let stalled = latencies.above(p50 * STALL) as f64 / latencies.count() as f64;
    let all = values([
        (
            "rate",
            latencies.count() as f64 / measured.elapsed.as_secs_f64(),
        ),
        ("p50", ms(p50)),
        ("p99", ms(latencies.quantile(990))),
        ("p999", ms(latencies.quantile(999))),
        ("max", ms(latencies.max())),
        ("max_over_p50", ms(latencies.max()) / ms(p50)),
        ("stalled", stalled * 1e6),
    ]);
    recorder.add(CASE, None, group.side(), 1, all);
    if let Some(watcher) = watcher {
        tell_causes(recorder, &measured, &watcher.end());
    }
    Ok(())
}

/// How often a slice has a stall in it when something went on, and when it did not.
fn tell_causes(recorder: &mut Recorder, measured: &Measured, seen: &Happenings) {
    let bound = measured.latencies.quantile(500) * STALL;
    let total = measured.longest.len();
    for (cause, with, without) in Cause::ALL {
        let slices = (0..).zip(&measured.longest).map(|(slice, longest)| {
            let from = measured.began + slice * SLICE;
            (seen.includes(cause, from, from + SLICE), *longest > bound)
        });
        let (during, apart): (Vec<_>, Vec<_>) = slices.partition(|(during, _)| *during);
        for (case, slices) in [(with, during), (without, apart)] {
            let stalled = slices.iter().filter(|(_, stalled)| *stalled).count();
            let percent = |part: usize, whole: usize| part as f64 / whole as f64 * 100.0;
            let mut told = values([("slices", percent(slices.len(), total))]);
            if !slices.is_empty() {
                told.extend(values([("stalled_slices", percent(stalled, slices.len()))]));
            }
            recorder.add(case, None, SIDES[0], 1, told);
        }
    }
}

/// Half of what was done, per second.
pub(super) fn half_rate(done: u64, elapsed: Duration) -> u64 {
    ((done as f64 / elapsed.as_secs_f64() / 2.0) as u64).max(1)
}
