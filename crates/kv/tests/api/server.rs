//! One voter with its services in this process, and what the tests say to it.

use eaves::{Config, Group, Node, StartAs};
use eaves_kv::{
    ClientLimits, Clients, ServiceOptions,
    proto::etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, kv_client::KvClient,
        request_op::Request as Op,
    },
    serve,
    store::Store,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// Small segments, since every test has a log of its own.
const SEGMENT_BYTES: u64 = 4 << 20;

/// Dropping it stops nothing in order: the test's runtime, which runs it, ends first.
pub struct Server {
    pub address: SocketAddr,
    channel: Channel,
    /// What its clients take.
    pub clients: Clients,
    node: Node,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    /// Holds the data until the node is gone.
    _directory: TempDir,
}

impl Server {
    /// Starts a voter on its own and waits until it leads.
    pub async fn start() -> Server {
        Self::start_with(ClientLimits::default()).await
    }

    /// The same, with other limits for its clients.
    pub async fn start_with(limits: ClientLimits) -> Server {
        let server = Self::start_among(&["alone"], Clients::new(limits)).await;
        let leads = |status: &eaves::Status| status.leader.is_some();
        server.node.status().wait_for(leads).await.unwrap();
        server
    }

    /// Starts one voter of a group whose two others never come.
    pub async fn start_without_quorum() -> Server {
        Self::start_among(&["alone", "missing", "gone"], Clients::default()).await
    }

    async fn start_among(founders: &[&str], clients: Clients) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        let config = config(&directory, founders);
        let node = Node::start(config, store.clone()).await.unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let options = ServiceOptions {
            progress_interval: Duration::from_millis(100),
            clients: clients.clone(),
            ..Default::default()
        };
        let shutdown = async {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(serve(listener, node.clone(), store, options, shutdown));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Server {
            address,
            channel,
            clients,
            node,
            stop,
            serving,
            _directory: directory,
        }
    }

    /// Ends the services, waits for them, and stops the node.
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
        self.node.shutdown().await;
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel())
    }

    /// The store's revision.
    pub async fn revision(&self) -> i64 {
        let response = self.kv().range(range("nothing", "")).await.unwrap();
        response.into_inner().header.unwrap().revision
    }
}

/// The first of `founders`, in a group whose members cannot reach each other.
fn config(directory: &TempDir, founders: &[&str]) -> Config {
    let addresses = founders
        .iter()
        .zip(1..)
        .map(|(name, port)| (name.to_string(), format!("127.0.0.1:{port}")));
    let group = Group::new("test", &addresses.collect::<Vec<_>>());
    let start_as = StartAs::Voter { group };
    let mut config = Config::new(founders[0], directory.path(), "127.0.0.1:0", start_as);
    config.client_urls = vec!["http://127.0.0.1:1".into()];
    config.log.segment_bytes = SEGMENT_BYTES;
    config
}

pub fn assert_status(status: &Status, code: Code, message: &str) {
    assert_eq!((status.code(), status.message()), (code, message));
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

pub fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..Default::default()
    }
}

pub fn delete(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..Default::default()
    }
}

pub fn put_op(key: &str, value: &str) -> RequestOp {
    RequestOp {
        request: Some(Op::RequestPut(put(key, value))),
    }
}

pub fn range_op(key: &str) -> RequestOp {
    RequestOp {
        request: Some(Op::RequestRange(range(key, ""))),
    }
}
