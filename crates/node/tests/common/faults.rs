//! A network with one fault: a connection that carries enough bytes is cut or has a byte flipped, once, or every such connection stalls.

use eaves::{Connection, Listener, Network, Task, TcpNetwork};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What happens to a connection that has carried this many bytes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It breaks.
    CutAt(u64),
    /// Nothing arrives any more; so with every connection until told otherwise.
    StallAt(u64),
    /// One byte arrives changed.
    FlipAt(u64),
}

impl Fault {
    fn at(self) -> u64 {
        match self {
            Fault::None => u64::MAX,
            Fault::CutAt(at) | Fault::StallAt(at) | Fault::FlipAt(at) => at,
        }
    }
}

/// The network of a node: a fault strikes connections that the node opened.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn Network>,
    fault: Arc<Mutex<Fault>>,
    faults: Arc<AtomicU64>,
}

impl Faulty {
    /// TCP with a fault.
    pub fn new(fault: Fault) -> Faulty {
        Faulty::over(Arc::new(TcpNetwork), fault)
    }

    /// Another network with a fault.
    pub fn over(inner: Arc<dyn Network>, fault: Fault) -> Faulty {
        Faulty {
            inner,
            fault: Arc::new(Mutex::new(fault)),
            faults: Arc::default(),
        }
    }

    /// Sets what happens next.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// How often a fault struck.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Bytes that a stream which has carried `carried` carries before the fault strikes, if it is still to come.
    fn intact_after(&self, carried: u64) -> usize {
        let at = self.fault.lock().unwrap().at();
        usize::try_from(at.saturating_sub(carried)).unwrap_or(usize::MAX)
    }

    /// The fault, if it strikes a stream that has carried `before` bytes and is to carry `more`.
    fn strike(&self, before: u64, more: u64) -> Option<Fault> {
        let mut fault = self.fault.lock().unwrap();
        let strikes = (before..before + more).contains(&fault.at());
        strikes.then(|| {
            self.faults.fetch_add(1, Ordering::Relaxed);
            match *fault {
                Fault::StallAt(_) => *fault,
                _ => std::mem::replace(&mut *fault, Fault::None),
            }
        })
    }
}

impl Network for Faulty {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        Box::pin(async move {
            let connection = self.inner.connect(address).await?;
            Ok(Connection {
                reader: Box::new(Stream::new(connection.reader, self)),
                writer: Box::new(Stream::new(connection.writer, self)),
                ..connection
            })
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        self.inner.listen(address)
    }
}

struct Stream<S> {
    inner: S,
    network: Faulty,
    carried: u64,
    stalled: bool,
}

impl<S> Stream<S> {
    fn new(inner: S, network: &Faulty) -> Stream<S> {
        Stream {
            inner,
            network: network.clone(),
            carried: 0,
            stalled: false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stalled {
            return Poll::Pending; // For good: nobody is to be woken.
        }
        let before = buffer.filled().len();
        // A reading ends where the fault is: what came before it arrives, however much comes at once.
        let intact = match self.network.intact_after(self.carried) {
            0 => buffer.remaining(),
            bytes => buffer.remaining().min(bytes),
        };
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(intact));
        std::task::ready!(Pin::new(&mut self.inner).poll_read(context, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        let more = read as u64;
        let carried = std::mem::replace(&mut self.carried, 0);
        self.carried = carried + more;
        match self.network.strike(carried, more) {
            Some(Fault::CutAt(_)) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(Fault::StallAt(_)) => {
                buffer.set_filled(before);
                self.stalled = true;
                Poll::Pending
            }
            Some(Fault::FlipAt(at)) => {
                buffer.filled_mut()[before + (at - carried) as usize] ^= 1;
                Poll::Ready(Ok(()))
            }
            Some(Fault::None) | None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let carried = self.carried;
        if self.network.strike(carried, bytes.len() as u64).is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        self.carried += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
