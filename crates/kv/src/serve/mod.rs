//! The client port: one listener for gRPC (HTTP/2 with prior knowledge) and HTTP/1.1, told apart by a connection's first bytes.
//!
//! HTTP/2 is `eaves-http2`'s, and calls of KV go straight from there to their service, since the leader spends most of its processor time
//! around gRPC: see [`connection`]. All other services are tonic's, and are relayed to ([`relay`]). HTTP/1.1 is hyper's.

mod calls;
mod connection;
mod grpc;
mod inbox;
mod relay;

use crate::{
    clients::{Call, CallKind, Client},
    http,
    services::{
        self, ServiceOptions,
        errors::name_oversized,
        kv::{KvService, Method},
        partial::missing_service,
        replica::Replica,
        validate::MAX_MESSAGE_BYTES,
    },
    store::{KvError, Store},
};
use bytes::Bytes;
use connection::Driver;
use eaves::Node;
use eaves_http2::Head;
use futures_util::future::BoxFuture;
use hyper::{
    body::{Body as _, Frame, Incoming},
    server::conn::http1,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Service,
        http::{HeaderMap, Request, Response},
    },
    service::Routes,
};

/// How HTTP/2 begins, as no request of HTTP/1.1 does.
const HTTP2_BEGINNING: &[u8] = b"PRI ";
/// The paths of KV's methods.
const KV_PREFIX: &str = "/etcdserverpb.KV/";
/// What is read from a socket at once: many small calls.
const READ_BYTES: usize = 64 << 10;
/// How long a client may take to say what it speaks.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
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
        kv: KvService::new(replica.clone()),
        routes: services::routes(&replica, options, stopped.clone()),
        replica,
        buffers: Buffers::default(),
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
    mut stream: S,
    client: Arc<Client>,
    dispatch: Arc<Dispatch>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut first = Vec::with_capacity(HTTP2_BEGINNING.len());
    let serving = async {
        let told = tokio::select! {
            told = tokio::time::timeout(GREETING_TIMEOUT, speaks_http2(&mut stream, &mut first)) => told,
            () = told_to_stop(&mut stopped) => return Ok(()),
        };
        match told?? {
            true => serve_http2(stream, &first, client.clone(), dispatch, &mut stopped).await,
            false => serve_http1(stream, first, dispatch, &mut stopped).await,
        }
    };
    let result = tokio::select! {
        result = serving => result,
        () = client.cut_off() => return,
    };
    if let Err(error) = result {
        tracing::debug!("a client connection ended: {error}");
    }
}

/// Reads until it is clear what the client speaks, and keeps what was read.
async fn speaks_http2(
    stream: &mut (impl AsyncRead + Unpin),
    first: &mut Vec<u8>,
) -> io::Result<bool> {
    while HTTP2_BEGINNING.starts_with(first) {
        if first.len() == HTTP2_BEGINNING.len() {
            return Ok(true);
        }
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        first.extend_from_slice(&byte);
    }
    Ok(false)
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    first: &[u8],
    client: Arc<Client>,
    dispatch: Arc<Dispatch>,
    stopped: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    let mut driver = Driver::new(stream, first, client, dispatch);
    tokio::select! {
        result = driver.run() => return result,
        () = told_to_stop(stopped) => driver.go_away(),
    }
    driver.run().await
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    first: Vec<u8>,
    dispatch: Arc<Dispatch>,
    stopped: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let dispatch = dispatch.clone();
        async move {
            let (head, _) = request.into_parts();
            let answer = http::answer(&dispatch.replica, &head.method, &head.uri).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let (reader, writer) = tokio::io::split(stream);
    let stream = tokio::io::join(io::Cursor::new(first).chain(reader), writer);
    // Without a timer a client may hold a connection by never ending its request line.
    let builder = http1::Builder::new().timer(TokioTimer::new()).to_owned();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = told_to_stop(stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(io::Error::other)
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Where a request goes: KV first and shortest, then the other services, then the plain pages.
struct Dispatch {
    replica: Replica,
    kv: KvService,
    routes: Routes,
    buffers: Buffers,
}

/// Where a request goes, by its head.
enum Route {
    /// It is answered by a status at once.
    Refused(Status),
    /// A call of KV.
    Kv(Call, Method),
    /// To [`Dispatch::relay`]; plain pages are no calls.
    Relay(Option<Call>),
}

impl Dispatch {
    fn route(&self, client: &Arc<Client>, head: &Head) -> Route {
        if !grpc::is_grpc(head) {
            return Route::Relay(None);
        }
        let path = str::from_utf8(&head.path).unwrap_or_default();
        let call = match client.begin(kind(path)) {
            Ok(call) => call,
            Err(error) => return Route::Refused(error.into()),
        };
        let needs_leader = head.get("hasleader").is_some_and(|value| value == "true");
        if needs_leader && !self.replica.has_leader() {
            Route::Refused(KvError::NoLeader.into())
        } else if let Some(method) = path.strip_prefix(KV_PREFIX) {
            match Method::named(method) {
                Some(method) => Route::Kv(call, method),
                None => Route::Refused(Status::unimplemented("")),
            }
        } else if let Some(status) = missing_service(path) {
            Route::Refused(status)
        } else {
            Route::Relay(Some(call))
        }
    }

    /// Answers what is not KV.
    fn relay(
        self: Arc<Self>,
        request: Request<Body>,
        is_grpc: bool,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            if !is_grpc {
                let (head, mut body) = request.into_parts();
                // Nobody wants it, and what is wrong with it may be wrong with all of the request.
                while let Some(Ok(_)) = next_frame(&mut body).await {}
                return http::answer(&self.replica, &head.method, &head.uri).await;
            }
            let answered: Result<_, Infallible> = self.routes.clone().call(request).await;
            let mut response = match answered {
                Ok(response) => response,
                Err(never) => match never {},
            };
            name_oversized_messages(response.headers_mut());
            response
        })
    }
}

async fn next_frame(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
    std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

/// Buffers to read into, as many as threads read at the same time.
#[derive(Default)]
struct Buffers(Mutex<Vec<Box<[u8]>>>);

impl Buffers {
    fn take(&self) -> Box<[u8]> {
        let kept = self.0.lock().expect("nobody panics with it").pop();
        kept.unwrap_or_else(|| vec![0; READ_BYTES].into())
    }

    fn put(&self, buffer: Box<[u8]>) {
        self.0.lock().expect("nobody panics with it").push(buffer);
    }
}

fn kind(path: &str) -> CallKind {
    match path {
        "/etcdserverpb.Watch/Watch" => CallKind::Watch,
        _ => CallKind::Unary,
    }
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
