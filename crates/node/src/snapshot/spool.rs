//! A whole snapshot as a file of chunks, to be sent to any number of receivers.

use super::manifest::Manifest;
use super::{CHUNK_BYTES, SYNC_BYTES};
use crate::blocking::Blocking;
use crate::dir::Dir;
use crate::position::Applied;
use crate::state_machine::SnapshotSource;
use bytes::Bytes;
use eaves_log::DiskFile;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A snapshot that can be read at any place by many at once. Dropping the last handle removes the file.
pub(crate) struct Spool {
    pub manifest: Manifest,
    file: Arc<dyn DiskFile>,
    name: Removed,
}

impl Spool {
    /// Reads a state machine's snapshot into the file `name`, until `stop` says so. Blocks.
    pub fn write(
        mut source: Box<dyn SnapshotSource>,
        at: Applied,
        (dir, name): (Dir, String),
        blocking: Blocking,
        stop: impl Fn() -> bool,
    ) -> io::Result<Spool> {
        let path = dir.path().join(&name);
        let file = dir.create(&name).map_err(|error| at_path(&path, error))?;
        let name = Removed(dir, name);
        let mut manifest = Manifest::new(at);
        let mut unsynced_bytes = 0;
        loop {
            let spell = blocking.begin_spell();
            let Some(bytes) = source.next_chunk(CHUNK_BYTES)? else {
                break;
            };
            if stop() {
                return Err(io::Error::other("the node is stopping"));
            }
            let chunk = manifest.push(&bytes)?;
            file.write_all_at(&bytes, chunk.offset)
                .map_err(|error| at_path(&path, error))?;
            unsynced_bytes += u64::from(chunk.bytes);
            if unsynced_bytes >= SYNC_BYTES {
                file.sync_data().map_err(|error| at_path(&path, error))?;
                unsynced_bytes = 0;
            }
            spell.rest();
        }
        Ok(Spool {
            manifest,
            file,
            name,
        })
    }

    /// Makes one of a received file, all of whose chunks have been proven.
    pub fn of_received(
        manifest: Manifest,
        file: Arc<dyn DiskFile>,
        (dir, name): (Dir, String),
    ) -> Spool {
        Spool {
            manifest,
            file,
            name: Removed(dir, name),
        }
    }

    /// Room for a chunk. Made by whoever sends it, not by the thread that reads it: memory that many threads of a pool allocate and
    /// one frees is kept by each of them, and was seen to add up to 100 MiB.
    pub fn room(&self, number: usize) -> Vec<u8> {
        self.manifest.room(number)
    }

    /// The content of a chunk, in the room that was made for it; an error if it is no longer what was written. Blocks.
    pub fn read(&self, number: usize, room: Vec<u8>) -> io::Result<Bytes> {
        read_chunk(&*self.file, &self.manifest, number, room)?.ok_or_else(|| {
            let text = format!(
                "read {}: chunk {number} is not what was written",
                self.name.0.path().join(&self.name.1).display()
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }
}

/// A chunk from a file, if it is there and is what it must be. Blocks.
pub(super) fn read_chunk(
    file: &dyn DiskFile,
    manifest: &Manifest,
    number: usize,
    mut room: Vec<u8>,
) -> io::Result<Option<Bytes>> {
    let chunk = manifest.chunks()[number];
    match file.read_at(&mut room, chunk.offset)? == room.len() {
        true => Ok(Some(room.into()).filter(|bytes: &Bytes| chunk.is(bytes))),
        false => Ok(None),
    }
}

/// Says which file an error is about.
pub(super) fn at_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("use snapshot file {}: {error}", path.display()),
    )
}

/// Removes a snapshot's file, whose space is all that matters.
pub(super) fn remove(dir: &Dir, name: &str) {
    if let Err(error) = dir.remove(name) {
        let path = dir.path().join(name);
        tracing::warn!("remove snapshot file {}: {error}", path.display());
    }
}

/// A file that goes with its owner. What a crash leaves is removed at the next start.
struct Removed(Dir, String);

impl Drop for Removed {
    fn drop(&mut self) {
        remove(&self.0, &self.1);
    }
}
