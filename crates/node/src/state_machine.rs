//! What a user of the library writes: a state machine fed by the committed log.
//!
//! The contract in one paragraph. The node calls [`StateMachine::apply`] with committed commands, in log order, each exactly once
//! between two starts. What has been applied may live in memory; [`StateMachine::persist`] makes a prefix of it durable. After a
//! restart the node asks [`StateMachine::position`] and applies again from there, so a state machine must come back at a position
//! that it was once given, never between two, and never ahead of the index it was allowed to persist.

use bytes::Bytes;
use std::io;

/// One committed command, as given to [`crate::Node::write`].
#[derive(Clone, Debug)]
pub struct Command {
    /// The command's index in the log.
    pub index: u64,
    /// The bytes the writer proposed.
    pub data: Bytes,
}

/// Where a state machine stands, opaque to it: it stores the bytes with the state they belong to, atomically, and gives them back.
///
/// Inside are the last applied log id, the chain value of the log up to it and the group's membership, which the node needs to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position(pub Bytes);

/// A deterministic state machine.
///
/// Every method may be called from any thread. `apply` is never called concurrently with itself or with `install`; `persist` and
/// `snapshot` block and run on threads where that is allowed, beside `apply` and reads.
pub trait StateMachine: Send + Sync + 'static {
    /// The position of the state that is durable, as read when the state was opened; `None` when it is empty.
    fn position(&self) -> Option<Position>;

    /// Applies committed commands in order and answers each with what its writer gets back.
    ///
    /// `commands` may be empty: then only the position moves (a membership change, a new leader's first entry). `index` is the log
    /// index that `position` stands for, at or above the last command's. An error is fatal: a command that the state machine does not
    /// like is answered, the same on every node, inside its response.
    fn apply(&self, commands: &[Command], index: u64, position: Position)
    -> io::Result<Vec<Bytes>>;

    /// Makes durable what was applied, at positions whose index is at most `durable_index`, and returns the index now durable, if any.
    ///
    /// `durable_index` is how far the log itself is on disk; the durable state must never be ahead of it. It is called about twice a
    /// second, also when nothing was applied since: room for work that a state machine has left. It need not do everything at once: the
    /// node asks again at once while the index moves and more was applied. Where much waits, a state machine should stop after a piece
    /// that takes a fraction of a second, as who applies may be waiting for [`unpersisted_bytes`](StateMachine::unpersisted_bytes) to fall.
    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>>;

    /// Whether [`persist`](StateMachine::persist) would do something though nothing was applied since, such as a part of a compaction. The
    /// node then asks again after a rest of a few times what the last piece took, instead of twice a second.
    fn has_upkeep(&self) -> bool {
        false
    }

    /// About how many bytes are applied but not durable. The node holds back when they grow too many.
    fn unpersisted_bytes(&self) -> usize {
        0
    }

    /// A point-in-time copy of the durable state. Cheap to make; reading it does not stop `apply` or `persist`.
    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>>;

    /// Begins to receive a copy of another node's state. Nothing changes until [`SnapshotSink::finish`].
    fn install(&self) -> io::Result<Box<dyn SnapshotSink>>;
}

/// A snapshot being read.
pub trait SnapshotSource: Send {
    /// The position of the copied state; empty when nothing was ever made durable.
    fn position(&self) -> Position;

    /// About how many bytes the snapshot has, for progress bars; 0 when unknown.
    fn size_hint_bytes(&self) -> u64 {
        0
    }

    /// The next piece, the same on every node whose state is the same: then a transfer that was cut goes on wherever the same state is.
    /// At most about `max_bytes` long (one larger record is allowed), or `None` after the last.
    fn next_chunk(&mut self, max_bytes: usize) -> io::Result<Option<Bytes>>;
}

/// A snapshot being received, in a place beside the live state. Dropping it leaves the live state as it was.
pub trait SnapshotSink: Send {
    /// Takes the next piece, in order, cut as the source cut it.
    fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()>;

    /// Replaces the live state with the received one, durably and atomically. Afterwards `position` is what the state machine has.
    ///
    /// An error of kind [`InvalidData`](io::ErrorKind::InvalidData) says that what was received is wrong, and the state is the old one.
    /// Any other leaves open which of the two a restart finds: then the node stops, and its next start takes the one or the other.
    fn finish(self: Box<Self>, position: Position) -> io::Result<()>;
}
