//! Compaction: giving up the history before a revision.
//!
//! It happens in two steps. The command, the same on every node and at once, moves the compacted revision: what lies before it can no
//! longer be read or watched. The scrub, each node for itself and when it has time, forgets the versions that became unreachable: it walks
//! the index in short steps, and removes what it found there from disk as a part of later persists, a bounded number of rows at a time.
//! Nothing that can be asked for depends on how far the scrub is.
//!
//! The index is in the order of keys, the rows are in that of revisions. So the scrub first finds many, and then removes them in the order
//! of the rows: neighbours are in one page, which is then written once and not once for each of them.
//!
//! The scrub only begins when the compaction is durable, so it never touches the overlay and a crash can undo neither.

use super::error::KvError;
use super::range::{State, header};
use super::record::Revision;
use super::table::RecordWriter;
use crate::proto::etcdserverpb::CompactionResponse;
use std::collections::BTreeSet;
use std::sync::RwLock;

/// Keys the scrub looks at while it holds the state's lock once: some hundred microseconds.
const KEYS_PER_LOCK: usize = 256;

/// Keys the scrub looks at in one persist.
const KEYS_PER_PERSIST: usize = 16 * 1024;

/// Revisions the scrub finds in one persist, but for those of one step more: some milliseconds.
const FOUND_PER_PERSIST: usize = 8 * 1024;

/// Revisions the scrub finds before it removes their rows, if the index does not end before: some 24 MiB of them.
const FOUND_MAX: usize = 1 << 20;

/// Rows that stay between two that go, at most, for these to be removed in one run: it looks at them.
const GAP_MAX: i64 = 8;

/// Rows the scrub removes in one persist: some milliseconds.
const ROWS_PER_PERSIST: usize = 2_000;

/// Executes a compaction at `revision`; etcd's `Compact`, first half.
pub fn compact(state: &mut State, revision: i64) -> Result<CompactionResponse, KvError> {
    if revision <= state.compact_revision {
        return Err(KvError::Compacted);
    }
    if revision > state.revision {
        return Err(KvError::FutureRevision);
    }
    state.compact_revision = revision;
    Ok(CompactionResponse {
        header: Some(header(state.revision)),
    })
}

/// How far the scrub of the durable state is.
#[derive(Debug)]
pub struct Scrub {
    /// Everything unreachable below this compacted revision is gone.
    scrubbed_revision: i64,
    under_way: Option<Pass>,
}

/// One walk over the index for one compacted revision.
#[derive(Debug)]
struct Pass {
    compact_revision: i64,
    walk: Walk,
    /// Unreachable and not yet removed from disk.
    found: BTreeSet<Revision>,
    /// Whether enough is found: it is removed before more is looked for.
    removes: bool,
}

#[derive(Debug)]
enum Walk {
    After(Option<Box<[u8]>>),
    Done,
}

impl Scrub {
    /// That of a state that says it is scrubbed up to `scrubbed_revision`.
    pub fn new(scrubbed_revision: i64) -> Self {
        Self {
            scrubbed_revision,
            under_way: None,
        }
    }

    /// The compacted revision that the scrub is through with.
    pub fn scrubbed_revision(&self) -> i64 {
        self.scrubbed_revision
    }

    /// Whether there is something to do when `durable_compact_revision` is the compacted revision of the durable state.
    pub fn has_work(&self, durable_compact_revision: i64) -> bool {
        self.under_way.is_some() || self.scrubbed_revision < durable_compact_revision
    }

    /// Walks on through the index, forgetting what is unreachable there, until enough is found to be removed; true when it is.
    pub fn find(&mut self, state: &RwLock<State>, durable_compact_revision: i64) -> bool {
        if !self.has_work(durable_compact_revision) {
            return false;
        }
        let pass = self
            .under_way
            .get_or_insert_with(|| Pass::new(durable_compact_revision));
        if !pass.removes {
            pass.find(state);
        }
        pass.removes
    }

    /// Removes rows that were found; returns the bytes they took.
    pub fn remove(&mut self, records: &mut RecordWriter<'_>) -> Result<u64, redb::StorageError> {
        let Some(pass) = &mut self.under_way else {
            return Ok(0);
        };
        let rows = std::iter::from_fn(|| pass.found.pop_first()).take(ROWS_PER_PERSIST);
        let rows: Vec<Revision> = rows.collect();
        let mut bytes = 0;
        for run in rows.chunk_by(|one, next| next.main - one.main <= GAP_MAX) {
            bytes += records.remove_run(run)?;
        }
        pass.removes = !pass.found.is_empty();
        if !pass.removes && matches!(pass.walk, Walk::Done) {
            self.scrubbed_revision = pass.compact_revision;
            self.under_way = None;
        }
        Ok(bytes)
    }
}

impl Pass {
    fn new(compact_revision: i64) -> Self {
        Self {
            compact_revision,
            walk: Walk::After(None),
            found: BTreeSet::new(),
            removes: false,
        }
    }

    fn find(&mut self, state: &RwLock<State>) {
        let enough = FOUND_MAX.min(self.found.len() + FOUND_PER_PERSIST);
        for _ in 0..KEYS_PER_PERSIST / KEYS_PER_LOCK {
            let Walk::After(key) = &self.walk else {
                break;
            };
            if self.found.len() >= enough {
                break;
            }
            let mut found = Vec::new();
            let next = super::write(state).index.trim(
                key.as_deref(),
                KEYS_PER_LOCK,
                self.compact_revision,
                &mut found,
            );
            self.found.extend(found);
            self.walk = match next {
                Some(key) => Walk::After(Some(key)),
                None => Walk::Done,
            };
        }
        self.removes = self.found.len() >= FOUND_MAX || matches!(self.walk, Walk::Done);
    }
}
