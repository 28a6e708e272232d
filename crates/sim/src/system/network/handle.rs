//! The network as one process sees it: what it connects to and where it listens ends with it.

use super::end::{Alarm, Reader, Side, Writer};
use super::state::{HELD, HostId, Net, Place};
use crate::system::clock::Clock;
use eaves::{CONNECT_TIMEOUT, Connection, Listener, Network, Task};
use eaves_kv::ClientListener;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Join, join};
use tokio::time::sleep_until;

/// The network of one process on one machine.
#[derive(Clone)]
pub struct Handle {
    /// The network that all share.
    pub net: Arc<Net>,
    /// The machine.
    pub host: HostId,
    /// Which of its processes this is.
    pub life: u32,
    /// The clock of its runtime.
    pub clock: Clock,
}

/// Both halves of a connection together.
pub type Stream = Join<Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>>;

impl Handle {
    /// Opens a connection.
    pub async fn open(&self, address: &str) -> io::Result<Connection> {
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, self.attempt(address)).await;
        attempt.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer to connection attempt",
            ))
        })
    }

    /// The same as one stream.
    pub async fn open_stream(&self, address: &str) -> io::Result<Stream> {
        let connection = self.open(address).await?;
        Ok(join(connection.reader, connection.writer))
    }

    async fn attempt(&self, address: &str) -> io::Result<Connection> {
        let Some(to) = self.net.lock().host_of(address) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such name"));
        };
        self.travel(self.host, to).await;
        if !self.net.lock().is_up(to) {
            return std::future::pending().await;
        }
        let opened = self.arrive(address, to);
        self.travel(to, self.host).await;
        let conn = opened.ok_or(io::ErrorKind::ConnectionRefused)?;
        Ok(self.connection(conn, 0, address.to_string()))
    }

    /// Returns after the time that a packet takes; never, if the link is cut now.
    async fn travel(&self, from: HostId, to: HostId) {
        let at = self.net.lock().packet(from, to, self.clock.now());
        match at {
            HELD => std::future::pending().await,
            at => sleep_until(self.clock.instant(at)).await,
        }
    }

    /// Puts a connection before whoever listens at `address`, if anybody does.
    fn arrive(&self, address: &str, to: HostId) -> Option<u64> {
        let state = &mut *self.net.lock();
        if !state.listening.contains_key(address) {
            return None;
        }
        let conn = state.connect(self.host, to);
        let at = state.acceptable(self.clock.now());
        let place = state.listening.get_mut(address)?;
        place.arriving.push_back((at, conn));
        if let Some(waker) = place.waker.take() {
            waker.wake();
        }
        Some(conn)
    }

    fn connection(&self, conn: u64, side: usize, peer: String) -> Connection {
        let side = Side {
            net: self.net.clone(),
            conn,
            side,
            clock: self.clock,
        };
        Connection {
            reader: Box::new(Reader {
                side: side.clone(),
                alarm: Alarm::default(),
            }),
            writer: Box::new(Writer { side }),
            peer,
        }
    }

    /// Listens at an address.
    pub fn bind(&self, address: &str) -> io::Result<Port> {
        let state = &mut *self.net.lock();
        if !state.is_alive(self.host, self.life) {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        if state.listening.contains_key(address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let place = Place {
            host: self.host,
            life: self.life,
            arriving: VecDeque::new(),
            waker: None,
        };
        state.listening.insert(address.to_string(), place);
        Ok(Port {
            handle: self.clone(),
            address: address.to_string(),
            alarm: Alarm::default(),
        })
    }
}

impl Network for Handle {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        Box::pin(self.open(address))
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(self.bind(address)?) as Box<dyn Listener>) })
    }
}

/// An address at which a process listens.
pub struct Port {
    handle: Handle,
    address: String,
    alarm: Alarm,
}

impl Port {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Connection>> {
        loop {
            let next = {
                let state = &mut *self.handle.net.lock();
                let place = state
                    .listening
                    .get_mut(&self.address)
                    .filter(|place| place.life == self.handle.life);
                let Some(place) = place else {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                };
                place.waker = Some(context.waker().clone());
                match place.arriving.front() {
                    Some((at, _)) if *at <= self.handle.clock.now() => {
                        let (_, conn) = place.arriving.pop_front().expect("the front is there");
                        Ok(conn)
                    }
                    Some((at, _)) => Err(*at),
                    None => Err(HELD),
                }
            };
            match next {
                Ok(conn) => {
                    let peer = format!("connection {conn}");
                    return Poll::Ready(Ok(self.handle.connection(conn, 1, peer)));
                }
                Err(at) => ready!(self.alarm.poll(at, self.handle.clock, context)),
            }
        }
    }
}

impl Listener for Port {
    fn accept(&mut self) -> Task<'_, io::Result<Connection>> {
        Box::pin(std::future::poll_fn(|context| self.poll_accept(context)))
    }

    fn address(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut state = self.handle.net.lock();
        let mine = |place: &Place| place.life == self.handle.life;
        if state.listening.get(&self.address).is_some_and(mine) {
            state.listening.remove(&self.address);
        }
    }
}

/// A port for etcd clients.
pub struct ClientPort(pub Port);

impl ClientListener for ClientPort {
    type Stream = Stream;

    async fn accept(&mut self) -> io::Result<Stream> {
        let connection = Listener::accept(&mut self.0).await?;
        Ok(join(connection.reader, connection.writer))
    }
}
