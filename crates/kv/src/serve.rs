//! The client port: one listener for gRPC (HTTP/2 with prior knowledge) and HTTP/1.1, told apart by a connection's first bytes.
//!
//! Connections are driven here rather than by tonic's server, for two reasons: KV calls go straight to their service, without the
//! router, since the leader spends most of its CPU per put around gRPC; and a shutdown is bounded, however many streams are open.

use crate::{
    clients::{AnswerBody, CallKind, Client, MAX_STREAMS, RequestBody, STREAM_WINDOW_BYTES},
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
    io::{AsyncRead, AsyncWrite},
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

/// How often a silent connection is asked whether its client is still there, and how long it may take to say so. Without it a client
/// that vanished would keep its watchers here for hours.
const PING_INTERVAL: Duration = Duration::from_secs(120);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long open calls may take to end once the server shuts down. Watches are told at once.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a failed accept, which is most often a lack of file descriptors that closing connections will cure.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Where client connections come from: a TCP port, or what a simulator puts in its place.
pub trait ClientListener: Send {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl ClientListener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        // Without it small answers wait for the acknowledgement of earlier ones. A failure costs only time.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Serves the etcd v3 API and the plain HTTP pages on `listener` until `shutdown` resolves, then lets open calls end for a short time.
pub async fn serve<L: ClientListener>(
    mut listener: L,
    node: Node,
    store: Arc<Store>,
    options: ServiceOptions,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(false);
    let clients = options.clients.clone();
    let replica = Replica::new(node, store, clients.clone());
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
                Ok(stream) => {
                    if let Some(client) = clients.enter() {
                        let serving = serve_connection(stream, client, dispatch.clone(), stopped.clone());
                        connections.spawn(serving);
                    }
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

async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    client: Arc<Client>,
    dispatch: Arc<Dispatch>,
    mut stopped: watch::Receiver<bool>,
) {
    let builder = connection_builder();
    let caller = client.clone();
    let service =
        hyper::service::service_fn(move |request| dispatch.clone().answer(request, caller.clone()));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = client.cut_off() => return,
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
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES);
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
        client: Arc<Client>,
    ) -> Result<Response<Body>, Infallible> {
        if !is_grpc(request.headers()) {
            let (head, _) = request.into_parts();
            return Ok(http::answer(&self.replica, &head.method, &head.uri).await);
        }
        let call = match client.begin(kind(request.uri().path())) {
            Ok(call) => call,
            Err(error) => return Ok(Status::from(error).into_http()),
        };
        let request = request.map(|body| RequestBody::new(body, call.clone()));
        let mut response = self.route(request).await?;
        call.answered();
        name_oversized_messages(response.headers_mut());
        Ok(response.map(|body| Body::new(AnswerBody::new(body, call))))
    }

    fn route(
        &self,
        request: Request<RequestBody>,
    ) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
        let path = request.uri().path();
        if needs_leader(request.headers()) && !self.replica.has_leader() {
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

fn kind(path: &str) -> CallKind {
    match path {
        "/etcdserverpb.Watch/Watch" => CallKind::Watch,
        _ => CallKind::Unary,
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
