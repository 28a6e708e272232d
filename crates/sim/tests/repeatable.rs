//! A run is a function of its seed, and the group does the same with and without listeners.

use eaves_sim::run::{Outcome, run};
use eaves_sim::scenario::Scenario;
use eaves_sim::trace::Trace;
use std::io::Write;
use std::sync::mpsc::{Sender, channel};

/// Hands everything that is written to whoever waits for it.
struct Sink(Sender<Vec<u8>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A run and its trace as text.
fn traced(seed: u64) -> (Outcome, String) {
    let (sender, receiver) = channel();
    let outcome = run(Scenario::draw(seed), Trace::to(Box::new(Sink(sender))));
    let bytes: Vec<u8> = receiver.try_iter().flatten().collect();
    (outcome, String::from_utf8(bytes).expect("a trace is text"))
}

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    let mut hashes = Vec::new();
    for seed in [3, 7, 12] {
        let (first, text) = traced(seed);
        let (second, again) = traced(seed);
        assert!(text.lines().count() > 100, "seed {seed} leaves no trace");
        assert!(text == again, "seed {seed} does not repeat itself");
        assert_eq!(first.hash, second.hash);
        let untraced = run(Scenario::draw(seed), Trace::default());
        assert_eq!(
            first.hash, untraced.hash,
            "being watched changes seed {seed}"
        );
        hashes.push(first.hash);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 3, "different seeds do the same");
}

/// no-vote: elections and commits are the same, to the microsecond, whether there are listeners or not.
#[test]
fn listeners_are_nothing_to_the_group() {
    let mut compared = 0;
    for seed in 0..60 {
        if !Scenario::draw(seed).is_about_the_group_alone() {
            continue;
        }
        let with = run(Scenario::draw(seed), Trace::default());
        let without = run(Scenario::draw(seed).without_listeners(), Trace::default());
        assert_eq!(
            with.group_hash, without.group_hash,
            "seed {seed}: the group does something else without listeners"
        );
        assert_ne!(with.hash, without.hash);
        compared += 1;
    }
    assert!(compared >= 3, "only {compared} seeds could be compared");
}
