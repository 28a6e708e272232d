//! What the client port answers over plain HTTP: `/health`, `/livez`, `/readyz`, `/version` and `/metrics`, with
//! etcd's paths and bodies.

use crate::{
    metrics,
    services::{
        errors::read_failed,
        replica::Replica,
        version::{ETCD_CLUSTER_VERSION, ETCD_SERVER_VERSION},
    },
};
use tonic::{
    body::Body,
    codegen::http::{HeaderValue, Method, Response, StatusCode, Uri, header},
};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// The Prometheus text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

const NO_GATEWAY: &str = "the JSON gateway is not supported yet: use gRPC on this port\n";
const NOT_FOUND: &str =
    "not found: this port serves gRPC, /health, /livez, /readyz, /version and /metrics\n";

/// Answers one request that is not gRPC.
pub(crate) async fn answer(replica: &Replica, method: &Method, uri: &Uri) -> Response<Body> {
    let reads = method == Method::GET || method == Method::HEAD;
    match uri.path() {
        path if path.starts_with("/v3") => reply(StatusCode::NOT_FOUND, TEXT, NO_GATEWAY.into()),
        _ if !reads => method_not_allowed(),
        "/health" => health(replica, is_serializable(uri.query())).await,
        // This process answers, which is all there is to being alive.
        "/livez" => reply(StatusCode::OK, TEXT, "ok".into()),
        "/readyz" => readyz(replica).await,
        "/version" => reply(StatusCode::OK, JSON, version()),
        "/metrics" => reply(StatusCode::OK, METRICS, metrics::render(replica)),
        _ => reply(StatusCode::NOT_FOUND, TEXT, NOT_FOUND.into()),
    }
}

async fn health(replica: &Replica, serializable: bool) -> Response<Body> {
    let ready = if serializable {
        Ok(())
    } else {
        ready(replica).await
    };
    let (status, body) = match ready {
        Ok(()) => (StatusCode::OK, r#"{"health":"true","reason":""}"#.into()),
        // The reasons are our own: nothing in them needs escaping.
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!(r#"{{"health":"false","reason":"{reason}"}}"#),
        ),
    };
    reply(status, JSON, body)
}

async fn readyz(replica: &Replica) -> Response<Body> {
    match ready(replica).await {
        Ok(()) => reply(StatusCode::OK, TEXT, "ok".into()),
        Err(reason) => reply(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            format!("not ready: {reason}\n"),
        ),
    }
}

/// Ready means: there is a leader and a linearizable read passes. Else why not, in etcd's words.
async fn ready(replica: &Replica) -> Result<(), String> {
    if !replica.has_leader() {
        return Err("RAFT NO LEADER".into());
    }
    let read = replica.node.read_barrier().await;
    read.map_err(|error| format!("RANGE ERROR:{}", read_failed(error)))
}

fn version() -> String {
    format!(r#"{{"etcdserver":"{ETCD_SERVER_VERSION}","etcdcluster":"{ETCD_CLUSTER_VERSION}"}}"#)
}

fn method_not_allowed() -> Response<Body> {
    let mut response = reply(
        StatusCode::METHOD_NOT_ALLOWED,
        TEXT,
        "only GET is served here\n".into(),
    );
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

fn is_serializable(query: Option<&str>) -> bool {
    query
        .unwrap_or_default()
        .split('&')
        .any(|pair| pair == "serializable=true")
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serializable_is_read_from_the_query() {
        assert!(is_serializable(Some("serializable=true")));
        assert!(is_serializable(Some("exclude=NOSPACE&serializable=true")));
        assert!(!is_serializable(Some("serializable=false")) && !is_serializable(None));
    }
}
