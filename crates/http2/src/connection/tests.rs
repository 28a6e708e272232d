//! The connection against frames written by hand: what it answers, what it tells its user, and what it refuses.

use super::*;
use crate::frame::{flag, kind};
use crate::hpack::encode;
use bytes::BufMut;

const LIMITS: Limits = Limits {
    streams: 2,
    stream_window_bytes: 100_000,
    connection_window_bytes: 100_000,
    header_list_bytes: 1_000,
    unanswered_resets: 10,
};

/// A client that writes whatever it likes.
struct Client {
    server: ServerConnection,
}

/// A frame that the server sent.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Bytes,
}

impl Client {
    /// After the greetings of both sides.
    fn new() -> Client {
        let mut client = Client {
            server: ServerConnection::new(LIMITS),
        };
        client.server.handle_input(PREFACE).unwrap();
        client.send(kind::SETTINGS, 0, 0, &[]);
        client.sent();
        client
    }

    fn try_send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let mut bytes = BytesMut::new();
        frame::put_header(&mut bytes, payload.len(), kind, flags, stream);
        bytes.put_slice(payload);
        self.server.handle_input(&bytes)
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.try_send(kind, flags, stream, payload).unwrap();
    }

    /// The code with which the connection ends.
    fn fails(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> ErrorCode {
        let error = self.try_send(kind, flags, stream, payload).unwrap_err();
        let last = self.sent().pop().unwrap();
        assert_eq!(last.kind, kind::GOAWAY);
        assert_eq!(last.payload[4..8], error.code.0.to_be_bytes());
        assert_eq!(self.server.handle_input(b"more"), Err(error));
        error.code
    }

    fn request(&mut self, stream: u32, flags: u8) {
        self.send(kind::HEADERS, flags | flag::END_HEADERS, stream, &head(&[]));
    }

    /// All frames since the last time, to the end.
    fn sent(&mut self) -> Vec<Sent> {
        let mut bytes = BytesMut::new();
        while !self.server.output().is_empty() {
            bytes.put_slice(self.server.output());
            self.server.written(self.server.output().len());
        }
        let mut bytes = bytes.freeze();
        let mut sent = Vec::new();
        while !bytes.is_empty() {
            let header = FrameHeader::read(bytes[..HEADER_BYTES].try_into().unwrap());
            let mut payload = bytes.split_to(HEADER_BYTES + header.length);
            sent.push(Sent {
                kind: header.kind,
                flags: header.flags,
                stream: header.stream,
                payload: payload.split_off(HEADER_BYTES),
            });
        }
        sent
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.server.poll_event()).collect()
    }

    /// The stream was reset with this code, and nothing else was sent.
    fn is_reset(&mut self, stream: u32, code: ErrorCode) {
        let payload = Bytes::copy_from_slice(&code.0.to_be_bytes());
        assert_eq!(self.sent(), [sent(kind::RST_STREAM, 0, stream, payload)]);
    }
}

fn sent(kind: u8, flags: u8, stream: u32, payload: impl Into<Bytes>) -> Sent {
    Sent {
        kind,
        flags,
        stream,
        payload: payload.into(),
    }
}

fn head(more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = BytesMut::new();
    let whole = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b")];
    for (name, value) in whole.iter().chain(more) {
        encode::put_literal(&mut block, name.as_bytes(), value.as_bytes());
    }
    block.to_vec()
}

fn data(stream: u32, data: &'static [u8], ended: bool) -> Event {
    Event::Data {
        stream,
        data: Bytes::from_static(data),
        ended,
    }
}

const END: u8 = flag::END_STREAM;

#[test]
fn a_call_and_its_answer() {
    let mut client = Client::new();
    client.request(1, 0);
    client.send(kind::DATA, END, 1, b"question");
    let events = client.events();
    let Event::Request { head, ended, .. } = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!((&head.path[..], *ended), (&b"/a/b"[..], false));
    assert_eq!(events[1..], [data(1, b"question", true)]);
    client
        .server
        .send_answer(1, b"h", 3, |out| out.put_slice(b"yes"), b"t");
    let answer = [
        sent(kind::HEADERS, flag::END_HEADERS, 1, &b"h"[..]),
        sent(kind::DATA, 0, 1, &b"yes"[..]),
        sent(kind::HEADERS, flag::END_HEADERS | END, 1, &b"t"[..]),
    ];
    assert_eq!(client.sent(), answer);
    assert_eq!(client.server.open_streams(), 0);
}

#[test]
fn input_may_be_cut_anywhere() {
    let mut whole = BytesMut::from(&PREFACE[..]);
    frame::put_settings(&mut whole, &[(setting::INITIAL_WINDOW_SIZE, 10)]);
    frame::put_headers(&mut whole, 1, &head(&[]), false);
    frame::put_header(&mut whole, 5, kind::DATA, END, 1);
    whole.put_slice(b"hello");
    frame::put_ping(&mut whole, *b"12345678", false);
    let outcome = |pieces: &[&[u8]]| {
        let mut server = ServerConnection::new(LIMITS);
        for piece in pieces {
            server.handle_input(piece).unwrap();
        }
        let mut client = Client { server };
        (client.events(), client.sent())
    };
    let expected = outcome(&[&whole]);
    assert_eq!(expected.0.len(), 2);
    for cut in 0..=whole.len() {
        let (a, b) = whole.split_at(cut);
        assert_eq!(outcome(&[a, b]), expected, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    assert_eq!(outcome(&bytes), expected);
}

#[test]
fn an_answer_larger_than_the_windows_waits_for_them() {
    let mut client = Client::new();
    client.request(1, END);
    client.server.send_head(1, b"h");
    let waiting = client.server.send_data(1, vec![7; 100_000].into());
    assert!(waiting >= 100_000 - 65_535);
    client.server.send_trailers(1, Bytes::from_static(b"t"));
    let bytes = |sent: &[Sent]| -> usize {
        let data = sent.iter().filter(|sent| sent.kind == kind::DATA);
        data.map(|sent| sent.payload.len()).sum()
    };
    let first = client.sent();
    assert_eq!(bytes(&first), 65_535);
    assert!(client.events().len() == 1, "the request");
    // The connection's window alone does not help.
    client.send(kind::WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes());
    assert_eq!(bytes(&client.sent()), 0);
    client.send(kind::WINDOW_UPDATE, 0, 1, &30_000_u32.to_be_bytes());
    assert_eq!(bytes(&client.sent()), 30_000);
    client.send(kind::WINDOW_UPDATE, 0, 1, &30_000_u32.to_be_bytes());
    let last = client.sent();
    assert_eq!(bytes(&last), 100_000 - 95_535);
    assert_eq!(last.last().unwrap().flags, flag::END_HEADERS | END);
    assert_eq!(client.events(), [Event::Drained { stream: 1 }]);
    assert_eq!(client.server.open_streams(), 0);
}

#[test]
fn streams_that_wait_for_the_connections_window_take_turns() {
    let mut client = Client::new();
    let large = [(setting::INITIAL_WINDOW_SIZE, 1 << 20)];
    let mut settings = BytesMut::new();
    frame::put_settings(&mut settings, &large);
    client.server.handle_input(&settings).unwrap();
    client.request(1, END);
    client.request(3, END);
    client.server.send_data(1, vec![1; 200_000].into());
    client.server.send_data(3, vec![3; 200_000].into());
    client.sent();
    client.send(kind::WINDOW_UPDATE, 0, 0, &64_000_u32.to_be_bytes());
    let streams: Vec<u32> = client.sent().iter().map(|sent| sent.stream).collect();
    assert!(streams.contains(&1) && streams.contains(&3), "{streams:?}");
}

#[test]
fn a_smaller_initial_window_may_leave_a_stream_less_than_nothing() {
    let mut client = Client::new();
    client.request(1, END);
    client.server.send_data(1, vec![1; 1_000].into());
    client.sent();
    let mut settings = BytesMut::new();
    frame::put_settings(&mut settings, &[(setting::INITIAL_WINDOW_SIZE, 500)]);
    client.server.handle_input(&settings).unwrap();
    assert_eq!(client.server.send_data(1, vec![1; 10].into()), 10);
    client.send(kind::WINDOW_UPDATE, 0, 1, &500_u32.to_be_bytes());
    assert_eq!(client.server.waiting_bytes(1), 10, "-500 and 500 are 0");
    client.send(kind::WINDOW_UPDATE, 0, 1, &9_u32.to_be_bytes());
    assert_eq!(client.server.waiting_bytes(1), 1);
}

#[test]
fn a_stream_that_could_send_and_whose_window_was_made_smaller_waits() {
    let mut client = Client::new();
    let window = |bytes: u32| {
        let mut settings = BytesMut::new();
        frame::put_settings(&mut settings, &[(setting::INITIAL_WINDOW_SIZE, bytes)]);
        settings
    };
    client.server.handle_input(&window(1 << 20)).unwrap();
    client.request(1, END);
    client.server.send_data(1, vec![1; 100_000].into());
    client.sent();
    // Until now the connection's window was in the way.
    client.server.handle_input(&window(0)).unwrap();
    client.send(kind::WINDOW_UPDATE, 0, 0, &1_000_u32.to_be_bytes());
    let data = |sent: &[Sent]| sent.iter().filter(|sent| sent.kind == kind::DATA).count();
    assert_eq!(data(&client.sent()), 0, "data went beyond the window");
    client.server.handle_input(&window(1 << 20)).unwrap();
    assert_eq!(data(&client.sent()), 1);
}

#[test]
fn a_client_that_takes_its_data_slowly_is_heard() {
    let mut client = Client::new();
    client.request(1, END);
    client.server.send_data(1, vec![1; 60_000].into());
    assert!(client.server.output().len() < 60_000);
    while client.server.waiting_bytes(1) > 0 {
        assert!(client.server.wants_input());
        client.server.written(1_000);
    }
}

#[test]
fn a_smaller_table_of_header_fields_is_acknowledged_once() {
    let mut client = Client::new();
    let mut settings = BytesMut::new();
    frame::put_settings(&mut settings, &[(setting::HEADER_TABLE_SIZE, 100)]);
    client.server.handle_input(&settings).unwrap();
    client.request(1, END);
    client.request(3, END);
    client.sent();
    client.server.send_only_head(1, b"h");
    client.server.send_only_head(3, b"h");
    let blocks: Vec<Bytes> = client.sent().into_iter().map(|sent| sent.payload).collect();
    assert_eq!(blocks, [&b"\x20h"[..], b"h"]);
}

#[test]
fn a_body_larger_than_the_windows_comes_as_it_is_taken() {
    let mut client = Client::new();
    client.request(1, 0);
    for _ in 0..6 {
        client.send(kind::DATA, 0, 1, &[0; 16_000]);
    }
    assert_eq!(client.sent(), []);
    client.server.take(1, 40_000);
    assert_eq!(client.sent(), [], "less than half a window");
    client.server.take(1, 10_000);
    let room = Bytes::copy_from_slice(&50_000_u32.to_be_bytes());
    let both = [1, 0].map(|stream| sent(kind::WINDOW_UPDATE, 0, stream, room.clone()));
    assert_eq!(client.sent(), both);
    client.send(kind::DATA, 0, 1, &[0; 16_000]);
}

#[test]
fn who_sends_more_than_the_window_is_stopped() {
    let mut client = Client::new();
    client.request(1, 0);
    for _ in 0..6 {
        client.send(kind::DATA, 0, 1, &[0; 16_384]);
    }
    let code = client.fails(kind::DATA, 0, 1, &[0; 16_384]);
    assert_eq!(code, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn what_was_not_taken_of_a_stream_that_is_gone_is_room_again() {
    let mut client = Client::new();
    for stream in [1, 3, 5, 7, 9] {
        client.request(stream, 0);
        for _ in 0..3 {
            client.send(kind::DATA, 0, stream, &[0; 16_384]);
        }
        client.send(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }
    let updates = client.sent().len();
    assert_eq!(updates, 2, "each time two streams make half a window");
}

#[test]
fn padding_is_room_again_at_once() {
    let mut client = Client::new();
    client.request(1, 0);
    let mut padded = vec![255];
    padded.extend([0; 255]);
    for _ in 0..1_000 {
        client.send(
            kind::DATA,
            flag::PADDED,
            1,
            &[&padded[..1], b"x", &padded[1..]].concat(),
        );
        client.server.take(1, 1);
    }
}

#[test]
fn a_stream_too_many_is_refused_and_those_before_go_on() {
    let mut client = Client::new();
    client.request(1, 0);
    client.request(3, 0);
    client.request(5, 0);
    client.is_reset(5, ErrorCode::REFUSED_STREAM);
    // Its trailers were on their way.
    client.request(5, END);
    client.is_reset(5, ErrorCode::STREAM_CLOSED);
    client.events();
    client.send(kind::DATA, END, 3, b"x");
    assert_eq!(client.events(), [data(3, b"x", true)]);
    client.server.send_only_head(3, b"h");
    client.sent();
    client.request(7, END);
    assert_eq!(client.sent(), []);
}

#[test]
fn a_head_that_is_too_large_is_answered_so() {
    let mut client = Client::new();
    let large = "x".repeat(1_000);
    let block = head(&[("large", &large)]);
    client.send(kind::HEADERS, flag::END_HEADERS | END, 1, &block);
    let answer = client.sent();
    assert_eq!(answer[0].flags, flag::END_HEADERS | END);
    assert!(answer[0].payload.ends_with(b"431"), "{answer:?}");
    assert_eq!((client.events(), client.server.open_streams()), (vec![], 0));
}

#[test]
fn a_header_block_in_pieces_is_one_and_has_an_end() {
    let mut client = Client::new();
    let block = head(&[]);
    client.send(kind::HEADERS, END, 1, &block[..3]);
    client.send(kind::CONTINUATION, 0, 1, &block[3..10]);
    client.send(kind::CONTINUATION, flag::END_HEADERS, 1, &block[10..]);
    assert_eq!(client.events().len(), 1);
    client.send(kind::HEADERS, 0, 3, &[]);
    let mut result = Ok(());
    for _ in 0..3 {
        result = result.and(client.try_send(kind::CONTINUATION, 0, 3, &[0; 999]));
    }
    assert_eq!(result.unwrap_err().code, ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn nothing_may_stand_within_a_header_block() {
    for (kind, stream) in [(kind::DATA, 1), (kind::PING, 0), (kind::CONTINUATION, 3)] {
        let mut client = Client::new();
        client.send(kind::HEADERS, 0, 1, &[]);
        assert_eq!(
            client.fails(kind, 0, stream, &[0; 8]),
            ErrorCode::PROTOCOL_ERROR
        );
    }
    let mut client = Client::new();
    let code = client.fails(kind::CONTINUATION, flag::END_HEADERS, 1, &[]);
    assert_eq!(code, ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn trailers_end_a_request() {
    let mut client = Client::new();
    client.request(1, 0);
    client.send(kind::DATA, 0, 1, b"x");
    let mut trailers = BytesMut::new();
    encode::put_literal(&mut trailers, b"checksum", b"5");
    client.send(kind::HEADERS, flag::END_HEADERS | END, 1, &trailers);
    let events = client.events();
    assert_eq!(events[1..], [data(1, b"x", false), data(1, b"", true)]);
    // Trailers that do not end, and pseudo-fields in them.
    for (flags, name) in [(0, "a"), (END, ":path")] {
        let mut client = Client::new();
        client.request(1, 0);
        let mut trailers = BytesMut::new();
        encode::put_literal(&mut trailers, name.as_bytes(), b"x");
        client.send(kind::HEADERS, flag::END_HEADERS | flags, 1, &trailers);
        client.is_reset(1, ErrorCode::PROTOCOL_ERROR);
        assert_eq!(client.events()[1..], [Event::Reset { stream: 1 }]);
    }
}

#[test]
fn a_body_must_have_the_length_that_its_head_promises() {
    for (bytes, ended, is_right) in [
        (&b"12345"[..], true, true),
        (b"1234", true, false),
        (b"123456", false, false),
        (b"1234", false, true),
    ] {
        let mut client = Client::new();
        let block = head(&[("content-length", "5")]);
        client.send(kind::HEADERS, flag::END_HEADERS, 1, &block);
        client.send(kind::DATA, if ended { END } else { 0 }, 1, bytes);
        assert_eq!(client.server.open_streams() == 1, is_right, "{bytes:?}");
    }
    let mut client = Client::new();
    let block = head(&[("content-length", "5")]);
    client.send(kind::HEADERS, flag::END_HEADERS | END, 1, &block);
    client.is_reset(1, ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn who_gives_up_is_forgotten() {
    let mut client = Client::new();
    client.request(1, END);
    client.server.send_data(1, vec![0; 100_000].into());
    client.sent();
    client.send(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    assert_eq!(client.events()[1..], [Event::Reset { stream: 1 }]);
    assert_eq!(client.server.send_data(1, Bytes::from_static(b"x")), 0);
    client
        .server
        .send_answer(1, b"h", 1, |_| unreachable!(), b"t");
    client.server.send_trailers(1, Bytes::new());
    client.send(kind::WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes());
    assert_eq!(client.sent(), []);
    // Frames that were under way are no offence.
    client.send(kind::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
    client.send(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    client.send(kind::DATA, 0, 1, b"x");
    client.is_reset(1, ErrorCode::STREAM_CLOSED);
}

#[test]
fn an_answer_before_the_request_has_ended_says_that_the_rest_is_not_wanted() {
    let mut client = Client::new();
    client.request(1, 0);
    client.server.send_only_head(1, b"h");
    let sent = client.sent();
    assert_eq!(
        (sent[0].kind, sent[1].kind),
        (kind::HEADERS, kind::RST_STREAM)
    );
    assert_eq!(sent[1].payload[..], [0; 4]);
}

#[test]
fn pings_are_answered_and_ours_are_heard() {
    let mut client = Client::new();
    client.send(kind::PING, 0, 0, b"12345678");
    assert_eq!(
        client.sent(),
        [sent(kind::PING, flag::ACK, 0, &b"12345678"[..])]
    );
    client.server.ping();
    assert_eq!(client.sent()[0].kind, kind::PING);
    client.send(kind::PING, flag::ACK, 0, &[0; 8]);
    assert_eq!(client.events(), [Event::Pong]);
}

#[test]
fn who_asks_and_does_not_listen_is_not_heard() {
    let mut client = Client::new();
    let mut pings = 0;
    while client.server.wants_input() {
        client.send(kind::PING, 0, 0, &[0; 8]);
        pings += 1;
    }
    assert_eq!(pings, OUTPUT_BYTES.div_ceil(17));
    client.sent();
    assert!(client.server.wants_input());
}

#[test]
fn leaving_lets_what_is_open_and_what_is_on_its_way_end() {
    let mut client = Client::new();
    client.request(1, END);
    client.server.go_away();
    client.server.go_away();
    let told = client.sent();
    assert_eq!((told.len(), told[0].kind), (1, kind::GOAWAY));
    // It was on its way.
    client.request(3, END);
    client.events();
    client.server.send_only_head(1, b"h");
    client.server.end_if_idle();
    client.sent();
    assert!(!client.server.is_over());
    client.server.send_only_head(3, b"h");
    client.server.end_if_idle();
    assert!(!client.server.is_over(), "it is not written");
    let last = client.sent().pop().unwrap();
    assert_eq!(
        (last.kind, &last.payload[..4]),
        (kind::GOAWAY, &3_u32.to_be_bytes()[..])
    );
    assert!(client.server.is_over());
    client.request(5, END);
    client.is_reset(5, ErrorCode::REFUSED_STREAM);
}

#[test]
fn what_ends_a_connection() {
    let setting = |id: u16, value: u32| {
        let mut setting = id.to_be_bytes().to_vec();
        setting.extend(value.to_be_bytes());
        setting
    };
    let push = setting(setting::ENABLE_PUSH, 2);
    let frame_size = setting(setting::MAX_FRAME_SIZE, 16_383);
    let window = setting(setting::INITIAL_WINDOW_SIZE, 1 << 31);
    let most = ((1_u32 << 31) - 1).to_be_bytes();
    let (protocol, size) = (ErrorCode::PROTOCOL_ERROR, ErrorCode::FRAME_SIZE_ERROR);
    let flow = ErrorCode::FLOW_CONTROL_ERROR;
    let heads = flag::END_HEADERS;
    for (kind, flags, stream, payload, code) in [
        (kind::DATA, 0, 0, &b"x"[..], protocol),
        (kind::DATA, 0, 7, b"x", protocol),
        (kind::DATA, flag::PADDED, 1, &[9, 0], protocol),
        (kind::HEADERS, heads, 2, &[], protocol),
        (kind::HEADERS, heads, 0, &[], protocol),
        (
            kind::HEADERS,
            heads,
            3,
            &[0xff],
            ErrorCode::COMPRESSION_ERROR,
        ),
        (kind::PRIORITY, 0, 0, &[0; 5], protocol),
        (kind::PRIORITY, 0, 1, &[0; 4], size),
        (kind::RST_STREAM, 0, 0, &[0; 4], protocol),
        (kind::RST_STREAM, 0, 7, &[0; 4], protocol),
        (kind::RST_STREAM, 0, 1, &[0; 3], size),
        (kind::SETTINGS, 0, 1, &[], protocol),
        (kind::SETTINGS, 0, 0, &[0; 5], size),
        (kind::SETTINGS, flag::ACK, 0, &[0; 6], size),
        (kind::SETTINGS, 0, 0, &push, protocol),
        (kind::SETTINGS, 0, 0, &frame_size, protocol),
        (kind::SETTINGS, 0, 0, &window, flow),
        (kind::PUSH_PROMISE, heads, 1, &[0; 4], protocol),
        (kind::PING, 0, 1, &[0; 8], protocol),
        (kind::PING, 0, 0, &[0; 7], size),
        (kind::GOAWAY, 0, 1, &[0; 8], protocol),
        (kind::WINDOW_UPDATE, 0, 0, &[0; 4], protocol),
        (kind::WINDOW_UPDATE, 0, 7, &[0, 0, 0, 1], protocol),
        (kind::WINDOW_UPDATE, 0, 0, &[0; 5], size),
        (kind::WINDOW_UPDATE, 0, 0, &most, flow),
    ] {
        let mut client = Client::new();
        client.request(1, 0);
        assert_eq!(
            client.fails(kind, flags, stream, payload),
            code,
            "{kind} {payload:?}"
        );
    }
    let mut client = Client::new();
    client.request(5, END);
    let code = client.fails(kind::HEADERS, heads, 3, &head(&[]));
    assert_eq!(code, protocol, "numbers grow");
    let mut client = Client::new();
    client.request(1, END);
    client.server.send_only_head(1, b"h");
    client.sent();
    let code = client.fails(kind::HEADERS, heads | END, 1, &head(&[]));
    assert_eq!(
        code,
        ErrorCode::STREAM_CLOSED,
        "the client itself had ended it"
    );
}

#[test]
fn what_ends_a_stream_and_nothing_more() {
    let most = ((1_u32 << 31) - 1).to_be_bytes();
    for (kind, payload, code) in [
        (kind::WINDOW_UPDATE, &[0; 4][..], ErrorCode::PROTOCOL_ERROR),
        (kind::WINDOW_UPDATE, &most, ErrorCode::FLOW_CONTROL_ERROR),
        (kind::DATA, b"x", ErrorCode::STREAM_CLOSED),
    ] {
        let mut client = Client::new();
        client.request(1, END);
        client.send(kind, 0, 1, payload);
        client.is_reset(1, code);
        assert_eq!(client.events()[1..], [Event::Reset { stream: 1 }]);
    }
    let mut client = Client::new();
    client.request(1, 0);
    client.server.send_only_head(1, b"h");
    client.sent();
    // The trailers were under way.
    client.request(1, END);
    client.is_reset(1, ErrorCode::STREAM_CLOSED);
    let mut client = Client::new();
    client.send(
        kind::HEADERS,
        flag::END_HEADERS | END,
        1,
        &head(&[("Bad", "x")]),
    );
    client.is_reset(1, ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn what_is_no_http2_is_refused_at_its_first_byte() {
    let mut server = ServerConnection::new(LIMITS);
    assert!(server.handle_input(b"PRI * HTTP/1").is_err());
    let mut server = ServerConnection::new(LIMITS);
    server.handle_input(b"PRI * HTTP/").unwrap();
    assert!(
        server.handle_input(b"1").is_err(),
        "not only when 24 bytes are there"
    );
    let mut server = ServerConnection::new(LIMITS);
    server.handle_input(PREFACE).unwrap();
    let mut client = Client { server };
    client.sent();
    assert_eq!(
        client.fails(kind::PING, 0, 0, &[0; 8]),
        ErrorCode::PROTOCOL_ERROR
    );
    let mut client = Client::new();
    let error = client.server.handle_input(&[0, 0x40, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(error.unwrap_err().code, ErrorCode::FRAME_SIZE_ERROR);
}

#[test]
fn empty_frames_without_end_are_enough_at_some_time() {
    let mut client = Client::new();
    client.request(1, 0);
    let mut result = Ok(());
    for _ in 0..101 {
        result = result.and(client.try_send(kind::DATA, 0, 1, &[]));
    }
    assert_eq!(result.unwrap_err().code, ErrorCode::ENHANCE_YOUR_CALM);
}

/// Opens the next stream, and does what ends it.
fn give_up(client: &mut Client, end: impl Fn(&mut Client, u32) -> Result<(), ConnectionError>) {
    let stream = (client.server.last_stream + 1) | 1;
    client.request(stream, END);
    end(client, stream).unwrap();
    client.sent();
    assert_eq!(client.server.open_streams(), 0);
}

fn cancel(client: &mut Client, stream: u32) -> Result<(), ConnectionError> {
    let code = ErrorCode::CANCEL.0.to_be_bytes();
    client.try_send(kind::RST_STREAM, 0, stream, &code)
}

#[test]
fn requests_given_up_before_they_are_answered_are_enough_at_some_time() {
    let wrong = |client: &mut Client, stream| client.try_send(kind::DATA, 0, stream, b"x");
    for end in [cancel, wrong] {
        let mut client = Client::new();
        for _ in 0..LIMITS.unanswered_resets {
            give_up(&mut client, end);
        }
        client.request(99, END);
        let error = end(&mut client, 99).unwrap_err();
        assert_eq!(error.code, ErrorCode::ENHANCE_YOUR_CALM);
        let last = client.sent().pop().unwrap();
        assert_eq!((last.kind, last.stream), (kind::GOAWAY, 0));
        assert_eq!(last.payload[..4], 99_u32.to_be_bytes());
    }
}

#[test]
fn who_gives_up_what_was_answered_or_has_others_answered_goes_on() {
    let mut client = Client::new();
    for _ in 0..100 {
        // Watches that end.
        give_up(&mut client, |client, stream| {
            client.server.send_head(stream, b"h");
            cancel(client, stream)
        });
    }
    for _ in 0..100 {
        give_up(&mut client, cancel);
        give_up(&mut client, |client, stream| {
            client.server.send_only_head(stream, b"h");
            Ok(())
        });
        give_up(&mut client, cancel);
        give_up(&mut client, |client, stream| {
            let write = |out: &mut BytesMut| out.put_slice(b"yes");
            client.server.send_answer(stream, b"h", 3, write, b"t");
            Ok(())
        });
    }
    for _ in 0..10 {
        for _ in 0..LIMITS.unanswered_resets {
            give_up(&mut client, cancel);
        }
        client.server.forgive_resets();
    }
}

#[test]
fn windows_that_change_without_end_are_enough_at_some_time() {
    let mut client = Client::new();
    let mut result = Ok(());
    for bytes in 0..101 {
        let mut settings = BytesMut::new();
        frame::put_settings(&mut settings, &[(setting::INITIAL_WINDOW_SIZE, bytes)]);
        result = result.and(client.server.handle_input(&settings));
    }
    assert_eq!(result.unwrap_err().code, ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn frames_of_kinds_that_nobody_knows_are_skipped() {
    let mut client = Client::new();
    client.send(0xbb, 0xff, 0, b"whatever");
    client.send(0xbb, 0xff, 9, b"whatever");
    assert_eq!((client.sent(), client.events()), (vec![], vec![]));
}
