//! A snapshot as a file of chunks, to be sent to any number of receivers, from the moment in which its first chunk is there.

use super::CHUNK_BYTES;
use super::manifest::{Chunk, Manifest};
use crate::blocking::Blocking;
use crate::bulk::Spell;
use crate::dir::Dir;
use crate::position::Applied;
use crate::state_machine::SnapshotSource;
use bytes::Bytes;
use eaves_log::DiskFile;
use eaves_log::disk::BULK_SYNC_BYTES;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// A snapshot that can be read at any place by many at once, as far as it is made. Dropping the last handle removes the file.
pub(crate) struct Spool {
    pub at: Applied,
    /// About how many bytes it will have; 0 when unknown.
    pub expected_bytes: u64,
    content: watch::Sender<Content>,
    file: Owned,
}

/// Invariant: each chunk of the manifest is in the file.
struct Content {
    manifest: Manifest,
    making: Making,
}

#[derive(PartialEq, Eq)]
enum Making {
    UnderWay,
    Whole,
    Failed(String),
}

impl Spool {
    /// Makes the file `name` for the snapshot at `at`. Blocks.
    pub fn create(
        at: Applied,
        expected_bytes: u64,
        (dir, name): (Dir, String),
        blocking: Blocking,
    ) -> io::Result<Spool> {
        let path = dir.path().join(&name);
        let file = dir.create(&name).map_err(|error| at_path(&path, error))?;
        Ok(Spool {
            at: at.clone(),
            expected_bytes,
            content: watch::Sender::new(Content {
                manifest: Manifest::new(at),
                making: Making::UnderWay,
            }),
            file: Owned::new(file, dir, name, blocking),
        })
    }

    /// Makes one of a received file, all of whose chunks have been proven.
    pub fn of_received(
        manifest: Manifest,
        file: Arc<dyn DiskFile>,
        (dir, name): (Dir, String),
        blocking: Blocking,
    ) -> Spool {
        Spool {
            at: manifest.at.clone(),
            expected_bytes: manifest.total_bytes(),
            content: watch::Sender::new(Content {
                manifest,
                making: Making::Whole,
            }),
            file: Owned::new(file, dir, name, blocking),
        }
    }

    /// Reads a state machine's snapshot into the file, until `stop` says so. Blocks. The caller has to say how it [ended](Spool::end).
    pub fn fill(
        &self,
        mut source: Box<dyn SnapshotSource>,
        stop: impl Fn() -> bool,
    ) -> io::Result<()> {
        let Removed { file, .. } = self.file.get();
        let mut unsynced_bytes = 0;
        loop {
            let spell = Spell::begin(self.file.blocking);
            let Some(bytes) = source.next_chunk(CHUNK_BYTES)? else {
                return Ok(());
            };
            if stop() {
                return Err(io::Error::other("it was given up"));
            }
            let chunk = self.content.borrow().manifest.following(&bytes)?;
            file.write_all_at(&bytes, chunk.offset)
                .map_err(|error| at_path(&self.path(), error))?;
            self.content
                .send_modify(|content| content.manifest.push(chunk));
            unsynced_bytes += u64::from(chunk.bytes);
            if unsynced_bytes >= BULK_SYNC_BYTES {
                let synced = file.sync_data();
                synced.map_err(|error| at_path(&self.path(), error))?;
                unsynced_bytes = 0;
            }
            spell.rest();
        }
    }

    /// Tells all who send it that no chunk follows: it is whole, or why it will never be.
    pub fn end(&self, filled: &io::Result<()>) {
        let making = match filled {
            Ok(()) => Making::Whole,
            Err(error) => Making::Failed(error.to_string()),
        };
        self.content.send_modify(|content| content.making = making);
    }

    /// Whether it will never be whole.
    pub fn has_failed(&self) -> bool {
        matches!(self.content.borrow().making, Making::Failed(_))
    }

    /// Up to `max` chunks from `first` on, as soon as there are any, and whether no others follow.
    pub async fn chunks_from(&self, first: usize, max: usize) -> io::Result<(Vec<Chunk>, bool)> {
        let mut content = self.content.subscribe();
        let is_news = |content: &Content| {
            content.manifest.chunks().len() > first || content.making != Making::UnderWay
        };
        let content = content
            .wait_for(is_news)
            .await
            .expect("the sender lives as long as this");
        if let Making::Failed(why) = &content.making {
            return Err(io::Error::other(format!("make a snapshot: {why}")));
        }
        let chunks = &content.manifest.chunks()[first..];
        let told = chunks.len().min(max);
        let is_all = content.making == Making::Whole && told == chunks.len();
        Ok((chunks[..told].to_vec(), is_all))
    }

    /// What a chunk is that [`Spool::chunks_from`] has told.
    pub fn chunk(&self, number: usize) -> Chunk {
        self.content.borrow().manifest.chunks()[number]
    }

    /// The content of a chunk, in the room that was made for it; an error if it is no longer what was written. Blocks.
    pub fn read(&self, chunk: Chunk, room: Vec<u8>) -> io::Result<Bytes> {
        read_chunk(&*self.file.get().file, chunk, room)?.ok_or_else(|| {
            let text = format!(
                "read {}: the chunk at {} is not what was written",
                self.path().display(),
                chunk.offset
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    fn path(&self) -> PathBuf {
        let Removed { dir, name, .. } = self.file.get();
        dir.path().join(name)
    }
}

/// A chunk from a file, if it is there and is what it must be. Blocks.
pub(super) fn read_chunk(
    file: &dyn DiskFile,
    chunk: Chunk,
    mut room: Vec<u8>,
) -> io::Result<Option<Bytes>> {
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

/// A file that goes with its owner, which may be the event loop: to remove and close a gigabyte takes time, so it is done where blocking
/// work runs. What a crash leaves is removed at the next start.
struct Owned {
    /// `None` only while it is dropped.
    file: Option<Removed>,
    blocking: Blocking,
}

impl Owned {
    fn new(file: Arc<dyn DiskFile>, dir: Dir, name: String, blocking: Blocking) -> Owned {
        Owned {
            file: Some(Removed { file, dir, name }),
            blocking,
        }
    }

    fn get(&self) -> &Removed {
        self.file.as_ref().expect("it is not dropped")
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.blocking.dispose(file);
        }
    }
}

/// A file that is removed when this is dropped. Blocks.
struct Removed {
    file: Arc<dyn DiskFile>,
    dir: Dir,
    name: String,
}

impl Drop for Removed {
    fn drop(&mut self) {
        remove(&self.dir, &self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::Position;
    use eaves_log::sim::SimDisk;
    use std::collections::VecDeque;
    use std::sync::mpsc;
    use std::time::Duration;

    const MAX: usize = 100;

    /// Chunks of a state, each as soon as the test gives it.
    struct Source(mpsc::Receiver<io::Result<Bytes>>);

    impl SnapshotSource for Source {
        fn position(&self) -> Position {
            Position::default()
        }

        fn next_chunk(&mut self, _max_bytes: usize) -> io::Result<Option<Bytes>> {
            self.0.recv().ok().transpose()
        }
    }

    fn spool() -> (Dir, Arc<Spool>) {
        let dir = Dir::new(Arc::new(SimDisk::new()), "/data");
        let name = (dir.clone(), "outgoing.0".into());
        let spool = Spool::create(
            Applied::default(),
            0,
            name,
            Blocking::Inline(Duration::ZERO),
        );
        (dir, Arc::new(spool.unwrap()))
    }

    async fn told(spool: &Spool, first: usize) -> (Vec<Bytes>, bool) {
        let (chunks, is_all) = spool.chunks_from(first, MAX).await.unwrap();
        let read = |chunk: Chunk| spool.read(chunk, chunk.room()).unwrap();
        (chunks.into_iter().map(read).collect(), is_all)
    }

    #[tokio::test]
    async fn chunks_are_told_as_soon_as_they_are_there_and_the_end_when_it_comes() {
        let (dir, spool) = spool();
        let (give, chunks) = mpsc::channel();
        let filling = tokio::task::spawn_blocking({
            let spool = spool.clone();
            move || {
                let filled = spool.fill(Box::new(Source(chunks)), || false);
                spool.end(&filled);
                filled
            }
        });
        let mut before = VecDeque::new();
        for content in ["one", "two", "three"] {
            let first = before.len();
            give.send(Ok(content.into())).unwrap();
            assert_eq!(told(&spool, first).await, (vec![content.into()], false));
            before.push_back(Bytes::from(content));
        }
        let late = spool.chunks_from(0, 2).await.unwrap();
        assert_eq!((late.0.len(), late.1), (2, false), "no more than wanted");
        let waiting = spool.chunks_from(3, MAX);
        drop(give);
        assert_eq!(waiting.await.unwrap(), (Vec::new(), true));
        assert_eq!(told(&spool, 0).await, (before.into(), true));
        filling.await.unwrap().unwrap();
        drop(spool);
        assert!(dir.list().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_waits_hears_that_it_will_never_be_whole() {
        let (_dir, spool) = spool();
        let (give, chunks) = mpsc::channel();
        give.send(Ok("one".into())).unwrap();
        give.send(Err(io::Error::other("the state is damaged")))
            .unwrap();
        let filled = spool.fill(Box::new(Source(chunks)), || false);
        assert_eq!(told(&spool, 0).await.0.len(), 1, "what is there is there");
        assert!(!spool.has_failed());
        spool.end(&filled);
        let error = spool.chunks_from(1, MAX).await.unwrap_err();
        assert!(
            error.to_string().contains("the state is damaged"),
            "{error}"
        );
        assert!(spool.has_failed());
    }

    #[test]
    fn it_is_given_up_when_told_so() {
        let (_dir, spool) = spool();
        let (give, chunks) = mpsc::channel();
        give.send(Ok("one".into())).unwrap();
        let filled = spool.fill(Box::new(Source(chunks)), || true);
        assert!(filled.unwrap_err().to_string().contains("given up"));
    }
}
