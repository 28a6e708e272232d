//! Where the time of one client's put goes, beside what the machine takes for its parts.

use super::loads;
use super::{Figure, Metric, Plotted, Running};
use crate::context::{Context, Recorder};
use crate::load::Load;
use crate::results::values;
use crate::statistics::quantile;
use eaves_server::bench::Operation;
use eaves_server::failure::{Failure, Outcome};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(3);
const MACHINE: &str = "machine";
/// Of a put of 256 bytes on its way.
const MESSAGE_BYTES: usize = 320;
/// Of a file that is written over and over.
const FILE_BYTES: usize = 16 << 20;

const ROUND_TRIP: &str = "1. a round trip over loopback";
const SYNC: &str = "2. one write and fdatasync in a file whose space is reserved";
const FLOOR: &str = "3. two round trips and one fdatasync";
const SERIALIZABLE: &str = "4. a serializable get: client, gRPC, handler";
const LINEARIZABLE: &str = "5. a linearizable get: and a round among the voters";
const PUT: &str = "6. a put: and the disk";

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "budget",
    title: "One client's put, step by step",
    minutes: 2,
    about: "One client and one connection; medians. Each step has all that the steps before it have: what a put takes beyond a linearizable \
            get is a follower's disk and applying, what that takes beyond a serializable get is a round among the voters. The first three are \
            of the bare machine, measured in the same round: nothing that answers from two machines' disks can be faster than the third.",
    metrics: &[Metric {
        name: "p50",
        title: "median",
        unit: "us",
    }],
    beside: None,
    targets: &[],
    plotted: &[Plotted {
        metric: "p50",
        logarithmic: false,
    }],
    run,
};

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    let groups = loads::groups(context, 3, &[]).await?;
    let repeats = context.amount(5_000, 200);
    let p50 = |value| values([("p50", value)]);
    for round in 1..=context.rounds {
        let failed =
            |error: io::Error| Failure::failed(format!("cannot measure the machine: {error}"));
        let round_trip = round_trip_us(repeats).map_err(failed)?;
        let sync = sync_us(&context.data, repeats / 5).map_err(failed)?;
        recorder.add(ROUND_TRIP, None, MACHINE, round, p50(round_trip));
        recorder.add(SYNC, None, MACHINE, round, p50(sync));
        recorder.add(FLOOR, None, MACHINE, round, p50(2.0 * round_trip + sync));
        for (case, operation) in [
            (SERIALIZABLE, Operation::Get { serializable: true }),
            (
                LINEARIZABLE,
                Operation::Get {
                    serializable: false,
                },
            ),
            (PUT, Operation::put(loads::VALUE_BYTES)),
        ] {
            for group in loads::in_order(&groups, round) {
                let load = Load {
                    operation: operation.clone(),
                    ..loads::puts(1, 1)
                };
                let leader = group.address(group.leader().await?);
                let measured = load.drive(leader, context.time(TIME)).await?;
                let us = measured.latencies.quantile(500).as_secs_f64() * 1e6;
                recorder.add(case, None, group.side(), round, p50(us));
            }
        }
    }
    Ok(())
}

/// A thread that sends back what it gets.
fn round_trip_us(repeats: usize) -> io::Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut theirs, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut message = [0; MESSAGE_BYTES];
        while theirs.read_exact(&mut message).is_ok() && theirs.write_all(&message).is_ok() {}
    });
    let mut message = [0; MESSAGE_BYTES];
    let mut times = Vec::new();
    for _ in 0..repeats {
        let began = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    drop(stream);
    echo.join()
        .map_err(|_| io::Error::other("the echo panicked"))?;
    quantile(&mut times, 500).ok_or_else(|| io::Error::other("no round trip"))
}

/// Writes where a servers' logs are, too.
fn sync_us(data: &Path, repeats: usize) -> io::Result<f64> {
    let path = data.join(format!("eaves-bench-sync-{}", std::process::id()));
    let mut file = File::create(&path)?;
    let done = (|| {
        file.write_all(&vec![0; FILE_BYTES])?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
        let mut times = Vec::new();
        for _ in 0..repeats {
            let began = Instant::now();
            file.write_all(&[1; MESSAGE_BYTES])?;
            file.sync_data()?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        quantile(&mut times, 500).ok_or_else(|| io::Error::other("no sync"))
    })();
    std::fs::remove_file(&path)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_network_and_a_disk() {
        assert!(round_trip_us(10).unwrap() > 0.0);
        let directory = tempfile::tempdir().unwrap();
        assert!(sync_us(directory.path(), 2).unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
