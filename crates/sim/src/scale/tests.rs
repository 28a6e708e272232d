//! A tree of a thousand, through a whole course.

use super::Course;
use crate::engine::{MILLISECOND, SECOND};

fn thousand() -> Course {
    Course {
        listeners: 1000,
        capacity: 8,
        voters: 3,
        round_trip: 10 * MILLISECOND,
        question_cost: 10,
        quiet: 120 * SECOND,
        seed: 1,
    }
}

#[test]
fn a_thousand_listeners_with_one_address_are_fed_after_every_step() {
    let course = thousand();
    let report = course.run(&|_| {});
    assert!(report.violation.is_none(), "{:?}", report.violation);
    for row in &report.rows {
        assert_eq!(row.unfed, 0, "after {}", row.step);
    }
    assert_eq!(report.rows[0].searched.len(), 1000);
    assert!(report.rows[1].depth.0 <= course.least_depth() + 1);
    assert_eq!(report.leader_entries + report.leader_heartbeats, 0);
}

#[test]
fn the_least_depth_is_that_of_a_full_tree() {
    let with = |listeners, capacity| {
        Course {
            listeners,
            capacity,
            ..thousand()
        }
        .least_depth()
    };
    // Two roots: 2 * 32, 2 * 32 * 32, ...
    assert_eq!(with(64, 32), 1);
    assert_eq!(with(65, 32), 2);
    assert_eq!(with(64 + 2048, 32), 2);
    assert_eq!(with(100_000, 32), 4);
    assert_eq!(with(1, 1), 1);
}
