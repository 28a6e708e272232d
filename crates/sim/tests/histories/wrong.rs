//! One history for each way of being wrong, beside a right one that is nearly the same.

use crate::script::*;
use eaves_sim::history::{Freshness, Outcome, Request, Rule};

fn two_writes() -> Script {
    Script::default()
        .put((0, 1), "a", "a1", ok(2, vec![None]))
        .put((2, 3), "a", "a2", ok(3, vec![None]))
}

#[test]
fn a_read_sees_what_was_acknowledged_before_it() {
    let right = two_writes().get((4, 5), "a", ok(3, vec![found("a2", 3)]));
    right.assert_right();
    let stale = two_writes().get((4, 5), "a", ok(2, vec![found("a1", 2)]));
    stale.assert_wrong(Rule::Linearizable);
    stale.assert_wrong(Rule::RevisionsInRealTime);
}

#[test]
fn the_search_needs_no_revisions_to_find_a_stale_read() {
    // The answer claims the latest revision, for a value that is an older one.
    let script = two_writes().get((4, 5), "a", ok(3, vec![found("a1", 2)]));
    let (rules, _) = script.verdict();
    assert_eq!(rules, [Rule::Linearizable, Rule::StateAtRevision]);
}

#[test]
fn reads_that_overlap_a_write_may_see_it_or_not_but_not_go_back() {
    let during = |first, second| {
        Script::default()
            .put((0, 9), "a", "a1", ok(2, vec![None]))
            .get((1, 2), "a", first)
            .get((3, 4), "a", second)
    };
    let before = || ok(1, vec![None]);
    let after = || ok(2, vec![found("a1", 2)]);
    during(before(), after()).assert_right();
    during(after(), after()).assert_right();
    during(after(), before()).assert_wrong(Rule::Linearizable);
}

#[test]
fn an_update_is_not_lost() {
    let both = |second| {
        Script::default()
            .put((0, 1), "a", "a0", ok(2, vec![None]))
            .at(
                "v1",
                (2, 5),
                swap("a", Some("a0"), "a1"),
                ok(3, vec![found("a0", 2), None]),
            )
            .at("v2", (3, 6), swap("a", Some("a0"), "a2"), second)
    };
    both(otherwise(3, vec![found("a1", 3)])).assert_right();
    let lost = both(ok(4, vec![found("a0", 2), None]));
    lost.assert_wrong(Rule::Linearizable);
    lost.assert_wrong(Rule::StateAtRevision);
}

#[test]
fn nobody_sees_half_of_a_transaction() {
    let reading = |found_b| {
        Script::default()
            .at(
                "v1",
                (0, 9),
                all(vec![put("a", "a1"), put("b", "b1")]),
                ok(2, vec![None, None]),
            )
            .at(
                "v2",
                (1, 2),
                all(vec![get("a"), get("b")]),
                ok(2, vec![found("a1", 2), found_b]),
            )
    };
    reading(found("b1", 2)).assert_right();
    reading(None).assert_wrong(Rule::Linearizable);
    reading(None).assert_wrong(Rule::StateAtRevision);
}

#[test]
fn a_transaction_is_not_split_even_when_nobody_was_told_what_became_of_it() {
    let writes = || all(vec![put("a", "a1"), put("b", "b1")]);
    let told = |events| {
        Script::default()
            .at("v1", (0, 9), writes(), unknown())
            .watch(2, vec![(2, events)])
    };
    let (a, b) = (event(2, "a", Some("a1")), event(2, "b", Some("b1")));
    told(vec![vec![a.clone(), b]]).assert_right();
    told(vec![vec![a.clone()]]).assert_wrong(Rule::OneWritePerRevision);
    let later = event(3, "b", Some("b1"));
    told(vec![vec![a], vec![later]]).assert_wrong(Rule::OneWritePerRevision);
}

#[test]
fn a_write_of_unknown_outcome_may_happen_late_or_never_and_at_most_once() {
    let after = |outcome, later| {
        Script::default()
            .put((0, 1), "a", "a1", unknown())
            .put((2, 3), "a", "a2", outcome)
            .get((4, 5), "a", later)
    };
    after(ok(2, vec![None]), ok(2, vec![found("a2", 2)])).assert_right();
    after(ok(2, vec![None]), ok(3, vec![found("a1", 3)])).assert_right();
    after(ok(3, vec![None]), ok(3, vec![found("a2", 3)])).assert_right();
    // Seen, overwritten, and there again.
    let twice = after(ok(3, vec![None]), ok(4, vec![found("a1", 4)])).get(
        (1, 1),
        "a",
        ok(2, vec![found("a1", 2)]),
    );
    twice.assert_wrong(Rule::Linearizable);
    twice.assert_wrong(Rule::OneWritePerRevision);
}

#[test]
fn a_write_that_was_seen_does_not_vanish() {
    let reading = |second| {
        Script::default()
            .put((0, 1), "a", "a1", unknown())
            .get((2, 3), "a", ok(2, vec![found("a1", 2)]))
            .get((4, 5), "a", second)
    };
    reading(ok(2, vec![found("a1", 2)])).assert_right();
    reading(ok(2, vec![None])).assert_wrong(Rule::Linearizable);
    reading(ok(2, vec![None])).assert_wrong(Rule::StateAtRevision);
}

#[test]
fn a_deletion_of_unknown_outcome_may_happen_late_but_not_before_it_was_asked_for() {
    let deleting = |time, seen| {
        Script::default()
            .put((0, 1), "a", "a1", ok(2, vec![None]))
            .at("v1", time, Request::One(delete("a")), unknown())
            .get((5, 6), "a", ok(3, vec![seen]))
    };
    deleting((2, 3), None).assert_right();
    deleting((7, 8), None).assert_wrong(Rule::Linearizable);
}

#[test]
fn what_was_refused_is_not_done() {
    let script = Script::default().put((0, 1), "a", "a1", failed()).get(
        (2, 3),
        "a",
        ok(2, vec![found("a1", 2)]),
    );
    script.assert_wrong(Rule::RefusedIsNotDone);
    script.assert_wrong(Rule::Linearizable);
    let invented = Script::default().get((2, 3), "a", ok(2, vec![found("whence", 2)]));
    invented.assert_wrong(Rule::RefusedIsNotDone);
}

#[test]
fn a_failed_condition_may_be_the_work_of_a_write_that_nobody_saw() {
    // The transaction says that the key was not as expected and does not say what it was: the write of unknown outcome must stay.
    let blind = |first| {
        let Request::Txn { compares, then, .. } = swap("a", None, "a2") else {
            unreachable!("a swap is a transaction");
        };
        let or_else = Vec::new();
        let swap = Request::Txn {
            compares,
            then,
            or_else,
        };
        Script::default()
            .put((0, 1), "a", "a1", first)
            .at("v1", (2, 3), swap, otherwise(2, vec![]))
    };
    blind(unknown()).assert_right();
    blind(failed()).assert_wrong(Rule::Linearizable);
}

#[test]
fn a_condition_that_held_has_seen_what_it_expected() {
    // Nobody reads the value itself: that the condition held is all there is to say that it was written.
    let held = |first| {
        let Request::Txn { compares, .. } = swap("a", Some("a1"), "a2") else {
            unreachable!("a swap is a transaction");
        };
        let blind = Request::Txn {
            compares,
            then: vec![put("b", "b1")],
            or_else: vec![get("a")],
        };
        Script::default()
            .put((0, 1), "a", "a1", first)
            .at("v1", (2, 3), blind, ok(3, vec![None]))
    };
    held(unknown()).assert_right();
    held(failed()).assert_wrong(Rule::Linearizable);
}

/// Reads b if a is not as expected, and writes it if it is: what it finds tells nothing about a.
fn if_a_is(expected: Option<&str>) -> Request {
    let Request::Txn { compares, .. } = swap("a", expected, "a2") else {
        unreachable!("a swap is a transaction");
    };
    Request::Txn {
        compares,
        then: vec![put("b", "b1")],
        or_else: vec![get("b")],
    }
}

#[test]
fn a_transaction_takes_the_branch_that_its_conditions_call_for() {
    let taking =
        |expected, outcome| two_writes().at("v1", (4, 5), if_a_is(Some(expected)), outcome);
    taking("a2", ok(4, vec![None])).assert_right();
    taking("a1", otherwise(3, vec![None])).assert_right();
    taking("a1", ok(4, vec![None])).assert_wrong(Rule::StateAtRevision);
    taking("a2", otherwise(3, vec![None])).assert_wrong(Rule::StateAtRevision);
    // Conditions that are none hold.
    let none = two_writes().at("v1", (4, 5), all(vec![get("a")]), otherwise(3, vec![]));
    none.assert_wrong(Rule::StateAtRevision);
}

#[test]
fn a_branch_is_not_wrong_when_a_write_that_nobody_saw_may_call_for_it() {
    let taking = |first: Outcome, outcome| {
        Script::default()
            .put((0, 1), "a", "a1", first)
            .at("v1", (2, 3), if_a_is(None), outcome)
    };
    taking(unknown(), otherwise(2, vec![None])).assert_right();
    taking(unknown(), ok(2, vec![None])).assert_right();
    taking(failed(), otherwise(1, vec![None])).assert_wrong(Rule::StateAtRevision);
    // A watch that has seen everything up to there has not seen it.
    let watched = taking(unknown(), otherwise(2, vec![None]))
        .put((4, 5), "c", "c1", ok(2, vec![None]))
        .watch(2, vec![(2, vec![vec![event(2, "c", Some("c1"))]])]);
    watched.assert_wrong(Rule::StateAtRevision);
}

#[test]
fn a_write_that_only_a_condition_met_has_happened() {
    // Nobody was told what became of either; that the second happened shows that the first did.
    let swapping = |expected| {
        Script::default()
            .put((0, 1), "a", "a1", unknown())
            .at("v1", (2, 3), swap("a", Some(expected), "a2"), unknown())
            .get((4, 5), "a", ok(3, vec![found("a2", 3)]))
    };
    swapping("a1").assert_right();
    swapping("a0").assert_wrong(Rule::Linearizable);
}

#[test]
fn a_revision_is_given_once() {
    let given = |second| {
        Script::default()
            .put((0, 5), "a", "a1", ok(2, vec![None]))
            .put((1, 6), "b", "b1", ok(second, vec![None]))
    };
    given(3).assert_right();
    given(2).assert_wrong(Rule::OneWritePerRevision);
}

#[test]
fn revisions_are_in_real_time_order() {
    let script = Script::default()
        .put((0, 1), "a", "a1", ok(3, vec![None]))
        .put((2, 3), "b", "b1", ok(2, vec![None]));
    script.assert_wrong(Rule::RevisionsInRealTime);
}

#[test]
fn a_serializable_read_may_be_old_but_shows_the_state_at_its_revision() {
    let reading = |revision, seen| {
        let request = read("a", Freshness::Serializable, 0);
        two_writes().at("l1", (8, 9), request, ok(revision, vec![seen]))
    };
    reading(1, None).assert_right();
    reading(2, found("a1", 2)).assert_right();
    reading(3, found("a1", 2)).assert_wrong(Rule::StateAtRevision);
    reading(2, found("a2", 3)).assert_wrong(Rule::StateAtRevision);
    reading(2, None).assert_wrong(Rule::StateAtRevision);
}

#[test]
fn one_node_does_not_go_back_and_another_may_be_behind() {
    let then = |name| {
        let request = || read("a", Freshness::Serializable, 0);
        two_writes()
            .at("l1", (5, 6), request(), ok(3, vec![found("a2", 3)]))
            .at(name, (7, 8), request(), ok(2, vec![found("a1", 2)]))
    };
    then("l2").assert_right();
    then("l1").assert_wrong(Rule::NodeNeverGoesBack);
}

#[test]
fn a_read_has_the_revision_that_it_demands() {
    let reading = |revision, seen| {
        let request = read("a", Freshness::Serializable, 3);
        two_writes().at("l1", (5, 6), request, ok(revision, vec![seen]))
    };
    reading(3, found("a2", 3)).assert_right();
    reading(2, found("a1", 2)).assert_wrong(Rule::MinRevision);
}

#[test]
fn a_read_is_no_older_than_it_allows() {
    // The second write was acknowledged three seconds before the read.
    let reading = |seconds: u64| {
        let request = read("a", Freshness::WithinNs(seconds * 1_000_000_000), 0);
        two_writes().at("l1", (6, 7), request, ok(2, vec![found("a1", 2)]))
    };
    reading(4).assert_right();
    reading(2).assert_wrong(Rule::MaxStaleness);
}

fn three_events() -> [eaves_sim::history::WatchEvent; 3] {
    [
        event(2, "a", Some("a1")),
        event(3, "b", Some("b1")),
        event(4, "a", None),
    ]
}

fn three_writes() -> Script {
    Script::default()
        .put((0, 1), "a", "a1", ok(2, vec![None]))
        .put((2, 3), "b", "b1", ok(3, vec![None]))
        .at(
            "v1",
            (4, 5),
            Request::One(delete("a")),
            ok(4, vec![found("a1", 2)]),
        )
}

#[test]
fn a_watch_that_goes_on_at_another_node_tells_everything_once() {
    let [one, two, three] = three_events();
    let right = three_writes().watch(
        4,
        vec![(2, vec![vec![one], vec![two]]), (4, vec![vec![three]])],
    );
    right.assert_right();
    assert_eq!(right.verdict().1.events, 3);
}

#[test]
fn a_watch_has_no_gap() {
    let [one, two, three] = three_events();
    let middle = three_writes().watch(4, vec![(2, vec![vec![one.clone()], vec![three]])]);
    middle.assert_wrong(Rule::WatchHasNoGap);
    let end = three_writes().watch(4, vec![(2, vec![vec![one], vec![two]])]);
    end.assert_wrong(Rule::WatchHasNoGap);
}

#[test]
fn a_watch_has_no_gap_that_only_another_watch_knows_of() {
    let [one, two, three] = three_events();
    let script = Script::default()
        .put((0, 1), "a", "a1", ok(2, vec![None]))
        .put((2, 3), "b", "b1", unknown())
        .at("v1", (4, 5), Request::One(delete("a")), unknown())
        .watch(
            4,
            vec![(2, vec![vec![one.clone()], vec![two], vec![three.clone()]])],
        );
    script.assert_right();
    let script = script.watch(4, vec![(2, vec![vec![one], vec![three]])]);
    script.assert_wrong(Rule::WatchHasNoGap);
}

#[test]
fn a_watch_has_no_duplicate() {
    let [one, two, three] = three_events();
    let pieces = vec![
        (2, vec![vec![one], vec![two.clone()]]),
        (4, vec![vec![two], vec![three]]),
    ];
    let script = three_writes().watch(4, pieces);
    script.assert_wrong(Rule::WatchHasNoDuplicate);
}

#[test]
fn a_watch_is_in_order() {
    let [one, two, three] = three_events();
    let script = three_writes().watch(4, vec![(2, vec![vec![one], vec![three], vec![two]])]);
    script.assert_wrong(Rule::WatchIsInOrder);
}

#[test]
fn a_watch_tells_the_changes_of_one_revision_together() {
    let (a, b) = (event(2, "a", Some("a1")), event(2, "b", Some("b1")));
    let telling = |messages| {
        Script::default()
            .at(
                "v1",
                (0, 1),
                all(vec![put("a", "a1"), put("b", "b1")]),
                ok(2, vec![None, None]),
            )
            .watch(2, vec![(2, messages)])
    };
    telling(vec![vec![a.clone(), b.clone()]]).assert_right();
    telling(vec![vec![a], vec![b]]).assert_wrong(Rule::WatchIsAtomic);
}

#[test]
fn watches_agree_with_each_other_and_with_what_was_acknowledged() {
    let [one, two, three] = three_events();
    let other = event(3, "b", Some("b2"));
    let script = three_writes().watch(4, vec![(2, vec![vec![one], vec![other], vec![three]])]);
    script.assert_wrong(Rule::OneWritePerRevision);
    let moved = event(5, "b", Some("b1"));
    let [one, _, three] = three_events();
    let script = three_writes().watch(4, vec![(2, vec![vec![one], vec![three], vec![moved]])]);
    script.assert_wrong(Rule::OneWritePerRevision);
    assert_eq!(two.revision, 3);
}

#[test]
fn a_history_that_writes_a_value_twice_is_refused() {
    let script = Script::default()
        .put((0, 1), "a", "same", ok(2, vec![None]))
        .put((2, 3), "a", "same", ok(3, vec![None]));
    script.assert_wrong(Rule::WellFormed);
}

#[test]
fn operations_on_keys_that_nothing_connects_are_searched_apart() {
    let script = three_writes();
    assert_eq!(script.verdict().1.partitions, 2);
    let connected = script.at(
        "v1",
        (6, 7),
        all(vec![get("a"), get("b")]),
        ok(4, vec![None, found("b1", 3)]),
    );
    connected.assert_right();
    let (_, checked) = connected.verdict();
    assert_eq!((checked.partitions, checked.largest_partition), (1, 4));
}

#[test]
fn a_verdict_names_the_answer_that_fits_nowhere() {
    let script = two_writes()
        .get((4, 5), "a", ok(3, vec![found("a2", 3)]))
        .get((6, 7), "a", ok(3, vec![found("a1", 2)]))
        .get((8, 9), "a", ok(3, vec![found("a2", 3)]));
    let verdict = eaves_sim::history::check(&script.0);
    let told = verdict
        .violations
        .iter()
        .find(|one| one.rule == Rule::Linearizable);
    let told = told.expect("the stale read is found").to_string();
    let last = told.lines().last().expect("it has lines");
    assert!(last.contains("from 6.000000 s to 7.000000 s"), "{told}");
}
