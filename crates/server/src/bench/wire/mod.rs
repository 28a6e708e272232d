//! gRPC calls over a bare HTTP/2 connection, without the layers of a comfortable client: the load generator shares the machine with what
//! it measures, so what it costs is taken from the servers.
//!
//! One request is one HEADERS and one DATA frame; the answer is read to its trailers and its status checked, as gRPC demands. There is
//! no retry, no deadline and no balancing here; [`super::load`] does what of that it needs. [`protocol`] is all of it but the socket.

mod protocol;

use crate::address::Address;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use protocol::Protocol;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A gRPC message begins with a flag byte (not compressed) and its length in four.
const PREFIX_BYTES: usize = 5;

/// What is read from a socket at once.
const READ_BYTES: usize = 64 << 10;

/// Why a call gave no answer, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The server refused this call; the connection is fine.
    Refused(String),
    /// The connection is of no use any more: open another.
    Broken(String),
}

type Answer = Result<Bytes, CallError>;

/// One HTTP/2 connection that calls one method. Cheap to clone; all clones share the connection.
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    /// Or why there is none any more.
    protocol: Result<Protocol<oneshot::Sender<Answer>>, String>,
    driver: Option<Waker>,
    /// Clones of the connection.
    users: usize,
}

impl Connection {
    /// Connects, to call the method `path` (`/package.Service/Method`). A task drives the connection until all clones are gone.
    pub async fn open(address: &Address, path: &str) -> Result<Connection, String> {
        let stream = TcpStream::connect(address.to_string())
            .await
            .map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                protocol: Ok(Protocol::new(address.to_string(), path)),
                driver: None,
                users: 1,
            }),
        });
        tokio::spawn(drive(shared.clone(), stream));
        Ok(Connection { shared })
    }

    /// Calls the method with one framed message and gives the answer's message.
    pub async fn call(&self, message: Bytes) -> Answer {
        let (answer, wait) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            match &mut state.protocol {
                Ok(protocol) => protocol.call(answer, message),
                Err(cause) => return Err(CallError::Broken(cause.clone())),
            }
            state.wake();
        }
        let lost = || CallError::Broken("the connection ended".into());
        wait.await.unwrap_or_else(|_| Err(lost()))
    }
}

impl Clone for Connection {
    fn clone(&self) -> Connection {
        self.shared.lock().users += 1;
        Connection {
            shared: self.shared.clone(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.users -= 1;
        state.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no call panics with it")
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

/// A message as gRPC puts it on the wire.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a benchmark's request is far below 4 GiB"));
    message
        .encode(&mut frame)
        .expect("the buffer has room for the whole message");
    frame.freeze()
}

/// Moves bytes until the connection breaks or nobody uses it.
async fn drive(shared: Arc<Shared>, mut stream: TcpStream) {
    let mut buffer = vec![0; READ_BYTES];
    let cause = poll_fn(|context| poll(&shared, &mut stream, &mut buffer, context)).await;
    let cause = cause.unwrap_or_default();
    let ended = std::mem::replace(&mut shared.lock().protocol, Err(cause.clone()));
    for user in ended.into_iter().flat_map(Protocol::into_users) {
        // Whoever does not wait any more need not hear it.
        let _ = user.send(Err(CallError::Broken(cause.clone())));
    }
}

/// Ready when it is over, with what broke it if something did.
fn poll(
    shared: &Shared,
    stream: &mut TcpStream,
    buffer: &mut [u8],
    context: &mut Context<'_>,
) -> Poll<Option<String>> {
    loop {
        let mut state = shared.lock();
        state.driver = Some(context.waker().clone());
        if state.users == 0 {
            return Poll::Ready(None);
        }
        let Ok(protocol) = &mut state.protocol else {
            return Poll::Ready(None);
        };
        let mut unread = ReadBuf::new(buffer);
        let mut is_busy = false;
        if let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(context, &mut unread) {
            let read = read.map_err(|error| error.to_string());
            let read = match (read, unread.filled()) {
                (Ok(()), []) => Err("the server closed the connection".into()),
                (Ok(()), bytes) => protocol.handle_input(bytes),
                (Err(error), _) => Err(error),
            };
            if let Err(cause) = read {
                return Poll::Ready(Some(cause));
            }
            is_busy = true;
        }
        for (user, answer) in protocol.ended() {
            // Whoever does not wait any more need not hear it.
            let _ = user.send(answer);
        }
        let output = protocol.output();
        while !output.is_empty() {
            match Pin::new(&mut *stream).poll_write(context, output) {
                Poll::Pending => break,
                Poll::Ready(Ok(bytes)) => output.advance(bytes),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(error.to_string())),
            }
        }
        if !is_busy {
            return Poll::Pending;
        }
    }
}
