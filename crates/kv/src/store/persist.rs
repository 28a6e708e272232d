//! Making durable what was applied, and opening what is durable.
//!
//! One persist is one redb transaction: the overlay's oldest records, up to a position that the log allows, the notes of that position,
//! and, when nothing is left after it, a piece of the scrub. Neither `apply` nor a read waits for it: the records are copied out of the
//! overlay in short steps before, and dropped from it in one short step after.
//!
//! No transaction has more than about [`PIECE_BYTES`], however much waits: whoever applies waits for room in the overlay, and on a slow
//! disk room must come in steps of fractions of a second, not when all is done.

use super::compaction::Scrub;
use super::index::{Index, IndexBuilder};
use super::overlay::{Overlay, Piece};
use super::range::State;
use super::record::{Record, Revision};
use super::table::{Notes, Scan, StateFile, StateFileError, View, row_bytes};
use std::io;
use std::sync::{Arc, RwLock};

/// Records copied out of the overlay while the state's lock is held once: some ten microseconds.
const RECORDS_PER_LOCK: usize = 256;

/// Bytes of records, as the overlay counts them, that become durable in one transaction: a quarter of a second's work of a disk that
/// writes 4 MiB a second. What one call of `apply` has added is never divided, so this and one such call is the most.
pub const PIECE_BYTES: usize = 1 << 20;

/// The durable side of a store. Whoever persists, or replaces the state, holds it.
pub struct Durable {
    pub file: StateFile,
    pub notes: Notes,
    pub scrub: Scrub,
    /// Bytes of all rows.
    pub in_use_bytes: u64,
    /// Another file may have its name, in which case what is persisted here would be lost.
    pub is_replaced: bool,
}

impl Durable {
    /// Reads the durable state of an open file: itself, and the state in memory that goes with it.
    pub fn load(file: StateFile) -> Result<(Self, State), StateFileError> {
        let view = file.view()?;
        let (index, in_use_bytes) = build_index(&view, file.path())?;
        let durable = Self::new(file, view.notes().clone(), in_use_bytes);
        Ok((durable, state_of(index, view)))
    }

    /// The durable side of a file whose content is known.
    pub fn new(file: StateFile, notes: Notes, in_use_bytes: u64) -> Self {
        Self {
            file,
            scrub: Scrub::new(notes.scrubbed_revision),
            notes,
            in_use_bytes,
            is_replaced: false,
        }
    }

    /// Persists `piece`, if given, and, when nothing is left that may become durable, a part of the scrub: a scrub in each of many
    /// pieces would make them long again.
    ///
    /// Records below `watched_revision` have been handed to the watchers; only what lies before may be scrubbed.
    pub fn persist(
        &mut self,
        state: &RwLock<State>,
        piece: Option<Piece>,
        watched_revision: i64,
    ) -> Result<(), StateFileError> {
        if self.is_replaced {
            return Err(StateFileError::Io {
                path: self.file.path().to_owned(),
                cause: io::Error::other("a received snapshot may have taken its place"),
            });
        }
        let removes = piece.as_ref().is_none_or(|piece| piece.is_last)
            && self.may_scrub(watched_revision)
            && self.scrub.find(state, self.notes.compact_revision);
        let target = piece.map(|piece| piece.target);
        if target.is_none() && !removes {
            return Ok(());
        }
        let mut writer = self.file.begin()?;
        let scrub = &mut self.scrub;
        let (added, removed) = writer.change_records(|records| {
            let mut added = 0;
            if let Some(target) = &target {
                for_each_record(state, target.revision, |record| {
                    added += records.insert(record)?;
                    Ok(())
                })?;
            }
            let removed = if removes { scrub.remove(records)? } else { 0 };
            Ok((added, removed))
        })?;
        let mut notes = self.notes.clone();
        notes.scrubbed_revision = self.scrub.scrubbed_revision();
        if let Some(target) = &target {
            notes.index = target.index;
            notes.revision = target.revision;
            notes.compact_revision = target.compact_revision;
            notes.position = Some(target.position.clone());
        }
        writer.commit(&notes)?;
        self.notes = notes;
        self.in_use_bytes = self.in_use_bytes + added - removed;
        let view = Arc::new(self.file.view()?);
        let leaving = {
            let mut state = super::write(state);
            let leaving = target.map(|target| state.overlay.take_through(&target));
            (leaving, std::mem::replace(&mut state.view, view))
        };
        drop(leaving);
        Ok(())
    }

    /// Whether there is a part of the scrub to do, and nothing forbids it: see [`Durable::persist`].
    pub fn may_scrub(&self, watched_revision: i64) -> bool {
        let compact_revision = self.notes.compact_revision;
        compact_revision <= watched_revision && self.scrub.has_work(compact_revision)
    }
}

/// The state in memory right after opening, or installing, a durable state.
pub fn state_of(index: Index, view: View) -> State {
    State {
        index,
        overlay: Overlay::default(),
        revision: view.notes().revision,
        compact_revision: view.notes().compact_revision,
        view: Arc::new(view),
    }
}

/// Gives `visit` all records of the overlay up to main revision `through`. Only a persist removes from the overlay, and the caller is it.
fn for_each_record(
    state: &RwLock<State>,
    through: i64,
    mut visit: impl FnMut(&Record) -> Result<(), redb::StorageError>,
) -> Result<(), redb::StorageError> {
    let mut from = Revision::default();
    loop {
        let batch: Vec<Record> = super::read(state)
            .overlay
            .records_from(from)
            .take_while(|record| record.revision.main <= through)
            .take(RECORDS_PER_LOCK)
            .cloned()
            .collect();
        let Some(last) = batch.last() else {
            return Ok(());
        };
        from = Revision {
            sub: last.revision.sub + 1,
            ..last.revision
        };
        batch.iter().try_for_each(&mut visit)?;
    }
}

/// One scan over all records, checking every one; no value is copied.
fn build_index(view: &View, path: &std::path::Path) -> Result<(Index, u64), StateFileError> {
    let mut builder = IndexBuilder::default();
    let mut in_use_bytes = 0;
    let mut last = Revision::default();
    view.scan(Revision::default(), |revision, record| {
        builder.push(record.key, revision, record.create_revision, record.version);
        in_use_bytes += row_bytes(record.row_len());
        last = revision;
        Scan::Continue
    })?;
    if last.main > view.notes().revision {
        return Err(StateFileError::Damaged {
            path: path.to_owned(),
            cause: format!(
                "it has a record of revision {} but says that its revision is {}",
                last.main,
                view.notes().revision
            ),
        });
    }
    Ok((builder.build(), in_use_bytes))
}
