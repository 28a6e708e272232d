//! A voter without a quorum: what needs the group says so in etcd's words, and what does not is served.

use crate::{
    http,
    server::{Server, assert_status, put, range},
};
use eaves_kv::proto::etcdserverpb::{
    RangeRequest, StatusRequest, WatchRequest, maintenance_client::MaintenanceClient,
    watch_client::WatchClient,
};
use tonic::{Code, Request};

fn requiring_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("hasleader", "true".parse().unwrap());
    request
}

#[tokio::test]
async fn writes_and_linearizable_reads_are_unavailable() {
    let server = Server::start_without_quorum().await;
    let (mut writer, mut reader) = (server.kv(), server.kv());
    let (write, read) = tokio::join!(writer.put(put("a", "1")), reader.range(range("a", "")));
    for status in [write.unwrap_err(), read.unwrap_err()] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().starts_with("etcdserver: "), "{status:?}");
    }
}

#[tokio::test]
async fn local_reads_are_served() {
    let server = Server::start_without_quorum().await;
    let request = RangeRequest {
        serializable: true,
        ..range("a", "")
    };
    assert_eq!(
        server.kv().range(request).await.unwrap().into_inner().count,
        0
    );
}

#[tokio::test]
async fn who_asks_for_a_leader_is_refused_at_once() {
    let server = Server::start_without_quorum().await;
    let refused = server
        .kv()
        .put(requiring_leader(put("a", "1")))
        .await
        .unwrap_err();
    assert_status(&refused, Code::Unavailable, "etcdserver: no leader");
    let requests = requiring_leader(tokio_stream::pending::<WatchRequest>());
    let refused = WatchClient::new(server.channel())
        .watch(requests)
        .await
        .unwrap_err();
    assert_status(&refused, Code::Unavailable, "etcdserver: no leader");
}

#[tokio::test]
async fn status_and_health_tell() {
    let server = Server::start_without_quorum().await;
    let mut maintenance = MaintenanceClient::new(server.channel());
    let status = maintenance
        .status(StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.leader, status.errors),
        (0, vec!["etcdserver: no leader".to_owned()])
    );
    let health = http::request(&server, "GET", "/health").await;
    assert!(health.starts_with("HTTP/1.1 503 "), "{health}");
    assert!(
        health.ends_with(r#"{"health":"false","reason":"RAFT NO LEADER"}"#),
        "{health}"
    );
    let local = http::request(&server, "GET", "/health?serializable=true").await;
    assert!(local.starts_with("HTTP/1.1 200 "), "{local}");
    let ready = http::request(&server, "GET", "/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("not ready: RAFT NO LEADER\n"),
        "{ready}"
    );
    let alive = http::request(&server, "GET", "/livez").await;
    assert!(alive.starts_with("HTTP/1.1 200 "), "{alive}");
}
