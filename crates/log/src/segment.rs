//! Segment files: how they are named, what their header says, and where in them an entry is.
//!
//! ```text
//! 00000000000000001000-0000000007.seg              first index, sequence number
//!
//!  0          8         12      16      24       32          40           48         60       64
//! ┌──────────┬─────────┬───────┬───────┬────────┬───────────┬────────────┬──────────┬────────┬─────────┬──────
//! │ EAVESLOG │ version │ flags │ seq   │ first  │ base term │ base chain │ zero     │ crc32c │ records │ zeroes ...
//! └──────────┴─────────┴───────┴───────┴────────┴───────────┴────────────┴──────────┴────────┴─────────┴──────
//! ```
//!
//! Magic, version and checksum stay where they are in all versions to come.

use crate::cache::Slot;
use crate::record::Records;
use crate::{Base, Chain, Damage, DiskFile, LogId, OpenError};
use bytes::{Buf, BufMut};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of a segment file before its first record.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;

/// The version of the format of segment files and of the state file.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// About this many bytes of records have one mark, so a read of an older entry reads at most so much in vain, and an index of a full
/// segment of 32 MiB has 2,048 marks of 24 bytes.
const MARK_SPACING_BYTES: u64 = 16 << 10;

/// How much of a file a read of older entries fetches at once.
const READ_CHUNK_BYTES: usize = 64 << 10;

const MAGIC: &[u8; 8] = b"EAVESLOG";
const FLAG_RESET: u32 = 1;
const FLAG_BASE: u32 = 2;

/// The name of a segment. Ordered as the entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    /// The index of its first entry.
    pub first: u64,
    /// Later made segments have greater numbers. A segment replaces all of what older ones hold from its first index on.
    pub seq: u64,
}

impl SegmentName {
    /// The name in `text`, if it is a segment's.
    pub fn parse(text: &str) -> Option<SegmentName> {
        let (first, seq) = text.strip_suffix(".seg")?.split_once('-')?;
        let name = SegmentName {
            first: first.parse().ok()?,
            seq: seq.parse().ok()?,
        };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:010}.seg", self.first, self.seq)
    }
}

/// What a segment says of itself. Durable before its name is, so it is never torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub name: SegmentName,
    /// What precedes its first entry.
    pub base: Base,
    /// Whether it begins a new log: nothing of older segments counts.
    pub reset: bool,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        let base_flag = if self.base.last.is_some() {
            FLAG_BASE
        } else {
            0
        };
        out.put_u32_le(base_flag | if self.reset { FLAG_RESET } else { 0 });
        out.put_u64_le(self.name.seq);
        out.put_u64_le(self.name.first);
        out.put_u64_le(self.base.last.map_or(0, |id| id.term));
        out.put_u64_le(self.base.chain.0);
        let checksum = crc32c::crc32c(&bytes[..SEGMENT_HEADER_BYTES - 4]);
        bytes[SEGMENT_HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Takes the first bytes of the file `path`, named `name`.
    pub fn decode(bytes: &[u8], name: SegmentName, path: PathBuf) -> Result<Header, OpenError> {
        let damaged = |what: &str| {
            OpenError::Damaged(Damage {
                file: path.clone(),
                offset: 0,
                index: None,
                what: what.to_string(),
            })
        };
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err(damaged("its header is cut off"));
        }
        let (covered, checksum) = bytes[..SEGMENT_HEADER_BYTES].split_at(SEGMENT_HEADER_BYTES - 4);
        if &covered[..8] != MAGIC || crc32c::crc32c(covered) != (&checksum[..]).get_u32_le() {
            return Err(damaged("its header does not match its checksum"));
        }
        let mut fields = &covered[8..];
        let version = fields.get_u32_le();
        if version != FORMAT_VERSION {
            return Err(OpenError::Version {
                file: path,
                found: version,
                known: FORMAT_VERSION,
            });
        }
        let flags = fields.get_u32_le();
        let (seq, first) = (fields.get_u64_le(), fields.get_u64_le());
        let (base_term, chain) = (fields.get_u64_le(), Chain(fields.get_u64_le()));
        if (SegmentName { first, seq }) != name {
            return Err(damaged("its header belongs to a file of another name"));
        }
        let last = match (flags & FLAG_BASE != 0, first.checked_sub(1)) {
            (false, None) => None,
            (true, Some(index)) => Some(LogId {
                term: base_term,
                index,
            }),
            _ => return Err(damaged("its header contradicts itself")),
        };
        Ok(Header {
            name,
            base: Base { last, chain },
            reset: flags & FLAG_RESET != 0,
        })
    }
}

/// A place in a segment where reading may begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub index: u64,
    pub offset: u64,
    /// The chain value before `index`.
    pub chain: Chain,
}

/// A segment that can be read.
pub(crate) struct Segment {
    pub header: Header,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// The length of the file, for the statistics.
    pub file_bytes: u64,
    /// In order of index. Never empty: the first record's place is known from the start.
    pub marks: Vec<Mark>,
}

impl Segment {
    /// A segment of which no record is known yet.
    pub fn new(header: Header, path: PathBuf, file: Arc<dyn DiskFile>, file_bytes: u64) -> Segment {
        let mark = Mark {
            index: header.name.first,
            offset: SEGMENT_HEADER_BYTES as u64,
            chain: header.base.chain,
        };
        Segment {
            header,
            path,
            file,
            file_bytes,
            marks: vec![mark],
        }
    }

    /// Adds a mark if the last one is far enough.
    pub fn add_mark(&mut self, mark: Mark) {
        if needs_mark(
            self.marks
                .last()
                .expect("a segment has its first mark")
                .offset,
            mark.offset,
        ) {
            self.marks.push(mark);
        }
    }

    /// What is needed to read entry `index` of this segment and those after it.
    fn cursor(&self, index: u64) -> Cursor {
        let after = self.marks.partition_point(|mark| mark.index <= index);
        let mark = self.marks[after
            .checked_sub(1)
            .expect("the segment begins at or before the entry")];
        Cursor {
            path: self.path.clone(),
            file: self.file.clone(),
            seq: self.header.name.seq,
            mark,
            from: index,
        }
    }
}

/// Whether a record at `offset` should have a mark when the one before is at `last`.
pub(crate) fn needs_mark(last: u64, offset: u64) -> bool {
    offset >= last + MARK_SPACING_BYTES
}

/// Where to read, taken from the map under a lock and used without it. Segments are never written twice in one place, so what a cursor
/// reads is what was there when it was made, whatever is cut or deleted meanwhile.
pub(crate) struct Cursor {
    pub path: PathBuf,
    file: Arc<dyn DiskFile>,
    seq: u64,
    mark: Mark,
    from: u64,
}

impl Cursor {
    /// Reads verified entries from the cursor's on, up to and including `to`, until they have `max_bytes`; all of one segment.
    pub fn read(&self, to: u64, max_bytes: usize) -> Result<Vec<Slot>, ReadFailure> {
        use crate::record::Step;
        let mark = self.mark;
        let mut records = Records::new(
            self.file.clone(),
            self.seq,
            mark.offset,
            mark.index,
            mark.chain,
            READ_CHUNK_BYTES,
        )?;
        let (mut slots, mut bytes) = (Vec::new(), 0);
        while records.next_index() <= to && (bytes < max_bytes || slots.is_empty()) {
            let what = match records.step()? {
                Step::Record(record) if record.frame.id().index < self.from => continue,
                Step::Record(record) => {
                    bytes += record.frame.as_bytes().len();
                    slots.push(Slot {
                        frame: record.frame,
                        chain: record.chain,
                    });
                    continue;
                }
                Step::End => "nothing there".to_string(),
                Step::Bad { what, .. } => what,
            };
            return Err(ReadFailure::Damaged(Damage {
                file: self.path.clone(),
                offset: records.offset(),
                index: Some(records.next_index()),
                what,
            }));
        }
        Ok(slots)
    }
}

/// Why a cursor could not read.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    Io(io::Error),
    Damaged(Damage),
}

impl From<io::Error> for ReadFailure {
    fn from(error: io::Error) -> ReadFailure {
        ReadFailure::Io(error)
    }
}

/// What a flush did to the segments.
pub(crate) enum Change {
    /// A segment was begun; it replaces what others have from its first index on, or all of them if it is a reset.
    Begun(Segment),
    /// The newest segment got a mark.
    Marked(Mark),
    /// A segment got more room for a long record, or gave back what it did not use.
    Resized {
        /// Which.
        name: SegmentName,
        /// Its length now.
        file_bytes: u64,
    },
}

/// All segments that are durable, in order.
///
/// Invariant `ordered`: first indexes and sequence numbers increase strictly.
#[derive(Default)]
pub(crate) struct SegmentMap {
    segments: Vec<Segment>,
}

impl SegmentMap {
    /// The first index of the second segment, if there are two.
    pub fn second_first(&self) -> Option<u64> {
        self.segments
            .get(1)
            .map(|segment| segment.header.name.first)
    }

    /// Brings the map up to date with a flush.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Begun(segment) => {
                let keep = if segment.header.reset {
                    0
                } else {
                    self.first_at_or_after(segment.header.name.first)
                };
                self.segments.truncate(keep);
                if let Some(last) = self.segments.last() {
                    assert!(
                        last.header.name.seq < segment.header.name.seq,
                        "segments must be ordered"
                    );
                }
                self.segments.push(segment);
            }
            Change::Marked(mark) => {
                self.segments
                    .last_mut()
                    .expect("a record is written into a segment")
                    .marks
                    .push(mark);
            }
            Change::Resized { name, file_bytes } => {
                if let Some(segment) = self
                    .segments
                    .iter_mut()
                    .find(|segment| segment.header.name == name)
                {
                    segment.file_bytes = file_bytes;
                }
            }
        }
    }

    /// Where to read `index`, and the last index that the same segment may have (`u64::MAX` for the newest).
    pub fn find(&self, index: u64) -> Option<(Cursor, u64)> {
        let after = self
            .segments
            .partition_point(|segment| segment.header.name.first <= index);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let last = self
            .segments
            .get(after)
            .map_or(u64::MAX, |next| next.header.name.first - 1);
        Some((segment.cursor(index), last))
    }

    /// The base of the last segment that begins at or below `index`.
    pub fn base_at_or_below(&self, index: u64) -> Option<Base> {
        let after = self
            .segments
            .partition_point(|segment| segment.header.name.first <= index);
        Some(self.segments.get(after.checked_sub(1)?)?.header.base)
    }

    /// Forgets the segments that begin before `first`; returns their files.
    pub fn forget_before(&mut self, first: u64) -> Vec<Arc<dyn DiskFile>> {
        let keep_from = self.first_at_or_after(first);
        let forgotten = self.segments.drain(..keep_from);
        forgotten.map(|segment| segment.file).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// The length of all files together.
    pub fn file_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.file_bytes).sum()
    }

    fn first_at_or_after(&self, index: u64) -> usize {
        self.segments
            .partition_point(|segment| segment.header.name.first < index)
    }
}
