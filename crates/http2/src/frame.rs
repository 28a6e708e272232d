//! Frames as they are on the wire (RFC 9113, sections 4 and 6). All that is said about their layout is here.

use crate::error::{ConnectionError, ErrorCode};
use bytes::{BufMut, BytesMut};

/// What a client says first, before any frame.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 9;

/// Payload of the largest frame that may be sent before the receiver allows more, which nobody does here.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 10;

/// The window of every stream and connection at the start.
pub const INITIAL_WINDOW_BYTES: u32 = 65_535;

/// No window may be larger.
pub const MAX_WINDOW_BYTES: i64 = (1 << 31) - 1;

/// What a frame is. Others are skipped, as the RFC demands.
#[allow(missing_docs)]
pub mod kind {
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const PRIORITY: u8 = 0x2;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PUSH_PROMISE: u8 = 0x5;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const CONTINUATION: u8 = 0x9;
}

/// Flags of frames.
#[allow(missing_docs)]
pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings (section 6.5.2).
#[allow(missing_docs)]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 0x1;
    pub const ENABLE_PUSH: u16 = 0x2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub const MAX_FRAME_SIZE: u16 = 0x5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the payload.
    pub length: usize,
    /// One of [`kind`], or another.
    pub kind: u8,
    /// Of [`flag`], by kind.
    pub flags: u8,
    /// 0 is the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// Of the first bytes of a frame.
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> FrameHeader {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        FrameHeader {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            // The first bit means nothing.
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
        }
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Begins a frame; `length` bytes of payload must follow.
pub fn put_header(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    debug_assert!(length <= MAX_PAYLOAD_BYTES);
    out.put_uint(length as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
}

/// SETTINGS with these values.
pub fn put_settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    put_header(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (id, value) in settings {
        out.put_u16(*id);
        out.put_u32(*value);
    }
}

/// The answer to SETTINGS.
pub fn put_settings_ack(out: &mut BytesMut) {
    put_header(out, 0, kind::SETTINGS, flag::ACK, 0);
}

/// PING, or the answer to one.
pub fn put_ping(out: &mut BytesMut, payload: [u8; 8], ack: bool) {
    let flags = if ack { flag::ACK } else { 0 };
    put_header(out, 8, kind::PING, flags, 0);
    out.put_slice(&payload);
}

/// RST_STREAM.
pub fn put_reset(out: &mut BytesMut, stream: u32, code: ErrorCode) {
    put_header(out, 4, kind::RST_STREAM, 0, stream);
    out.put_u32(code.0);
}

/// GOAWAY: streams after `last_stream` were and will be ignored.
pub fn put_go_away(out: &mut BytesMut, last_stream: u32, code: ErrorCode, text: &str) {
    put_header(out, 8 + text.len(), kind::GOAWAY, 0, 0);
    out.put_u32(last_stream);
    out.put_u32(code.0);
    out.put_slice(text.as_bytes());
}

/// WINDOW_UPDATE of a stream, or of the connection (0).
pub fn put_window_update(out: &mut BytesMut, stream: u32, bytes: u32) {
    put_header(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.put_u32(bytes);
}

/// A header block in as many frames as it takes.
pub fn put_headers(out: &mut BytesMut, stream: u32, block: &[u8], end_stream: bool) {
    let end_stream = if end_stream { flag::END_STREAM } else { 0 };
    let (first, mut rest) = block.split_at(block.len().min(MAX_PAYLOAD_BYTES));
    let end = |rest: &[u8]| {
        if rest.is_empty() {
            flag::END_HEADERS
        } else {
            0
        }
    };
    put_header(
        out,
        first.len(),
        kind::HEADERS,
        end_stream | end(rest),
        stream,
    );
    out.put_slice(first);
    while !rest.is_empty() {
        let (next, after) = rest.split_at(rest.len().min(MAX_PAYLOAD_BYTES));
        put_header(out, next.len(), kind::CONTINUATION, end(after), stream);
        out.put_slice(next);
        rest = after;
    }
}

/// The settings in a payload.
pub fn settings(payload: &[u8]) -> Result<impl Iterator<Item = (u16, u32)>, ConnectionError> {
    if !payload.len().is_multiple_of(6) {
        return Err(ConnectionError::frame_size("settings of no whole number"));
    }
    let (settings, _) = payload.as_chunks();
    Ok(settings.iter().map(|[a, b, value @ ..]: &[u8; 6]| {
        (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))
    }))
}

/// What is in a payload beside its padding (section 6.1), and beside the priority that HEADERS may begin with.
pub fn unpadded<'a>(header: &FrameHeader, payload: &'a [u8]) -> Result<&'a [u8], ConnectionError> {
    let mut rest = payload;
    let mut padding = 0;
    if header.has(flag::PADDED) {
        let Some((length, after)) = rest.split_first() else {
            return Err(ConnectionError::frame_size(
                "a padded frame without a length of it",
            ));
        };
        (padding, rest) = (usize::from(*length), after);
    }
    if header.kind == kind::HEADERS && header.has(flag::PRIORITY) {
        rest = rest
            .get(5..)
            .ok_or(ConnectionError::frame_size("a priority that is cut off"))?;
    }
    let length = rest
        .len()
        .checked_sub(padding)
        .ok_or(ConnectionError::protocol("more padding than frame"))?;
    Ok(&rest[..length])
}

/// Four bytes, as RST_STREAM and WINDOW_UPDATE have.
pub fn number(payload: &[u8]) -> Result<u32, ConnectionError> {
    let bytes = payload
        .try_into()
        .map_err(|_| ConnectionError::frame_size("a frame that must have four bytes has not"))?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut out = BytesMut::new();
        put_header(&mut out, 16_384, kind::DATA, flag::END_STREAM, 0x7fff_ffff);
        let header = FrameHeader::read(out[..].try_into().unwrap());
        let written = FrameHeader {
            length: 16_384,
            kind: kind::DATA,
            flags: 1,
            stream: 0x7fff_ffff,
        };
        assert_eq!(header, written);
        out[5] |= 0x80;
        assert_eq!(FrameHeader::read(out[..].try_into().unwrap()), written);
    }

    #[test]
    fn a_long_header_block_takes_several_frames() {
        let mut out = BytesMut::new();
        put_headers(&mut out, 1, &vec![7; 2 * MAX_PAYLOAD_BYTES + 1], true);
        let mut seen = Vec::new();
        while !out.is_empty() {
            let header = FrameHeader::read(out[..HEADER_BYTES].try_into().unwrap());
            let _ = out.split_to(HEADER_BYTES + header.length);
            seen.push((header.kind, header.flags, header.length));
        }
        let full = MAX_PAYLOAD_BYTES;
        assert_eq!(seen, [(1, 1, full), (9, 0, full), (9, 4, 1)]);
    }

    #[test]
    fn padding_is_taken_off_and_must_be_there() {
        let header = |kind, flags| FrameHeader {
            length: 0,
            kind,
            flags,
            stream: 1,
        };
        let padded = header(kind::DATA, flag::PADDED);
        assert_eq!(unpadded(&padded, &[2, 9, 0, 0]), Ok(&[9][..]));
        assert_eq!(unpadded(&padded, &[3, 0, 0, 0]), Ok(&[][..]));
        assert!(unpadded(&padded, &[4, 0, 0, 0]).is_err());
        assert!(unpadded(&padded, &[]).is_err());
        let both = header(kind::HEADERS, flag::PADDED | flag::PRIORITY);
        assert_eq!(unpadded(&both, &[1, 0, 0, 0, 0, 0, 5, 0]), Ok(&[5][..]));
        assert!(unpadded(&both, &[1, 0, 0, 0, 0, 0]).is_err());
        assert!(unpadded(&both, &[0, 0, 0]).is_err());
    }
}
