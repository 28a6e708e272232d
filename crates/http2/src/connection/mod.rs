//! The server's side of one HTTP/2 connection, without I/O.
//!
//! ```text
//!   bytes from the client ──> handle_input ──> poll_event ──> the user: requests, pieces of bodies, resets
//!   bytes to the client   <── output, written <── send_* , take, reset, go_away <── the user
//! ```
//!
//! What is particular about it: header blocks to send come encoded, since a server of gRPC sends the same few again and again; a small
//! answer, which is a head, one message and trailers, is written in one go to where the socket takes it from, without a stop in a queue;
//! and what the client sends is looked at where it was received, and copied once.
//!
//! # What it holds
//!
//! A peer can make it hold so much and no more: of what was received, what the windows in [`Limits`] allow, one frame and one header block
//! of [`Limits::header_list_bytes`]; of what is to be sent, what the user gave it, and [`OUTPUT_BYTES`] besides with the answers to what one
//! input asked. While that much waits to be written, [`ServerConnection::wants_input`] says no: who asks and does not listen is not heard.
//! Who asks and then does not want the answer, again and again, is cut off ([`Limits::unanswered_resets`]).
//!
//! # Caveats
//!
//! - Priorities are ignored, as RFC 9113 allows. Those who can send take turns, a frame each.
//! - Streams are closed with the server's last word. A client that has not ended its side hears `NO_ERROR` (RFC 9113, section 8.1).
//! - The client's limit on header lists is ignored: what is sent is a few dozen bytes. No table of header fields is used to send.

mod receiving;
mod sending;
mod stream;
#[cfg(test)]
mod tests;

use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{self, FrameHeader, HEADER_BYTES, MAX_PAYLOAD_BYTES, PREFACE, setting};
use crate::hpack::{Decoder, Field};
use crate::request::Head;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use stream::{RecentlyClosed, Streams};

/// So much is made ready for the socket; what is beyond waits on its stream.
pub const OUTPUT_BYTES: usize = 64 << 10;

/// Room for output that is kept while nothing is to be written.
const IDLE_OUTPUT_BYTES: usize = 16 << 10;

/// Room for events, and for fields of a head, that is kept while there are none.
const IDLE_EVENTS: usize = 64;

/// What the table of header fields may hold: the protocol's default.
const TABLE_BYTES: usize = 4096;

/// What a client may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at the same time; one more is refused, and can be tried again.
    pub streams: u32,
    /// Bytes that may be sent on one stream before the user takes some.
    pub stream_window_bytes: u32,
    /// The same for all streams of the connection together. At least 65,535, which is where every connection begins.
    pub connection_window_bytes: u32,
    /// A request's head, counted as in RFC 9113, section 6.5.2; a larger one is answered by status 431.
    pub header_list_bytes: u32,
    /// Streams that end by the client's doing before they were answered, less those that were answered, since the last
    /// [`ServerConnection::forgive_resets`]; one more ends the connection. A stream that is reset makes room for another at once, so
    /// without this a client could have any number of requests looked at for nothing (CVE-2023-44487, "rapid reset").
    pub unanswered_resets: u32,
}

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A request began.
    Request {
        /// Its number.
        stream: u32,
        /// Its head.
        head: Head,
        /// There is no body.
        ended: bool,
    },
    /// A piece of a request's body. Say [`ServerConnection::take`] when it is no longer held.
    Data {
        /// Whose.
        stream: u32,
        /// The piece; empty only at the end.
        data: Bytes,
        /// It was the last one.
        ended: bool,
    },
    /// All that [`ServerConnection::send_data`] had left to wait is on its way.
    Drained {
        /// Whose.
        stream: u32,
    },
    /// The stream is gone: its client gave up, or broke the rules for streams. Nothing more happens to it.
    Reset {
        /// Which.
        stream: u32,
    },
    /// The answer to a ping.
    Pong,
}

/// One connection. See the module.
pub struct ServerConnection {
    limits: Limits,
    /// The preface has come.
    is_greeted: bool,
    /// The first frame has come.
    has_settings: bool,
    /// The beginning of a frame whose end has not come.
    partial: BytesMut,
    decoder: Decoder,
    /// The fields of the block that is looked at. Kept for its memory.
    fields: Vec<Field>,
    /// A header block whose end has not come.
    block: Option<receiving::Block>,
    /// Frames in a row that had nothing in them.
    empty_frames: u32,
    /// See [`Limits::unanswered_resets`].
    unanswered_resets: u32,
    streams: Streams,
    /// The greatest number that a stream had.
    last_stream: u32,
    closed: RecentlyClosed,
    events: VecDeque<Event>,
    output: BytesMut,
    /// Streams that can send, in turn.
    ready: VecDeque<u32>,
    send_window: i64,
    /// Where the windows of new streams begin.
    initial_send_window: i64,
    receive_window: i64,
    /// Taken by the user, and the client was not told yet.
    untold_bytes: u32,
    /// The client made its table of header fields smaller, and has to hear that we know.
    owes_table_size: bool,
    /// It was said that no new streams are wanted.
    is_leaving: bool,
    /// It was said which was the last.
    has_left: bool,
    failed: Option<ConnectionError>,
}

impl ServerConnection {
    /// A connection on which nothing was said yet. Its settings are in the output.
    pub fn new(limits: Limits) -> ServerConnection {
        let mut output = BytesMut::new();
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, limits.streams),
            (setting::INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
            (setting::MAX_HEADER_LIST_SIZE, limits.header_list_bytes),
        ];
        frame::put_settings(&mut output, &settings);
        let initial = frame::INITIAL_WINDOW_BYTES;
        let connection_window_bytes = limits.connection_window_bytes.max(initial);
        if connection_window_bytes > initial {
            frame::put_window_update(&mut output, 0, connection_window_bytes - initial);
        }
        ServerConnection {
            limits: Limits {
                connection_window_bytes,
                ..limits
            },
            is_greeted: false,
            has_settings: false,
            partial: BytesMut::new(),
            decoder: Decoder::new(TABLE_BYTES),
            fields: Vec::new(),
            block: None,
            empty_frames: 0,
            unanswered_resets: 0,
            streams: Streams::default(),
            last_stream: 0,
            closed: RecentlyClosed::default(),
            events: VecDeque::new(),
            output,
            ready: VecDeque::new(),
            send_window: i64::from(initial),
            initial_send_window: i64::from(initial),
            receive_window: i64::from(connection_window_bytes),
            untold_bytes: 0,
            owes_table_size: false,
            is_leaving: false,
            has_left: false,
            failed: None,
        }
    }

    /// Takes in what the client sent. After an error nothing more is taken in; what is to be written says why.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.take_in(bytes);
        if let Err(error) = result {
            frame::put_go_away(&mut self.output, self.last_stream, error.code, error.text);
            self.failed = Some(error);
        }
        result
    }

    /// What happened, in order, until there is no more.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > IDLE_EVENTS {
            self.events = VecDeque::new();
        }
        event
    }

    /// Whether more input should be given: not while the client does not take what it has asked for.
    pub fn wants_input(&self) -> bool {
        self.output.len() < OUTPUT_BYTES
    }

    /// What is to be written next.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// So much of the output was written.
    pub fn written(&mut self, bytes: usize) {
        bytes::Buf::advance(&mut self.output, bytes);
        self.pump();
        if self.output.is_empty() && self.output.capacity() > IDLE_OUTPUT_BYTES {
            self.output = BytesMut::new();
        }
    }

    /// Whether a stream is open: its client may have given up on what was heard of it.
    pub fn is_open(&self, stream: u32) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Streams that are open.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether something happened that was not asked for yet.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether it is over: the client was told which stream was the last, and that is written.
    pub fn is_over(&self) -> bool {
        self.has_left && self.output.is_empty()
    }

    /// Complete frames one after the other; what is left of an incomplete one is kept.
    fn take_in(&mut self, mut bytes: &[u8]) -> Result<(), ConnectionError> {
        while !self.partial.is_empty() {
            let missing = self
                .unit_bytes(&self.partial)?
                .saturating_sub(self.partial.len());
            let (more, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial.extend_from_slice(more);
            bytes = rest;
            // A frame's length is known once its header is whole; a wrong preface need not be.
            let length = self.unit_bytes(&self.partial)?;
            if more.len() < missing {
                return Ok(());
            }
            if length == self.partial.len() {
                let unit = std::mem::take(&mut self.partial);
                self.handle_unit(&unit)?;
            }
        }
        loop {
            let length = self.unit_bytes(bytes)?;
            let Some((unit, rest)) = bytes.split_at_checked(length) else {
                self.partial.extend_from_slice(bytes);
                return Ok(());
            };
            self.handle_unit(unit)?;
            bytes = rest;
        }
    }

    /// How long the preface or the frame is that begins here, as far as can be told: at least its header.
    fn unit_bytes(&self, bytes: &[u8]) -> Result<usize, ConnectionError> {
        if !self.is_greeted {
            let seen = bytes.len().min(PREFACE.len());
            return match bytes[..seen] == PREFACE[..seen] {
                true => Ok(PREFACE.len()),
                false => Err(ConnectionError::protocol("this is not HTTP/2")),
            };
        }
        let Some(header) = bytes.first_chunk() else {
            return Ok(HEADER_BYTES);
        };
        match FrameHeader::read(header).length {
            length if length <= MAX_PAYLOAD_BYTES => Ok(HEADER_BYTES + length),
            _ => Err(ConnectionError::frame_size("a frame above the limit")),
        }
    }

    fn handle_unit(&mut self, unit: &[u8]) -> Result<(), ConnectionError> {
        match unit.split_first_chunk() {
            Some((header, payload)) if self.is_greeted => {
                self.handle_frame(FrameHeader::read(header), payload)
            }
            _ => {
                self.is_greeted = true;
                Ok(())
            }
        }
    }

    /// Forgets what counts against [`Limits::unanswered_resets`]: for the user to say now and then, who has a clock.
    pub fn forgive_resets(&mut self) {
        self.unanswered_resets = 0;
    }

    /// Ends a stream by an error that is the client's; the user hears of it.
    fn fail_stream(&mut self, stream: u32, code: ErrorCode) -> Result<(), ConnectionError> {
        let known = self.give_up(stream);
        self.reset(stream, code);
        known
    }

    /// A stream ends by the client's doing: the user hears of it, if it knows the stream.
    fn give_up(&mut self, stream: u32) -> Result<(), ConnectionError> {
        let Some(open) = self.streams.get(&stream) else {
            return Ok(());
        };
        self.events.push_back(Event::Reset { stream });
        self.unanswered_resets += u32::from(!open.is_answered);
        match self.unanswered_resets > self.limits.unanswered_resets {
            true => Err(ConnectionError::new(
                ErrorCode::ENHANCE_YOUR_CALM,
                "too many requests that are given up before they are answered",
            )),
            false => Ok(()),
        }
    }

    /// Forgets a stream. What of it was received and never taken is room in the connection's window again.
    fn close(&mut self, stream: u32) {
        if let Some(closed) = self.streams.remove(&stream) {
            self.closed.add(stream, !closed.is_receiving);
            if closed.is_ready {
                self.ready.retain(|ready| *ready != stream);
            }
            self.tell_connection_room(closed.untaken_bytes);
        }
    }
}
