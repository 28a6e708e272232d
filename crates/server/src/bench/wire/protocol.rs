//! The client's side of one HTTP/2 connection that calls one gRPC method again and again, without I/O.
//!
//! What is the same in every call is written once: the first request puts its head into the server's table of header fields (HPACK), all
//! others name it in a few bytes. Nothing is done that an answer's correctness does not need: status and trailers are checked, message
//! lengths too; header fields that nobody asked for are passed over.

use super::{CallError, PREFIX_BYTES};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use eaves_http2::ErrorCode;
use eaves_http2::frame::{
    self, FrameHeader, HEADER_BYTES, INITIAL_WINDOW_BYTES, MAX_PAYLOAD_BYTES, PREFACE, flag, kind,
    setting,
};
use eaves_http2::hpack::{Decoder, Field, encode};
use std::collections::{HashMap, VecDeque};

/// What one stream and one connection may have under way towards us: enough for large values on many streams.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Of the table of header fields, both ways: the protocol's default.
const TABLE_BYTES: u32 = 4096;

/// No server's trailers are longer.
const HEADER_LIST_BYTES: usize = 64 << 10;

/// Why the connection is of no use any more.
pub(super) type Broken = String;

/// A call that has ended: its number, and what came of it.
pub(super) type Ended<T> = (T, Result<Bytes, CallError>);

/// One connection. `T` is what the user knows a call by.
pub(super) struct Protocol<T> {
    path: String,
    authority: String,
    output: BytesMut,
    /// The beginning of a frame whose end has not come.
    partial: BytesMut,
    calls: HashMap<u32, Call<T>>,
    next_stream: u32,
    /// Calls beyond the server's limit.
    waiting: VecDeque<(T, Bytes)>,
    max_streams: usize,
    /// The server's table has the fields of our head; `None` if it has no room for them.
    is_known: Option<bool>,
    send_window: i64,
    initial_send_window: i64,
    /// Received, and the server was not told yet that there is room again.
    untold_bytes: u32,
    decoder: Decoder,
    fields: Vec<Field>,
    /// A header block whose end has not come: its stream, and whether it is the last thing there.
    block: Option<(u32, bool, Vec<u8>)>,
    ended: Vec<Ended<T>>,
    /// The server takes no more.
    is_leaving: bool,
}

struct Call<T> {
    user: T,
    unsent: Bytes,
    send_window: i64,
    message: Bytes,
    /// The message's further pieces.
    rest: BytesMut,
    untold_bytes: u32,
    refusal: Option<String>,
}

impl<T> Protocol<T> {
    /// `path` is `/package.Service/Method`.
    pub fn new(authority: String, path: &str) -> Protocol<T> {
        let mut output = BytesMut::from(&PREFACE[..]);
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES),
        ];
        frame::put_settings(&mut output, &settings);
        frame::put_window_update(
            &mut output,
            0,
            CONNECTION_WINDOW_BYTES - INITIAL_WINDOW_BYTES,
        );
        Protocol {
            path: path.to_owned(),
            authority,
            output,
            partial: BytesMut::new(),
            calls: HashMap::new(),
            next_stream: 1,
            waiting: VecDeque::new(),
            max_streams: usize::MAX,
            is_known: Some(false),
            send_window: i64::from(INITIAL_WINDOW_BYTES),
            initial_send_window: i64::from(INITIAL_WINDOW_BYTES),
            untold_bytes: 0,
            decoder: Decoder::new(TABLE_BYTES as usize),
            fields: Vec::new(),
            block: None,
            ended: Vec::new(),
            is_leaving: false,
        }
    }

    /// Begins a call with a framed message.
    pub fn call(&mut self, user: T, message: Bytes) {
        if self.is_leaving {
            let text = "the server takes no more calls on this connection".to_owned();
            self.ended.push((user, Err(CallError::Broken(text))));
        } else if self.calls.len() >= self.max_streams {
            self.waiting.push_back((user, message));
        } else {
            self.begin(user, message);
        }
    }

    /// What is to be written next.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// The calls that have ended since the last time.
    pub fn ended(&mut self) -> std::vec::Drain<'_, Ended<T>> {
        self.ended.drain(..)
    }

    /// All calls, ended or not: what is left when the connection breaks.
    pub fn into_users(self) -> impl Iterator<Item = T> {
        let calls = self.calls.into_values().map(|call| call.user);
        let waiting = self.waiting.into_iter().map(|(user, _)| user);
        calls.chain(waiting)
    }

    /// Takes in what the server sent.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let mut partial = std::mem::take(&mut self.partial);
        if partial.is_empty() {
            let rest = self.handle_frames(bytes)?;
            self.partial.extend_from_slice(rest);
        } else {
            partial.extend_from_slice(bytes);
            let left = self.handle_frames(&partial)?.len();
            partial.advance(partial.len() - left);
            self.partial = partial;
        }
        Ok(())
    }

    /// All whole frames; what is left is the beginning of one.
    fn handle_frames<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Broken> {
        while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
            let header = FrameHeader::read(header);
            if header.length > MAX_PAYLOAD_BYTES {
                return Err("the server sent a frame above the limit".into());
            }
            let Some((payload, rest)) = rest.split_at_checked(header.length) else {
                break;
            };
            self.handle_frame(header, payload)?;
            bytes = rest;
        }
        Ok(bytes)
    }

    fn handle_frame(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Broken> {
        let of_frame = |error: eaves_http2::ConnectionError| error.to_string();
        let ends_stream = header.has(flag::END_STREAM);
        match header.kind {
            kind::DATA => {
                let data = frame::unpadded(&header, payload).map_err(of_frame)?;
                self.handle_data(header.stream, data, payload.len() as u32, ends_stream);
            }
            kind::HEADERS => {
                let block = frame::unpadded(&header, payload).map_err(of_frame)?;
                if header.has(flag::END_HEADERS) {
                    return self.handle_block(header.stream, block, ends_stream);
                }
                self.block = Some((header.stream, ends_stream, block.to_vec()));
            }
            kind::CONTINUATION => {
                let Some((stream, ends_stream, mut block)) = self.block.take() else {
                    return Err("the server went on with a header block that never began".into());
                };
                block.extend_from_slice(payload);
                if header.has(flag::END_HEADERS) {
                    return self.handle_block(stream, &block, ends_stream);
                }
                self.block = Some((stream, ends_stream, block));
            }
            kind::SETTINGS if !header.has(flag::ACK) => {
                for (id, value) in frame::settings(payload).map_err(of_frame)? {
                    self.handle_setting(id, value);
                }
                frame::put_settings_ack(&mut self.output);
                self.pump();
            }
            kind::PING if !header.has(flag::ACK) => {
                let payload = payload.try_into().map_err(|_| "a ping has eight bytes")?;
                frame::put_ping(&mut self.output, payload, true);
            }
            kind::WINDOW_UPDATE => {
                let more = i64::from(frame::number(payload).map_err(of_frame)?);
                match self.calls.get_mut(&header.stream) {
                    Some(call) => call.send_window += more,
                    None if header.stream == 0 => self.send_window += more,
                    None => {}
                }
                self.pump();
            }
            kind::RST_STREAM => {
                let code = ErrorCode(frame::number(payload).map_err(of_frame)?);
                let text = format!("the server reset the stream: {code:?}");
                self.end(header.stream, Some(Err(CallError::Refused(text))));
            }
            kind::GOAWAY => self.handle_go_away(payload)?,
            _ => {}
        }
        Ok(())
    }

    fn handle_setting(&mut self, id: u16, value: u32) {
        match id {
            setting::MAX_CONCURRENT_STREAMS => self.max_streams = value as usize,
            setting::INITIAL_WINDOW_SIZE => {
                let more = i64::from(value) - self.initial_send_window;
                self.initial_send_window += more;
                for call in self.calls.values_mut() {
                    call.send_window += more;
                }
            }
            setting::HEADER_TABLE_SIZE if value < TABLE_BYTES => self.is_known = None,
            _ => {}
        }
    }

    fn handle_data(&mut self, stream: u32, data: &[u8], length: u32, ended: bool) {
        self.untold_bytes += length;
        if self.untold_bytes >= CONNECTION_WINDOW_BYTES / 2 {
            let room = std::mem::take(&mut self.untold_bytes);
            frame::put_window_update(&mut self.output, 0, room);
        }
        let Some(call) = self.calls.get_mut(&stream) else {
            return;
        };
        if call.message.is_empty() {
            call.message = Bytes::copy_from_slice(data);
        } else {
            call.rest.extend_from_slice(data);
        }
        call.untold_bytes += length;
        if ended {
            self.end(stream, None);
        } else if call.untold_bytes >= STREAM_WINDOW_BYTES / 2 {
            let room = std::mem::take(&mut call.untold_bytes);
            frame::put_window_update(&mut self.output, stream, room);
        }
    }

    fn handle_block(&mut self, stream: u32, block: &[u8], ended: bool) -> Result<(), Broken> {
        self.fields.clear();
        let decoded = self
            .decoder
            .decode(block, HEADER_LIST_BYTES, &mut self.fields);
        let _all_or_some = decoded.map_err(|error| error.to_string())?;
        if let Some(call) = self.calls.get_mut(&stream) {
            call.refusal = call.refusal.take().or_else(|| refusal(&self.fields));
        }
        if ended {
            self.end(stream, None);
        }
        Ok(())
    }

    fn handle_go_away(&mut self, payload: &[u8]) -> Result<(), Broken> {
        let last = payload
            .first_chunk()
            .ok_or("a GOAWAY that is cut off")
            .map(|last| u32::from_be_bytes(*last))?;
        self.is_leaving = true;
        let lost: Vec<u32> = self
            .calls
            .keys()
            .copied()
            .filter(|stream| *stream > last)
            .collect();
        let broken = || Err(CallError::Broken("the server ends the connection".into()));
        for stream in lost {
            self.end(stream, Some(broken()));
        }
        while let Some((user, _)) = self.waiting.pop_front() {
            self.ended.push((user, broken()));
        }
        Ok(())
    }

    /// A call's last frame came; without a result, what came before is it.
    fn end(&mut self, stream: u32, result: Option<Result<Bytes, CallError>>) {
        let Some(mut call) = self.calls.remove(&stream) else {
            return;
        };
        let result = result.unwrap_or_else(|| match call.refusal.take() {
            Some(text) => Err(CallError::Refused(text)),
            None => call.take_message(),
        });
        self.ended.push((call.user, result));
        if let Some((user, message)) = self.waiting.pop_front() {
            self.begin(user, message);
        }
    }

    fn begin(&mut self, user: T, message: Bytes) {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut block = BytesMut::with_capacity(16);
        put_head(&mut block, self.is_known, &self.path, &self.authority);
        self.is_known = self.is_known.map(|_| true);
        frame::put_headers(&mut self.output, stream, &block, false);
        let call = Call {
            user,
            unsent: message,
            send_window: self.initial_send_window,
            message: Bytes::new(),
            rest: BytesMut::new(),
            untold_bytes: 0,
            refusal: None,
        };
        let call = self.calls.entry(stream).insert_entry(call).into_mut();
        call.send(stream, &mut self.send_window, &mut self.output);
    }

    /// Sends what the windows let through by now.
    fn pump(&mut self) {
        let unsent = |call: &Call<T>| !call.unsent.is_empty();
        for (stream, call) in self.calls.iter_mut().filter(|(_, call)| unsent(call)) {
            call.send(*stream, &mut self.send_window, &mut self.output);
        }
    }
}

impl<T> Call<T> {
    fn send(&mut self, stream: u32, connection_window: &mut i64, output: &mut BytesMut) {
        loop {
            let room = self.send_window.min(*connection_window).max(0) as usize;
            let length = self.unsent.len().min(room).min(MAX_PAYLOAD_BYTES);
            if length == 0 {
                return;
            }
            let data = self.unsent.split_to(length);
            self.send_window -= length as i64;
            *connection_window -= length as i64;
            let flags = if self.unsent.is_empty() {
                flag::END_STREAM
            } else {
                0
            };
            frame::put_header(output, length, kind::DATA, flags, stream);
            output.put_slice(&data);
        }
    }

    fn take_message(&mut self) -> Result<Bytes, CallError> {
        let body = match self.rest.is_empty() {
            true => std::mem::take(&mut self.message),
            false => {
                let mut whole = BytesMut::from(&self.message[..]);
                whole.extend_from_slice(&self.rest);
                whole.freeze()
            }
        };
        unframe(body)
    }
}

/// A request's head: in words that go into the server's table, then by their numbers there; in words alone where there is no table.
fn put_head(block: &mut BytesMut, is_known: Option<bool>, path: &str, authority: &str) {
    // POST and http, in the static table.
    encode::put_indexed(block, 3);
    encode::put_indexed(block, 6);
    let named = [(4, path), (1, authority), (31, "application/grpc")];
    match is_known {
        // The table counts from the latest, and what belongs to HTTP/2 itself comes first.
        Some(true) => (62..66)
            .rev()
            .for_each(|index| encode::put_indexed(block, index)),
        Some(false) => {
            for (index, value) in named {
                encode::put_literal_named_into_table(block, index, value.as_bytes());
            }
            encode::put_literal_into_table(block, b"te", b"trailers");
        }
        None => {
            for (index, value) in named {
                encode::put_literal_named(block, index, value.as_bytes());
            }
            encode::put_literal(block, b"te", b"trailers");
        }
    }
}

/// Why these header fields say that there is no answer.
fn refusal(fields: &[Field]) -> Option<String> {
    let get = |name: &str| {
        let found = fields.iter().find(|field| field.name == name.as_bytes());
        found.map(|field| String::from_utf8_lossy(&field.value))
    };
    if let Some(status) = get(":status").filter(|status| status != "200") {
        return Some(format!("HTTP status {status}: is this an etcd v3 server?"));
    }
    let status = get("grpc-status").filter(|status| status != "0")?;
    match get("grpc-message") {
        Some(message) if !message.is_empty() => Some(percent_decoded(&message)),
        _ => Some(
            tonic::Code::from_bytes(status.as_bytes())
                .description()
                .to_owned(),
        ),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = digits
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unframe(body: Bytes) -> Result<Bytes, CallError> {
    let refuse = |text: &str| Err(CallError::Refused(text.to_string()));
    let Some(prefix) = body.first_chunk::<PREFIX_BYTES>() else {
        return refuse("the answer ended before its message");
    };
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return refuse("the answer is compressed, which was not asked for");
    }
    if u32::from_be_bytes(length) as usize != body.len() - PREFIX_BYTES {
        return refuse("the answer has not the length it announced");
    }
    Ok(body.slice(PREFIX_BYTES..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::wire::frame as framed;
    use eaves_http2::{Event, Limits, ServerConnection};
    use prost::Message;

    const LIMITS: Limits = Limits {
        streams: 2,
        stream_window_bytes: 1 << 20,
        connection_window_bytes: 1 << 20,
        header_list_bytes: 1 << 14,
        unanswered_resets: 2,
    };

    /// What passes between both until neither has more to say; the server answers each call with its own body.
    fn talk(client: &mut Protocol<u32>, server: &mut ServerConnection) -> Vec<String> {
        let mut bodies = HashMap::<u32, Vec<u8>>::new();
        let mut paths = Vec::new();
        loop {
            let said = client.output().split();
            server.handle_input(&said).unwrap();
            while let Some(event) = server.poll_event() {
                match event {
                    Event::Request { head, .. } => {
                        paths.push(String::from_utf8(head.path.to_vec()).unwrap());
                        assert_eq!(head.get("te").unwrap(), "trailers");
                    }
                    Event::Data {
                        stream,
                        data,
                        ended,
                    } => {
                        server.take(stream, data.len());
                        let body = bodies.entry(stream).or_default();
                        body.extend_from_slice(&data);
                        if ended {
                            let (length, body) = (body.len(), body.clone());
                            let write = |out: &mut BytesMut| out.put_slice(&body);
                            server.send_answer(stream, b"\x88", length, write, b"\0\x01a\x01b");
                        }
                    }
                    _ => {}
                }
            }
            let answer = server.output().to_vec();
            server.written(answer.len());
            client.handle_input(&answer).unwrap();
            if said.is_empty() && answer.is_empty() {
                return paths;
            }
        }
    }

    #[test]
    fn calls_large_small_and_too_many_get_their_own_answers() {
        let mut client = Protocol::new("a:1".into(), "/s/m");
        let mut server = ServerConnection::new(LIMITS);
        // The first greeting says how many streams there may be.
        talk(&mut client, &mut server);
        let bodies: Vec<Bytes> = [10, 3_000_000, 0, 70_000, 20]
            .iter()
            .zip(1..)
            .map(|(length, byte)| framed(&vec![byte; *length]))
            .collect();
        for (number, body) in (0..).zip(&bodies) {
            client.call(number, body.clone());
        }
        let paths = talk(&mut client, &mut server);
        assert_eq!(paths, vec!["/s/m"; 5]);
        let mut ended: Vec<_> = client.ended().collect();
        ended.sort_by_key(|(number, _)| *number);
        assert_eq!(ended.len(), 5);
        for ((number, answer), body) in ended.into_iter().zip(&bodies) {
            assert_eq!(answer.unwrap(), body.slice(PREFIX_BYTES..), "call {number}");
        }
    }

    #[test]
    fn a_head_is_the_same_in_words_and_by_numbers() {
        let mut decoder = Decoder::new(TABLE_BYTES as usize);
        let mut decoded = Vec::new();
        for is_known in [Some(false), Some(true), None] {
            let mut block = BytesMut::new();
            put_head(&mut block, is_known, "/p", "a");
            let mut fields = Vec::new();
            let _ = decoder.decode(&block, usize::MAX, &mut fields).unwrap();
            decoded.push(fields);
        }
        assert_eq!(decoded[0], decoded[1]);
        assert_eq!(decoded[0], decoded[2]);
        assert_eq!(decoded[0].len(), 6);
    }

    #[test]
    fn what_is_framed_can_be_unframed() {
        let message = "hello".to_string();
        let body = framed(&message);
        assert_eq!(unframe(body).unwrap(), message.encode_to_vec());
    }

    #[test]
    fn a_body_cut_at_any_byte_is_refused() {
        let body = framed(&"hello".to_string());
        for length in 0..body.len() {
            assert!(
                matches!(unframe(body.slice(..length)), Err(CallError::Refused(_))),
                "cut at {length}"
            );
        }
        assert!(unframe(Bytes::from_static(&[1, 0, 0, 0, 0])).is_err());
    }

    #[test]
    fn a_status_other_than_ok_is_a_refusal() {
        let refused = |fields: &[(&'static str, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| Field {
                name: Bytes::from_static(name.as_bytes()),
                value: Bytes::from_static(value.as_bytes()),
            });
            refusal(&fields.collect::<Vec<_>>())
        };
        assert_eq!(refused(&[(":status", "200"), ("grpc-status", "0")]), None);
        let text = refused(&[
            ("grpc-status", "14"),
            ("grpc-message", "etcdserver: no%20leader%2"),
        ]);
        assert_eq!(text.unwrap(), "etcdserver: no leader%2");
        assert!(
            refused(&[("grpc-status", "14")])
                .unwrap()
                .contains("unavailable")
        );
        assert!(
            refused(&[(":status", "404")])
                .unwrap()
                .starts_with("HTTP status 404")
        );
    }
}
