//! How costs grow with the tree: the leader's with the number of listeners, the time to a listener with its depth.

use super::depth;
use super::listeners::{self, LEARNERS, SIDE, slice, started};
use super::{Figure, Plotted, Running};
use crate::context::{Context, Recorder};
use std::time::Duration;

const TIME: Duration = Duration::from_secs(5);

/// With listeners.
pub const BY_LISTENERS: Figure = Figure {
    name: "widths",
    title: "The leader's cost by the number of listeners",
    minutes: 5,
    about: "As in `listeners`, which has the ratios: 1,000 puts of 256 bytes per second on three voters, and so many nodes as one process of \
            the library, as listeners or as openraft's learners.",
    metrics: listeners::METRICS,
    beside: Some(LEARNERS),
    targets: &[],
    plotted: listeners::PLOTTED,
    run: by_listeners,
};

/// With depth.
pub const BY_DEPTH: Figure = Figure {
    name: "depths",
    title: "From the leader to a listener, at each depth",
    minutes: 2,
    about: "As in `depth`: one chain of eight listeners below a follower, and the time from the event at the leader to the event at each \
            of them; depth 0 is the follower.",
    metrics: depth::METRICS,
    beside: None,
    targets: &[],
    plotted: &[
        Plotted {
            metric: "p50",
            logarithmic: false,
        },
        Plotted {
            metric: "p99",
            logarithmic: true,
        },
    ],
    run: by_depth,
};

fn by_listeners<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(async {
        let group = started(context).await?;
        let counts = context.amount(&[0, 1, 3, 10, 30, 100][..], &[0, 1, 3]);
        for round in 1..=context.few_rounds {
            // Learners come to a group and stay, so they get a new one each round, and come in steps.
            let of_learners = started(context).await?;
            let mut learners = Vec::new();
            let mut there = 0;
            for count in counts {
                let case = format!("{count} listeners");
                let x = Some(*count as f64);
                let crowd = listeners::listeners(context, &group, *count).await?;
                let values = slice(context, recorder, &group, &crowd, TIME).await?;
                recorder.add(&case, x, SIDE, round, values);
                drop(crowd);
                if *count > there {
                    learners.push(listeners::learners(context, &of_learners, count - there).await?);
                    there = *count;
                }
                let values = slice(context, recorder, &of_learners, &learners, TIME).await?;
                recorder.add(&case, x, LEARNERS, round, values);
            }
        }
        Ok(())
    })
}

fn by_depth<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(async {
        let deepest = context.amount(8, 2);
        let chain = depth::chain(context, &Vec::from_iter(0..=deepest)).await?;
        for round in 1..=context.few_rounds {
            for (loaded, side) in [(false, "idle"), (true, "half load")] {
                let measured = chain.measure(context, loaded).await?;
                for (depth, values) in measured.into_iter().enumerate() {
                    let case = format!("depth {depth}");
                    recorder.add(&case, Some(depth as f64), side, round, values);
                }
            }
        }
        Ok(())
    })
}
