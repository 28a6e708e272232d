//! Instructions: the only figures that hold on a noisy machine.
//!
//! A ceiling on them is a target here, and `--enforce` keeps it: `.ci/run` does so.

use super::listeners;
use super::{Bound, Figure, Metric, Place, Plotted, Running, Target};
use crate::context::{Context, Recorder};
use crate::group::Group;
use crate::load::{SETTLE, fill_by};
use crate::programs::Program;
use crate::results::values;
use eaves_server::failure::{Failure, Outcome};
use std::path::Path;
use std::process::Command;

const VALUE_BYTES: usize = 256;
const SIDE: &str = "eaves";
const PUT: &str = "a put at the leader of three";
const LISTENED: &str = "a put at the leader of three with 10 listeners";
const LEARNED: &str = "a put at the leader of three with 10 of openraft's learners";
const ENTRY: &str = "an entry at a listener";
const FORWARDED: &str = "an entry at a listener that feeds one";
/// More would wait so long at a node under valgrind that it refuses some.
const CLIENTS: u32 = 32;
/// So many are counted, or so many when it is to be quick; those before them, when buffers and caches grow, are not.
const PUTS: u64 = 5_000;
const QUICK_PUTS: u64 = 3_000;
const WARM_UP_PUTS: u64 = 500;
const QUICK_CASES: usize = 3;
/// Nodes besides the three.
const CROWD: usize = 10;
/// Ceilings: a tenth above the most that was measured in the build that `.ci/run` makes, the release profile with `lto = "off"` and
/// `codegen-units = 16`. The release profile itself, which the documents' figures are of, takes fewer. Two runs gave 53,629 and 54,927
/// for a put; four gave 7,197 to 8,641 for an entry, which depends on how many come at once, and two 7,201 and 7,207 for one that is passed on.
const PUT_CEILING: f64 = 60_500.0;
const ENTRY_CEILING: f64 = 9_500.0;
const FORWARDED_CEILING: f64 = 9_500.0;
/// Under valgrind a process is some fifty times slower, and must not lose its place for that. A first election that
/// nobody wins takes as long again.
const PATIENT: [&str; 4] = ["--election-timeout", "5000", "--heartbeat-interval", "500"];

/// The figure.
pub const FIGURE: Figure = Figure {
    name: "instructions",
    title: "Instructions per put and per entry",
    minutes: 5,
    about: "One node runs under `valgrind --tool=callgrind`, the others do not. 32 clients on 8 connections put 256 bytes; instructions from before 5,000 puts \
            until all have applied them, divided by 5,000; 500 puts before are not counted, nor is the start. Instructions of the process, not of the kernel. How many entries \
            come at once depends on the machine, so the last digits change. The ceilings are for a build without optimisation across crates, \
            which CI makes and which takes more.",
    metrics: &[Metric {
        name: "instructions",
        title: "instructions",
        unit: "",
    }],
    beside: None,
    targets: &[
        ceiling("instructions of a put at the leader", PUT, PUT_CEILING),
        ceiling(
            "instructions of an entry at a listener",
            ENTRY,
            ENTRY_CEILING,
        ),
        ceiling(
            "instructions of an entry at a listener that feeds one",
            FORWARDED,
            FORWARDED_CEILING,
        ),
        Target {
            what: "instructions of a put at the leader with 10 listeners, over none",
            metric: "instructions",
            of: Place {
                case: LISTENED,
                side: SIDE,
            },
            over: Some(Place {
                case: PUT,
                side: SIDE,
            }),
            bound: Bound::AtMost(1.02),
        },
    ],
    plotted: &[Plotted {
        metric: "instructions",
        logarithmic: false,
    }],
    run,
};

const fn ceiling(what: &'static str, case: &'static str, most: f64) -> Target {
    Target {
        what,
        metric: "instructions",
        of: Place { case, side: SIDE },
        over: None,
        bound: Bound::AtMost(most),
    }
}

fn run<'a>(context: &'a Context, recorder: &'a mut Recorder) -> Running<'a> {
    Box::pin(measure(context, recorder))
}

async fn measure(context: &Context, recorder: &mut Recorder) -> Outcome {
    if Command::new("valgrind").arg("--version").output().is_err() {
        recorder.note("not measured: valgrind was not found; install the package valgrind");
        return Ok(());
    }
    for round in 1..=context.few_rounds {
        // What only tells of others has time when there is time.
        let cases = [PUT, ENTRY, FORWARDED, LISTENED, LEARNED];
        let cases = &cases[..context.amount(cases.len(), QUICK_CASES)];
        for case in cases.iter().filter(|case| context.wants(case)) {
            let puts = context.amount(PUTS, QUICK_PUTS);
            let each = instructions(context, case, puts).await? / puts as f64;
            recorder.add(case, None, SIDE, round, values([("instructions", each)]));
        }
    }
    Ok(())
}

/// Of the node that the case is about, while so many puts go through it.
async fn instructions(context: &Context, case: &str, puts: u64) -> Outcome<f64> {
    let directory = tempfile::tempdir_in(&context.data)
        .map_err(|error| Failure::failed(format!("cannot make a directory: {error}")))?;
    let out = directory.path().join("callgrind.out");
    let counted = counted(&context.programs.eaves, &out);
    let plain = &context.programs.eaves;
    let mut group = match case {
        PUT | LISTENED | LEARNED => {
            let programs = [counted, plain.clone(), plain.clone()];
            let group = Group::start_of(&programs, &context.data, &PATIENT).await?;
            if group.leader().await? != 0 {
                let name = group.name(0).to_owned();
                group.command(&["transfer-leader", &name]).await?;
            }
            group
        }
        _ => {
            let mut group = Group::start(plain, 3, &context.data, &[]).await?;
            let above = group.add_listener_of(&counted, &[]).await?;
            if case == FORWARDED {
                let below = group.add_listener(&[]).await?;
                let (above, name) = (group.name(above).to_owned(), group.name(below).to_owned());
                group.command(&["pin", &name, &above]).await?;
                group.until_depth(below, 2).await?;
            }
            group
        }
    };
    let leader = group.leader().await?;
    if group.size() == 3 && leader != 0 {
        return Err(Failure::failed("the node that is counted does not lead"));
    }
    let _crowd = match case {
        LISTENED => listeners::listeners(context, &group, CROWD).await?,
        LEARNED => vec![listeners::learners(context, &group, CROWD).await?],
        _ => Vec::new(),
    };
    let process = group.processes()[if group.size() == 3 { leader } else { 3 }];
    put(&group, leader, WARM_UP_PUTS).await?;
    count(process, "on").await?;
    put(&group, leader, puts).await?;
    count(process, "off").await?;
    group.stop().await;
    let text = std::fs::read_to_string(&out).unwrap_or_default();
    total(&text).ok_or_else(|| {
        Failure::failed(format!(
            "valgrind left no count in {}; does `valgrind --tool=callgrind true` work?",
            out.display()
        ))
    })
}

/// Puts, and waits until all have applied them.
async fn put(group: &Group, leader: usize, puts: u64) -> Outcome {
    fill_by(CLIENTS, group.address(leader), puts, VALUE_BYTES).await?;
    let committed = group.metric(leader, "eaves_committed_index").await;
    for place in 0..group.size() {
        while group.metric(place, "eaves_applied_index").await < committed {
            tokio::time::sleep(SETTLE / 20).await;
        }
    }
    Ok(())
}

/// Begins to count, or ends: the program for this comes with valgrind.
async fn count(process: u32, on_or_off: &str) -> Outcome {
    let mut command = Command::new("callgrind_control");
    command.arg(format!("--instr={on_or_off}"));
    command.arg(process.to_string());
    let done = tokio::task::spawn_blocking(move || command.output()).await;
    match done.map_err(std::io::Error::other).and_then(|done| done) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Failure::failed(format!(
            "callgrind_control: {}",
            String::from_utf8_lossy(&output.stderr)
        ))),
        Err(error) => Err(Failure::failed(format!(
            "cannot run callgrind_control: {error}"
        ))),
    }
}

fn counted(program: &Program, out: &Path) -> Program {
    let out = format!("--callgrind-out-file={}", out.display());
    let off = "--instr-atstart=no";
    program.run_by(&["valgrind", "--tool=callgrind", "--quiet", off, &out])
}

/// Of `totals: N`, the last line of callgrind's file.
fn total(text: &str) -> Option<f64> {
    let mut lines = text.lines().rev();
    let line = lines.find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found() {
        assert_eq!(
            total("fn=(1) x\n16 400\n\ntotals: 1234567\n"),
            Some(1_234_567.0)
        );
        assert_eq!(total("fn=(1) x\n"), None);
    }
}
