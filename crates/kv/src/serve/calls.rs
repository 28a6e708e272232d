//! What becomes of the calls of one connection, stream by stream: begun, received, answered, relayed, given up.
//!
//! A call ends with its stream: when the client gives up, or is gone, its future is dropped. A write is not taken back by that, and the
//! node still works for it: so it goes on without a stream until the node has answered, and counts as a call until then. Otherwise who makes
//! calls and resets them had as many under way as he likes, whatever `--max-calls` says.
//!
//! Invariant `one-entry`: a stream that is here is open, and every open stream but one whose head is on its way out is here.

use super::{
    Dispatch, Route,
    grpc::{self, Lengths, Message},
    inbox::{CallWaker, Inbox},
    relay::{BodySender, Relay, Step},
};
use crate::{
    clients::{Call, CallKind, Client},
    services::kv::{Method, Reply, Started},
    store::KvError,
};
use bytes::Bytes;
use eaves_http2::{ErrorCode, Event, Head, ServerConnection};
use futures_util::future::BoxFuture;
use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{runtime::Handle, time::Instant};
use tonic::Status;

/// How long the rest of a request may take once its head is here: a client that stops half-way must not keep its room for ever. It is
/// looked at every [`PING_INTERVAL`](super::connection::PING_INTERVAL).
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest message that tonic's services take where they set no other limit. It has room for a message as soon as it is announced,
/// and refuses longer ones before that.
const MAX_RELAYED_BYTES: usize = 4 << 20;

/// The calls of one connection.
pub(super) struct Calls {
    client: Arc<Client>,
    dispatch: Arc<Dispatch>,
    /// Where their wakers tell that they can go on.
    inbox: Arc<Inbox>,
    streams: HashMap<u32, Stream>,
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
        method: Method,
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
        messages: Lengths,
        relay: Relay,
        /// When the request began, or the latest message of a watch stream.
        since: Instant,
        waker: CallWaker,
    },
}

impl Calls {
    /// None yet.
    pub fn new(client: Arc<Client>, dispatch: Arc<Dispatch>, inbox: Arc<Inbox>) -> Calls {
        Calls {
            client,
            dispatch,
            inbox,
            streams: HashMap::new(),
        }
    }

    /// What the client said.
    pub fn handle(&mut self, http2: &mut ServerConnection, event: Event) {
        match event {
            // Its client gave up while it was on its way here.
            Event::Request { stream, .. } | Event::Data { stream, .. }
                if !http2.is_open(stream) => {}
            Event::Request {
                stream,
                head,
                ended,
            } => self.begin(http2, stream, head, ended),
            Event::Data {
                stream,
                data,
                ended,
            } => self.receive(http2, stream, data, ended),
            Event::Drained { stream } => self.drained(http2, stream),
            Event::Reset { stream } => {
                if let Some(stream) = self.streams.remove(&stream) {
                    self.give_up(stream);
                }
            }
            // It was heard, which is all.
            Event::Pong => {}
        }
    }

    /// Goes on with one call as far as it can.
    pub fn poll(&mut self, http2: &mut ServerConnection, number: u32) {
        match self.streams.get_mut(&number) {
            Some(Stream::Working { future, waker, .. }) => {
                let waker = waker.for_poll();
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                if let Poll::Ready(result) = polled
                    && let Some(Stream::Working { call, .. }) = self.streams.remove(&number)
                {
                    self.reply(http2, number, call, result);
                }
            }
            Some(Stream::Relayed { .. }) => self.poll_relay(http2, number),
            _ => {}
        }
    }

    /// Ends requests that take too long to come in.
    pub fn time_out_requests(&mut self, http2: &mut ServerConnection) {
        let mut late = Vec::new();
        for (number, stream) in &self.streams {
            match stream {
                Stream::Receiving { since, .. } if since.elapsed() > RECEIVE_TIMEOUT => {
                    late.push(*number);
                }
                Stream::Relayed {
                    call,
                    since,
                    body,
                    messages,
                    ..
                } if since.elapsed() > RECEIVE_TIMEOUT
                    && !(is_watch(call) && messages.is_between()) =>
                {
                    body.end(Err(KvError::TimedOut.into()));
                }
                _ => {}
            }
        }
        late.sort_unstable();
        for number in late {
            self.refuse(http2, number, KvError::TimedOut.into());
        }
    }

    /// A request's head is here.
    fn begin(&mut self, http2: &mut ServerConnection, number: u32, head: Head, ended: bool) {
        match self.dispatch.route(&self.client, &head) {
            Route::Refused(status) => {
                let block = grpc::status_head(status);
                http2.send_only_head(number, &block);
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
                    self.receive(http2, number, Bytes::new(), true);
                }
            }
            Route::Relay(call) => self.begin_relay(http2, number, head, call, ended),
        }
    }

    fn begin_relay(
        &mut self,
        http2: &mut ServerConnection,
        number: u32,
        head: Head,
        call: Option<Call>,
        ended: bool,
    ) {
        let is_grpc = call.is_some();
        let (sender, body) = super::relay::body(number, self.inbox.clone());
        if ended {
            sender.end(Ok(()));
        }
        let Some(request) = super::relay::request(head, body) else {
            http2.reset(number, ErrorCode::PROTOCOL_ERROR);
            return;
        };
        let stream = Stream::Relayed {
            call,
            body: sender,
            messages: Lengths::default(),
            relay: Relay::new(self.dispatch.clone().relay(request, is_grpc)),
            since: Instant::now(),
            waker: self.inbox.waker(number),
        };
        self.streams.insert(number, stream);
        self.poll(http2, number);
    }

    /// A piece of a request's body.
    fn receive(&mut self, http2: &mut ServerConnection, number: u32, data: Bytes, ended: bool) {
        let bytes = data.len();
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let received = match stream {
            Stream::Receiving { call, message, .. } => {
                // It is counted by the call from here on.
                http2.take(number, bytes);
                let room = call.receive(bytes).map_err(Status::from);
                room.and_then(|()| message.receive(data))
            }
            Stream::Relayed {
                call,
                body,
                messages,
                since,
                ..
            } => {
                let was_between = messages.is_between();
                let announced = messages.follow(&data);
                if is_watch(call) && (was_between || announced.is_some()) {
                    *since = Instant::now();
                }
                let taken = announced.filter(|bytes| *bytes <= MAX_RELAYED_BYTES);
                let room = match (call, taken) {
                    (Some(call), Some(bytes)) => call.hold(bytes),
                    _ => Ok(()),
                };
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
            Err(status) => self.refuse(http2, number, status),
            Ok(()) if ended => self.start(http2, number),
            Ok(()) => {}
        }
    }

    /// A KV request is whole.
    fn start(&mut self, http2: &mut ServerConnection, number: u32) {
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
            Err(status) => return self.reply(http2, number, call, Err(status)),
        };
        match self.dispatch.kv.start(method, &head, message) {
            Started::Done(result) => self.reply(http2, number, call, result),
            Started::Waiting(future) => {
                let waker = self.inbox.waker(number);
                let stream = Stream::Working {
                    call,
                    method,
                    future,
                    waker,
                };
                self.streams.insert(number, stream);
                self.poll(http2, number);
            }
        }
    }

    /// Answers a KV request that is not whole, or cannot be served.
    fn refuse(&mut self, http2: &mut ServerConnection, number: u32, status: Status) {
        if let Some(Stream::Receiving { call, .. }) = self.streams.remove(&number) {
            self.reply(http2, number, call, Err(status));
        }
    }

    fn reply(
        &mut self,
        http2: &mut ServerConnection,
        number: u32,
        mut call: Call,
        result: Result<Reply, Status>,
    ) {
        call.answered();
        let reply = match result {
            Ok(reply) => reply,
            Err(status) => {
                let block = grpc::status_head(status);
                return http2.send_only_head(number, &block);
            }
        };
        let Ok(length) = u32::try_from(reply.message.encoded_len()) else {
            let text = "eaves: the answer is larger than 4 GiB: ask for less, with a limit";
            let block = grpc::status_head(Status::resource_exhausted(text));
            return http2.send_only_head(number, &block);
        };
        let special = reply.staleness.map(|_| grpc::head(&reply));
        http2.send_answer(
            number,
            special.as_deref().unwrap_or(grpc::HEAD),
            grpc::PREFIX_BYTES + length as usize,
            |out| grpc::put_message(out, length, &reply),
            grpc::TRAILERS,
        );
        // What the client has not taken is counted until it has.
        let waiting = http2.waiting_bytes(number);
        if waiting > 0 {
            call.wait(waiting);
            call.done();
            self.streams.insert(number, Stream::Leaving { _call: call });
        }
    }

    /// Nobody wants the answer any more.
    fn give_up(&self, stream: Stream) {
        let Stream::Working {
            call,
            method,
            future,
            ..
        } = stream
        else {
            return;
        };
        // Without a runtime nothing goes on at all.
        if method.writes()
            && let Ok(runtime) = Handle::try_current()
        {
            let permit = call.given_up();
            let node = self.dispatch.replica.node.clone();
            runtime.spawn(async move {
                let _permit = permit;
                tokio::select! {
                    _ = future => {}
                    () = node.stopped() => {}
                }
            });
        }
    }

    /// The client took all that it was sent on a stream.
    fn drained(&mut self, http2: &mut ServerConnection, number: u32) {
        match self.streams.get_mut(&number) {
            Some(Stream::Leaving { .. }) => drop(self.streams.remove(&number)),
            Some(Stream::Relayed { call, relay, .. }) => {
                if let Some(call) = call {
                    call.wait(0);
                }
                relay.is_blocked = false;
                self.poll(http2, number);
            }
            _ => {}
        }
    }

    /// Sends what a service has, until it has no more or the client does not take it.
    fn poll_relay(&mut self, http2: &mut ServerConnection, number: u32) {
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
                    http2.send_head(number, &block);
                    continue;
                }
                Step::Data(data) => {
                    let waiting = http2.send_data(number, data);
                    relay.is_blocked = waiting > 0;
                    if let Some(call) = call {
                        call.wait(waiting);
                    }
                    continue;
                }
                Step::OnlyHead(block) => http2.send_only_head(number, &block),
                Step::Trailers(block) => http2.send_trailers(number, block),
                Step::End => http2.send_end_of_data(number),
                Step::Broken => http2.reset(number, ErrorCode::INTERNAL_ERROR),
            }
            // Nothing waited, or the service would not have been asked.
            self.streams.remove(&number);
        }
    }
}

fn is_watch(call: &Option<Call>) -> bool {
    let kind = call.as_ref().map(Call::kind);
    kind == Some(CallKind::Watch)
}

impl Drop for Calls {
    fn drop(&mut self) {
        for (_, stream) in std::mem::take(&mut self.streams) {
            self.give_up(stream);
        }
    }
}
