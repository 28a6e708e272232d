//! Random histories: clients of a store that does one thing after the other. They pass; broken ones do not.

use crate::script::{event, node};
use eaves_sim::history::{
    Answer, Compare, Found, Freshness, History, Operation, Outcome, Request, Rule, Step,
    WatchEvent, WatchMessage, WatchPiece, WatchStream, check,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Time from one thing that is done to the next.
const STEP_NS: u64 = 1000;
const NODES: usize = 3;

/// What a client does, before it is known what comes of it.
#[derive(Clone, Debug)]
struct Plan {
    kind: u8,
    key: u8,
    other_key: u8,
    /// How much longer it takes, before and after it is done.
    early_ns: u64,
    late_ns: u64,
    /// The answer is lost; with the second, the request never arrives.
    is_unknown: bool,
    is_lost: bool,
    node: usize,
    /// How many revisions its node is behind.
    behind: usize,
}

fn plan() -> impl Strategy<Value = Plan> {
    let times = (0..4 * STEP_NS, 0..4 * STEP_NS);
    let odds = (prop::bool::weighted(0.1), any::<bool>());
    let what = (0..8u8, 0..4u8, 0..4u8);
    (what, times, odds, 0..NODES, 0..5usize).prop_map(
        |((kind, key, other_key), (early_ns, late_ns), (is_unknown, is_lost), node, behind)| Plan {
            kind,
            key,
            other_key,
            early_ns,
            late_ns,
            is_unknown,
            is_lost,
            node,
            behind,
        },
    )
}

/// The store: its states by revision, from 1 on.
struct Store {
    states: Vec<BTreeMap<String, Found>>,
    log: Vec<Vec<WatchEvent>>,
    /// The revision that each node has told of.
    told: [usize; NODES],
}

impl Store {
    fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    fn state(&self) -> &BTreeMap<String, Found> {
        self.states.last().expect("there is always a state")
    }

    fn run(&mut self, request: &Request) -> Answer {
        let before = self.state().clone();
        let (succeeded, steps) = match request {
            Request::One(step) => (true, vec![step.clone()]),
            Request::Read { key, .. } => (true, vec![Step::Get { key: key.clone() }]),
            Request::Txn {
                compares,
                then,
                or_else,
            } => {
                let holds = |one: &Compare| {
                    before.get(&one.key).map(|found| &found.value) == one.expected.as_ref()
                };
                match compares.iter().all(holds) {
                    true => (true, then.clone()),
                    false => (false, or_else.clone()),
                }
            }
        };
        let mut after = before.clone();
        let revision = self.revision() + 1;
        let mut events = Vec::new();
        let mut found = Vec::new();
        for step in steps {
            let key = step.key().to_owned();
            found.push(match step {
                Step::Put { value, .. } => {
                    events.push(event(revision, &key, Some(&value)));
                    let mod_revision = revision;
                    after.insert(
                        key,
                        Found {
                            value,
                            mod_revision,
                        },
                    );
                    None
                }
                Step::Delete { .. } => {
                    let previous = after.remove(&key);
                    if previous.is_some() {
                        events.push(event(revision, &key, None));
                    }
                    previous
                }
                Step::Get { .. } => before.get(&key).cloned(),
            });
        }
        if !events.is_empty() {
            self.states.push(after);
            self.log.push(events);
        }
        Answer {
            revision: self.revision(),
            succeeded,
            found,
        }
    }

    /// A read of what one node has.
    fn read_behind(&mut self, key: &str, plan: &Plan) -> Answer {
        let least = self.told[plan.node];
        let at = self
            .states
            .len()
            .saturating_sub(plan.behind)
            .max(least)
            .max(1);
        self.told[plan.node] = at;
        Answer {
            revision: at as i64,
            succeeded: true,
            found: vec![self.states[at - 1].get(key).cloned()],
        }
    }
}

fn request(plan: &Plan, number: usize, store: &Store) -> Request {
    let key = format!("k{}", plan.key);
    let other = format!("k{}", plan.other_key ^ 4);
    let put = |key: &str| Step::Put {
        key: key.to_owned(),
        value: format!("{key}={number}"),
    };
    let get = |key: &str| Step::Get {
        key: key.to_owned(),
    };
    let current = store.state().get(&key).map(|found| found.value.clone());
    match plan.kind {
        0 | 1 => Request::One(put(&key)),
        2 => Request::One(Step::Delete { key }),
        3 => Request::One(get(&key)),
        4 => Request::Read {
            key,
            freshness: Freshness::Serializable,
            min_revision: 0,
        },
        5 => Request::Txn {
            compares: Vec::new(),
            then: vec![get(&key), get(&other)],
            or_else: Vec::new(),
        },
        // Half of them expect what is there.
        _ => Request::Txn {
            compares: vec![Compare {
                key: key.clone(),
                expected: current.filter(|_| plan.kind == 6),
            }],
            then: vec![get(&key), put(&key), put(&other)],
            or_else: vec![get(&key)],
        },
    }
}

/// Everything that happened, and everything that was written by revision.
fn execute(plans: &[Plan]) -> (History, Vec<Vec<WatchEvent>>) {
    let mut store = Store {
        states: vec![BTreeMap::new()],
        log: Vec::new(),
        told: [1; NODES],
    };
    let mut history = History::default();
    for (number, plan) in plans.iter().enumerate() {
        let moment_ns = (number as u64 + 5) * STEP_NS;
        let request = request(plan, number, &store);
        let is_behind = matches!(request, Request::Read { .. });
        let outcome = match (plan.is_unknown && !is_behind, plan.is_lost, &request) {
            (false, _, Request::Read { key, .. }) => Outcome::Ok(store.read_behind(key, plan)),
            (false, ..) => Outcome::Ok(store.run(&request)),
            (true, is_lost, _) => {
                if !is_lost {
                    store.run(&request);
                }
                Outcome::Unknown("lost".to_owned())
            }
        };
        // One node's reads of its own state must not overlap, or their order would be anybody's guess.
        let (early_ns, late_ns) = match is_behind {
            true => (0, 0),
            false => (plan.early_ns, plan.late_ns),
        };
        history.operations.push(Operation {
            client: number as u32,
            node: node(&format!("n{}", if is_behind { plan.node } else { NODES })),
            invoked_ns: moment_ns - early_ns,
            returned_ns: moment_ns + late_ns,
            request,
            outcome,
        });
    }
    (history, store.log)
}

/// A watch of everything that loses its connection after every `length` messages.
fn watch(log: &[Vec<WatchEvent>], length: usize) -> WatchStream {
    let pieces = log.chunks(length).enumerate();
    let pieces = pieces.map(|(number, messages)| WatchPiece {
        node: node(&format!("n{}", number % NODES)),
        start_revision: (number * length) as i64 + 2,
        messages: messages.iter().cloned().map(WatchMessage::Events).collect(),
    });
    WatchStream {
        client: 1_000_000,
        from: "k".to_owned(),
        until: Some("l".to_owned()),
        start_revision: 2,
        pieces: pieces.collect(),
        must_reach: log.len() as i64 + 1,
    }
}

fn right_history() -> impl Strategy<Value = History> {
    (prop::collection::vec(plan(), 20..120), 1..20usize).prop_map(|(plans, length)| {
        let (mut history, log) = execute(&plans);
        history.watches.push(watch(&log, length));
        history.watches.push(watch(&log, log.len().max(1)));
        history
    })
}

/// The messages of the first watch with their pieces, to be broken.
fn messages(history: &mut History) -> Vec<&mut WatchMessage> {
    let pieces = history.watches[0].pieces.iter_mut();
    pieces.flat_map(|piece| &mut piece.messages).collect()
}

fn rules(history: &History) -> Vec<Rule> {
    let verdict = check(history);
    verdict.violations.iter().map(|one| one.rule).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_store_does_one_after_the_other_is_right(history in right_history()) {
        let verdict = check(&history);
        prop_assert!(verdict.holds(), "{:#?}", verdict.violations);
    }

    #[test]
    fn the_search_alone_finds_an_answer_that_was_exchanged(history in right_history(), which in any::<prop::sample::Index>()) {
        // An answer of the past, with everything that has a revision taken from the right one.
        let mut history = history;
        history.watches.clear();
        let gets: Vec<usize> = (0..history.operations.len())
            .filter(|number| matches!(history.operations[*number].request, Request::One(Step::Get { .. })))
            .filter(|number| history.operations[*number].answer().is_some_and(|answer| answer.found[0].is_some()))
            .collect();
        prop_assume!(!gets.is_empty());
        let number = gets[which.index(gets.len())];
        let Outcome::Ok(answer) = &mut history.operations[number].outcome else {
            unreachable!("it was answered");
        };
        answer.found[0] = None;
        let Request::One(step) = &history.operations[number].request else {
            unreachable!("it is a read");
        };
        // Somebody may have deleted it meanwhile, seen or unseen.
        let key = step.key().to_owned();
        let deletes = |one: &Operation| matches!(&one.request, Request::One(Step::Delete { key: other }) if *other == key);
        prop_assume!(!history.operations.iter().any(deletes));
        // It may have been asked before the first write of the key was done.
        let invoked_ns = history.operations[number].invoked_ns;
        let is_written = history.operations.iter().any(|one| {
            matches!(&one.request, Request::One(Step::Put { key: other, .. }) if *other == key)
                && one.answer().is_some() && one.returned_ns < invoked_ns
        });
        prop_assume!(is_written);
        prop_assert!(rules(&history).contains(&Rule::Linearizable));
    }

    #[test]
    fn a_changed_value_is_found(history in right_history(), which in any::<prop::sample::Index>()) {
        let mut history = history;
        let mut values: Vec<&mut Found> = history.operations.iter_mut()
            .filter_map(|one| match &mut one.outcome { Outcome::Ok(answer) => Some(answer), _ => None })
            .flat_map(|answer| answer.found.iter_mut().flatten())
            .collect();
        prop_assume!(!values.is_empty());
        let number = which.index(values.len());
        values[number].mod_revision += 1;
        prop_assert!(!rules(&history).is_empty());
    }

    #[test]
    fn a_moved_write_is_found(history in right_history(), which in any::<prop::sample::Index>()) {
        let mut history = history;
        let mut writes: Vec<&mut Answer> = history.operations.iter_mut()
            .filter(|one| matches!(one.request, Request::One(Step::Put { .. })))
            .filter_map(|one| match &mut one.outcome { Outcome::Ok(answer) => Some(answer), _ => None })
            .collect();
        prop_assume!(!writes.is_empty());
        let number = which.index(writes.len());
        writes[number].revision += 1;
        prop_assert!(rules(&history).contains(&Rule::OneWritePerRevision));
    }

    #[test]
    fn a_message_that_a_watch_lost_is_found(history in right_history(), which in any::<prop::sample::Index>()) {
        let mut history = history;
        let mut messages = messages(&mut history);
        prop_assume!(!messages.is_empty());
        let number = which.index(messages.len());
        *messages[number] = WatchMessage::Events(Vec::new());
        prop_assert!(rules(&history).contains(&Rule::WatchHasNoGap));
    }

    #[test]
    fn a_message_that_a_watch_repeats_is_found(history in right_history(), which in any::<prop::sample::Index>()) {
        let mut history = history;
        prop_assume!(!history.watches[0].pieces.is_empty());
        let pieces = &mut history.watches[0].pieces;
        let number = which.index(pieces.len());
        let again = pieces[number].messages[0].clone();
        pieces[number].messages.push(again);
        prop_assert!(rules(&history).contains(&Rule::WatchHasNoDuplicate));
    }

    #[test]
    fn messages_that_a_watch_exchanges_are_found(history in right_history(), which in any::<prop::sample::Index>()) {
        let mut history = history;
        let mut messages = messages(&mut history);
        prop_assume!(messages.len() >= 2);
        let number = which.index(messages.len() - 1);
        let (before, after) = messages.split_at_mut(number + 1);
        std::mem::swap(before[number], after[0]);
        prop_assert!(rules(&history).contains(&Rule::WatchIsInOrder));
    }
}
