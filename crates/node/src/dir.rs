//! A directory on a node's disk, and its small files, which are read and replaced as a whole.
//!
//! Everything that a node keeps beside its log is reached through here or through the same [`Disk`], so that a simulator can put a disk
//! of its own below a whole node.

use bytes::Bytes;
use eaves_log::{Disk, DiskFile, RealDisk, disk};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Dir {
    pub fn new(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> Dir {
        Dir {
            disk,
            path: path.into(),
        }
    }

    /// A directory of the machine, for tools that work on those of other nodes.
    pub fn real(path: &Path) -> Dir {
        Dir::new(Arc::new(RealDisk), path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in it.
    pub fn join(&self, name: &str) -> Dir {
        Dir::new(self.disk.clone(), self.path.join(name))
    }

    /// Makes it and its parents, durably.
    pub fn make(&self) -> io::Result<()> {
        self.disk.create_dir_all(&self.path)
    }

    /// Makes its names durable as they are: an earlier run may have been killed between giving a file its name and making that durable,
    /// and what is built upon it now must not be gone after a power failure. Does nothing if there is no such directory.
    pub fn settle(&self) -> io::Result<()> {
        match self.disk.sync_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            settled => settled,
        }
    }

    /// The names of its files; none if there is no such directory.
    pub fn list(&self) -> io::Result<Vec<String>> {
        match self.disk.list(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> io::Result<bool> {
        disk::exists(&*self.disk, &self.path.join(name))
    }

    /// The contents of a small file; `None` if there is none.
    pub fn read(&self, name: &str) -> io::Result<Option<Bytes>> {
        match disk::read_whole(&*self.disk, &self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a small file so that a crash leaves the old or the new one, and the new one is on disk when this returns.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        disk::write_durably(&*self.disk, &self.path.join(name), bytes)
    }

    /// Removes a file if there is one, durably.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match self.disk.remove(&self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.disk.sync_dir(&self.path),
        }
    }

    /// Creates a file for reading and writing, empty even if one of that name exists.
    pub fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(&self.path.join(name))
    }

    /// Opens a file for reading and writing, which is made if there is none.
    pub fn open_or_create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        match self.disk.open(&self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(name),
            opened => opened,
        }
    }

    /// Gives a file another name, replacing what has that. Not durable: a crash may leave either.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(&self.path.join(from), &self.path.join(to))
    }
}
