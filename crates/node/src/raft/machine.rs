//! openraft's state machine over the node's [`Applier`].

use super::log_store::MAX_APPLY_BYTES;
use super::types::{
    Entry, RaftLogId, RaftStoredMembership, Types, stored_membership_to_raft, to_raft_log_id,
};
use crate::applier::Applier;
use crate::blocking::Blocking;
use crate::keeper::Keeper;
use crate::position::Applied;
use crate::state_machine::{SnapshotSink, SnapshotSource};
use eaves_log::Frame;
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use std::io;
use std::sync::{Arc, RwLock};

/// Entries applied in one batch: enough to spread the state machine's fixed costs, few enough not to hold up the event loop.
const MAX_APPLY_ENTRIES: usize = 1024;

/// Bytes of a snapshot moved at once from one state machine to another in one process.
const COPY_BYTES: usize = 256 << 10;

/// What openraft carries from where a snapshot is made or received to where it is sent or installed.
pub(crate) enum SnapshotData {
    /// Of a state to which nothing was ever applied; never sent.
    Nothing,
    /// This node's own, to be read.
    Source(Box<dyn SnapshotSource>),
    /// A received one, complete in a place beside the live state.
    Staged(Box<dyn SnapshotSink>, Applied),
}

/// The state machine handed to one openraft instance.
///
/// openraft's worker outlives `Raft::shutdown`: [`Fence::close`] cuts it off, so that after a change of role only the new owner
/// applies.
#[derive(Clone)]
pub(crate) struct Machine {
    applier: Arc<Applier>,
    keeper: Arc<Keeper>,
    fence: Fence,
    blocking: Blocking,
}

/// Whether an openraft instance may still change the state. Whoever does holds the lock meanwhile.
#[derive(Clone, Default)]
pub(crate) struct Fence(Arc<RwLock<Closed>>);

#[derive(Default)]
struct Closed(bool);

impl Fence {
    /// Waits for a change under way; from then on the instance's state machine refuses everything.
    pub fn close(&self) {
        self.0.write().unwrap().0 = true;
    }

    /// Runs `change` unless the fence is closed.
    fn pass<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let closed = self.0.read().unwrap();
        match closed.0 {
            true => Err(io::Error::other("this Raft instance was stopped")),
            false => change(),
        }
    }
}

impl Machine {
    pub fn new(
        applier: Arc<Applier>,
        keeper: Arc<Keeper>,
        fence: Fence,
        blocking: Blocking,
    ) -> Machine {
        Machine {
            applier,
            keeper,
            fence,
            blocking,
        }
    }

    fn apply_batch(
        &self,
        batch: &mut Vec<(Frame, Option<ApplyResponder<Types>>)>,
    ) -> io::Result<()> {
        let frames: Vec<Frame> = batch.iter().map(|(frame, _)| frame.clone()).collect();
        let answers = self.fence.pass(|| self.applier.apply(&frames))?;
        for ((_, responder), answer) in batch.drain(..).zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
        let applied = self.applier.state();
        Ok((
            applied.last.map(to_raft_log_id),
            stored_membership_to_raft(&applied.membership),
        ))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<(Entry, Option<ApplyResponder<Types>>)>> + Unpin + Send,
    {
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            batch_bytes += entry.frame().as_bytes().len();
            batch.push((entry.into_frame(), responder));
            if batch.len() == MAX_APPLY_ENTRIES || batch_bytes >= MAX_APPLY_BYTES {
                self.keeper.room_to_apply().await?;
                self.apply_batch(&mut batch)?;
                batch_bytes = 0;
                tokio::task::yield_now().await;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.keeper.room_to_apply().await?;
        self.apply_batch(&mut batch)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        data: SnapshotData,
    ) -> io::Result<()> {
        let machine = self.clone();
        let meta = meta.clone();
        let install = move || {
            let (sink, at) = match data {
                SnapshotData::Nothing => {
                    return Err(io::Error::other("refuse to install a snapshot of nothing"));
                }
                SnapshotData::Staged(sink, at) => (sink, at),
                SnapshotData::Source(source) => copy(source, &machine.applier)?,
            };
            if at.last.map(to_raft_log_id) != meta.last_log_id {
                return Err(io::Error::other(format!(
                    "snapshot stands at {:?}, its announcement said {:?}",
                    at.last, meta.last_log_id
                )));
            }
            let end = at.next_index();
            // Raft ends at any error, and with it this node.
            machine
                .fence
                .pass(|| Ok(machine.applier.install(sink, at)?))?;
            machine.keeper.installed(end);
            Ok(())
        };
        self.blocking.run(install).await?
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<Types, SnapshotData>>> {
        let applier = self.applier.clone();
        let found = self.blocking.run(move || applier.snapshot()).await??;
        Ok(found.map(|(at, source)| SnapshotOf::<Types, SnapshotData> {
            meta: meta(&at),
            snapshot: SnapshotData::Source(source),
        }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = SnapshotData;

    /// Cheap: the state is on disk anyway, a snapshot is a read transaction. It is what allows Raft to purge its log.
    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, SnapshotData>> {
        self.keeper.applied_is_durable().await?;
        let nothing = SnapshotOf::<Types, SnapshotData> {
            meta: meta(&Applied::default()),
            snapshot: SnapshotData::Nothing,
        };
        Ok(self.get_current_snapshot().await?.unwrap_or(nothing))
    }
}

pub(crate) fn meta(at: &Applied) -> SnapshotMetaOf<Types> {
    SnapshotMetaOf::<Types> {
        last_log_id: at.last.map(to_raft_log_id),
        last_membership: stored_membership_to_raft(&at.membership),
    }
}

fn copy(
    mut source: Box<dyn SnapshotSource>,
    applier: &Applier,
) -> io::Result<(Box<dyn SnapshotSink>, Applied)> {
    let at = Applied::from_position(&source.position()).map_err(io::Error::other)?;
    let mut sink = applier.receive()?;
    while let Some(chunk) = source.next_chunk(COPY_BYTES)? {
        sink.write_chunk(chunk)?;
    }
    Ok((sink, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SmallMachine;
    use crate::dir::Dir;
    use crate::flusher::Flusher;
    use eaves_log::sim::SimDisk;
    use eaves_log::{Kind, Log, LogId, Options};
    use std::path::Path;

    fn machine() -> Machine {
        let disk = Arc::new(SimDisk::new());
        let blocking = Blocking::Threads;
        let (log, _) = Log::open(disk.clone(), Path::new("/log"), Options::default()).unwrap();
        let flusher = Flusher::start(log, blocking).unwrap();
        let state = SmallMachine::<Vec<u8>>::open_on(disk.clone(), Path::new("/state")).unwrap();
        let applier = Applier::open(Arc::new(state), Dir::new(disk, "/")).unwrap();
        let keeper = Keeper::new(flusher, applier.clone(), u64::MAX, blocking);
        Machine::new(applier, keeper, Fence::default(), blocking)
    }

    async fn apply(machine: &mut Machine, index: u64) -> io::Result<()> {
        let frame = Frame::encode(LogId::new(1, index), Kind::Normal, b"change");
        let entry = Entry::from_frame(frame).unwrap();
        machine
            .apply(futures_util::stream::iter([Ok((entry, None))]))
            .await
    }

    /// Its worker goes on for a while, and by then the state may be another's.
    #[tokio::test]
    async fn a_raft_that_was_stopped_changes_the_state_no_more() {
        let mut machine = machine();
        apply(&mut machine, 0).await.unwrap();
        let before = machine.applier.state();
        let offered = Applied {
            last: Some(LogId::new(1, 9)),
            ..before.clone()
        };
        machine.fence.close();
        let applied = apply(&mut machine, 1).await;
        assert!(applied.is_err(), "a stopped instance applied an entry");
        let sink = machine.applier.receive().unwrap();
        let staged = SnapshotData::Staged(sink, offered.clone());
        let installed = machine.install_snapshot(&meta(&offered), staged).await;
        let error = installed.expect_err("a stopped instance installed a snapshot");
        assert!(error.to_string().contains("was stopped"), "{error}");
        assert_eq!(machine.applier.state(), before);
    }
}
