//! The streams of a sequence: the same one on every node, and what is known of its watches.

use eaves_kv::proto::etcdserverpb::WatchCreateRequest;

use crate::watches::{Stream, StreamLog, event_revision};

/// The same stream on every node, the reference's first.
pub struct StreamSet {
    pub streams: Vec<Stream>,
    /// The accepted watches, in the order in which they were made.
    pub watches: Vec<Watch>,
}

/// An accepted watch.
pub struct Watch {
    pub id: i64,
    pub create: WatchCreateRequest,
    /// The first revision it sees.
    pub start: i64,
    /// Its start, if that was the compacted revision: a deletion there is kept by some versions and not by others.
    pub stale_start: Option<i64>,
    pub ended_by: Option<Ended>,
}

/// How a watch ended.
#[derive(PartialEq)]
pub enum Ended {
    Request,
    Compaction,
}

impl StreamSet {
    /// The places of the watches that have not ended.
    pub fn live(&self) -> impl Iterator<Item = usize> {
        self.watches
            .iter()
            .enumerate()
            .filter(|(_, watch)| watch.ended_by.is_none())
            .map(|(index, _)| index)
    }

    /// How many create requests were answered.
    pub fn answers(&self) -> usize {
        self.streams[0].log.watches.len() + self.streams[0].log.refused.len()
    }
}

/// All keys, all kinds of events, from this revision on.
pub fn watch_of_everything(start_revision: i64) -> WatchCreateRequest {
    let everything = "\0";
    WatchCreateRequest {
        key: everything.into(),
        range_end: everything.into(),
        start_revision,
        prev_kv: true,
        ..Default::default()
    }
}

/// The revision of the last event of a stream's first watch, 0 when there was none.
pub fn last_revision(log: &StreamLog) -> i64 {
    let events = log.watches.first().and_then(|watch| watch.events.last());
    events.map_or(0, event_revision)
}
