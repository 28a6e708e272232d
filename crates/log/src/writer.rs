//! The hand that writes: carries out queued operations, strictly in order, one after the other.
//!
//! Invariant `prefix`: whatever the moment of a crash, what recovery finds is the result of a prefix of the operations (entries of an
//! append count one by one), and of all operations before the last sync.
//!
//! Invariant `sealed-synced`: before a segment gets a successor, all its records are synced. So only the newest segment can be torn,
//! and whatever is wrong with an older one is damage.

use crate::cache::Slot;
use crate::error::DiskError;
use crate::record;
use crate::segment::{
    Change, Header, Mark, SEGMENT_HEADER_BYTES, Segment, SegmentName, needs_mark,
};
use crate::state_file::{self, SmallState};
use crate::{Base, Chain, Disk, DiskFile, LogId};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A segment is made under this name, and gets its own when it is durable.
pub(crate) const NEW_SEGMENT_FILE: &str = "segment.tmp";

/// Records are gathered up to about this many bytes for one write. Longer batches take several writes and still one sync.
const WRITE_BUFFER_BYTES: usize = 4 << 20;

/// One queued operation.
pub(crate) enum Op {
    /// The next so many of the batch's entries.
    Append { count: usize },
    /// The log ends at this base: later entries are dropped or, in a reset, all are.
    Cut { base: Base, reset: bool },
    /// The small state is this from now on.
    Save(SmallState),
    /// Segments that begin before this index, at which one begins, are deleted. Their files stay open until the log has them back: see
    /// [`crate::Released`].
    Release {
        first: u64,
        files: Vec<Arc<dyn DiskFile>>,
    },
}

/// Where and how the log is written. Moves into a flush job and back, so that it needs no lock.
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    /// All segments on disk, in order; the last is the active one.
    names: Vec<SegmentName>,
    next_seq: u64,
    active: Option<Active>,
    /// Entries below this index are synced.
    synced_next: u64,
    buffer: Vec<u8>,
    changes: Vec<Change>,
    /// Bytes of records written so far.
    written_bytes: u64,
}

/// The segment that is being written.
pub(crate) struct Active {
    pub name: SegmentName,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub file_bytes: u64,
    /// Where the next record goes, when the buffer is written.
    pub end: u64,
    pub last_mark: u64,
    pub last: Option<LogId>,
    pub chain: Chain,
    /// Whether something was written that is not synced.
    pub dirty: bool,
}

impl Active {
    fn next_index(&self) -> u64 {
        Base {
            last: self.last,
            chain: self.chain,
        }
        .next_index()
    }

    fn is_empty(&self) -> bool {
        self.end == SEGMENT_HEADER_BYTES as u64
    }
}

impl Writer {
    /// A writer for the segments `names`, the last of which is `active` and synced. Without any, [`Writer::cut`] makes the first.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        segment_bytes: u64,
        names: Vec<SegmentName>,
        next_seq: u64,
        active: Option<Active>,
    ) -> Writer {
        let synced_next = active.as_ref().map_or(0, Active::next_index);
        Writer {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            names,
            next_seq,
            active,
            synced_next,
            buffer: Vec::new(),
            changes: Vec::new(),
            written_bytes: 0,
        }
    }

    /// Carries out a batch and makes it durable.
    pub fn run(&mut self, ops: &[Op], mut slots: &[Slot]) -> Result<(), DiskError> {
        for op in ops {
            match op {
                Op::Append { count } => {
                    let (now, later) = slots.split_at(*count);
                    self.append(now)?;
                    slots = later;
                }
                Op::Cut { base, reset } => self.cut(*base, *reset)?,
                Op::Save(state) => {
                    self.sync()?;
                    state_file::save(&*self.disk, &self.dir, state)?;
                }
                Op::Release { first, .. } => self.release(*first)?,
            }
        }
        assert!(
            slots.is_empty(),
            "every entry of a batch belongs to an operation"
        );
        self.sync()
    }

    /// Begins a new segment after `base`, which from then on is where the log ends.
    pub fn cut(&mut self, base: Base, reset: bool) -> Result<(), DiskError> {
        self.sync()?;
        let name = SegmentName {
            first: base.next_index(),
            seq: self.next_seq,
        };
        let path = self.dir.join(name.to_string());
        let header = Header { name, base, reset };
        let file = self.make_segment(&path, &header)?;
        self.next_seq += 1;
        self.names.push(name);

        let file_bytes = self.segment_bytes;
        self.changes.push(Change::Begun(Segment::new(
            header,
            path.clone(),
            file.clone(),
            file_bytes,
        )));
        let old = self.active.replace(Active {
            name,
            path,
            file,
            file_bytes,
            end: SEGMENT_HEADER_BYTES as u64,
            last_mark: SEGMENT_HEADER_BYTES as u64,
            last: base.last,
            chain: base.chain,
            dirty: false,
        });
        self.synced_next = name.first;
        self.delete_replaced(&header)?;
        match old {
            Some(old) if self.names.contains(&old.name) => self.trim(old),
            _ => Ok(()),
        }
    }

    /// What the flushes since the last call did to the segments.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Bytes of records written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// The last entry written, or the base's.
    pub fn last(&self) -> Option<LogId> {
        self.active.as_ref().and_then(|active| active.last)
    }

    fn append(&mut self, slots: &[Slot]) -> Result<(), DiskError> {
        for slot in slots {
            let bytes = record::record_bytes(slot.frame.as_bytes().len());
            self.make_room(bytes as u64)?;
            self.put(slot, bytes as u64);
            if self.buffer.len() >= WRITE_BUFFER_BYTES {
                self.write_buffer()?;
            }
        }
        Ok(())
    }

    /// Sees to it that the active segment has room for a record.
    fn make_room(&mut self, record_bytes: u64) -> Result<(), DiskError> {
        let active = self.active();
        if active.end + record_bytes <= active.file_bytes {
            return Ok(());
        }
        if !active.is_empty() {
            let base = Base {
                last: active.last,
                chain: active.chain,
            };
            self.cut(base, false)?;
        }
        // A record longer than a whole segment gets one of its own length.
        let active = self.active();
        let needed = active.end + record_bytes;
        if needed > active.file_bytes {
            active
                .file
                .allocate(needed)
                .map_err(DiskError::at("extend", &active.path))?;
            active.file_bytes = needed;
            let name = active.name;
            self.changes.push(Change::Resized {
                name,
                file_bytes: needed,
            });
        }
        Ok(())
    }

    /// Puts a record that has room into the buffer.
    fn put(&mut self, slot: &Slot, bytes: u64) {
        let (synced_next, active) = (
            self.synced_next,
            self.active.as_mut().expect("there is an active segment"),
        );
        let id = slot.frame.id();
        assert_eq!(
            id.index,
            active.next_index(),
            "entries must be written in order"
        );
        if needs_mark(active.last_mark, active.end) {
            active.last_mark = active.end;
            self.changes.push(Change::Marked(Mark {
                index: id.index,
                offset: active.end,
                chain: active.chain,
            }));
        }
        let unsynced = u32::try_from(id.index - synced_next).unwrap_or(u32::MAX);
        record::encode(
            &mut self.buffer,
            active.name.seq,
            active.end,
            &slot.frame,
            slot.chain,
            unsynced,
        );
        active.end += bytes;
        active.last = Some(id);
        active.chain = slot.chain;
        self.written_bytes += bytes;
    }

    fn write_buffer(&mut self) -> Result<(), DiskError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let active = self.active.as_mut().expect("there is an active segment");
        let offset = active.end - self.buffer.len() as u64;
        active
            .file
            .write_all_at(&self.buffer, offset)
            .map_err(DiskError::at("write", &active.path))?;
        active.dirty = true;
        self.buffer.clear();
        Ok(())
    }

    /// Makes all that was appended durable.
    fn sync(&mut self) -> Result<(), DiskError> {
        self.write_buffer()?;
        let Some(active) = self.active.as_mut() else {
            return Ok(());
        };
        if active.dirty {
            active
                .file
                .sync_data()
                .map_err(DiskError::at("sync", &active.path))?;
            active.dirty = false;
        }
        self.synced_next = active.next_index();
        Ok(())
    }

    /// Makes a segment without records, durable under its name when this returns.
    fn make_segment(&self, path: &Path, header: &Header) -> Result<Arc<dyn DiskFile>, DiskError> {
        let new_path = self.dir.join(NEW_SEGMENT_FILE);
        let file = self
            .disk
            .create(&new_path)
            .map_err(DiskError::at("create", &new_path))?;
        file.allocate(self.segment_bytes)
            .map_err(DiskError::at("reserve space for", &new_path))?;
        file.write_all_at(&header.encode(), 0)
            .map_err(DiskError::at("write", &new_path))?;
        file.sync_data().map_err(DiskError::at("sync", &new_path))?;
        self.disk
            .rename(&new_path, path)
            .map_err(DiskError::at("rename to", path))?;
        self.disk
            .sync_dir(&self.dir)
            .map_err(DiskError::at("sync directory", &self.dir))?;
        Ok(file)
    }

    /// Deletes the segments of which the newest one, just made, leaves nothing. A crash may bring back any of them: the newest still
    /// replaces them.
    fn delete_replaced(&mut self, newest: &Header) -> Result<(), DiskError> {
        let replaced = |name: &SegmentName| {
            *name != newest.name && (newest.reset || name.first >= newest.name.first)
        };
        for name in self.names.iter().rev().filter(|name| replaced(name)) {
            let path = self.dir.join(name.to_string());
            self.disk
                .remove(&path)
                .map_err(DiskError::at("delete", &path))?;
        }
        self.names.retain(|name| !replaced(name));
        Ok(())
    }

    /// Deletes segments that begin before `first`, oldest first, each durably before the next: a crash must not leave a gap.
    fn release(&mut self, first: u64) -> Result<(), DiskError> {
        while self.names.len() > 1 && self.names[0].first < first {
            let path = self.dir.join(self.names[0].to_string());
            self.disk
                .remove(&path)
                .map_err(DiskError::at("delete", &path))?;
            self.disk
                .sync_dir(&self.dir)
                .map_err(DiskError::at("sync directory", &self.dir))?;
            self.names.remove(0);
        }
        Ok(())
    }

    /// Gives back the reserved space behind the records of a finished segment.
    fn trim(&mut self, finished: Active) -> Result<(), DiskError> {
        finished
            .file
            .set_len(finished.end)
            .map_err(DiskError::at("trim", &finished.path))?;
        self.changes.push(Change::Resized {
            name: finished.name,
            file_bytes: finished.end,
        });
        Ok(())
    }

    fn active(&mut self) -> &mut Active {
        self.active
            .as_mut()
            .expect("there is an active segment from the moment the log is open")
    }
}
