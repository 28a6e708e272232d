//! Puts at half load for minutes: whether anything stalls them.

use super::loads;
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target};
use crate::context::{Context, Recorder};
use crate::load::Load;
use crate::results::Values;
use eaves_server::failure::Outcome;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(300);
/// How long it is measured what full load is.
const FULL_LOAD: Duration = Duration::from_secs(8);
const CASE: &str = "64 clients, half load";
/// What counts as a stall, in medians.
const STALL: u32 = 10;

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "steady",
    title: "Puts at half load for five minutes, beside etcd",
    minutes: 11,
    about: "64 clients on 8 connections put 256 bytes at half the rate that the same group reached before. A latency counts from the moment \
            a put was due, so a stall counts for all that should have been sent during it. One round of five minutes for each side.",
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
        let leader = group.address(group.leader().await?);
        let full = loads::puts(64, 8);
        let time = context.time(FULL_LOAD);
        let measured = full.drive(leader.clone(), time).await?;
        let rate = half_rate(measured.latencies.count(), measured.elapsed);
        let half = Load {
            rate: Some(rate),
            ..full
        };
        let measured = half.drive(leader, context.time(TIME)).await?;
        let latencies = &measured.latencies;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let p50 = latencies.quantile(500);
        let values = [
            ("rate", rate as f64),
            ("p50", ms(p50)),
            ("p99", ms(latencies.quantile(990))),
            ("p999", ms(latencies.quantile(999))),
            ("max", ms(latencies.max())),
            ("max_over_p50", ms(latencies.max()) / ms(p50)),
            (
                "stalled",
                latencies.above(p50 * STALL) as f64 / latencies.count() as f64 * 1e6,
            ),
        ];
        let values: Values = values.map(|(name, value)| (name.to_owned(), value)).into();
        recorder.add(CASE, None, group.side(), 1, values);
    }
    Ok(())
}

/// Half of what was done, per second.
pub(super) fn half_rate(done: u64, elapsed: Duration) -> u64 {
    ((done as f64 / elapsed.as_secs_f64() / 2.0) as u64).max(1)
}
