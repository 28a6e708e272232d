//! The ledger, with other copies of its state.

use super::History;
use bytes::Bytes;
use eaves::{Command, Position, SmallMachine, SnapshotSink, SnapshotSource, StateMachine};
use std::io;

/// What a state machine gives, as it is to be instead.
type Change<T> = Box<dyn Fn(Box<T>) -> Box<T> + Send + Sync>;

/// A ledger whose snapshots are read and installed through something else.
pub struct Altered {
    ledger: SmallMachine<History>,
    /// What each snapshot is read through.
    pub source: Change<dyn SnapshotSource>,
    /// What each snapshot is installed through.
    pub sink: Change<dyn SnapshotSink>,
}

impl Altered {
    /// With nothing altered yet.
    pub fn new(ledger: SmallMachine<History>) -> Altered {
        Altered {
            ledger,
            source: Box::new(|source| source),
            sink: Box::new(|sink| sink),
        }
    }
}

impl StateMachine for Altered {
    fn position(&self) -> Option<Position> {
        self.ledger.position()
    }

    fn apply(
        &self,
        commands: &[Command],
        index: u64,
        position: Position,
    ) -> io::Result<Vec<Bytes>> {
        self.ledger.apply(commands, index, position)
    }

    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        self.ledger.persist(durable_index)
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        Ok((self.source)(self.ledger.snapshot()?))
    }

    fn install(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Ok((self.sink)(self.ledger.install()?))
    }
}
