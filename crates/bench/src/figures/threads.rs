//! One runtime thread for a node, or several.

use super::loads;
use super::{Figure, Running};
use crate::context::{Context, Recorder};
use crate::group::Group;
use eaves_server::failure::Outcome;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(5);

/// Sides, and what `--runtime-threads` is for them.
const SIDES: &[(&str, &str)] = &[("one thread", "0"), ("2 workers", "2"), ("4 workers", "4")];
const CASES: &[(&str, u32, u32)] = &[
    ("1 client", 1, 1),
    ("64 clients on 8 connections", 64, 8),
    ("1,024 clients on 16 connections", 1_024, 16),
];

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "threads",
    title: "Runtime threads of a node",
    minutes: 4,
    about: "Puts on three voters as in the first figure, with different --runtime-threads. More than there are processors cannot help here; \
            what they cost shows.",
    metrics: loads::METRICS,
    beside: Some("2 workers"),
    targets: &[],
    plotted: loads::PLOTTED,
    run,
};

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let mut groups = Vec::new();
    for (side, threads) in SIDES {
        let flags = ["--runtime-threads", threads];
        let group = Group::start(&context.programs.eaves, 3, &context.data, &flags).await?;
        groups.push(group.as_side(side));
    }
    for (case, clients, connections) in CASES.iter().filter(|(case, ..)| context.wants(case)) {
        let load = loads::puts(*clients, *connections);
        loads::in_few_rounds(context, recorder, &groups, (case, None), &load, TIME).await?;
    }
    Ok(())
}
