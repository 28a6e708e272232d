//! Starting again with many keys, beside etcd.

use super::curves::filled;
use super::{Bound, Figure, Metric, Plotted, Running, beside};
use crate::context::{Context, Recorder};
use crate::processor;
use crate::results::Values;
use eaves_server::failure::Outcome;
use std::time::Instant;

const CASE: &str = "10 million keys";
const QUICK_CASE: &str = "20,000 keys";

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "restart",
    title: "Starting with many keys, beside etcd",
    minutes: 6,
    about: "One server of each, filled with keys, values of 64 bytes, and stopped with SIGTERM (most of the keys came by transactions of a \
            hundred, the last 200,000 one by one): seconds from the start of the process until \
            `/health`, which is a linearizable read, says true.",
    metrics: &[
        Metric {
            name: "seconds",
            title: "until healthy",
            unit: "s",
        },
        Metric {
            name: "cpu",
            title: "CPU",
            unit: "s",
        },
        Metric {
            name: "resident",
            title: "memory then",
            unit: "MiB",
        },
    ],
    beside: Some("etcd"),
    targets: &[beside(
        "restart with 10 million keys, over etcd's time",
        "seconds",
        CASE,
        super::loads::SIDES,
        Bound::AtMost(0.5),
    )],
    plotted: &[
        Plotted {
            metric: "seconds",
            logarithmic: false,
        },
        Plotted {
            metric: "resident",
            logarithmic: false,
        },
    ],
    run,
};

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let (case, keys) = context.amount((CASE, 10_000_000), (QUICK_CASE, 20_000));
    let mut groups = filled(context, 1, keys).await?;
    for group in &mut groups {
        group.stop().await;
    }
    for round in 1..=context.few_rounds {
        for group in &mut groups {
            let began = Instant::now();
            group.start_all().await?;
            let seconds = began.elapsed().as_secs_f64();
            let process = group.processes()[0];
            let values = [
                ("seconds", seconds),
                ("cpu", processor::cpu_seconds(process)?),
                (
                    "resident",
                    processor::resident_bytes(process)? as f64 / f64::from(1 << 20),
                ),
            ];
            let values: Values = values.map(|(name, value)| (name.to_owned(), value)).into();
            recorder.add(case, None, group.side(), round, values);
            group.stop().await;
        }
    }
    Ok(())
}
