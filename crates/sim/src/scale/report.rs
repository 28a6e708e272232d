//! What the courses found, as tables in Markdown, and what was set out to reach.

use super::course::{Course, Row};
use crate::engine::{MILLISECOND, Micros};
use crate::invariants::Violation;
use crate::ledger::Gap;
use std::fmt;
use std::time::Duration;

/// What one course found.
pub struct Report {
    /// Which.
    pub course: Course,
    /// Its steps.
    pub rows: Vec<Row>,
    /// Heartbeats that leaders sent to listeners.
    pub leader_heartbeats: u64,
    /// Entries that leaders pushed to listeners.
    pub leader_entries: u64,
    /// An invariant that does not hold.
    pub violation: Option<Violation>,
    /// How many events there were.
    pub happened: u64,
    /// How long it took, by the clock on the wall.
    pub took: Duration,
}

impl Report {
    /// Whether every invariant held and everybody was fed after every step.
    pub fn holds(&self) -> bool {
        self.violation.is_none() && self.rows.iter().all(|row| row.unfed == 0)
    }

    /// The step of a name, the first of them.
    fn row(&self, step: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.step == step)
    }
}

/// Prints all tables, and what was reached.
pub fn print(reports: &[Report]) {
    for report in reports {
        print_course(report);
    }
    if let Some(most) = peak_memory_mib() {
        println!("Peak memory of all courses together: {most} MiB.");
    }
}

fn print_course(report: &Report) {
    let course = &report.course;
    let (shortest, longest) = course.round_trips();
    println!(
        "### {} listeners, N = {}, round trips of {} ms ({} to {})\n",
        course.listeners,
        course.capacity,
        ms(course.round_trip),
        ms(shortest),
        ms(longest)
    );
    println!(
        "| step | found an upstream | after, p50 / p99 / max ms | waited for others | for, p50 / p99 / max ms | questions p50 / p99 | messages p50 / p99 | all fed after ms | depth max / mean |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for row in &report.rows {
        println!("{}", as_table(row));
    }
    println!();
    println!("Least possible depth: {}.", course.least_depth());
    println!(
        "Sent by leaders to listeners: {} entries, {} heartbeats.",
        report.leader_entries, report.leader_heartbeats
    );
    println!(
        "{} events in {:.0} s.",
        report.happened,
        report.took.as_secs_f64()
    );
    match &report.violation {
        Some(violation) => println!(
            "{} DOES NOT HOLD after {} ms: {}",
            violation.invariant,
            ms(violation.at),
            violation.what
        ),
        None => println!("Every invariant held."),
    }
    println!();
    for (what, reached) in targets(report) {
        println!(
            "- {what}: {}",
            if reached { "reached" } else { "NOT reached" }
        );
    }
    println!();
}

/// What was set out to reach. Times are virtual, so they are the same on every machine.
fn targets(report: &Report) -> Vec<(String, bool)> {
    let course = &report.course;
    let mut targets = Vec::new();
    if let Some(cold) = report.row("cold start") {
        let bound = if course.round_trip <= 10 * MILLISECOND {
            2000
        } else {
            10_000
        };
        targets.push((
            format!("all attached within {bound} ms"),
            cold.unfed == 0 && cold.all <= bound * MILLISECOND,
        ));
        targets.push((
            "p50 under 20 questions per attach".into(),
            nth(&questions(&cold.searched), 500) < 20,
        ));
    }
    let deepest = report
        .rows
        .iter()
        .filter(|row| row.step == "quiet" || row.step == "cold start");
    let deepest = deepest.take(2).map(|row| row.depth.0).max().unwrap_or(0);
    targets.push((
        "depth at most the least possible + 1".into(),
        deepest <= course.least_depth() + 1,
    ));
    if let Some(change) = report.row("leader steps down") {
        let longest = nth(&times(&change.searched), 1000);
        targets.push((
            format!(
                "after a leader change with the old leader alive all are fed within two round trips ({} ms)",
                ms(2 * course.round_trips().1)
            ),
            change.unfed == 0 && longest <= 2 * course.round_trips().1,
        ));
    }
    targets.push((
        "no entry and no heartbeat from a leader to a listener".into(),
        report.leader_entries + report.leader_heartbeats == 0,
    ));
    targets
}

fn as_table(row: &Row) -> String {
    let questions = questions(&row.searched);
    let messages = sorted(row.searched.iter().map(|gap| u64::from(gap.messages)));
    format!(
        "| {} | {} | {} | {} | {} | {} / {} | {} / {} | {} | {} / {:.2} |",
        match row.step {
            "quiet" => format!("quiet, {} moves", row.moves),
            step => step.into(),
        },
        row.searched.len(),
        spread(&row.searched),
        row.waited.len(),
        spread(&row.waited),
        nth(&questions, 500),
        nth(&questions, 990),
        nth(&messages, 500),
        nth(&messages, 990),
        match row.unfed {
            0 => ms(row.all).to_string(),
            unfed => format!("{unfed} never"),
        },
        row.depth.0,
        row.depth.1
    )
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&as_table(self))
    }
}

fn questions(gaps: &[Gap]) -> Vec<u64> {
    sorted(gaps.iter().map(|gap| u64::from(gap.questions)))
}

fn times(gaps: &[Gap]) -> Vec<u64> {
    sorted(gaps.iter().map(|gap| gap.until - gap.since))
}

fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values
}

/// The value below which so many of a thousand lie; 0 of none.
fn nth(sorted: &[u64], permille: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * permille / 1000).copied().unwrap_or(0)
}

fn spread(gaps: &[Gap]) -> String {
    let times = times(gaps);
    match times.len() {
        0 => "-".into(),
        _ => format!(
            "{} / {} / {}",
            ms(nth(&times, 500)),
            ms(nth(&times, 990)),
            ms(nth(&times, 1000))
        ),
    }
}

fn ms(time: Micros) -> u64 {
    time / MILLISECOND
}

/// The most memory this process has had, where the system tells (Linux: `VmHWM`, proc(5)).
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}
