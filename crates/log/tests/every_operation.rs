//! Fixed stories in which the machine goes down at every single disk operation, with many outcomes each.

mod common;

use common::{Pair, SMALL};
use eaves_log::sim::SimDisk;
use eaves_log::{Base, Chain, LogId, Options};

/// How many different losses are tried for each moment.
const SEEDS: u64 = 12;

/// Tells the story once for each operation at which the machine can go down.
fn at_every_operation(story: impl Fn(&mut Pair) -> Result<(), String>) {
    for operations in 0.. {
        let mut finished = false;
        for seed in 0..SEEDS {
            let mut pair = Pair::new(SimDisk::new(), SMALL);
            pair.append(1, &[100, 30, 200]);
            pair.save_hard_state("the first vote".to_string());
            pair.append(1, &[100, 50]);
            pair.flush().expect("the disk works so far");
            pair.disk.fail_all_after(operations);
            finished = story(&mut pair).is_ok();
            pair.crash(seed * 977 + operations, (seed % 3 == 2).then_some(seed));
            // It must be a log like any other.
            pair.append(8, &[20, 300]);
            pair.flush().expect("the disk works again");
            pair.check();
            pair.crash(seed, None);
        }
        if finished {
            assert!(operations > 2, "the story has operations");
            return;
        }
    }
}

#[test]
fn cut_and_append() {
    at_every_operation(|pair| {
        pair.truncate_after(Some(2));
        pair.append(2, &[100, 100]);
        pair.flush()
    });
}

#[test]
fn cut_twice_over_several_segments() {
    at_every_operation(|pair| {
        pair.append(2, &[300; 5]);
        pair.flush()?;
        pair.truncate_after(Some(5));
        pair.append(3, &[300, 300]);
        pair.truncate_after(Some(1));
        pair.append(4, &[10]);
        pair.flush()
    });
}

#[test]
fn cut_to_the_beginning() {
    at_every_operation(|pair| {
        pair.truncate_after(None);
        pair.flush()?;
        pair.append(2, &[100]);
        pair.flush()
    });
}

#[test]
fn reset() {
    at_every_operation(|pair| {
        pair.purge(1);
        pair.flush()?;
        pair.reset(Base {
            last: Some(LogId::new(7, 500)),
            chain: Chain(9),
        });
        pair.append(7, &[100]);
        pair.flush()
    });
}

#[test]
fn reset_backwards() {
    at_every_operation(|pair| {
        pair.purge(3);
        pair.append(2, &[300; 4]);
        pair.flush()?;
        pair.reset(Base {
            last: Some(LogId::new(7, 1)),
            chain: Chain(9),
        });
        pair.append(7, &[100, 100, 100]);
        pair.flush()
    });
}

#[test]
fn segments_begun_and_released() {
    at_every_operation(|pair| {
        for _ in 0..3 {
            pair.append(2, &[250, 250]);
            pair.flush()?;
        }
        pair.purge(8);
        pair.release(8);
        pair.flush()?;
        pair.append(3, &[250, 250]);
        pair.save_hard_state("the second vote".to_string());
        pair.release(10);
        pair.flush()
    });
}

#[test]
fn votes_and_entries_in_one_batch() {
    at_every_operation(|pair| {
        pair.append(2, &[30]);
        pair.save_hard_state("the second vote".to_string());
        pair.append(3, &[30]);
        pair.save_hard_state("the third vote".to_string());
        pair.save_hard_state("the fourth vote".to_string());
        pair.append(4, &[30]);
        pair.flush()
    });
}

#[test]
fn what_a_torn_batch_left_is_never_taken_for_what_came_later() {
    // New records fit exactly over the torn ones, so that a survivor of the old batch would follow on the new entry's heels.
    let options = Options {
        segment_bytes: 1 << 20,
        ..SMALL
    };
    let mut torn = 0;
    for seed in 0..200 {
        let mut pair = Pair::new(SimDisk::new(), options);
        pair.append(1, &[100]);
        pair.flush().unwrap();
        pair.append(1, &[980; 4]);
        pair.disk.fail_syncs_after(0);
        pair.flush().expect_err("written, not synced");
        pair.crash(seed, None);
        torn += u64::from(pair.next_index() < 5);
        pair.append(2, &[980]);
        pair.flush().unwrap();
        pair.reopen();
        pair.append(2, &[980]);
        pair.flush().unwrap();
        pair.crash(seed, None);
    }
    assert!(torn > 50, "most of these crashes tear the batch");
}
