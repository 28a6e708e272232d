//! The flags that bound what clients may take of a node: with a small bound the next one is refused, or cut off, and there is room again
//! when whoever took it is gone.

use crate::EAVES;
use bytes::Bytes;
use eaves_harness::cluster::{Cluster, Node};
use eaves_harness::process::{HANG, eventually, page};
use eaves_harness::watcher;
use eaves_kv::proto::etcdserverpb::watch_client::WatchClient;
use eaves_kv::proto::etcdserverpb::{PutRequest, PutResponse, RangeRequest, WatchRequest};
use futures_util::future::select_all;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_connection_beyond_max_connections_is_closed() {
    const CONNECTIONS: usize = 8;
    let cluster = start(&["--max-connections", "8"]).await;
    let node = cluster.node("v1");
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS + 1 {
        let stream = TcpStream::connect(node.address()).await;
        streams.push(stream.expect("the kernel takes it"));
    }
    let ends = streams.iter_mut().map(|stream| {
        Box::pin(async {
            let read = stream.read(&mut [0; 1]).await;
            assert!(matches!(read, Ok(0) | Err(_)), "it is closed: {read:?}");
        })
    });
    let closed = tokio::time::timeout(HANG, select_all(ends)).await;
    closed.expect("the node closes one of them");
    drop(streams);
    // Each page is a connection of its own.
    eventually("there is room again", async || {
        page(node.client_port, "/metrics").ok()
    })
    .await;
    assert!(node.metric("client_connections_refused_total") >= 1);
}

#[tokio::test]
async fn a_call_beyond_max_calls_is_refused() {
    let cluster = start(&["--max-calls", "1"]).await;
    let node = cluster.node("v1");
    let held = begin_put(node, 1).await;
    eventually("the call is under way", async || {
        (node.metric("client_calls") == 1).then_some(())
    })
    .await;
    assert_too_many(node.put("k", "v").await);
    held.abort();
    eventually("there is room again", async || {
        node.put("k", "v").await.ok()
    })
    .await;
}

/// Of a voter, and of a listener, which takes the same flags.
#[tokio::test]
async fn a_watch_beyond_max_watch_streams_is_refused() {
    let cluster = Cluster::start(EAVES, 2, 1, &["--max-watch-streams", "1"]).await;
    for node in cluster.nodes() {
        let first = watcher::watch(&node.address(), ("k", ""), 0).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", node.address()));
        let channel = endpoint.expect("an address").connect_lazy();
        let mut client = WatchClient::new(channel);
        let requests = tokio_stream::pending::<WatchRequest>;
        assert_too_many(client.watch(requests()).await);
        node.put("k", "v").await.expect("a put is no watch");
        drop(first);
        eventually("there is room again", async || {
            client.watch(requests()).await.ok()
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_beyond_max_request_memory_is_refused() {
    let cluster = start(&["--max-request-memory", "2"]).await;
    let node = cluster.node("v1");
    let held = begin_put(node, MIB).await;
    eventually("the request is received", async || {
        (node.metric("client_request_bytes") >= MIB as u64).then_some(())
    })
    .await;
    let large = || Bytes::from(vec![b'x'; MIB]);
    assert_too_many(node.put("large", large()).await);
    let small = node.put("small", "v").await;
    small.expect("there is room for a small one");
    held.abort();
    eventually("there is room again", async || {
        node.put("large", large()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_sent_more_than_max_answer_memory_is_cut_off() {
    let cluster = start(&["--max-answer-memory", "2"]).await;
    let node = cluster.node("v1");
    for key in ["k1", "k2", "k3"] {
        let put = node.put(key, vec![b'x'; MIB]).await;
        put.expect("a put");
    }
    let read = |range_end: &'static str| {
        let request = RangeRequest {
            key: "k1".into(),
            range_end: range_end.into(),
            ..RangeRequest::default()
        };
        async move { node.kv().range(request).await }
    };
    read("k4").await.expect_err("three MiB at once");
    assert_eq!(node.metric("client_connections_cut_total"), 1);
    let one = eventually("it may come again", async || read("").await.ok()).await;
    assert_eq!(one.into_inner().kvs[0].value.len(), MIB);
}

/// One voter.
async fn start(flags: &[&str]) -> Cluster {
    Cluster::start(EAVES, 1, 0, flags).await
}

/// Sends a put of so many bytes and does not end the request, on a connection of its own: it is never answered.
async fn begin_put(node: &Node, bytes: usize) -> JoinHandle<Result<(), Status>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address()));
    let channel = endpoint.expect("an address").connect().await;
    let mut client = Grpc::new(channel.expect("the node listens"));
    let put = PutRequest {
        key: "held".into(),
        value: vec![b'x'; bytes].into(),
        ..PutRequest::default()
    };
    let requests = tokio_stream::once(put).chain(tokio_stream::pending());
    tokio::spawn(async move {
        client.ready().await.expect("it is connected");
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let answer = client.client_streaming(Request::new(requests), path, codec);
        answer.await.map(drop)
    })
}

fn assert_too_many<T>(answer: Result<T, Status>) {
    let status = answer.err().expect("it is refused");
    let expected = (Code::ResourceExhausted, "etcdserver: too many requests");
    assert_eq!((status.code(), status.message()), expected);
}
