//! What a run leaves behind: a running hash of everything that happened, and, when asked for, the same as text.
//!
//! The hash covers every event with its time, so two runs with equal hashes did the same. It costs a few nanoseconds an event,
//! and is always there; text is made only for a sink.

use crate::engine::Micros;
use crate::rng::mix;
use std::io::Write;

/// The trace of one run.
#[derive(Default)]
pub struct Trace {
    hash: u64,
    /// What the group did, listeners left out: the same with and without them (no-vote).
    group_hash: u64,
    sink: Option<Box<dyn Write>>,
}

impl Trace {
    /// A trace that is written as text, too.
    pub fn to(sink: Box<dyn Write>) -> Trace {
        Trace {
            sink: Some(sink),
            ..Trace::default()
        }
    }

    /// The hash over everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The hash over what the group did so far.
    pub fn group_hash(&self) -> u64 {
        self.group_hash
    }

    /// Something happened to a node. `facts` go into the hash, `text` is made only if somebody reads it.
    pub fn note(&mut self, now: Micros, host: u32, facts: [u64; 3], text: impl FnOnce() -> String) {
        self.fold(now, host, facts);
        if self.sink.is_some() {
            self.line(now, &format!("n{} {}", host + 1, text()));
        }
    }

    /// Something happened that is too frequent to be text: only the hash takes note.
    pub fn fold(&mut self, now: Micros, host: u32, facts: [u64; 3]) {
        for fact in [now, u64::from(host)].into_iter().chain(facts) {
            self.hash = mix(self.hash ^ fact).rotate_left(9);
        }
    }

    /// The group did something.
    pub fn group(
        &mut self,
        now: Micros,
        host: u32,
        facts: [u64; 3],
        text: impl FnOnce() -> String,
    ) {
        for fact in [now, u64::from(host)].into_iter().chain(facts) {
            self.group_hash = mix(self.group_hash ^ fact).rotate_left(9);
        }
        self.note(now, host, facts, text);
    }

    /// A line that belongs to no node.
    pub fn line(&mut self, now: Micros, text: &str) {
        if let Some(sink) = &mut self.sink {
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            // A reader that has gone away is no reason to stop the run.
            let _ = writeln!(sink, "{seconds:>4}.{micros:06} {text}");
        }
    }
}
