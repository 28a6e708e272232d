//! One HTTP/2 connection of a client: moves bytes between the socket and the protocol, and calls between the protocol and the services.
//!
//! ```text
//!   socket ──> ServerConnection ──> requests ──┬─ KV: received here, called here ──> replies ──> ServerConnection ──> socket
//!                                              └─ others: relayed to tonic's services ──┘
//! ```
//!
//! All of it is one future without tasks of its own. Whatever came with one reading of the socket is looked at before anything is
//! written, and all answers that are there then leave with one writing: the busier a connection is, the fewer system calls and wake-ups an
//! operation costs. Calls that must wait are kept by the number of their stream, and polled when they are woken themselves.
//!
//! A call ends with its stream: when the client gives up, or is gone, its future is dropped. What that means for a write is said in
//! [`eaves::Node::write`].
//!
//! Invariant `one-entry`: a stream that is here is open, and every open stream but one whose head is on its way out is here.

use super::{
    Dispatch, Route,
    grpc::{self, Message},
    inbox::{CallWaker, Inbox},
    relay::{BodySender, Relay, Step},
};
use crate::{
    clients::{Call, CallKind, Client, MAX_STREAMS, STREAM_WINDOW_BYTES},
    services::kv::{Method, Reply, Started},
    store::KvError,
};
use bytes::Bytes;
use eaves_http2::{ErrorCode, Event, Head, Limits, ServerConnection};
use futures_util::future::BoxFuture;
use std::{
    collections::{HashMap, VecDeque},
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
use tonic::Status;

/// A connection that was silent for so long is asked whether its client is still there, at the latest after twice the time. Without it a
/// client that vanished would keep its watchers here for hours.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// How long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the rest of a request may take once its head is here: a client that stops half-way must not keep its room for ever. It is
/// looked at every [`PING_INTERVAL`].
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);
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
};

/// The driver of one connection.
pub(super) struct Driver<S> {
    socket: S,
    http2: ServerConnection,
    client: Arc<Client>,
    dispatch: Arc<Dispatch>,
    streams: HashMap<u32, Stream>,
    inbox: Arc<Inbox>,
    /// What was in the inbox, as far as there was no turn for it.
    woken: VecDeque<u32>,
    taken: Vec<(u32, usize)>,
    /// When this turn began, and what was done in it.
    turn: Instant,
    steps: u32,
    is_long: bool,
    /// Calls that can go on come before what the client says, this time.
    calls_first: bool,
    /// When it is next looked whether the client still says anything.
    tick: Pin<Box<Sleep>>,
    /// It said something since the last look.
    is_heard: bool,
    is_pinged: bool,
}

/// A call, by what is next.
enum Stream {
    /// The request's message, of KV.
    Receiving {
        call: Call,
        method: Method,
        head: Head,
        message: Message,
        since: Instant,
    },
    /// The reply, of KV.
    Working {
        call: Call,
        future: BoxFuture<'static, Result<Reply, Status>>,
        waker: CallWaker,
    },
    /// The client has to take what it was sent. What that is counts until then.
    Leaving { _call: Call },
    /// A service's response, and what is missing of the request.
    Relayed {
        /// Plain pages are not counted.
        call: Option<Call>,
        body: BodySender,
        relay: Relay,
        since: Instant,
        waker: CallWaker,
    },
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// A connection of which `first` was read already.
    pub fn new(socket: S, first: &[u8], client: Arc<Client>, dispatch: Arc<Dispatch>) -> Driver<S> {
        let mut http2 = ServerConnection::new(LIMITS);
        // What is wrong with it is told when more is read.
        let _ = http2.handle_input(first);
        Driver {
            socket,
            http2,
            client,
            dispatch,
            streams: HashMap::new(),
            inbox: Arc::default(),
            woken: VecDeque::new(),
            taken: Vec::new(),
            turn: Instant::now(),
            steps: 0,
            is_long: false,
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
        self.time_out_requests();
        Ok(())
    }

    fn time_out_requests(&mut self) {
        let mut late = Vec::new();
        for (number, stream) in &self.streams {
            match stream {
                Stream::Receiving { since, .. } if since.elapsed() > RECEIVE_TIMEOUT => {
                    late.push(*number);
                }
                Stream::Relayed {
                    call, since, body, ..
                } if since.elapsed() > RECEIVE_TIMEOUT => {
                    let kind = call.as_ref().map(Call::kind);
                    if kind != Some(CallKind::Watch) {
                        body.end(Err(KvError::TimedOut.into()));
                    }
                }
                _ => {}
            }
        }
        late.sort_unstable();
        for number in late {
            self.refuse(number, KvError::TimedOut.into());
        }
    }

    /// Says whether there were any.
    fn handle_events(&mut self) -> bool {
        let mut is_busy = false;
        while !self.is_long_enough()
            && let Some(event) = self.http2.poll_event()
        {
            is_busy = true;
            match event {
                // Its client gave up while it was on its way here.
                Event::Request { stream, .. } | Event::Data { stream, .. }
                    if !self.http2.is_open(stream) => {}
                Event::Request {
                    stream,
                    head,
                    ended,
                } => self.begin(stream, head, ended),
                Event::Data {
                    stream,
                    data,
                    ended,
                } => self.receive(stream, data, ended),
                Event::Drained { stream } => self.drained(stream),
                Event::Reset { stream } => drop(self.streams.remove(&stream)),
                // It was heard, which is all.
                Event::Pong => {}
            }
        }
        is_busy
    }

    /// A request's head is here.
    fn begin(&mut self, number: u32, head: Head, ended: bool) {
        match self.dispatch.route(&self.client, &head) {
            Route::Refused(status) => {
                let block = grpc::status_head(status);
                self.http2.send_only_head(number, &block);
            }
            Route::Kv(call, method) => {
                let stream = Stream::Receiving {
                    call,
                    method,
                    head,
                    message: Message::default(),
                    since: Instant::now(),
                };
                self.streams.insert(number, stream);
                if ended {
                    self.receive(number, Bytes::new(), true);
                }
            }
            Route::Relay(call) => self.begin_relay(number, head, call, ended),
        }
    }

    fn begin_relay(&mut self, number: u32, head: Head, call: Option<Call>, ended: bool) {
        let is_grpc = call.is_some();
        let (sender, body) = super::relay::body(number, self.inbox.clone());
        if ended {
            sender.end(Ok(()));
        }
        let Some(request) = super::relay::request(head, body) else {
            self.http2.reset(number, ErrorCode::PROTOCOL_ERROR);
            return;
        };
        let stream = Stream::Relayed {
            call,
            body: sender,
            relay: Relay::new(self.dispatch.clone().relay(request, is_grpc)),
            since: Instant::now(),
            waker: self.inbox.waker(number),
        };
        self.streams.insert(number, stream);
        self.poll_call(number);
    }

    /// A piece of a request's body.
    fn receive(&mut self, number: u32, data: Bytes, ended: bool) {
        let bytes = data.len();
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let received = match stream {
            Stream::Receiving { call, message, .. } => {
                // It is counted by the call from here on.
                self.http2.take(number, bytes);
                let room = call.receive(bytes).map_err(Status::from);
                room.and_then(|()| message.receive(data))
            }
            Stream::Relayed { call, body, .. } => {
                let room = call.as_mut().map_or(Ok(()), |call| call.receive(bytes));
                match room {
                    Ok(()) => body.send(data),
                    Err(error) => body.end(Err(error.into())),
                }
                if ended {
                    body.end(Ok(()));
                }
                return;
            }
            // The client still sends what nobody waits for.
            Stream::Working { .. } | Stream::Leaving { .. } => return,
        };
        match received {
            Err(status) => self.refuse(number, status),
            Ok(()) if ended => self.start(number),
            Ok(()) => {}
        }
    }

    /// A KV request is whole.
    fn start(&mut self, number: u32) {
        let Some(Stream::Receiving {
            call,
            method,
            head,
            message,
            ..
        }) = self.streams.remove(&number)
        else {
            return;
        };
        let message = match message.end(head.get("grpc-encoding")) {
            Ok(message) => message,
            Err(status) => return self.reply(number, call, Err(status)),
        };
        match self.dispatch.kv.start(method, &head, message) {
            Started::Done(result) => self.reply(number, call, result),
            Started::Waiting(future) => {
                let waker = self.inbox.waker(number);
                let stream = Stream::Working {
                    call,
                    future,
                    waker,
                };
                self.streams.insert(number, stream);
                self.poll_call(number);
            }
        }
    }

    /// Answers a KV request that is not whole, or cannot be served.
    fn refuse(&mut self, number: u32, status: Status) {
        if let Some(Stream::Receiving { call, .. }) = self.streams.remove(&number) {
            self.reply(number, call, Err(status));
        }
    }

    fn reply(&mut self, number: u32, mut call: Call, result: Result<Reply, Status>) {
        call.answered();
        let reply = match result {
            Ok(reply) => reply,
            Err(status) => {
                let block = grpc::status_head(status);
                return self.http2.send_only_head(number, &block);
            }
        };
        let Ok(length) = u32::try_from(reply.message.encoded_len()) else {
            let text = "eaves: the answer is larger than 4 GiB: ask for less, with a limit";
            let block = grpc::status_head(Status::resource_exhausted(text));
            return self.http2.send_only_head(number, &block);
        };
        let special = reply.staleness.map(|_| grpc::head(&reply));
        self.http2.send_answer(
            number,
            special.as_deref().unwrap_or(grpc::HEAD),
            grpc::PREFIX_BYTES + length as usize,
            |out| grpc::put_message(out, length, &reply),
            grpc::TRAILERS,
        );
        // What the client has not taken is counted until it has.
        let waiting = self.http2.waiting_bytes(number);
        if waiting > 0 {
            call.wait(waiting);
            call.done();
            self.streams.insert(number, Stream::Leaving { _call: call });
        }
    }

    /// The client took all that it was sent on a stream.
    fn drained(&mut self, number: u32) {
        match self.streams.get_mut(&number) {
            Some(Stream::Leaving { .. }) => drop(self.streams.remove(&number)),
            Some(Stream::Relayed { call, relay, .. }) => {
                if let Some(call) = call {
                    call.wait(0);
                }
                relay.is_blocked = false;
                self.poll_call(number);
            }
            _ => {}
        }
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
            self.poll_call(number);
        }
        is_busy
    }

    /// Whether this turn should end: others want theirs, the client has to take something first, or none is left for it.
    fn is_long_enough(&mut self) -> bool {
        self.steps += 1;
        let looks_at_clock = self.steps.is_multiple_of(STEPS_PER_LOOK);
        self.is_long |= looks_at_clock && self.turn.elapsed() > TURN;
        self.is_long || !self.http2.wants_input() || self.client.is_cut_off()
    }

    /// Goes on with one call as far as it can.
    fn poll_call(&mut self, number: u32) {
        match self.streams.get_mut(&number) {
            Some(Stream::Working { future, waker, .. }) => {
                let waker = waker.for_poll();
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                if let Poll::Ready(result) = polled
                    && let Some(Stream::Working { call, .. }) = self.streams.remove(&number)
                {
                    self.reply(number, call, result);
                }
            }
            Some(Stream::Relayed { .. }) => self.poll_relay(number),
            _ => {}
        }
    }

    /// Sends what a service has, until it has no more or the client does not take it.
    fn poll_relay(&mut self, number: u32) {
        while let Some(Stream::Relayed {
            call, relay, waker, ..
        }) = self.streams.get_mut(&number)
        {
            if relay.is_blocked {
                return;
            }
            let waker = waker.for_poll();
            let Poll::Ready(step) = relay.poll(&mut Context::from_waker(&waker)) else {
                return;
            };
            match step {
                Step::Head(block) => {
                    if let Some(call) = call {
                        call.answered();
                    }
                    self.http2.send_head(number, &block);
                    continue;
                }
                Step::Data(data) => {
                    let waiting = self.http2.send_data(number, data);
                    relay.is_blocked = waiting > 0;
                    if let Some(call) = call {
                        call.wait(waiting);
                    }
                    continue;
                }
                Step::OnlyHead(block) => self.http2.send_only_head(number, &block),
                Step::Trailers(block) => self.http2.send_trailers(number, block),
                Step::End => self.http2.send_end_of_data(number),
                Step::Broken => self.http2.reset(number, ErrorCode::INTERNAL_ERROR),
            }
            // Nothing waited, or the service would not have been asked.
            self.streams.remove(&number);
        }
    }
}
