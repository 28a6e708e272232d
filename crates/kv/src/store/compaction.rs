//! Compaction: giving up the history before a revision.
//!
//! It happens in two steps. The command, the same on every node and at once, moves the compacted revision: what lies before it can no
//! longer be read or watched. The scrub, each node for itself and when it has time, forgets the versions that became unreachable: it walks
//! the index in short steps, and removes what it found there from disk as a part of later persists, a bounded number of rows at a time.
//! Nothing that can be asked for depends on how far the scrub is.
//!
//! The scrub only begins when the compaction is durable, so it never touches the overlay and a crash can undo neither.

use super::error::KvError;
use super::range::{State, header};
use super::record::Revision;
use super::table::RecordWriter;
use crate::proto::etcdserverpb::CompactionResponse;
use std::collections::VecDeque;
use std::sync::RwLock;

/// Keys the scrub looks at while it holds the state's lock once: some hundred microseconds.
const KEYS_PER_LOCK: usize = 1024;

/// Keys the scrub looks at in one persist.
const KEYS_PER_PERSIST: usize = 256 * 1024;

/// Rows the scrub removes in one persist: some tens of milliseconds.
const ROWS_PER_PERSIST: usize = 10_000;

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
    /// Found but not removed from disk yet.
    garbage: VecDeque<Revision>,
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

    /// Walks on through the index, forgetting what is unreachable there.
    pub fn find(&mut self, state: &RwLock<State>, durable_compact_revision: i64) {
        if !self.has_work(durable_compact_revision) {
            return;
        }
        let pass = self.under_way.get_or_insert_with(|| Pass {
            compact_revision: durable_compact_revision,
            walk: Walk::After(None),
            garbage: VecDeque::new(),
        });
        for _ in 0..KEYS_PER_PERSIST / KEYS_PER_LOCK {
            let Walk::After(key) = &pass.walk else {
                return;
            };
            if pass.garbage.len() >= ROWS_PER_PERSIST {
                return;
            }
            let mut found = Vec::new();
            let next = super::write(state).index.trim(
                key.as_deref(),
                KEYS_PER_LOCK,
                pass.compact_revision,
                &mut found,
            );
            pass.garbage.extend(found);
            pass.walk = match next {
                Some(key) => Walk::After(Some(key)),
                None => Walk::Done,
            };
        }
    }

    /// Removes rows that were found; returns the bytes they took.
    pub fn remove(&mut self, records: &mut RecordWriter<'_>) -> Result<u64, redb::StorageError> {
        let Some(pass) = &mut self.under_way else {
            return Ok(0);
        };
        let rows = pass.garbage.len().min(ROWS_PER_PERSIST);
        let mut bytes = 0;
        for revision in pass.garbage.drain(..rows) {
            bytes += records.remove(revision)?;
        }
        if pass.garbage.is_empty() && matches!(pass.walk, Walk::Done) {
            self.scrubbed_revision = pass.compact_revision;
            self.under_way = None;
        }
        Ok(bytes)
    }
}
