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
    let mut samples = std::collections::HashSet::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("a sample, not {line:?}"));
        assert!(samples.insert(sample.to_owned()), "{sample} is there twice");
        value
            .parse::<f64>()
            .unwrap_or_else(|_| panic!("a number, not {line:?}"));
        let name = sample.split('{').next().unwrap();
        assert!(
            body.contains(&format!("# HELP {name} ")) && body.contains(&format!("# TYPE {name} ")),
            "{name}"
        );
    }
}

/// docs/metrics.md has a row for each metric, with the words that the metric itself has.
#[tokio::test]
async fn metrics_are_those_of_the_document() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let document = std::fs::read_to_string(document).unwrap();
    let rows = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("| `eaves_"));
        lines.map(str::to_owned).collect()
    };
    let (everywhere, on_listeners) = document
        .split_once("## On a listener that has an upstream")
        .unwrap();
    assert_eq!(rows(on_listeners).len(), 3);

    let server = Server::start().await;
    let page = request(&server, "GET", "/metrics").await;
    let mut kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let helps = page.lines().filter_map(|line| line.strip_prefix("# HELP "));
    let served: Vec<String> = helps
        .map(|line| {
            let (name, help) = line.split_once(' ').unwrap();
            let (of, kind) = kinds.next().unwrap().split_once(' ').unwrap();
            assert_eq!(of, name);
            format!("| `{name}` | {kind} | {help} |")
        })
        .collect();
    assert_eq!(
        rows(everywhere),
        served,
        "as it should be:\n{}",
        served.join("\n")
    );
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
