//! The durable state: one redb file with the records in revision order and one row of notes about them.
//!
//! Everything that knows redb is here. A [`View`] is a point in time of the durable state that stays readable while later transactions
//! go on; a [`Writer`] is the one transaction under way.
//!
//! Format 1: table `records`, row key and value as in `record.rs`; table `notes`, one row, see [`Notes`].
//!
//! Every page is verified when the file is opened (redb would trust, and might panic on, a page that was altered since it was written), and
//! every record again when it is read.
//!
//! redb reads and writes through [`Disk`], so a simulated disk can lose, tear and refuse what it writes. It asks little of one: writes
//! before a sync are durable when the sync returns, in any order until then, torn wherever the power failed.
//!
//! One thing it does not do: after a sync that failed, some kernels take pages for clean that never reached the disk, and the next start
//! would read them, build on them, and lose them when the power fails (Rebello et al. 2020, "Can Applications Recover from fsync
//! Failures?"). So a failed sync leaves a marker file, and a start that finds it writes the whole file again, as it is, before anything
//! else. The marker need not be durable: it is in danger only when those pages are gone too.

use super::record::{Damaged, Record, RecordHeader, Revision, RowKey};
use super::{BEGINNING_NAME, UNSYNCED_NAME};
use bytes::Bytes;
use eaves::Position;
use eaves_log::disk::exists;
use eaves_log::{Disk, DiskFile, FileLock};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory redb may use to keep pages. The operating system caches the file too, so this need not be large.
const PAGE_CACHE_BYTES: usize = 48 << 20;

/// Bytes that are written again at a time after a failed sync.
const WRITE_AGAIN_BYTES: usize = 1 << 20;

/// The format this version writes and reads.
const FORMAT: u32 = 1;

const RECORDS: TableDefinition<&RowKey, &[u8]> = TableDefinition::new("records");
const NOTES: TableDefinition<&str, &[u8]> = TableDefinition::new("notes");
const NOTES_KEY: &str = "notes";

/// What is known about the durable state as a whole. Written with every transaction that moves it.
///
/// Row: `crc32c u32 LE of the rest | format u32 | index u64 | revision i64 | compact i64 | scrubbed i64 | position`, little endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notes {
    /// Log index of `position`.
    pub index: u64,
    /// The store's revision.
    pub revision: i64,
    /// The compacted revision; -1 before the first compaction.
    pub compact_revision: i64,
    /// The compacted revision whose unreachable records are all gone from disk.
    pub scrubbed_revision: i64,
    /// The node's own notes; `None` in a state that never had one.
    pub position: Option<Position>,
}

/// Why the durable state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// Another process, or another node of this process, has it open.
    #[error("open {}: another process has it open; stop that one, or give this node a data directory of its own", .0.display())]
    InUse(PathBuf),
    /// It was written by another version.
    #[error("open {}: its format is {found}, this version reads format {FORMAT}; use the version that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its content is not what was written.
    #[error(
        "read {}: the state file is damaged ({cause}); stop the node, move the file away and start again: the state is then made \
         anew from the log, or taken from an upstream",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// The disk failed or is full.
    #[error("use {}: {cause}; make room or replace the disk, then restart the node", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system or redb said.
        cause: io::Error,
    },
}

impl From<StateFileError> for io::Error {
    fn from(error: StateFileError) -> io::Error {
        let kind = match &error {
            StateFileError::InUse(_) => io::ErrorKind::ResourceBusy,
            StateFileError::Format { .. } | StateFileError::Damaged { .. } => {
                io::ErrorKind::InvalidData
            }
            StateFileError::Io { cause, .. } => cause.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// The open state file.
pub struct StateFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    database: Arc<Database>,
}

impl StateFile {
    /// Opens the state file at `path` and locks it, or begins a new one.
    pub fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, StateFileError> {
        match content_at(&**disk, path)? {
            // Opened before it is locked: whoever had it until now may have given the name to another file.
            Some(file) => {
                let lock = lock(&**disk, path)?;
                write_again_if_unsynced(&**disk, path, &*file)
                    // An earlier run may have been killed between giving it this name and making the name durable.
                    .and_then(|()| disk.sync_dir(directory_of(path)))
                    .map_err(io_error(path))?;
                Self::over(disk, path, file, lock)
            }
            None => Self::begin_at(disk, path),
        }
    }

    /// Begins a new state file, which has no content that counts before it has been renamed.
    pub fn create(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, StateFileError> {
        let file = disk.create(path).map_err(io_error(path))?;
        let lock = lock(&**disk, path)?;
        Self::over(disk, path, file, lock)
    }

    /// Begins a new state file under the name `path`, which has it from the moment on at which it is whole: a process that is killed while
    /// redb begins its file leaves one that redb does not take for its own.
    fn begin_at(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, StateFileError> {
        let turn = lock(&**disk, path)?;
        if content_at(&**disk, path)?.is_some() {
            // Somebody else has begun it before the lock was ours.
            return Err(StateFileError::InUse(path.to_owned()));
        }
        let mut file = Self::create(disk, &path.with_file_name(BEGINNING_NAME))?;
        file.rename(disk, path)?;
        drop(turn);
        Ok(file)
    }

    fn over(
        disk: &Arc<dyn Disk>,
        path: &Path,
        file: Arc<dyn DiskFile>,
        lock: FileLock,
    ) -> Result<Self, StateFileError> {
        let backend = Backend {
            disk: disk.clone(),
            unsynced: path.with_file_name(UNSYNCED_NAME),
            file: file.clone(),
            _lock: lock,
        };
        let database = builder().create_with_backend(backend);
        let file = Self {
            path: path.to_owned(),
            file,
            database: Arc::new(database.map_err(|error| wrap(path, error))?),
        };
        file.begin_if_new()?;
        Ok(file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length.
    pub fn len_bytes(&self) -> Result<u64, StateFileError> {
        self.file.len().map_err(io_error(&self.path))
    }

    /// Gives it another name in its directory, durably, in place of what has that name. After an error it may have either.
    pub fn rename(&mut self, disk: &Arc<dyn Disk>, path: &Path) -> Result<(), StateFileError> {
        disk.rename(&self.path, path)
            .and_then(|()| disk.sync_dir(directory_of(path)))
            .map_err(io_error(&self.path))?;
        self.path = path.to_owned();
        Ok(())
    }

    /// The durable state as it is now.
    pub fn view(&self) -> Result<View, StateFileError> {
        let open = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let notes = transaction.open_table(NOTES)?;
            let row = notes.get(NOTES_KEY)?.map(|row| row.value().to_vec());
            Ok((transaction.open_table(RECORDS)?, row))
        };
        let (records, row) = open().map_err(|error| self.wrap(error))?;
        let row = row.ok_or_else(|| self.damaged("its notes are missing"))?;
        Ok(View {
            path: self.path.clone(),
            records,
            notes: Notes::decode(&self.path, &row)?,
            _database: self.database.clone(),
        })
    }

    /// Begins the one write transaction there may be; waits for another.
    pub fn begin(&self) -> Result<Writer<'_>, StateFileError> {
        let transaction = self
            .database
            .begin_write()
            .map_err(|error| self.wrap(error))?;
        Ok(Writer {
            file: self,
            transaction,
        })
    }

    fn begin_if_new(&self) -> Result<(), StateFileError> {
        let transaction = self
            .database
            .begin_read()
            .map_err(|error| self.wrap(error))?;
        match transaction.open_table(NOTES) {
            Ok(_) => return Ok(()),
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(self.wrap(error)),
        }
        let mut writer = self.begin()?;
        writer.change_records(|_| Ok(()))?;
        writer.commit(&Notes::default())
    }

    fn wrap(&self, error: impl Into<redb::Error>) -> StateFileError {
        wrap(&self.path, error)
    }

    fn damaged(&self, cause: &str) -> StateFileError {
        damaged(&self.path, cause)
    }
}

/// How every database is opened.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(PAGE_CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

/// A file of a [`Disk`] as redb wants it, locked as long as redb has it.
struct Backend {
    disk: Arc<dyn Disk>,
    /// The marker that a failed sync leaves.
    unsynced: PathBuf,
    file: Arc<dyn DiskFile>,
    _lock: FileLock,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("state file")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.file.read_at(out, offset)? == out.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|_| {
            // A disk that takes no new name either is not one that the next start can write to.
            let _ = self.disk.create(&self.unsynced);
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

/// The file at `path` if there is anything in it.
fn content_at(disk: &dyn Disk, path: &Path) -> Result<Option<Arc<dyn DiskFile>>, StateFileError> {
    let found = disk.open(path).and_then(|file| {
        let is_empty = file.is_empty()?;
        Ok((!is_empty).then_some(file))
    });
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map_err(io_error(path)),
    }
}

/// Writes all of a file again, as it is, if a sync of it has failed since the machine started.
fn write_again_if_unsynced(disk: &dyn Disk, path: &Path, file: &dyn DiskFile) -> io::Result<()> {
    let marker = path.with_file_name(UNSYNCED_NAME);
    if !exists(disk, &marker)? {
        return Ok(());
    }
    let mut buf = vec![0; WRITE_AGAIN_BYTES];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut buf, offset)?;
        if read == 0 {
            break;
        }
        file.write_all_at(&buf[..read], offset)?;
        offset += read as u64;
    }
    file.sync_data()?;
    disk.remove(&marker)
}

/// Keeps others away from a state file. redb before this version locked the file itself too, so they keep each other away.
fn lock(disk: &dyn Disk, path: &Path) -> Result<FileLock, StateFileError> {
    disk.lock(path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StateFileError::InUse(path.to_owned()),
        _ => io_error(path)(error),
    })
}

/// The durable state at one point in time.
pub struct View {
    path: PathBuf,
    records: ReadOnlyTable<&'static RowKey, &'static [u8]>,
    notes: Notes,
    /// Keeps the file readable after a received state has taken its place: redb closes it under whoever still reads.
    _database: Arc<Database>,
}

impl View {
    /// What is known about this state as a whole.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The record of a revision that is known to be in the durable state.
    pub fn get(&self, revision: Revision) -> Result<Record, StateFileError> {
        let row = self
            .records
            .get(&revision.to_row_key())
            .map_err(|error| wrap(&self.path, error))?;
        let Some(row) = row else {
            let Revision { main, sub } = revision;
            return Err(damaged(
                &self.path,
                &format!("revision {main}.{sub} is missing"),
            ));
        };
        Record::decode_row(revision, row.value()).map_err(|error| self.damaged(error))
    }

    /// Calls `visit` with every record at or after `from`, in order, until it says stop.
    pub fn scan(
        &self,
        from: Revision,
        mut visit: impl FnMut(Revision, RecordHeader<'_>) -> Scan,
    ) -> Result<(), StateFileError> {
        self.scan_rows(from, |revision, row| {
            let header =
                RecordHeader::decode_row(revision, row).map_err(|error| self.damaged(error))?;
            Ok(visit(revision, header))
        })
    }

    /// Calls `visit` with every row at or after `from` as it is on disk, in order, until it says stop or fails.
    pub fn scan_rows(
        &self,
        from: Revision,
        mut visit: impl FnMut(Revision, &[u8]) -> Result<Scan, StateFileError>,
    ) -> Result<(), StateFileError> {
        let from = from.to_row_key();
        let rows = self
            .records
            .range::<&RowKey>(&from..)
            .map_err(|error| wrap(&self.path, error))?;
        for row in rows {
            let (key, value) = row.map_err(|error| wrap(&self.path, error))?;
            if visit(Revision::from_row_key(key.value()), value.value())? == Scan::Stop {
                break;
            }
        }
        Ok(())
    }

    fn damaged(&self, error: Damaged) -> StateFileError {
        damaged(&self.path, &error.to_string())
    }
}

/// Whether a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    Continue,
    Stop,
}

/// A write transaction. Dropping it leaves the durable state as it was.
pub struct Writer<'a> {
    file: &'a StateFile,
    transaction: redb::WriteTransaction,
}

impl Writer<'_> {
    /// Gives `change` the record table to write into and remove from.
    pub fn change_records<T>(
        &mut self,
        change: impl FnOnce(&mut RecordWriter<'_>) -> Result<T, redb::StorageError>,
    ) -> Result<T, StateFileError> {
        let table = self
            .transaction
            .open_table(RECORDS)
            .map_err(|error| self.file.wrap(error))?;
        let mut writer = RecordWriter {
            table,
            row: Vec::new(),
        };
        change(&mut writer).map_err(|error| self.file.wrap(error))
    }

    /// Makes all changes visible, and durable no later than the next [`Writer::commit`].
    pub fn commit_unsynced(mut self) -> Result<(), StateFileError> {
        self.transaction
            .set_durability(Durability::None)
            .expect("no savepoint was made");
        self.transaction
            .commit()
            .map_err(|error| self.file.wrap(error))
    }

    /// Makes all changes durable at once, with `notes`.
    pub fn commit(self, notes: &Notes) -> Result<(), StateFileError> {
        let Self { file, transaction } = self;
        let write = || -> Result<(), redb::Error> {
            transaction
                .open_table(NOTES)?
                .insert(NOTES_KEY, notes.encode().as_slice())?;
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| file.wrap(error))
    }
}

/// The record table inside a write transaction.
pub struct RecordWriter<'a> {
    table: redb::Table<'a, &'static RowKey, &'static [u8]>,
    row: Vec<u8>,
}

impl RecordWriter<'_> {
    /// Writes a record; returns the bytes its row takes.
    pub fn insert(&mut self, record: &Record) -> Result<u64, redb::StorageError> {
        record.encode_row(&mut self.row);
        self.table
            .insert(&record.revision.to_row_key(), self.row.as_slice())?;
        Ok(row_bytes(self.row.len()))
    }

    /// Writes a row as it came from another node's table.
    pub fn insert_row(
        &mut self,
        revision: Revision,
        row: &[u8],
    ) -> Result<u64, redb::StorageError> {
        self.table.insert(&revision.to_row_key(), row)?;
        Ok(row_bytes(row.len()))
    }

    /// Removes the records of these revisions, which are in order, as far as they are there; returns the bytes their rows took. Looks at
    /// all rows between the first and the last: a page at a time, which takes a fraction of removing each by itself.
    pub fn remove_run(&mut self, revisions: &[Revision]) -> Result<u64, redb::StorageError> {
        let (Some(first), Some(last)) = (revisions.first(), revisions.last()) else {
            return Ok(0);
        };
        let (first, last) = (first.to_row_key(), last.to_row_key());
        let mut unwanted = revisions.iter().map(|one| one.to_row_key()).peekable();
        let mut bytes = 0;
        self.table
            .retain_in::<&RowKey, _>(&first..=&last, |key, row| {
                while unwanted.next_if(|one| one < key).is_some() {}
                let stays = unwanted.next_if(|one| one == key).is_none();
                if !stays {
                    bytes += row_bytes(row.len());
                }
                stays
            })?;
        Ok(bytes)
    }
}

/// Bytes in use by a row whose value has `value_len` bytes.
pub fn row_bytes(value_len: usize) -> u64 {
    (size_of::<RowKey>() + value_len) as u64
}

impl Default for Notes {
    /// Those of an empty store: revision 1, as in etcd.
    fn default() -> Self {
        Self {
            index: 0,
            revision: 1,
            compact_revision: -1,
            scrubbed_revision: -1,
            position: None,
        }
    }
}

/// Bytes of a notes row before the position.
const NOTES_HEADER_BYTES: usize = 41;

impl Notes {
    fn encode(&self) -> Vec<u8> {
        let position = self.position.as_ref();
        let mut row = vec![0; 4];
        row.extend_from_slice(&FORMAT.to_le_bytes());
        row.extend_from_slice(&self.index.to_le_bytes());
        row.extend_from_slice(&self.revision.to_le_bytes());
        row.extend_from_slice(&self.compact_revision.to_le_bytes());
        row.extend_from_slice(&self.scrubbed_revision.to_le_bytes());
        row.push(position.is_some().into());
        row.extend_from_slice(position.map_or(&[], |position| &position.0));
        let crc = crc32c::crc32c(&row[4..]);
        row[..4].copy_from_slice(&crc.to_le_bytes());
        row
    }

    fn decode(path: &Path, row: &[u8]) -> Result<Self, StateFileError> {
        if row.len() < NOTES_HEADER_BYTES {
            return Err(damaged(path, "its notes are cut short"));
        }
        let number = |at: usize| -> [u8; 8] { row[at..at + 8].try_into().expect("eight bytes") };
        let half = |at: usize| u32::from_le_bytes(row[at..at + 4].try_into().expect("four bytes"));
        if half(0) != crc32c::crc32c(&row[4..]) {
            return Err(damaged(path, "the checksum of its notes does not match"));
        }
        if half(4) != FORMAT {
            return Err(StateFileError::Format {
                path: path.to_owned(),
                found: half(4),
            });
        }
        let position = &row[NOTES_HEADER_BYTES..];
        Ok(Self {
            index: u64::from_le_bytes(number(8)),
            revision: i64::from_le_bytes(number(16)),
            compact_revision: i64::from_le_bytes(number(24)),
            scrubbed_revision: i64::from_le_bytes(number(32)),
            position: (row[40] != 0).then(|| Position(Bytes::copy_from_slice(position))),
        })
    }
}

fn wrap(path: &Path, error: impl Into<redb::Error>) -> StateFileError {
    let path = path.to_owned();
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => StateFileError::InUse(path),
        redb::Error::Io(cause) if cause.kind() == io::ErrorKind::InvalidData => {
            StateFileError::Damaged {
                path,
                cause: cause.to_string(),
            }
        }
        redb::Error::Io(cause) => StateFileError::Io { path, cause },
        redb::Error::PreviousIo => StateFileError::Io {
            path,
            cause: io::Error::other("an earlier write failed"),
        },
        other => StateFileError::Damaged {
            path,
            cause: other.to_string(),
        },
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().expect("the file is in a directory")
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> StateFileError {
    move |cause| StateFileError::Io {
        path: path.to_owned(),
        cause,
    }
}

fn damaged(path: &Path, cause: &str) -> StateFileError {
    StateFileError::Damaged {
        path: path.to_owned(),
        cause: cause.to_owned(),
    }
}
