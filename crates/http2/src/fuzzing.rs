//! What a client may send, for the fuzzer: frames of any kind in any order, or bytes as they are, to a server whose user does all that a
//! user may. What the server sends is held against what a client may expect.

use crate::frame::{
    self, FrameHeader, HEADER_BYTES, MAX_PAYLOAD_BYTES, PREFACE, flag, kind, setting,
};
use crate::hpack::encode;
use crate::{Event, Limits, OUTPUT_BYTES, ServerConnection};
use arbitrary::Unstructured;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::{HashMap, HashSet};

const LIMITS: Limits = Limits {
    streams: 4,
    stream_window_bytes: 20_000,
    connection_window_bytes: 70_000,
    header_list_bytes: 600,
    unanswered_resets: 100,
};

/// What the fuzzer calls. The first byte says whether the rest is bytes as they are, or a script that makes frames of them.
pub fn client_frames(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let mut script = Unstructured::new(rest);
    let mut said = BytesMut::from(&PREFACE[..]);
    frame::put_settings(&mut said, &[]);
    match first % 4 {
        0 => said = BytesMut::from(rest),
        1 => said.put_slice(rest),
        _ => {}
    }
    if first % 4 < 2 {
        pieces_do_not_matter(&said);
    }
    let mut run = Run::default();
    // Nothing of it opens a window that matters: the user answers in scripts only.
    run.hear(&said, said.len());
    while run.is_open && first % 4 >= 2 && run.step(&mut script).is_ok_and(|more| more) {}
}

/// A connection is the same however its bytes come in.
fn pieces_do_not_matter(said: &[u8]) {
    let outcome = |piece_bytes: usize| {
        let mut server = ServerConnection::new(LIMITS);
        let result = said
            .chunks(piece_bytes)
            .try_for_each(|piece| server.handle_input(piece));
        let events: Vec<Event> = std::iter::from_fn(|| server.poll_event()).collect();
        (result, events, server.output().to_vec())
    };
    let whole = outcome(said.len().max(1));
    assert_eq!(outcome(1), whole, "byte for byte");
    assert_eq!(outcome(7), whole, "seven bytes at a time");
}

/// A server with its user, and what its client knows.
struct Run {
    server: ServerConnection,
    is_open: bool,
    /// The client's view: windows that it gave, by stream; 0 is the connection.
    windows: HashMap<u32, i64>,
    initial_window: i64,
    /// Streams on which the server said its last word.
    ended: HashSet<u32>,
    /// Streams on which a head was sent.
    headed: HashSet<u32>,
    /// Streams that the user knows, and bytes of their bodies that it holds.
    open: HashMap<u32, usize>,
}

impl Default for Run {
    fn default() -> Run {
        let initial = i64::from(frame::INITIAL_WINDOW_BYTES);
        Run {
            server: ServerConnection::new(LIMITS),
            is_open: true,
            windows: HashMap::from([(0, initial)]),
            initial_window: initial,
            ended: HashSet::new(),
            headed: HashSet::new(),
            open: HashMap::new(),
        }
    }
}

impl Run {
    /// One thing that happens; false when the script is over.
    fn step(&mut self, script: &mut Unstructured<'_>) -> arbitrary::Result<bool> {
        if script.is_empty() {
            return Ok(false);
        }
        match script.int_in_range(0..=9u8)? {
            0..=5 => self.frame(script)?,
            6 => self.answer(script)?,
            7 => self.take(script)?,
            8 => self.write(script.int_in_range(0..=OUTPUT_BYTES)?),
            _ if script.ratio(1, 8)? => {
                self.server.go_away();
                self.server.end_if_idle();
            }
            _ => self.server.ping(),
        }
        Ok(true)
    }

    /// The client sends a frame, nearly always one that could be right.
    fn frame(&mut self, script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let mut said = BytesMut::new();
        let stream = u32::from(script.arbitrary::<u8>()? % 24);
        let flags = script.arbitrary::<u8>()? & script.arbitrary::<u8>()?;
        match script.int_in_range(0..=7u8)? {
            0 | 1 => {
                let mut block = BytesMut::new();
                for (name, value) in [(":method", "POST"), (":scheme", "http"), (":path", "/p")] {
                    encode::put_literal_into_table(&mut block, name.as_bytes(), value.as_bytes());
                }
                if script.ratio(1, 4)? {
                    block.put_slice(script.bytes(script.len().min(8))?);
                }
                let length = block.len();
                let flags = flag::END_HEADERS | flags & flag::END_STREAM;
                frame::put_header(&mut said, length, kind::HEADERS, flags, stream | 1);
                said.put_slice(&block);
            }
            2 => {
                let length = script.int_in_range(0..=MAX_PAYLOAD_BYTES)?;
                frame::put_header(&mut said, length, kind::DATA, flags & 1, stream);
                said.resize(HEADER_BYTES + length, 7);
            }
            3 => frame::put_window_update(&mut said, stream, script.arbitrary::<u32>()? >> 12),
            4 => {
                let value = u32::from(script.arbitrary::<u16>()?);
                frame::put_settings(&mut said, &[(setting::INITIAL_WINDOW_SIZE, value)]);
            }
            5 => frame::put_reset(&mut said, stream, crate::ErrorCode::CANCEL),
            _ => {
                let length = usize::from(script.arbitrary::<u8>()?).min(script.len());
                let kind = script.arbitrary::<u8>()? % 12;
                frame::put_header(&mut said, length, kind, flags, stream);
                said.put_slice(script.bytes(length)?);
            }
        }
        if said[3] == kind::SETTINGS {
            // What is on its way was made under the settings of before.
            while !self.server.output().is_empty() {
                self.write(usize::MAX);
            }
        }
        if self.server.wants_input() {
            self.hear(&said, 0);
        }
        Ok(())
    }

    /// The server hears bytes, of which those before `known` open no window.
    fn hear(&mut self, said: &[u8], known: usize) {
        self.is_open = self.server.handle_input(said).is_ok();
        if self.is_open {
            self.note_windows(&said[known.min(said.len())..]);
        }
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Request { stream, .. } => {
                    assert!(self.open.insert(stream, 0).is_none(), "a stream twice");
                    self.windows.entry(stream).or_insert(self.initial_window);
                }
                // The user may be done with it while its answer waits.
                Event::Data { stream, data, .. } => {
                    if let Some(held) = self.open.get_mut(&stream) {
                        *held += data.len();
                    }
                }
                Event::Reset { stream } => {
                    self.open.remove(&stream);
                    assert!(self.windows.contains_key(&stream), "it was told");
                }
                Event::Drained { .. } | Event::Pong => {}
            }
        }
        let held: usize = self.open.values().sum();
        assert!(
            self.open.len() <= LIMITS.streams as usize,
            "streams are bounded"
        );
        assert!(
            held <= LIMITS.connection_window_bytes as usize,
            "bodies are bounded"
        );
        if !self.is_open {
            self.write(usize::MAX);
        }
    }

    /// What the client allows by whole frames that the server has taken.
    fn note_windows(&mut self, mut said: &[u8]) {
        while let Some((header, rest)) = said.split_first_chunk() {
            let header = FrameHeader::read(header);
            let Some((payload, rest)) = rest.split_at_checked(header.length) else {
                return;
            };
            said = rest;
            if header.kind == kind::WINDOW_UPDATE {
                let more = frame::number(payload).expect("the server took it") & (u32::MAX >> 1);
                if let Some(window) = self.windows.get_mut(&header.stream) {
                    *window += i64::from(more);
                }
            }
            if header.kind == kind::SETTINGS && !header.has(flag::ACK) {
                for (id, value) in frame::settings(payload).expect("the server took it") {
                    if id == setting::INITIAL_WINDOW_SIZE {
                        let more = i64::from(value) - self.initial_window;
                        self.initial_window += more;
                        let streams = self.windows.iter_mut().filter(|(stream, _)| **stream != 0);
                        streams.for_each(|(_, window)| *window += more);
                    }
                }
            }
        }
    }

    fn some_stream(&self, script: &mut Unstructured<'_>) -> arbitrary::Result<Option<u32>> {
        let mut streams: Vec<u32> = self.open.keys().copied().collect();
        streams.sort_unstable();
        match streams.is_empty() {
            true => Ok(None),
            false => script.choose(&streams).copied().map(Some),
        }
    }

    /// The user says something on a stream.
    fn answer(&mut self, script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let Some(stream) = self.some_stream(script)? else {
            return Ok(());
        };
        let length = usize::from(script.arbitrary::<u16>()?);
        let is_headed = self.headed.contains(&stream);
        match script.int_in_range(0..=4u8)? {
            0 if !is_headed => {
                let write = |out: &mut BytesMut| out.put_bytes(1, length);
                self.server
                    .send_answer(stream, b"\x88", length, write, b"\x89");
            }
            1 if !is_headed => self.server.send_only_head(stream, b"\x88"),
            2 if !is_headed => {
                self.server.send_head(stream, b"\x88");
                self.headed.insert(stream);
                return Ok(());
            }
            3 if is_headed => {
                self.server.send_data(stream, vec![2; length].into());
                return Ok(());
            }
            4 if is_headed && script.arbitrary()? => self.server.send_end_of_data(stream),
            4 if is_headed => self
                .server
                .send_trailers(stream, Bytes::from_static(b"\x89")),
            _ => self.server.reset(stream, crate::ErrorCode::INTERNAL_ERROR),
        }
        self.open.remove(&stream);
        Ok(())
    }

    fn take(&mut self, script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        if let Some(stream) = self.some_stream(script)? {
            let held = self.open.get_mut(&stream).expect("it is open");
            let taken = script.int_in_range(0..=*held)?;
            *held -= taken;
            self.server.take(stream, taken);
        }
        Ok(())
    }

    /// The socket takes so much of the output, which then is what it may be. Frames are looked at as they leave, whole.
    fn write(&mut self, most: usize) {
        let output = Bytes::copy_from_slice(self.server.output());
        let mut taken = 0;
        while let Some((header, rest)) = output[taken..].split_first_chunk::<HEADER_BYTES>() {
            let header = FrameHeader::read(header);
            assert!(header.length <= rest.len(), "whole frames");
            if taken + HEADER_BYTES + header.length > most {
                break;
            }
            taken += HEADER_BYTES + header.length;
            self.expect(header);
        }
        self.server.written(taken);
        let bound = 2 * OUTPUT_BYTES + 4 * (MAX_PAYLOAD_BYTES + 1024);
        assert!(self.server.output().len() <= bound, "output is bounded");
    }

    /// A frame of the server is one that its client may expect.
    fn expect(&mut self, header: FrameHeader) {
        assert!(header.length <= MAX_PAYLOAD_BYTES);
        let is_ended = self.ended.contains(&header.stream);
        if header.kind == kind::DATA {
            assert!(!is_ended, "data after the end");
            for stream in [0, header.stream] {
                let window = self.windows.get_mut(&stream).expect("it was opened");
                *window -= header.length as i64;
                assert!(
                    *window >= 0 || header.length == 0,
                    "more than the window of {stream}"
                );
            }
        }
        if header.kind == kind::HEADERS {
            assert!(!is_ended, "a head after the end");
        }
        let is_end =
            matches!(header.kind, kind::DATA | kind::HEADERS) && header.has(flag::END_STREAM);
        if is_end || header.kind == kind::RST_STREAM {
            self.ended.insert(header.stream);
        }
    }
}

#[cfg(test)]
#[test]
fn what_was_worth_keeping_and_random_changes_of_it() {
    eaves_corpus::replay("client_frames", client_frames);
}
