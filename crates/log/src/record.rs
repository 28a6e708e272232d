//! A record: a frame as it lies in a segment file, with what recovery needs in front of it.
//!
//! ```text
//!  0              8          12        16                            44
//! ┌──────────────┬──────────┬─────────┬─────────────────────────────┬─────────┬───────────┐
//! │ chain        │ unsynced │ crc32c  │ the frame: its 28-byte head │ payload │ 0..7 zero │
//! └──────────────┴──────────┴─────────┴─────────────────────────────┴─────────┴───────────┘
//!   crc32c is over: segment's sequence number, record's offset, chain, unsynced, the frame's head
//! ```
//!
//! - `chain` is the running value after this entry: a record is taken only if it continues the chain of the one before.
//! - `unsynced` says how many entries right before this one were not yet known durable when it was written. So record `j` is a
//!   *witness* that every entry below `j - unsynced` had been synced.
//! - `crc32c` makes the head believable by itself, whatever happened to the payload, and only in this place of this segment: a copy of
//!   log bytes inside somebody's payload is no witness.
//!
//! Records begin at multiples of 8 bytes, so that recovery can look for witnesses beyond a record whose length is lost.

use crate::{Chain, DiskFile, FRAME_HEADER_BYTES, Frame, LogId, MAX_FRAME_BYTES};
use bytes::{Buf, BufMut, Bytes};
use std::io;
use std::sync::Arc;

/// Records begin at multiples of this.
pub(crate) const RECORD_ALIGN_BYTES: usize = 8;

/// Bytes of a record before its frame.
const PREFIX_BYTES: usize = 16;

/// Bytes of a record under its own checksum, which must be there before anything can be said about it.
pub(crate) const HEAD_BYTES: usize = PREFIX_BYTES + FRAME_HEADER_BYTES;

/// The length of the record of a frame of `frame_bytes`.
pub(crate) fn record_bytes(frame_bytes: usize) -> usize {
    (PREFIX_BYTES + frame_bytes).next_multiple_of(RECORD_ALIGN_BYTES)
}

/// Appends the record of `frame` to `out`. It will lie at `offset` of the segment with sequence number `seq`.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    seq: u64,
    offset: u64,
    frame: &Frame,
    chain: Chain,
    unsynced: u32,
) {
    let bytes = frame.as_bytes();
    let end = out.len() + record_bytes(bytes.len());
    out.put_u64_le(chain.0);
    out.put_u32_le(unsynced);
    out.put_u32_le(head_checksum(
        seq,
        offset,
        chain,
        unsynced,
        &bytes[..FRAME_HEADER_BYTES],
    ));
    out.extend_from_slice(bytes);
    out.resize(end, 0);
}

/// What a record says of itself before its payload is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub chain: Chain,
    pub unsynced: u32,
    pub frame_bytes: usize,
    pub id: LogId,
}

impl Head {
    /// The head at the front of `bytes`, if there is one that belongs at `offset` of segment `seq`.
    pub fn decode(bytes: &[u8], seq: u64, offset: u64) -> Option<Head> {
        let mut fields = bytes.get(..HEAD_BYTES)?;
        let chain = Chain(fields.get_u64_le());
        let unsynced = fields.get_u32_le();
        let checksum = fields.get_u32_le();
        let frame_bytes = Frame::whole_len(fields).ok()??;
        if checksum != head_checksum(seq, offset, chain, unsynced, fields) {
            return None;
        }
        fields.advance(8);
        let id = LogId {
            term: fields.get_u64_le(),
            index: fields.get_u64_le(),
        };
        Some(Head {
            chain,
            unsynced,
            frame_bytes,
            id,
        })
    }

    /// All entries below this index were synced when the record was written.
    pub fn synced_next(&self) -> u64 {
        self.id.index.saturating_sub(u64::from(self.unsynced))
    }
}

fn head_checksum(seq: u64, offset: u64, chain: Chain, unsynced: u32, frame_head: &[u8]) -> u32 {
    let mut covered = [0u8; 28 + FRAME_HEADER_BYTES];
    covered[..8].copy_from_slice(&seq.to_le_bytes());
    covered[8..16].copy_from_slice(&offset.to_le_bytes());
    covered[16..24].copy_from_slice(&chain.0.to_le_bytes());
    covered[24..28].copy_from_slice(&unsynced.to_le_bytes());
    covered[28..].copy_from_slice(frame_head);
    crc32c::crc32c(&covered)
}

/// What a disk writes at once: a part of it is never seen half written. Of larger real sectors this is a part.
const SECTOR_BYTES: usize = 512;

/// The next thing in a segment.
#[derive(Debug)]
pub(crate) enum Step {
    /// A whole record that continues the chain.
    Record(Record),
    /// Zeroes or the end of the file, where the next record would begin.
    End,
    /// Something that is not a record.
    Bad {
        /// What is wrong with it.
        what: String,
        /// Whether an interrupted write may have left it. A record that is whole but does not continue the log never is.
        may_be_torn: bool,
    },
}

/// One record, verified.
#[derive(Debug)]
pub(crate) struct Record {
    pub offset: u64,
    pub frame: Frame,
    /// The value after the frame.
    pub chain: Chain,
    /// All entries below this index were synced when the record was written.
    pub synced_next: u64,
}

/// Reads the records of a segment one after the other, in chunks of the file that the frames then share.
pub(crate) struct Records {
    file: Arc<dyn DiskFile>,
    seq: u64,
    file_bytes: u64,
    chunk_bytes: usize,
    offset: u64,
    next_index: u64,
    chain: Chain,
    window: Bytes,
    window_offset: u64,
}

impl Records {
    /// Reads from `offset`, where the record of entry `next_index` begins; `chain` is the value before it.
    pub fn new(
        file: Arc<dyn DiskFile>,
        seq: u64,
        offset: u64,
        next_index: u64,
        chain: Chain,
        chunk_bytes: usize,
    ) -> io::Result<Records> {
        let file_bytes = file.len()?;
        Ok(Records {
            file,
            seq,
            file_bytes,
            chunk_bytes,
            offset,
            next_index,
            chain,
            window: Bytes::new(),
            window_offset: 0,
        })
    }

    /// Where the next record begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The index that the next record must have.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// The next record. After anything but a record, the same again.
    pub fn step(&mut self) -> io::Result<Step> {
        let head_bytes = self.bytes_here(HEAD_BYTES)?;
        if head_bytes.iter().all(|byte| *byte == 0) {
            return Ok(Step::End);
        }
        let Some(head) = Head::decode(&head_bytes, self.seq, self.offset) else {
            return Ok(bad(
                "no valid record head",
                may_be_torn(&head_bytes, self.offset, HEAD_BYTES),
            ));
        };
        if head.id.index != self.next_index {
            return Ok(bad(
                &format!(
                    "a record of {} where entry {} should be",
                    head.id, self.next_index
                ),
                false,
            ));
        }
        let whole = PREFIX_BYTES + head.frame_bytes;
        let record_bytes_here = self.bytes_here(whole)?;
        let frame = match Frame::parse(record_bytes_here.slice(PREFIX_BYTES..)) {
            Ok(frame) => frame,
            Err(error) => {
                let torn = may_be_torn(&record_bytes_here, self.offset, whole);
                return Ok(bad(&error.to_string(), torn));
            }
        };
        let chain = self.chain.next(&frame);
        if chain != head.chain {
            return Ok(bad(
                &format!("its chain value is {}, should be {chain}", head.chain),
                false,
            ));
        }
        let offset = self.offset;
        self.offset += record_bytes(head.frame_bytes) as u64;
        self.next_index += 1;
        self.chain = chain;
        Ok(Step::Record(Record {
            offset,
            frame,
            chain,
            synced_next: head.synced_next(),
        }))
    }

    /// `len` bytes from the current offset, fewer at the end of the file.
    fn bytes_here(&mut self, len: usize) -> io::Result<Bytes> {
        debug_assert!(len <= PREFIX_BYTES + MAX_FRAME_BYTES);
        let have =
            (self.window_offset + self.window.len() as u64).saturating_sub(self.offset) as usize;
        let left =
            usize::try_from(self.file_bytes.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        if self.offset < self.window_offset || have < len.min(left) {
            let mut chunk = vec![0; self.chunk_bytes.max(len).min(left)];
            let read = self.file.read_at(&mut chunk, self.offset)?;
            chunk.truncate(read);
            self.window = Bytes::from(chunk);
            self.window_offset = self.offset;
        }
        let start = ((self.offset - self.window_offset) as usize).min(self.window.len());
        let end = (start + len).min(self.window.len());
        Ok(self.window.slice(start..end))
    }
}

/// Whether an interrupted write may have left these bytes, the beginning of something `whole` bytes long at `offset`.
///
/// A sector is written whole or not at all, and where nothing was written yet a segment reads as zero. So a torn record lacks its end,
/// or a whole sector; one that has all its sectors and is wrong nevertheless was damaged later, and may have been acknowledged.
fn may_be_torn(bytes: &[u8], offset: u64, whole: usize) -> bool {
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let first_sector_bytes = SECTOR_BYTES - (offset % SECTOR_BYTES as u64) as usize;
    let (first, rest) = bytes.split_at(first_sector_bytes.min(bytes.len()));
    bytes.len() < whole
        || is_zero(&bytes[whole.saturating_sub(4)..])
        || is_zero(first)
        || rest.chunks(SECTOR_BYTES).any(is_zero)
}

fn bad(what: &str, may_be_torn: bool) -> Step {
    Step::Bad {
        what: what.to_string(),
        may_be_torn,
    }
}
