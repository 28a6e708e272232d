//! Reading what happened: changes in revision order, from memory or disk, for watchers.
//!
//! One call reads a bounded piece and says how far it got. It never splits what happened at one main revision, since watchers get that
//! whole. A watcher of a single key is served from that key's own history, however much else happened.

use super::index::KeyRange;
use super::range::{Found, State};
use super::record::{Record, RecordHeader, Revision};
use super::table::{Scan, StateFileError, View};
use std::sync::{RwLock, RwLockReadGuard};

/// Main revisions with matching changes in one piece; etcd has the same limit.
const MAX_REVISIONS: usize = 1000;

/// Bytes of matching changes after which a piece ends.
const MAX_BYTES: usize = 128 << 10;

/// Changes looked at in one piece, matching or not: about a millisecond.
const MAX_SCANNED: usize = 2_000;

/// Streams that read history at the same time; the others wait for their turn, and the rest of the node does not wait for all of them.
pub const HISTORY_TURNS: usize = 8;

/// Which changes are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub range: KeyRange<'a>,
    pub puts: bool,
    pub deletes: bool,
}

impl Wanted<'_> {
    /// Every change there is.
    pub const ALL: Wanted<'static> = Wanted {
        range: KeyRange::From(b""),
        puts: true,
        deletes: true,
    };

    /// Whether a change of `key` is wanted.
    pub fn matches(&self, key: &[u8], tombstone: bool) -> bool {
        (if tombstone { self.deletes } else { self.puts }) && self.range.contains(key)
    }
}

/// A piece of what happened.
#[derive(Debug, Default)]
pub struct Changes {
    /// The wanted changes, oldest first.
    pub records: Vec<Record>,
    /// Everything wanted up to this main revision is in `records` or was before it.
    pub through: i64,
}

/// A piece of what happened, or that it is gone.
#[derive(Debug)]
pub enum History {
    Kept(Changes),
    /// The first revision that is still kept.
    Compacted(i64),
}

/// Reads the next piece of wanted changes at or after main revision `from`.
///
/// `through` is below `from` when nothing has happened since.
pub fn read_history(
    state: &RwLock<State>,
    from: i64,
    wanted: &Wanted<'_>,
) -> Result<History, StateFileError> {
    let state = super::read(state);
    if from < state.compact_revision {
        return Ok(History::Compacted(state.compact_revision));
    }
    read_locked(state, from, wanted).map(History::Kept)
}

/// Like [`read_history`], for who knows that nothing from `from` on was scrubbed.
pub fn read_changes(
    state: &RwLock<State>,
    from: i64,
    wanted: &Wanted<'_>,
) -> Result<Changes, StateFileError> {
    read_locked(super::read(state), from, wanted)
}

fn read_locked(
    state: RwLockReadGuard<'_, State>,
    from: i64,
    wanted: &Wanted<'_>,
) -> Result<Changes, StateFileError> {
    let first = Revision::first_of(from);
    if state.revision < from {
        return Ok(Changes {
            records: Vec::new(),
            through: from - 1,
        });
    }
    if let KeyRange::One(key) = wanted.range {
        let (found, through) = versions_of_key(&state, key, from, wanted);
        let view = state.view.clone();
        drop(state);
        return fetch(found, &view, through);
    }
    let in_memory = state.overlay.first_revision();
    if in_memory.is_some_and(|in_memory| in_memory <= first) {
        return Ok(scan_overlay(&state, first, wanted));
    }
    // A main revision is either in memory or on disk as a whole: persist stops between commands.
    let through = in_memory.map_or(state.revision, |in_memory| in_memory.main - 1);
    let view = state.view.clone();
    drop(state);
    scan_view(&view, first, through, wanted)
}

/// Collects wanted changes until a limit is reached, and then on to the end of the main revision.
struct Piece<'a> {
    wanted: &'a Wanted<'a>,
    changes: Changes,
    revisions: usize,
    bytes: usize,
    scanned: usize,
    last: i64,
}

impl<'a> Piece<'a> {
    fn new(wanted: &'a Wanted<'a>) -> Self {
        Self {
            wanted,
            changes: Changes::default(),
            revisions: 0,
            bytes: 0,
            scanned: 0,
            last: 0,
        }
    }

    /// Whether the piece ends before `revision`.
    fn ends_before(&mut self, revision: Revision) -> bool {
        let full = self.revisions >= MAX_REVISIONS
            || self.bytes >= MAX_BYTES
            || self.scanned >= MAX_SCANNED;
        if full && revision.main != self.last {
            return true;
        }
        self.scanned += 1;
        self.last = revision.main;
        false
    }

    fn add(&mut self, record: Record) {
        let newest = self.changes.records.last().map(|last| last.revision.main);
        if newest != Some(record.revision.main) {
            self.revisions += 1;
        }
        self.bytes += record.memory_bytes();
        self.changes.records.push(record);
    }

    fn finish(mut self, ended: bool, through: i64) -> Changes {
        self.changes.through = if ended { self.last } else { through };
        self.changes
    }
}

fn scan_overlay(state: &State, first: Revision, wanted: &Wanted<'_>) -> Changes {
    let mut piece = Piece::new(wanted);
    for record in state.overlay.records_from(first) {
        if piece.ends_before(record.revision) {
            return piece.finish(true, state.revision);
        }
        if piece.wanted.matches(&record.key, record.is_tombstone()) {
            piece.add(record.clone());
        }
    }
    piece.finish(false, state.revision)
}

fn scan_view(
    view: &View,
    first: Revision,
    through: i64,
    wanted: &Wanted<'_>,
) -> Result<Changes, StateFileError> {
    let mut piece = Piece::new(wanted);
    let mut ended = false;
    view.scan(first, |revision, record: RecordHeader<'_>| {
        ended = piece.ends_before(revision);
        if ended {
            return Scan::Stop;
        }
        if piece.wanted.matches(record.key, record.is_tombstone()) {
            piece.add(record.to_record(revision));
        }
        Scan::Continue
    })?;
    Ok(piece.finish(ended, through))
}

/// Where the wanted versions of one key are, and how far that reaches.
fn versions_of_key(state: &State, key: &[u8], from: i64, wanted: &Wanted<'_>) -> (Vec<Found>, i64) {
    let versions = state.index.versions_from(key, from);
    let mut wanted_versions = versions.filter(|version| wanted.matches(key, version.tombstone));
    let mut found = Vec::new();
    let mut last = from;
    let through = loop {
        let Some(version) = wanted_versions.next() else {
            break state.revision;
        };
        if found.len() >= MAX_REVISIONS && version.revision.main != last {
            break last;
        }
        last = version.revision.main;
        found.push(state.locate(version.revision));
    };
    (found, through)
}

/// Fetches versions of one key, as many as a piece may have in bytes.
fn fetch(found: Vec<Found>, view: &View, through: i64) -> Result<Changes, StateFileError> {
    let mut changes = Changes {
        records: Vec::with_capacity(found.len()),
        through,
    };
    let mut bytes = 0;
    for found in found {
        let record = found.fetch(view)?;
        let last = changes
            .records
            .last()
            .map(|last: &Record| last.revision.main);
        if bytes >= MAX_BYTES && last != Some(record.revision.main) {
            changes.through = last.expect("a full piece has a record");
            return Ok(changes);
        }
        bytes += record.memory_bytes();
        changes.records.push(record);
    }
    Ok(changes)
}
