//! What a node has of snapshots: the one it keeps to send, the place where it receives one, and the bounds on both.

use super::incoming::{Inbox, Incoming};
use super::spool::{Spool, at_path};
use super::throttle::Throttle;
use super::{KEPT_FOR, MAX_SENDING, TIDY_INTERVAL};
use crate::bulk::Bulk;
use crate::config::Config;
use crate::core::Core;
use crate::dir::Dir;
use crate::position::Applied;
use crate::state_machine::SnapshotSource;
use crate::status::SnapshotProgress;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The folder in the data directory: what is on its way, and nothing else.
pub(crate) const DIR_NAME: &str = "snapshots";

/// What the names of files that are sent begin with; a number follows.
const SPOOL_PREFIX: &str = "outgoing";

/// A node's snapshots, sent and received.
pub(crate) struct Snapshots {
    dir: Dir,
    /// Numbers the files that are sent.
    files: AtomicU64,
    /// The lock is held until a snapshot is begun, so that all who come meanwhile get that one.
    kept: tokio::sync::Mutex<Option<Kept>>,
    pub inbox: Inbox,
    /// Bounds the snapshots being sent at the same time.
    pub turns: Semaphore,
    pub throttle: Throttle,
    progress: Mutex<Option<SnapshotProgress>>,
}

struct Kept {
    spool: Arc<Spool>,
    used: Instant,
}

impl Snapshots {
    /// Opens the folder, and removes what an earlier run was sending.
    pub fn open(config: &Config) -> io::Result<Snapshots> {
        let dir = config.dir().join(DIR_NAME);
        let clean = || {
            dir.make()?;
            let names = dir.list()?;
            let mut sent = names.iter().filter(|name| name.starts_with(SPOOL_PREFIX));
            sent.try_for_each(|name| dir.remove(name))
        };
        clean().map_err(|error| at_path(dir.path(), error))?;
        Ok(Snapshots {
            files: AtomicU64::new(0),
            kept: tokio::sync::Mutex::default(),
            inbox: Inbox::new(dir.clone(), config.blocking),
            turns: Semaphore::new(MAX_SENDING),
            throttle: Throttle::new(config.snapshot_rate),
            progress: Mutex::default(),
            dir,
        })
    }

    /// How far a snapshot on its way here is.
    pub fn progress(&self) -> Option<SnapshotProgress> {
        *self.progress.lock().unwrap()
    }

    /// Shows that a snapshot is on its way, until the returned value is dropped.
    pub fn show(&self) -> Shown<'_> {
        self.set_progress(SnapshotProgress::default());
        Shown(self)
    }

    /// Shows how far it is.
    pub fn set_progress(&self, progress: SnapshotProgress) {
        *self.progress.lock().unwrap() = Some(progress);
    }

    /// Keeps a snapshot that was received and installed, for those below.
    pub async fn keep_received(&self, core: &Core, incoming: Incoming) {
        let name = self.next_name();
        let blocking = core.config.blocking;
        let renaming = blocking.run(move || incoming.into_spool(name, blocking));
        match renaming.await.flatten() {
            Ok(spool) => drop(keep(core, &mut *self.kept.lock().await, Arc::new(spool))),
            Err(error) => tracing::warn!("keep a snapshot for those below: {error}"),
        }
    }

    fn next_name(&self) -> String {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        format!("{SPOOL_PREFIX}.{number}")
    }
}

/// Forgets a snapshot that could not be made, or whose file turned out to be damaged: the next to ask gets a new one.
pub(super) async fn forget(core: &Core, spool: &Arc<Spool>) {
    let mut kept = core.snapshots.kept.lock().await;
    if kept
        .as_ref()
        .is_some_and(|kept| Arc::ptr_eq(&kept.spool, spool))
    {
        *kept = None;
        hold(core, &kept);
    }
}

/// While it lives, a snapshot is shown to be on its way.
pub(crate) struct Shown<'a>(&'a Snapshots);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        *self.0.progress.lock().unwrap() = None;
    }
}

/// A snapshot from which the log here goes on: the kept one, or one begun now; `None` while there is no state. All who ask share one
/// read of the state machine.
pub(super) async fn obtain(core: &Arc<Core>) -> io::Result<Option<Arc<Spool>>> {
    let mut kept = core.snapshots.kept.lock().await;
    if let Some(known) = kept.as_mut().filter(|known| known.is_of_use(core)) {
        known.used = Instant::now();
        return Ok(Some(known.spool.clone()));
    }
    core.keeper.persist_applied().await?;
    let applier = core.applier.clone();
    match core
        .config
        .blocking
        .run(move || applier.snapshot())
        .await??
    {
        Some((at, source)) => begin(core, &mut kept, at, source).await.map(Some),
        None => Ok(None),
    }
}

/// The very snapshot that Raft wants to send: the kept one if it stands at the same position.
pub(super) async fn exactly(
    core: &Arc<Core>,
    at: Applied,
    source: Box<dyn SnapshotSource>,
) -> io::Result<Arc<Spool>> {
    let mut kept = core.snapshots.kept.lock().await;
    let is_meant = |known: &&mut Kept| known.spool.at == at && !known.spool.has_failed();
    if let Some(known) = kept.as_mut().filter(is_meant) {
        known.used = Instant::now();
        return Ok(known.spool.clone());
    }
    begin(core, &mut kept, at, source).await
}

/// Begins to read a state machine's snapshot into a file, which is sent meanwhile.
async fn begin(
    core: &Arc<Core>,
    kept: &mut Option<Kept>,
    at: Applied,
    source: Box<dyn SnapshotSource>,
) -> io::Result<Arc<Spool>> {
    let expected_bytes = source.size_hint_bytes();
    let name = (core.snapshots.dir.clone(), core.snapshots.next_name());
    let blocking = core.config.blocking;
    let create = move || Spool::create(at, expected_bytes, name, blocking);
    let spool = Arc::new(blocking.run(create).await.flatten()?);
    core.count(|counters| counters.snapshots.made += 1);
    tokio::spawn(fill(core.clone(), spool.clone(), source));
    // Another begins to give its disk space back before this one needs much. Whoever takes this one will want the log from there on.
    Ok(keep(core, kept, spool))
}

async fn fill(core: Arc<Core>, spool: Arc<Spool>, source: Box<dyn SnapshotSource>) {
    let wanted = Arc::downgrade(&spool);
    let stopping = core.stopping.subscribe();
    let fill = move || {
        // It is wanted as long as it is kept, or somebody sends it.
        let stop = || *stopping.borrow() || Arc::strong_count(&spool) == 1;
        spool.fill(source, stop)
    };
    let filled = Bulk::new(core.config.blocking).run(fill).await.flatten();
    let Some(spool) = wanted.upgrade() else {
        return;
    };
    spool.end(&filled);
    if let Err(error) = filled {
        if !*core.stopping.borrow() {
            tracing::warn!("make a snapshot for a node that is behind: {error}");
        }
        forget(&core, &spool).await;
    }
}

fn keep(core: &Core, kept: &mut Option<Kept>, spool: Arc<Spool>) -> Arc<Spool> {
    *kept = Some(Kept {
        spool: spool.clone(),
        used: Instant::now(),
    });
    hold(core, kept);
    spool
}

fn hold(core: &Core, kept: &Option<Kept>) {
    let from = kept.as_ref().map(Kept::next_index);
    core.keeper.hold(from);
}

impl Kept {
    fn next_index(&self) -> u64 {
        self.spool.at.next_index()
    }

    /// Whether who installs it finds the log here to go on from.
    fn is_of_use(&self, core: &Core) -> bool {
        !self.spool.has_failed() && self.next_index() >= core.flusher.log().first_index()
    }
}

/// Lets go of what is no longer needed, until the node stops.
pub(crate) async fn tidy(core: Arc<Core>) {
    loop {
        tokio::time::sleep(TIDY_INTERVAL).await;
        core.snapshots.inbox.tidy().await;
        // Whoever has it will look at the same things.
        let Ok(mut kept) = core.snapshots.kept.try_lock() else {
            continue;
        };
        if let Some(known) = kept.as_mut() {
            if Arc::strong_count(&known.spool) > 1 {
                known.used = Instant::now();
            }
            if known.used.elapsed() >= KEPT_FOR || !known.is_of_use(&core) {
                *kept = None;
                hold(&core, &kept);
            }
        }
    }
}
