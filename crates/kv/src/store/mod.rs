//! The multi-version key-value state machine: etcd's semantics, values on disk, everything else in memory.
//!
//! ```text
//!                      apply (µs, memory only)                    range, txn, watch
//!                            │                                          │
//!                            ▼                                          ▼
//!    ┌──────────────────────── state, behind one RwLock ───────────────────────────┐
//!    │  index    key -> revisions of its versions      (a BTreeMap, in key order)  │
//!    │  overlay  revision -> record, not durable yet   (in revision order)         │
//!    │  view     revision -> record, durable           (a redb read transaction)   │
//!    └──────────────────────────────────────────────────────────────────────────────┘
//!                            │ persist (every 100-1000 ms, in pieces, on a thread of its own)
//!                            ▼
//!    state.redb: records in revision order + notes (position, revision, compacted)
//! ```
//!
//! Every change gets a revision, `(main, sub)`: `main` counts the commands that changed something, `sub` the changes within one. A key's
//! history is the list of its versions; nothing is overwritten, so a read at an old revision and a watch from one need no extra machinery.
//! [`index`] knows the histories, in memory and in key order; a record is found by its revision, in the overlay if it is recent, else in the
//! state file, where records are appended in revision order. That is etcd's own shape, and the cheapest by far of those that were tried on
//! redb: one append per put, no tree on disk in key order.
//!
//! **Writes.** [`apply`] runs committed commands one after the other under the write lock and touches only memory. [`persist`] later moves
//! a prefix of the overlay to disk, a piece at a time, each in one transaction with the position that the node needs to go on from there.
//! After a crash the node applies again from that position; the commands are deterministic, so the same revisions come out.
//!
//! **Reads.** [`range`] finds versions under the read lock and fetches values from disk without it; the view it took along keeps them there.
//!
//! **Watches.** [`watch`] hands every change to whom it concerns, through bounded queues; who falls behind reads history ([`catch_up`]).
//!
//! **Compaction.** [`compaction`] forgets history: for clients at once, from memory and disk bit by bit.
//!
//! **Snapshots.** [`snapshot`] copies the durable state, and installs one beside the live state before it takes its place.
//!
//! Invariants:
//! - the durable state is what the commands up to its position lead to, never between two commands nor ahead of what `persist` allowed;
//! - a record is in the overlay or on disk, and moves only under the write lock;
//! - reads at or above the compacted revision give the same answer before, while and after a scrub;
//! - `handed_out <= revision`: watchers never hear of what a read cannot see yet.
//!
//! Caveats. All keys must fit in memory, about 150 bytes each and the key. A range walks the index under the read lock, counting every key
//! of the range even when a limit is set, as etcd does: a million keys hold writes up for some tens of milliseconds. The file does not
//! shrink after a compaction; its free pages are used again. A store whose `apply` or `persist` failed must not be used any further: the
//! node stops.

mod apply;
mod catch_up;
pub mod command;
mod compaction;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod go_sort;
mod index;
mod key_sort;
mod overlay;
mod persist;
mod range;
mod record;
mod snapshot;
mod subscriptions;
mod table;
mod txn;
mod watch;
mod watch_api;
mod watch_stream;

pub use command::{KvCommand, decode_answer, encode_answer};
pub use error::KvError;
pub use persist::PIECE_BYTES;
pub use table::StateFileError;
pub use txn::is_read_only;
pub use watch::{
    FAN_OUT_STEP, MAX_WATCHERS, QUEUE_MAX_BYTES, QUEUE_MAX_REVISIONS, QUEUES_MAX_BYTES, WatchHub,
};
pub use watch_api::{WatchItem, WatchRefusal, WatchSpec};
pub use watch_stream::{WatchEvents, WatchHandle};

use crate::proto::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use bytes::Bytes;
use eaves::{Command, Position, SnapshotSink, SnapshotSource, StateMachine};
use eaves_log::{Disk, FrozenDisk, RealDisk};
use persist::Durable;
use range::{ReadError, State};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use table::StateFile;
use tokio::sync::{Semaphore, watch as watch_channel};
use watch::Hub;

/// The state file's name in its directory.
const FILE_NAME: &str = "state.redb";

/// What the names of states that are being received begin with; a number follows.
const INSTALLING_PREFIX: &str = "state.installing";

/// The name of an empty state file that is being made; it begins like those.
const BEGINNING_NAME: &str = "state.installing.new";

/// The name of a file that says that a sync of the state file has failed.
const UNSYNCED_NAME: &str = "state.unsynced";

/// A key-value store. Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// What all parts of a store share. Locks are taken in this order: `durable`, `hub`, `state`; each for a short time but `durable`.
struct Shared {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// Counts the snapshots that were received here, to give each a file of its own.
    installs: AtomicU64,
    durable: Mutex<Durable>,
    hub: Mutex<Hub>,
    state: RwLock<State>,
    scrubbed_revision: watch_channel::Sender<i64>,
    /// One for each stream that may read history.
    history_turns: Arc<Semaphore>,
    /// Bytes of all rows on disk, kept here too so that asking never waits for a persist.
    in_use_bytes: AtomicU64,
    /// Bytes of the state file, likewise.
    file_bytes: AtomicU64,
    /// Whether the next persist has a part of the scrub to do, likewise.
    has_upkeep: AtomicBool,
}

impl Store {
    /// Opens the store in `directory`, which must exist, or begins an empty one there. Reads and checks every record.
    pub fn open(directory: &Path) -> Result<Store, StateFileError> {
        Store::open_on(Arc::new(RealDisk), directory)
    }

    /// Like [`Store::open`], on another disk than the machine's.
    pub fn open_on(disk: Arc<dyn Disk>, directory: &Path) -> Result<Store, StateFileError> {
        let file = StateFile::open(&disk, &directory.join(FILE_NAME))?;
        // Only now: the open file is locked, so no other process receives a snapshot in this directory.
        snapshot::remove_leftovers(&*disk, directory)?;
        Store::load(disk, directory, file)
    }

    /// Opens what is in `directory` to look at it: what is applied, persisted and installed later is forgotten, and nothing there is
    /// changed.
    pub fn open_unchanged(directory: &Path) -> Result<Store, StateFileError> {
        let disk = FrozenDisk::new();
        // What is written again would be kept in memory, and a frozen disk refuses nothing.
        let _ = disk.remove(&directory.join(UNSYNCED_NAME));
        Store::open_on(Arc::new(disk), directory)
    }

    fn load(
        disk: Arc<dyn Disk>,
        directory: &Path,
        file: StateFile,
    ) -> Result<Store, StateFileError> {
        let (durable, state) = Durable::load(file)?;
        let shared = Shared {
            disk,
            directory: directory.to_owned(),
            installs: AtomicU64::new(0),
            hub: Mutex::new(Hub::new(state.revision)),
            state: RwLock::new(state),
            history_turns: Arc::new(Semaphore::new(catch_up::HISTORY_TURNS)),
            scrubbed_revision: watch_channel::Sender::new(durable.notes.scrubbed_revision),
            in_use_bytes: AtomicU64::new(durable.in_use_bytes),
            file_bytes: AtomicU64::new(durable.file.len_bytes()?),
            durable: Mutex::new(durable),
            has_upkeep: AtomicBool::new(false),
        };
        Ok(Store {
            shared: Arc::new(shared),
        })
    }

    /// The revision of the last change applied here; 1 in an empty store.
    pub fn revision(&self) -> i64 {
        read(&self.shared.state).revision
    }

    /// Reads and watches below this revision are refused; -1 before the first compaction.
    pub fn compact_revision(&self) -> i64 {
        read(&self.shared.state).compact_revision
    }

    /// The compacted revision below which nothing unreachable is left on disk. A physical compaction is done when it reaches the revision
    /// asked for, which takes a few persists.
    pub fn scrubbed_revision(&self) -> watch_channel::Receiver<i64> {
        self.shared.scrubbed_revision.subscribe()
    }

    /// Keys known, deleted ones that still have history included.
    pub fn key_count(&self) -> usize {
        read(&self.shared.state).index.len()
    }

    /// Bytes of the state file as of the last persist.
    pub fn db_size_bytes(&self) -> u64 {
        self.shared.file_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the records in the state file.
    pub fn db_size_in_use_bytes(&self) -> u64 {
        self.shared.in_use_bytes.load(Ordering::Relaxed)
    }

    /// Answers a range request from this node's state as it is now. `serializable` is not looked at: who wants a linearizable answer waits
    /// for `Node::read_barrier` before.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, KvError> {
        let found = {
            let state = read(&self.shared.state);
            state.find(request, state.revision)?
        };
        found.finish(request).map_err(|error| refuse(&error))
    }

    /// Answers a transaction that [only reads](is_read_only) from this node's state as it is now.
    ///
    /// # Panics
    ///
    /// If the transaction writes.
    pub fn txn_read_only(&self, request: &TxnRequest) -> Result<TxnResponse, KvError> {
        let state = read(&self.shared.state);
        txn::read_only(&state, request).map_err(|error| match error {
            ReadError::Refused(error) => error,
            ReadError::Broken(error) => refuse(&error),
        })
    }

    /// Where watch streams come from.
    pub fn watch_hub(&self) -> WatchHub {
        WatchHub::new(self.shared.clone())
    }

    /// Number of watchers, and how many of them are behind.
    pub fn watcher_counts(&self) -> (usize, usize) {
        lock(&self.shared.hub).watcher_counts()
    }

    /// Bytes of changes that wait in watchers' queues.
    pub fn queued_bytes(&self) -> usize {
        lock(&self.shared.hub).queued_bytes()
    }
}

impl StateMachine for Store {
    fn position(&self) -> Option<Position> {
        read(&self.shared.state).view.notes().position.clone()
    }

    fn apply(
        &self,
        commands: &[Command],
        index: u64,
        position: Position,
    ) -> io::Result<Vec<Bytes>> {
        let answers = write(&self.shared.state).apply(commands, index, position)?;
        fan_out(&self.shared)?;
        Ok(answers)
    }

    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        let mut durable = lock(&self.shared.durable);
        let handed_out = lock(&self.shared.hub).handed_out();
        let piece = read(&self.shared.state)
            .overlay
            .piece(durable_index, PIECE_BYTES);
        durable.persist(&self.shared.state, piece, handed_out)?;
        self.shared
            .has_upkeep
            .store(durable.may_scrub(handed_out), Ordering::Relaxed);
        self.shared.publish(&durable);
        let notes = &durable.notes;
        Ok(notes.position.as_ref().map(|_| notes.index))
    }

    fn has_upkeep(&self) -> bool {
        self.shared.has_upkeep.load(Ordering::Relaxed)
    }

    fn unpersisted_bytes(&self) -> usize {
        read(&self.shared.state).overlay.bytes()
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        let view = read(&self.shared.state).view.clone();
        Ok(Box::new(snapshot::Source::new(
            view,
            self.db_size_in_use_bytes(),
        )))
    }

    /// Sinks may overlap, as each receives into a file of its own. The state is then what the one that finished last has received; the
    /// store does not compare positions, which it cannot read, so the node finishes one sink at a time, and only one whose position is
    /// later. Whatever the order, only a sink that has received everything up to the snapshot's end replaces the live state, and only
    /// with its own file.
    fn install(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(snapshot::Sink::new(self.shared.clone())?))
    }
}

impl Shared {
    /// Lets others see how far the durable state is.
    fn publish(&self, durable: &Durable) {
        let scrubbed = durable.notes.scrubbed_revision;
        self.scrubbed_revision
            .send_if_modified(|known| std::mem::replace(known, scrubbed) != scrubbed);
        self.in_use_bytes
            .store(durable.in_use_bytes, Ordering::Relaxed);
        // A number to look at is no reason to fail.
        if let Ok(bytes) = durable.file.len_bytes() {
            self.file_bytes.store(bytes, Ordering::Relaxed);
        }
    }
}

/// Hands out what was applied: the first step now, and the rest in a task of its own, or now if there is no runtime to run it.
fn fan_out(shared: &Arc<Shared>) -> Result<(), StateFileError> {
    let mut hub = lock(&shared.hub);
    if hub.is_driven {
        return Ok(());
    }
    while hub.fan_out(shared, FAN_OUT_STEP)? {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            hub.is_driven = true;
            runtime.spawn(go_on_fanning_out(shared.clone()));
            return Ok(());
        }
    }
    Ok(())
}

/// One step in each of its turns. An error ends it; the next `apply` meets it again and reports it.
async fn go_on_fanning_out(shared: Arc<Shared>) {
    loop {
        tokio::task::yield_now().await;
        let mut hub = lock(&shared.hub);
        if !matches!(hub.fan_out(&shared, FAN_OUT_STEP), Ok(true)) {
            hub.is_driven = false;
            return;
        }
    }
}

/// Tells the operator what is wrong with the state file, and the client that there is no answer.
fn refuse(error: &StateFileError) -> KvError {
    tracing::error!("refuse a read: {error}");
    KvError::Corrupt
}

/// What to say when a lock's holder panicked: the state may be half changed, so nobody may go on.
const POISONED: &str = "a thread died while it changed the state";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(POISONED)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().expect(POISONED)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().expect(POISONED)
}
