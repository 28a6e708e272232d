//! A disk in memory that forgets and refuses like a real one, for tests and for the simulator.
//!
//! What it models, deliberately harsher than most file systems:
//!
//! - Until a file is synced, each of its 512-byte sectors may after a crash have the content of any moment since the last sync,
//!   independently of all others; so may its length.
//! - Until a directory is synced, each name in it may after a crash mean what it meant at any moment since the last sync,
//!   independently of all others.
//! - A failed write may have done a part of its work.
//! - After a failed sync of a file, what was not synced never will be, whatever later syncs say, until it is written again
//!   (Rebello et al. 2020, "Can Applications Recover from fsync Failures?").
//! - Space can run out.
//!
//! What it does not model: damage to what was synced (tests do that by [`SimDisk::edit`]), and a device that lies about a sync.

mod content;
mod observed;

use crate::disk::{Disk, DiskFile, FileLock, exists};
use content::{Chance, Content};
pub use observed::{ObservedDisk, Observer};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// An in-memory [`Disk`]. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    shared: Arc<Mutex<State>>,
    /// The crash before which this value works, by number; `None` if it outlives all.
    until_crash: Option<u64>,
}

#[derive(Clone, Default)]
struct State {
    names: BTreeMap<PathBuf, Name>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    locks: BTreeSet<u64>,
    /// How often the power failed. Handles of earlier times are dead.
    crashes: u64,
    operations: u64,
    faults: Faults,
    capacity_bytes: Option<u64>,
    trace: Option<Vec<String>>,
}

/// What a name means, and what it meant since the directory was last synced, oldest first.
#[derive(Clone, Default)]
struct Name {
    file: Option<u64>,
    before: Vec<Option<u64>>,
}

/// Countdowns to failure: so many more will succeed.
#[derive(Clone, Copy, Default)]
struct Faults {
    writes: Option<u64>,
    syncs: Option<u64>,
    all: Option<u64>,
}

impl SimDisk {
    /// An empty disk without limits or faults.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// The power fails and comes back: of what was not synced, an arbitrary part chosen by `seed` is lost or torn. Open handles of
    /// before the crash fail from now on, and its locks are gone; faults that were set are cleared.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state();
        let mut chance = Chance(seed);
        for name in state.names.values_mut() {
            let before = std::mem::take(&mut name.before);
            name.file = chance.version(before, name.file);
        }
        state.names.retain(|_, name| name.file.is_some());
        for content in state.files.values_mut() {
            content.handles = 0;
        }
        state.drop_unreachable();
        for content in state.files.values_mut() {
            content.crash(&mut chance);
        }
        state.crashes += 1;
        state.locks.clear();
        state.faults = Faults::default();
        state.note(|_| format!("crash {seed}"));
    }

    /// The `n`-th write from now (0 = the next), and each one after it, fails half done.
    pub fn fail_writes_after(&self, n: u64) {
        self.state().faults.writes = Some(n);
    }

    /// The `n`-th sync from now (0 = the next), of a file or a directory, and each one after it, fails.
    pub fn fail_syncs_after(&self, n: u64) {
        self.state().faults.syncs = Some(n);
    }

    /// The `n`-th modifying operation of any sort from now, and each one after it, fails without effect.
    pub fn fail_all_after(&self, n: u64) {
        self.state().faults.all = Some(n);
    }

    /// No more failures.
    pub fn heal(&self) {
        self.state().faults = Faults::default();
    }

    /// Space for all files together; beyond it writes fail as a full disk does. `None` = no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// The length of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.state().files.values().map(|content| content.len).sum()
    }

    /// How many modifying operations were tried so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The disk as one run of the machine sees it: after the next [`SimDisk::crash`] everything that is asked of it fails, as it does
    /// with its files. A simulation that cannot end a machine's tasks at once gives each run such a disk: what they go on doing after
    /// the crash changes nothing any more.
    pub fn mount(&self) -> SimDisk {
        SimDisk {
            shared: self.shared.clone(),
            until_crash: Some(self.state().crashes),
        }
    }

    /// A disk of its own with the same contents, unsynced parts and faults. Nobody has a lock on it.
    pub fn fork(&self) -> SimDisk {
        let mut state = self.state().clone();
        state.locks.clear();
        SimDisk {
            shared: Arc::new(Mutex::new(state)),
            until_crash: None,
        }
    }

    /// Changes what a file holds behind everybody's back, durably, as bad media or a careless hand would. The bytes end where the last
    /// write ended; what is reserved behind them reads as zero.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let content = state.content_of(path).expect("edit an existing file");
        change(&mut content.bytes);
        content.len = content.len.max(content.bytes.len() as u64);
        content.sync();
    }

    /// Makes what a file holds end at `len`, durably.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn cut_off(&self, path: &Path, len: u64) {
        let mut state = self.state();
        let content = state.content_of(path).expect("cut off an existing file");
        content.set_len(len);
        content.sync();
    }

    /// What was written to a file.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn contents(&self, path: &Path) -> Vec<u8> {
        self.state()
            .content_of(path)
            .expect("look at an existing file")
            .bytes
            .clone()
    }

    /// From now on notes every modifying operation as a line of text.
    pub fn start_trace(&self) {
        self.state().trace = Some(Vec::new());
    }

    /// The lines noted since the last call.
    pub fn take_trace(&self) -> Vec<String> {
        self.state()
            .trace
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .lock()
            .expect("a thread panicked while it used the disk")
    }

    /// The state for a user of the disk.
    fn mounted(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        match self
            .until_crash
            .is_none_or(|crashes| state.crashes == crashes)
        {
            true => Ok(state),
            false => Err(went_down("this disk was mounted")),
        }
    }

    fn handle(&self, state: &mut State, file: u64) -> Arc<dyn DiskFile> {
        state
            .files
            .get_mut(&file)
            .expect("a name means an existing file")
            .handles += 1;
        Arc::new(SimFile {
            disk: self.clone(),
            file,
            crashes: state.crashes,
        })
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.mounted().map(|_| ())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.mounted()?;
        let names = state
            .names
            .iter()
            .filter(|(path, name)| name.file.is_some() && path.parent() == Some(dir));
        Ok(names
            .filter_map(|(path, _)| Some(path.file_name()?.to_str()?.to_string()))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.mounted()?;
        state.begin_operation(|_| format!("create {}", short(path)))?;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Content::default());
        state.point(path, Some(file));
        Ok(self.handle(&mut state, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.mounted()?;
        let file = state.file_at(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&mut state, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.mounted()?;
        state.begin_operation(|_| format!("rename {} to {}", short(from), short(to)))?;
        let file = state.file_at(from).ok_or(io::ErrorKind::NotFound)?;
        state.point(to, Some(file));
        state.point(from, None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.mounted()?;
        state.begin_operation(|_| format!("remove {}", short(path)))?;
        state.file_at(path).ok_or(io::ErrorKind::NotFound)?;
        state.point(path, None);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.mounted()?;
        state.begin_operation(|_| "sync directory".to_string())?;
        count_down(&mut state.faults.syncs)?;
        for (_, name) in state
            .names
            .iter_mut()
            .filter(|(path, _)| path.parent() == Some(dir))
        {
            name.before.clear();
        }
        state
            .names
            .retain(|_, name| name.file.is_some() || !name.before.is_empty());
        state.drop_unreachable();
        Ok(())
    }

    /// As on a real disk, the lock is the file's, whatever its name becomes.
    fn lock(&self, path: &Path) -> io::Result<FileLock> {
        if !exists(self, path)? {
            self.create(path)?;
        }
        let mut state = self.mounted()?;
        let file = state.file_at(path).ok_or(io::ErrorKind::NotFound)?;
        match state.locks.insert(file) {
            true => Ok(Box::new(SimLock {
                disk: self.clone(),
                file,
                crashes: state.crashes,
            })),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

struct SimLock {
    disk: SimDisk,
    file: u64,
    crashes: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let Ok(mut state) = self.disk.shared.lock() else {
            return;
        };
        if state.crashes == self.crashes {
            state.locks.remove(&self.file);
        }
    }
}

impl State {
    fn file_at(&self, path: &Path) -> Option<u64> {
        self.names.get(path)?.file
    }

    fn content_of(&mut self, path: &Path) -> Option<&mut Content> {
        let file = self.file_at(path)?;
        self.files.get_mut(&file)
    }

    fn point(&mut self, path: &Path, file: Option<u64>) {
        let name = self.names.entry(path.to_owned()).or_default();
        name.before.push(name.file);
        name.file = file;
    }

    /// Frees the files that no name means, or may mean after a crash, and that nobody has open.
    fn drop_unreachable(&mut self) {
        let meanings = |name: &Name| {
            name.before
                .iter()
                .copied()
                .chain([name.file])
                .flatten()
                .collect::<Vec<u64>>()
        };
        let reachable: BTreeSet<u64> = self.names.values().flat_map(meanings).collect();
        self.files
            .retain(|file, content| content.handles > 0 || reachable.contains(file));
    }

    /// Notes a modifying operation and fails it if it is time.
    fn begin_operation(&mut self, describe: impl FnOnce(&State) -> String) -> io::Result<()> {
        self.operations += 1;
        count_down(&mut self.faults.all)?;
        self.note(describe);
        Ok(())
    }

    fn note(&mut self, describe: impl FnOnce(&State) -> String) {
        if self.trace.is_none() {
            return;
        }
        let line = describe(self);
        self.trace.get_or_insert_default().push(line);
    }

    /// What a file is called now.
    fn name_of(&self, file: u64) -> String {
        let path = self
            .names
            .iter()
            .find(|(_, name)| name.file == Some(file))
            .map(|(path, _)| path);
        path.map_or_else(|| "a file without a name".to_string(), |path| short(path))
    }

    fn check_space(&self, file: u64, len: u64) -> io::Result<()> {
        let others: u64 = self
            .files
            .iter()
            .filter(|(other, _)| **other != file)
            .map(|(_, c)| c.len)
            .sum();
        match self.capacity_bytes {
            Some(capacity) if others + len > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

struct SimFile {
    disk: SimDisk,
    file: u64,
    crashes: u64,
}

impl SimFile {
    /// Runs `action` on the content if the handle is alive.
    fn with<R>(&self, action: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.state();
        if state.crashes != self.crashes {
            return Err(went_down("this file was opened"));
        }
        action(&mut state)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        // A lock that is broken by a panic elsewhere is that panic's business.
        let Ok(mut state) = self.disk.shared.lock() else {
            return;
        };
        if state.crashes != self.crashes {
            return;
        }
        if let Some(content) = state.files.get_mut(&self.file) {
            content.handles -= 1;
        }
        state.drop_unreachable();
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.files[&self.file].len))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state| {
            let content = &state.files[&self.file];
            let count = content.len.saturating_sub(offset).min(buf.len() as u64) as usize;
            let from = (offset as usize).min(content.bytes.len());
            let there = (content.bytes.len() - from).min(count);
            buf[..there].copy_from_slice(&content.bytes[from..from + there]);
            buf[there..count].fill(0);
            Ok(count)
        })
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state| {
            state.begin_operation(|state| {
                format!("write {} {offset}+{}", state.name_of(self.file), buf.len())
            })?;
            let allowed = count_down(&mut state.faults.writes).and_then(|()| {
                state.check_space(
                    self.file,
                    state.files[&self.file].len.max(offset + buf.len() as u64),
                )
            });
            let done = if allowed.is_ok() {
                buf
            } else {
                &buf[..buf.len() / 2]
            };
            let content = state
                .files
                .get_mut(&self.file)
                .expect("an open file stays until the next crash");
            content.write(done, offset as usize);
            allowed
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state
                .begin_operation(|state| format!("allocate {} {len}", state.name_of(self.file)))?;
            state.check_space(self.file, len)?;
            let content = state
                .files
                .get_mut(&self.file)
                .expect("an open file stays until the next crash");
            if content.len < len {
                content.set_len(len);
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.begin_operation(|state| {
                format!("set length {} {len}", state.name_of(self.file))
            })?;
            state.check_space(self.file, len)?;
            state
                .files
                .get_mut(&self.file)
                .expect("an open file stays until the next crash")
                .set_len(len);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.begin_operation(|state| format!("sync {}", state.name_of(self.file)))?;
            let outcome = count_down(&mut state.faults.syncs);
            let content = state
                .files
                .get_mut(&self.file)
                .expect("an open file stays until the next crash");
            match outcome {
                Ok(()) => content.sync(),
                Err(_) => content.fail_sync(),
            }
            outcome
        })
    }
}

fn went_down(since: &str) -> io::Error {
    io::Error::other(format!("the machine went down since {since}"))
}

fn count_down(left: &mut Option<u64>) -> io::Result<()> {
    match left {
        Some(0) => Err(io::Error::other("simulated failure")),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

fn short(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
