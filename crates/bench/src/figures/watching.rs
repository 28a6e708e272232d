//! Ten thousand watchers: spread over listeners, or all on one etcd.

use super::loads::{self, SIDES};
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target, beside};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::load::{Load, SETTLE};
use crate::processor::Meter;
use crate::results::values;
use crate::watchers::Watchers;
use eaves_server::failure::{Failure, Outcome};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(10);
const WATCHERS: usize = 10_000;
/// Both sides get as many; a client has one for each connection, as etcd's library does.
const STREAMS: usize = 16;
const LISTENERS: usize = 8;
/// Puts per second: a hundred thousand events.
const RATE: u64 = 10;
/// Of all keys that a load puts.
const PREFIX: &str = "/bench/";
/// All events come within this time after the last put.
const PATIENCE: Duration = Duration::from_secs(120);

const NONE: &str = "no watchers";
const MANY: &str = "10,000 watchers";

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "watchers",
    title: "10,000 watchers of one prefix, beside etcd",
    minutes: 3,
    about: "10,000 watchers on 16 streams: of Eaves on eight listeners, of etcd on one follower. 10 puts per second, values of 256 bytes, \
            each an event for every watcher. Events are counted where they arrive; CPU is that of all servers, three voters and eight \
            listeners, or three members.",
    metrics: &[
        Metric {
            name: "events_per_cpu",
            title: "events delivered per CPU second",
            unit: "",
        },
        Metric {
            name: "leader_cpu",
            title: "leader's CPU per put",
            unit: "us",
        },
        Metric {
            name: "client_cpu",
            title: "clients' CPU per event",
            unit: "us",
        },
        Metric {
            name: "late",
            title: "from the last put to the last event",
            unit: "s",
        },
        Metric {
            name: "others",
            title: "processors busy with other things",
            unit: "",
        },
    ],
    beside: Some("etcd"),
    targets: &[
        beside(
            "events delivered per CPU second, 10,000 watchers over 8 listeners, over one etcd's",
            "events_per_cpu",
            MANY,
            SIDES,
            Bound::AtLeast(3.0),
        ),
        Target {
            what: "leader's CPU per put with 10,000 watchers on listeners, over none",
            metric: "leader_cpu",
            of: Place {
                case: MANY,
                side: SIDES[0],
            },
            over: Some(Place {
                case: NONE,
                side: SIDES[0],
            }),
            bound: Bound::AtMost(1.02),
        },
    ],
    plotted: &[
        Plotted {
            metric: "events_per_cpu",
            logarithmic: false,
        },
        Plotted {
            metric: "leader_cpu",
            logarithmic: false,
        },
    ],
    run,
};

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let mut groups = loads::groups(context, 3, &[]).await?;
    for group in groups.iter_mut().filter(|group| group.side() == SIDES[0]) {
        for _ in 0..LISTENERS {
            group.add_listener(&[]).await?;
        }
    }
    for round in 1..=context.few_rounds {
        for case in loads::in_order(&[NONE, MANY], round) {
            for group in loads::in_order(&groups, round) {
                one_round(context, recorder, group, (*case, round)).await?;
            }
        }
    }
    Ok(())
}

async fn one_round(
    context: &Context,
    recorder: &mut Recorder,
    group: &Group,
    (case, round): (&str, u32),
) -> Outcome {
    let leader = group.leader().await?;
    let places: Vec<usize> = match group.size() {
        3 => vec![(leader + 1) % 3],
        size => (3..size).collect(),
    };
    let mut watchers = Watchers::default();
    let each = context.amount(WATCHERS, 320) / STREAMS;
    let total = if case == MANY { each * STREAMS } else { 0 };
    for stream in 0..STREAMS {
        if total > 0 {
            let server = group.address(places[stream % places.len()]);
            watchers.count(&server, PREFIX, each).await?;
        }
    }
    let load = Load {
        rate: Some(RATE),
        ..loads::puts(8, 8)
    };
    tokio::time::sleep(SETTLE).await;
    let meter = Meter::start(group.processes())?;
    let measured = load
        .drive(group.address(leader), context.time(TIME))
        .await?;
    let puts = measured.latencies.count();
    let ended = Instant::now();
    let wanted = puts * total as u64;
    while watchers.events() < wanted {
        if ended.elapsed() > PATIENCE {
            return Err(Failure::failed(format!(
                "{}: of {wanted} events only {} came",
                group.side(),
                watchers.events()
            )));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let late = ended.elapsed();
    tokio::time::sleep(SETTLE).await;
    let used = meter.end()?;
    let mut all = values([
        ("leader_cpu", used.each[leader] / puts as f64 * 1e6),
        ("others", used.others),
    ]);
    if wanted > 0 {
        all.extend(values([
            ("events_per_cpu", wanted as f64 / used.total()),
            ("client_cpu", used.own / wanted as f64 * 1e6),
            ("late", late.as_secs_f64()),
        ]));
    }
    recorder.add(case, None, group.side(), round, all);
    Ok(())
}
