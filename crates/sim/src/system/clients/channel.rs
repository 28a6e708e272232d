//! gRPC over the simulated network.

use crate::system::network::{Handle, Stream};
use crate::system::process::client_address;
use hyper_util::rt::TokioIo;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::codegen::{BoxFuture, Service, http::Uri};
use tonic::transport::{Channel, Endpoint};

/// How soon a node that has gone silent is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// One client's connections to all nodes, each made when it is first used, and again when it broke.
pub struct Channels(Vec<Channel>);

impl Channels {
    /// Connections to these nodes.
    pub fn new(handle: &Handle, nodes: &[&'static str]) -> Channels {
        Channels(nodes.iter().map(|node| channel(handle, node)).collect())
    }

    /// The one to a node.
    pub fn to(&self, node: usize) -> Channel {
        self.0[node].clone()
    }
}

fn channel(handle: &Handle, node: &str) -> Channel {
    let url = format!("http://{}", client_address(node));
    Endpoint::from_shared(url)
        .expect("a machine's name makes a URL")
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .connect_with_connector_lazy(Connector(handle.clone()))
}

/// Opens connections for tonic.
#[derive(Clone)]
struct Connector(Handle);

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let handle = self.0.clone();
        Box::pin(async move {
            let address = uri.authority().map(|authority| authority.to_string());
            let stream = handle.open_stream(&address.unwrap_or_default()).await?;
            Ok(TokioIo::new(stream))
        })
    }
}
