//! The command line, and the run as a whole: figure by figure, with results, plots and tables written after each.

use crate::circumstances::{Circumstances, build};
use crate::context::{Context, Recorder};
use crate::figures::{self, Figure};
use crate::programs::Programs;
use crate::results::{Results, write_file};
use crate::{plot, report};
use clap::Parser;
use eaves_harness::process::kill_children_in_panics;
use eaves_server::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Rounds unless told otherwise, of figures whose spread is small, and when it is to be quick.
const ROUNDS: u32 = 5;
const FEW_ROUNDS: u32 = 3;
const QUICK_ROUNDS: u32 = 2;

/// Measures Eaves beside its peers, in one run on one machine.
#[derive(Parser, Debug)]
#[command(
    name = "eaves-bench",
    version,
    max_term_width = 110,
    arg_required_else_help = true
)]
pub struct Args {
    /// What to measure: all, or names from --list
    #[arg(value_name = "FIGURE")]
    figures: Vec<String>,

    /// List the figures, and about how long each takes with the default rounds, on two processors
    #[arg(long)]
    list: bool,

    /// Measure shortly and with small amounts: to see whether it works, not to tell anybody
    #[arg(long)]
    quick: bool,

    /// How often each side is measured in each case [default: 5, or 3 where the spread is small; with --quick 2]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,

    /// How long one measurement takes [default: each figure's own]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,

    /// Only the cases that contain this
    #[arg(long, value_name = "TEXT")]
    cases: Option<String>,

    /// Where raw data, plots and tables go
    #[arg(long, value_name = "DIR", default_value = "docs/performance")]
    out: PathBuf,

    /// Below which directory the servers keep their data while they are measured; on a real disk [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// A binary of Eaves to measure [default: this program itself]
    #[arg(long, value_name = "PATH")]
    eaves: Option<PathBuf>,

    /// etcd's binary [default: where .ci/install puts it, or in $PATH]
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,

    /// Fail if something that was measured is not reached (how CI keeps the ceiling on instructions)
    #[arg(long)]
    enforce: bool,

    /// Measure nothing: write plots and tables anew from the raw data in --out
    #[arg(long)]
    render: bool,
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let args = Args::parse();
    kill_children_in_panics();
    match args.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("eaves-bench: {failure}");
            ExitCode::from(match failure {
                Failure::Usage(_) => 2,
                _ => 1,
            })
        }
    }
}

impl Args {
    fn run(&self) -> Outcome {
        if self.list {
            for figure in figures::ALL {
                println!(
                    "{:<13} {:>3} min  {}",
                    figure.name, figure.minutes, figure.title
                );
            }
            let all: u32 = figures::ALL.iter().map(|figure| figure.minutes).sum();
            eprintln!("all: about {all} minutes with the default rounds, on two processors");
            return Ok(());
        }
        let wanted = self.wanted()?;
        std::fs::create_dir_all(&self.out).map_err(|error| {
            Failure::failed(format!(
                "cannot make {}: {error}; choose another --out",
                self.out.display()
            ))
        })?;
        if !wanted.is_empty() {
            self.measure(&wanted)?;
        } else if !self.render {
            return Err(Failure::usage(
                "nothing to do: give all, names of figures, --list or --render",
            ));
        }
        render(&self.out)
    }

    fn wanted(&self) -> Outcome<Vec<&'static Figure>> {
        if self.figures.iter().any(|name| name == "all") {
            return Ok(figures::ALL.to_vec());
        }
        let known = |name: &String| {
            let found = figures::ALL.iter().find(|figure| figure.name == *name);
            found.copied().ok_or_else(|| {
                Failure::usage(format!("there is no figure {name}; `--list` shows all"))
            })
        };
        self.figures.iter().map(known).collect()
    }

    fn context(&self) -> Outcome<Context> {
        let time = match self.seconds {
            None => None,
            Some(seconds) => match Duration::try_from_secs_f64(seconds) {
                Ok(time) if !time.is_zero() => Some(time),
                _ => {
                    return Err(Failure::usage(format!(
                        "--seconds: {seconds} is no time; give more than 0"
                    )));
                }
            },
        };
        let (rounds, few_rounds) = match (self.rounds, self.quick) {
            (Some(rounds), _) => (rounds, rounds),
            (None, true) => (QUICK_ROUNDS, QUICK_ROUNDS),
            (None, false) => (ROUNDS, FEW_ROUNDS),
        };
        if rounds == 0 {
            return Err(Failure::usage(
                "--rounds: 0 measures nothing; give at least 1",
            ));
        }
        Ok(Context {
            quick: self.quick,
            rounds,
            few_rounds,
            time,
            cases: self.cases.clone(),
            programs: Programs::find(self.eaves.as_deref(), self.etcd.as_deref())?,
            data: self.data.clone().unwrap_or_else(std::env::temp_dir),
        })
    }

    /// Measures one figure after the other. One that fails does not keep the others from being measured.
    fn measure(&self, wanted: &[&'static Figure]) -> Outcome {
        let context = self.context()?;
        if build() != "release" {
            eprintln!(
                "eaves-bench: this is an unoptimised build: its figures mean nothing; run it with --release"
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
        let (mut failed, mut not_reached) = (Vec::new(), Vec::new());
        for figure in wanted {
            match runtime.block_on(unless_interrupted(measure(figure, &context))) {
                Ok(results) => {
                    results.write(&self.out)?;
                    render(&self.out)?;
                    let missed = report::missed(figure, &results);
                    let missed = missed.iter().map(|text| format!("{}: {text}", figure.name));
                    not_reached.extend(missed);
                    if self.enforce && results.measurements.is_empty() {
                        not_reached.push(format!("{}: nothing could be measured", figure.name));
                    }
                }
                Err(Failure::OutputClosed) => return Err(Failure::failed("interrupted")),
                Err(failure) => {
                    eprintln!("eaves-bench: {}: {failure}", figure.name);
                    failed.push(figure.name);
                }
            }
        }
        for text in &not_reached {
            eprintln!("eaves-bench: not reached: {text}");
        }
        match failed[..] {
            [] if self.enforce && !not_reached.is_empty() => {
                Err(Failure::failed("what is to be reached is not; see above"))
            }
            [] => Ok(()),
            _ => Err(Failure::failed(format!(
                "not measured: {}; the reasons are above",
                failed.join(", ")
            ))),
        }
    }
}

async fn measure(figure: &'static Figure, context: &Context) -> Outcome<Results> {
    eprintln!("{}: {}", figure.name, figure.title);
    let mut recorder = Recorder {
        results: Results {
            figure: figure.name.to_owned(),
            quick: context.quick,
            circumstances: Circumstances::now(&context.data, context.programs.versions()),
            notes: Vec::new(),
            measurements: Vec::new(),
        },
    };
    if context.quick {
        recorder.note("amounts are smaller, and times shorter, than the text says");
    }
    for missing in &context.programs.missing {
        recorder.note(missing);
    }
    (figure.run)(context, &mut recorder).await?;
    Ok(recorder.results)
}

/// Ends `work` early on Ctrl-C or SIGTERM; its servers are killed as their group is dropped.
async fn unless_interrupted<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let mut terminated = signal(SignalKind::terminate())
        .map_err(|error| Failure::failed(format!("cannot wait for SIGTERM: {error}")))?;
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(Failure::OutputClosed),
        _ = terminated.recv() => Err(Failure::OutputClosed),
        done = work => done,
    }
}

/// Writes plots and tables of all results there are. Beside a directory `performance`, the document `performance.md` takes the summary in.
fn render(directory: &Path) -> Outcome {
    let mut all = Vec::new();
    for figure in figures::ALL {
        let results = Results::read(directory, figure.name)?;
        if let Some(svg) = results
            .as_ref()
            .and_then(|results| plot::svg(figure, results))
        {
            write_file(&directory.join(format!("{}.svg", figure.name)), &svg)?;
        }
        all.push((*figure, results));
    }
    let tables = directory.join("README.md");
    write_file(&tables, &report::document(&all))?;
    let document = directory.with_extension("md");
    let text = std::fs::read_to_string(&document).ok();
    if let Some(text) = text.and_then(|text| report::include(&text, &report::summary(&all))) {
        write_file(&document, &text)?;
    }
    eprintln!("written: {}", tables.display());
    Ok(())
}
