//! One HTTP/2 connection of a client, in turns: bytes move between the socket and the protocol, and calls are given their chance to go on.
//!
//! ```text
//!   socket ──> ServerConnection ──> Calls ──┬─ KV: received here, called here ──> replies ──> ServerConnection ──> socket
//!                                           └─ others: relayed to tonic's services ──┘
//! ```
//!
//! All of it is one future without tasks of its own. Whatever came with one reading of the socket is looked at before anything is
//! written, and all answers that are there then leave with one writing: the busier a connection is, the fewer system calls and wake-ups an
//! operation costs. Calls that must wait are polled when they are woken themselves; what becomes of each is in [`Calls`].

#[cfg(test)]
mod tests;

use super::{Dispatch, calls::Calls, inbox::Inbox};
use crate::clients::{Client, MAX_STREAMS, STREAM_WINDOW_BYTES};
use eaves_http2::{Limits, ServerConnection};
use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// A connection that was silent for so long is asked whether its client is still there, at the latest after twice the time. Without it a
/// client that vanished would keep its watchers here for hours.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(60);
/// How long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls that a client may give up before they are answered, beyond those that are answered, in a [`PING_INTERVAL`]; one more ends the
/// connection. A client that gives its calls a second can give up no more, however long nobody answers: they are at most
/// [`MAX_STREAMS`] at a time. Watches were answered when they end, so any number of them may end at once. One that makes calls only to
/// reset them ("rapid reset", CVE-2023-44487) comes to this within a fraction of a second. nghttp2 allows a thousand at once and 33 a second
/// after that, which a client of a group without a leader would soon exceed.
const UNANSWERED_RESETS: u32 = 64 << 10;
const _: () = assert!(UNANSWERED_RESETS as u64 >= MAX_STREAMS as u64 * PING_INTERVAL.as_secs());
/// What a request's head may hold: gRPC's usual limit.
const HEADER_LIST_BYTES: u32 = 16 << 10;

/// How long a connection may work before others have a turn, on the same thread.
const TURN: Duration = Duration::from_millis(1);
/// The clock is looked at so rarely: most calls take a microsecond.
const STEPS_PER_LOOK: u32 = 16;

const LIMITS: Limits = Limits {
    streams: MAX_STREAMS,
    stream_window_bytes: STREAM_WINDOW_BYTES,
    connection_window_bytes: STREAM_WINDOW_BYTES,
    header_list_bytes: HEADER_LIST_BYTES,
    unanswered_resets: UNANSWERED_RESETS,
};

/// The driver of one connection.
pub(super) struct Driver<S> {
    socket: S,
    http2: ServerConnection,
    client: Arc<Client>,
    dispatch: Arc<Dispatch>,
    calls: Calls,
    inbox: Arc<Inbox>,
    /// What was in the inbox, as far as there was no turn for it.
    woken: VecDeque<u32>,
    taken: Vec<(u32, usize)>,
    /// When this turn began, and what was done in it.
    turn: Instant,
    steps: u32,
    is_long: bool,
    /// [`TURN`], but in tests.
    turn_time: Duration,
    /// Calls that can go on come before what the client says, this time.
    calls_first: bool,
    /// When it is next looked whether the client still says anything.
    tick: Pin<Box<Sleep>>,
    /// It said something since the last look.
    is_heard: bool,
    is_pinged: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// A connection of which `first` was read already.
    pub fn new(socket: S, first: &[u8], client: Arc<Client>, dispatch: Arc<Dispatch>) -> Driver<S> {
        let mut http2 = ServerConnection::new(LIMITS);
        // What is wrong with it is told when more is read.
        let _ = http2.handle_input(first);
        let inbox = Arc::<Inbox>::default();
        Driver {
            socket,
            http2,
            calls: Calls::new(client.clone(), dispatch.clone(), inbox.clone()),
            client,
            dispatch,
            inbox,
            woken: VecDeque::new(),
            taken: Vec::new(),
            turn: Instant::now(),
            steps: 0,
            is_long: false,
            turn_time: TURN,
            calls_first: false,
            tick: Box::pin(tokio::time::sleep(PING_INTERVAL)),
            is_heard: false,
            is_pinged: false,
        }
    }

    /// Asks for no more calls; those under way go on.
    pub fn go_away(&mut self) {
        self.http2.go_away();
    }

    /// Works until the connection is over. May be called again when it was dropped in between.
    pub async fn run(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inbox.register(context.waker());
        (self.turn, self.steps, self.is_long) = (Instant::now(), 0, false);
        loop {
            let could_read = self.can_read();
            let mut is_busy = match self.poll_read(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => true,
                Poll::Ready(Err(error)) => return self.fail(context, error),
                Poll::Pending => false,
            };
            // In turn, or requests that keep coming would keep replies from going.
            self.calls_first = !self.calls_first;
            if self.calls_first {
                is_busy |= self.poll_calls();
            }
            is_busy |= self.handle_events();
            if !self.calls_first {
                is_busy |= self.poll_calls();
            }
            self.http2.end_if_idle();
            if let Poll::Ready(Err(error)) = self.poll_write(context) {
                return Poll::Ready(Err(error));
            }
            // Nobody would wake us to read again.
            is_busy |= !could_read && self.can_read();
            if self.http2.is_over() {
                return Poll::Ready(Ok(()));
            }
            if self.client.is_cut_off() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if self.tick.as_mut().poll(context).is_ready() {
                if let Err(error) = self.look() {
                    return Poll::Ready(Err(error));
                }
                is_busy = true;
            }
            if self.is_long {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !is_busy {
                return Poll::Pending;
            }
        }
    }

    /// What was read is looked at before more is, and not while too much waits to be written.
    fn can_read(&self) -> bool {
        self.http2.wants_input() && !self.http2.has_events()
    }

    /// Reads what there is.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.can_read() {
            return Poll::Pending;
        }
        let mut buffer = self.dispatch.buffers.take();
        let mut unread = ReadBuf::new(&mut buffer);
        let polled = Pin::new(&mut self.socket).poll_read(context, &mut unread);
        let bytes = unread.filled().len();
        let taken_in = self.http2.handle_input(&buffer[..bytes]);
        self.dispatch.buffers.put(buffer);
        self.is_heard |= bytes > 0;
        polled.map(|read| {
            read?;
            taken_in.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            Ok(bytes)
        })
    }

    /// Writes what there is, as far as the socket takes it.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.http2.output().is_empty() {
            let written = Pin::new(&mut self.socket).poll_write(context, self.http2.output());
            match std::task::ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.http2.written(bytes),
            }
            // More may have become possible by it.
            self.handle_events();
        }
        Pin::new(&mut self.socket).poll_flush(context)
    }

    /// The client broke the protocol: it is told why, if it takes that at once.
    fn fail(&mut self, context: &mut Context<'_>, error: io::Error) -> Poll<io::Result<()>> {
        if error.kind() == io::ErrorKind::InvalidData {
            let said = self.http2.output();
            let _ = Pin::new(&mut self.socket).poll_write(context, said);
        }
        Poll::Ready(Err(error))
    }

    /// Whether the client is still there, and whether it sends what it began to send.
    fn look(&mut self) -> io::Result<()> {
        let is_silent = !std::mem::take(&mut self.is_heard);
        if is_silent && self.is_pinged {
            let text = "the client does not answer";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        self.is_pinged = is_silent;
        if is_silent {
            self.http2.ping();
        }
        let pause = if is_silent {
            PING_TIMEOUT
        } else {
            PING_INTERVAL
        };
        self.tick.as_mut().reset(Instant::now() + pause);
        self.http2.forgive_resets();
        self.calls.time_out_requests(&mut self.http2);
        Ok(())
    }

    /// Says whether there were any.
    fn handle_events(&mut self) -> bool {
        let mut is_busy = false;
        while !self.is_long_enough()
            && let Some(event) = self.http2.poll_event()
        {
            is_busy = true;
            self.calls.handle(&mut self.http2, event);
        }
        is_busy
    }

    /// Goes on with what was woken. Says whether there was any.
    fn poll_calls(&mut self) -> bool {
        self.inbox.move_to(&mut self.woken, &mut self.taken);
        let mut is_busy = !self.taken.is_empty();
        for (number, bytes) in self.taken.drain(..) {
            self.http2.take(number, bytes);
        }
        while !self.is_long_enough()
            && let Some(number) = self.woken.pop_front()
        {
            is_busy = true;
            self.calls.poll(&mut self.http2, number);
        }
        is_busy
    }

    /// Whether this turn should end: others want theirs, the client has to take something first, or none is left for it.
    fn is_long_enough(&mut self) -> bool {
        self.steps += 1;
        let looks_at_clock = self.steps.is_multiple_of(STEPS_PER_LOOK);
        self.is_long |= looks_at_clock && self.turn.elapsed() >= self.turn_time;
        self.is_long || !self.http2.wants_input() || self.client.is_cut_off()
    }
}
