//! Requests that are too large, too long, or too many; and clients that take nothing of what they are sent.

use crate::server::{Server, assert_status, put, put_op};
use eaves_kv::{
    ClientLimits,
    proto::etcdserverpb::{
        PutRequest, TxnRequest, WatchCreateRequest, WatchRequest, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
    services::validate::{MAX_REQUEST_BYTES, MAX_TXN_OPERATIONS},
};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_stream::StreamExt;
use tonic::{Code, transport::Endpoint};

fn put_of(bytes: usize) -> PutRequest {
    PutRequest {
        key: "big".into(),
        value: vec![b'x'; bytes].into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_request_just_below_the_limit_is_stored() {
    let server = Server::start().await;
    server
        .kv()
        .put(put_of(MAX_REQUEST_BYTES - 256))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_request_above_the_limit_is_refused_in_words() {
    let server = Server::start().await;
    let refused = server
        .kv()
        .put(put_of(MAX_REQUEST_BYTES + 1))
        .await
        .unwrap_err();
    assert_status(
        &refused,
        Code::InvalidArgument,
        "etcdserver: request is too large",
    );
}

#[tokio::test]
async fn a_message_far_above_the_limit_is_not_even_received() {
    let server = Server::start().await;
    let refused = server.kv().put(put_of(3 << 20)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(
        refused
            .message()
            .starts_with("grpc: received message larger than max"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_txn_of_129_operations_is_refused() {
    let server = Server::start().await;
    let txn = |count: usize| TxnRequest {
        success: (0..count)
            .map(|n| put_op(&format!("many{n}"), "v"))
            .collect(),
        ..Default::default()
    };
    server.kv().txn(txn(MAX_TXN_OPERATIONS)).await.unwrap();
    let refused = server
        .kv()
        .txn(txn(MAX_TXN_OPERATIONS + 1))
        .await
        .unwrap_err();
    assert_status(
        &refused,
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
    );
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_the_others_stay() {
    let server = Server::start_with(ClientLimits {
        connections: 2,
        ..ClientLimits::default()
    })
    .await;
    let mut kv = server.kv();
    kv.put(put("a", "1")).await.unwrap();
    let second = TcpStream::connect(server.address).await.unwrap();
    let mut third = TcpStream::connect(server.address).await.unwrap();
    let closed = third.read(&mut [0; 1]).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    let counts = server.clients.counts();
    assert_eq!((counts.connections, counts.refused_connections), (2, 1));
    kv.put(put("a", "2")).await.unwrap();
    drop(second);
    while server.clients.counts().connections > 1 {
        tokio::task::yield_now().await;
    }
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    endpoint.connect().await.unwrap();
}

#[tokio::test]
async fn a_request_that_finds_no_memory_is_refused_in_etcds_words() {
    let server = Server::start_with(ClientLimits {
        request_bytes: 1000,
        ..ClientLimits::default()
    })
    .await;
    let refused = server.kv().put(put_of(2000)).await.unwrap_err();
    assert_status(
        &refused,
        Code::ResourceExhausted,
        "etcdserver: too many requests",
    );
    server.kv().put(put_of(900)).await.unwrap();
    server.kv().put(put_of(900)).await.unwrap();
    let counts = server.clients.counts();
    assert_eq!((counts.request_bytes, counts.refused_calls), (0, 1));
}

#[tokio::test]
async fn a_call_too_many_is_refused_in_etcds_words() {
    let server = Server::start_with(ClientLimits {
        calls: 0,
        ..ClientLimits::default()
    })
    .await;
    let refused = server.kv().put(put("a", "1")).await.unwrap_err();
    assert_status(
        &refused,
        Code::ResourceExhausted,
        "etcdserver: too many requests",
    );
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off_when_there_is_no_more_room() {
    let server = Server::start_with(ClientLimits {
        answer_bytes: 1 << 20,
        ..ClientLimits::default()
    })
    .await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let lazy = endpoint.connect().await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let create = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: "big".into(),
                ..Default::default()
            })),
        };
        let requests = tokio_stream::once(create).chain(tokio_stream::pending());
        let mut client = WatchClient::new(lazy.clone()).max_decoding_message_size(usize::MAX);
        let mut responses = client.watch(requests).await.unwrap().into_inner();
        assert!(responses.message().await.unwrap().unwrap().created);
        streams.push(responses);
    }
    // Nobody reads the streams any more. Each takes what its connection's window lets through, and holds one response more.
    while server.clients.counts().cut_connections == 0 {
        server.kv().put(put_of(200 << 10)).await.unwrap();
    }
    let ended = async {
        loop {
            match streams[0].message().await {
                Ok(message) => assert!(message.is_some()),
                Err(status) => return status,
            }
        }
    };
    let status = ended.await;
    assert!(
        matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Internal
        ),
        "{status:?}"
    );
    server.kv().put(put("a", "1")).await.unwrap();
    drop(streams);
    while server.clients.counts().connections > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.clients.counts().answer_bytes, 0);
}
