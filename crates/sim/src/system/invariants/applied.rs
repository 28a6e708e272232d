//! What nodes apply, seen at the border of the state machine: every node applies the same commands at the same indexes, answers them
//! alike, and stands at positions that say the same.
//!
//! A position carries the term and index of the last entry, the chain value over the whole log up to it, and the membership. So two nodes
//! that ever stand at the same index have the same log below it, byte for byte (log-matching), and what was applied once is what
//! everybody applies (state-machine-safety).

use super::Violation;
use bytes::Bytes;
use eaves::{Command, Position, SnapshotSink, SnapshotSource, StateMachine};
use eaves_kv::store::Store;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex};

/// What was applied, by anybody, in the whole run.
#[derive(Default)]
pub struct Ledger {
    commands: BTreeMap<u64, Entry>,
    positions: HashMap<u64, (Position, String)>,
    /// The index of every position that anybody has had.
    known: HashMap<Bytes, u64>,
    violation: Option<Violation>,
    /// Entries applied, on all nodes together.
    pub applied: u64,
    /// Snapshots installed.
    pub installed: u64,
    /// The highest index applied anywhere.
    pub highest: u64,
}

/// A command and its answer, as hashes.
struct Entry {
    data: u64,
    answer: u64,
    by: String,
}

impl Ledger {
    /// The first thing that did not hold, if any.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    fn fail(&mut self, invariant: &'static str, what: String) {
        self.violation
            .get_or_insert(Violation::new(invariant, what));
    }

    fn applied(&mut self, by: &str, commands: &[Command], answers: &[Bytes]) {
        for (command, answer) in commands.iter().zip(answers) {
            self.applied += 1;
            let (data, answer) = (hash_of(&command.data), hash_of(answer));
            let first = self.commands.entry(command.index).or_insert(Entry {
                data,
                answer,
                by: by.to_string(),
            });
            let (same, same_answer) = (first.data == data, first.answer == answer);
            let (index, first) = (command.index, first.by.clone());
            if !same {
                let what =
                    format!("{by} applies another command at index {index} than {first} did");
                self.fail("state-machine-safety", what);
            } else if !same_answer {
                let what =
                    format!("{by} answers the command at index {index} otherwise than {first} did");
                self.fail("state-machine-safety", what);
            }
        }
    }

    fn stands_at(&mut self, by: &str, index: u64, position: &Position) {
        self.highest = self.highest.max(index);
        self.known.insert(position.0.clone(), index);
        let (first, other) = self
            .positions
            .entry(index)
            .or_insert_with(|| (position.clone(), by.to_string()));
        if first != position {
            let what = format!(
                "{by} stands at index {index} with another log below it, or another group, than {other} did"
            );
            self.fail("log-matching", what);
        }
    }
}

fn hash_of(bytes: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// A node's store, and what is noted of it.
pub struct Witness {
    store: Arc<Store>,
    by: String,
    ledger: Arc<Mutex<Ledger>>,
    /// The index at which the store stands, once anything is known of it.
    stands_at: Arc<Mutex<Option<u64>>>,
}

impl Witness {
    /// Notes what `store` is told in `ledger`, in the name of the process `by`.
    pub fn new(store: Arc<Store>, by: String, ledger: Arc<Mutex<Ledger>>) -> Witness {
        Witness {
            store,
            by,
            ledger,
            stands_at: Arc::default(),
        }
    }

    /// A batch that ends where the one before ended has been applied twice.
    fn goes_on_to(&self, index: u64) {
        let before = self.stands_at.lock().unwrap().replace(index);
        if let Some(before) = before.filter(|before| index <= *before) {
            let what = format!(
                "{} applies up to index {index} when it has applied up to {before}",
                self.by
            );
            self.ledger.lock().unwrap().fail("monotonic", what);
        }
    }
}

impl StateMachine for Witness {
    fn position(&self) -> Option<Position> {
        let position = self.store.position()?;
        let ledger = &mut *self.ledger.lock().unwrap();
        match ledger.known.get(&position.0) {
            Some(index) => {
                self.stands_at.lock().unwrap().get_or_insert(*index);
            }
            None => {
                let what = format!("{} begins at a position nobody ever had", self.by);
                ledger.fail("state-machine-safety", what);
            }
        }
        Some(position)
    }

    fn apply(
        &self,
        commands: &[Command],
        index: u64,
        position: Position,
    ) -> io::Result<Vec<Bytes>> {
        let answers = self.store.apply(commands, index, position.clone())?;
        self.goes_on_to(index);
        let ledger = &mut *self.ledger.lock().unwrap();
        ledger.applied(&self.by, commands, &answers);
        ledger.stands_at(&self.by, index, &position);
        Ok(answers)
    }

    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        self.store.persist(durable_index)
    }

    fn unpersisted_bytes(&self) -> usize {
        self.store.unpersisted_bytes()
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        self.store.snapshot()
    }

    fn install(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Installing {
            sink: self.store.install()?,
            by: self.by.clone(),
            ledger: self.ledger.clone(),
            stands_at: self.stands_at.clone(),
        }))
    }
}

/// A snapshot on its way into a store.
struct Installing {
    sink: Box<dyn SnapshotSink>,
    by: String,
    ledger: Arc<Mutex<Ledger>>,
    stands_at: Arc<Mutex<Option<u64>>>,
}

impl SnapshotSink for Installing {
    fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        self.sink.write_chunk(chunk)
    }

    fn finish(self: Box<Self>, position: Position) -> io::Result<()> {
        self.sink.finish(position.clone())?;
        let ledger = &mut *self.ledger.lock().unwrap();
        ledger.installed += 1;
        let Some(index) = ledger.known.get(&position.0).copied() else {
            let what = format!(
                "{} installed a state at a position nobody ever had",
                self.by
            );
            ledger.fail("state-machine-safety", what);
            return Ok(());
        };
        let before = self.stands_at.lock().unwrap().replace(index);
        if let Some(before) = before.filter(|before| index < *before) {
            let what = format!(
                "{} installed the state of index {index} when it had applied up to {before}",
                self.by
            );
            ledger.fail("monotonic", what);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves_log::sim::SimDisk;
    use std::path::Path;

    /// Applies batches that end at these indexes; what did not hold then.
    fn applied(ends: &[u64]) -> Option<&'static str> {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let store = Store::open_on(Arc::new(SimDisk::new()), Path::new("/data")).unwrap();
        let witness = Witness::new(Arc::new(store), "v1".into(), ledger.clone());
        for end in ends {
            let position = Position(format!("at {end}").into());
            witness.apply(&[], *end, position).unwrap();
        }
        let ledger = ledger.lock().unwrap();
        ledger.violation().map(|violation| violation.invariant)
    }

    /// The invariant that these break, each a process that stands at an index in a state.
    fn broken_by_standing(stand: &[(&str, u64, &'static str)]) -> Option<&'static str> {
        let mut ledger = Ledger::default();
        for (by, index, state) in stand {
            ledger.stands_at(by, *index, &Position((*state).into()));
        }
        ledger.violation().map(|violation| violation.invariant)
    }

    #[test]
    fn two_logs_up_to_one_index_are_noticed() {
        let lawful = [("v1", 4, "a"), ("v2", 5, "b"), ("v2", 4, "a")];
        assert_eq!(broken_by_standing(&lawful), None);
        let wrong = [("v1", 4, "a"), ("v2", 4, "c")];
        assert_eq!(broken_by_standing(&wrong), Some("log-matching"));
    }

    /// The invariant that these break, each a process that applies a command at an index and answers it.
    fn broken_by_applying(
        applied: &[(&str, u64, &'static str, &'static str)],
    ) -> Option<&'static str> {
        let mut ledger = Ledger::default();
        for (by, index, data, answer) in applied {
            let command = Command {
                index: *index,
                data: (*data).into(),
            };
            ledger.applied(by, &[command], &[(*answer).into()]);
        }
        ledger.violation().map(|violation| violation.invariant)
    }

    #[test]
    fn commands_that_differ_and_answers_that_differ_are_noticed() {
        let first = ("v1", 4, "put", "done");
        let lawful = [first, ("v2", 4, "put", "done"), ("v2", 5, "put", "not")];
        assert_eq!(broken_by_applying(&lawful), None);
        for other in [("v2", 4, "delete", "done"), ("v2", 4, "put", "not")] {
            let invariant = broken_by_applying(&[first, other]);
            assert_eq!(invariant, Some("state-machine-safety"), "{other:?}");
        }
    }

    #[test]
    fn a_batch_that_is_applied_twice_is_noticed() {
        assert_eq!(applied(&[0, 1, 5]), None);
        for wrong in [&[0, 0][..], &[0, 5, 5]] {
            assert_eq!(applied(wrong), Some("monotonic"), "{wrong:?}");
        }
    }
}
