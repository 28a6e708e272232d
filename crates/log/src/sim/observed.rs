//! A disk whose operations are told to somebody before they happen, who may refuse them or end the process: so that a test can stop a
//! node before each one in turn.

use super::short;
use crate::disk::{Disk, DiskFile, FileLock, exists};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Told of every modifying operation, in words such as `sync 00000000000000000007-0000000003.seg`, before it happens. After an error it
/// does not.
pub type Observer = Arc<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// Another disk, observed.
#[derive(Clone)]
pub struct ObservedDisk {
    disk: Arc<dyn Disk>,
    observer: Observer,
}

impl ObservedDisk {
    /// Observes `disk`.
    pub fn new(disk: Arc<dyn Disk>, observer: Observer) -> ObservedDisk {
        ObservedDisk { disk, observer }
    }

    fn tell(&self, operation: &str, path: &Path) -> io::Result<()> {
        (self.observer)(&format!("{operation} {}", short(path)))
    }

    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(ObservedFile {
            file,
            name: short(path),
            observer: self.observer.clone(),
        })
    }
}

impl Disk for ObservedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.tell("create directory", dir)?;
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.tell("create", path)?;
        Ok(self.file(path, self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.tell("rename to", to)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.tell("remove", path)?;
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.tell("sync directory", dir)?;
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<FileLock> {
        if !exists(&*self.disk, path)? {
            self.tell("create", path)?;
        }
        self.disk.lock(path)
    }
}

struct ObservedFile {
    file: Arc<dyn DiskFile>,
    /// What it was called when it was opened.
    name: String,
    observer: Observer,
}

impl ObservedFile {
    fn tell(&self, operation: &str) -> io::Result<()> {
        (self.observer)(&format!("{operation} {}", self.name))
    }
}

impl DiskFile for ObservedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.tell("write")?;
        self.file.write_all_at(buf, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.tell("allocate")?;
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.tell("set length")?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.tell("sync")?;
        self.file.sync_data()
    }
}
