//! Copying the durable state to another node, and taking one in.
//!
//! A snapshot is a sequence of chunks, each of one kind, whose integers are little endian:
//!
//! ```text
//! begin    'B' | version u32 | index u64 | revision i64 | compact i64 | scrubbed i64                  first, once
//! records  'R' | { row key 12 bytes | length u32 | row value }*                          in revision order
//! end      'E' | number of records u64                                                   last, once
//! ```
//!
//! Equal states are cut into equal chunks on every node: what two snapshots have in common, up to the first record in which they differ,
//! lies in the same chunks. So a transfer that was begun at one node may go on at another.
//!
//! Rows travel as they are on disk, with the checksum of each (`record.rs`), which the receiver checks. The receiver writes them to a file
//! beside its own, one for each snapshot under way, which takes the place of its own by one rename: a crash before leaves the old state,
//! after it the new.

use super::index::Index;
use super::persist::{Durable, state_of};
use super::record::{RecordHeader, Revision, RowKey};
use super::table::{Notes, Scan, StateFile, StateFileError, View, row_bytes};
use super::{FILE_NAME, INSTALLING_PREFIX, Shared};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use eaves::{Position, SnapshotSink, SnapshotSource};
use eaves_log::Disk;
use eaves_log::disk::BULK_SYNC_BYTES;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The version of the chunks' encoding.
const VERSION: u32 = 1;

const BEGIN: u8 = b'B';
const RECORDS: u8 = b'R';
const END: u8 = b'E';

/// No store comes to a greater revision: there always is a next one.
const MAX_REVISION: i64 = i64::MAX / 2;

/// Bytes of a beginning after its kind.
const BEGIN_BYTES: usize = 36;

/// Bytes before a row's value in a chunk.
const ROW_HEADER_BYTES: usize = size_of::<RowKey>() + 4;

/// A snapshot being read: a view of the durable state, and how far it was read.
pub struct Source {
    view: Arc<View>,
    size_bytes: u64,
    next: Next,
    records: u64,
}

enum Next {
    Begin,
    RecordsFrom(Revision),
    End,
    Nothing,
}

impl Source {
    pub fn new(view: Arc<View>, size_bytes: u64) -> Self {
        Self {
            view,
            size_bytes,
            next: Next::Begin,
            records: 0,
        }
    }

    fn begin(&self) -> Bytes {
        let notes = self.view.notes();
        let mut chunk = BytesMut::new();
        chunk.put_u8(BEGIN);
        chunk.put_u32_le(VERSION);
        chunk.put_u64_le(notes.index);
        chunk.put_i64_le(notes.revision);
        chunk.put_i64_le(notes.compact_revision);
        chunk.put_i64_le(notes.scrubbed_revision);
        chunk.freeze()
    }

    /// Records from `from` on, and where the next chunk begins if there are more.
    fn records(
        &mut self,
        from: Revision,
        max_bytes: usize,
    ) -> Result<(Bytes, Option<Revision>), StateFileError> {
        let mut chunk = BytesMut::with_capacity(max_bytes);
        chunk.put_u8(RECORDS);
        let mut more = None;
        let mut records = 0;
        self.view.scan_rows(from, |revision, row| {
            let bytes = ROW_HEADER_BYTES + row.len();
            if records > 0 && chunk.len() + bytes > max_bytes {
                more = Some(revision);
                return Ok(Scan::Stop);
            }
            let len = u32::try_from(row.len()).expect("a record is shorter than 4 GiB");
            chunk.put_slice(&revision.to_row_key());
            chunk.put_u32_le(len);
            chunk.put_slice(row);
            records += 1;
            Ok(Scan::Continue)
        })?;
        self.records += records;
        Ok((chunk.freeze(), more))
    }

    fn end(&self) -> Bytes {
        let mut chunk = BytesMut::new();
        chunk.put_u8(END);
        chunk.put_u64_le(self.records);
        chunk.freeze()
    }
}

impl SnapshotSource for Source {
    fn position(&self) -> Position {
        self.view.notes().position.clone().unwrap_or_default()
    }

    fn size_hint_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn next_chunk(&mut self, max_bytes: usize) -> io::Result<Option<Bytes>> {
        match self.next {
            Next::Begin => {
                self.next = Next::RecordsFrom(Revision::default());
                Ok(Some(self.begin()))
            }
            Next::RecordsFrom(from) => {
                let (chunk, more) = self.records(from, max_bytes)?;
                self.next = more.map_or(Next::End, Next::RecordsFrom);
                Ok(Some(chunk))
            }
            Next::End => {
                self.next = Next::Nothing;
                Ok(Some(self.end()))
            }
            Next::Nothing => Ok(None),
        }
    }
}

/// What came of a snapshot so far: its chunks are read and checked here, and nothing is written.
#[derive(Default)]
pub(super) struct Received {
    notes: Option<Notes>,
    /// Built as records come, so that no copy of all keys is needed beside it.
    index: Index,
    records: u64,
    last: Revision,
    in_use_bytes: u64,
    ended: bool,
}

/// What a chunk brought.
pub(super) enum Brought {
    /// The beginning.
    Begin,
    /// Rows of the revision table, in order.
    Rows(Vec<(Revision, Bytes)>),
    /// The end: nothing is missing.
    End,
}

impl Received {
    /// Takes the next chunk. After an error the snapshot is of no use.
    pub fn take(&mut self, mut chunk: Bytes) -> io::Result<Brought> {
        if self.ended || chunk.is_empty() {
            return Err(garbled("a chunk is empty or comes after its end"));
        }
        match chunk.get_u8() {
            BEGIN => self.begin(chunk),
            RECORDS => self.rows(chunk),
            END => self.end(chunk),
            _ => Err(garbled("a chunk is of no known kind")),
        }
    }

    /// The notes and the index of what came, once nothing is missing.
    pub fn whole(self) -> io::Result<(Notes, Index, u64)> {
        match self.notes {
            Some(notes) if self.ended => Ok((notes, self.index, self.in_use_bytes)),
            _ => Err(garbled("its end is missing")),
        }
    }

    fn begin(&mut self, mut chunk: Bytes) -> io::Result<Brought> {
        if self.notes.is_some() || chunk.len() != BEGIN_BYTES {
            return Err(garbled("its beginning is out of place or cut short"));
        }
        let version = chunk.get_u32_le();
        if version != VERSION {
            return Err(garbled(&format!(
                "it is of version {version}, this node reads version {VERSION}"
            )));
        }
        let notes = Notes {
            index: chunk.get_u64_le(),
            revision: chunk.get_i64_le(),
            compact_revision: chunk.get_i64_le(),
            scrubbed_revision: chunk.get_i64_le(),
            position: None,
        };
        let in_order = -1 <= notes.scrubbed_revision
            && notes.scrubbed_revision <= notes.compact_revision
            && notes.compact_revision <= notes.revision
            && (1..=MAX_REVISION).contains(&notes.revision);
        if !in_order {
            return Err(garbled("its revisions contradict one another"));
        }
        self.notes = Some(notes);
        Ok(Brought::Begin)
    }

    fn rows(&mut self, mut chunk: Bytes) -> io::Result<Brought> {
        let Some(notes) = &self.notes else {
            return Err(garbled("records come before its beginning"));
        };
        let mut rows = Vec::new();
        while !chunk.is_empty() {
            if chunk.len() < ROW_HEADER_BYTES {
                return Err(garbled("a record is cut short"));
            }
            let mut key: RowKey = [0; 12];
            chunk.copy_to_slice(&mut key);
            let len = chunk.get_u32_le() as usize;
            if chunk.len() < len {
                return Err(garbled("a record is cut short"));
            }
            let revision = Revision::from_row_key(&key);
            if revision <= self.last || revision.main > notes.revision {
                return Err(garbled("records are out of order"));
            }
            self.last = revision;
            rows.push((revision, chunk.split_to(len)));
        }
        for (revision, row) in &rows {
            let header = RecordHeader::decode_row(*revision, row)
                .map_err(|error| garbled(&error.to_string()))?;
            if !(0..=revision.main).contains(&header.create_revision)
                || !(0..=MAX_REVISION).contains(&header.version)
            {
                return Err(garbled("a record contradicts itself"));
            }
            self.index.push(
                header.key,
                *revision,
                header.create_revision,
                header.version,
            );
            self.in_use_bytes += row_bytes(row.len());
        }
        self.records += rows.len() as u64;
        Ok(Brought::Rows(rows))
    }

    fn end(&mut self, mut chunk: Bytes) -> io::Result<Brought> {
        if chunk.len() != 8 || chunk.get_u64_le() != self.records || self.notes.is_none() {
            return Err(garbled("records are missing"));
        }
        self.ended = true;
        Ok(Brought::End)
    }
}

/// A snapshot being received into a file of its own, whose name no other sink of this store ever has. Dropping it removes the file.
pub struct Sink {
    shared: Arc<Shared>,
    /// `None` once it took the live file's place.
    file: Option<StateFile>,
    received: Received,
    /// Bytes written and not synced.
    unsynced_bytes: u64,
}

impl Sink {
    pub fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let number = shared.installs.fetch_add(1, Ordering::Relaxed);
        let path = shared
            .directory
            .join(format!("{INSTALLING_PREFIX}.{number}"));
        let file = StateFile::create(&shared.disk, &path)?;
        Ok(Self {
            shared,
            file: Some(file),
            received: Received::default(),
            unsynced_bytes: 0,
        })
    }

    fn write(&mut self, rows: &[(Revision, Bytes)]) -> io::Result<()> {
        let file = self.file.as_ref().expect("it is still being received");
        let mut writer = file.begin()?;
        writer.change_records(|records| {
            rows.iter().try_for_each(|(revision, row)| {
                records.insert_row(*revision, row)?;
                Ok(())
            })
        })?;
        // Nothing depends on this file before `finish`. It is synced often all the same: a commit gives all of its pages to the disk at
        // once, up to twice what the records have, and the log's flushes would wait behind them.
        match self.unsynced_bytes < BULK_SYNC_BYTES {
            true => writer.commit_unsynced()?,
            false => {
                writer.commit(&Notes::default())?;
                self.unsynced_bytes = 0;
            }
        }
        Ok(())
    }
}

impl SnapshotSink for Sink {
    fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        self.unsynced_bytes += chunk.len() as u64;
        match self.received.take(chunk)? {
            Brought::Begin => Ok(()),
            Brought::Rows(rows) => self.write(&rows),
            Brought::End => {
                // So that `finish`, for which others wait, has little left to write.
                let file = self.file.as_ref().expect("it is still being received");
                Ok(file.begin()?.commit(&Notes::default())?)
            }
        }
    }

    fn finish(mut self: Box<Self>, position: Position) -> io::Result<()> {
        let (notes, index, in_use_bytes) = std::mem::take(&mut self.received).whole()?;
        let notes = Notes {
            position: Some(position),
            ..notes
        };
        let file = self.file.as_ref().expect("it is finished once");
        file.begin()?.commit(&notes)?;
        let view = file.view()?;
        let shared = &self.shared;
        let mut durable = super::lock(&shared.durable);
        let mut file = self.file.take().expect("it is finished once");
        if let Err(error) = file.rename(&shared.disk, &shared.directory.join(FILE_NAME)) {
            // Which of the two files the next start finds is not known, so nothing may be called durable here any more.
            durable.is_replaced = true;
            return Err(error.into());
        }
        *durable = Durable::new(file, notes, in_use_bytes);
        let mut hub = super::lock(&shared.hub);
        let state = state_of(index, view);
        let revision = state.revision;
        let old = std::mem::replace(&mut *super::write(&shared.state), state);
        hub.state_replaced(revision);
        drop(hub);
        shared.publish(&durable);
        drop(old);
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            let path = file.path().to_owned();
            drop(file);
            // What cannot be removed now is removed when the store is opened.
            let _ = self.shared.disk.remove(&path);
        }
    }
}

/// Removes what an earlier run did not receive to the end. The caller holds the lock of the live state file in `directory`.
pub fn remove_leftovers(disk: &dyn Disk, directory: &Path) -> Result<(), StateFileError> {
    let remove = || -> io::Result<()> {
        for name in disk.list(directory)? {
            if name.starts_with(INSTALLING_PREFIX) {
                disk.remove(&directory.join(name))?;
            }
        }
        Ok(())
    };
    remove().map_err(|cause| StateFileError::Io {
        path: directory.to_owned(),
        cause,
    })
}

/// An error about bytes that another node sent.
fn garbled(cause: &str) -> io::Error {
    let message = format!("install a snapshot: {cause}; take it again from another node");
    io::Error::new(io::ErrorKind::InvalidData, message)
}
