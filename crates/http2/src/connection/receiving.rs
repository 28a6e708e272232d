//! What the client sends, frame by frame (RFC 9113, section 6).

use super::stream::Stream;
use super::{Event, IDLE_EVENTS, ServerConnection, TABLE_BYTES};
use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{self, FrameHeader, MAX_WINDOW_BYTES, flag, kind, setting};
use crate::hpack::Listed;
use crate::request::{Head, are_trailers};
use bytes::Bytes;

/// Frames with nothing in them, or with nothing but another window for streams, in a row: nobody needs so many.
const MAX_EMPTY_FRAMES: u32 = 100;

/// A header block of which more is to come.
pub(super) struct Block {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
}

impl ServerConnection {
    pub(super) fn handle_frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if !self.has_settings {
            if header.kind != kind::SETTINGS || header.has(flag::ACK) {
                return Err(ConnectionError::protocol("the first frame is not SETTINGS"));
            }
            self.has_settings = true;
        }
        if self.block.is_some() != (header.kind == kind::CONTINUATION) {
            return Err(ConnectionError::protocol(
                "a header block is interrupted, or goes on without a beginning",
            ));
        }
        match header.kind {
            kind::DATA => self.handle_data(header, payload),
            kind::HEADERS => self.handle_headers(header, payload),
            kind::CONTINUATION => self.handle_continuation(header, payload),
            kind::PRIORITY => self.handle_priority(header, payload),
            kind::RST_STREAM => self.handle_reset(header, payload),
            kind::SETTINGS => self.handle_settings(header, payload),
            kind::PING => self.handle_ping(header, payload),
            kind::WINDOW_UPDATE => self.handle_window_update(header, payload),
            kind::PUSH_PROMISE => Err(ConnectionError::protocol("clients do not push")),
            // It opens no more streams, which says all.
            kind::GOAWAY if header.stream != 0 => {
                Err(ConnectionError::protocol("GOAWAY is about the connection"))
            }
            _ => Ok(()),
        }
    }

    fn handle_data(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        self.expect_used(header.stream)?;
        // Padding counts, too (section 6.1).
        let length = payload.len() as u32;
        self.receive_window -= i64::from(length);
        if self.receive_window < 0 {
            return Err(ConnectionError::flow_control(
                "more data than the connection's window",
            ));
        }
        let data = frame::unpadded(&header, payload)?;
        let ended = header.has(flag::END_STREAM);
        if data.is_empty() && !ended {
            self.count_empty_frame()?;
        } else {
            self.empty_frames = 0;
        }
        let stream = match self.streams.get_mut(&header.stream) {
            Some(stream) if stream.is_receiving => stream,
            _ => {
                self.tell_connection_room(length);
                return self.fail_stream(header.stream, ErrorCode::STREAM_CLOSED);
            }
        };
        stream.receive_window -= i64::from(length);
        stream.untaken_bytes += length;
        if stream.receive_window < 0 {
            return self.fail_stream(header.stream, ErrorCode::FLOW_CONTROL_ERROR);
        }
        if !stream.keeps_promise(data.len(), ended) {
            return self.fail_stream(header.stream, ErrorCode::PROTOCOL_ERROR);
        }
        stream.is_receiving = !ended;
        self.take(header.stream, payload.len() - data.len());
        if !data.is_empty() || ended {
            self.events.push_back(Event::Data {
                stream: header.stream,
                data: Bytes::copy_from_slice(data),
                ended,
            });
        }
        Ok(())
    }

    fn handle_headers(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if header.stream.is_multiple_of(2) {
            return Err(ConnectionError::protocol(
                "a client's streams have odd numbers",
            ));
        }
        let block = frame::unpadded(&header, payload)?;
        let ends_stream = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.handle_block(header.stream, ends_stream, block);
        }
        self.block = Some(Block {
            stream: header.stream,
            ends_stream,
            bytes: block.to_vec(),
        });
        Ok(())
    }

    fn handle_continuation(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let mut block = self.block.take().expect("handle_frame has looked");
        if block.stream != header.stream {
            return Err(ConnectionError::protocol("a header block is interrupted"));
        }
        if payload.is_empty() {
            self.count_empty_frame()?;
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flag::END_HEADERS) {
            return self.handle_block(block.stream, block.ends_stream, &block.bytes);
        }
        // A block is hardly ever longer than what it says.
        if block.bytes.len() > 2 * self.limits.header_list_bytes as usize {
            let code = ErrorCode::ENHANCE_YOUR_CALM;
            return Err(ConnectionError::new(code, "a header block without an end"));
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole header block: a request, or the end of one.
    fn handle_block(
        &mut self,
        number: u32,
        ends_stream: bool,
        block: &[u8],
    ) -> Result<(), ConnectionError> {
        self.fields.clear();
        let limit = self.limits.header_list_bytes as usize;
        let listed = self
            .decoder
            .decode(block, limit, &mut self.fields)
            .map_err(|_| {
                let code = ErrorCode::COMPRESSION_ERROR;
                ConnectionError::new(code, "a header block that cannot be decoded")
            })?;
        if let Some(stream) = self.streams.get_mut(&number) {
            if !stream.is_receiving {
                self.fail_stream(number, ErrorCode::STREAM_CLOSED)?;
            } else if ends_stream && are_trailers(&self.fields) && stream.keeps_promise(0, true) {
                stream.is_receiving = false;
                self.events.push_back(Event::Data {
                    stream: number,
                    data: Bytes::new(),
                    ended: true,
                });
            } else {
                self.fail_stream(number, ErrorCode::PROTOCOL_ERROR)?;
            }
            return Ok(());
        }
        if number <= self.last_stream {
            return match self.closed.had_ended(number) {
                None => Err(ConnectionError::protocol("numbers of streams must grow")),
                Some(true) => Err(ConnectionError::new(
                    ErrorCode::STREAM_CLOSED,
                    "a header block for a stream that was ended",
                )),
                // It was under way when the stream was closed here.
                Some(false) => {
                    self.reset(number, ErrorCode::STREAM_CLOSED);
                    Ok(())
                }
            };
        }
        self.last_stream = number;
        self.open(number, ends_stream, listed);
        Ok(())
    }

    /// A new stream, unless there is a reason against it.
    fn open(&mut self, number: u32, ends_stream: bool, listed: Listed) {
        if self.has_left || self.streams.len() >= self.limits.streams as usize {
            self.refuse(number, ends_stream, ErrorCode::REFUSED_STREAM);
            return;
        }
        let mut stream = Stream::new(self.limits.stream_window_bytes, self.initial_send_window);
        if matches!(listed, Listed::TooLarge) {
            stream.is_receiving = !ends_stream;
            self.streams.insert(number, stream);
            self.refuse_large_head(number);
            return;
        }
        let head = Head::of(&mut self.fields);
        stream.promised_bytes = head.as_ref().and_then(|head| head.content_length);
        match head {
            Some(head) if stream.keeps_promise(0, ends_stream) => {
                stream.is_receiving = !ends_stream;
                self.streams.insert(number, stream);
                self.empty_frames = 0;
                self.events.push_back(Event::Request {
                    stream: number,
                    head,
                    ended: ends_stream,
                });
            }
            _ => self.refuse(number, ends_stream, ErrorCode::PROTOCOL_ERROR),
        }
        if self.fields.capacity() > IDLE_EVENTS {
            self.fields = Vec::new();
        }
    }

    /// Refuses a stream; what more comes of it is no offence.
    fn refuse(&mut self, number: u32, ends_stream: bool, code: ErrorCode) {
        self.reset(number, code);
        self.closed.add(number, ends_stream);
    }

    fn handle_priority(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if header.stream == 0 {
            return Err(ConnectionError::protocol("a priority of no stream"));
        }
        if payload.len() != 5 {
            return Err(ConnectionError::frame_size("a priority has five bytes"));
        }
        Ok(())
    }

    fn handle_reset(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        self.expect_used(header.stream)?;
        frame::number(payload)?;
        let known = self.give_up(header.stream);
        self.close(header.stream);
        known
    }

    fn handle_settings(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if header.stream != 0 {
            return Err(ConnectionError::protocol("settings of a stream"));
        }
        if header.has(flag::ACK) {
            return match payload.is_empty() {
                true => Ok(()),
                false => Err(ConnectionError::frame_size(
                    "settings in an answer to settings",
                )),
            };
        }
        let mut initial_window = None;
        for (id, value) in frame::settings(payload)? {
            match id {
                setting::ENABLE_PUSH if value > 1 => {
                    return Err(ConnectionError::protocol("ENABLE_PUSH is 0 or 1"));
                }
                setting::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(ConnectionError::protocol("MAX_FRAME_SIZE is out of range"));
                }
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW_BYTES => {
                    return Err(ConnectionError::flow_control("a window above 2^31 - 1"));
                }
                setting::INITIAL_WINDOW_SIZE => initial_window = Some(i64::from(value)),
                setting::HEADER_TABLE_SIZE if (value as usize) < TABLE_BYTES => {
                    self.owes_table_size = true;
                }
                _ => {}
            }
        }
        if let Some(bytes) = initial_window.filter(|bytes| *bytes != self.initial_send_window) {
            // It costs a look at every stream.
            self.count_empty_frame()?;
            self.set_initial_window(bytes)?;
        }
        frame::put_settings_ack(&mut self.output);
        self.pump();
        Ok(())
    }

    /// Changes the windows of all streams, too (section 6.9.2).
    fn set_initial_window(&mut self, bytes: i64) -> Result<(), ConnectionError> {
        let more = bytes - self.initial_send_window;
        self.initial_send_window = bytes;
        for (number, stream) in &mut self.streams {
            stream.send_window += more;
            if stream.send_window > MAX_WINDOW_BYTES {
                return Err(ConnectionError::flow_control("a window above 2^31 - 1"));
            }
            if stream.becomes_ready() {
                self.ready.push_back(*number);
            }
        }
        Ok(())
    }

    fn handle_ping(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        if header.stream != 0 {
            return Err(ConnectionError::protocol("a ping of a stream"));
        }
        let payload = payload
            .try_into()
            .map_err(|_| ConnectionError::frame_size("a ping has eight bytes"))?;
        match header.has(flag::ACK) {
            true => self.events.push_back(Event::Pong),
            false => frame::put_ping(&mut self.output, payload, true),
        }
        Ok(())
    }

    fn handle_window_update(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let more = i64::from(frame::number(payload)? & (u32::MAX >> 1));
        if header.stream == 0 {
            self.send_window += more;
            if more == 0 {
                return Err(ConnectionError::protocol("a window update of nothing"));
            }
            if self.send_window > MAX_WINDOW_BYTES {
                return Err(ConnectionError::flow_control("a window above 2^31 - 1"));
            }
            self.pump();
            return Ok(());
        }
        self.expect_used(header.stream)?;
        if more == 0 {
            return self.fail_stream(header.stream, ErrorCode::PROTOCOL_ERROR);
        }
        let Some(stream) = self.streams.get_mut(&header.stream) else {
            return Ok(());
        };
        stream.send_window += more;
        if stream.send_window > MAX_WINDOW_BYTES {
            self.fail_stream(header.stream, ErrorCode::FLOW_CONTROL_ERROR)?;
        } else if stream.becomes_ready() {
            self.ready.push_back(header.stream);
            self.pump();
        }
        Ok(())
    }

    /// Frames but HEADERS and PRIORITY must be about a stream that has been opened.
    fn expect_used(&self, stream: u32) -> Result<(), ConnectionError> {
        match stream == 0 || stream.is_multiple_of(2) || stream > self.last_stream {
            true => Err(ConnectionError::protocol(
                "a frame of a stream that was never opened",
            )),
            false => Ok(()),
        }
    }

    fn count_empty_frame(&mut self) -> Result<(), ConnectionError> {
        self.empty_frames += 1;
        match self.empty_frames > MAX_EMPTY_FRAMES {
            true => Err(ConnectionError::new(
                ErrorCode::ENHANCE_YOUR_CALM,
                "nothing but empty frames and settings",
            )),
            false => Ok(()),
        }
    }
}

impl Stream {
    /// Counts what came, and says whether it is in keeping with `content-length`.
    fn keeps_promise(&mut self, bytes: usize, ended: bool) -> bool {
        let Some(promised) = self.promised_bytes else {
            return true;
        };
        let left = promised.checked_sub(bytes as u64);
        self.promised_bytes = left;
        left.is_some_and(|left| !ended || left == 0)
    }
}
