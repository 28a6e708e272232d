//! The client port: one listener for gRPC (HTTP/2 with prior knowledge) and HTTP/1.1, told apart by a connection's first bytes.
//!
//! Connections are driven here rather than by tonic's server, for two reasons: KV calls go straight to their service, without the
//! router, since the leader spends most of its CPU per put around gRPC; and a shutdown is bounded, however many streams are open.

use crate::{
    http,
    proto::etcdserverpb::kv_server::KvServer,
    services::{
        self, ServiceOptions, errors::name_oversized, kv::KvService, leader::needs_leader,
        partial::missing_service, replica::Replica, validate::MAX_MESSAGE_BYTES,
    },
    store::{KvError, Store},
};
use eaves::Node;
use futures_util::future::{BoxFuture, ready};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{convert::Infallible, future::Future, io, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Service,
        http::{HeaderMap, Request, Response, header},
    },
    service::Routes,
};

/// Bytes a client may send on one stream before it must wait for us: above the largest message, so that one never waits half-way.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes a client may send on all streams of one connection before it must wait for us.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// How often a silent connection is asked whether its client is still there, and how long it may take to say so. Without it a client
/// that vanished would keep its watchers here for hours.
const PING_INTERVAL: Duration = Duration::from_secs(120);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long open calls may take to end once the server shuts down. Watches are told at once.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a failed accept, which is most often a lack of file descriptors that closing connections will cure.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Serves the etcd v3 API and the plain HTTP pages on `listener` until `shutdown` resolves, then lets open calls end for a short time.
pub async fn serve(
    listener: TcpListener,
    node: Node,
    store: Arc<Store>,
    options: ServiceOptions,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(false);
    let replica = Replica::new(node, store);
    let dispatch = Arc::new(Dispatch {
        kv: services::kv_server(replica.clone()),
        routes: services::routes(&replica, options, stopped.clone()),
        replica,
    });
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, dispatch.clone(), stopped.clone()));
                }
                Err(error) => pause_after(error).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let _ = stop.send(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    // Dropping the set closes what is still open.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
}

async fn pause_after(error: io::Error) {
    tracing::warn!("failed to accept a client connection, trying again: {error}");
    tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
}

async fn serve_connection(
    stream: TcpStream,
    dispatch: Arc<Dispatch>,
    mut stopped: watch::Receiver<bool>,
) {
    // Without it small answers wait for the acknowledgement of earlier ones. A failure costs only time.
    let _ = stream.set_nodelay(true);
    let builder = connection_builder();
    let service = hyper::service::service_fn(move |request| dispatch.clone().answer(request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = told_to_stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("a client connection ended: {error}");
    }
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        // gRPC has no use for it.
        .auto_date_header(false)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(u32::MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    // Without a timer a client may hold a connection by never ending its request line.
    builder.http1().timer(TokioTimer::new());
    builder
}

/// Where a request goes: KV first and shortest, then the other services, then the plain pages.
struct Dispatch {
    replica: Replica,
    kv: KvServer<KvService>,
    routes: Routes,
}

impl Dispatch {
    /// Answers one request. The future is kept small: there is one for each call in flight, within a task of its own.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let mut response = self.route(request).await?;
        name_oversized_messages(response.headers_mut());
        Ok(response)
    }

    fn route(
        &self,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
        let path = request.uri().path();
        if !is_grpc(request.headers()) {
            let (replica, (head, _)) = (self.replica.clone(), request.into_parts());
            Box::pin(async move { Ok(http::answer(&replica, &head.method, &head.uri).await) })
        } else if needs_leader(request.headers()) && !self.replica.has_leader() {
            Box::pin(ready(Ok(Status::from(KvError::NoLeader).into_http())))
        } else if path.starts_with("/etcdserverpb.KV/") {
            self.kv.clone().call(request)
        } else if let Some(status) = missing_service(path) {
            Box::pin(ready(Ok(status.into_http())))
        } else {
            Box::pin(self.routes.clone().call(request))
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Renames the status of a message above the receive limit, see [`name_oversized`].
fn name_oversized_messages(headers: &mut HeaderMap) {
    if !headers.contains_key("grpc-status") {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    if status.code() == Code::OutOfRange {
        // Cannot fail: the text is plain ASCII.
        let _ = name_oversized(status, MAX_MESSAGE_BYTES).add_header(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_from_plain_http_by_its_content_type() {
        let mut headers = HeaderMap::new();
        assert!(!is_grpc(&headers));
        headers.insert(
            header::CONTENT_TYPE,
            "application/grpc+proto".parse().unwrap(),
        );
        assert!(is_grpc(&headers));
    }
}
