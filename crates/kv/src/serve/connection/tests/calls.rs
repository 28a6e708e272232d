//! What calls take while they are under way, and given up.

use super::*;
use crate::proto::etcdserverpb::PutRequest;
use eaves_http2::ErrorCode;

const PUT: &str = "/etcdserverpb.KV/Put";

fn put() -> PutRequest {
    PutRequest {
        key: "k".into(),
        value: "v".into(),
        ..Default::default()
    }
}

impl Connection {
    async fn reset(&mut self, stream: u32) {
        let mut said = BytesMut::new();
        frame::put_reset(&mut said, stream, ErrorCode::CANCEL);
        self.say(&said).await;
    }

    fn calls(&self) -> usize {
        self.clients.counts().calls
    }
}

#[tokio::test]
async fn a_write_that_is_given_up_counts_until_the_node_has_answered_it() {
    let mut connection = Connection::new(ClientLimits::default()).await;
    let stream = connection.call(PUT, &put()).await;
    assert!(connection.turn().await.is_pending());
    connection.reset(stream).await;
    assert!(connection.turn().await.is_pending());
    assert_eq!(connection.driver.http2.open_streams(), 0);
    assert_eq!(connection.calls(), 1, "the node is still at it");
    // Nobody polls the driver any more.
    while connection.calls() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_write_of_a_client_that_is_gone_counts_until_the_node_has_answered_it() {
    let mut connection = Connection::new(ClientLimits::default()).await;
    connection.call(PUT, &put()).await;
    assert!(connection.turn().await.is_pending());
    drop(connection.driver);
    let counts = connection.clients.counts();
    assert_eq!((counts.connections, counts.calls), (0, 1));
    while connection.clients.counts().calls > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_no_write_ends_when_it_is_given_up() {
    let mut connection = Connection::new(ClientLimits::default()).await;
    let waiting = connection.begin(GATE, b"", true).await;
    let linearizable = RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    let read = connection.call(RANGE, &linearizable).await;
    assert!(connection.turn().await.is_pending());
    assert_eq!(connection.calls(), 2);
    connection.reset(waiting).await;
    connection.reset(read).await;
    assert!(connection.turn().await.is_pending());
    assert_eq!(connection.calls(), 0);
}
