//! What random sequences over small keys do not reach: large requests and answers, watch responses in fragments, and the
//! cases in which etcd's versions differ and we do as the later ones.
//!
//! A scenario writes to one node and watches at another, and returns what it saw in words. Run in the same order against
//! fresh systems, it sees the same revisions.

use std::time::Duration;

use bytes::Bytes;
use eaves_kv::proto::etcdserverpb::request_op::Request;
use eaves_kv::proto::etcdserverpb::watch_request::RequestUnion;
use eaves_kv::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchCreateRequest, WatchProgressRequest,
};
use tonic::Code;

use crate::processes::Node;
use crate::replies::{Reply, catch_up, send};
use crate::requests::Call;
use crate::watches::{RESPONSE_LIMIT, Stream, event_revision};

/// How long is waited for the answer to a progress request before it is repeated.
const PROGRESS_AGAIN: Duration = Duration::from_millis(100);

const KIB: usize = 1024;

/// Runs the scenarios that are compared.
///
/// # Panics
/// If the nodes of the subject do other than the reference, of which the scenarios are the same number of writes behind.
pub async fn compare(reference: &Node, writer: &Node, reader: &Node) {
    let pair = format!("{} -> {}", writer.name, reader.name);
    let wanted = large_values(reference, reference).await;
    assert_eq!(
        large_values(writer, reader).await,
        wanted,
        "{pair}: large values"
    );
    let wanted = fragments(reference, reference).await;
    assert_eq!(fragments(writer, reader).await, wanted, "{pair}: fragments");
}

/// Values and requests around the limits: 1.5 MiB for a request, 4 MiB where clients that set nothing stop reading.
async fn large_values(writer: &Node, reader: &Node) -> Vec<String> {
    let mut seen = Vec::new();
    for size in [1400 * KIB, 1535 * KIB, 1600 * KIB] {
        let put = PutRequest {
            key: format!("large-{size}").into(),
            value: value(size, b'x'),
            ..Default::default()
        };
        seen.push(format!(
            "a put of {size} bytes: {:?}",
            send(writer, &Call::Put(put)).await
        ));
    }
    for letter in b'a'..b'f' {
        let put = PutRequest {
            key: format!("many-{letter}").into(),
            value: value(1000 * KIB, letter),
            ..Default::default()
        };
        seen.push(send(writer, &Call::Put(put)).await.kind());
    }
    let range = RangeRequest {
        key: "many".into(),
        range_end: "many~".into(),
        ..Default::default()
    };
    match send(reader, &Call::Range(range)).await {
        Reply::Range(range) => {
            let kvs = range
                .kvs
                .iter()
                .map(|kv| (kv.key.clone(), kv.value.len(), kv.value.first().copied()));
            seen.push(format!("a range of 5 MB: {:?}", kvs.collect::<Vec<_>>()));
        }
        other => seen.push(format!("a range of 5 MB: {other:?}")),
    }
    let puts = (0..4)
        .map(|index| put_op(format!("txn-{index}"), 400 * KIB, b'x'))
        .collect();
    let txn = TxnRequest {
        success: puts,
        ..Default::default()
    };
    seen.push(format!(
        "a transaction of 1.6 MB: {:?}",
        send(writer, &Call::Txn(txn)).await
    ));
    seen
}

/// A revision whose events and previous values are larger than a response may be: in fragments for the watch that asks
/// for them, in one response for the one that does not.
async fn fragments(writer: &Node, watcher: &Node) -> Vec<String> {
    let mut seen = Vec::new();
    let puts = |letter| -> Vec<RequestOp> {
        (0..10)
            .map(|index| put_op(format!("fragment-{index}"), 140 * KIB, letter))
            .collect()
    };
    let first = TxnRequest {
        success: puts(b'a'),
        ..Default::default()
    };
    seen.push(send(writer, &Call::Txn(first)).await.kind());
    catch_up(watcher).await.expect("the watcher answers");
    let mut streams = Vec::new();
    for fragment in [true, false] {
        let mut stream = Stream::open(watcher);
        let create = WatchCreateRequest {
            key: "fragment-".into(),
            range_end: "fragment.".into(),
            prev_kv: true,
            fragment,
            ..Default::default()
        };
        stream.request(RequestUnion::CreateRequest(create)).await;
        let created = stream
            .read_until(RESPONSE_LIMIT, |log| !log.watches.is_empty())
            .await;
        seen.push(format!("with fragments {fragment}: created {created}"));
        streams.push(stream);
    }
    let second = TxnRequest {
        success: puts(b'b'),
        ..Default::default()
    };
    seen.push(send(writer, &Call::Txn(second)).await.kind());
    for mut stream in streams {
        let all = stream
            .read_until(RESPONSE_LIMIT, |log| log.watches[0].events.len() >= 10)
            .await;
        let watch = &stream.log.watches[0];
        let events = watch.events.iter().map(|event| {
            let sizes = [&event.kv, &event.prev_kv].map(|kv| {
                kv.as_ref()
                    .map(|kv| (kv.value.len(), kv.value.first().copied()))
            });
            (event_revision(event), sizes)
        });
        seen.push(format!(
            "all {all}, {} fragments: {:?}",
            watch.fragments,
            events.collect::<Vec<_>>()
        ));
        seen.push(format!("broken promises: {:?}", stream.log.broken));
    }
    seen
}

/// What we do as etcd 3.5.16 and later do and 3.5.1 does not: asserted, for there is nothing to compare it with.
pub async fn as_later_etcds(writer: &Node, watcher: &Node) {
    deletion_at_the_compacted_revision_is_kept(writer, watcher).await;
    progress_waits_for_future_watches(writer, watcher).await;
    a_negative_start_is_compacted(watcher).await;
    a_sort_that_does_not_exist_is_refused(watcher).await;
}

async fn deletion_at_the_compacted_revision_is_kept(writer: &Node, watcher: &Node) {
    put(writer, "kept").await;
    let delete = DeleteRangeRequest {
        key: "kept".into(),
        ..Default::default()
    };
    let deleted = send(writer, &Call::DeleteRange(delete))
        .await
        .revision()
        .expect("the delete succeeds");
    let compact = CompactionRequest {
        revision: deleted,
        physical: true,
    };
    let compacted = send(writer, &Call::Compact(compact)).await;
    assert!(
        matches!(compacted, Reply::Compact(_)),
        "the compaction succeeds: {compacted:?}"
    );
    catch_up(watcher).await.expect("the watcher answers");

    let mut stream = Stream::open(watcher);
    let create = WatchCreateRequest {
        key: "kept".into(),
        start_revision: deleted,
        ..Default::default()
    };
    stream.request(RequestUnion::CreateRequest(create)).await;
    let came = |log: &crate::watches::StreamLog| {
        log.watches
            .first()
            .is_some_and(|watch| !watch.events.is_empty())
    };
    assert!(
        stream.read_until(RESPONSE_LIMIT, came).await,
        "{}: a watch from the compacted revision {deleted} sees the deletion there: {:?}",
        watcher.name,
        stream.log
    );
}

async fn progress_waits_for_future_watches(writer: &Node, watcher: &Node) {
    let now = put(writer, "progress").await;
    catch_up(watcher).await.expect("the watcher answers");
    let start = now + 3;
    let mut stream = Stream::open(watcher);
    let create = WatchCreateRequest {
        key: "progress".into(),
        start_revision: start,
        ..Default::default()
    };
    stream.request(RequestUnion::CreateRequest(create)).await;
    stream
        .request(RequestUnion::ProgressRequest(WatchProgressRequest {}))
        .await;
    for _ in now..start {
        put(writer, "elsewhere").await;
    }
    let tries = RESPONSE_LIMIT.as_millis() / PROGRESS_AGAIN.as_millis();
    for _ in 0..tries {
        stream
            .request(RequestUnion::ProgressRequest(WatchProgressRequest {}))
            .await;
        if stream
            .read_until(PROGRESS_AGAIN, |log| !log.progress.is_empty())
            .await
        {
            break;
        }
    }
    let progress = &stream.log.progress;
    let honest = progress.first().is_some_and(|revision| *revision >= start);
    assert!(
        honest,
        "{}: progress on a watch from {start} was {progress:?}",
        watcher.name
    );
}

async fn a_negative_start_is_compacted(watcher: &Node) {
    let mut stream = Stream::open(watcher);
    let create = WatchCreateRequest {
        key: "a".into(),
        start_revision: -1,
        ..Default::default()
    };
    stream.request(RequestUnion::CreateRequest(create)).await;
    stream
        .read_until(RESPONSE_LIMIT, |log| {
            !log.refused.is_empty() || !log.watches.is_empty()
        })
        .await;
    let refused = stream
        .log
        .refused
        .first()
        .map(|response| (response.watch_id, response.cancel_reason.as_str()));
    let wanted = (-1, "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(
        refused,
        Some(wanted),
        "{}: a watch from a negative revision",
        watcher.name
    );
}

/// etcd 3.5.1 panics at this.
async fn a_sort_that_does_not_exist_is_refused(reader: &Node) {
    let message = "etcdserver: invalid sort option".to_owned();
    let refused = Reply::Error {
        code: Code::InvalidArgument,
        message,
    };
    for (sort_order, sort_target) in [(7, 0), (0, 7), (-1, 2)] {
        let range = RangeRequest {
            key: "a".into(),
            sort_order,
            sort_target,
            ..Default::default()
        };
        let reply = send(reader, &Call::Range(range)).await;
        assert_eq!(
            reply, refused,
            "{}: sort {sort_order} of {sort_target}",
            reader.name
        );
    }
}

/// Leases are not there yet: a node says so, and stores nothing.
pub async fn a_put_with_a_lease_is_refused(writer: &Node) {
    let put = PutRequest {
        key: "leased".into(),
        lease: 7,
        ..Default::default()
    };
    let reply = send(writer, &Call::Put(put)).await;
    assert!(
        matches!(
            reply,
            Reply::Error {
                code: Code::NotFound,
                ..
            }
        ),
        "{}: {reply:?}",
        writer.name
    );
    let range = RangeRequest {
        key: "leased".into(),
        ..Default::default()
    };
    match send(writer, &Call::Range(range)).await {
        Reply::Range(range) => assert_eq!(range.count, 0, "{} stored it", writer.name),
        other => panic!("{}: {other:?}", writer.name),
    }
}

async fn put(writer: &Node, key: &str) -> i64 {
    let put = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..Default::default()
    };
    send(writer, &Call::Put(put))
        .await
        .revision()
        .expect("the put succeeds")
}

fn put_op(key: String, size: usize, letter: u8) -> RequestOp {
    let put = PutRequest {
        key: key.into(),
        value: value(size, letter),
        ..Default::default()
    };
    RequestOp {
        request: Some(Request::RequestPut(put)),
    }
}

fn value(size: usize, letter: u8) -> Bytes {
    Bytes::from(vec![letter; size])
}
