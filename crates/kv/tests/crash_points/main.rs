//! Whole nodes whose machine goes down before each single operation of its disk.
//!
//! A story is told once for each operation that the machine under test does in it: before that operation the power fails (what was not
//! synced is lost or torn), or the process is killed (all that was written is there; the power fails later, when the node has worked on).
//! Then the machine comes back, and everything must be as promised: the node starts, what was acknowledged is there, its state is what a
//! prefix of the log leads to, its role is the one before or the one after, and it goes on.
//!
//! `voter` tells of one of the two voters that every acknowledged write needs; `listener` of one that falls behind, takes a snapshot,
//! becomes a voter and a listener again. The group runs in one process, on one thread, with a clock of its own.

mod group;
mod listener;
mod machine;
mod media;
#[path = "../../../node/tests/common/memory.rs"]
mod memory;
mod voter;

use std::collections::BTreeMap;
use std::time::Duration;

/// Of so many operations, the process is killed before one; the power fails before each.
const KILL_EVERY: u64 = 3;

/// How the machine under test goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The power fails; the number decides what is lost of all that was not synced.
    Power(u64),
    /// The process is killed, starts again and works on, and then the power fails.
    KillThenPower(u64),
}

/// What was cut off, by operation and file: `sync #-#.seg`. How many there were of each.
pub type Kinds = BTreeMap<String, u32>;

/// How often all of it is gone through at most. The order of operations differs a little from run to run, so that one that a story does
/// but once or twice may be passed by.
const ROUNDS_MAX: u32 = 4;

/// Tells `story` with a cut before the first operation, before the second, and so on, until it comes to its end without one; and all of
/// it again if one of the `expected` kinds was not cut off. Fails if that goes on.
///
/// `story` gets the number of operations to let pass, and how the machine goes down; it returns what was cut off, if anything was.
fn before_every_operation(
    name: &str,
    expected: &[&str],
    story: impl Fn(u64, Cut) -> Option<String>,
) {
    let mut kinds = Kinds::new();
    let mut runs = 0;
    for _ in 0..ROUNDS_MAX {
        for operations in 0.. {
            let power = story(operations, Cut::Power(operations));
            runs += 1;
            let Some(kind) = power else {
                break;
            };
            *kinds.entry(kind).or_default() += 1;
            if operations % KILL_EVERY == 0 {
                runs += 1;
                story(operations, Cut::KillThenPower(operations));
            }
        }
        if expected.iter().all(|kind| kinds.contains_key(*kind)) {
            break;
        }
    }
    println!("{name}: {runs} runs, cut off were {kinds:#?}");
    for kind in expected {
        assert!(
            kinds.contains_key(*kind),
            "never cut off: {kind}; but {kinds:#?}"
        );
    }
}

/// Runs `story` on one thread with a clock that moves when everybody waits.
fn run<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("build a runtime")
        .block_on(story)
}

/// Waits until `done` gives something; fails naming `what` after ten minutes of virtual time.
async fn eventually<T>(what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..6000 {
        if let Some(value) = done().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never came true: {what}");
}

/// Fails naming `what` if it takes more than ten minutes of virtual time.
async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(600), work)
        .await
        .unwrap_or_else(|_| panic!("hangs: {what}"))
}
