//! What the clients of a node may take of it: connections, calls, and memory for what they send and for what they are sent.
//!
//! ```text
//!               accept            headers            body              answer, events
//!   client ──> [connections] ──> [calls] ──> [request bytes] ──> .. ──> [answer bytes] ──> client
//!                 closed          refused        refused              who takes most is cut off
//! ```
//!
//! Everything a client makes a node hold is counted here, so that a node's memory is bounded whatever its clients do. Who comes when
//! there is no room is told so at once, in etcd's words and with its code (`ResourceExhausted`), before it cost more than its headers.
//!
//! What was made for a client and is not taken is another matter: refusing others does not free it. So when all answers and events that
//! wait to be taken exceed their bound, the connection that holds most of them is closed. Its client connects again and its watches go
//! on from where they were; without this, clients that do not read would take the memory of those that do. A client that merely does not
//! read costs one response of each of its streams, and keeps its connection as long as there is room.
//!
//! Invariant `room-adds-up`: each sum is that of the connections and calls that exist, and of writes that were given up and are not done.
//!
//! Caveats. Counted is what calls hold: what a connection makes ready for its socket is not, at most [`eaves_http2::OUTPUT_BYTES`] and what one
//! reading asks for; nor heads of requests, nor messages of watch streams that are whole and wait for their turn, at most
//! [`STREAM_WINDOW_BYTES`] of a connection. A range is read, and its answer encoded, before its size is known: those beyond a thousand keys
//! run a few at a time, and each takes what it takes.

use crate::store::KvError;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Bytes a client may send on one stream, and on one connection, before it must wait for us. What was received and is not looked at yet
/// is not counted otherwise, so this times the connections is memory that must be there; a value larger than this takes a round trip
/// for each part of it.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// Calls under way on one connection; a client's library keeps back those beyond.
pub(crate) const MAX_STREAMS: u32 = 1024;

/// How often it is told that there was no room.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Bounds on what all clients of a node take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections; one more is closed at once. Default 16,384: each costs about 30 KiB, and a file descriptor.
    pub connections: usize,
    /// Calls under way, watches not among them; one more is refused. Default 16,384: a third of a second's work.
    pub calls: usize,
    /// Watch streams; one more is refused. Default 65,536.
    pub watch_streams: usize,
    /// Bytes of requests that were received and are not answered, and of the longest message of each stream of them; one that needs more is
    /// refused. Default 128 MiB.
    pub request_bytes: usize,
    /// Bytes of answers and events that wait to be taken; beyond, the connection that holds most is closed. Default 256 MiB.
    pub answer_bytes: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections: 16 << 10,
            calls: 16 << 10,
            watch_streams: 64 << 10,
            request_bytes: 128 << 20,
            answer_bytes: 256 << 20,
        }
    }
}

/// What clients take at present, and what they were refused so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounts {
    /// Open connections.
    pub connections: usize,
    /// Calls under way, watches not among them.
    pub calls: usize,
    /// Open watch streams.
    pub watch_streams: usize,
    /// Bytes of requests received and not answered, and held for the messages of streams.
    pub request_bytes: usize,
    /// Bytes of answers and events not taken.
    pub answer_bytes: usize,
    /// Connections closed at once.
    pub refused_connections: u64,
    /// Calls and watch streams refused.
    pub refused_calls: u64,
    /// Connections closed because their client took too little of what it was sent.
    pub cut_connections: u64,
}

/// The clients of one node. Cheap to clone: all its ports share one.
#[derive(Clone, Debug)]
pub struct Clients {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: ClientLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: ClientCounts,
    next_number: u64,
    /// Those not cut off, by number.
    connections: HashMap<u64, Connected>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Connected {
    answer_bytes: usize,
    cut: Arc<Cut>,
}

/// Whether a connection must be closed.
#[derive(Debug, Default)]
struct Cut {
    is_cut: AtomicBool,
    notify: Notify,
}

impl Default for Clients {
    fn default() -> Self {
        Self::new(ClientLimits::default())
    }
}

impl Clients {
    /// Nobody yet.
    pub fn new(limits: ClientLimits) -> Self {
        let state = Mutex::default();
        Self {
            shared: Arc::new(Shared { limits, state }),
        }
    }

    /// How full it is.
    pub fn counts(&self) -> ClientCounts {
        self.shared.lock().counts
    }

    /// Takes in a connection, if there is room.
    pub(crate) fn enter(&self) -> Option<Arc<Client>> {
        let mut state = self.shared.lock();
        if state.counts.connections >= self.shared.limits.connections {
            state.counts.refused_connections += 1;
            state.tell("close a client's connection at once: there are too many");
            return None;
        }
        state.counts.connections += 1;
        state.next_number += 1;
        let (number, cut) = (state.next_number, Arc::<Cut>::default());
        let connected = Connected {
            answer_bytes: 0,
            cut: cut.clone(),
        };
        state.connections.insert(number, connected);
        Some(Arc::new(Client {
            shared: self.shared.clone(),
            number,
            cut,
        }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("counting does not panic")
    }
}

impl State {
    /// Tells, once in a while, what there was no room for.
    fn tell(&mut self, what: &str) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            self.told = Some(Instant::now());
            tracing::warn!(
                "{what} (so far refused: {} connections, {} calls; cut off: {})",
                self.counts.refused_connections,
                self.counts.refused_calls,
                self.counts.cut_connections
            );
        }
    }

    /// Counts an answer's bytes that wait, or no longer do, unless the connection was cut off: then they are not counted any more.
    fn wait(&mut self, number: u64, more: usize, fewer: usize) {
        if let Some(connected) = self.connections.get_mut(&number) {
            connected.answer_bytes = connected.answer_bytes + more - fewer;
            self.counts.answer_bytes = self.counts.answer_bytes + more - fewer;
        }
    }

    /// Cuts off whoever holds most until at most `limit_bytes` wait.
    fn make_room(&mut self, limit_bytes: usize) {
        while self.counts.answer_bytes > limit_bytes {
            let most = self
                .connections
                .iter()
                .max_by_key(|(_, connected)| connected.answer_bytes);
            let number = *most.expect("what waits, waits for somebody").0;
            let connected = self.connections.remove(&number).expect("it was found");
            self.counts.answer_bytes -= connected.answer_bytes;
            self.counts.cut_connections += 1;
            connected.cut.is_cut.store(true, Ordering::Relaxed);
            connected.cut.notify.notify_one();
            self.tell("cut off a client that does not take what it is sent");
        }
    }
}

/// A connection, counted.
pub(crate) struct Client {
    shared: Arc<Shared>,
    number: u64,
    cut: Arc<Cut>,
}

impl Client {
    /// Resolves when the connection must be closed.
    pub async fn cut_off(&self) {
        self.cut.notify.notified().await;
    }

    /// Whether it must.
    pub fn is_cut_off(&self) -> bool {
        self.cut.is_cut.load(Ordering::Relaxed)
    }

    /// Takes on a call, if there is room.
    pub fn begin(self: &Arc<Self>, kind: CallKind) -> Result<Call, KvError> {
        let limits = &self.shared.limits;
        let mut state = self.shared.lock();
        let counts = &mut state.counts;
        let (open, limit) = match kind {
            CallKind::Unary => (&mut counts.calls, limits.calls),
            CallKind::Watch => (&mut counts.watch_streams, limits.watch_streams),
        };
        if *open >= limit {
            counts.refused_calls += 1;
            state.tell("refuse a client's call: too many are under way");
            return Err(KvError::TooManyRequests);
        }
        *open += 1;
        let shared = self.shared.clone();
        Ok(Call {
            client: self.clone(),
            permit: Some(Permit { shared, kind }),
            kind,
            request_bytes: 0,
            answer_bytes: 0,
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.counts.connections -= 1;
        if let Some(connected) = state.connections.remove(&self.number) {
            state.counts.answer_bytes -= connected.answer_bytes;
        }
    }
}

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// One request, one answer.
    Unary,
    /// A watch stream: small requests and as many events as there are, for as long as the client likes.
    Watch,
}

/// A call, counted from its headers to the end of its answer.
pub(crate) struct Call {
    client: Arc<Client>,
    /// Until nothing is done for it any more; the rest is the client's.
    permit: Option<Permit>,
    kind: CallKind,
    /// Received of the request, while it is not answered, or held for its messages.
    request_bytes: usize,
    /// Of the answer: what waits to be taken.
    answer_bytes: usize,
}

/// That a call is under way: one of as many as may be. Given back by dropping it.
pub(crate) struct Permit {
    shared: Arc<Shared>,
    kind: CallKind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let counts = &mut self.shared.lock().counts;
        match self.kind {
            CallKind::Unary => counts.calls -= 1,
            CallKind::Watch => counts.watch_streams -= 1,
        }
    }
}

impl Call {
    /// What it is.
    pub fn kind(&self) -> CallKind {
        self.kind
    }

    /// Takes in a piece of the request, if there is room.
    pub fn receive(&mut self, bytes: usize) -> Result<(), KvError> {
        let mut state = self.client.shared.lock();
        if state.counts.request_bytes + bytes > self.client.shared.limits.request_bytes {
            state.counts.refused_calls += 1;
            state.tell("refuse a client's call: what others sent takes all the memory for it");
            return Err(KvError::TooManyRequests);
        }
        state.counts.request_bytes += bytes;
        self.request_bytes += bytes;
        Ok(())
    }

    /// Has room for a message of this length, if there is some: a stream of messages takes that of the longest so far, to its end. A
    /// decoder reserves it when the message is announced, and keeps it for the next.
    pub fn hold(&mut self, bytes: usize) -> Result<(), KvError> {
        match bytes.checked_sub(self.request_bytes) {
            Some(more @ 1..) => self.receive(more),
            _ => Ok(()),
        }
    }

    /// The request is no longer needed.
    pub fn answered(&mut self) {
        if self.request_bytes > 0 {
            self.client.shared.lock().counts.request_bytes -=
                std::mem::take(&mut self.request_bytes);
        }
    }

    /// All is done but that the client takes its answer: it no longer counts as a call.
    pub fn done(&mut self) {
        self.permit = None;
    }

    /// Its client has given it up, but something is still done for it: it counts as a call until the permit is dropped.
    pub fn given_up(mut self) -> Option<Permit> {
        self.permit.take()
    }

    /// So many bytes of the answer wait to be taken now.
    pub fn wait(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.answer_bytes, bytes);
        if before != bytes {
            let mut state = self.client.shared.lock();
            state.wait(self.client.number, bytes, before);
            state.make_room(self.client.shared.limits.answer_bytes);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.answered();
        self.wait(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> Clients {
        Clients::new(ClientLimits {
            connections: 2,
            calls: 2,
            watch_streams: 1,
            request_bytes: 100,
            answer_bytes: 100,
        })
    }

    #[test]
    fn each_kind_of_room_is_bounded_and_given_back() {
        let clients = clients();
        let (one, two) = (clients.enter().unwrap(), clients.enter().unwrap());
        assert!(clients.enter().is_none());
        let mut calls = [&one, &two].map(|client| client.begin(CallKind::Unary).unwrap());
        assert_eq!(
            one.begin(CallKind::Unary).err(),
            Some(KvError::TooManyRequests)
        );
        let mut watch = two.begin(CallKind::Watch).unwrap();
        assert!(one.begin(CallKind::Watch).is_err());
        calls[0].receive(60).unwrap();
        calls[1].receive(40).unwrap();
        assert_eq!(calls[1].receive(1), Err(KvError::TooManyRequests));
        assert_eq!(watch.hold(1), Err(KvError::TooManyRequests));
        calls[0].answered();
        watch.hold(30).unwrap();
        watch.hold(20).unwrap();
        assert_eq!(clients.counts().request_bytes, 70, "of the longest");
        calls[1].receive(30).unwrap();
        calls[1].wait(70);
        let counts = ClientCounts {
            connections: 2,
            calls: 2,
            watch_streams: 1,
            request_bytes: 100,
            answer_bytes: 70,
            refused_connections: 1,
            refused_calls: 4,
            cut_connections: 0,
        };
        assert_eq!(clients.counts(), counts, "room-adds-up");
        calls[1].wait(0);
        drop((calls, watch, one, two));
        let refused = ClientCounts {
            refused_connections: 1,
            refused_calls: 4,
            ..ClientCounts::default()
        };
        assert_eq!(clients.counts(), refused, "room-adds-up");
    }

    #[tokio::test]
    async fn whoever_holds_most_is_cut_off_and_no_longer_counted() {
        let clients = clients();
        let (lazy, busy) = (clients.enter().unwrap(), clients.enter().unwrap());
        let mut lazy_calls = [0; 2].map(|_| lazy.begin(CallKind::Unary).unwrap());
        let mut busy_call = busy.begin(CallKind::Watch).unwrap();
        lazy_calls[0].wait(40);
        lazy_calls[1].wait(20);
        busy_call.wait(40);
        assert_eq!(clients.counts().cut_connections, 0);
        busy_call.wait(41);
        lazy.cut_off().await;
        assert_eq!(clients.counts().answer_bytes, 41);
        // What it gives back now was taken off already.
        lazy_calls[0].wait(10);
        drop((lazy_calls, lazy));
        let counts = clients.counts();
        assert_eq!((counts.answer_bytes, counts.connections), (41, 1));
        assert_eq!(counts.cut_connections, 1);
    }
}
