//! A connection whose driver has its turns one at a time, over a socket in memory: frames written by hand, and what the client hears in
//! which order.

mod calls;
mod turns;

use super::*;
use crate::{
    clients::{ClientCounts, ClientLimits, Clients},
    proto::etcdserverpb::RangeRequest,
    serve::Buffers,
    services::{self, ServiceOptions, kv::KvService, replica::Replica},
    store::Store,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use eaves::{Config, Group, Node, StartAs};
use eaves_http2::{
    frame::{self, FrameHeader, HEADER_BYTES, PREFACE, flag, kind},
    hpack::encode,
};
use futures_util::{FutureExt, future::BoxFuture};
use prost::Message;
use std::convert::Infallible;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::watch,
};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    server::NamedService,
    service::Routes,
};

/// More than any test writes or hears.
const PIPE_BYTES: usize = 4 << 20;
/// Turns that are more than any test needs.
const MANY_TURNS: usize = 10_000;

const RANGE: &str = "/etcdserverpb.KV/Range";
const GATE: &str = "/test.Gate/Pass";

/// A service whose calls all wait until it is opened.
#[derive(Clone)]
struct Gate(watch::Receiver<bool>);

impl NamedService for Gate {
    const NAME: &'static str = "test.Gate";
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let mut gate = self.0.clone();
        Box::pin(async move {
            let _ = gate.wait_for(|is_open| *is_open).await;
            Ok(Status::ok("").into_http())
        })
    }
}

/// A client, and the driver of its connection, which has a turn when it is told.
struct Connection {
    socket: DuplexStream,
    driver: Driver<DuplexStream>,
    next_stream: u32,
    gate: watch::Sender<bool>,
    clients: Clients,
    _node: Node,
    _stop: watch::Sender<bool>,
    _directory: TempDir,
}

/// A frame that was heard.
#[derive(Debug)]
struct Heard {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Bytes,
}

impl Heard {
    fn is_end(&self) -> bool {
        self.kind == kind::HEADERS && self.flags & flag::END_STREAM != 0
    }
}

impl Connection {
    /// To a voter of its own, which leads. A turn ends as soon as the clock is looked at.
    async fn new(limits: ClientLimits) -> Connection {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        let group = Group::new("test", &[("alone".into(), "127.0.0.1:1".into())]);
        let start_as = StartAs::Voter { group };
        let mut config = Config::new("alone", directory.path(), "127.0.0.1:0", start_as);
        config.log.segment_bytes = 4 << 20;
        let node = Node::start(config, store.clone()).await.unwrap();
        let leads = |status: &eaves::Status| status.leader.is_some();
        node.status().wait_for(leads).await.unwrap();

        let clients = Clients::new(limits);
        let ((gate, opened), (stop, stopped)) = (watch::channel(false), watch::channel(false));
        let options = ServiceOptions {
            clients: clients.clone(),
            extra_routes: Routes::new(Gate(opened)),
            ..Default::default()
        };
        let replica = Replica::new(node.clone(), store, clients.clone());
        let dispatch = Arc::new(Dispatch {
            kv: KvService::new(replica.clone()),
            routes: services::routes(&replica, options, stopped),
            replica,
            buffers: Buffers::default(),
        });
        let (socket, far) = tokio::io::duplex(PIPE_BYTES);
        let client = clients.enter().unwrap();
        let mut driver = Driver::new(far, &[], client, dispatch);
        driver.turn_time = Duration::ZERO;
        let mut connection = Connection {
            socket,
            driver,
            next_stream: 1,
            gate,
            clients,
            _node: node,
            _stop: stop,
            _directory: directory,
        };
        let mut greeting = BytesMut::from(&PREFACE[..]);
        frame::put_settings(&mut greeting, &[]);
        connection.say(&greeting).await;
        connection
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Begins a call, with a body that may end later.
    async fn begin(&mut self, path: &str, body: &[u8], ended: bool) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let (mut block, mut said) = (BytesMut::new(), BytesMut::new());
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            ("content-type", "application/grpc"),
        ] {
            encode::put_literal(&mut block, name.as_bytes(), value.as_bytes());
        }
        frame::put_headers(&mut said, stream, &block, false);
        let flags = if ended { flag::END_STREAM } else { 0 };
        frame::put_header(&mut said, body.len(), kind::DATA, flags, stream);
        said.put_slice(body);
        self.say(&said).await;
        stream
    }

    async fn call(&mut self, path: &str, message: &impl Message) -> u32 {
        self.begin(path, &framed(message), true).await
    }

    /// A read that is answered as soon as it is looked at.
    async fn range(&mut self) -> u32 {
        let request = RangeRequest {
            key: "k".into(),
            serializable: true,
            ..Default::default()
        };
        self.call(RANGE, &request).await
    }

    /// The driver has one turn, and nobody else.
    async fn turn(&mut self) -> Poll<io::Result<()>> {
        let driver = &mut self.driver;
        std::future::poll_fn(|context| Poll::Ready(driver.poll(context))).await
    }

    /// Turns, until what was heard all in all is as it should be.
    async fn turns_until(&mut self, is_enough: impl Fn(&[Heard]) -> bool) -> Vec<Heard> {
        let mut heard = Vec::new();
        for _ in 0..MANY_TURNS {
            if is_enough(&heard) {
                return heard;
            }
            assert!(self.turn().await.is_pending(), "{heard:?}");
            heard.extend(self.heard());
            // Tokio lets a task do so much without a pause, and a test is one.
            tokio::task::yield_now().await;
        }
        panic!("not after {MANY_TURNS} turns: {heard:?}")
    }

    /// Turns, until the connection is over; what was heard until then.
    async fn turns_to_the_end(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        for _ in 0..MANY_TURNS {
            let over = self.turn().await;
            heard.extend(self.heard());
            tokio::task::yield_now().await;
            if let Poll::Ready(result) = over {
                result.unwrap();
                return heard;
            }
        }
        panic!("not over after {MANY_TURNS} turns: {heard:?}")
    }

    /// Turns, while what clients take is so.
    async fn turns_while(&mut self, is_so: impl Fn(ClientCounts) -> bool) {
        for _ in 0..MANY_TURNS {
            if !is_so(self.clients.counts()) {
                return;
            }
            assert!(self.turn().await.is_pending());
            tokio::task::yield_now().await;
        }
        panic!("not after {MANY_TURNS} turns: {:?}", self.clients.counts())
    }

    /// What has come, in whole frames.
    fn heard(&mut self) -> Vec<Heard> {
        let mut bytes = BytesMut::new();
        while let Some(Ok(1..)) = self.socket.read_buf(&mut bytes).now_or_never() {}
        let mut heard = Vec::new();
        while let Some(header) = bytes.first_chunk::<HEADER_BYTES>().map(FrameHeader::read) {
            bytes.advance(HEADER_BYTES);
            heard.push(Heard {
                kind: header.kind,
                flags: header.flags,
                stream: header.stream,
                payload: bytes.split_to(header.length).freeze(),
            });
        }
        heard
    }
}

fn framed(message: &impl Message) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.encoded_len() as u32);
    message.encode(&mut body).unwrap();
    body
}

/// The streams that were answered, in order.
fn ends(heard: &[Heard]) -> Vec<u32> {
    let ends = heard.iter().filter(|heard| heard.is_end());
    ends.map(|heard| heard.stream).collect()
}

/// The last stream that a GOAWAY names.
fn leave(heard: &Heard) -> Option<u32> {
    (heard.kind == kind::GOAWAY).then(|| heard.payload.clone().get_u32())
}
