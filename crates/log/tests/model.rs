//! Random changes, flushes and crashes, against the naive model of `common`.

mod common;

use common::{Pair, SMALL};
use eaves_log::sim::SimDisk;
use eaves_log::{Base, Chain, LogId, Options};
use proptest::prelude::*;

/// Something that happens to a log. Places are given as shares of 256 of what is there.
#[derive(Clone, Debug)]
enum Event {
    Append {
        sizes: Vec<usize>,
        new_term: bool,
    },
    Truncate {
        share: u64,
    },
    SaveHardState,
    Reset {
        ahead: i64,
    },
    Purge {
        share: u64,
    },
    Release {
        share: u64,
    },
    Flush,
    Killed {
        during_flush_after: Option<u64>,
        by_sync: bool,
    },
    Crash {
        seed: u64,
        during_flush_after: Option<u64>,
        again_after: Option<u64>,
    },
}

fn event() -> impl Strategy<Value = Event> {
    // Often the same sizes again, so that new records fit exactly over old ones.
    let size = prop_oneof![
        6 => prop::sample::select(vec![0usize, 20, 468, 980]),
        4 => 0..40usize,
        3 => 40..300usize,
        1 => 300..1500usize,
    ];
    prop_oneof![
        10 => (prop::collection::vec(size, 1..6), any::<bool>()).prop_map(|(sizes, new_term)| Event::Append { sizes, new_term }),
        3 => (0..256u64).prop_map(|share| Event::Truncate { share }),
        2 => Just(Event::SaveHardState),
        1 => (-6..20i64).prop_map(|ahead| Event::Reset { ahead }),
        2 => (0..256u64).prop_map(|share| Event::Purge { share }),
        2 => (0..256u64).prop_map(|share| Event::Release { share }),
        8 => Just(Event::Flush),
        2 => (prop::option::of(0..14u64), any::<bool>())
            .prop_map(|(during_flush_after, by_sync)| Event::Killed { during_flush_after, by_sync }),
        3 => (any::<u64>(), prop::option::of(0..14u64), prop::option::weighted(0.3, 0..8u64)).prop_map(
            |(seed, during_flush_after, again_after)| Event::Crash { seed, during_flush_after, again_after }
        ),
    ]
}

/// The index at `share` of 256 between what was purged and the end, if there is one above what was purged.
fn place(pair: &Pair, share: u64) -> Option<u64> {
    let first = pair.log.purged().map_or(0, |id| id.index + 1);
    let count = pair.next_index() - first;
    (count > 0).then(|| first + count * share / 256)
}

fn happen(pair: &mut Pair, event: &Event, counter: u64) {
    let term = pair.now().last().map_or(1, |id| id.term);
    match event {
        Event::Append { sizes, new_term } => pair.append(term + u64::from(*new_term), sizes),
        Event::Truncate { share } => {
            if let Some(index) = place(pair, *share) {
                pair.truncate_after(index.checked_sub(1));
            }
        }
        Event::SaveHardState => pair.save_hard_state(format!("vote {counter}")),
        Event::Reset { ahead } => {
            let index = pair.next_index().saturating_add_signed(*ahead);
            pair.reset(Base {
                last: Some(LogId::new(term + 1, index)),
                chain: Chain(counter),
            });
        }
        Event::Purge { share } => {
            if let Some(index) = place(pair, *share) {
                pair.purge(index);
            }
        }
        Event::Release { share } => {
            if let Some(index) = place(pair, *share) {
                pair.release(index);
            }
        }
        Event::Flush => pair.flush().expect("the disk works"),
        Event::Killed {
            during_flush_after,
            by_sync,
        } => {
            match (during_flush_after, by_sync) {
                (Some(_), true) => {
                    pair.disk.fail_syncs_after(0);
                    let _ = pair.flush();
                }
                _ => fail_flush(pair, *during_flush_after),
            }
            pair.disk.heal();
            pair.reopen();
        }
        Event::Crash {
            seed,
            during_flush_after,
            again_after,
        } => {
            fail_flush(pair, *during_flush_after);
            pair.crash(*seed, *again_after);
        }
    }
}

/// Lets the disk fail during a flush, after so many operations.
fn fail_flush(pair: &mut Pair, after: Option<u64>) {
    if let Some(operations) = after {
        pair.disk.fail_all_after(operations);
        let _ = pair.flush();
    }
}

fn run(options: Options, events: &[Event]) {
    let mut pair = Pair::new(SimDisk::new(), options);
    for (event, counter) in events.iter().zip(1..) {
        happen(&mut pair, event, counter);
        pair.check();
    }
    pair.flush().expect("the disk works");
    pair.crash(7, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_model_through_crashes(events in prop::collection::vec(event(), 1..40)) {
        run(SMALL, &events);
    }

    #[test]
    fn agrees_with_model_in_one_large_segment(events in prop::collection::vec(event(), 1..40)) {
        run(Options { segment_bytes: 1 << 20, cache_bytes: 1 << 20 }, &events);
    }
}
