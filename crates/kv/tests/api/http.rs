//! Plain HTTP/1.1 on the gRPC port.

use crate::server::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends one request and returns the whole response.
pub async fn request(server: &Server, method: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: eaves\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn health_is_true_on_a_working_node() {
    let server = Server::start().await;
    for target in ["/health", "/health?serializable=true"] {
        let response = request(&server, "GET", target).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(
            response.ends_with(r#"{"health":"true","reason":""}"#),
            "{response}"
        );
    }
}

#[tokio::test]
async fn probes_of_orchestrators_pass() {
    let server = Server::start().await;
    for target in ["/livez", "/readyz"] {
        let response = request(&server, "GET", target).await;
        assert!(
            response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\nok"),
            "{response}"
        );
    }
}

#[tokio::test]
async fn version_is_one_that_clients_know() {
    let server = Server::start().await;
    let response = request(&server, "GET", "/version").await;
    assert!(
        response.ends_with(r#"{"etcdserver":"3.5.21","etcdcluster":"3.5.0"}"#),
        "{response}"
    );
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let server = Server::start().await;
    let response = request(&server, "GET", "/metrics").await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\neaves_has_leader 1\n"), "{body}");
    let mut names = std::collections::HashSet::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line
            .split_once(' ')
            .unwrap_or_else(|| panic!("a sample, not {line:?}"));
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        value
            .parse::<u64>()
            .unwrap_or_else(|_| panic!("a number, not {line:?}"));
        assert!(
            body.contains(&format!("# HELP {name} ")) && body.contains(&format!("# TYPE {name} ")),
            "{name}"
        );
    }
}

#[tokio::test]
async fn anything_else_is_refused_plainly() {
    let server = Server::start().await;
    let response = request(&server, "GET", "/nothing").await;
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
    let response = request(&server, "POST", "/health").await;
    assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
    let response = request(&server, "POST", "/v3/kv/range").await;
    assert!(
        response.contains("JSON gateway is not supported yet"),
        "{response}"
    );
}

#[tokio::test]
async fn garbage_closes_only_its_own_connection() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[0xff; 4096]).await.unwrap();
    let mut answer = Vec::new();
    // Whether it is answered with an error or reset is the HTTP library's choice.
    let _ = stream.read_to_end(&mut answer).await;
    let response = request(&server, "GET", "/version").await;
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
}
