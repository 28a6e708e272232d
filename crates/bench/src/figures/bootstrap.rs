//! A new listener that gets a large state from its upstream, and what the leader's clients notice.

use super::feeding::raw_stream;
use super::loads;
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::load::{Load, fill};
use crate::processor::{self, Meter};
use crate::results::values;
use crate::statistics::spread;
use eaves_server::address::Address;
use eaves_server::bench::Operation;
use eaves_server::failure::{Failure, Outcome};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 4 << 10;
/// Writes meanwhile.
const RATE: u64 = 500;
/// Writes are looked at a slice at a time.
const SLICE: Duration = Duration::from_secs(2);
const SLICES: usize = 5;
/// The log must not reach back to the beginning, or it would be sent instead of the state.
const SEGMENT_BYTES: u64 = 16 << 20;
const RETENTION_BYTES: u64 = 64 << 20;
/// Until the log has been let go of.
const PATIENCE: Duration = Duration::from_secs(300);

const SIDE: &str = "eaves";
const RAW: &str = "raw TCP and disk";
const UNBOUNDED: &str = "1 GiB, --snapshot-rate 0";
const BOUNDED: &str = "1 GiB, --snapshot-rate 100 MiB";

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "bootstrap",
    title: "A new listener with a gigabyte of state",
    minutes: 6,
    about: "Three voters with 262,144 keys of 4 KiB, whose log does not reach back; 500 puts per second at the leader, and a listener that \
            starts with nothing: the time until it is healthy. Beside it the same bytes over one connection of loopback and then to a file \
            with fdatasync. Latencies are medians of slices of two seconds, before and while the listener starts, which shares the processors.",
    metrics: &[
        Metric {
            name: "rate",
            title: "state",
            unit: "MB/s",
        },
        Metric {
            name: "seconds",
            title: "until healthy",
            unit: "s",
        },
        Metric {
            name: "cpu",
            title: "CPU of all servers meanwhile",
            unit: "s",
        },
        Metric {
            name: "served",
            title: "snapshots that the leader sent",
            unit: "",
        },
        Metric {
            name: "sender_mib",
            title: "voters' memory beyond what they had before, the most of one",
            unit: "MiB",
        },
        Metric {
            name: "listener_mib",
            title: "listener's memory, at most",
            unit: "MiB",
        },
        Metric {
            name: "p50_before",
            title: "puts before, median",
            unit: "ms",
        },
        Metric {
            name: "p50_during",
            title: "puts meanwhile, median",
            unit: "ms",
        },
        Metric {
            name: "p50_ratio",
            title: "puts meanwhile over before, median",
            unit: "",
        },
        Metric {
            name: "p99_ratio",
            title: "puts meanwhile over before, p99",
            unit: "",
        },
    ],
    beside: Some(RAW),
    targets: &[
        Target {
            what: "state per second to a new listener, over raw TCP and a disk write",
            metric: "rate",
            of: Place {
                case: UNBOUNDED,
                side: SIDE,
            },
            over: Some(Place {
                case: UNBOUNDED,
                side: RAW,
            }),
            bound: Bound::AtLeast(0.5),
        },
        Target {
            what: "leader's put latency meanwhile, median, over before",
            metric: "p50_ratio",
            of: Place {
                case: BOUNDED,
                side: SIDE,
            },
            over: None,
            bound: Bound::AtMost(1.05),
        },
    ],
    plotted: &[
        Plotted {
            metric: "rate",
            logarithmic: false,
        },
        Plotted {
            metric: "p50_ratio",
            logarithmic: false,
        },
    ],
    run,
};

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let keys = context.amount(262_144, 32_768);
    for round in 1..=context.few_rounds {
        for (case, rate) in [(UNBOUNDED, "0"), (BOUNDED, "104857600")] {
            one_round(context, recorder, (case, rate), (round, keys)).await?;
        }
    }
    Ok(())
}

async fn one_round(
    context: &Context,
    recorder: &mut Recorder,
    (case, snapshot_rate): (&str, &str),
    (round, keys): (u32, u64),
) -> Outcome {
    let (segment, retention) = (SEGMENT_BYTES.to_string(), RETENTION_BYTES.to_string());
    let flags = [
        "--log-segment-bytes",
        &segment,
        "--log-retention-bytes",
        &retention,
        "--snapshot-rate",
        snapshot_rate,
    ];
    let mut group = Group::start(&context.programs.eaves, 3, &context.data, &flags).await?;
    let leader = group.leader().await?;
    fill(group.address(leader), keys, VALUE_BYTES).await?;
    until_log_is_let_go(&group).await?;
    let bytes = keys * VALUE_BYTES as u64;

    let server = group.address(leader);
    let mut before = Vec::new();
    for _ in 0..SLICES {
        before.push(slice(context, &server, keys).await?);
    }
    let voters = group.processes();
    let resident = group.resident_bytes()?;
    for process in &voters {
        processor::forget_peak(*process)?;
    }
    let meter = Meter::start(voters.clone())?;
    let began = Instant::now();
    let mut during = Vec::new();
    let (place, seconds, cpu) = {
        // Both at once: the slice of the load that is under way goes on after that.
        let joining = async {
            let place = group.add_listener(&flags).await?;
            let seconds = began.elapsed().as_secs_f64();
            let listener = processor::cpu_seconds(group.processes()[place])?;
            let cpu = meter.end()?.total() + listener;
            Ok::<_, Failure>((place, seconds, cpu))
        };
        tokio::pin!(joining);
        loop {
            let loading = slice(context, &server, keys);
            tokio::pin!(loading);
            tokio::select! {
                joined = &mut joining => {
                    during.push(loading.await?);
                    break joined?;
                }
                slice = &mut loading => during.push(slice?),
            }
        }
    };
    let median = |slices: &[(f64, f64)], pick: fn(&(f64, f64)) -> f64| {
        spread(slices.iter().map(pick)).map_or(f64::NAN, |spread| spread.median)
    };
    let (p50, p99) = (|one: &(f64, f64)| one.0, |one: &(f64, f64)| one.1);
    let served = group.metric(leader, "eaves_snapshots_served_total").await;
    if group.metric(place, "eaves_snapshots_received_total").await == 0.0 {
        return Err(Failure::failed(
            "the listener got the log and no snapshot: the state is too small",
        ));
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut grown = 0_u64;
    for (process, before) in voters.iter().zip(resident) {
        grown = grown.max(processor::peak_bytes(*process)?.saturating_sub(before));
    }
    let listener_peak = processor::peak_bytes(group.processes()[place])?;
    let of_eaves = values([
        ("sender_mib", mib(grown)),
        ("listener_mib", mib(listener_peak)),
        ("rate", bytes as f64 / seconds / 1e6),
        ("seconds", seconds),
        ("cpu", cpu),
        ("served", served),
        ("p50_before", median(&before, p50)),
        ("p50_during", median(&during, p50)),
        ("p50_ratio", median(&during, p50) / median(&before, p50)),
        ("p99_ratio", median(&during, p99) / median(&before, p99)),
    ]);
    recorder.add(case, None, SIDE, round, of_eaves);
    drop(group);

    let data = context.data.clone();
    let raw = tokio::task::spawn_blocking(move || raw_seconds(&data, bytes)).await;
    let raw = raw.map_err(io::Error::other).and_then(|seconds| seconds);
    let raw =
        raw.map_err(|error| Failure::failed(format!("cannot measure the machine: {error}")))?;
    let of_raw = values([("rate", bytes as f64 / raw / 1e6), ("seconds", raw)]);
    recorder.add(case, None, RAW, round, of_raw);
    Ok(())
}

async fn until_log_is_let_go(group: &Group) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    for place in 0..group.size() {
        while group.metric(place, "eaves_log_disk_bytes").await > (2 * RETENTION_BYTES) as f64 {
            if Instant::now() > deadline {
                return Err(Failure::failed(format!(
                    "{} keeps its log",
                    group.name(place)
                )));
            }
            tokio::time::sleep(SLICE / 20).await;
        }
    }
    Ok(())
}

/// Median and p99 of puts at a steady pace, in milliseconds.
async fn slice(context: &Context, server: &Address, keys: u64) -> Outcome<(f64, f64)> {
    let load = Load {
        operation: Operation::put(loads::VALUE_BYTES),
        keys,
        rate: Some(RATE),
        ..loads::puts(64, 8)
    };
    let measured = load.drive(server.clone(), context.time(SLICE)).await?;
    let ms = |per_mille| measured.latencies.quantile(per_mille).as_secs_f64() * 1e3;
    Ok((ms(500), ms(990)))
}

/// The bytes over loopback, and the bytes to a file, one after the other.
fn raw_seconds(data: &Path, bytes: u64) -> io::Result<f64> {
    let sending = bytes as f64 / 1e6 / raw_stream(bytes)?;
    let path = data.join(format!("eaves-bench-raw-{}", std::process::id()));
    let began = Instant::now();
    let mut file = File::create(&path)?;
    let block = vec![7; 1 << 20];
    let mut left = bytes as usize;
    let written = loop {
        let length = left.min(block.len());
        if let Err(error) = file.write_all(&block[..length]) {
            break Err(error);
        }
        left -= length;
        if left == 0 {
            break file.sync_data();
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    written.map(|()| sending + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_raw_way_takes_time_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(raw_seconds(directory.path(), 3 << 20).unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
