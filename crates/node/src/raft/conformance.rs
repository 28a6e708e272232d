//! openraft's own suite for stores, run on ours: the log and the state machine exactly as a voter uses them.

use super::log_store::LogStore;
use super::machine::{Fence, Machine};
use super::types::{Entry, RaftLogId, RaftVote, Types, from_raft_log_id, to_raft_log_id};
use crate::applier::Applier;
use crate::blocking::Blocking;
use crate::committed::Committed;
use crate::dir::Dir;
use crate::flusher::Flusher;
use crate::keeper::Keeper;
use crate::state_machine::{Command, Position, SnapshotSink, SnapshotSource, StateMachine};
use bytes::Bytes;
use eaves_log::sim::SimDisk;
use eaves_log::{Base, Chain, Log, LogId, Options, RealDisk};
use openraft::StorageError;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A state machine that holds nothing but its position, applied and durable.
#[derive(Clone, Default)]
struct Positions(Arc<Mutex<(Standing, Standing)>>);

/// An index and the position that stands for it.
type Standing = Option<(u64, Position)>;

impl StateMachine for Positions {
    fn position(&self) -> Option<Position> {
        self.0
            .lock()
            .unwrap()
            .1
            .clone()
            .map(|(_, position)| position)
    }

    fn apply(
        &self,
        commands: &[Command],
        index: u64,
        position: Position,
    ) -> io::Result<Vec<Bytes>> {
        self.0.lock().unwrap().0 = Some((index, position));
        Ok(vec![Bytes::new(); commands.len()])
    }

    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        let mut state = self.0.lock().unwrap();
        if state
            .0
            .as_ref()
            .is_some_and(|(index, _)| *index <= durable_index)
        {
            state.1 = state.0.clone();
        }
        Ok(state.1.as_ref().map(|(index, _)| *index))
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        Ok(Box::new(Copied(
            self.clone(),
            self.position().unwrap_or_default(),
        )))
    }

    fn install(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Copied(self.clone(), Position::default())))
    }
}

struct Copied(Positions, Position);

impl SnapshotSource for Copied {
    fn position(&self) -> Position {
        self.1.clone()
    }

    fn next_chunk(&mut self, _max_bytes: usize) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

impl SnapshotSink for Copied {
    fn write_chunk(&mut self, _chunk: Bytes) -> io::Result<()> {
        Err(io::Error::other("there is nothing in it"))
    }

    fn finish(self: Box<Self>, position: Position) -> io::Result<()> {
        let index = crate::position::Applied::from_position(&position)
            .map_err(io::Error::other)?
            .index();
        let state = index.map(|index| (index, position));
        *self.0.0.lock().unwrap() = (state.clone(), state);
        Ok(())
    }
}

/// Lets the suite begin an empty log at index 1 or 2, which Raft never does and our log therefore refuses: it puts a base there, and
/// keeps quiet about it. Everything else is the store's own.
#[derive(Clone)]
struct AnyStart {
    store: LogStore,
    flusher: Arc<Flusher>,
    start: Option<LogId>,
}

impl RaftLogReader<Types> for AnyStart {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        self.store.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.store.limited_get_log_entries(start, end).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        self.store.read_vote().await
    }
}

impl RaftLogStorage<Types> for AnyStart {
    type LogReader = AnyStart;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let mut state = self.store.get_log_state().await?;
        let start = self.start.map(to_raft_log_id);
        state.last_purged_log_id = state
            .last_purged_log_id
            .filter(|purged| Some(*purged) != start);
        Ok(state)
    }

    async fn get_log_reader(&mut self) -> AnyStart {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        self.store.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        self.store.save_committed(committed).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let first = entries[0].frame().id().index;
        if self.flusher.log().last_id().is_none() && first > 0 {
            self.start = Some(LogId {
                term: 0,
                index: first - 1,
            });
            self.flusher
                .log()
                .reset(Base {
                    last: self.start,
                    chain: Chain::START,
                })
                .map_err(io::Error::other)?;
        }
        self.store.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        self.store.truncate_after(last).await
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        let last = Some(from_raft_log_id(&upto));
        if self.flusher.log().last_id() < last {
            // The suite purges beyond the end without a state that stands there.
            let base = Base {
                last,
                chain: Chain::START,
            };
            let ticket = self.flusher.log().reset(base).map_err(io::Error::other)?;
            return self.flusher.durable(ticket).await;
        }
        self.store.purge(upto).await
    }
}

struct Builder(Blocking);

impl StoreBuilder<Types, AnyStart, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, AnyStart, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("make a directory");
        let (log, _) = Log::open(
            Arc::new(RealDisk),
            &dir.path().join("log"),
            Options::default(),
        )
        .expect("open a new log");
        let flusher = Flusher::start(log, self.0).expect("start flushing");
        let applier = Applier::open(Arc::new(Positions::default()), Dir::real(dir.path()))
            .expect("open an empty state");
        let keeper = Keeper::new(flusher.clone(), applier.clone(), u64::MAX, self.0);
        let flushing = flusher.clone();
        let store = LogStore::new(flusher, applier.clone(), Committed::new(None));
        let store = AnyStart {
            store,
            flusher: flushing,
            start: None,
        };
        Ok((
            dir,
            store,
            Machine::new(applier, keeper, Fence::default(), self.0),
        ))
    }
}

#[test]
fn the_store_passes_openrafts_suite_on_threads() {
    run(Blocking::Threads);
}

#[test]
fn the_store_passes_openrafts_suite_inline() {
    run(Blocking::Inline(std::time::Duration::from_micros(100)));
}

/// What confirms a leader's read index, and answers its heartbeats early (Raft dissertation 6.4).
#[tokio::test]
async fn a_voter_follows_whom_it_promised_to_follow_until_it_promises_another() {
    let (_dir, mut store, _machine) = Builder(Blocking::Threads).build().await.unwrap();
    let follows = |store: &AnyStart, vote: RaftVote| store.store.durable_vote().is(&(&vote).into());
    let (old, asked, new) = (
        RaftVote::new_committed(1, 7),
        RaftVote::new(2, 8),
        RaftVote::new_committed(2, 8),
    );
    assert!(!follows(&store, old), "nothing is promised yet");
    store.save_vote(&old).await.unwrap();
    assert!(follows(&store, old));
    store.save_vote(&asked).await.unwrap();
    assert!(!follows(&store, old), "another may lead from now on");
    assert!(!follows(&store, new), "that one is not elected yet");
    store.save_vote(&new).await.unwrap();
    assert!(follows(&store, new) && !follows(&store, old));

    let mut started_again = AnyStart {
        store: store.store.anew(),
        ..store.clone()
    };
    assert!(!follows(&started_again, new), "the vote is not read yet");
    assert_eq!(started_again.read_vote().await.unwrap(), Some(new));
    assert!(follows(&started_again, new) && !follows(&started_again, old));
}

fn run(blocking: Blocking) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("make a runtime");
    runtime
        .block_on(Suite::<Types, AnyStart, Machine, Builder, TempDir>::test_all(Builder(blocking)))
        .expect("pass the suite");
}

/// Whoever answers a candidate must not forget the answer (Raft paper, 5.1): a vote that did not reach the disk is an error.
#[tokio::test]
async fn a_vote_is_answered_only_once_it_is_durable() {
    let disk = SimDisk::new();
    let dir = Path::new("/data");
    let (log, _) = Log::open(Arc::new(disk.clone()), &dir.join("log"), Options::default())
        .expect("open a new log");
    let flusher = Flusher::start(log, Blocking::Threads).expect("start flushing");
    let applier = Applier::open(
        Arc::new(Positions::default()),
        Dir::new(Arc::new(disk.clone()), dir),
    );
    let applier = applier.expect("open an empty state");
    let mut store = LogStore::new(flusher, applier, Committed::new(None));
    assert!(store.save_vote(&RaftVote::new(1, 1)).await.is_ok());
    disk.fail_syncs_after(0);
    let answered = store.save_vote(&RaftVote::new(2, 1)).await;
    assert!(answered.is_err(), "a vote was answered that is not on disk");
}
