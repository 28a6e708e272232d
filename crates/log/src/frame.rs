//! An entry of the log as bytes: encoded once by the leader, then only copied by reference.
//!
//! The same bytes are cached, written to disk, sent to followers and passed down the tree. No hop encodes an entry again, and each
//! one verifies its checksum.
//!
//! ```text
//!  0        4        8                16               24   25      28
//! ┌────────┬────────┬────────────────┬────────────────┬────┬───────┬─────────┐
//! │ length │ crc32c │ term           │ index          │kind│ 0 0 0 │ payload │   little endian
//! └────────┴────────┴────────────────┴────────────────┴────┴───────┴─────────┘
//!                   └─────────────── length bytes, under the crc ─────────────┘
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;

/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 28;

/// The part of the header that `length` does not count: itself and the checksum.
const FRAME_HEAD_BYTES: usize = 8;

/// The longest frame: a client request is bounded by 1.5 MiB (etcd's `--max-request-bytes`), membership and bookkeeping are small;
/// the rest is room for a user of the library with larger commands. A length above it is garbage.
pub const MAX_FRAME_BYTES: usize = 8 << 20;

/// The longest payload of a frame.
pub const MAX_PAYLOAD_BYTES: usize = MAX_FRAME_BYTES - FRAME_HEADER_BYTES;

/// The greatest index an entry may have, so that there is a number for the one after it. No log comes near it.
pub const MAX_INDEX: u64 = u64::MAX - 1;

/// The place of an entry in the replicated log. Ordered by term, then index, as Raft compares logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Raft term in which the entry was proposed.
    pub term: u64,
    /// Position in the log. The first entry has index 0.
    pub index: u64,
}

impl LogId {
    /// The entry `index` of `term`.
    pub fn new(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}-N{}", self.term, self.index)
    }
}

/// What an entry is for. The log carries it, and does not care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A new leader's first entry, without a payload.
    Blank = 0,
    /// A command for the state machine.
    Normal = 1,
    /// A change of the group's membership.
    Membership = 2,
}

impl Kind {
    /// The kind with this number, or `None` for a number that this version does not know.
    pub fn from_u8(number: u8) -> Option<Kind> {
        match number {
            0 => Some(Kind::Blank),
            1 => Some(Kind::Normal),
            2 => Some(Kind::Membership),
            _ => None,
        }
    }
}

/// Bytes that are not a frame. They came from a peer or a disk: drop the connection, or treat the record as damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is impossible.
    #[error("length {0} is outside of what a frame may have")]
    Length(u64),
    /// The bytes do not match their checksum.
    #[error("checksum is {found:08x}, should be {expected:08x}")]
    Checksum {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// The index leaves none for the next entry.
    #[error("index {0} is beyond what an entry may have")]
    Index(u64),
    /// The kind or the zero bytes after it are not known to this version.
    #[error("kind {0} is unknown to this version")]
    Kind(u32),
}

/// One encoded, verified entry. Cloning bumps a reference count.
///
/// Invariant `verified`: the bytes are exactly one frame whose length, checksum, index and kind have been checked, so the getters cannot fail.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// Encodes an entry.
    ///
    /// # Panics
    ///
    /// If the payload is longer than [`MAX_PAYLOAD_BYTES`]; whoever takes payloads from clients bounds them first. If the index is above
    /// [`MAX_INDEX`].
    pub fn encode(id: LogId, kind: Kind, payload: &[u8]) -> Frame {
        assert!(
            payload.len() <= MAX_PAYLOAD_BYTES,
            "a payload of {} bytes does not fit a frame: bound requests before proposing them",
            payload.len()
        );
        assert!(
            id.index <= MAX_INDEX,
            "{id} is beyond what an entry may have"
        );
        let mut bytes = BytesMut::with_capacity(FRAME_HEADER_BYTES + payload.len());
        bytes.put_u32_le((FRAME_HEADER_BYTES - FRAME_HEAD_BYTES + payload.len()) as u32);
        bytes.put_u32_le(0);
        bytes.put_u64_le(id.term);
        bytes.put_u64_le(id.index);
        bytes.put_u32_le(kind as u8 as u32);
        bytes.put_slice(payload);
        let checksum = crc32c::crc32c(&bytes[FRAME_HEAD_BYTES..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        Frame(bytes.freeze())
    }

    /// Takes bytes that must be exactly one frame.
    pub fn parse(bytes: Bytes) -> Result<Frame, FrameError> {
        if Frame::whole_len(&bytes)? != Some(bytes.len()) {
            return Err(FrameError::Length(bytes.len() as u64));
        }
        let expected = u32_at(&bytes, 4);
        let found = crc32c::crc32c(&bytes[FRAME_HEAD_BYTES..]);
        if expected != found {
            return Err(FrameError::Checksum { expected, found });
        }
        let index = (&bytes[16..24]).get_u64_le();
        if index > MAX_INDEX {
            return Err(FrameError::Index(index));
        }
        let kind = u32_at(&bytes, 24);
        u8::try_from(kind)
            .ok()
            .and_then(Kind::from_u8)
            .ok_or(FrameError::Kind(kind))?;
        Ok(Frame(bytes))
    }

    /// Takes the next whole frame off the front of a stream's buffer; `None` when more bytes are needed.
    ///
    /// After an error the buffer is of no use: the place where the next frame begins is unknown.
    pub fn split_from(buf: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match Frame::whole_len(buf)? {
            Some(len) if len <= buf.len() => Frame::parse(buf.split_to(len).freeze()).map(Some),
            _ => Ok(None),
        }
    }

    /// As [`Frame::split_from`], from a message that was received whole.
    pub fn split_from_bytes(buf: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        match Frame::whole_len(buf)? {
            Some(len) if len <= buf.len() => Frame::parse(buf.split_to(len)).map(Some),
            _ => Ok(None),
        }
    }

    /// The length of the frame that begins at the front of `bytes`, whether all of it is there or not; `None` when too few bytes are
    /// there to tell.
    pub fn whole_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        if bytes.len() < 4 {
            return Ok(None);
        }
        let length = u32_at(bytes, 0) as usize;
        if !(FRAME_HEADER_BYTES - FRAME_HEAD_BYTES..=MAX_FRAME_BYTES - FRAME_HEAD_BYTES)
            .contains(&length)
        {
            return Err(FrameError::Length(length as u64));
        }
        Ok(Some(FRAME_HEAD_BYTES + length))
    }

    /// Term and index.
    pub fn id(&self) -> LogId {
        LogId {
            term: (&self.0[8..16]).get_u64_le(),
            index: (&self.0[16..24]).get_u64_le(),
        }
    }

    /// What the entry is for.
    pub fn kind(&self) -> Kind {
        Kind::from_u8(self.0[24]).expect("a frame's kind is checked when it is made")
    }

    /// The payload, sharing the frame's memory.
    pub fn payload(&self) -> Bytes {
        self.0.slice(FRAME_HEADER_BYTES..)
    }

    /// The checksum over term, index, kind and payload.
    pub fn checksum(&self) -> u32 {
        u32_at(&self.0, 4)
    }

    /// The frame as it is on the wire and on disk.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{:?}/{}B",
            self.id(),
            self.kind(),
            self.0.len() - FRAME_HEADER_BYTES
        )
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    (&bytes[at..at + 4]).get_u32_le()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Frame {
        Frame::encode(LogId::new(0x0102, 0x0304), Kind::Membership, b"payload")
    }

    #[test]
    fn bytes_are_as_documented() {
        let expected = [
            &[27, 0, 0, 0][..],
            &example().checksum().to_le_bytes(),
            &[2, 1, 0, 0, 0, 0, 0, 0],
            &[4, 3, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0],
            b"payload",
        ]
        .concat();
        assert_eq!(example().as_bytes(), &expected);
        assert_eq!(example().checksum(), crc32c::crc32c(&expected[8..]));
    }

    #[test]
    fn getters_give_back_what_was_encoded() {
        let frame = Frame::parse(example().as_bytes().clone()).unwrap();
        assert_eq!(
            (frame.id(), frame.kind()),
            (LogId::new(0x0102, 0x0304), Kind::Membership)
        );
        assert_eq!(frame.payload(), "payload");
        assert_eq!(
            format!("{frame:?} {}", frame.id()),
            "T258-N772/Membership/7B T258-N772"
        );
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        for at in 0..example().as_bytes().len() * 8 {
            let mut bytes = BytesMut::from(&example().as_bytes()[..]);
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(Frame::parse(bytes.freeze()).is_err(), "bit {at} flipped");
        }
    }

    #[test]
    fn unknown_kinds_and_impossible_lengths_are_refused() {
        let mut bytes = BytesMut::from(&example().as_bytes()[..]);
        bytes[24] = 3;
        let checksum = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Frame::parse(bytes.freeze()), Err(FrameError::Kind(3)));
        for length in [0, 19, MAX_FRAME_BYTES as u32 - 7, u32::MAX] {
            let mut stream = BytesMut::from(&length.to_le_bytes()[..]);
            assert_eq!(
                Frame::split_from(&mut stream),
                Err(FrameError::Length(u64::from(length)))
            );
        }
    }

    /// Found by the fuzzer of peer frames: whoever counted the next entry overflowed.
    #[test]
    fn an_index_without_a_next_one_is_refused() {
        let mut bytes = BytesMut::from(&example().as_bytes()[..]);
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(
            Frame::parse(bytes.freeze()),
            Err(FrameError::Index(u64::MAX))
        );
    }

    #[test]
    fn a_stream_gives_frames_however_it_is_cut() {
        let frames: Vec<Frame> = (0..4)
            .map(|i| Frame::encode(LogId::new(1, i), Kind::Normal, &vec![7; i as usize * 9]))
            .collect();
        let stream: Vec<u8> = frames
            .iter()
            .flat_map(|frame| frame.as_bytes().to_vec())
            .collect();
        for cut in 0..=stream.len() {
            let (mut buf, mut found) = (BytesMut::new(), Vec::new());
            for part in [&stream[..cut], &stream[cut..]] {
                buf.extend_from_slice(part);
                while let Some(frame) = Frame::split_from(&mut buf).unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!((found, buf.len()), (frames.clone(), 0));
        }
        let mut whole = Bytes::from(stream);
        assert_eq!(
            Frame::split_from_bytes(&mut whole).unwrap(),
            Some(frames[0].clone())
        );
    }

    #[test]
    #[should_panic(expected = "bound requests before proposing them")]
    fn a_payload_too_long_is_a_caller_s_mistake() {
        Frame::encode(
            LogId::new(1, 1),
            Kind::Normal,
            &vec![0; MAX_PAYLOAD_BYTES + 1],
        );
    }
}
