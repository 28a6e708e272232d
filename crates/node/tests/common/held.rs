//! A disk that is slow beyond all bounds.

use eaves_log::{Disk, DiskFile, FileLock, RealDisk};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

/// The machine's disk, on which nothing becomes durable while it is held.
#[derive(Clone, Default)]
pub struct HeldDisk(Arc<(Mutex<bool>, Condvar)>);

impl HeldDisk {
    pub fn hold(&self, is_held: bool) {
        *self.0.0.lock().unwrap() = is_held;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let is_held = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(is_held, |is_held| *is_held).unwrap());
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(HeldFile(file, self.clone()))
    }
}

impl Disk for HeldDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(RealDisk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(RealDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<FileLock> {
        RealDisk.lock(path)
    }
}

struct HeldFile(Arc<dyn DiskFile>, HeldDisk);

impl DiskFile for HeldFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.wait();
        self.0.sync_data()
    }
}
