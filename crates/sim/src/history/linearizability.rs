//! Searches for an order of the operations in which every answer is right, by the checker of `todc-utils` (Wing and Gong 1993 with the
//! memory of Lowe 2017).
//!
//! The search is exponential in what runs at the same time, and an operation of unknown outcome runs until the end of the history: a
//! few of them on the same keys are a wall. Three things keep it small, each of which leaves the verdict as it is:
//!
//! - Keys that no transaction connects are independent (Herlihy and Wing 1990, locality): each set is searched alone.
//! - An operation of unknown outcome one of whose values somebody has seen has happened before that one had its answer.
//! - One whose values nobody has seen or made a condition of, and that only puts, may as well have happened last: it is left out. That is
//!   so because everybody who asks about a key learns its value; where somebody did not (a condition that failed, on a key that the
//!   transaction did not read), everything is kept.

use super::model::{Act, Answer, Key, Model, Op, Value};
use super::{Operation, Outcome, Report, Request, Rule, Step};
use std::collections::{HashMap, HashSet};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};

/// How many operations before the one that fits nowhere are told.
const TOLD_BEFORE: usize = 12;

/// One operation in a search. `end` is none if it may happen at any time.
struct Interval<'a> {
    operation: &'a Operation,
    begin_ns: u64,
    end_ns: Option<u64>,
}

pub fn check(operations: &[Operation], report: &mut Report) {
    for partition in partitions(operations) {
        let intervals = intervals(&partition);
        let checked = &mut report.verdict.checked;
        checked.partitions += 1;
        checked.searched += intervals.len();
        checked.largest_partition = checked.largest_partition.max(intervals.len());
        if !is_linearizable(&intervals, u64::MAX) {
            report.add(Rule::Linearizable, explain(&intervals));
        }
    }
}

/// Operations by the sets of keys that transactions connect. Reads that promise less than linearizability, and what was not done, have
/// no place in the search.
fn partitions(operations: &[Operation]) -> Vec<Vec<&Operation>> {
    let takes_part = |operation: &&Operation| match operation.outcome {
        Outcome::Ok(_) => operation.is_linearizable(),
        Outcome::Unknown(_) => !operation.request.only_reads(),
        Outcome::Failed(_) => false,
    };
    let mut keys = Sets::default();
    for operation in operations.iter().filter(takes_part) {
        keys.join(&keys_of(&operation.request));
    }
    let mut partitions: HashMap<usize, Vec<&Operation>> = HashMap::new();
    for operation in operations.iter().filter(takes_part) {
        if let Some(key) = keys_of(&operation.request).first() {
            partitions
                .entry(keys.set_of(key))
                .or_default()
                .push(operation);
        }
    }
    let mut partitions: Vec<_> = partitions.into_iter().collect();
    partitions.sort_by_key(|(set, _)| *set);
    partitions
        .into_iter()
        .map(|(_, operations)| operations)
        .collect()
}

fn keys_of(request: &Request) -> Vec<String> {
    let compared = request.compares().iter().map(|one| one.key.clone());
    let stepped = request.steps().map(|step| step.key().to_owned());
    compared.chain(stepped).collect()
}

/// Disjoint sets of keys.
#[derive(Default)]
struct Sets {
    numbers: HashMap<String, usize>,
    parents: Vec<usize>,
}

impl Sets {
    fn join(&mut self, keys: &[String]) {
        let sets: Vec<usize> = keys.iter().map(|key| self.set_of(key)).collect();
        for set in sets.windows(2) {
            let (one, other) = (self.root(set[0]), self.root(set[1]));
            self.parents[one.max(other)] = one.min(other);
        }
    }

    fn set_of(&mut self, key: &str) -> usize {
        let new = self.parents.len();
        let number = *self.numbers.entry(key.to_owned()).or_insert(new);
        if number == new {
            self.parents.push(new);
        }
        self.root(number)
    }

    fn root(&self, mut number: usize) -> usize {
        while self.parents[number] != number {
            number = self.parents[number];
        }
        number
    }
}

/// When each operation of a partition may have happened; without those that need not be looked at.
fn intervals<'a>(partition: &[&'a Operation]) -> Vec<Interval<'a>> {
    let mut seen: HashMap<&str, u64> = HashMap::new();
    for operation in partition {
        for value in values_seen(operation) {
            let first = seen.entry(value).or_insert(u64::MAX);
            *first = (*first).min(operation.returned_ns);
        }
    }
    let all_tell = partition
        .iter()
        .all(|operation| tells_what_it_compares(operation));
    // Whoever waits for a value has seen it when what it does then is seen.
    let compares = partition.iter().flat_map(|one| one.request.compares());
    let awaited: HashSet<&str> = compares
        .filter_map(|compare| compare.expected.as_deref())
        .collect();
    let interval = |operation: &&'a Operation| {
        let operation: &'a Operation = operation;
        let begin_ns = operation.invoked_ns;
        if operation.answer().is_some() {
            let end_ns = Some(operation.returned_ns);
            return Some(Interval {
                operation,
                begin_ns,
                end_ns,
            });
        }
        let steps: Vec<Step> = operation.request.steps().collect();
        let values = steps.iter().filter_map(Step::written);
        // Seen before it was asked for: that is wrong, and is left to the search to find out.
        let end_ns = values
            .filter_map(|value| seen.get(value))
            .copied()
            .min()
            .filter(|end| *end >= begin_ns);
        let mut values = steps.iter().filter_map(Step::written);
        let is_awaited = values.any(|value| awaited.contains(value));
        let may_be_last = steps
            .iter()
            .all(|step| !matches!(step, Step::Delete { .. }));
        let is_needed = end_ns.is_some() || is_awaited || !may_be_last || !all_tell;
        is_needed.then_some(Interval {
            operation,
            begin_ns,
            end_ns,
        })
    };
    partition.iter().filter_map(interval).collect()
}

/// What it read, and what it has found to be as expected.
fn values_seen(operation: &Operation) -> Vec<&str> {
    let Some(answer) = operation.answer() else {
        return Vec::new();
    };
    let found = answer.found.iter().flatten();
    let mut values: Vec<&str> = found.map(|found| found.value.as_str()).collect();
    if answer.succeeded {
        let compares = operation.request.compares().iter();
        values.extend(compares.filter_map(|compare| compare.expected.as_deref()));
    }
    values
}

/// Whether it read every key on which a condition of it may have failed.
fn tells_what_it_compares(operation: &Operation) -> bool {
    let compares = operation.request.compares();
    let Some(answer) = operation.answer() else {
        // If it did something because a condition failed, it does not say why.
        let otherwise = operation.request.branch(false);
        return compares.is_empty()
            || otherwise
                .iter()
                .all(|step| matches!(step, Step::Get { .. }));
    };
    let read: Vec<Step> = operation.done().map(|(step, _)| step).collect();
    let reads = |key: &str| {
        let mut read = read.iter();
        read.any(|step| step.written().is_none() && step.key() == key)
    };
    answer.succeeded || compares.iter().all(|compare| reads(&compare.key))
}

/// Whether there is an order of what was asked for before `until_ns`. What was answered later has an unknown outcome then.
fn is_linearizable(intervals: &[Interval], until_ns: u64) -> bool {
    let mut numbers = Numbers::default();
    // At one time, what begins comes before what ends: they overlap.
    let mut moments: Vec<((u64, bool), usize, Op)> = Vec::new();
    for (number, interval) in intervals.iter().enumerate() {
        if interval.begin_ns > until_ns {
            continue;
        }
        let end_ns = interval.end_ns.filter(|end| *end <= until_ns);
        let is_answered = interval.operation.returned_ns <= until_ns;
        let op = numbers.op(interval.operation, is_answered);
        moments.push(((interval.begin_ns, false), number, op.clone()));
        moments.push(((end_ns.unwrap_or(u64::MAX), true), number, op));
    }
    if moments.is_empty() {
        return true;
    }
    moments.sort_by_key(|(moment, number, _)| (*moment, *number));
    let actions = moments
        .into_iter()
        .map(|((_, is_end), number, op)| match is_end {
            false => (number, Action::Call(op)),
            true => (number, Action::Response(op)),
        });
    WGLChecker::<Model>::is_linearizable(History::from_actions(actions.collect()))
}

/// Numbers for keys and values.
#[derive(Default)]
struct Numbers(HashMap<String, u32>);

impl Numbers {
    fn number(&mut self, text: &str) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(text.to_owned()).or_insert(next)
    }

    fn key(&mut self, key: &str) -> Key {
        self.number(key)
    }

    fn value(&mut self, value: Option<&String>) -> Option<Value> {
        value.map(|value| self.number(value))
    }

    fn acts(&mut self, steps: Vec<Step>) -> Vec<Act> {
        let act = |step: Step| match step {
            Step::Put { key, value } => Act::Put(self.key(&key), self.number(&value)),
            Step::Delete { key } => Act::Delete(self.key(&key)),
            Step::Get { key } => Act::Get(self.key(&key)),
        };
        steps.into_iter().map(act).collect()
    }

    fn op(&mut self, operation: &Operation, is_answered: bool) -> Op {
        let request = &operation.request;
        let compares = request.compares().iter();
        let compares = compares.map(|one| (self.key(&one.key), self.value(one.expected.as_ref())));
        let compares = compares.collect();
        let answer = operation.answer().filter(|_| is_answered).map(|answer| {
            let found = answer.found.iter();
            let found = found.map(|found| self.value(found.as_ref().map(|found| &found.value)));
            Answer {
                succeeded: answer.succeeded,
                found: found.collect(),
            }
        });
        Op {
            compares,
            then: self.acts(request.branch(true)),
            or_else: self.acts(request.branch(false)),
            answer,
        }
    }
}

/// Names the first operation whose answer fits into no order, and what was answered before it.
fn explain(intervals: &[Interval]) -> String {
    let mut answered: Vec<&Interval> = intervals
        .iter()
        .filter(|one| one.operation.answer().is_some())
        .collect();
    answered.sort_by_key(|one| one.operation.returned_ns);
    // Whatever begins a history that has an order has one.
    let first =
        answered.partition_point(|one| is_linearizable(intervals, one.operation.returned_ns));
    let told = &answered[first.saturating_sub(TOLD_BEFORE)..(first + 1).min(answered.len())];
    let told: Vec<String> = told
        .iter()
        .map(|one| format!("\n    {}", one.operation))
        .collect();
    format!(
        "no order of {} operations explains the last of these answers:{}",
        intervals.len(),
        told.concat()
    )
}
