//! What listeners cost the leader: nothing. Beside it what the same nodes cost it as openraft's learners, and observers a ZooKeeper's.

use super::loads;
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target};
use crate::context::{Context, Recorder};
use crate::crowd::Crowd;
use crate::group::Group;
use crate::load::{Load, SETTLE};
use crate::processor::{self, Meter};
use crate::results::{Values, values};
use crate::zookeeper::{Ensemble, Feeder};
use eaves_server::failure::Outcome;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(10);
/// All cases get the same load: at full load listeners would slow it, and with it change how much the leader does at once.
pub(super) const RATE: u64 = 1_000;
/// Each of the rounds has so many turns of all cases, each of which is compared with itself: a ratio of 1.02 is less than what one pair
/// of measurements is off by.
const TURNS: u32 = 2;
/// Before the first measurement of a ZooKeeper: a Java machine compiles what it has run often enough.
const JAVA_WARM_UP: Duration = Duration::from_secs(15);
/// ZooKeeper's clients are on so many connections.
const CONNECTIONS: usize = 8;

pub(super) const SIDE: &str = "eaves";
pub(super) const LEARNERS: &str = "openraft learners";
const ON_LEADER: &str = "zookeeper, observers on the leader";
const ON_FOLLOWERS: &str = "zookeeper, observers on followers";
const NONE: &str = "0 listeners";
const AGAIN: &str = "0 listeners, again";
const TEN: &str = "10 listeners";
const HUNDRED: &str = "100 listeners";

/// What a measurement of a leader and of those who get its log tells.
pub(super) const METRICS: &[Metric] = &[
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
];

/// The two of them that are about the leader.
pub(super) const PLOTTED: &[Plotted] = &[
    Plotted {
        metric: "leader_cpu",
        logarithmic: true,
    },
    Plotted {
        metric: "leader_bytes",
        logarithmic: true,
    },
];

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "listeners",
    title: "What listeners cost the leader",
    minutes: 12,
    about: "Three voters, and listeners that are one process of the library, each a whole node that counts entries (100 processes are too \
            many for two cores). 1,000 puts of 256 bytes per second at the leader. Bytes are what the leader's connections to other nodes have \
            sent. In each round the cases take two turns, in changing order, and each turn gives a ratio of its own; the case of no listeners \
            is measured twice in each, and what its second measurement is off by is what the ratios below are off by. Beside it the same \
            nodes as openraft's learners, which the leader feeds, in a new group for each round; and a ZooKeeper with ten observers that the \
            leader feeds, or that followers feed (`observerMasterPort`), each a process. Case by case they get the same load.",
    metrics: METRICS,
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
    plotted: PLOTTED,
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
    let group = started(context).await?;
    let ensembles = ensembles(context, recorder).await?;
    let turns = context.amount(TURNS, 1);
    for round in 1..=context.rounds {
        for turn in 0..turns {
            turn_of_listeners(context, recorder, &group, (round - 1) * turns + turn + 1).await?;
        }
        // These are far from the bound: one turn is enough.
        let number = (round - 1) * turns + 1;
        if round <= context.few_rounds {
            turn_of_learners(context, recorder, number).await?;
            for (side, case, ensemble) in &ensembles {
                let values = turn_of_observers(context, recorder, ensemble).await?;
                recorder.add(case, None, side, number, values);
            }
        }
    }
    Ok(())
}

/// Three voters that have had some load.
pub(super) async fn started(context: &Context) -> Outcome<Group> {
    let group = Group::start(&context.programs.eaves, 3, &context.data, &[]).await?;
    let leader = group.address(group.leader().await?);
    load().drive(leader, context.time(TIME / 2)).await?;
    Ok(group)
}

fn load() -> Load {
    Load {
        rate: Some(RATE),
        ..loads::puts(64, 8)
    }
}

/// All cases once, so that each comes as often early as late.
async fn turn_of_listeners(
    context: &Context,
    recorder: &mut Recorder,
    group: &Group,
    turn: u32,
) -> Outcome {
    let mut cases = [(NONE, 0), (TEN, 10), (HUNDRED, 100), (AGAIN, 0)];
    if turn.is_multiple_of(2) {
        cases.reverse();
    }
    for (case, count) in cases.iter().filter(|(case, _)| context.wants(case)) {
        let crowd = listeners(context, group, *count).await?;
        let values = slice(context, recorder, group, &crowd, TIME).await?;
        recorder.add(case, None, SIDE, turn, values);
    }
    Ok(())
}

/// So many listeners, all of them fed and with everything.
pub(super) async fn listeners(
    context: &Context,
    group: &Group,
    count: usize,
) -> Outcome<Vec<Crowd>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    // Listeners may feed others, as a tree does.
    let crowd = Crowd::start(count, 32, &group.peer_addresses(), &context.data)?;
    caught_up(group, crowd, count).await
}

/// The same, openraft's learners.
pub(super) async fn learners(context: &Context, group: &Group, count: usize) -> Outcome<Crowd> {
    let crowd = Crowd::start_learners(count, &group.peer_addresses(), &context.data)?;
    let mut crowd = caught_up(group, crowd, count).await?;
    Ok(crowd.remove(0))
}

async fn caught_up(group: &Group, mut crowd: Crowd, count: usize) -> Outcome<Vec<Crowd>> {
    let leader = group.leader().await?;
    let committed = group.metric(leader, "eaves_committed_index").await as u64;
    crowd
        .until(|stand| stand.attached == count && stand.applied >= committed)
        .await?;
    Ok(vec![crowd])
}

/// A new group, to which learners come in steps: none that has gone is left for the leader to ask for.
async fn turn_of_learners(context: &Context, recorder: &mut Recorder, turn: u32) -> Outcome {
    let group = started(context).await?;
    let mut crowds = Vec::new();
    for (case, more) in [(NONE, 0), (TEN, 10), (HUNDRED, 90)] {
        if more > 0 {
            crowds.push(learners(context, &group, more).await?);
        }
        if context.wants(case) {
            let values = slice(context, recorder, &group, &crowds, TIME).await?;
            recorder.add(case, None, LEARNERS, turn, values);
        }
    }
    Ok(())
}

/// One load on a group while `crowds` get its log.
pub(super) async fn slice(
    context: &Context,
    recorder: &mut Recorder,
    group: &Group,
    crowds: &[Crowd],
    time: Duration,
) -> Outcome<Values> {
    let leader = group.leader().await?;
    let voters = group.processes();
    let mut processes = voters.clone();
    processes.extend(crowds.iter().map(Crowd::process));
    let client_port = group.address(leader).port();
    let sent = || processor::sent_bytes(voters[leader], client_port);
    let fed = async || group.metric(leader, "eaves_feed_entries_total").await;
    let (sent_before, fed_before) = (sent(), fed().await);
    let meter = Meter::start(processes)?;
    let address = group.address(leader);
    let measured = load().drive(address, context.time(time)).await?;
    tokio::time::sleep(SETTLE).await;
    let used = meter.end()?;
    let entries = measured.latencies.count();
    let mut all = shares(&used, leader, voters.len(), entries);
    all.extend(values([("fed", fed().await - fed_before)]));
    all.extend(bytes_per(recorder, entries, sent_before, sent()));
    Ok(all)
}

/// Who used how much for an entry: the first `voters` of the processes are voters.
fn shares(used: &processor::Used, leader: usize, voters: usize, entries: u64) -> Values {
    let us = |seconds: f64| seconds / entries as f64 * 1e6;
    let of_voters: f64 = used.each[..voters].iter().sum();
    values([
        ("leader_cpu", us(used.each[leader])),
        ("others_cpu", us(of_voters - used.each[leader])),
        ("crowd_cpu", us(used.total() - of_voters)),
        ("others", used.others),
    ])
}

fn bytes_per(
    recorder: &mut Recorder,
    entries: u64,
    before: Option<u64>,
    after: Option<u64>,
) -> Values {
    match (before, after) {
        (Some(before), Some(after)) => {
            let bytes = after.saturating_sub(before) as f64 / entries as f64;
            values([("leader_bytes", bytes)])
        }
        _ => {
            recorder.note(
                "bytes that the leader sends are left out: `ss` was not found; install iproute2",
            );
            Values::new()
        }
    }
}

/// Three ensembles, warm: without observers, with ten on the leader, with ten on followers. Their sides and cases come along.
async fn ensembles(
    context: &Context,
    recorder: &mut Recorder,
) -> Outcome<Vec<(&'static str, &'static str, Ensemble)>> {
    let Some(program) = &context.programs.zookeeper else {
        return Ok(Vec::new());
    };
    let count = context.amount(10, 2);
    if context.quick {
        recorder.note("ZooKeeper has two observers, not ten");
    }
    let mut ensembles = Vec::new();
    for (side, case, feeder, count) in [
        (ON_LEADER, NONE, Feeder::Leader, 0),
        (ON_LEADER, TEN, Feeder::Leader, count),
        (ON_FOLLOWERS, TEN, Feeder::Follower, count),
    ] {
        if !context.wants(case) {
            continue;
        }
        let ensemble = Ensemble::start(program, &context.data, &vec![feeder; count]).await?;
        let warm_up = context.time(JAVA_WARM_UP);
        let leader = ensemble.leader().await?;
        ensemble
            .drive(leader, CONNECTIONS, Some(RATE), warm_up)
            .await?;
        ensembles.push((side, case, ensemble));
    }
    Ok(ensembles)
}

async fn turn_of_observers(
    context: &Context,
    recorder: &mut Recorder,
    ensemble: &Ensemble,
) -> Outcome<Values> {
    let leader = ensemble.leader().await?;
    let processes = ensemble.processes();
    let port = ensemble.address(leader).port();
    let sent = || processor::sent_bytes(processes[leader], port);
    let sent_before = sent();
    let meter = Meter::start(processes.clone())?;
    let time = context.time(TIME);
    let load = ensemble.drive(leader, CONNECTIONS, Some(RATE), time);
    let (entries, _) = load.await?;
    tokio::time::sleep(SETTLE).await;
    let used = meter.end()?;
    let mut all = shares(&used, leader, Ensemble::VOTERS, entries);
    all.extend(bytes_per(recorder, entries, sent_before, sent()));
    Ok(all)
}
