//! Clients that ask for too much, and one that reads too little.

use crate::EAVES;
use bytes::Bytes;
use eaves_harness::cluster::{Cluster, Node, put};
use eaves_harness::watcher::{self, Watch};
use eaves_kv::proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest, request_op};
use std::fs;
use tonic::{Code, Request, Status};

/// What goes by a watcher that does not read.
const EVENTS: usize = 200;
const EVENT_BYTES: usize = 1 << 20;
/// Watches on each node that nobody reads.
const STALLED: usize = 3;
/// By how much the memory of a node may grow meanwhile: what is applied but not yet durable (at most 64 MiB) comes and goes on a busy
/// node, with or without watchers. If the events were kept for them it would be 600 MiB.
const GROWTH_MAX_BYTES: u64 = 128 << 20;

#[tokio::test]
async fn requests_that_are_too_large_get_etcds_errors_from_voters_and_listeners() {
    let cluster = Cluster::start(EAVES, 2, 1, &[]).await;
    for node in cluster.nodes() {
        let value = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
        let refused = node.put("large", value(1_600 << 10)).await;
        assert_refused(
            refused,
            Code::InvalidArgument,
            "etcdserver: request is too large",
        );
        let refused = node.put("larger", value(3 << 20)).await;
        let status = refused.expect_err("it is larger than any message may be");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");

        let refused = node.kv().txn(puts(129)).await;
        assert_refused(
            refused,
            Code::InvalidArgument,
            "etcdserver: too many operations in txn request",
        );

        // What is just small enough is taken, by the same node.
        node.kv().txn(puts(128)).await.expect("128 operations");
        let largest = node.put("large", value(1_500 << 10)).await;
        largest.expect("a little less than 1.5 MiB");
    }
    cluster.converge().await;
}

/// B14, on a listener that is a process of its own.
#[tokio::test]
async fn a_listener_serves_own_writes_and_bounded_reads_by_metadata() {
    let cluster = Cluster::start(EAVES, 2, 1, &[]).await;
    let (mut writer, mut reader) = (cluster.node("v1").kv(), cluster.node("l1").kv());
    let read = |serializable: bool, name: &'static str, value: i64| {
        let mut request = Request::new(RangeRequest {
            key: "k".into(),
            serializable,
            ..Default::default()
        });
        request.metadata_mut().insert(name, value.into());
        request
    };
    for number in 0..50 {
        let value = Bytes::from(number.to_string());
        let put = writer.put(PutRequest {
            key: "k".into(),
            value: value.clone(),
            ..Default::default()
        });
        let revision = put.await.expect("a put").into_inner().header;
        let revision = revision.expect("a header").revision;
        let own = reader.range(read(true, "eaves-min-revision", revision));
        let own = own.await.expect("the revision comes").into_inner();
        assert_eq!(own.kvs[0].value, value);
        let fresh = reader.range(read(false, "eaves-max-staleness-ms", 0));
        let fresh = fresh.await.expect("a fresh state");
        assert!(fresh.metadata().contains_key("eaves-staleness-ms"));
        assert_eq!(fresh.into_inner().kvs[0].value, value);
    }
    let hour = 3_600_000;
    let sent = cluster.node("l1").metric("read_index_sent_total");
    for _ in 0..100 {
        let old = reader.range(read(false, "eaves-max-staleness-ms", hour));
        old.await.expect("any state of the last hour");
    }
    assert_eq!(
        cluster.node("l1").metric("read_index_sent_total"),
        sent,
        "a hundred reads, and not a question"
    );
}

fn assert_refused<T>(answer: Result<T, Status>, code: Code, text: &str) {
    let status = answer.err().expect("it is refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

fn puts(count: usize) -> TxnRequest {
    let put = |number: usize| RequestOp {
        request: Some(request_op::Request::RequestPut(PutRequest {
            key: format!("txn/{number}").into(),
            ..Default::default()
        })),
    };
    TxnRequest {
        success: (0..count).map(put).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_its_watch_costs_no_memory_and_hinders_nobody() {
    let mut cluster = Cluster::start(EAVES, 2, 1, &[]).await;
    let writer = cluster.node("v1").kv();
    let value = |number: usize| Bytes::from(vec![b'a' + (number % 26) as u8; EVENT_BYTES]);

    // The node's caches fill first, so that what is measured is the watcher's alone.
    for number in 0..EVENTS / 2 {
        let put = put(writer.clone(), format!("warm/{number}"), value(number));
        put.await.expect("a put");
    }
    let mut stalled = Vec::new();
    let thrice = |node| std::iter::repeat_n(node, STALLED);
    for node in cluster.nodes().iter().flat_map(thrice) {
        let (requests, mut responses) = watch(node).await;
        let created = responses.message().await.expect("a stream").expect("open");
        assert!(created.created);
        stalled.push((requests, responses));
    }
    // Another client of the same nodes, which reads.
    let (_requests, mut reading) = watch(cluster.node("l1")).await;
    reading.message().await.expect("a stream").expect("open");

    let before: Vec<u64> = cluster.nodes_mut().iter_mut().map(memory_bytes).collect();
    let mut grown = vec![0; before.len()];
    for number in 0..EVENTS {
        let put = put(writer.clone(), format!("events/{number}"), value(number));
        let revision = put.await.expect("a put");
        let mut seen = 0;
        while seen < revision {
            let response = reading.message().await.expect("a stream").expect("open");
            for event in &response.events {
                let pair = event.kv.as_ref().expect("an event has a pair");
                assert_eq!(pair.value, value(number));
                seen = pair.mod_revision;
            }
        }
        for (i, node) in cluster.nodes_mut().iter_mut().enumerate() {
            grown[i] = grown[i].max(memory_bytes(node).saturating_sub(before[i]));
        }
    }
    println!("memory has grown by {grown:?} bytes at most");
    for (node, grown) in cluster.nodes().iter().zip(grown) {
        assert!(
            grown <= GROWTH_MAX_BYTES,
            "the memory of {} has grown by {} MiB",
            node.name,
            grown >> 20
        );
    }

    // Others are served as ever, and the one that reads again misses nothing.
    for node in cluster.nodes() {
        let read = RangeRequest {
            key: "events/7".into(),
            ..Default::default()
        };
        let answer = node.kv().range(read).await.expect("a read").into_inner();
        assert_eq!(answer.count, 1);
    }
    let (_, responses) = stalled.last_mut().expect("some watches are stalled");
    let mut next = 0;
    while next < EVENTS {
        let response = responses.message().await.expect("a stream").expect("open");
        for event in &response.events {
            let pair = event.kv.as_ref().expect("an event has a pair");
            assert_eq!(pair.key, format!("events/{next}"));
            assert_eq!(pair.value, value(next));
            next += 1;
        }
    }
}

/// A watch of everything under `events/`.
async fn watch(node: &Node) -> Watch {
    watcher::watch(&node.address(), ("events/", "events0"), 0).await
}

/// The resident memory of a node's process.
fn memory_bytes(node: &mut Node) -> u64 {
    let path = format!("/proc/{}/status", node.server().id());
    let status = fs::read_to_string(path).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("a size in kB");
    kib << 10
}
