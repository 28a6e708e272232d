//! What was written at which revision, put together from everything that tells of it: acknowledged writes, reads and watches.
//!
//! Every witness says "at this revision this key became that". They must agree, and that they do is half of what there is to check.

use super::{History, Outcome, Report, Rule, Step, WatchMessage, WatchStream, watches};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What a key became; none is a deletion.
type Value = Option<String>;

/// All writes that somebody has seen or been told of.
#[derive(Default)]
pub struct Ledger {
    /// By revision, the keys that changed with it.
    by_revision: BTreeMap<i64, BTreeMap<String, Value>>,
    /// By key, the revisions that changed it.
    by_key: HashMap<String, BTreeMap<i64, Value>>,
    /// By value, where it was written.
    by_value: HashMap<String, (String, i64)>,
    /// Which operation of the history asked for a value to be written.
    asked: HashMap<String, usize>,
    /// Keys that somebody may have written without being told what became of it.
    unsure: HashSet<String>,
}

impl Ledger {
    /// Hears all witnesses.
    pub fn of(history: &History, report: &mut Report) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.hear_requests(history, report);
        ledger.hear_answers(history, report);
        for stream in &history.watches {
            ledger.hear_watch(stream, report);
        }
        ledger.find_refused(history, report);
        ledger.find_split(history, report);
        ledger.find_mixed(history, report);
        let written = ledger.by_revision.values().map(BTreeMap::len).sum();
        report.verdict.checked.written = written;
        ledger
    }

    fn hear_requests(&mut self, history: &History, report: &mut Report) {
        for (number, operation) in history.operations.iter().enumerate() {
            if operation.returned_ns < operation.invoked_ns {
                report.add(
                    Rule::WellFormed,
                    format!("ends before it begins: {operation}"),
                );
            }
            let is_unsure = matches!(operation.outcome, Outcome::Unknown(_));
            for step in operation.request.steps() {
                if is_unsure && !matches!(step, Step::Get { .. }) {
                    self.unsure.insert(step.key().to_owned());
                }
                let Some(value) = step.written() else {
                    continue;
                };
                if self.asked.insert(value.to_owned(), number).is_some() {
                    report.add(Rule::WellFormed, format!("{value:?} is written twice"));
                }
            }
        }
    }

    fn hear_answers(&mut self, history: &History, report: &mut Report) {
        for operation in &history.operations {
            let Some(answer) = operation.answer() else {
                continue;
            };
            if operation.request.branch(answer.succeeded).len() != answer.found.len() {
                report.add(
                    Rule::WellFormed,
                    format!("has not one answer for each step: {operation}"),
                );
            }
            for (step, found) in operation.done() {
                let key = step.key();
                if let Some(found) = found {
                    let value = Some(found.value.clone());
                    self.note(found.mod_revision, key, value, report, || {
                        operation.to_string()
                    });
                }
                if step.writes(found) {
                    let value = step.written().map(str::to_owned);
                    self.note(answer.revision, key, value, report, || {
                        operation.to_string()
                    });
                }
            }
        }
        self.find_shared_revisions(history, report);
    }

    /// Two acknowledged writes with one revision, even of different keys.
    fn find_shared_revisions(&self, history: &History, report: &mut Report) {
        let mut owner = HashMap::new();
        for operation in history.operations.iter().filter(|one| one.has_written()) {
            let revision = operation.answer().map_or(0, |answer| answer.revision);
            if let Some(other) = owner.insert(revision, operation) {
                let what = format!("revision {revision} was given twice: {other} and {operation}");
                report.add(Rule::OneWritePerRevision, what);
            }
        }
    }

    fn hear_watch(&mut self, stream: &WatchStream, report: &mut Report) {
        for piece in &stream.pieces {
            let events = piece.messages.iter().filter_map(|message| match message {
                WatchMessage::Events(events) => Some(events),
                WatchMessage::Progress(_) => None,
            });
            for event in events.flatten() {
                report.verdict.checked.events += 1;
                self.note(
                    event.revision,
                    &event.key,
                    event.value.clone(),
                    report,
                    || format!("the watch of client {} at {}", stream.client, piece.node),
                );
            }
        }
    }

    fn note(
        &mut self,
        revision: i64,
        key: &str,
        value: Value,
        report: &mut Report,
        witness: impl Fn() -> String,
    ) {
        let keys = self.by_revision.entry(revision).or_default();
        let told = keys.entry(key.to_owned()).or_insert_with(|| value.clone());
        if *told != value {
            let what = format!(
                "{key} became {told:?} at revision {revision}, and {value:?} as told by {}",
                witness()
            );
            report.add(Rule::OneWritePerRevision, what);
            return;
        }
        let revisions = self.by_key.entry(key.to_owned()).or_default();
        revisions.insert(revision, value.clone());
        let Some(value) = value else {
            return;
        };
        let place = (key.to_owned(), revision);
        match self.by_value.get(&value) {
            Some(other) if *other != place => {
                let (key_before, before) = other;
                let what = format!(
                    "{value:?} was written to {key_before} at revision {before}, and to {key} at revision {revision} as told by {}",
                    witness()
                );
                report.add(Rule::OneWritePerRevision, what);
            }
            Some(_) => {}
            None => drop(self.by_value.insert(value, place)),
        }
    }

    /// Values that nobody asked for, or whose write was certainly refused.
    fn find_refused(&self, history: &History, report: &mut Report) {
        for (value, (key, revision)) in &self.by_value {
            let asked = self
                .asked
                .get(value)
                .map(|number| &history.operations[*number]);
            match asked {
                None => report.add(
                    Rule::RefusedIsNotDone,
                    format!("nobody wrote {value:?}, which {key} had at revision {revision}"),
                ),
                Some(operation) if matches!(operation.outcome, Outcome::Failed(_)) => report.add(
                    Rule::RefusedIsNotDone,
                    format!("{key} had {value:?} at revision {revision} in spite of: {operation}"),
                ),
                Some(operation) => self.find_wrong_branch(value, operation, *revision, report),
            }
        }
    }

    /// What was acknowledged with one revision or branch, and seen with another.
    fn find_wrong_branch(
        &self,
        value: &str,
        operation: &super::Operation,
        revision: i64,
        report: &mut Report,
    ) {
        let Some(answer) = operation.answer() else {
            return;
        };
        let is_done = operation
            .done()
            .any(|(step, _)| step.written() == Some(value));
        if !is_done || answer.revision != revision {
            let what =
                format!("{value:?} was seen at revision {revision} in spite of: {operation}");
            report.add(Rule::OneWritePerRevision, what);
        }
    }

    /// Requests of which one write was seen, and another was not, or elsewhere.
    fn find_split(&self, history: &History, report: &mut Report) {
        for operation in &history.operations {
            let branches = [true, false].map(|succeeded| operation.request.branch(succeeded));
            for branch in &branches {
                let values: Vec<&str> = branch.iter().filter_map(Step::written).collect();
                let places = values.iter().filter_map(|value| self.by_value.get(*value));
                let Some(revision) = places.map(|(_, revision)| *revision).min() else {
                    continue;
                };
                for step in branch {
                    if step.written().is_some() && self.is_apart(history, step, revision) {
                        let what = format!(
                            "revision {revision} has a part and not {step:?} of: {operation}"
                        );
                        report.add(Rule::OneWritePerRevision, what);
                    }
                }
            }
        }
    }

    fn is_apart(&self, history: &History, step: &Step, revision: i64) -> bool {
        match step.written().and_then(|value| self.by_value.get(value)) {
            Some((_, at)) => *at != revision,
            None => watches::covers(history, step.key(), revision),
        }
    }

    /// Revisions that have writes of more than one request.
    fn find_mixed(&self, history: &History, report: &mut Report) {
        for (revision, keys) in &self.by_revision {
            let asked = keys
                .values()
                .flatten()
                .filter_map(|value| self.asked.get(value));
            let asked: BTreeSet<usize> = asked.copied().collect();
            if asked.len() > 1 {
                let asked: Vec<String> = asked
                    .iter()
                    .map(|number| history.operations[*number].to_string())
                    .collect();
                let what = format!(
                    "revision {revision} was given to {}",
                    asked.join(" and to ")
                );
                report.add(Rule::OneWritePerRevision, what);
            }
        }
    }

    /// The state of a key at a revision, as far as it is known: the last revision that changed it, and what it became.
    pub fn state(&self, key: &str, revision: i64) -> Option<(i64, &Value)> {
        let revisions = self.by_key.get(key)?;
        let (at, value) = revisions.range(..=revision).next_back()?;
        Some((*at, value))
    }

    /// The value of a key at a revision, if it is certain that nobody wrote it unseen.
    pub fn certainly(&self, history: &History, key: &str, revision: i64) -> Option<Option<&str>> {
        let is_certain = !self.unsure.contains(key) || watches::covers(history, key, revision);
        let state = || self.state(key, revision);
        is_certain.then(|| state().and_then(|(_, value)| value.as_deref()))
    }

    /// All changes from one revision to another, both included, in their order.
    pub fn changes(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, &str)> {
        let revisions = (from <= to).then(|| self.by_revision.range(from..=to));
        let revisions = revisions.into_iter().flatten();
        revisions.flat_map(|(revision, keys)| keys.keys().map(|key| (*revision, key.as_str())))
    }

    /// Whether somebody may have deleted the key without anybody seeing it.
    pub fn may_be_deleted(history: &History, key: &str) -> bool {
        history.operations.iter().any(|operation| {
            let deletes = |step: Step| matches!(&step, Step::Delete { key: other } if other == key);
            matches!(operation.outcome, Outcome::Unknown(_))
                && operation.request.steps().any(deletes)
        })
    }
}
