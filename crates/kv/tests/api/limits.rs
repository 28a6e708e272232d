//! Requests that are too large or too long.

use crate::server::{Server, assert_status, put_op};
use eaves_kv::{
    proto::etcdserverpb::{PutRequest, TxnRequest},
    services::validate::{MAX_REQUEST_BYTES, MAX_TXN_OPERATIONS},
};
use tonic::Code;

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
