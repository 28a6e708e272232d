//! What a run says: progress while it runs, a summary, and what is kept when something is wrong.

use super::clients::Shared;
use super::faults::Fault;
use crate::history::{Checked, Found, Freshness, History, Operation, Outcome, Request, Step};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Default)]
pub struct Report {
    seed: u64,
    faults: BTreeMap<&'static str, usize>,
    episodes: usize,
    longest_recovery: Duration,
    content: BTreeMap<String, Found>,
}

/// Outcomes of one kind of request.
#[derive(Default)]
struct Count {
    ok: usize,
    failed: usize,
    unknown: usize,
}

impl Report {
    pub fn new(seed: u64) -> Report {
        Report {
            seed,
            ..Report::default()
        }
    }

    pub fn count(&mut self, fault: &Fault) {
        *self.faults.entry(fault.kind()).or_default() += 1;
    }

    /// An episode is over, and it took this long until all served again.
    pub fn recovered(&mut self, after: Duration) {
        self.episodes += 1;
        self.longest_recovery = self.longest_recovery.max(after);
    }

    /// The progress line.
    pub fn say(&self, shared: &Shared, events: usize, elections: u64) {
        let operations = shared.operations.lock().unwrap();
        let ok = operations
            .iter()
            .filter(|operation| operation.answer().is_some())
            .count();
        println!(
            "{:>6.1} s  {} operations, {ok} answered, {events} watch events, term {elections}, last write acknowledged {:.1} s ago",
            shared.began.elapsed().as_secs_f64(),
            operations.len(),
            shared.since_acknowledged().as_secs_f64()
        );
    }

    pub fn keep_content(&mut self, content: BTreeMap<String, Found>) {
        self.content = content;
    }

    /// What all nodes hold at the end must be what a watch told of.
    pub fn compare_content(&self, told: &BTreeMap<String, Found>) -> Option<String> {
        if self.content == *told {
            return None;
        }
        let of = |content: &BTreeMap<String, Found>, key: &String| content.get(key).cloned();
        let mut keys = self.content.keys().chain(told.keys());
        let key = keys.find(|key| of(&self.content, key) != of(told, key))?;
        Some(format!(
            "all nodes hold {key} as {:?} at the end, and a watch told {:?}",
            self.content.get(key),
            told.get(key)
        ))
    }

    pub fn summarize(&self, history: &History, checked: &Checked, elections: u64) {
        let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
        for operation in &history.operations {
            let count = counts.entry(kind(&operation.request)).or_default();
            match operation.outcome {
                Outcome::Ok(_) => count.ok += 1,
                Outcome::Failed(_) => count.failed += 1,
                Outcome::Unknown(_) => count.unknown += 1,
            }
        }
        println!("operations                  done    refused    unknown");
        for (kind, count) in counts {
            println!(
                "  {kind:<20} {:>9} {:>10} {:>10}",
                count.ok, count.failed, count.unknown
            );
        }
        println!("faults in {} episodes", self.episodes.saturating_sub(2));
        for (kind, count) in &self.faults {
            println!("  {kind:<20} {count:>9}");
        }
        println!(
            "{elections} terms; longest time without an acknowledged write {:.1} s; longest time from healing until all nodes serve {:.1} s",
            longest_gap(&history.operations).as_secs_f64(),
            self.longest_recovery.as_secs_f64()
        );
        println!("checked: {checked}");
    }

    /// The verdict, and what is kept.
    pub fn conclude(&self, history: &History, wrong: &[String], directory: &Path) -> ExitCode {
        if wrong.is_empty() {
            println!("seed {}: the history is right", self.seed);
            return ExitCode::SUCCESS;
        }
        for wrong in wrong {
            println!("seed {}: {wrong}", self.seed);
        }
        let kept = lines(&directory.join("operations.jsonl"), &history.operations)
            .and_then(|()| lines(&directory.join("watches.jsonl"), &history.watches));
        if let Err(error) = kept {
            println!("the history could not be kept: {error}");
        }
        println!(
            "history (JSON lines), data and logs are kept in {}; another run with these faults: eaves-sim nemesis --seed {}",
            directory.display(),
            self.seed
        );
        ExitCode::FAILURE
    }
}

/// What a run has not looked at: of that it shows nothing, and so it is not right.
pub fn unseen(checked: &Checked) -> Vec<String> {
    let counts = [
        (checked.searched, "no operation was searched for an order"),
        (checked.reads, "no read was compared with what was written"),
        (checked.events, "no watch told of a change"),
    ];
    let none = counts.iter().filter(|(count, _)| *count == 0);
    none.map(|(_, what)| format!("{what}: give it more time with --minutes"))
        .collect()
}

fn kind(request: &Request) -> &'static str {
    match request {
        Request::One(Step::Put { .. }) => "put",
        Request::One(Step::Delete { .. }) => "delete",
        Request::One(Step::Get { .. }) => "get",
        Request::Txn { compares, .. } if !compares.is_empty() => "compare and swap",
        Request::Txn { then, .. } if then.iter().all(|step| matches!(step, Step::Get { .. })) => {
            "get of several"
        }
        Request::Txn { .. } => "put of several",
        Request::Read { min_revision, .. } if *min_revision > 0 => "get, min revision",
        Request::Read {
            freshness: Freshness::WithinNs(_),
            ..
        } => "get, max staleness",
        Request::Read { .. } => "get, serializable",
    }
}

/// The longest time between two acknowledged writes.
fn longest_gap(operations: &[Operation]) -> Duration {
    let writes = operations.iter().filter(|operation| {
        operation.answer().is_some() && matches!(operation.request, Request::One(Step::Put { .. }))
    });
    let mut times: Vec<u64> = writes.map(|operation| operation.returned_ns).collect();
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    Duration::from_nanos(gaps.max().unwrap_or(0))
}

fn lines<T: Serialize>(path: &Path, items: &[T]) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for item in items {
        serde_json::to_writer(&mut file, item)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_has_seen_nothing_is_not_right() {
        let enough = Checked {
            searched: 1,
            reads: 1,
            events: 1,
            ..Checked::default()
        };
        assert_eq!(unseen(&enough), [""; 0]);
        assert_eq!(unseen(&Checked::default()).len(), 3);
        let unread = Checked { reads: 0, ..enough };
        assert!(unseen(&unread)[0].starts_with("no read"));
    }
}
