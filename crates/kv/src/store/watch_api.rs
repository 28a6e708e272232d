//! What a watch stream says and hears: requests in, [`WatchItem`]s out.
//!
//! How a service uses it, one stream per gRPC call:
//!
//! ```text
//! let (handle, mut items) = store.watch_hub().open_stream();
//! // reading side: for every request
//! handle.room().await;                    // back-pressure: waits while the client leaves too many answers unread
//! handle.watch(WatchSpec { .. });         // create_request; validation, ids and refusals are the hub's
//! handle.cancel(watch_id);                // cancel_request
//! handle.progress();                      // progress_request
//! handle.progress_of(watch_id);           // the progress_notify timer of one watcher
//! // writing side
//! while let Some(item) = items.recv().await { send(to_response(item)) }
//! ```
//!
//! Everything the client must hear comes out of `items` in the order in which it must hear it, answers to requests included, so the
//! service keeps no order of its own. Dropping `items` ends all watchers of the stream.

use crate::proto::mvccpb::Event;
use bytes::Bytes;

/// What to watch; the fields of etcd's `WatchCreateRequest`, unchecked and as received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchSpec {
    /// The id the client chose, or 0 to get the next free one of this stream (counting from 0).
    pub watch_id: i64,
    /// First key; empty stands for `\0`.
    pub key: Bytes,
    /// Empty: only `key`. `\0`: everything from `key`. Else the first key that is not watched.
    pub range_end: Bytes,
    /// First revision of interest; 0 for what happens from now on.
    pub start_revision: i64,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletes.
    pub no_delete: bool,
    /// Give each event the key's value before it.
    pub prev_kv: bool,
}

/// Why a watcher was not created. The words are etcd's `cancel_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchRefusal {
    /// The id is in use on this stream.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
    /// `range_end` is not after `key`.
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    /// The node has as many watchers as it takes.
    #[error("etcdserver: too many requests")]
    TooMany,
    /// `start_revision` is negative.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    NegativeStart,
}

/// One thing to tell the client; each is one `WatchResponse`, the service adding cluster, member and term to the header.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchItem {
    /// `created`. Later items of this watcher follow; what it will see begins after `revision` unless it asked for an earlier start.
    Created {
        /// The watcher's id from now on.
        watch_id: i64,
        /// Header revision: the store's at creation.
        revision: i64,
    },
    /// `created` and `canceled` at once, with watch id -1 and the refusal's words as `cancel_reason`.
    Refused {
        /// Header revision.
        revision: i64,
        /// Why.
        refusal: WatchRefusal,
    },
    /// Events in order of revision, never a part of a revision, never empty.
    Events {
        /// Whose.
        watch_id: i64,
        /// Header revision: at least that of the last event; all events of this watcher up to it have now been given out.
        revision: i64,
        /// What happened.
        events: Vec<Event>,
    },
    /// All events of the watcher (of the whole stream if `watch_id` is -1) up to `revision` have been given out.
    Progress {
        /// Whose, or -1.
        watch_id: i64,
        /// Header revision.
        revision: i64,
    },
    /// `canceled` because the client asked; nothing about this id follows.
    Canceled {
        /// Whose.
        watch_id: i64,
        /// Header revision: the store's.
        revision: i64,
    },
    /// `canceled` because history the watcher still needed is gone: `compact_revision` set, `cancel_reason` empty (and etcd leaves the
    /// header's revision 0). Nothing about this id follows.
    Compacted {
        /// Whose.
        watch_id: i64,
        /// The first revision that can still be watched from.
        compact_revision: i64,
    },
}
