//! One stream, as the server sees it, and all that are open.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// An open stream. Once the server has said its last word there is no more of it: what the client might still send is not wanted.
///
/// Invariant `ready-has-something`: `is_ready` is whether the connection's queue of those who can send has it, and then there is data,
/// and room in the stream's window.
#[derive(Debug)]
pub(super) struct Stream {
    /// The client may send more.
    pub is_receiving: bool,
    /// Bytes that the client may send before it hears of more room. Negative only for who does not keep to it.
    pub receive_window: i64,
    /// Received, and not taken by the user yet.
    pub untaken_bytes: u32,
    /// Taken by the user, and the client was not told yet.
    pub untold_bytes: u32,
    /// What `content-length` promised, less what has come.
    pub promised_bytes: Option<u64>,
    /// Bytes that may be sent; less than 0 when the client made its windows smaller.
    pub send_window: i64,
    /// A head was sent.
    pub is_answered: bool,
    /// Waits to be sent.
    pub queue: VecDeque<Bytes>,
    /// How it ends after that.
    pub end: Option<End>,
    /// See the invariant.
    pub is_ready: bool,
    /// The user is to hear when the queue is empty.
    pub tell_drained: bool,
}

/// The last word on a stream.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// A header block.
    Trailers(Bytes),
    /// Nothing but the end.
    Data,
}

impl Stream {
    pub fn new(receive_window: u32, send_window: i64) -> Stream {
        Stream {
            is_receiving: true,
            receive_window: i64::from(receive_window),
            untaken_bytes: 0,
            untold_bytes: 0,
            promised_bytes: None,
            send_window,
            is_answered: false,
            queue: VecDeque::new(),
            end: None,
            is_ready: false,
            tell_drained: false,
        }
    }

    /// Bytes that wait to be sent.
    pub fn queued_bytes(&self) -> usize {
        self.queue.iter().map(Bytes::len).sum()
    }

    /// Whether it belongs into the queue of those who can send, and is not there.
    pub fn becomes_ready(&mut self) -> bool {
        let becomes = !self.is_ready && !self.queue.is_empty() && self.send_window > 0;
        self.is_ready |= becomes;
        becomes
    }

    /// Takes at most `bytes` off the queue: what is sent as one frame.
    pub fn dequeue(&mut self, bytes: usize) -> Bytes {
        let first = self.queue.front_mut().expect("ready-has-something");
        if first.len() > bytes {
            return first.split_to(bytes);
        }
        self.queue.pop_front().expect("it was just there")
    }
}

/// All open streams, by number.
pub(super) type Streams = HashMap<u32, Stream, BuildHasherDefault<StreamHasher>>;

/// Spreads the numbers of streams. They only grow, and there are at most as many as the server allows, so nobody can make them collide to
/// any effect.
#[derive(Default)]
pub(super) struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("streams have numbers")
    }

    fn write_u32(&mut self, number: u32) {
        // An odd constant of many ones and zeros (2^64 over the golden ratio).
        self.0 = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Streams that were closed a moment ago: frames for those that the client had not ended may still be under way.
#[derive(Debug, Default)]
pub(super) struct RecentlyClosed {
    /// Numbers, and whether the client had ended its side.
    streams: [(u32, bool); 32],
    next: usize,
}

impl RecentlyClosed {
    pub fn add(&mut self, stream: u32, had_ended: bool) {
        self.streams[self.next] = (stream, had_ended);
        self.next = (self.next + 1) % self.streams.len();
    }

    /// Whether the client had ended a stream that was closed a moment ago.
    pub fn had_ended(&self, stream: u32) -> Option<bool> {
        let found = self.streams.iter().find(|(number, _)| *number == stream);
        found.map(|(_, had_ended)| *had_ended)
    }
}
