//! The network as the node sees it: addresses are strings, connections are two halves of bytes.
//!
//! Everything that leaves a node goes through [`Network`], so that a simulator can put its own in place of TCP. Names are resolved at
//! every attempt (B5): an address that moves is found again.

use socket2::{SockRef, TcpKeepalive};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// How long a connection attempt may take before the address counts as unreachable.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a silent connection is asked whether the peer's machine is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A peer whose machine acknowledges nothing for this long is gone: every stream between peers, quiet or blocked, ends then.
const DEAD_PEER_TIMEOUT: Duration = Duration::from_secs(10);

/// A boxed future, as the traits here return them.
pub type Task<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One established connection: a reading and a writing half, which may be used from different tasks.
pub struct Connection {
    /// Bytes from the peer.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// Bytes to the peer.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// The other side's address, for messages.
    pub peer: String,
}

/// Opens connections and accepts them.
pub trait Network: Send + Sync + 'static {
    /// Connects to `address` (`host:port`).
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>>;

    /// Listens on `address`.
    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>>;
}

/// Accepts connections.
pub trait Listener: Send {
    /// The next connection.
    fn accept(&mut self) -> Task<'_, io::Result<Connection>>;

    /// The address it is bound to, with the real port where 0 was asked for.
    fn address(&self) -> io::Result<String>;
}

/// The real network.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNetwork;

impl Network for TcpNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        Box::pin(async move {
            let attempt = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            connection(attempt.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "no answer to connection attempt")
            })??)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(
            async move { Ok(Box::new(TcpListener::bind(address).await?) as Box<dyn Listener>) },
        )
    }
}

impl Listener for TcpListener {
    fn accept(&mut self) -> Task<'_, io::Result<Connection>> {
        Box::pin(async move { connection(TcpListener::accept(self).await?.0) })
    }

    fn address(&self) -> io::Result<String> {
        Ok(self.local_addr()?.to_string())
    }
}

fn connection(stream: TcpStream) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_INTERVAL)
            .with_interval(KEEPALIVE_INTERVAL),
    )?;
    socket.set_tcp_user_timeout(Some(DEAD_PEER_TIMEOUT))?;
    let peer = stream.peer_addr()?.to_string();
    let (reader, writer) = stream.into_split();
    Ok(Connection {
        reader: Box::new(reader),
        writer: Box::new(writer),
        peer,
    })
}
