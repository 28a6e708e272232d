//! What calls take while they are under way, half sent, and given up.

use super::*;
use crate::{
    proto::etcdserverpb::{
        PutRequest, WatchCreateRequest, WatchRequest, watch_request::RequestUnion,
    },
    serve::grpc::PREFIX_BYTES,
};
use eaves_http2::{ErrorCode, hpack::Decoder};

const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

fn put() -> PutRequest {
    PutRequest {
        key: "k".into(),
        value: "v".into(),
        ..Default::default()
    }
}

fn watch(key_bytes: usize) -> BytesMut {
    let create = WatchCreateRequest {
        key: vec![b'k'; key_bytes].into(),
        ..Default::default()
    };
    framed(&WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    })
}

impl Connection {
    async fn reset(&mut self, stream: u32) {
        let mut said = BytesMut::new();
        frame::put_reset(&mut said, stream, ErrorCode::CANCEL);
        self.say(&said).await;
    }

    async fn send(&mut self, stream: u32, data: &[u8]) {
        let mut said = BytesMut::new();
        frame::put_header(&mut said, data.len(), kind::DATA, 0, stream);
        said.put_slice(data);
        self.say(&said).await;
    }

    fn calls(&self) -> usize {
        self.clients.counts().calls
    }
}

/// The status with which a stream was ended.
fn status(heard: &[Heard], stream: u32) -> Option<(String, String)> {
    let mut ends = heard.iter().filter(|heard| heard.is_end());
    let end = ends.find(|heard| heard.stream == stream)?;
    let mut fields = Vec::new();
    let listed = Decoder::new(4096).decode(&end.payload, usize::MAX, &mut fields);
    let _ = listed.unwrap();
    let value = |name: &str| {
        let mut fields = fields.iter();
        let field = fields.find(|field| field.name == name.as_bytes());
        let value = field.map(|field| String::from_utf8_lossy(&field.value).replace("%20", " "));
        value.unwrap_or_default()
    };
    Some((value("grpc-status"), value("grpc-message")))
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

#[tokio::test]
async fn half_a_message_of_a_watch_stream_takes_the_room_of_all_of_it() {
    let mut connection = Connection::new(ClientLimits {
        request_bytes: 1_000,
        ..ClientLimits::default()
    })
    .await;
    let whole = watch(600);
    let length = whole.len() - PREFIX_BYTES;
    let first = connection.begin(WATCH, &whole[..100], false).await;
    let held = |bytes| move |counts: ClientCounts| counts.request_bytes != bytes;
    connection.turns_while(held(length)).await;
    // One more does not fit, and none of the others suffers.
    let second = connection.begin(WATCH, &watch(600)[..50], false).await;
    let heard = connection
        .turns_until(|heard| status(heard, second).is_some())
        .await;
    let told = status(&heard, second).unwrap();
    assert_eq!(told, ("8".into(), "etcdserver: too many requests".into()));
    assert_eq!(connection.clients.counts().request_bytes, length);
    connection.send(first, &whole[100..]).await;
    let created = |heard: &Heard| heard.kind == kind::DATA && heard.stream == first;
    connection
        .turns_until(|heard| heard.iter().any(created))
        .await;
    // The decoder keeps its memory.
    assert_eq!(connection.clients.counts().request_bytes, length);
    connection.reset(first).await;
    connection.turns_while(held(0)).await;
    let counts = connection.clients.counts();
    assert_eq!((counts.watch_streams, counts.refused_calls), (0, 1));
}

#[tokio::test]
async fn half_a_message_that_stays_half_ends_its_stream_and_a_silent_one_goes_on() {
    let mut connection = Connection::new(ClientLimits::default()).await;
    connection.begin(WATCH, &watch(10), false).await;
    let half = connection.begin(WATCH, &watch(600)[..50], false).await;
    let held = |counts: ClientCounts| counts.request_bytes < 600;
    connection.turns_while(held).await;
    tokio::time::pause();
    tokio::time::advance(PING_INTERVAL + Duration::from_secs(1)).await;
    let heard = connection
        .turns_until(|heard| status(heard, half).is_some())
        .await;
    let (code, text) = status(&heard, half).unwrap();
    assert_eq!((&*code, &*text), ("14", "etcdserver: request timed out"));
    assert_eq!(connection.clients.counts().watch_streams, 1);
}

/// CVE-2023-44487, and a client with short deadlines, which is no attack.
#[tokio::test]
async fn given_up_calls_are_forgotten_with_time_and_too_many_at_once_end_a_connection() {
    const UNANSWERED: u32 = 4;
    let mut connection = Connection::new(ClientLimits::default()).await;
    connection.driver.http2 = ServerConnection::new(Limits {
        unanswered_resets: UNANSWERED,
        ..LIMITS
    });
    for _ in 0..3 {
        for _ in 0..UNANSWERED {
            assert!(give_up_a_call(&mut connection).await.is_pending());
        }
        tokio::time::pause();
        tokio::time::advance(PING_INTERVAL + Duration::from_secs(1)).await;
        assert!(connection.turn().await.is_pending());
        tokio::time::resume();
    }
    for _ in 0..UNANSWERED {
        assert!(give_up_a_call(&mut connection).await.is_pending());
    }
    let is_over = |heard: &[Heard]| heard.iter().any(|heard| leave(heard).is_some());
    assert!(!is_over(&connection.heard()), "one less is not too many");
    let _ = give_up_a_call(&mut connection).await;
    assert!(is_over(&connection.heard()));
}

/// Makes a call that nobody answers, and resets it; how the connection is then.
async fn give_up_a_call(connection: &mut Connection) -> Poll<io::Result<()>> {
    let stream = connection.call(GATE, &RangeRequest::default()).await;
    assert!(connection.turn().await.is_pending());
    connection.reset(stream).await;
    connection.turn().await
}
