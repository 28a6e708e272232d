//! What a store is to the search for an order: keys with values, and nothing else.

use std::collections::BTreeMap;
use todc_utils::Specification;

/// Keys and values of one partition are numbers, so that a state is cheap to copy and to compare.
pub type Key = u32;
/// See [`Key`].
pub type Value = u32;

/// The store, as a sequential program.
pub struct Model;

/// One operation, and its answer if there was one.
#[derive(Clone, Debug)]
pub struct Op {
    pub compares: Vec<(Key, Option<Value>)>,
    pub then: Vec<Act>,
    pub or_else: Vec<Act>,
    pub answer: Option<Answer>,
}

/// A step.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Put(Key, Value),
    Delete(Key),
    Get(Key),
}

/// The branch that was taken, and what each of its steps found.
#[derive(Clone, Debug)]
pub struct Answer {
    pub succeeded: bool,
    pub found: Vec<Option<Value>>,
}

impl Specification for Model {
    type State = BTreeMap<Key, Value>;
    type Operation = Op;

    fn init() -> Self::State {
        BTreeMap::new()
    }

    fn apply(op: &Op, before: &Self::State) -> (bool, Self::State) {
        let holds = |(key, expected): &(Key, Option<Value>)| before.get(key) == expected.as_ref();
        let succeeded = op.compares.iter().all(holds);
        let mut after = before.clone();
        let acts = if succeeded { &op.then } else { &op.or_else };
        let found: Vec<Option<Value>> = acts.iter().map(|act| act.run(&mut after)).collect();
        let is_right = op
            .answer
            .as_ref()
            .is_none_or(|answer| answer.succeeded == succeeded && answer.found == found);
        match is_right {
            true => (true, after),
            false => (false, before.clone()),
        }
    }
}

impl Act {
    fn run(self, state: &mut BTreeMap<Key, Value>) -> Option<Value> {
        match self {
            Act::Put(key, value) => {
                state.insert(key, value);
                None
            }
            Act::Delete(key) => state.remove(&key),
            Act::Get(key) => state.get(&key).copied(),
        }
    }
}
