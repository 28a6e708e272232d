//! One random sequence, run in lockstep against a reference and a subject.
//!
//! Writes go to both, on the subject to each of its nodes in turn; reads go to every node. Before a read from a node's
//! own state, a watch or a progress request, the node catches up, so that a difference is never one of timing. Each side
//! also has a *witness* on every node, a stream that watches everything from the first revision: from its events follows
//! how many events every other watch must get, so the run waits for those rather than for a time.
//!
//! Allowances, the only ones:
//!
//! - ids and terms differ (see `replies`), and how revisions are batched into watch responses (see `watches`);
//! - etcd before 3.4.34 and 3.5.16 drops a deletion at exactly the compacted revision, later ones keep it: a watch from
//!   that revision sees it on a cluster that [keeps](Side::keeps_deletion_at_compaction) it, and must;
//! - a progress request is answered by etcd 3.5.1 at once, by later ones only when all watches of the stream are synced
//!   and at or after their start: so it is repeated until answered, and only sent on a stream with a watch and no watch
//!   that starts in the future;
//! - a watch from a negative revision is refused by later etcds and not by 3.5.1: none is made;
//! - the id of a watch that a compaction ended is free at once with us, in etcd only after the client cancels it: so it is
//!   not asked for again, and no watch that will end so has an id of the client's choice, which the automatic ids skip.

mod settling;
mod streams;
mod watching;

use std::collections::BTreeMap;

use rand::Rng;

use crate::processes::{Cluster, Node};
use crate::replies::{Reply, catch_up, send};
use crate::requests::{Call, Generator, Revisions};
use crate::watches::{Stream, StreamLog};
use streams::StreamSet;

/// How many streams a sequence keeps open besides the witnesses.
const STREAMS_MAX: usize = 3;

/// How many differences a sequence reports before it gives up.
const DIFFERENCES_MAX: usize = 5;

/// One of the two systems.
pub struct Side<'a> {
    pub cluster: &'a mut Cluster,
    /// Whether a deletion at exactly the compacted revision survives the compaction.
    pub keeps_deletion_at_compaction: bool,
}

/// What came of a sequence.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Where the subject did not do as the reference.
    pub differences: Vec<String>,
    /// How often the reference answered what.
    pub coverage: BTreeMap<String, usize>,
    /// The reference's replies and its streams, for the test of the comparison itself.
    pub replies: Vec<Reply>,
    pub streams: Vec<StreamLog>,
}

/// Runs the sequence that `seed` stands for.
pub async fn run(seed: u64, steps: usize, reference: Side<'_>, subject: Side<'_>) -> Outcome {
    let reference_nodes = reference.cluster.nodes.len();
    assert_eq!(
        reference_nodes, 1,
        "the reference is one node, so that it is always current"
    );
    let nodes: Vec<Node> = reference
        .cluster
        .nodes
        .iter()
        .chain(&subject.cluster.nodes)
        .cloned()
        .collect();
    let keeps = nodes.iter().enumerate().map(|(index, _)| match index {
        0 => reference.keeps_deletion_at_compaction,
        _ => subject.keeps_deletion_at_compaction,
    });
    let mut run = Run {
        generator: Generator::new(seed),
        keeps_deletion: keeps.collect(),
        witnesses: nodes.iter().map(Stream::open).collect(),
        nodes,
        revisions: Revisions {
            current: 1,
            compacted: 0,
        },
        streams: Vec::new(),
        writer: 0,
        step: 0,
        past_watches: false,
        over: false,
        outcome: Outcome::default(),
    };
    run.watch_everything().await;
    while run.step < steps && !run.gave_up() {
        reference.cluster.assert_alive();
        subject.cluster.assert_alive();
        run.step += 1;
        run.random_step().await;
    }
    run.finish().await;
    run.outcome
}

struct Run {
    generator: Generator,
    /// The reference, then the subject's nodes.
    nodes: Vec<Node>,
    keeps_deletion: Vec<bool>,
    witnesses: Vec<Stream>,
    revisions: Revisions,
    streams: Vec<StreamSet>,
    /// How many writes there were: which node of the subject gets the next.
    writer: usize,
    step: usize,
    /// Whether a watch from the past was made that may still be reading it.
    past_watches: bool,
    /// Whether a difference was found after which nothing can be compared.
    over: bool,
    outcome: Outcome,
}

impl Run {
    fn gave_up(&self) -> bool {
        self.over || self.outcome.differences.len() >= DIFFERENCES_MAX
    }

    fn differ(&mut self, what: String) {
        self.outcome
            .differences
            .push(format!("step {}: {what}", self.step));
    }

    /// Ends the sequence: what follows would differ because of this.
    fn differ_fatally(&mut self, what: String) {
        self.differ(what);
        self.over = true;
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.outcome.coverage.entry(what.into()).or_default() += 1;
    }

    async fn random_step(&mut self) {
        match self.generator.random.random_range(0..100) {
            0..80 => self.call().await,
            80..84 if self.streams.len() < STREAMS_MAX => self.open_stream(),
            80..93 => self.create_watch().await,
            93..96 => self.cancel_watch().await,
            96..99 => self.ask_progress().await,
            _ => self.close_stream().await,
        }
    }

    async fn call(&mut self) {
        let call = self.generator.request(self.revisions);
        if let Call::Compact(_) = call {
            // What a compaction ends or hides must not depend on how far a watch has come.
            self.settle().await;
            self.sync_watches().await;
        }
        let expected = send(&self.nodes[0], &call).await;
        self.count(expected.kind());
        for index in self.askers(&call) {
            if call.serializable()
                && let Err(problem) = catch_up(&self.nodes[index]).await
            {
                return self.differ_fatally(problem);
            }
            let got = send(&self.nodes[index], &call).await;
            if got != expected {
                let node = &self.nodes[index].name;
                let what = format!(
                    "{node} answers {call:?}\n    with      {got:?}\n    should be {expected:?}"
                );
                if call.reads_only() {
                    self.differ(what)
                } else {
                    self.differ_fatally(what)
                }
            }
        }
        self.note_revisions(&call, &expected);
        self.outcome.replies.push(expected);
    }

    /// Which of the subject's nodes get the call: one of them if it writes, else all.
    fn askers(&mut self, call: &Call) -> Vec<usize> {
        let subjects = self.nodes.len() - 1;
        if call.reads_only() {
            return (1..=subjects).collect();
        }
        self.writer += 1;
        vec![1 + self.writer % subjects]
    }

    fn note_revisions(&mut self, call: &Call, reply: &Reply) {
        if let Some(revision) = reply.revision() {
            self.revisions.current = revision;
        }
        if let (Call::Compact(request), Reply::Compact(_)) = (call, reply) {
            self.revisions.compacted = request.revision;
        }
    }
}
