//! One node that feeds many from its log, beside a raw stream.

use super::loads;
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target};
use crate::context::{Context, Recorder};
use crate::crowd::Crowd;
use crate::group::Group;
use crate::load::fill;
use crate::processor;
use crate::results::values;
use eaves_server::failure::{Failure, Outcome};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

const RAW: &str = "raw TCP";
const SIDE: &str = "eaves";
/// What a raw stream writes at once, and reads.
const BLOCK_BYTES: usize = 256 << 10;
const CASES: [(usize, &str); 4] = [
    (1, "1 downstream"),
    (8, "8 downstreams"),
    (32, "32 downstreams"),
    (128, "128 downstreams"),
];
/// Nothing that was in the log before a start is in the memory that the log keeps its newest entries in.
const FROM_DISK: (usize, &str) = (32, "32 downstreams, read from files");

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "feeding",
    title: "One node feeding many from its log, beside a raw stream",
    minutes: 4,
    about: "Two voters, so that one of them feeds all; it holds 50,000 entries with values of 256 bytes, and listeners that have nothing get \
            all of them, in batches as large as they come: from memory, since its log keeps the newest 32 MiB there, and once more from files, \
            after a restart. The listeners are one process of the library, and take most of the processors: \
            they write a log and apply, where the raw stream's reader throws away. Rates are from the first byte fed until the last listener \
            has applied all. The raw stream carries as many bytes over one connection of loopback.",
    metrics: &[
        Metric {
            name: "rate",
            title: "in total",
            unit: "MB/s",
        },
        Metric {
            name: "cpu",
            title: "feeding node's CPU per entry and downstream",
            unit: "us",
        },
        Metric {
            name: "feed_cpu",
            title: "of it the tasks that feed, as the node says",
            unit: "us",
        },
        Metric {
            name: "crowd_cpu",
            title: "receivers' CPU per entry and downstream",
            unit: "us",
        },
    ],
    beside: Some(RAW),
    targets: &[
        over_raw("rate to 1 downstream, over a raw stream's", CASES[0].1),
        over_raw("rate to 8 downstreams, over a raw stream's", CASES[1].1),
        over_raw("rate to 32 downstreams, over a raw stream's", CASES[2].1),
        over_raw("rate to 128 downstreams, over a raw stream's", CASES[3].1),
        Target {
            what: "feeding node's CPU per entry and downstream, 32 downstreams",
            metric: "cpu",
            of: Place {
                case: CASES[2].1,
                side: SIDE,
            },
            over: None,
            bound: Bound::AtMost(0.25),
        },
        Target {
            what: "feeding node's CPU per entry and downstream, 32 downstreams, read from files",
            metric: "cpu",
            of: Place {
                case: FROM_DISK.1,
                side: SIDE,
            },
            over: None,
            bound: Bound::AtMost(0.25),
        },
    ],
    plotted: &[
        Plotted {
            metric: "rate",
            logarithmic: false,
        },
        Plotted {
            metric: "cpu",
            logarithmic: false,
        },
    ],
    run,
};

const fn over_raw(what: &'static str, case: &'static str) -> Target {
    Target {
        what,
        metric: "rate",
        of: Place { case, side: SIDE },
        over: Some(Place { case, side: RAW }),
        bound: Bound::AtLeast(0.8),
    }
}

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    // Raft's snapshots would let go of the log that is to be fed.
    let flags = ["--capacity", "128", "--snapshot-count", "100000000"];
    let mut group = Group::start(&context.programs.eaves, 2, &context.data, &flags).await?;
    let leader = group.leader().await?;
    let entries = context.amount(50_000, 2_000);
    fill(group.address(leader), entries, loads::VALUE_BYTES).await?;
    for round in 1..=context.rounds {
        for (count, case) in CASES {
            feed(context, recorder, &group, (leader, count, case, round)).await?;
        }
    }
    group.stop().await;
    group.start_all().await?;
    let leader = group.leader().await?;
    let (count, case) = FROM_DISK;
    for round in 1..=context.rounds {
        feed(context, recorder, &group, (leader, count, case, round)).await?;
    }
    Ok(())
}

async fn feed(
    context: &Context,
    recorder: &mut Recorder,
    group: &Group,
    (leader, count, case, round): (usize, usize, &str, u32),
) -> Outcome {
    let feeding = 1 - leader;
    let committed = group.metric(leader, "eaves_committed_index").await as u64;
    let fed_bytes = async || group.metric(feeding, "eaves_feed_bytes_total").await;
    let fed_cpu = async || group.metric(feeding, "eaves_feed_cpu_seconds_total").await;
    let (bytes_before, feed_before) = (fed_bytes().await, fed_cpu().await);
    let process = group.processes()[feeding];
    let before = processor::cpu_seconds(process)?;
    let mut crowd = Crowd::start(count, 0, &group.peer_addresses(), &context.data)?;
    while fed_bytes().await == bytes_before {
        crowd.until(|_| true).await?;
    }
    let began = Instant::now();
    crowd
        .until(|stand| stand.attached == count && stand.applied >= committed)
        .await?;
    let seconds = began.elapsed().as_secs_f64();
    let bytes = fed_bytes().await - bytes_before;
    let handed = (committed * count as u64) as f64;
    let us = |seconds: f64| seconds / handed * 1e6;
    let of_eaves = values([
        ("rate", bytes / seconds / 1e6),
        ("cpu", us(processor::cpu_seconds(process)? - before)),
        ("feed_cpu", us(fed_cpu().await - feed_before)),
        ("crowd_cpu", us(processor::cpu_seconds(crowd.process())?)),
    ]);
    recorder.add(case, Some(count as f64), SIDE, round, of_eaves);
    drop(crowd);
    let rate = tokio::task::spawn_blocking(move || raw_stream(bytes as u64)).await;
    let rate = rate.map_err(io::Error::other).and_then(|rate| rate);
    let rate =
        rate.map_err(|error| Failure::failed(format!("cannot measure a raw stream: {error}")))?;
    recorder.add(
        case,
        Some(count as f64),
        RAW,
        round,
        values([("rate", rate)]),
    );
    Ok(())
}

/// Sends so many bytes to a thread that throws them away; megabytes per second.
pub(super) fn raw_stream(bytes: u64) -> io::Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut theirs, _) = listener.accept()?;
    let began = Instant::now();
    let reader = std::thread::spawn(move || {
        let mut block = vec![0; BLOCK_BYTES];
        while theirs.read(&mut block).is_ok_and(|length| length > 0) {}
    });
    let block = vec![7; BLOCK_BYTES];
    let mut left = bytes as usize;
    while left > 0 {
        let length = left.min(BLOCK_BYTES);
        stream.write_all(&block[..length])?;
        left -= length;
    }
    drop(stream);
    reader
        .join()
        .map_err(|_| io::Error::other("the reader panicked"))?;
    Ok(bytes as f64 / began.elapsed().as_secs_f64() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_stream_has_a_rate() {
        assert!(raw_stream(3 * BLOCK_BYTES as u64 + 1).unwrap() > 0.0);
    }
}
