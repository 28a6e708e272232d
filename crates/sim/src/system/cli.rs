//! `eaves-sim system`: runs many seeds, each in a process of its own, and says what was found and how to repeat it.

use super::run::{Counts, Outcome, run};
use super::scenario::Scenario;
use super::{entropy, trace};
use crate::rng::mix;
use clap::Args;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// How long each of several seeds may take by the clock on the wall: by far longer than any does, unless time stands still in it. One that is
/// run alone is looked at by a person, who may have stopped it in a debugger.
const SEED_TIMEOUT: Duration = Duration::from_secs(180);

/// With so many seeds everything that can happen has to: a run in which nothing goes wrong shows nothing.
const SEEDS_FOR_EVERYTHING: u64 = 100;

/// How often it is looked whether a seed is done.
const POLL: Duration = Duration::from_millis(5);

/// What a child writes before a count.
const COUNT: &str = "count";

/// What is written before the hash of a trace.
const HASH: &str = "trace hash ";

/// Simulates whole nodes: every seed draws voters, listeners, clients, a network, disks and faults, and all that must hold is checked.
/// Exit status 0 only when every seed holds
#[derive(Args, Debug)]
pub struct System {
    /// How many seeds to run
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first seed; the others follow it
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Write what happens to this file, or to the standard output if it is "-"; needs --seeds 1
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The least important of the nodes' own log lines that are in the trace
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    level: tracing::Level,
    /// How many seeds to run at the same time; 0 means one for each processor
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Write counts for the process that has started this one
    #[arg(long, hide = true)]
    counts: bool,
}

/// What became of one seed.
struct Report {
    seed: u64,
    holds: bool,
    counts: Counts,
    /// Hash of its trace.
    hash: u64,
    /// What it said, if it does not hold.
    text: String,
}

impl System {
    /// Runs the seeds and reports.
    pub fn run(self) -> ExitCode {
        if !entropy::is_ours() {
            eprintln!(
                "error: the randomness of this program does not follow from its seed: link it so that its getrandom takes the place of libc's"
            );
            return ExitCode::from(2);
        }
        match (&self.trace, self.seeds) {
            (_, 1) => self.run_here(),
            (Some(_), _) => {
                eprintln!("error: --trace writes what one seed does: give --seeds 1 with it");
                ExitCode::from(2)
            }
            (None, _) => self.run_children(),
        }
    }

    fn run_here(&self) -> ExitCode {
        let sink = match self.trace.as_ref().map(sink).transpose() {
            Ok(sink) => sink,
            Err(error) => {
                eprintln!("error: write the trace: {error}");
                return ExitCode::from(2);
            }
        };
        tell_of_panics(self.start);
        trace::begin(sink, self.level);
        trace::listen_to_nodes();
        let outcome = run(&Scenario::draw(self.start));
        trace::flush();
        let holds = report(self.start, &outcome);
        println!("{HASH}{:016x}", outcome.hash);
        match self.counts {
            true => print!("{}", lines(&outcome.counts, COUNT)),
            false => print!("{}", lines(&outcome.counts, " ")),
        }
        match holds {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn run_children(&self) -> ExitCode {
        let began = Instant::now();
        let next = AtomicU64::new(self.start);
        let end = self.start + self.seeds;
        let (sender, reports) = mpsc::channel();
        let jobs = match self.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        };
        let all = std::thread::scope(|scope| {
            for _ in 0..jobs {
                let (next, sender) = (&next, sender.clone());
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end || sender.send(run_child(seed)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            collect(reports)
        });
        println!("{}{HASH}{:016x}", lines(&all.counts, " "), all.hash);
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "took {seconds:.1} s, {:.1} seeds a second",
            self.seeds as f64 / seconds
        );
        if !all.failed.is_empty() {
            let seeds: Vec<String> = all.failed.iter().map(u64::to_string).collect();
            println!(
                "{} of {} seeds do not hold: {}",
                seeds.len(),
                self.seeds,
                seeds.join(" ")
            );
            return ExitCode::FAILURE;
        }
        println!("every seed from {} to {} holds", self.start, end - 1);
        let never = all.counts.iter().filter(|(_, count)| **count == 0);
        let never: Vec<&str> = never.map(|(name, _)| name.as_str()).collect();
        if self.seeds >= SEEDS_FOR_EVERYTHING && !never.is_empty() {
            println!(
                "but this never happened, so nothing is shown about it: {}",
                never.join(", ")
            );
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

fn sink(path: &PathBuf) -> io::Result<Box<dyn Write>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    Ok(Box::new(BufWriter::new(File::create(path)?)))
}

/// What became of all seeds.
#[derive(Default)]
struct All {
    counts: Counts,
    failed: Vec<u64>,
    hash: u64,
}

/// Takes the reports as they come, in an order that means nothing.
fn collect(reports: mpsc::Receiver<Report>) -> All {
    let mut all = All::default();
    for report in reports {
        for (name, count) in report.counts {
            *all.counts.entry(name).or_default() += count;
        }
        all.hash ^= mix(report.hash ^ report.seed);
        if !report.holds {
            all.failed.push(report.seed);
            println!("{}", report.text);
        }
    }
    all.failed.sort_unstable();
    all
}

/// Runs one seed in a process of its own.
fn run_child(seed: u64) -> Report {
    let mut report = Report {
        seed,
        holds: false,
        counts: Counts::new(),
        hash: 0,
        text: String::new(),
    };
    let program = std::env::current_exe();
    let child = program.and_then(|program| {
        Command::new(program)
            .args(["system", "--seeds", "1", "--counts", "--start"])
            .arg(seed.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    });
    let (text, success) = match child.and_then(watch_child) {
        Ok(ended) => ended,
        Err(error) => {
            report.text = format!("seed {seed}: cannot run a process for it: {error}");
            return report;
        }
    };
    for line in text.lines() {
        let count = line.strip_prefix(COUNT);
        if let Some((count, name)) = count.and_then(|line| line.trim_start().split_once(' ')) {
            let count = count.parse().unwrap_or(0);
            report.counts.insert(name.to_string(), count);
        } else if let Some(hash) = line.strip_prefix(HASH) {
            report.hash = u64::from_str_radix(hash, 16).unwrap_or(0);
        } else {
            report.text.extend([line, "\n"]);
        }
    }
    report.holds = success && !report.counts.is_empty();
    if !report.holds && !report.text.contains("repeat it") {
        report.text = format!(
            "seed {seed}: its process failed\n  repeat it: {}\n{}",
            repeat(seed),
            report.text
        );
    }
    report
}

/// Waits for a child to end. Returns what it wrote, and whether it succeeded.
fn watch_child(mut child: Child) -> io::Result<(String, bool)> {
    let text = Mutex::new(String::new());
    let mut pipes: Vec<Box<dyn Read + Send>> = Vec::new();
    pipes.extend(
        child
            .stdout
            .take()
            .map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    );
    pipes.extend(
        child
            .stderr
            .take()
            .map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    );
    let status = std::thread::scope(|scope| {
        for mut pipe in pipes {
            let text = &text;
            scope.spawn(move || {
                let mut bytes = Vec::new();
                // What cannot be read is missing in the report, and then that says so.
                let _ = pipe.read_to_end(&mut bytes);
                text.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&bytes));
            });
        }
        let began = Instant::now();
        loop {
            match child.try_wait()? {
                Some(status) => return Ok::<_, io::Error>(Some(status)),
                None if began.elapsed() > SEED_TIMEOUT => {
                    child.kill()?;
                    child.wait()?;
                    return Ok(None);
                }
                None => std::thread::sleep(POLL),
            }
        }
    })?;
    let mut text = text.into_inner().unwrap();
    if status.is_none() {
        let seconds = SEED_TIMEOUT.as_secs();
        text.push_str(&format!(
            "it was not done after {seconds} s: time stands still, or its history is too hard to check\n"
        ));
    }
    Ok((text, status.is_some_and(|status| status.success())))
}

/// Says what was found wrong with a seed; true if nothing was.
fn report(seed: u64, outcome: &Outcome) -> bool {
    let Some((at, violation)) = &outcome.violation else {
        return true;
    };
    let seconds = *at as f64 / 1e6;
    println!(
        "seed {seed}: {} does not hold after {seconds:.3} s: {}",
        violation.invariant, violation.what
    );
    tell_tail(seed);
    false
}

fn tell_tail(seed: u64) {
    println!("  repeat it: {}", repeat(seed));
    println!("  the last that happened:");
    for line in trace::tail() {
        println!("    {}", line.chars().take(240).collect::<String>());
    }
}

fn repeat(seed: u64) -> String {
    format!(
        "cargo run -p eaves-sim --release -- system --seeds 1 --start {seed} --trace system-{seed}.txt"
    )
}

/// One line for each count.
fn lines(counts: &Counts, prefix: &str) -> String {
    let line = |(name, count): (&String, &u64)| format!("{prefix} {count:>9} {name}\n");
    counts.iter().map(line).collect()
}

/// A node that asserts has found itself wrong: that is a violation like any other. Elsewhere a runtime may catch a panic, so it ends the
/// process at once.
fn tell_of_panics(seed: u64) {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        println!("seed {seed}: an assertion failed: {info}");
        trace::flush();
        tell_tail(seed);
        std::process::exit(1);
    }));
}
