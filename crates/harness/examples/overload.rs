//! Overload in its long form: `cargo build --release && cargo run -p eaves-harness --release --example overload -- --minutes 2`.
//!
//! Three voters with disks that write 4 MiB a second, 5,000 connections, 10,000 watchers of which 100 never read, ten times the
//! sustainable rate and four values of 1.5 MiB a second, as processes on this machine, beside the generator. Prints what was measured;
//! exit status 0 only when every promise held, full speed within seconds after the load among them, and when the generator managed to ask
//! for that much.
//!
//! The disks are slow enough, and the values large enough, that disks are what limits the group: where the processor does, a generator on
//! the same machine cannot ask for ten times as much.

use eaves_harness::Binary;
use eaves_harness::cluster::Cluster;
use eaves_harness::overload::{Plan, Report, run};
use eaves_harness::process::kill_children_in_panics;
use std::process::ExitCode;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    kill_children_in_panics();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = Options::parse(&arguments) else {
        eprintln!(
            "usage: overload [--minutes N] [--connections N] [--watchers N] [--lazy N] [--disk MIB_PER_SECOND] [--value BYTES] [--factor X]"
        );
        return ExitCode::from(2);
    };
    let beside = std::env::current_exe().expect("this program has a path");
    let program = beside.with_file_name("../eaves");
    let binary = Binary::at(Box::leak(program.display().to_string().into_boxed_str()));
    let disk = ((options.disk_mib * f64::from(1 << 20)) as u64).to_string();
    let flags = ["--test-disk-bytes-per-second", &disk];
    let mut cluster = Cluster::start(binary, 3, 0, &flags).await;
    let report = run(&mut cluster, &options.plan).await;
    print(&report);
    let was_overload = report.offered >= OFFERED_MIN * options.plan.factor * report.sustainable;
    if !was_overload {
        println!(
            "BROKEN: the generator sent too little; give it a machine that is less busy, or slower disks"
        );
    }
    match kept(&report) && was_overload {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What part of the writes that are due must be sent.
const OFFERED_MIN: f64 = 0.9;

struct Options {
    plan: Plan,
    disk_mib: f64,
}

impl Options {
    fn parse(arguments: &[String]) -> Option<Options> {
        let mut options = Options {
            plan: Plan {
                calibrate: Duration::from_secs(30),
                overload: Duration::from_secs(120),
                recover: Duration::from_secs(20),
                clients: 256,
                factor: 10.0,
                connections: 4_900,
                watchers: 9_900,
                lazy_watchers: 100,
                // With what goes along, just less than a page of the state file.
                value_bytes: 3_800,
                large_bytes: (3 << 19) - (1 << 10),
                large_per_second: 4.0,
                watched_per_second: 0.5,
            },
            disk_mib: 4.0,
        };
        let plan = &mut options.plan;
        for pair in arguments.chunks(2) {
            let [flag, value] = pair else { return None };
            let number: f64 = value.parse().ok().filter(|number| *number >= 0.0)?;
            match flag.as_str() {
                "--minutes" => plan.overload = Duration::from_secs_f64(60.0 * number),
                "--connections" => {
                    plan.connections = (number as usize).checked_sub(plan.lazy_watchers)?
                }
                "--watchers" => {
                    plan.watchers = (number as usize).checked_sub(plan.lazy_watchers)?
                }
                "--lazy" => plan.lazy_watchers = number as usize,
                "--value" => plan.value_bytes = number as usize,
                "--large" => plan.large_per_second = number,
                "--factor" => plan.factor = number,
                "--disk" if number > 0.0 => options.disk_mib = number,
                _ => return None,
            }
        }
        Some(options)
    }
}

fn print(report: &Report) {
    let ratio = |rate: f64| rate / report.sustainable.max(1.0);
    println!("\nwrites per second, and as a ratio to what is sustainable");
    println!("  sustainable   {:>9.0}   1.00", report.sustainable);
    let rates = [
        ("offered", report.offered),
        ("acknowledged", report.acknowledged),
    ];
    for (name, rate) in rates {
        println!("  {name:<12}  {rate:>9.0}  {:>5.2}", ratio(rate));
    }
    println!(
        "  {} more were due than the generator could have under way",
        report.unsent
    );
    println!("drained {} ms after the end", report.drained.as_millis());
    let recovered = report
        .recovered
        .iter()
        .map(|writes| format!("{:.2}", ratio(*writes as f64)));
    println!(
        "then, second by second: {}",
        recovered.collect::<Vec<_>>().join(" ")
    );
    println!("answers");
    for ((code, text), count) in &report.answers.0 {
        println!("  {count:>9}  {code} {text}");
    }
    println!(
        "each watcher that reads heard of all {} changes",
        report.watched
    );
    println!(
        "node  MiB before    most   after   bound   term before, after   commands refused   calls refused   cut off"
    );
    for node in &report.nodes {
        let mib = |bytes: u64| bytes >> 20;
        println!(
            "{:<4}  {:>10}  {:>6}  {:>6}  {:>6}   {:>11}, {:>5}   {:>16}   {:>13}   {:>7}",
            node.name,
            mib(node.before_bytes),
            mib(node.peak_bytes),
            mib(node.after_bytes),
            mib(node.bound_bytes),
            node.terms.0,
            node.terms.1,
            node.refused.0,
            node.refused.1,
            node.cut
        );
    }
}

/// How long calls may go on after the load.
const DRAINED_MAX: Duration = Duration::from_secs(10);

/// When the group has to be at its full speed again, counted from when the last of these calls has ended.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);

/// What part of the sustainable writes is full speed: two measurements of it, each of some seconds, differ by a fifth.
const FULL_SPEED: f64 = 0.75;

/// Whether every promise held; says which did not.
fn kept(report: &Report) -> bool {
    let mut kept = true;
    if report.drained > DRAINED_MAX {
        println!("BROKEN: calls went on for {} s", report.drained.as_secs());
        kept = false;
    }
    let seconds = report.recovered.iter().map(|writes| *writes as f64);
    let later: Vec<f64> = seconds.skip(RECOVERED_AFTER.as_secs() as usize).collect();
    let speed = later.iter().sum::<f64>() / later.len() as f64 / report.sustainable;
    if speed.is_nan() || speed < FULL_SPEED {
        println!("BROKEN: {speed:.2} of what is sustainable after the load");
        kept = false;
    }
    for (answer, count) in report.answers.unexpected() {
        println!("BROKEN: {count} answers {answer:?}");
        kept = false;
    }
    for node in &report.nodes {
        if node.peak_bytes > node.bound_bytes {
            println!("BROKEN: {} took more memory than its bound", node.name);
            kept = false;
        }
        if node.terms.0 != node.terms.1 {
            println!("BROKEN: {} saw an election", node.name);
            kept = false;
        }
    }
    kept
}
