//! A disk as slow as one likes, for tests of what a node does when its disk does not keep up. Nothing but a hidden flag uses it.
//!
//! Only making durable is slow: what is written is in the kernel's memory at once, as on a real disk, and a sync takes as long as the disk
//! takes for all that was written to the file since the last one. Those who sync at the same time share the rate fairly, a piece in turn.

use eaves_log::{Disk, DiskFile, FileLock, RealDisk};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What of one file goes to the disk before another has its turn.
const TURN_BYTES: u64 = 64 << 10;

/// The machine's disk, on which only so many bytes a second are written.
pub struct SlowDisk {
    pace: Arc<Pace>,
}

struct Pace {
    bytes_per_second: u64,
    /// When all that was written before will be done.
    free_at: Mutex<Instant>,
}

struct SlowFile {
    file: Arc<dyn DiskFile>,
    pace: Arc<Pace>,
    /// Written and not synced.
    unsynced_bytes: AtomicU64,
}

impl SlowDisk {
    /// A disk that writes `bytes_per_second`, which must not be 0.
    pub fn new(bytes_per_second: u64) -> SlowDisk {
        SlowDisk {
            pace: Arc::new(Pace {
                bytes_per_second,
                free_at: Mutex::new(Instant::now()),
            }),
        }
    }

    fn slow(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let pace = self.pace.clone();
        Arc::new(SlowFile {
            file,
            pace,
            unsynced_bytes: AtomicU64::new(0),
        })
    }
}

impl Pace {
    fn sync(&self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let turn = left.min(TURN_BYTES);
            let takes = Duration::from_secs_f64(turn as f64 / self.bytes_per_second as f64);
            let done_at = {
                let mut free_at = self.free_at.lock().expect("nobody panics here");
                *free_at = (*free_at).max(Instant::now()) + takes;
                *free_at
            };
            std::thread::sleep(done_at.saturating_duration_since(Instant::now()));
            left -= turn;
        }
    }
}

impl Disk for SlowDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.slow(RealDisk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.slow(RealDisk.open(path)?))
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

impl DiskFile for SlowFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.unsynced_bytes
            .fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(buf, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.pace
            .sync(self.unsynced_bytes.swap(0, Ordering::Relaxed));
        self.file.sync_data()
    }
}
