//! Watch streams over TCP. Responses are awaited in order; nothing here depends on how long anything takes.

use crate::server::{Server, delete, put, put_op};
use eaves_kv::proto::{
    etcdserverpb::{
        CompactionRequest, TxnRequest, WatchCancelRequest, WatchCreateRequest,
        WatchProgressRequest, WatchRequest, WatchResponse, watch_client::WatchClient,
        watch_create_request::FilterType, watch_request::RequestUnion,
    },
    mvccpb::{Event, event::EventType},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

/// The client's side of one stream.
struct Stream {
    requests: mpsc::UnboundedSender<WatchRequest>,
    /// Opening waits for the server's headers, and etcd sends none before it answers the first request: so nobody waits for it here.
    opening: Option<JoinHandle<Streaming<WatchResponse>>>,
    responses: Option<Streaming<WatchResponse>>,
}

impl Stream {
    async fn open(server: &Server) -> Stream {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut client = WatchClient::new(server.channel()).max_decoding_message_size(usize::MAX);
        let requests_stream = UnboundedReceiverStream::new(receiver);
        let opening =
            tokio::spawn(async move { client.watch(requests_stream).await.unwrap().into_inner() });
        Stream {
            requests,
            opening: Some(opening),
            responses: None,
        }
    }

    async fn message(&mut self) -> Result<Option<WatchResponse>, Status> {
        if let Some(opening) = self.opening.take() {
            self.responses = Some(opening.await.unwrap());
        }
        self.responses.as_mut().unwrap().message().await
    }

    fn send(&self, request: RequestUnion) {
        self.requests
            .send(WatchRequest {
                request_union: Some(request),
            })
            .unwrap();
    }

    fn send_create(&self, request: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(request));
    }

    fn send_cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    async fn next(&mut self) -> WatchResponse {
        self.message().await.unwrap().expect("the stream goes on")
    }

    async fn end(mut self) -> Status {
        loop {
            match self.message().await {
                Ok(response) => assert!(response.is_some(), "a stream ends with a status"),
                Err(status) => return status,
            }
        }
    }

    /// Creates a watcher and returns its first response.
    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.send_create(request);
        let response = self.next().await;
        assert!(response.created, "{response:?}");
        response
    }

    /// Reads event responses of any watcher until `count` events are there.
    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.created && !response.canceled, "{response:?}");
            events.extend(response.events);
        }
        assert_eq!(events.len(), count);
        events
    }
}

fn prefix(key: &str) -> WatchCreateRequest {
    let mut range_end = key.as_bytes().to_vec();
    *range_end.last_mut().unwrap() += 1;
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: range_end.into(),
        ..Default::default()
    }
}

fn single(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

fn value(event: &Event) -> &[u8] {
    &event.kv.as_ref().unwrap().value
}

#[tokio::test]
async fn a_watcher_sees_what_comes_next_in_order() {
    let server = Server::start().await;
    let base = server.revision().await;
    let mut stream = Stream::open(&server).await;
    let created = stream.create(prefix("w")).await;
    assert_eq!(
        (created.watch_id, created.header.unwrap().revision),
        (0, base)
    );

    server.kv().put(put("w1", "1")).await.unwrap();
    server.kv().put(put("x", "not watched")).await.unwrap();
    server.kv().delete_range(delete("w1", "")).await.unwrap();
    let events = stream.events(2).await;
    assert_eq!(
        (events[0].r#type(), value(&events[0])),
        (EventType::Put, &b"1"[..])
    );
    let deleted = events[1].kv.as_ref().unwrap();
    assert_eq!(events[1].r#type(), EventType::Delete);
    assert_eq!(
        (deleted.key.as_ref(), deleted.mod_revision),
        (&b"w1"[..], base + 3)
    );
    assert_eq!(
        (
            deleted.version,
            deleted.create_revision,
            deleted.value.len()
        ),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_watcher_from_an_old_revision_gets_history_first() {
    let server = Server::start().await;
    let start_revision = server.revision().await + 1;
    for n in 0..5 {
        server.kv().put(put("h", &n.to_string())).await.unwrap();
    }
    let mut stream = Stream::open(&server).await;
    stream
        .create(WatchCreateRequest {
            start_revision,
            ..single("h")
        })
        .await;
    server.kv().put(put("h", "5")).await.unwrap();
    let events = stream.events(6).await;
    let values: Vec<&[u8]> = events.iter().map(value).collect();
    assert_eq!(values, [b"0", b"1", b"2", b"3", b"4", b"5"]);
}

#[tokio::test]
async fn prev_kv_is_given_when_asked_for() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream
        .create(WatchCreateRequest {
            prev_kv: true,
            ..single("p")
        })
        .await;
    server.kv().put(put("p", "1")).await.unwrap();
    server.kv().put(put("p", "2")).await.unwrap();
    let events = stream.events(2).await;
    assert_eq!(events[0].prev_kv, None);
    assert_eq!(events[1].prev_kv.as_ref().unwrap().value, "1");
}

#[tokio::test]
async fn filters_leave_events_out() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream
        .create(WatchCreateRequest {
            filters: vec![FilterType::Noput.into()],
            ..single("f")
        })
        .await;
    server.kv().put(put("f", "1")).await.unwrap();
    server.kv().delete_range(delete("f", "")).await.unwrap();
    assert_eq!(stream.events(1).await[0].r#type(), EventType::Delete);
}

#[tokio::test]
async fn one_revision_comes_in_one_response() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream.create(prefix("t")).await;
    let txn = TxnRequest {
        success: vec![put_op("t2", "b"), put_op("t1", "a")],
        ..Default::default()
    };
    let revision = server
        .kv()
        .txn(txn)
        .await
        .unwrap()
        .into_inner()
        .header
        .unwrap()
        .revision;
    let response = stream.next().await;
    let keys: Vec<_> = response
        .events
        .iter()
        .map(|event| event.kv.as_ref().unwrap().key.clone())
        .collect();
    assert_eq!(keys, ["t2", "t1"], "in the order of the operations");
    assert_eq!(response.header.unwrap().revision, revision);
}

#[tokio::test]
async fn creates_are_answered_in_order_with_ids_of_the_stream() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream.send_create(single("a"));
    stream.send_create(WatchCreateRequest {
        watch_id: 7,
        ..single("b")
    });
    stream.send_create(WatchCreateRequest {
        watch_id: 7,
        ..single("c")
    });
    stream.send_create(WatchCreateRequest {
        start_revision: -1,
        ..single("d")
    });
    stream.send_create(WatchCreateRequest {
        key: "z".into(),
        range_end: "a".into(),
        ..Default::default()
    });
    stream.send_create(single("e"));

    let mut answers = Vec::new();
    for _ in 0..6 {
        let response = stream.next().await;
        assert!(response.created);
        answers.push((response.watch_id, response.canceled, response.cancel_reason));
    }
    let accepted = |id| (id, false, String::new());
    let refused = |reason: &str| (-1, true, reason.to_owned());
    assert_eq!(
        answers,
        [
            accepted(0),
            accepted(7),
            refused("mvcc: duplicate watch ID provided on the WatchStream"),
            refused("etcdserver: mvcc: required revision has been compacted"),
            refused("mvcc: watcher range is empty"),
            accepted(1),
        ]
    );
}

#[tokio::test]
async fn a_canceled_watcher_is_silent() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream.create(single("c")).await;
    stream.create(single("c")).await;
    stream.send_cancel(99);
    stream.send_cancel(0);
    let canceled = stream.next().await;
    assert_eq!(
        (
            canceled.canceled,
            canceled.watch_id,
            canceled.compact_revision
        ),
        (true, 0, 0)
    );
    server.kv().put(put("c", "1")).await.unwrap();
    server.kv().put(put("c", "2")).await.unwrap();
    for _ in 0..2 {
        let response = stream.next().await;
        assert_eq!(response.watch_id, 1);
        if response.events.len() == 2 {
            break;
        }
    }
}

#[tokio::test]
async fn a_start_below_the_compaction_is_created_then_canceled() {
    let server = Server::start().await;
    for n in 0..3 {
        server.kv().put(put("k", &n.to_string())).await.unwrap();
    }
    let revision = server.revision().await;
    server
        .kv()
        .compact(CompactionRequest {
            revision,
            physical: false,
        })
        .await
        .unwrap();
    let mut stream = Stream::open(&server).await;
    stream
        .create(WatchCreateRequest {
            start_revision: revision - 1,
            ..single("k")
        })
        .await;
    let canceled = stream.next().await;
    assert_eq!(
        (
            canceled.canceled,
            canceled.watch_id,
            canceled.compact_revision
        ),
        (true, 0, revision)
    );
    assert_eq!(canceled.cancel_reason, "");

    stream
        .create(WatchCreateRequest {
            start_revision: revision,
            ..single("k")
        })
        .await;
    assert_eq!(value(&stream.events(1).await[0]), b"2");
}

#[tokio::test]
async fn requested_progress_covers_the_whole_stream_and_comes_after_its_events() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream.create(single("q")).await;
    let revision = server
        .kv()
        .put(put("q", "1"))
        .await
        .unwrap()
        .into_inner()
        .header
        .unwrap()
        .revision;
    assert_eq!(stream.events(1).await.len(), 1);
    stream.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    let progress = stream.next().await;
    assert!(progress.events.is_empty() && !progress.created && !progress.canceled);
    assert_eq!(
        (progress.watch_id, progress.header.unwrap().revision),
        (-1, revision)
    );
}

#[tokio::test]
async fn quiet_watchers_that_want_to_hear_of_progress_do() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    let created = stream
        .create(WatchCreateRequest {
            progress_notify: true,
            ..single("n")
        })
        .await;
    let progress = stream.next().await;
    assert!(progress.events.is_empty() && !progress.created);
    assert_eq!(progress.watch_id, created.watch_id);
    assert!(progress.header.unwrap().revision >= created.header.unwrap().revision);
}

#[tokio::test]
async fn large_revisions_are_cut_for_watchers_that_ask() {
    let server = Server::start().await;
    let start_revision = server.revision().await + 1;
    // Two values that fit a response each, but with their previous values not one together.
    for round in ["1", "2"] {
        let big = round.repeat(700 * 1024);
        let txn = TxnRequest {
            success: vec![put_op("g1", &big), put_op("g2", &big)],
            ..Default::default()
        };
        server.kv().txn(txn).await.unwrap();
    }
    let mut stream = Stream::open(&server).await;
    let request = WatchCreateRequest {
        start_revision,
        prev_kv: true,
        fragment: true,
        ..prefix("g")
    };
    stream.create(request).await;
    let (mut events, mut fragments) = (0, 0);
    while events < 4 {
        let response = stream.next().await;
        events += response.events.len();
        fragments += usize::from(response.fragment);
    }
    assert!(fragments > 0, "nothing was cut");
}

#[tokio::test]
async fn a_client_that_stops_reading_misses_nothing() {
    const PUTS: usize = 200;
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream.create(single("s")).await;
    // 12 MiB, far above every window: the server cannot have sent them all while nobody reads.
    let big = "v".repeat(64 * 1024);
    for _ in 0..PUTS {
        server.kv().put(put("s", &big)).await.unwrap();
    }
    let events = stream.events(PUTS).await;
    let revisions: Vec<i64> = events
        .iter()
        .map(|event| event.kv.as_ref().unwrap().mod_revision)
        .collect();
    assert!(
        revisions.is_sorted_by(|a, b| a < b),
        "each once and in order"
    );
}

#[tokio::test]
async fn half_closed_streams_go_on() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream.create(single("o")).await;
    let (requests, _) = mpsc::unbounded_channel();
    stream.requests = requests;
    server.kv().put(put("o", "1")).await.unwrap();
    assert_eq!(stream.events(1).await.len(), 1);
}

#[tokio::test]
async fn a_server_that_stops_ends_its_watches() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream.create(single("e")).await;
    server.stop().await;
    let status = stream.end().await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "etcdserver: server stopped")
    );
}
