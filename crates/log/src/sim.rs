//! A disk in memory that forgets and refuses like a real one.
#![allow(unused_variables, clippy::unimplemented)]

use crate::disk::{Disk, DiskFile};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// An in-memory [`Disk`]. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {}

impl SimDisk {
    /// An empty disk without limits or faults.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// The power fails and comes back: of what was not synced, an arbitrary part chosen by `seed` is lost or torn. Open handles of
    /// before the crash fail from now on; faults that were set are cleared.
    pub fn crash(&self, seed: u64) {
        unimplemented!()
    }

    /// The `n`-th write from now (0 = the next), and each one after it, fails half done.
    pub fn fail_writes_after(&self, n: u64) {
        unimplemented!()
    }

    /// The `n`-th sync from now (0 = the next), and each one after it, fails.
    pub fn fail_syncs_after(&self, n: u64) {
        unimplemented!()
    }

    /// The `n`-th modifying operation of any sort from now, and each one after it, fails without effect.
    pub fn fail_all_after(&self, n: u64) {
        unimplemented!()
    }

    /// Space for all files together; beyond it writes fail as a full disk does. `None` = no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        unimplemented!()
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        unimplemented!()
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        unimplemented!()
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        unimplemented!()
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        unimplemented!()
    }
}
