//! What the user sends: heads, data as the windows allow, ends.

use super::stream::{End, Stream};
use super::{Event, OUTPUT_BYTES, ServerConnection};
use crate::error::ErrorCode;
use crate::frame::{self, MAX_PAYLOAD_BYTES, flag, kind};
use crate::hpack::encode;
use bytes::{BufMut, Bytes, BytesMut};

/// WINDOW_UPDATE is sent when this part of a window was taken: rarely, and long before the client has to wait.
const WINDOW_PART: u32 = 2;

/// Data that waited are made ready for the socket up to here: less than where input is no longer wanted, so that a client that takes its
/// data slowly is heard meanwhile.
const DATA_OUTPUT_BYTES: usize = OUTPUT_BYTES / 2;

impl ServerConnection {
    /// Sends a whole answer: a head, `length` bytes of data that `write` appends to what it is given, and trailers. Blocks are encoded
    /// ([`encode::put_literal`] and others). Where there is room in all windows, which is nearly always, the data are written to their place
    /// among what the socket takes. Nothing is done for a stream that is gone.
    pub fn send_answer(
        &mut self,
        stream: u32,
        head: &[u8],
        length: usize,
        write: impl FnOnce(&mut BytesMut),
        trailers: &'static [u8],
    ) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        let fits = length <= MAX_PAYLOAD_BYTES
            && self.output.len() < OUTPUT_BYTES
            && (length as i64) <= open.send_window.min(self.send_window);
        if !fits {
            let mut data = BytesMut::with_capacity(length);
            write(&mut data);
            self.send_head(stream, head);
            self.send_data(stream, data.freeze());
            self.send_trailers(stream, Bytes::from_static(trailers));
            return;
        }
        let is_receiving = open.is_receiving;
        self.unanswered_resets = self.unanswered_resets.saturating_sub(1);
        open.send_window -= length as i64;
        self.send_window -= length as i64;
        self.put_headers(stream, head, false);
        frame::put_header(&mut self.output, length, kind::DATA, 0, stream);
        let end = self.output.len() + length;
        write(&mut self.output);
        assert_eq!(
            self.output.len(),
            end,
            "an answer has the length it announced"
        );
        self.put_headers(stream, trailers, true);
        self.end(stream, is_receiving);
    }

    /// Sends a head; data or an end follow.
    pub fn send_head(&mut self, stream: u32, block: &[u8]) {
        if let Some(open) = self.streams.get_mut(&stream) {
            open.is_answered = true;
            self.unanswered_resets = self.unanswered_resets.saturating_sub(1);
            self.put_headers(stream, block, false);
        }
    }

    /// Sends a head that is all there is.
    pub fn send_only_head(&mut self, stream: u32, block: &[u8]) {
        if let Some(open) = self.streams.get(&stream) {
            let is_receiving = open.is_receiving;
            self.unanswered_resets = self.unanswered_resets.saturating_sub(1);
            self.put_headers(stream, block, true);
            self.end(stream, is_receiving);
        }
    }

    /// Sends data as soon as the client has room for them. Says how many bytes wait on this stream then; if there are any,
    /// [`Event::Drained`] tells when there are none any more.
    pub fn send_data(&mut self, stream: u32, data: Bytes) -> usize {
        let Some(open) = self.streams.get_mut(&stream) else {
            return 0;
        };
        if !data.is_empty() {
            open.queue.push_back(data);
        }
        self.start(stream);
        let Some(open) = self.streams.get_mut(&stream) else {
            return 0;
        };
        open.tell_drained = !open.queue.is_empty();
        open.queued_bytes()
    }

    /// Bytes that wait to be sent on a stream.
    pub fn waiting_bytes(&self, stream: u32) -> usize {
        self.streams.get(&stream).map_or(0, Stream::queued_bytes)
    }

    /// Ends a stream by trailers, after all data.
    pub fn send_trailers(&mut self, stream: u32, block: Bytes) {
        self.send_end(stream, End::Trailers(block));
    }

    /// Ends a stream after all data.
    pub fn send_end_of_data(&mut self, stream: u32) {
        self.send_end(stream, End::Data);
    }

    /// Ends a stream at once; what waits on it is dropped.
    pub fn reset(&mut self, stream: u32, code: ErrorCode) {
        frame::put_reset(&mut self.output, stream, code);
        self.close(stream);
    }

    /// The user no longer holds so many bytes of a request's body.
    pub fn take(&mut self, stream: u32, bytes: usize) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        let bytes = bytes as u32;
        open.untaken_bytes -= bytes;
        open.untold_bytes += bytes;
        if open.is_receiving && open.untold_bytes >= self.limits.stream_window_bytes / WINDOW_PART {
            let room = std::mem::take(&mut open.untold_bytes);
            open.receive_window += i64::from(room);
            frame::put_window_update(&mut self.output, stream, room);
        }
        self.tell_connection_room(bytes);
    }

    /// Asks whether the client is still there; [`Event::Pong`] is its answer.
    pub fn ping(&mut self) {
        frame::put_ping(&mut self.output, [0; 8], false);
    }

    /// Tells the client to open no more streams. Those that are open go on to their end, and so do those that arrive until
    /// [`ServerConnection::end_if_idle`] finds none.
    pub fn go_away(&mut self) {
        if !self.is_leaving {
            self.is_leaving = true;
            // There is no telling yet which stream will have been the last.
            let code = ErrorCode::NO_ERROR;
            frame::put_go_away(&mut self.output, u32::MAX >> 1, code, "");
        }
    }

    /// If the client was told to open no more streams, and none is left, tells it which was the last one: what it has sent since can be
    /// made again elsewhere.
    pub fn end_if_idle(&mut self) {
        if self.is_leaving && !self.has_left && self.streams.is_empty() && !self.has_events() {
            self.has_left = true;
            let code = ErrorCode::NO_ERROR;
            frame::put_go_away(&mut self.output, self.last_stream, code, "");
        }
    }

    /// As much as there is room for.
    pub(super) fn pump(&mut self) {
        while self.output.len() < DATA_OUTPUT_BYTES && self.send_window > 0 {
            let Some(number) = self.ready.pop_front() else {
                return;
            };
            let Some(stream) = self.streams.get_mut(&number) else {
                continue;
            };
            if stream.send_window <= 0 {
                // The client made it smaller since.
                stream.is_ready = false;
                continue;
            }
            let room = stream.send_window.min(self.send_window);
            let data = stream.dequeue((room as usize).min(MAX_PAYLOAD_BYTES));
            stream.send_window -= data.len() as i64;
            stream.is_ready = false;
            self.send_window -= data.len() as i64;
            frame::put_header(&mut self.output, data.len(), kind::DATA, 0, number);
            self.output.put_slice(&data);
            if stream.becomes_ready() {
                self.ready.push_back(number);
            } else if stream.queue.is_empty() {
                self.drained(number);
            }
        }
    }

    /// Answers a head above the limit (RFC 6585, section 5).
    pub(super) fn refuse_large_head(&mut self, stream: u32) {
        let mut block = BytesMut::new();
        encode::put_literal(&mut block, b":status", b"431");
        self.send_only_head(stream, &block);
    }

    /// So much more may come on the connection.
    pub(super) fn tell_connection_room(&mut self, bytes: u32) {
        self.untold_bytes += bytes;
        if self.untold_bytes >= self.limits.connection_window_bytes / WINDOW_PART {
            let room = std::mem::take(&mut self.untold_bytes);
            self.receive_window += i64::from(room);
            frame::put_window_update(&mut self.output, 0, room);
        }
    }

    fn put_headers(&mut self, stream: u32, block: &[u8], ends_stream: bool) {
        if std::mem::take(&mut self.owes_table_size) {
            // The table that we do not use has no room from now on (RFC 7541, section 4.2).
            let block = [&[0x20], block].concat();
            frame::put_headers(&mut self.output, stream, &block, ends_stream);
        } else {
            frame::put_headers(&mut self.output, stream, block, ends_stream);
        }
    }

    fn send_end(&mut self, stream: u32, end: End) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        open.end = Some(end);
        if open.queue.is_empty() {
            self.drained(stream);
        }
    }

    /// A stream that may have become able to send.
    fn start(&mut self, number: u32) {
        let stream = self.streams.get_mut(&number);
        if stream.is_some_and(Stream::becomes_ready) {
            self.ready.push_back(number);
            self.pump();
        }
    }

    /// Nothing waits on a stream: its end may be sent, or the user wants to know.
    fn drained(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        if std::mem::take(&mut stream.tell_drained) {
            self.events.push_back(Event::Drained { stream: number });
        }
        let is_receiving = stream.is_receiving;
        match stream.end.take() {
            None => return,
            Some(End::Trailers(block)) => self.put_headers(number, &block, true),
            Some(End::Data) => {
                frame::put_header(&mut self.output, 0, kind::DATA, flag::END_STREAM, number)
            }
        }
        self.end(number, is_receiving);
    }

    /// The last word was said on a stream.
    fn end(&mut self, stream: u32, is_receiving: bool) {
        if is_receiving {
            frame::put_reset(&mut self.output, stream, ErrorCode::NO_ERROR);
        }
        self.close(stream);
    }
}
