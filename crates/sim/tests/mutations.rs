//! The simulator bites: with any one rule switched off it finds a violation within a few seeds, and of the invariant that the
//! rule upholds; with all rules on, the same seeds hold.

use eaves_sim::run::{run, run_with};
use eaves_sim::scenario::Scenario;
use eaves_sim::trace::Trace;
use eaves_tree::Mutation;

/// Within how many seeds each must be found.
const SEEDS: u64 = 40;

/// Switches a rule off and expects that one of these invariants is the first that is found broken.
fn is_missed(rule: Mutation, draw: fn(u64) -> Scenario, invariants: &[&str]) {
    for seed in 0..SEEDS {
        let mutated = run_with(draw(seed), Trace::default(), |config| {
            config.mutation = Some(rule)
        });
        let whole = run(draw(seed), Trace::default());
        if let Some(violation) = whole.violation {
            panic!(
                "with all rules seed {seed} breaks {}: {}",
                violation.invariant, violation.what
            );
        }
        if let Some(violation) = mutated.violation {
            println!(
                "without {rule:?} seed {seed} breaks {}: {}",
                violation.invariant, violation.what
            );
            assert!(
                invariants.contains(&violation.invariant),
                "without {rule:?} seed {seed} breaks {} first: {}",
                violation.invariant,
                violation.what
            );
            return;
        }
    }
    panic!("nobody misses {rule:?} in {SEEDS} seeds");
}

#[test]
fn s9_is_missed() {
    is_missed(Mutation::S9, Scenario::draw, &["capacity"]);
}

#[test]
fn s10_is_missed() {
    is_missed(Mutation::S10, Scenario::draw, &["leader-feeds-none"]);
}

#[test]
fn b1_is_missed() {
    is_missed(Mutation::B1, Scenario::draw_stalls, &["loop-broken"]);
}

#[test]
fn b3_is_missed() {
    is_missed(Mutation::B3, Scenario::draw, &["subtree-together"]);
}

#[test]
fn b7_is_missed() {
    is_missed(Mutation::B7, Scenario::draw, &["no-flapping", "steady"]);
}

#[test]
fn b8_is_missed() {
    is_missed(Mutation::B8, Scenario::draw, &["fresh-first"]);
}

#[test]
fn b11_is_missed() {
    // One seed in a hundred sets the scene.
    is_missed(
        Mutation::B11,
        |seed| Scenario::draw(80 + seed),
        &["log-prefix", "nothing-overwritten"],
    );
}

#[test]
fn b11_making_room_is_missed() {
    is_missed(Mutation::B11Yielding, Scenario::draw_waiters, &["reattach"]);
}

#[test]
fn b12_is_missed() {
    is_missed(Mutation::B12, Scenario::draw, &["nothing-overwritten"]);
}
