//! One watch stream, as a pure translation: requests into orders for the hub, the hub's items into responses.
//!
//! The hub decides what happened, in which order the client hears of it, and which ids watchers have. What is left for a session are
//! the options that concern only how a watcher is answered:
//!
//! - `progress_notify`: at every tick each such watcher that got no events since the tick before reports its progress;
//! - `fragment`: a response that is too large is cut into several.
//!
//! Creates are answered in the order in which they were asked for, so the options of watchers under way wait in a queue.

use crate::{
    proto::{
        etcdserverpb::{
            ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse,
            watch_create_request::FilterType, watch_request::RequestUnion,
        },
        mvccpb::Event,
    },
    store::{WatchItem, WatchSpec},
};
use bytes::Bytes;
use prost::Message;
use std::collections::{HashMap, VecDeque};

/// The watcher id of responses that concern no watcher, or all of the stream.
const NO_WATCHER: i64 = -1;

/// What a request asks of the hub.
#[derive(Debug, PartialEq)]
pub(crate) enum Order {
    Watch(WatchSpec),
    Cancel(i64),
    Progress,
}

/// The state of one stream. `header` makes a header of a revision.
///
/// - Every watcher that is created and not canceled has an entry in `watchers`.
/// - `creating` has one entry for each create that the hub has not answered yet, oldest first.
pub(crate) struct Session<H> {
    header: H,
    fragment_bytes: usize,
    creating: VecDeque<WatcherOptions>,
    watchers: HashMap<i64, WatcherOptions>,
}

#[derive(Clone, Copy, Default)]
struct WatcherOptions {
    fragment: bool,
    progress_notify: bool,
    /// Whether events were sent since the last tick, so that the next has nothing to add.
    active: bool,
}

impl<H: Fn(i64) -> ResponseHeader> Session<H> {
    /// A stream without watchers, which cuts responses of fragmenting watchers at `fragment_bytes`.
    pub fn new(header: H, fragment_bytes: usize) -> Self {
        Self {
            header,
            fragment_bytes,
            creating: VecDeque::new(),
            watchers: HashMap::new(),
        }
    }

    /// What the hub should do for `request`; a request without content is ignored, as in etcd.
    pub fn handle_request(&mut self, request: WatchRequest) -> Option<Order> {
        Some(match request.request_union? {
            RequestUnion::CreateRequest(request) => {
                self.creating.push_back(WatcherOptions {
                    fragment: request.fragment,
                    progress_notify: request.progress_notify,
                    active: false,
                });
                Order::Watch(spec(request))
            }
            RequestUnion::CancelRequest(request) => Order::Cancel(request.watch_id),
            RequestUnion::ProgressRequest(_) => Order::Progress,
        })
    }

    /// The responses that tell the client of `item`, in order.
    pub fn handle_item(&mut self, item: WatchItem) -> Vec<WatchResponse> {
        let single = match item {
            WatchItem::Created { watch_id, revision } => {
                let options = self.next_created();
                self.watchers.insert(watch_id, options);
                WatchResponse {
                    created: true,
                    ..self.response(watch_id, revision)
                }
            }
            WatchItem::Refused { revision, refusal } => {
                self.next_created();
                WatchResponse {
                    created: true,
                    canceled: true,
                    cancel_reason: refusal.to_string(),
                    ..self.response(NO_WATCHER, revision)
                }
            }
            WatchItem::Events {
                watch_id,
                revision,
                events,
            } => return self.events(watch_id, revision, events),
            WatchItem::Progress { watch_id, revision } => self.response(watch_id, revision),
            WatchItem::Canceled { watch_id, revision } => {
                self.watchers.remove(&watch_id);
                WatchResponse {
                    canceled: true,
                    ..self.response(watch_id, revision)
                }
            }
            WatchItem::Compacted {
                watch_id,
                compact_revision,
            } => {
                self.watchers.remove(&watch_id);
                WatchResponse {
                    canceled: true,
                    compact_revision,
                    ..self.response(watch_id, 0)
                }
            }
        };
        vec![single]
    }

    /// The watchers whose progress is due at this tick, in the order of their ids.
    pub fn handle_tick(&mut self) -> Vec<i64> {
        let mut due = Vec::new();
        for (&watch_id, options) in self
            .watchers
            .iter_mut()
            .filter(|(_, options)| options.progress_notify)
        {
            if !std::mem::take(&mut options.active) {
                due.push(watch_id);
            }
        }
        due.sort_unstable();
        due
    }

    fn next_created(&mut self) -> WatcherOptions {
        self.creating
            .pop_front()
            .expect("the hub answers each create once, and nothing else")
    }

    fn response(&self, watch_id: i64, revision: i64) -> WatchResponse {
        WatchResponse {
            header: Some((self.header)(revision)),
            watch_id,
            ..Default::default()
        }
    }

    fn events(&mut self, watch_id: i64, revision: i64, events: Vec<Event>) -> Vec<WatchResponse> {
        let options = self
            .watchers
            .get_mut(&watch_id)
            .expect("the hub sends events only to watchers that it created");
        options.active = true;
        let whole = WatchResponse {
            events,
            ..self.response(watch_id, revision)
        };
        if self.watchers[&watch_id].fragment {
            fragments(whole, self.fragment_bytes)
        } else {
            vec![whole]
        }
    }
}

fn spec(request: WatchCreateRequest) -> WatchSpec {
    let no_put = request.filters().any(|filter| filter == FilterType::Noput);
    let no_delete = request
        .filters()
        .any(|filter| filter == FilterType::Nodelete);
    WatchSpec {
        watch_id: request.watch_id,
        // Copies: a watcher must not keep the buffer that its request came in.
        key: Bytes::copy_from_slice(&request.key),
        range_end: Bytes::copy_from_slice(&request.range_end),
        start_revision: request.start_revision,
        no_put,
        no_delete,
        prev_kv: request.prev_kv,
    }
}

/// Cuts a response into pieces below `limit_bytes` where it can: a piece has at least one event. All but the last are marked.
fn fragments(mut whole: WatchResponse, limit_bytes: usize) -> Vec<WatchResponse> {
    if whole.encoded_len() < limit_bytes || whole.events.len() < 2 {
        return vec![whole];
    }
    let events = std::mem::take(&mut whole.events);
    // The mark itself takes space too.
    let empty_bytes = WatchResponse {
        fragment: true,
        ..whole.clone()
    }
    .encoded_len();
    let mut pieces: Vec<WatchResponse> = Vec::new();
    let mut bytes = limit_bytes;
    for event in events {
        let event_bytes = event_field_bytes(&event);
        if bytes + event_bytes >= limit_bytes {
            pieces.push(WatchResponse {
                fragment: true,
                ..whole.clone()
            });
            bytes = empty_bytes;
        }
        bytes += event_bytes;
        let piece = pieces.last_mut().expect("the first event opens a piece");
        piece.events.push(event);
    }
    let last = pieces.last_mut().expect("there are events");
    last.fragment = false;
    pieces
}

/// The bytes an event takes within a response: its tag (one byte, for field 11), its length, and itself.
fn event_field_bytes(event: &Event) -> usize {
    let bytes = event.encoded_len();
    1 + prost::length_delimiter_len(bytes) + bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::{
            etcdserverpb::{WatchCancelRequest, WatchProgressRequest},
            mvccpb::KeyValue,
        },
        store::WatchRefusal,
    };

    fn session() -> Session<impl Fn(i64) -> ResponseHeader> {
        session_cutting_at(usize::MAX)
    }

    fn session_cutting_at(bytes: usize) -> Session<impl Fn(i64) -> ResponseHeader> {
        Session::new(
            |revision| ResponseHeader {
                cluster_id: 7,
                member_id: 3,
                revision,
                raft_term: 2,
            },
            bytes,
        )
    }

    fn create(request: WatchCreateRequest) -> WatchRequest {
        WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(request)),
        }
    }

    fn event(key: &str, value_bytes: usize) -> Event {
        let kv = KeyValue {
            key: key.to_owned().into(),
            value: vec![b'v'; value_bytes].into(),
            ..Default::default()
        };
        Event {
            kv: Some(kv),
            ..Default::default()
        }
    }

    fn events(watch_id: i64, revision: i64, events: Vec<Event>) -> WatchItem {
        WatchItem::Events {
            watch_id,
            revision,
            events,
        }
    }

    /// The one response to `item`.
    fn only<H: Fn(i64) -> ResponseHeader>(
        session: &mut Session<H>,
        item: WatchItem,
    ) -> WatchResponse {
        let [response] = session.handle_item(item).try_into().expect("one response");
        response
    }

    #[test]
    fn a_create_request_reaches_the_hub_whole() {
        let request = WatchCreateRequest {
            key: "a".into(),
            range_end: "b".into(),
            start_revision: 5,
            prev_kv: true,
            watch_id: 9,
            filters: vec![FilterType::Nodelete as i32],
            ..Default::default()
        };
        let expected = WatchSpec {
            watch_id: 9,
            key: "a".into(),
            range_end: "b".into(),
            start_revision: 5,
            no_put: false,
            no_delete: true,
            prev_kv: true,
        };
        assert_eq!(
            session().handle_request(create(request)),
            Some(Order::Watch(expected))
        );
    }

    #[test]
    fn other_requests_are_passed_on_and_empty_ones_ignored() {
        let mut session = session();
        let cancel = RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 4 });
        let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
        assert_eq!(
            session.handle_request(WatchRequest {
                request_union: Some(cancel)
            }),
            Some(Order::Cancel(4))
        );
        assert_eq!(
            session.handle_request(WatchRequest {
                request_union: Some(progress)
            }),
            Some(Order::Progress)
        );
        assert_eq!(
            session.handle_request(WatchRequest {
                request_union: None
            }),
            None
        );
    }

    #[test]
    fn every_response_names_this_node() {
        let mut session = session();
        session.handle_request(create(WatchCreateRequest::default()));
        let response = only(
            &mut session,
            WatchItem::Created {
                watch_id: 0,
                revision: 12,
            },
        );
        assert!(response.created && !response.canceled);
        let header = ResponseHeader {
            cluster_id: 7,
            member_id: 3,
            revision: 12,
            raft_term: 2,
        };
        assert_eq!(response.header, Some(header));
    }

    #[test]
    fn a_refusal_is_created_and_canceled_without_a_watcher() {
        let mut session = session();
        session.handle_request(create(WatchCreateRequest::default()));
        let refusal = WatchRefusal::DuplicateId;
        let response = only(
            &mut session,
            WatchItem::Refused {
                revision: 3,
                refusal,
            },
        );
        assert!(response.created && response.canceled);
        assert_eq!(response.watch_id, -1);
        assert_eq!(
            response.cancel_reason,
            "mvcc: duplicate watch ID provided on the WatchStream"
        );
        assert_eq!(response.compact_revision, 0);
    }

    #[test]
    fn a_compacted_watcher_ends_without_a_reason() {
        let mut session = session();
        session.handle_request(create(WatchCreateRequest {
            progress_notify: true,
            ..Default::default()
        }));
        session.handle_item(WatchItem::Created {
            watch_id: 0,
            revision: 9,
        });
        let response = only(
            &mut session,
            WatchItem::Compacted {
                watch_id: 0,
                compact_revision: 6,
            },
        );
        assert!(response.canceled && !response.created);
        assert_eq!(
            (
                response.watch_id,
                response.compact_revision,
                response.cancel_reason.as_str()
            ),
            (0, 6, "")
        );
        assert_eq!(session.handle_tick(), [] as [i64; 0]);
    }

    #[test]
    fn options_belong_to_their_own_create_even_when_one_is_refused() {
        let mut session = session();
        for progress_notify in [true, false, true] {
            session.handle_request(create(WatchCreateRequest {
                progress_notify,
                ..Default::default()
            }));
        }
        session.handle_item(WatchItem::Refused {
            revision: 1,
            refusal: WatchRefusal::EmptyRange,
        });
        session.handle_item(WatchItem::Created {
            watch_id: 0,
            revision: 1,
        });
        session.handle_item(WatchItem::Created {
            watch_id: 1,
            revision: 1,
        });
        assert_eq!(session.handle_tick(), [1]);
    }

    #[test]
    fn progress_is_skipped_once_after_events_and_ends_with_the_watcher() {
        let mut session = session();
        session.handle_request(create(WatchCreateRequest {
            progress_notify: true,
            ..Default::default()
        }));
        session.handle_item(WatchItem::Created {
            watch_id: 0,
            revision: 1,
        });
        session.handle_item(events(0, 2, vec![event("a", 1)]));
        assert_eq!(session.handle_tick(), [] as [i64; 0]);
        assert_eq!(session.handle_tick(), [0]);
        session.handle_item(WatchItem::Canceled {
            watch_id: 0,
            revision: 2,
        });
        assert_eq!(session.handle_tick(), [] as [i64; 0]);
    }

    #[test]
    fn only_watchers_that_asked_for_fragments_get_them() {
        let mut session = session_cutting_at(300);
        for fragment in [false, true] {
            session.handle_request(create(WatchCreateRequest {
                fragment,
                ..Default::default()
            }));
        }
        session.handle_item(WatchItem::Created {
            watch_id: 0,
            revision: 1,
        });
        session.handle_item(WatchItem::Created {
            watch_id: 1,
            revision: 1,
        });
        let five = || {
            (0..5)
                .map(|n| event(&format!("k{n}"), 100))
                .collect::<Vec<_>>()
        };
        assert_eq!(session.handle_item(events(0, 6, five())).len(), 1);

        let pieces = session.handle_item(events(1, 6, five()));
        assert!(pieces.iter().all(|piece| piece.encoded_len() < 300));
        let marks: Vec<bool> = pieces.iter().map(|piece| piece.fragment).collect();
        assert_eq!(marks, [true, true, false]);
        let joined: Vec<Event> = pieces.into_iter().flat_map(|piece| piece.events).collect();
        assert_eq!(joined, five());
    }

    #[test]
    fn an_event_above_the_limit_travels_alone() {
        let whole = WatchResponse {
            events: vec![event("a", 10), event("b", 500), event("c", 10)],
            ..Default::default()
        };
        let pieces = fragments(whole, 100);
        let sizes: Vec<usize> = pieces.iter().map(|piece| piece.events.len()).collect();
        assert_eq!(sizes, [1, 1, 1]);
        assert!(!pieces[2].fragment);
    }
}
