//! What figures share that put load on a group: the metrics that every load tells, the groups, the rounds.

use super::{Metric, Plotted};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::load::Load;
use eaves_server::bench::Operation;
use eaves_server::failure::Outcome;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Unless a figure is about something else.
pub const VALUE_BYTES: usize = 256;
/// Unless a figure is about something else.
pub const KEYS: u64 = 100_000;
/// Those who are compared.
pub const SIDES: [&str; 2] = ["eaves", "etcd"];

/// What [`Load::measure`] tells.
pub const METRICS: &[Metric] = &[
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

/// What is worth seeing of it.
pub const PLOTTED: &[Plotted] = &[
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
];

/// Puts as fast as the clients go.
pub fn puts(clients: u32, connections: u32) -> Load {
    Load {
        operation: Operation::put(VALUE_BYTES),
        clients,
        connections,
        keys: KEYS,
        rate: None,
    }
}

/// So many servers of each program that there is.
pub async fn groups(context: &Context, size: usize, flags: &[&str]) -> Outcome<Vec<Group>> {
    let mut groups = Vec::new();
    for program in [
        Some(&context.programs.eaves),
        context.programs.etcd.as_ref(),
    ]
    .into_iter()
    .flatten()
    {
        groups.push(Group::start(program, size, &context.data, flags).await?);
    }
    Ok(groups)
}

/// What is measured in a round, in every second round the other way round: who comes first is nobody's advantage.
pub fn in_order<T>(all: &[T], round: u32) -> Vec<&T> {
    let mut all: Vec<&T> = all.iter().collect();
    if round.is_multiple_of(2) {
        all.reverse();
    }
    all
}

/// One load on the leader of each group in turn, round by round.
pub async fn in_turn(
    context: &Context,
    recorder: &mut Recorder,
    groups: &[Group],
    case: (&str, Option<f64>),
    load: &Load,
    time: Duration,
) -> Outcome {
    let rounds = 1..=context.rounds;
    for_rounds(rounds, context, recorder, groups, case, (load, time)).await
}

/// The same in few rounds: for curves, where each point has others beside it.
pub async fn in_few_rounds(
    context: &Context,
    recorder: &mut Recorder,
    groups: &[Group],
    case: (&str, Option<f64>),
    load: &Load,
    time: Duration,
) -> Outcome {
    let rounds = 1..=context.few_rounds;
    for_rounds(rounds, context, recorder, groups, case, (load, time)).await
}

async fn for_rounds(
    rounds: RangeInclusive<u32>,
    context: &Context,
    recorder: &mut Recorder,
    groups: &[Group],
    (case, x): (&str, Option<f64>),
    (load, time): (&Load, Duration),
) -> Outcome {
    for round in rounds {
        for group in in_order(groups, round) {
            let values = load.measure(group, context.time(time)).await?;
            recorder.add(case, x, group.side(), round, values);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::in_order;

    #[test]
    fn every_second_round_goes_the_other_way_round() {
        assert_eq!(in_order(&[1, 2, 3], 1), [&1, &2, &3]);
        assert_eq!(in_order(&[1, 2, 3], 2), [&3, &2, &1]);
        assert_eq!(in_order(&[1, 2, 3], 3), [&1, &2, &3]);
    }
}
