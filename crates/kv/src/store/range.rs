//! Reads: the state a reader sees, and the range request on it.
//!
//! A read has two halves. Under the state's lock it finds, in the index, which versions it wants, and takes along those that are in memory;
//! then, without any lock, it fetches the rest from the [`View`] of the durable state it took along too. Records move from memory to disk
//! only under the lock and together with the view, so nothing can get lost in between, and the answer is of one point in time.

use super::error::KvError;
use super::go_sort::sort_like_go;
use super::index::{Index, KeyRange};
use super::overlay::Overlay;
use super::record::{Record, Revision};
use super::table::{StateFileError, View};
use crate::proto::etcdserverpb::{
    RangeRequest, RangeResponse, ResponseHeader,
    range_request::{SortOrder, SortTarget},
};
use std::cmp::Ordering;
use std::sync::Arc;

/// Everything a read can need. Lives under the store's lock.
///
/// Invariants: every version the index knows is in exactly one of overlay and view, unless it is unreachable below `compact_revision`;
/// `compact_revision <= revision`.
pub struct State {
    pub index: Index,
    pub overlay: Overlay,
    pub view: Arc<View>,
    /// Main revision of the last change; 1 when nothing ever happened.
    pub revision: i64,
    /// Reads below this are refused; -1 before the first compaction.
    pub compact_revision: i64,
}

/// Why a read gave no answer.
#[derive(Debug)]
pub enum ReadError {
    /// The request is at fault, on every node alike.
    Refused(KvError),
    /// This node's state file is.
    Broken(StateFileError),
}

impl From<KvError> for ReadError {
    fn from(error: KvError) -> Self {
        ReadError::Refused(error)
    }
}

impl From<StateFileError> for ReadError {
    fn from(error: StateFileError) -> Self {
        ReadError::Broken(error)
    }
}

/// A record that was found: at hand, or where to get it.
#[derive(Debug)]
pub enum Found {
    Memory(Record),
    Disk(Revision),
}

impl Found {
    /// The record. `view` is that of the state it was found in.
    pub fn fetch(self, view: &View) -> Result<Record, StateFileError> {
        match self {
            Found::Memory(record) => Ok(record),
            Found::Disk(revision) => view.get(revision),
        }
    }
}

/// The first half of a range request: what was found, to be fetched without the lock.
pub struct FoundRange {
    found: Vec<Found>,
    count: i64,
    /// The current revision, for the header.
    revision: i64,
    view: Arc<View>,
}

impl State {
    /// Where the record of a version that the index knows is.
    pub fn locate(&self, revision: Revision) -> Found {
        match self.overlay.get(revision) {
            Some(record) => Found::Memory(record.clone()),
            None => Found::Disk(revision),
        }
    }

    /// The record of `key` as of main revision `at`, which is not compacted.
    pub fn get(&self, key: &[u8], at: i64) -> Result<Option<Record>, StateFileError> {
        let Some(revision) = self.index.get(key, at) else {
            return Ok(None);
        };
        self.locate(revision).fetch(&self.view).map(Some)
    }

    /// The first half of a range request. `current` is the revision that counts as now; inside a transaction that changed something it is
    /// one ahead of the store's.
    pub fn find(&self, request: &RangeRequest, current: i64) -> Result<FoundRange, KvError> {
        check_sort(request)?;
        if request.revision > current {
            return Err(KvError::FutureRevision);
        }
        let at = if request.revision <= 0 {
            current
        } else {
            request.revision
        };
        if at < self.compact_revision {
            return Err(KvError::Compacted);
        }
        let wanted = if request.count_only {
            0
        } else {
            records_wanted(request)
        };
        let mut found = Vec::new();
        let mut count = 0;
        let range = KeyRange::new(&request.key, &request.range_end);
        self.index.for_each_live(range, at, |_, revision| {
            count += 1;
            if found.len() < wanted {
                found.push(self.locate(revision));
            }
        });
        Ok(FoundRange {
            found,
            count,
            revision: current,
            view: self.view.clone(),
        })
    }

    /// Both halves at once, for who holds the lock anyway.
    pub fn range(&self, request: &RangeRequest, current: i64) -> Result<RangeResponse, ReadError> {
        Ok(self.find(request, current)?.finish(request)?)
    }
}

impl FoundRange {
    /// The second half: fetches, filters, sorts and cuts, in this order.
    pub fn finish(self, request: &RangeRequest) -> Result<RangeResponse, StateFileError> {
        let mut records = Vec::with_capacity(self.found.len());
        for found in self.found {
            records.push(found.fetch(&self.view)?);
        }
        records.retain(|record| passes_filters(request, record));
        sort(request, &mut records);
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let more = limit > 0 && records.len() > limit;
        if more {
            records.truncate(limit);
        }
        let mut kvs: Vec<_> = records.iter().map(Record::to_key_value).collect();
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(RangeResponse {
            header: Some(header(self.revision)),
            kvs,
            more,
            count: self.count,
        })
    }
}

/// A header with only the revision; the answering node's service adds who and when.
pub fn header(revision: i64) -> ResponseHeader {
    ResponseHeader {
        revision,
        ..Default::default()
    }
}

/// Refuses a sort that does not exist. (etcd 3.5.1 does not check and crashes on some; later ones refuse as here.)
pub fn check_sort(request: &RangeRequest) -> Result<(), KvError> {
    let known = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    known.then_some(()).ok_or(KvError::InvalidSortOption)
}

/// How many records must be fetched, in key order, before filtering and sorting: one more than the limit, to know whether there are more.
///
/// As in etcd, a limit is applied before sorting when a sort target but no sort order is given.
fn records_wanted(request: &RangeRequest) -> usize {
    let all = request.limit <= 0
        || request.sort_order() != SortOrder::None
        || request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    if all {
        return usize::MAX;
    }
    usize::try_from(request.limit).map_or(usize::MAX, |limit| limit.saturating_add(1))
}

fn passes_filters(request: &RangeRequest, record: &Record) -> bool {
    let within = |revision: i64, min: i64, max: i64| {
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    within(
        record.revision.main,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        record.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}

/// Sorts records that are in key order. Records that compare equal come in the order in which etcd 3.5.1 gives them.
fn sort(request: &RangeRequest, records: &mut [Record]) {
    let (order, target) = (request.sort_order(), request.sort_target());
    if target == SortTarget::Key && order != SortOrder::Descend {
        return;
    }
    let compare = |a: &Record, b: &Record| -> Ordering {
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.revision.main.cmp(&b.revision.main),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    if order == SortOrder::Descend {
        sort_like_go(records, |a, b| compare(b, a).is_lt());
    } else {
        sort_like_go(records, |a, b| compare(a, b).is_lt());
    }
}
