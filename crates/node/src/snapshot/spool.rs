//! A whole snapshot as a file of chunks, to be sent to any number of receivers.

use super::manifest::Manifest;
use super::{CHUNK_BYTES, SYNC_BYTES};
use crate::position::Applied;
use crate::state_machine::SnapshotSource;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A snapshot that can be read at any place by many at once. Dropping the last handle removes the file.
pub(crate) struct Spool {
    pub manifest: Manifest,
    file: File,
    _path: Removed,
}

impl Spool {
    /// Reads a state machine's snapshot into the file `path`, until `stop` says so. Blocks.
    pub fn write(
        mut source: Box<dyn SnapshotSource>,
        at: Applied,
        path: PathBuf,
        stop: impl Fn() -> bool,
    ) -> io::Result<Spool> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|error| at_path(&path, error))?;
        let path = Removed(path);
        let mut manifest = Manifest::new(at);
        let mut unsynced_bytes = 0;
        loop {
            let begin = Instant::now();
            let Some(bytes) = source.next_chunk(CHUNK_BYTES)? else {
                break;
            };
            if stop() {
                return Err(io::Error::other("the node is stopping"));
            }
            let chunk = manifest.push(&bytes)?;
            file.write_all_at(&bytes, chunk.offset)
                .map_err(|error| at_path(&path.0, error))?;
            unsynced_bytes += u64::from(chunk.bytes);
            if unsynced_bytes >= SYNC_BYTES {
                file.sync_data().map_err(|error| at_path(&path.0, error))?;
                unsynced_bytes = 0;
            }
            rest_after(begin);
        }
        Ok(Spool {
            manifest,
            file,
            _path: path,
        })
    }

    /// Makes one of a received file, all of whose chunks have been proven.
    pub fn of_received(manifest: Manifest, file: File, path: PathBuf) -> Spool {
        Spool {
            manifest,
            file,
            _path: Removed(path),
        }
    }

    /// Room for a chunk. Made by whoever sends it, not by the thread that reads it: memory that many threads of a pool allocate and
    /// one frees is kept by each of them, and was seen to add up to 100 MiB.
    pub fn room(&self, number: usize) -> Vec<u8> {
        self.manifest.room(number)
    }

    /// The content of a chunk, in the room that was made for it; an error if it is no longer what was written. Blocks.
    pub fn read(&self, number: usize, room: Vec<u8>) -> io::Result<Bytes> {
        read_chunk(&self.file, &self.manifest, number, room)?.ok_or_else(|| {
            let text = format!(
                "read {}: chunk {number} is not what was written",
                self._path.0.display()
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }
}

/// A chunk from a file, if it is there and is what it must be. Blocks.
pub(super) fn read_chunk(
    file: &File,
    manifest: &Manifest,
    number: usize,
    mut room: Vec<u8>,
) -> io::Result<Option<Bytes>> {
    let chunk = manifest.chunks()[number];
    match file.read_exact_at(&mut room, chunk.offset) {
        Ok(()) => Ok(Some(room.into()).filter(|bytes: &Bytes| chunk.is(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pauses for as long as work of this thread took: processor and disk belong to those who write and read, too. A state of a gigabyte,
/// read or installed as fast as can be, was seen to hold up every write on a small machine for seconds.
pub(super) fn rest_after(begin: Instant) {
    std::thread::sleep(begin.elapsed());
}

/// Says which file an error is about.
pub(super) fn at_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("use snapshot file {}: {error}", path.display()),
    )
}

/// A file that goes with its owner. What a crash leaves is removed at the next start.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!("remove snapshot file {}: {error}", self.0.display());
        }
    }
}
