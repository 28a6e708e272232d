//! What the log costs per entry: processor time, and what the disk adds.
//!
//! ```text
//! cargo run --release -p eaves-log --example append_cost [directory]
//! ```
//!
//! Appends entries of 300 bytes in batches of several sizes and flushes each batch, on a disk that does nothing (what is left is the
//! log's own cost) and, if a directory is given, on a real one.

use eaves_log::{Disk, DiskFile, FileLock, Frame, Kind, Log, LogId, Options, RealDisk};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const ENTRIES: u64 = 400_000;
const PAYLOAD_BYTES: usize = 300;

/// Accepts everything, keeps nothing.
struct NullDisk;

impl Disk for NullDisk {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn create(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(NullDisk))
    }
    fn open(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self, _: &Path) -> io::Result<FileLock> {
        Ok(Box::new(()))
    }
}

impl DiskFile for NullDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

fn main() {
    let payload = vec![42; PAYLOAD_BYTES];
    let frames: Vec<Frame> = (0..ENTRIES)
        .map(|index| Frame::encode(LogId::new(1, index), Kind::Normal, &payload))
        .collect();
    for batch in [1, 8, 64, 1024] {
        measure(
            "no disk",
            Arc::new(NullDisk),
            Path::new("nowhere"),
            &frames,
            batch,
        );
    }
    let Some(dir) = std::env::args_os().nth(1) else {
        return;
    };
    let dir = Path::new(&dir).join("append_cost.log");
    for batch in [1, 64, 1024] {
        let some = &frames[..frames.len().min(batch * 4000)];
        measure("real disk", Arc::new(RealDisk), &dir, some, batch);
        let start = Instant::now();
        let (log, recovered) =
            Log::open(Arc::new(RealDisk), &dir, Options::default()).expect("the log opens again");
        println!(
            "           opened again in {:?} at {:?}, {:?}",
            start.elapsed(),
            recovered.last,
            log.stats()
        );
        std::fs::remove_dir_all(&dir).expect("a directory of ours");
    }
}

fn measure(name: &str, disk: Arc<dyn Disk>, dir: &Path, frames: &[Frame], batch: usize) {
    let (log, _) = Log::open(disk, dir, Options::default()).expect("a new log");
    let start = Instant::now();
    for frames in frames.chunks(batch) {
        log.append(frames).expect("entries that follow");
        while let Some(job) = log.next_flush() {
            log.flushed(job.run()).expect("a working disk");
        }
    }
    let per_entry = start.elapsed() / frames.len() as u32;
    let per_flush = start.elapsed() / log.stats().flushes as u32;
    println!("{name}, batches of {batch}: {per_entry:?} per entry, {per_flush:?} per flush");
}
