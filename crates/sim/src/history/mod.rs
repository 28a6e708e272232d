//! What clients asked, were told and watched, and whether all of it can be true of one store: pure data in, a verdict out.
//!
//! A [`History`] is recorded by whoever runs clients, against real processes on a real clock or against simulated nodes on a virtual one.
//! [`check`] holds it against what is promised. Nothing here does I/O or reads a clock, and nothing knows how a node works.
//!
//! ```text
//!                              ┌─ linearizability   a search for an order, by a checker that nobody here wrote
//!   operations ────────────────┤
//!        │      ┌─ ledger ─────┼─ revisions         orders and uniqueness of etcd's revisions
//!        └──────┤  what was    ├─ reads             every answer is the state at the revision it names
//!   watches ────┘  written     └─ watches           no gap, no duplicate, no reordering
//! ```
//!
//! The search knows nothing of revisions: it looks at values and times alone, so that a store that hands out beautiful revisions for a
//! wrong state is found out. The others use revisions, which makes them strong where a search is weak: they need not guess an order, and
//! so they see a single wrong read among a million.
//!
//! What the recorder must see to:
//!
//! - **No value is written twice** in a history, so that a value tells which write it is from. [`check`] refuses a history where one is.
//! - **An outcome is told honestly**: [`Outcome::Failed`] is for what certainly did not happen; what may have happened is
//!   [`Outcome::Unknown`], which may take effect at any time after it was asked for, or never.
//! - **Keys that are written together make one partition** for the search, which is exponential in what runs at the same time, at worst.
//!   So few clients work on the same keys, and they go on to fresh ones now and then. Hundreds of operations on one set of keys are
//!   nothing, ten thousand are too many.
//! - Keys are not compacted away while a history is recorded, and every watch is of one key or a range, without filters.
//!
//! What it cannot see: a write with unknown outcome that is lost or done late is right either way. A deletion with unknown outcome has
//! no value that would tell of it, so reads that no watch covers are given the benefit of the doubt.

mod ledger;
mod linearizability;
mod model;
mod reads;
mod revisions;
mod watches;

use serde::{Deserialize, Serialize};
use std::fmt;

/// How many violations of one kind are told: the first says what is wrong, a thousand more do not.
const TOLD_MAX: usize = 5;

/// Everything that the clients of one run did and saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// In any order.
    pub operations: Vec<Operation>,
    /// Each goes on across reconnects.
    pub watches: Vec<WatchStream>,
}

/// One request of a client and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked; a client does one thing after the other.
    pub client: u32,
    /// The node that was asked.
    pub node: NodeRun,
    /// When the request was sent, on the one clock of the history.
    pub invoked_ns: u64,
    /// When the answer came, or when the client gave up.
    pub returned_ns: u64,
    /// What was asked.
    pub request: Request,
    /// What became of it.
    pub outcome: Outcome,
}

/// A node between a start and its end: what is promised of one node's own state holds within a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeRun {
    /// Its name.
    pub name: String,
    /// The how manieth start of it.
    pub run: u32,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// One step without conditions: a put, a deletion, or a linearizable read of one key.
    One(Step),
    /// A read of one key.
    Read {
        /// The key.
        key: String,
        /// How fresh the answer must be.
        freshness: Freshness,
        /// The answer's revision must be this or a later one; 0 demands nothing.
        min_revision: i64,
    },
    /// `then` if all of `compares` hold, else `or_else`, as one step that nobody sees halves of. Linearizable, even when it only reads.
    Txn {
        /// All must hold.
        compares: Vec<Compare>,
        /// What is done if they do.
        then: Vec<Step>,
        /// What is done if not.
        or_else: Vec<Step>,
    },
}

/// What a read demands of the state that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// Everything that was acknowledged before it was asked.
    Linearizable,
    /// Whatever the node has.
    Serializable,
    /// Everything that was acknowledged longer than this before it was asked.
    WithinNs(u64),
}

/// A condition: the key is as the client saw it last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// Its value; none means that the key is not there.
    pub expected: Option<String>,
}

/// A part of a request. The steps of one transaction are done in their order; it names no key twice, but for one that it reads before it
/// writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Writes a value that nobody ever writes again.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Deletes a key. The request asks for the previous value.
    Delete {
        /// The key.
        key: String,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
    },
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was done.
    Ok(Answer),
    /// It was certainly not done, now or later; with the reason.
    Failed(String),
    /// It may have been done, may be done later, or never; with the reason.
    Unknown(String),
}

/// The answer to a request that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// `header.revision`.
    pub revision: i64,
    /// Which branch of a transaction was taken; true for everything else.
    pub succeeded: bool,
    /// One for each step that was done: what was read, or what was deleted; none for a put, and for a key that was not there.
    pub found: Vec<Option<Found>>,
}

/// A key's value, and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Found {
    /// The value.
    pub value: String,
    /// `mod_revision`.
    pub mod_revision: i64,
}

/// A watch that goes on until the end of the run, from one node to the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchStream {
    /// Who watches.
    pub client: u32,
    /// The first key, included.
    pub from: String,
    /// The end of the range, not included; none means all keys from `from` on.
    pub until: Option<String>,
    /// The revision it began with.
    pub start_revision: i64,
    /// The connections that it lived on, in their order.
    pub pieces: Vec<WatchPiece>,
    /// What it must have told of when the run ends: a revision that the recorder knows to be committed.
    pub must_reach: i64,
}

/// A watch on one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchPiece {
    /// The node that serves it.
    pub node: NodeRun,
    /// The revision that was asked for: the one after everything that the stream was told before.
    pub start_revision: i64,
    /// What came, in its order.
    pub messages: Vec<WatchMessage>,
}

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WatchMessage {
    /// Changes. All of one revision come in one message.
    Events(Vec<WatchEvent>),
    /// Everything up to this revision has been told.
    Progress(i64),
}

/// A change that a watch told of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// The revision of the change.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// Its new value; none for a deletion.
    pub value: Option<String>,
}

/// Something that cannot be true of a store that keeps its promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What does not hold.
    pub rule: Rule,
    /// What was seen instead.
    pub what: String,
}

/// What must hold of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The history itself is sound: see what the recorder must see to.
    WellFormed,
    /// There is an order of all that was done, within the times of each, in which every answer is right.
    Linearizable,
    /// A revision is given to one write, a write has one revision, and all who tell of it say the same.
    OneWritePerRevision,
    /// What certainly was not done is never seen.
    RefusedIsNotDone,
    /// What is asked for after something was answered gets a revision that is later (a write), or as late (a linearizable read).
    RevisionsInRealTime,
    /// An answer is the state at the revision that it names.
    StateAtRevision,
    /// What a node tells of its own state never goes back while it runs.
    NodeNeverGoesBack,
    /// A read has the revision that it demands.
    MinRevision,
    /// A read misses nothing that was acknowledged longer ago than it allows.
    MaxStaleness,
    /// A watch tells of every change from its start to its end.
    WatchHasNoGap,
    /// A watch tells of no change twice.
    WatchHasNoDuplicate,
    /// A watch tells of changes in the order of their revisions.
    WatchIsInOrder,
    /// All changes of one revision come in one message.
    WatchIsAtomic,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} does not hold: {}", self.rule, self.what)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Empty if the history is right; else the first of each rule.
    pub violations: Vec<Violation>,
    /// What was looked at, so that an empty history is not mistaken for a right one.
    pub checked: Checked,
}

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Sets of keys that transactions connect, each searched for an order.
    pub partitions: usize,
    /// Operations in the largest of them.
    pub largest_partition: usize,
    /// Operations that took part in a search.
    pub searched: usize,
    /// Writes of keys whose revision is known.
    pub written: usize,
    /// Keys that were read and compared with the state at the answer's revision.
    pub reads: usize,
    /// Events of watches.
    pub events: usize,
}

impl Verdict {
    /// Whether nothing wrong was found.
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations in {} partitions (at most {}) searched for an order, {} writes and {} reads compared by revision, {} watch events",
            self.searched,
            self.partitions,
            self.largest_partition,
            self.written,
            self.reads,
            self.events
        )
    }
}

/// Checks everything that is promised of a history.
pub fn check(history: &History) -> Verdict {
    let mut report = Report::default();
    let ledger = ledger::Ledger::of(history, &mut report);
    revisions::check(history, &mut report);
    reads::check(history, &ledger, &mut report);
    watches::check(history, &ledger, &mut report);
    // A value that is written twice would mean anything to the search.
    if !report.has(Rule::WellFormed) {
        linearizability::check(&history.operations, &mut report);
    }
    report.verdict
}

/// A verdict while it is being made.
#[derive(Default)]
struct Report {
    verdict: Verdict,
}

impl Report {
    fn add(&mut self, rule: Rule, what: String) {
        let told = &mut self.verdict.violations;
        if told.iter().filter(|other| other.rule == rule).count() < TOLD_MAX {
            told.push(Violation { rule, what });
        }
    }

    fn has(&self, rule: Rule) -> bool {
        self.verdict.violations.iter().any(|one| one.rule == rule)
    }
}

impl Operation {
    /// The answer, if it was done.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Failed(_) | Outcome::Unknown(_) => None,
        }
    }

    /// What was done and found, step by step; empty if it is not known to have been done.
    fn done(&self) -> impl Iterator<Item = (Step, Option<&Found>)> {
        let answer = self.answer();
        let steps = answer.map(|answer| self.request.branch(answer.succeeded));
        let found = answer.map(|answer| answer.found.iter().map(Option::as_ref));
        steps
            .unwrap_or_default()
            .into_iter()
            .zip(found.into_iter().flatten())
    }

    /// Whether its answer is about the state at a moment between asking and answer.
    fn is_linearizable(&self) -> bool {
        match &self.request {
            Request::One(_) | Request::Txn { .. } => true,
            Request::Read { freshness, .. } => *freshness == Freshness::Linearizable,
        }
    }

    /// Whether it is known to have changed something.
    fn has_written(&self) -> bool {
        self.done().any(|(step, found)| step.writes(found))
    }
}

impl Request {
    /// The steps that are done, depending on whether the conditions hold.
    pub(crate) fn branch(&self, succeeded: bool) -> Vec<Step> {
        match self {
            Request::One(step) => vec![step.clone()],
            Request::Read { key, .. } => vec![Step::Get { key: key.clone() }],
            Request::Txn { then, or_else, .. } => match succeeded {
                true => then.clone(),
                false => or_else.clone(),
            },
        }
    }

    /// All steps that may be done.
    fn steps(&self) -> impl Iterator<Item = Step> {
        let other = match self {
            Request::Txn { or_else, .. } => or_else.clone(),
            Request::One(_) | Request::Read { .. } => Vec::new(),
        };
        self.branch(true).into_iter().chain(other)
    }

    /// Whether it changes nothing, whatever it finds.
    pub(crate) fn only_reads(&self) -> bool {
        self.steps().all(|step| matches!(step, Step::Get { .. }))
    }

    fn compares(&self) -> &[Compare] {
        match self {
            Request::Txn { compares, .. } => compares,
            Request::One(_) | Request::Read { .. } => &[],
        }
    }
}

impl Step {
    /// The key that it is about.
    pub fn key(&self) -> &str {
        match self {
            Step::Put { key, .. } | Step::Delete { key } | Step::Get { key } => key,
        }
    }

    /// Whether it changes the store, given what it finds there: deleting what is not there changes nothing.
    fn writes(&self, found: Option<&Found>) -> bool {
        match self {
            Step::Put { .. } => true,
            Step::Delete { .. } => found.is_some(),
            Step::Get { .. } => false,
        }
    }

    /// What the key is afterwards, if it writes.
    fn written(&self) -> Option<&str> {
        match self {
            Step::Put { value, .. } => Some(value),
            Step::Delete { .. } | Step::Get { .. } => None,
        }
    }
}

impl fmt::Display for NodeRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.name, self.run)
    }
}

impl fmt::Display for Operation {
    /// One line for a person who looks for what went wrong: who, when, where, what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ns: u64| ns as f64 / 1e9;
        write!(
            f,
            "client {} at {} from {:.6} s to {:.6} s: {:?} -> {:?}",
            self.client,
            self.node,
            seconds(self.invoked_ns),
            seconds(self.returned_ns),
            self.request,
            self.outcome
        )
    }
}
