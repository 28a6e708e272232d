//! Opening a log: what the files say, what of it counts, and whether something that was durable is lost.
//!
//! The argument is in the crate's documentation; this file carries it out:
//!
//! 1. read all segment headers, and find the segments that count (the others were replaced by later ones);
//! 2. read all records of those, in order, each continuing the chain of the one before;
//! 3. in the newest segment, tell the end, a torn tail and damage apart;
//! 4. write again and sync what is not proven to have been synced, and drop a torn tail for good.
//!
//! Nothing on disk is changed before it is certain that the log opens, except that half-made files are removed.

use crate::cache::{Cache, Slot};
use crate::error::DiskError;
use crate::record::{HEAD_BYTES, Head, RECORD_ALIGN_BYTES, Records, Step};
use crate::segment::{
    Change, Header, Mark, SEGMENT_HEADER_BYTES, Segment, SegmentMap, SegmentName,
};
use crate::state_file::{self, SmallState};
use crate::writer::{Active, Writer};
use crate::{Base, Chain, Damage, Disk, DiskFile, LogId, OpenError, Options};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much of a file is read at once; little where it is fuzzed, so that a short log has chunks too.
const SCAN_CHUNK_BYTES: usize = if cfg!(any(test, fuzzing)) {
    4 << 10
} else {
    1 << 20
};

/// No segment that we made has a greater sequence number, so that there always is a next one.
const MAX_SEQ: u64 = u64::MAX / 2;

/// An opened log's parts.
pub(crate) struct Recovery {
    pub base: Base,
    pub last: Option<LogId>,
    pub last_chain: Chain,
    pub state: SmallState,
    pub torn_bytes: u64,
    pub cache: Cache,
    pub segments: SegmentMap,
    pub writer: Writer,
}

/// Reads what is in `dir`, or begins a log there.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: Options,
) -> Result<Recovery, OpenError> {
    disk.create_dir_all(dir)
        .map_err(DiskError::at("create directory", dir))?;
    let mut found = Vec::new();
    for file in disk
        .list(dir)
        .map_err(DiskError::at("list directory", dir))?
    {
        if file.ends_with(".tmp") {
            let path = dir.join(&file);
            disk.remove(&path).map_err(DiskError::at("delete", &path))?;
        }
        found.extend(SegmentName::parse(&file));
    }
    let state = state_file::load(&*disk, dir)?;
    if found.is_empty() {
        return begin(disk, dir, options, state);
    }
    let next_seq = next_seq(dir, &found)?;
    let (headers, replaced) = headers_that_count(&*disk, dir, found)?;

    let mut scan = Scan::new(disk.clone(), dir, &headers, options);
    for (header, next) in headers.iter().zip(headers.iter().skip(1)) {
        scan.sealed(header, next)?;
    }
    let (active, unproven_offset, torn_bytes) =
        scan.newest(headers.last().expect("there is one"))?;

    write_again(&active, unproven_offset)?;
    disk.sync_dir(dir)
        .map_err(DiskError::at("sync directory", dir))?;
    for name in replaced {
        let path = dir.join(name.to_string());
        disk.remove(&path).map_err(DiskError::at("delete", &path))?;
    }
    let (last, last_chain) = (active.last, active.chain);
    let names = headers.iter().map(|header| header.name).collect();
    let mut writer = Writer::new(
        disk,
        dir,
        options.segment_bytes,
        names,
        next_seq,
        Some(active),
    );
    if torn_bytes > 0 {
        // The tail gets a segment of its own: no bytes of the torn one can ever be taken for entries again.
        writer.cut(
            Base {
                last,
                chain: last_chain,
            },
            false,
        )?;
    }
    for change in writer.take_changes() {
        scan.segments.apply(change);
    }
    let state = state.unwrap_or_default();
    let Scan {
        segments, cache, ..
    } = scan;
    Ok(Recovery {
        base: headers[0].base,
        last,
        last_chain,
        state,
        torn_bytes,
        cache,
        segments,
        writer,
    })
}

/// The sequence number of the next segment to be made.
fn next_seq(dir: &Path, found: &[SegmentName]) -> Result<u64, OpenError> {
    let newest = found
        .iter()
        .max_by_key(|name| name.seq)
        .expect("there is one");
    match newest.seq < MAX_SEQ {
        true => Ok(newest.seq + 1),
        false => Err(OpenError::Damaged(Damage {
            file: dir.join(newest.to_string()),
            offset: 0,
            index: None,
            what: "no log makes so many segments as its name says".to_string(),
        })),
    }
}

/// Makes the first segment of a log that has none.
fn begin(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: Options,
    state: Option<SmallState>,
) -> Result<Recovery, OpenError> {
    if state.is_some() {
        let what = "it holds a state file but no segment of the log".to_string();
        return Err(OpenError::Damaged(Damage {
            file: dir.to_owned(),
            offset: 0,
            index: None,
            what,
        }));
    }
    let mut writer = Writer::new(disk, dir, options.segment_bytes, Vec::new(), 1, None);
    writer.cut(Base::START, false)?;
    let mut segments = SegmentMap::default();
    for change in writer.take_changes() {
        segments.apply(change);
    }
    Ok(Recovery {
        base: Base::START,
        last: None,
        last_chain: Chain::START,
        state: SmallState::default(),
        torn_bytes: 0,
        cache: Cache::new(0),
        segments,
        writer,
    })
}

/// Reads all headers; returns those that count, in order, and the names of the segments that later ones replaced.
fn headers_that_count(
    disk: &dyn Disk,
    dir: &Path,
    mut names: Vec<SegmentName>,
) -> Result<(Vec<Header>, Vec<SegmentName>), OpenError> {
    names.sort_by_key(|name| name.seq);
    if let Some(pair) = names.windows(2).find(|pair| pair[0].seq == pair[1].seq) {
        return Err(OpenError::Damaged(Damage {
            file: dir.join(pair[0].to_string()),
            offset: 0,
            index: None,
            what: format!("{} has the same sequence number", pair[1]),
        }));
    }
    let mut count: Vec<Header> = Vec::new();
    let mut replaced = Vec::new();
    for name in names {
        let path = dir.join(name.to_string());
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = disk
            .open(&path)
            .and_then(|file| file.read_at(&mut bytes, 0))
            .map_err(DiskError::at("read", &path))?;
        let header = Header::decode(&bytes[..read], name, path)?;
        let keep = if header.reset {
            0
        } else {
            count.partition_point(|older| older.name.first < name.first)
        };
        replaced.extend(count.drain(keep..).map(|older| older.name));
        count.push(header);
    }
    Ok((count, replaced))
}

/// Writes the records from `from` on once more, as they are, and syncs them.
///
/// They may be in the page cache only, because the process was killed, or because a sync failed: after that the kernel may hold pages
/// for clean that never reached the disk, and a sync alone would do nothing and succeed.
fn write_again(active: &Active, from: u64) -> Result<(), DiskError> {
    let mut chunk = vec![0; SCAN_CHUNK_BYTES];
    let mut offset = from;
    while offset < active.end {
        let len = chunk.len().min((active.end - offset) as usize);
        let mut again = || {
            let read = active.file.read_at(&mut chunk[..len], offset)?;
            active.file.write_all_at(&chunk[..read], offset)
        };
        again().map_err(DiskError::at("write", &active.path))?;
        offset += len as u64;
    }
    active
        .file
        .sync_data()
        .map_err(DiskError::at("sync", &active.path))
}

/// Reading all records, from the oldest segment to the newest.
struct Scan {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cache_bytes: usize,
    segments: SegmentMap,
    cache: Cache,
}

/// Where the records of a segment end, and why.
struct End {
    offset: u64,
    /// The first record of which none behind it proves that it was synced; `offset` if there is none.
    unproven_offset: u64,
    last: Option<LogId>,
    chain: Chain,
    step: Step,
}

impl Scan {
    fn new(disk: Arc<dyn Disk>, dir: &Path, headers: &[Header], options: Options) -> Scan {
        let cache = Cache::new(headers[0].name.first);
        Scan {
            disk,
            dir: dir.to_owned(),
            cache_bytes: options.cache_bytes,
            segments: SegmentMap::default(),
            cache,
        }
    }

    /// A segment that has a successor was synced before that was made: all records up to it must be there.
    fn sealed(&mut self, header: &Header, next: &Header) -> Result<(), OpenError> {
        let mut segment = self.open(header)?;
        let end = self.read(&mut segment, next.name.first)?;
        let at_end = Base {
            last: end.last,
            chain: end.chain,
        };
        let damage = |what: String| {
            let index = Some(at_end.next_index());
            OpenError::Damaged(Damage {
                file: segment.path.clone(),
                offset: end.offset,
                index,
                what,
            })
        };
        if at_end.next_index() < next.name.first {
            return Err(damage(match end.step {
                Step::Bad { what, .. } => what,
                _ => format!(
                    "its records end before entry {}, with which {} begins",
                    next.name.first, next.name
                ),
            }));
        }
        if at_end != next.base {
            return Err(damage(format!(
                "its records do not lead to the beginning of {}",
                next.name
            )));
        }
        self.segments.apply(Change::Begun(segment));
        Ok(())
    }

    /// The newest segment ends where its records end; returns it, where in it the records begin that are not proven synced, and
    /// how many bytes of a torn tail lie behind.
    fn newest(&mut self, header: &Header) -> Result<(Active, u64, u64), OpenError> {
        let mut segment = self.open(header)?;
        let end = self.read(&mut segment, u64::MAX)?;
        let index = Base {
            last: end.last,
            chain: end.chain,
        }
        .next_index();
        let damaged = |what: String| {
            OpenError::Damaged(Damage {
                file: segment.path.clone(),
                offset: end.offset,
                index: Some(index),
                what,
            })
        };
        let what = match end.step {
            Step::Bad {
                what,
                may_be_torn: false,
            } => return Err(damaged(what)),
            Step::Bad { what, .. } => what,
            _ => "no record".to_string(),
        };
        let tail = Tail::read(&*segment.file, header.name.seq, end.offset, index)
            .map_err(DiskError::at("read", &segment.path))?;
        if let Some((offset, witness)) = tail.witness {
            return Err(damaged(format!(
                "{what}, yet {witness} at byte {offset} was written after this was synced"
            )));
        }
        let active = Active {
            name: header.name,
            path: segment.path.clone(),
            file: segment.file.clone(),
            file_bytes: segment.file_bytes,
            end: end.offset,
            last_mark: segment
                .marks
                .last()
                .expect("a segment has its first mark")
                .offset,
            last: end.last,
            chain: end.chain,
            dirty: false,
        };
        self.segments.apply(Change::Begun(segment));
        Ok((active, end.unproven_offset, tail.torn_bytes))
    }

    fn open(&self, header: &Header) -> Result<Segment, OpenError> {
        let path = self.dir.join(header.name.to_string());
        let file = self
            .disk
            .open(&path)
            .map_err(DiskError::at("open", &path))?;
        let file_bytes = file.len().map_err(DiskError::at("measure", &path))?;
        Ok(Segment::new(*header, path, file, file_bytes))
    }

    /// Reads records below index `until`, into the cache and the segment's marks.
    fn read(&mut self, segment: &mut Segment, until: u64) -> Result<End, OpenError> {
        let path = segment.path.clone();
        let Header { name, base, .. } = segment.header;
        let (mut last, mut chain) = (base.last, base.chain);
        let first_offset = SEGMENT_HEADER_BYTES as u64;
        let file = segment.file.clone();
        let mut records = Records::new(
            file,
            name.seq,
            first_offset,
            name.first,
            chain,
            SCAN_CHUNK_BYTES,
        )
        .map_err(DiskError::at("read", &path))?;
        let mut step = Step::End;
        let mut unproven = VecDeque::new();
        while records.next_index() < until {
            step = records.step().map_err(DiskError::at("read", &path))?;
            let Step::Record(record) = step else { break };
            let id = record.frame.id();
            while unproven
                .front()
                .is_some_and(|(index, _)| *index < record.synced_next)
            {
                unproven.pop_front();
            }
            unproven.push_back((id.index, record.offset));
            segment.add_mark(Mark {
                index: id.index,
                offset: record.offset,
                chain,
            });
            (last, chain) = (Some(id), record.chain);
            self.cache.push(Slot {
                frame: record.frame,
                chain,
            });
            self.cache.evict(id.index, self.cache_bytes);
            step = Step::End;
        }
        let offset = records.offset();
        Ok(End {
            offset,
            unproven_offset: unproven.front().map_or(offset, |(_, offset)| *offset),
            last,
            chain,
            step,
        })
    }
}

/// What lies behind the last good record of the newest segment.
struct Tail {
    /// Bytes up to the last one that is not zero.
    torn_bytes: u64,
    /// The place and id of a record which proves that the entry that should have been at the beginning was synced.
    witness: Option<(u64, LogId)>,
}

impl Tail {
    /// Reads `file` from `start` to its end, looking for what proves that entry `index`, which is not good, once was durable.
    fn read(file: &dyn DiskFile, seq: u64, start: u64, index: u64) -> std::io::Result<Tail> {
        let zeroes = vec![0; SCAN_CHUNK_BYTES];
        let mut chunk = vec![0; SCAN_CHUNK_BYTES + HEAD_BYTES];
        let mut tail = Tail {
            torn_bytes: 0,
            witness: None,
        };
        let mut offset = start;
        loop {
            // Each chunk overlaps the next by a record's head, so that none is missed.
            let read = file.read_at(&mut chunk, offset)?;
            let bytes = &chunk[..read];
            let fresh = &bytes[..read.min(SCAN_CHUNK_BYTES)];
            if *fresh != zeroes[..fresh.len()] {
                let last_set = fresh
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .expect("not all are zero");
                tail.torn_bytes = offset + last_set as u64 + 1 - start;
                tail.witness = tail
                    .witness
                    .or_else(|| find_witness(bytes, seq, offset, index));
            }
            if read <= SCAN_CHUNK_BYTES {
                return Ok(tail);
            }
            offset += SCAN_CHUNK_BYTES as u64;
        }
    }
}

/// The first record head in `bytes`, which lie at `offset`, that proves entry `index` to have been synced.
fn find_witness(bytes: &[u8], seq: u64, offset: u64, index: u64) -> Option<(u64, LogId)> {
    (0..bytes.len()).step_by(RECORD_ALIGN_BYTES).find_map(|at| {
        let rest = &bytes[at..];
        if rest.iter().take(8).all(|byte| *byte == 0) {
            return None;
        }
        let here = offset + at as u64;
        let head = Head::decode(rest, seq, here)?;
        (index < head.synced_next()).then_some((here, head.id))
    })
}
