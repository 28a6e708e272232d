//! What listeners cost the leader: nothing.

use super::loads;
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target};
use crate::context::{Context, Recorder};
use crate::crowd::Crowd;
use crate::group::Group;
use crate::load::Load;
use crate::processor::{self, Meter};
use crate::results::values;
use eaves_server::failure::Outcome;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(20);
/// All cases get the same load: at full load listeners would slow it, and with it change how much the leader does at once.
const RATE: u64 = 400;
const SIDE: &str = "eaves";
const NONE: &str = "0 listeners";
const TEN: &str = "10 listeners";
const HUNDRED: &str = "100 listeners";

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "listeners",
    title: "What listeners cost the leader",
    about: "Three voters, and listeners that are one process of the library, each a whole node that counts entries (100 processes are too \
            many for two cores). 400 puts of 256 bytes per second at the leader, all cases within each round. Bytes are what the leader's \
            connections to other nodes have sent.",
    metrics: &[
        Metric {
            name: "leader_cpu",
            title: "leader's CPU per entry",
            unit: "us",
        },
        Metric {
            name: "leader_bytes",
            title: "bytes that the leader sends to nodes per entry",
            unit: "B",
        },
        Metric {
            name: "others_cpu",
            title: "CPU of the other voters per entry",
            unit: "us",
        },
        Metric {
            name: "crowd_cpu",
            title: "CPU of all listeners per entry",
            unit: "us",
        },
        Metric {
            name: "fed",
            title: "entries that the leader fed to listeners",
            unit: "",
        },
        Metric {
            name: "others",
            title: "processors busy with other things",
            unit: "",
        },
    ],
    beside: None,
    targets: &[
        over_none(
            "leader's CPU per entry with 10 listeners, over none",
            "leader_cpu",
            TEN,
        ),
        over_none(
            "leader's CPU per entry with 100 listeners, over none",
            "leader_cpu",
            HUNDRED,
        ),
        over_none(
            "bytes that the leader sends per entry with 10 listeners, over none",
            "leader_bytes",
            TEN,
        ),
        over_none(
            "bytes that the leader sends per entry with 100 listeners, over none",
            "leader_bytes",
            HUNDRED,
        ),
    ],
    plotted: &[
        Plotted {
            metric: "leader_cpu",
            logarithmic: false,
        },
        Plotted {
            metric: "leader_bytes",
            logarithmic: false,
        },
    ],
    run,
};

const fn over_none(what: &'static str, metric: &'static str, case: &'static str) -> Target {
    Target {
        what,
        metric,
        of: Place { case, side: SIDE },
        over: Some(Place {
            case: NONE,
            side: SIDE,
        }),
        bound: Bound::AtMost(1.02),
    }
}

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let group = Group::start(&context.programs.eaves, 3, &context.data, &[]).await?;
    let leader = group.leader().await?;
    let load = Load {
        rate: Some(RATE),
        ..loads::puts(64, 8)
    };
    let warm_up = context.time(TIME / 4);
    load.drive(group.address(leader), warm_up).await?;
    for round in 1..=context.rounds {
        for (case, count) in [(NONE, 0), (TEN, 10), (HUNDRED, 100)] {
            // Listeners may feed others, as a tree does.
            let mut crowd = Crowd::start(count, 32, &group.peer_addresses(), &context.data)?;
            let committed = group.metric(leader, "eaves_committed_index").await as u64;
            let caught_up =
                |stand: crate::crowd::Stand| stand.attached == count && stand.applied >= committed;
            if count > 0 {
                crowd.until(caught_up).await?;
            }
            let mut processes = group.processes();
            processes.push(crowd.process());
            let client_port = group.address(leader).port();
            let sent = || processor::sent_bytes(processes[leader], client_port);
            let (sent_before, fed_before) = (
                sent(),
                group.metric(leader, "eaves_feed_entries_total").await,
            );
            let meter = Meter::start(processes.clone())?;
            let measured = load
                .drive(group.address(leader), context.time(TIME))
                .await?;
            tokio::time::sleep(crate::load::SETTLE).await;
            let used = meter.end()?;
            let entries = measured.latencies.count() as f64;
            let crowd_cpu = used.each[3];
            let mut all = values([
                ("leader_cpu", used.each[leader] / entries * 1e6),
                (
                    "others_cpu",
                    (used.total() - used.each[leader] - crowd_cpu) / entries * 1e6,
                ),
                ("crowd_cpu", crowd_cpu / entries * 1e6),
                (
                    "fed",
                    group.metric(leader, "eaves_feed_entries_total").await - fed_before,
                ),
                ("others", used.others),
            ]);
            match (sent_before, sent()) {
                (Some(before), Some(after)) => {
                    let bytes = after.saturating_sub(before) as f64 / entries;
                    all.insert("leader_bytes".into(), bytes);
                }
                _ => recorder.note("bytes that the leader sends are left out: `ss` was not found; install iproute2"),
            }
            recorder.add(case, None, SIDE, round, all);
        }
    }
    Ok(())
}
