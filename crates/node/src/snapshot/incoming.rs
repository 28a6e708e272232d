//! A snapshot being received: a file whose chunks are proven against what the sender says they must be.

use super::HALF_KEPT_FOR;
use super::manifest::{Chunk, Manifest};
use super::spool::{Spool, at_path, read_chunk, remove};
use crate::blocking::{Blocking, Interrupt};
use crate::dir::Dir;
use crate::position::Applied;
use bytes::Bytes;
use eaves_log::DiskFile;
use eaves_log::disk::BULK_SYNC_BYTES;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::Instant;

/// The file of a snapshot that is not complete.
const FILE_NAME: &str = "incoming";

/// The place for the one snapshot that a node receives at a time.
pub(crate) struct Inbox {
    dir: Dir,
    blocking: Blocking,
    /// Whoever holds it has the file. In it, when the file was last in use; files of an earlier run count from the start of this one.
    turn: Arc<Mutex<Instant>>,
    /// Counts those who came; the newest takes over.
    newest: watch::Sender<u64>,
}

impl Inbox {
    pub fn new(dir: Dir, blocking: Blocking) -> Inbox {
        Inbox {
            dir,
            blocking,
            turn: Arc::new(Mutex::new(Instant::now())),
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

    /// Opens the file for the snapshot at `at`, with what an earlier try left in it.
    pub async fn open(&self, at: Applied) -> io::Result<Incoming> {
        let turn = self.turn.clone().lock_owned().await;
        let dir = self.dir.clone();
        let open = move || Incoming::open(turn, dir, at);
        self.blocking.run(open).await?
    }

    /// Gives the space of what was received and never completed back, if there is any: whoever makes room on a full disk for a log or a
    /// state needs it more.
    pub fn give_back(&self) -> bool {
        let is_there = self.dir.has(FILE_NAME).unwrap_or(false);
        if is_there {
            tracing::warn!("remove a half received snapshot, for its space");
            remove(&self.dir, FILE_NAME);
        }
        is_there
    }

    /// Removes what was received and never completed, once it is old.
    pub async fn tidy(&self) {
        let Ok(used) = self.turn.clone().try_lock_owned() else {
            return;
        };
        if used.elapsed() > HALF_KEPT_FOR {
            let dir = self.dir.clone();
            let removing = move || {
                remove(&dir, FILE_NAME);
                drop(used);
            };
            if let Err(error) = self.blocking.run(removing).await {
                tracing::warn!("remove an old snapshot file: {error}");
            }
        }
    }
}

/// The file, and which of its chunks are proven.
///
/// It owns the inbox: nobody else writes to the file while it lives, also when its owner was dropped in the middle of a write.
pub(crate) struct Incoming {
    /// The chunks that the sender has told of.
    pub manifest: Manifest,
    file: ChunkFile,
    proven: Vec<bool>,
    proven_bytes: u64,
    /// Chunks that [`Incoming::next_in_order`] has returned: the first so many, all proven.
    in_order: usize,
    unsynced_bytes: u64,
    turn: OwnedMutexGuard<Instant>,
}

/// The file alone, for whoever reads chunks that are proven.
#[derive(Clone)]
pub(crate) struct ChunkFile {
    file: Arc<dyn DiskFile>,
    dir: Dir,
}

impl ChunkFile {
    /// A chunk, if the file has it. Blocks.
    pub fn read(&self, chunk: Chunk, room: Vec<u8>) -> io::Result<Option<Bytes>> {
        read_chunk(&*self.file, chunk, room).map_err(at_file(&self.dir))
    }

    /// After an error of the file, or of the state that is made from it, the file goes if its content is what the sender has and of no
    /// use, and if the disk is full: the log may be on that disk, and what is here will be sent again. Blocks.
    pub fn give_up(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::InvalidData || is_full(error.kind()) {
            remove(&self.dir, FILE_NAME);
        }
        error
    }
}

impl Incoming {
    pub(super) fn open(
        turn: OwnedMutexGuard<Instant>,
        dir: Dir,
        at: Applied,
    ) -> io::Result<Incoming> {
        let file = dir.open_or_create(FILE_NAME);
        let file = file.map_err(at_file(&dir))?;
        Ok(Incoming {
            manifest: Manifest::new(at),
            file: ChunkFile { file, dir },
            proven: Vec::new(),
            proven_bytes: 0,
            in_order: 0,
            unsynced_bytes: 0,
            turn,
        })
    }

    /// The file, to be read meanwhile.
    pub fn file(&self) -> ChunkFile {
        self.file.clone()
    }

    /// Learns of further chunks, and finds out which of them an earlier try left in the file. Blocks.
    pub fn learn(&mut self, sums: Bytes, interrupt: &Interrupt) -> io::Result<()> {
        self.manifest.add_sums(sums)?;
        let known = self.proven.len();
        self.proven.resize(self.manifest.chunks().len(), false);
        for number in known..self.proven.len() {
            interrupt.check()?;
            let chunk = self.manifest.chunks()[number];
            if self.file.read(chunk, chunk.room())?.is_some() {
                self.prove(number);
            }
        }
        Ok(())
    }

    /// No chunk follows those that are known: cuts off what a longer snapshot left. Blocks.
    pub fn end(&self) -> io::Result<()> {
        let total_bytes = self.manifest.total_bytes();
        cut(&*self.file.file, total_bytes).map_err(at_file(&self.file.dir))
    }

    /// Takes a chunk; false when it is not what it must be. Blocks.
    pub fn write(&mut self, number: usize, bytes: &Bytes) -> io::Result<bool> {
        let chunk = self.manifest.chunks()[number];
        if !chunk.is(bytes) {
            return Ok(false);
        }
        let ChunkFile { file, dir } = &self.file;
        file.write_all_at(bytes, chunk.offset)
            .map_err(at_file(dir))?;
        self.unsynced_bytes += u64::from(chunk.bytes);
        if self.unsynced_bytes >= BULK_SYNC_BYTES {
            file.sync_data().map_err(at_file(dir))?;
            self.unsynced_bytes = 0;
        }
        self.prove(number);
        Ok(true)
    }

    /// The chunk that follows those this has returned before, once it is proven.
    pub fn next_in_order(&mut self) -> Option<Chunk> {
        let is_here = *self.proven.get(self.in_order)?;
        is_here.then(|| {
            self.in_order += 1;
            self.manifest.chunks()[self.in_order - 1]
        })
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

    /// Up to `max` ranges of known chunks that are not here, in order.
    pub fn lacking(&self, max: usize) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let unproven = (self.in_order..self.proven.len()).filter(|number| !self.proven[*number]);
        for number in unproven {
            let full = ranges.len() == max;
            match ranges.last_mut() {
                Some(last) if last.end == number => last.end += 1,
                _ if full => break,
                _ => ranges.push(number..number + 1),
            }
        }
        ranges
    }

    /// Ends with an error of the file, see [`ChunkFile::give_up`].
    pub fn give_up(self, error: io::Error) -> io::Error {
        self.file.give_up(error)
    }

    /// Keeps the complete file under another name, to be sent on.
    pub fn into_spool(self, name: String, blocking: Blocking) -> io::Result<Spool> {
        let ChunkFile { file, dir } = &self.file;
        dir.rename(FILE_NAME, &name).map_err(at_file(dir))?;
        let (manifest, file, dir) = (self.manifest.clone(), file.clone(), dir.clone());
        Ok(Spool::of_received(manifest, file, (dir, name), blocking))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        *self.turn = Instant::now();
    }
}

fn at_file(dir: &Dir) -> impl Fn(io::Error) -> io::Error {
    |error| at_path(&dir.path().join(FILE_NAME), error)
}

/// Whether an error says that there is no more space.
pub(crate) fn is_full(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Cuts off what a longer snapshot left.
fn cut(file: &dyn DiskFile, length_bytes: u64) -> io::Result<()> {
    match file.len()? > length_bytes {
        true => file.set_len(length_bytes),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::to_sums;
    use super::*;
    use eaves_log::sim::SimDisk;
    use std::time::Duration;

    fn manifest(chunks: &[&str]) -> Manifest {
        let mut manifest = Manifest::new(Applied::default());
        for chunk in chunks {
            manifest.push(manifest.following(chunk.as_bytes()).unwrap());
        }
        manifest
    }

    /// Opens the inbox for a snapshot of these chunks, all of which the sender has told of.
    async fn opened(inbox: &Inbox, chunks: &[&str]) -> Incoming {
        let sums = to_sums(manifest(chunks).chunks());
        let mut incoming = inbox.open(Applied::default()).await.unwrap();
        incoming.learn(sums, &Interrupt::default()).unwrap();
        incoming.end().unwrap();
        incoming
    }

    fn inbox() -> Inbox {
        let dir = Dir::new(Arc::new(SimDisk::new()), "/data");
        Inbox::new(dir, Blocking::Inline(Duration::ZERO))
    }

    fn lacking(incoming: &Incoming, max: usize) -> String {
        format!("{:?}", incoming.lacking(max))
    }

    #[tokio::test]
    async fn what_the_file_holds_is_found_again_whoever_sent_it() {
        let inbox = inbox();
        let one = ["begin1", "aaaa", "bbbb", "cccc"];
        let mut incoming = opened(&inbox, &one).await;
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
        let incoming = opened(&inbox, &one).await;
        assert_eq!(lacking(&incoming, 9), "[2..3]");
        assert_eq!(incoming.proven_bytes(), 14);
        drop(incoming);
        // Another snapshot, of which it holds a part.
        let other = ["begin2", "aaaa", "bbbb", "cccc", "dddd"];
        let incoming = opened(&inbox, &other).await;
        assert_eq!(lacking(&incoming, 9), "[0..1, 2..3, 4..5]");
        assert_eq!(lacking(&incoming, 2), "[0..1, 2..3]");
        drop(incoming);
        // And one of which it holds nothing at the right place.
        let incoming = opened(&inbox, &["x", "aaaa"]).await;
        assert_eq!(lacking(&incoming, 9), "[0..2]");
        let length = inbox.dir.read(FILE_NAME).unwrap().unwrap().len();
        assert_eq!(length, 5, "what a longer one left is gone");
    }

    /// The state is made from them meanwhile.
    #[tokio::test]
    async fn chunks_are_handed_on_in_order_as_soon_as_all_before_are_here() {
        let inbox = inbox();
        let contents = ["aa", "bb", "cc", "dd"];
        let whole = manifest(&contents);
        let (first, rest) = whole.chunks().split_at(3);
        let mut incoming = inbox.open(Applied::default()).await.unwrap();
        assert_eq!(incoming.next_in_order(), None, "no chunk is known");
        let told = Interrupt::default();
        incoming.learn(to_sums(first), &told).unwrap();
        let mut handed_on = Vec::new();
        for number in [1, 2, 0, 3] {
            if number == 3 {
                incoming.learn(to_sums(rest), &told).unwrap();
            }
            let bytes = Bytes::from(contents[number]);
            assert!(incoming.write(number, &bytes).unwrap());
            handed_on.push(0);
            while let Some(chunk) = incoming.next_in_order() {
                let bytes = incoming.file().read(chunk, chunk.room()).unwrap();
                let expected = contents[handed_on.iter().sum::<usize>()];
                assert_eq!(bytes.unwrap(), expected);
                *handed_on.last_mut().unwrap() += 1;
            }
        }
        assert_eq!(handed_on, [0, 0, 3, 1]);
        assert_eq!(lacking(&incoming, 9), "[]");
    }

    #[tokio::test]
    async fn a_full_disk_gets_its_space_back() {
        let disk = SimDisk::new();
        let inbox = Inbox::new(Dir::new(Arc::new(disk.clone()), "/data"), Blocking::Threads);
        let mut incoming = opened(&inbox, &["aaaa", "bbbb"]).await;
        assert!(incoming.write(0, &Bytes::from("aaaa")).unwrap());
        disk.set_capacity(Some(6));
        let error = incoming.write(1, &Bytes::from("bbbb")).unwrap_err();
        let error = incoming.give_up(error);
        assert!(is_full(error.kind()), "{error}");
        assert_eq!(disk.used_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_takes_over_and_waits_until_the_file_is_free() {
        let inbox = inbox();
        let mut first = Box::pin(inbox.take_over());
        let held = inbox.open(Applied::default()).await.unwrap();
        let pause = Duration::from_millis(50);
        assert!(tokio::time::timeout(pause, &mut first).await.is_err());
        let mut second = Box::pin(inbox.take_over());
        first.await;
        assert!(tokio::time::timeout(pause, &mut second).await.is_err());
        let mut waiting = std::pin::pin!(inbox.open(Applied::default()));
        assert!(
            tokio::time::timeout(pause, &mut waiting).await.is_err(),
            "the first still writes"
        );
        drop(held);
        waiting.await.unwrap();
    }
}
