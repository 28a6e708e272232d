//! The command line: runs many seeds, says what was found and how to repeat it.

use crate::nemesis::Nemesis;
use crate::run::{Outcome, run};
use crate::scale::Scale;
use crate::scenario::Scenario;
use crate::summary::Summary;
use crate::system::cli::System;
use crate::trace::Trace;
use clap::{Parser, Subcommand};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal, LineWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Simulates the listener tree: every seed draws a group, listeners, a network and faults, and everything that must hold is
/// checked after every event. Exit status 0 only when every seed holds.
#[derive(Parser, Debug)]
#[command(name = "eaves-sim")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many seeds to run
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; the others follow it
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Write what happens to this file, or to the standard output if it is "-"; needs --seeds 1
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// How many seeds to run at the same time; 0 means one for each processor
    #[arg(long, default_value_t = 0)]
    jobs: usize,
}

#[derive(Subcommand, Debug)]
enum Command {
    Nemesis(Nemesis),
    Scale(Scale),
    System(System),
}

/// Which seed each thread runs.
type Running = Arc<Mutex<HashMap<ThreadId, u64>>>;

impl Args {
    /// Runs the seeds and reports.
    pub fn run(self) -> ExitCode {
        match self.command {
            Some(Command::Nemesis(nemesis)) => return nemesis.run(),
            Some(Command::Scale(scale)) => return scale.run(),
            Some(Command::System(system)) => return system.run(),
            None => {}
        }
        let running = Running::default();
        name_the_seed_of_a_panic(running.clone());
        match &self.trace {
            Some(_) if self.seeds != 1 => {
                eprintln!("error: --trace writes what one seed does: give --seeds 1 with it");
                ExitCode::from(2)
            }
            Some(path) => match sink(path) {
                Ok(sink) => {
                    running
                        .lock()
                        .unwrap()
                        .insert(std::thread::current().id(), self.start);
                    self.run_one(Trace::to(sink))
                }
                Err(error) => {
                    eprintln!("error: write the trace to {}: {error}", path.display());
                    ExitCode::from(2)
                }
            },
            None if self.seeds == 1 => {
                running
                    .lock()
                    .unwrap()
                    .insert(std::thread::current().id(), self.start);
                println!("{}", Scenario::draw(self.start));
                self.run_one(Trace::default())
            }
            None => self.run_many(running),
        }
    }

    fn run_one(&self, trace: Trace) -> ExitCode {
        let outcome = run(Scenario::draw(self.start), trace);
        eprintln!("trace hash {:016x}", outcome.hash);
        eprintln!("{}", outcome.summary);
        match report(self.start, &outcome) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn run_many(&self, running: Running) -> ExitCode {
        let began = Instant::now();
        let next = AtomicU64::new(self.start);
        let end = self.start + self.seeds;
        let (sender, receiver) = mpsc::channel();
        let workers = match self.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        };
        let (summary, failed) = std::thread::scope(|scope| {
            for _ in 0..workers {
                let (next, running, sender) = (&next, running.clone(), sender.clone());
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            return;
                        }
                        running
                            .lock()
                            .unwrap()
                            .insert(std::thread::current().id(), seed);
                        let outcome = run(Scenario::draw(seed), Trace::default());
                        if sender.send((seed, outcome)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            collect(receiver, self.seeds, began)
        });
        println!("{summary}");
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "took {seconds:.1} s, {:.0} seeds a second",
            summary.seeds as f64 / seconds
        );
        if failed.is_empty() {
            println!("every seed from {} to {} holds", self.start, end - 1);
            return ExitCode::SUCCESS;
        }
        let seeds: Vec<String> = failed.iter().map(u64::to_string).collect();
        println!(
            "{} of {} seeds do not hold: {}",
            failed.len(),
            self.seeds,
            seeds.join(" ")
        );
        ExitCode::FAILURE
    }
}

/// Takes the outcomes as they come. Returns their sum and the seeds that do not hold.
fn collect(
    receiver: mpsc::Receiver<(u64, Outcome)>,
    seeds: u64,
    began: Instant,
) -> (Summary, Vec<u64>) {
    let mut summary = Summary::default();
    let mut failed = Vec::new();
    let mut said = Instant::now();
    let pause = if io::stderr().is_terminal() {
        Duration::from_millis(200)
    } else {
        Duration::from_secs(10)
    };
    for (seed, outcome) in receiver {
        if !report(seed, &outcome) {
            failed.push(seed);
        }
        summary.add(outcome.summary);
        if said.elapsed() >= pause {
            said = Instant::now();
            let end = if io::stderr().is_terminal() {
                '\r'
            } else {
                '\n'
            };
            eprint!(
                "{} of {seeds} seeds, {} do not hold, {} s{end}",
                summary.seeds,
                failed.len(),
                began.elapsed().as_secs()
            );
        }
    }
    failed.sort_unstable();
    (summary, failed)
}

/// Says what was found wrong with a seed; true if nothing was.
fn report(seed: u64, outcome: &Outcome) -> bool {
    let Some(violation) = &outcome.violation else {
        return true;
    };
    let seconds = violation.at as f64 / 1e6;
    println!(
        "seed {seed}: {} does not hold after {seconds:.6} s: {}",
        violation.invariant, violation.what
    );
    println!("  repeat it: {}", repeat(seed));
    false
}

fn repeat(seed: u64) -> String {
    format!("cargo run -p eaves-sim --release -- --seeds 1 --start {seed} --trace trace-{seed}.txt")
}

fn sink(path: &PathBuf) -> io::Result<Box<dyn Write>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(LineWriter::new(io::stdout())));
    }
    Ok(Box::new(LineWriter::new(File::create(path)?)))
}

/// A node that asserts has found itself wrong: that is a violation like any other. In a release build a panic aborts, so the seed
/// is named from inside the panic, and the process ends there.
fn name_the_seed_of_a_panic(running: Running) {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        let seed = running
            .lock()
            .map(|running| running.get(&std::thread::current().id()).copied());
        if let Ok(Some(seed)) = seed {
            println!("seed {seed}: an assertion failed: {info}");
            println!("  repeat it: {}", repeat(seed));
        }
        std::process::exit(1);
    }));
}
