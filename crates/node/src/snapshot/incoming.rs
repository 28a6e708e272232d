//! A snapshot being received: a file whose chunks are proven against what the sender says they must be.

use super::manifest::Manifest;
use super::spool::{Spool, at_path, read_chunk};
use super::{HALF_KEPT_FOR, SYNC_BYTES};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

/// The file of a snapshot that is not complete.
const FILE_NAME: &str = "incoming";

/// The place for the one snapshot that a node receives at a time.
pub(crate) struct Inbox {
    path: PathBuf,
    turn: Arc<Mutex<()>>,
    /// Counts those who came; the newest takes over.
    newest: watch::Sender<u64>,
}

impl Inbox {
    pub fn new(dir: &Path) -> Inbox {
        Inbox {
            path: dir.join(FILE_NAME),
            turn: Arc::default(),
            newest: watch::Sender::new(0),
        }
    }

    /// Takes over from whoever receives. The returned future is ready when somebody else takes over in turn.
    pub fn take_over(&self) -> impl Future<Output = ()> + use<> {
        let mut mine = 0;
        self.newest.send_modify(|number| {
            *number += 1;
            mine = *number;
        });
        let mut newest = self.newest.subscribe();
        async move {
            // The sender lives as long as the node.
            let _ = newest.wait_for(|number| *number > mine).await;
        }
    }

    /// Opens the file for the snapshot of `manifest`, and finds out which chunks an earlier try left in it.
    pub async fn open(&self, manifest: Manifest) -> io::Result<Incoming> {
        let turn = self.turn.clone().lock_owned().await;
        let path = self.path.clone();
        interruptible(move |interrupt| Incoming::open(turn, path, manifest, interrupt)).await
    }

    /// Removes what was received and never completed, once it is old.
    pub fn tidy(&self) {
        let Ok(_turn) = self.turn.try_lock() else {
            return;
        };
        let age = std::fs::metadata(&self.path)
            .and_then(|file| file.modified())
            .map(|changed| changed.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age > HALF_KEPT_FOR) {
            remove(&self.path);
        }
    }
}

/// The file, and which of its chunks are proven.
///
/// It owns the inbox: nobody else writes to the file while it lives, also when its owner was dropped in the middle of a write.
pub(crate) struct Incoming {
    pub manifest: Manifest,
    file: File,
    path: PathBuf,
    proven: Vec<bool>,
    proven_bytes: u64,
    unsynced_bytes: u64,
    _turn: OwnedMutexGuard<()>,
}

impl Incoming {
    fn open(
        turn: OwnedMutexGuard<()>,
        path: PathBuf,
        manifest: Manifest,
        interrupt: Interrupt,
    ) -> io::Result<Incoming> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| at_path(&path, error))?;
        cut(&file, manifest.total_bytes()).map_err(|error| at_path(&path, error))?;
        let mut incoming = Incoming {
            proven: vec![false; manifest.chunks().len()],
            manifest,
            file,
            path,
            proven_bytes: 0,
            unsynced_bytes: 0,
            _turn: turn,
        };
        for number in 0..incoming.manifest.chunks().len() {
            interrupt.check()?;
            if incoming.read(number)?.is_some() {
                incoming.prove(number);
            }
        }
        Ok(incoming)
    }

    /// Takes a chunk; false when it is not what it must be. Blocks.
    pub fn write(&mut self, number: usize, bytes: &Bytes) -> io::Result<bool> {
        let chunk = self.manifest.chunks()[number];
        if !chunk.is(bytes) {
            return Ok(false);
        }
        self.file
            .write_all_at(bytes, chunk.offset)
            .map_err(|error| at_path(&self.path, error))?;
        self.unsynced_bytes += u64::from(chunk.bytes);
        if self.unsynced_bytes >= SYNC_BYTES {
            self.file
                .sync_data()
                .map_err(|error| at_path(&self.path, error))?;
            self.unsynced_bytes = 0;
        }
        self.prove(number);
        Ok(true)
    }

    /// A chunk, if the file still has it. Blocks.
    pub fn read(&self, number: usize) -> io::Result<Option<Bytes>> {
        let room = self.manifest.room(number);
        read_chunk(&self.file, &self.manifest, number, room)
            .map_err(|error| at_path(&self.path, error))
    }

    fn prove(&mut self, number: usize) {
        if !std::mem::replace(&mut self.proven[number], true) {
            self.proven_bytes += u64::from(self.manifest.chunks()[number].bytes);
        }
    }

    /// Bytes of the chunks that are here.
    pub fn proven_bytes(&self) -> u64 {
        self.proven_bytes
    }

    /// Up to `max` ranges of chunks that are not here, in order.
    pub fn lacking(&self, max: usize) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for number in (0..self.proven.len()).filter(|number| !self.proven[*number]) {
            let full = ranges.len() == max;
            match ranges.last_mut() {
                Some(last) if last.end == number => last.end += 1,
                _ if full => break,
                _ => ranges.push(number..number + 1),
            }
        }
        ranges
    }

    /// Throws the file away: its content is what the sender has, and of no use.
    pub fn discard(self) {
        remove(&self.path);
    }

    /// Keeps the complete file under another name, to be sent on.
    pub fn into_spool(self, path: PathBuf) -> io::Result<Spool> {
        std::fs::rename(&self.path, &path).map_err(|error| at_path(&self.path, error))?;
        Ok(Spool::of_received(self.manifest, self.file, path))
    }
}

/// Cuts off what a longer snapshot left.
fn cut(file: &File, length_bytes: u64) -> io::Result<()> {
    match file.metadata()?.len() > length_bytes {
        true => file.set_len(length_bytes),
        false => Ok(()),
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!("remove snapshot file {}: {error}", path.display());
    }
}

/// Runs what blocks where that is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// Tells work that blocks that nobody waits for it any more.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::Error::other("nobody waits for this any more")),
            false => Ok(()),
        }
    }
}

/// Like [`blocking`]; the work is interrupted when the caller is dropped.
pub(super) async fn interruptible<T: Send + 'static>(
    work: impl FnOnce(Interrupt) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    struct Caller(Arc<AtomicBool>);
    impl Drop for Caller {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let caller = Caller(Arc::default());
    let interrupt = Interrupt(caller.0.clone());
    blocking(move || work(interrupt)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Applied;

    fn manifest(chunks: &[&str]) -> Manifest {
        let mut manifest = Manifest::new(Applied::default());
        for chunk in chunks {
            manifest.push(chunk.as_bytes()).unwrap();
        }
        manifest
    }

    fn lacking(incoming: &Incoming, max: usize) -> String {
        format!("{:?}", incoming.lacking(max))
    }

    #[tokio::test]
    async fn what_the_file_holds_is_found_again_whoever_sent_it() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(dir.path());
        let one = manifest(&["begin1", "aaaa", "bbbb", "cccc"]);
        let mut incoming = inbox.open(one.clone()).await.unwrap();
        assert_eq!(lacking(&incoming, 9), "[0..4]");
        for (number, bytes) in [(0, "begin1"), (1, "aaaa"), (3, "cccc")] {
            assert!(incoming.write(number, &Bytes::from(bytes)).unwrap());
        }
        assert!(
            !incoming.write(2, &Bytes::from("bbbB")).unwrap(),
            "damage is refused"
        );
        assert_eq!(lacking(&incoming, 9), "[2..3]");
        drop(incoming);
        let incoming = inbox.open(one).await.unwrap();
        assert_eq!(lacking(&incoming, 9), "[2..3]");
        assert_eq!(incoming.proven_bytes(), 14);
        drop(incoming);
        // Another snapshot, of which it holds a part.
        let other = manifest(&["begin2", "aaaa", "bbbb", "cccc", "dddd"]);
        let incoming = inbox.open(other).await.unwrap();
        assert_eq!(lacking(&incoming, 9), "[0..1, 2..3, 4..5]");
        assert_eq!(lacking(&incoming, 2), "[0..1, 2..3]");
        drop(incoming);
        // And one of which it holds nothing at the right place.
        let incoming = inbox.open(manifest(&["x", "aaaa"])).await.unwrap();
        assert_eq!(lacking(&incoming, 9), "[0..2]");
        let length = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().len();
        assert_eq!(length, 5, "what a longer one left is gone");
    }

    #[tokio::test]
    async fn the_newest_takes_over_and_waits_until_the_file_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(dir.path());
        let mut first = Box::pin(inbox.take_over());
        let held = inbox.open(manifest(&["a"])).await.unwrap();
        let pause = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(pause, &mut first).await.is_err());
        let mut second = Box::pin(inbox.take_over());
        first.await;
        assert!(tokio::time::timeout(pause, &mut second).await.is_err());
        let mut waiting = std::pin::pin!(inbox.open(manifest(&["b"])));
        assert!(
            tokio::time::timeout(pause, &mut waiting).await.is_err(),
            "the first still writes"
        );
        drop(held);
        waiting.await.unwrap();
    }
}
