//! Entry point of the fuzzer `log_records`: bytes that may lie in the files of a log, or come as frames, and what must be true whatever
//! they are. Built for tests and fuzzers only; see `fuzz/README.md`.
//!
//! Bytes that a checksum guards are no food for a fuzzer, so an input is a script: it says what is written to a log and how the
//! files are damaged then, or it names the fields of segments and records, which get checksums that fit.
//!
//! What is checked:
//! - nothing panics, whatever the bytes;
//! - a log that opens has no entry that was not written (`never-invented`), and is a chain without gaps;
//! - power failures alone take nothing that was told durable, and damage nothing;
//! - a log that opened can be written on, and opens again with the same entries.

use crate::record;
use crate::segment::{Header, SEGMENT_HEADER_BYTES, SegmentName};
use crate::sim::SimDisk;
use crate::state_file::{self, SmallState};
use crate::{Base, Chain, Disk, Frame, Kind, Log, LogId, MAX_INDEX, OpenError, Options};
use arbitrary::Unstructured;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIR: &str = "/log";

/// Small, so that a short script makes several segments and reads what the cache has let go.
const OPTIONS: Options = Options {
    segment_bytes: 1024,
    cache_bytes: 512,
};

/// Entries that one script writes at most.
const MAX_ENTRIES: usize = 200;

/// What the fuzzer calls.
pub fn log_records(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let mut script = Unstructured::new(rest);
    // A script that ends early is one that says nothing more.
    let _ended = match kind % 4 {
        0 => {
            frames(rest);
            Ok(())
        }
        1 => written_and_damaged(&mut script),
        2 => forged(&mut script),
        _ => {
            raw_files(rest);
            Ok(())
        }
    };
}

/// Bytes as frames: every way of reading them says the same, and what is read is what was there.
fn frames(input: &[u8]) {
    let mut whole = Bytes::copy_from_slice(input);
    let mut stream = BytesMut::from(input);
    loop {
        let (from_whole, from_stream) = (
            Frame::split_from_bytes(&mut whole),
            Frame::split_from(&mut stream),
        );
        assert_eq!(from_whole, from_stream);
        let Ok(Some(frame)) = from_whole else { break };
        let again = Frame::encode(frame.id(), frame.kind(), &frame.payload());
        assert_eq!(again, frame, "a frame that was read is not what is encoded");
    }
    if let Ok(frame) = Frame::parse(Bytes::copy_from_slice(input)) {
        assert_eq!(frame.as_bytes(), input);
    }
}

/// A log that was written by our own code, then damaged as the script says.
struct Written {
    disk: SimDisk,
    log: Log,
    /// Every frame that was ever given to the log.
    all: HashSet<Bytes>,
    /// What was told durable last: base, last id, and the chain value there.
    durable: (u64, Option<LogId>, Chain),
}

impl Written {
    fn new() -> Written {
        let disk = SimDisk::new();
        let (log, _) = open(&disk).expect("an empty directory opens");
        Written {
            disk,
            log,
            all: HashSet::new(),
            durable: (0, None, Chain::START),
        }
    }

    fn flush(&mut self) {
        while let Some(job) = self.log.next_flush() {
            self.log.flushed(job.run()).expect("the disk works");
        }
        self.durable = (
            self.log.first_index(),
            self.log.last_id(),
            self.log.last_chain(),
        );
    }

    fn append(&mut self, script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let last = self.log.last_id();
        let term = last.map_or(1, |id| id.term) + u64::from(script.ratio(1, 8)?);
        let payload = vec![script.arbitrary()?; script.int_in_range(0..=300)?];
        let index = last.map_or(self.log.first_index(), |id| id.index + 1);
        let kind = match script.int_in_range(0..=9)? {
            0 => Kind::Blank,
            1 => Kind::Membership,
            _ => Kind::Normal,
        };
        let frame = Frame::encode(LogId::new(term, index), kind, &payload);
        self.all.insert(frame.as_bytes().clone());
        self.log.append(&[frame]).expect("the next entry fits");
        Ok(())
    }

    /// One thing that happens to a healthy log.
    fn happen(&mut self, script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let first = self
            .log
            .purged()
            .map_or(self.log.first_index(), |id| id.index + 1);
        let last = self.log.last_id().map(|id| id.index);
        match script.int_in_range(0..=15)? {
            0..=8 => self.append(script)?,
            9..=11 => self.flush(),
            12 => {
                if let Some(last) = last.filter(|last| *last >= first) {
                    let cut = script.int_in_range(first..=last)?;
                    self.log
                        .truncate_after(cut.checked_sub(1))
                        .expect("it is there");
                    // What was durable is so no longer.
                    self.durable = (self.log.first_index(), None, Chain::START);
                    self.flush();
                }
            }
            13 => {
                let vote = Bytes::from(vec![7; script.int_in_range(0..=40)?]);
                self.log.save_hard_state(vote).expect("the log is healthy");
            }
            14 => {
                if let Some(last) = last.filter(|last| *last >= first) {
                    let upto = script.int_in_range(first..=last)?;
                    let id = self
                        .log
                        .id_at(upto)
                        .expect("it is there")
                        .expect("it is there");
                    self.log.purge(id).expect("it is there");
                    self.log.release(upto).expect("it is there");
                    self.flush();
                }
            }
            _ => {
                let base = Base {
                    last: Some(LogId::new(
                        script.int_in_range(1..=1000)?,
                        script.int_in_range(0..=1 << 40)?,
                    )),
                    chain: Chain(script.arbitrary()?),
                };
                self.log.reset(base).expect("the log is healthy");
                self.flush();
            }
        }
        Ok(())
    }
}

fn written_and_damaged(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut written = Written::new();
    for _ in 0..script.int_in_range(0..=40)? {
        if written.all.len() < MAX_ENTRIES {
            written.happen(script)?;
        }
    }
    let Written {
        disk,
        log,
        all,
        durable,
    } = written;
    drop(log);
    if script.arbitrary()? {
        disk.crash(script.arbitrary()?);
    }
    let mut damages = script.int_in_range(0..=4)?;
    let intact = damages == 0;
    while damages > 0 {
        damage(&disk, script)?;
        damages -= 1;
    }
    match open(&disk) {
        Ok((log, _)) => {
            if intact {
                let (first, last, chain) = durable;
                assert!(log.first_index() <= first.max(log.first_index()));
                if let Some(last) = last {
                    assert!(log.last_id() >= Some(last), "durable-before-acknowledged");
                    assert_eq!(log.chain_at(last.index).ok().flatten(), Some(chain));
                }
            }
            let entries = entries(&log);
            for frame in entries.iter().flatten() {
                assert!(
                    all.contains(frame.as_bytes()),
                    "never-invented: {frame:?} was never written"
                );
            }
            can_go_on(&disk, log);
        }
        Err(error) => assert!(!intact, "a power failure alone is repaired: {error}"),
    }
    Ok(())
}

/// Changes a file as bad media or a careless hand would.
fn damage(disk: &SimDisk, script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let files = files(disk);
    let path = script.choose(&files)?.clone();
    let len = disk.contents(&path).len();
    let at = script.int_in_range(0..=len)?;
    let kind = script.int_in_range(0..=6)?;
    let (value, count) = (script.arbitrary::<u8>()?, script.int_in_range(1..=600)?);
    let until = (at + count).min(len);
    match kind {
        0 => disk.edit(&path, |bytes| {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= value;
            }
        }),
        1 => disk.cut_off(&path, at as u64),
        2 => disk.edit(&path, |bytes| bytes[at..until].fill(0)),
        3 => disk.edit(&path, |bytes| bytes[at..until].fill(value)),
        // A piece of the file once more, elsewhere.
        4 => disk.edit(&path, |bytes| {
            let to = usize::from(value) * 8;
            let piece = bytes[at..until].to_vec();
            if to + piece.len() <= bytes.len() {
                bytes[to..to + piece.len()].copy_from_slice(&piece);
            }
        }),
        5 => disk.edit(&path, |bytes| bytes.extend(vec![value; count])),
        // Another file under its name.
        _ => {
            let other = disk.contents(script.choose(&files)?);
            disk.cut_off(&path, 0);
            disk.edit(&path, |bytes| *bytes = other);
        }
    }
    Ok(())
}

/// Segments whose checksums are right, with fields that nobody would write.
fn forged(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let disk = SimDisk::new();
    let mut all = HashSet::new();
    let mut names = BTreeSet::new();
    let mut chain = Chain::START;
    let mut next = number(script, 0)?;
    for segment in 0..script.int_in_range(1..=4)? {
        let name = SegmentName {
            first: number(script, next)?,
            seq: number(script, segment)?,
        };
        if !names.insert(name) {
            continue;
        }
        let base = Base {
            last: match name.first.checked_sub(1) {
                Some(index) if !script.ratio(1, 16)? => Some(LogId::new(number(script, 1)?, index)),
                _ => None,
            },
            chain,
        };
        let header = Header {
            name,
            base,
            reset: script.ratio(1, 4)?,
        };
        let mut bytes = header.encode().to_vec();
        next = name.first;
        for _ in 0..script.int_in_range(0..=8)? {
            let id = LogId::new(number(script, 1)?, number(script, next)?.min(MAX_INDEX));
            let payload = vec![7; script.int_in_range(0..=80)?];
            let frame = Frame::encode(id, Kind::Normal, &payload);
            chain = chain.next(&frame);
            if script.ratio(1, 16)? {
                chain = Chain(script.arbitrary()?);
            }
            let unsynced = script.int_in_range(0..=4u32)?;
            let unsynced = if script.ratio(1, 16)? {
                u32::MAX - unsynced
            } else {
                unsynced
            };
            let offset = bytes.len() as u64;
            record::encode(&mut bytes, name.seq, offset, &frame, chain, unsynced);
            all.insert(frame.as_bytes().clone());
            next = id.index + 1;
        }
        if script.ratio(1, 8)? {
            let keep = script.int_in_range(0..=bytes.len())?;
            bytes.truncate(keep);
        }
        bytes.extend(vec![0; script.int_in_range(0..=SEGMENT_HEADER_BYTES)?]);
        create(&disk, &name.to_string(), &bytes);
    }
    if script.ratio(1, 4)? {
        let state = SmallState {
            purged: Some(LogId::new(number(script, 1)?, number(script, next)?)),
            hard_state: None,
        };
        disk.create_dir_all(Path::new(DIR)).expect("the disk works");
        state_file::save(&disk, Path::new(DIR), &state).expect("the disk works");
    }
    if let Ok((log, _)) = open(&disk) {
        for frame in entries(&log).iter().flatten() {
            assert!(
                all.contains(frame.as_bytes()),
                "never-invented: {frame:?} was never written"
            );
        }
        can_go_on(&disk, log);
    }
    Ok(())
}

/// Mostly the number expected, now and then one around it or at an end of the range.
fn number(script: &mut Unstructured<'_>, expected: u64) -> arbitrary::Result<u64> {
    Ok(match script.int_in_range(0..=15)? {
        0 => expected.wrapping_add(1),
        1 => expected.wrapping_sub(1),
        2 => 0,
        3 => u64::MAX - script.int_in_range(0..=1)?,
        4 => script.arbitrary()?,
        _ => expected,
    })
}

/// Bytes as they are, in a segment and as the state file.
fn raw_files(input: &[u8]) {
    let disk = SimDisk::new();
    create(&disk, "00000000000000000000-0000000001.seg", input);
    create(&disk, "state", input);
    // It opens only if the fuzzer guesses a checksum: then it is a log.
    let opened = open(&disk);
    let state = state_file::load(&disk, Path::new(DIR));
    assert!(state.is_err() || opened.is_ok() || !input.is_empty());
}

fn create(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let dir = Path::new(DIR);
    disk.create_dir_all(dir).expect("the disk works");
    let file = disk.create(&dir.join(name)).expect("the name is new");
    file.write_all_at(bytes, 0).expect("the disk works");
    file.sync_data().expect("the disk works");
    disk.sync_dir(dir).expect("the disk works");
}

fn files(disk: &SimDisk) -> Vec<PathBuf> {
    let dir = Path::new(DIR);
    let names = disk.list(dir).expect("the directory is there");
    let mut paths: Vec<PathBuf> = names.into_iter().map(|name| dir.join(name)).collect();
    paths.sort();
    paths
}

fn open(disk: &SimDisk) -> Result<(Log, crate::Recovered), OpenError> {
    Log::open(Arc::new(disk.clone()), Path::new(DIR), OPTIONS)
}

/// All entries that can be read, checked to be a chain without gaps; an error where a read finds damage.
fn entries(log: &Log) -> Option<Vec<Frame>> {
    let Some(last) = log.last_id() else {
        return Some(Vec::new());
    };
    let mut frames: Vec<Frame> = Vec::new();
    let mut next = log.first_index();
    while next <= last.index {
        let read = log.read(next, last.index, 1 << 10).ok()?;
        next = read.last()?.id().index + 1;
        frames.extend(read);
    }
    for pair in frames.windows(2) {
        let (one, other) = (pair[0].id(), pair[1].id());
        assert_eq!(one.index + 1, other.index, "contiguous");
    }
    if let Some(frame) = frames.last() {
        assert_eq!(frame.id(), last);
    }
    Some(frames)
}

/// Writes one more entry, and opens what is there then.
fn can_go_on(disk: &SimDisk, log: Log) {
    let before = entries(&log);
    let last = log.last_id();
    let next = LogId::new(
        last.map_or(0, |id| id.term),
        last.map_or(log.first_index(), |id| id.index + 1),
    );
    if next.index > MAX_INDEX {
        return;
    }
    let frame = Frame::encode(next, Kind::Normal, b"one more");
    if log.append(std::slice::from_ref(&frame)).is_err() {
        return;
    }
    while let Some(job) = log.next_flush() {
        log.flushed(job.run()).expect("the disk works");
    }
    drop(log);
    let (log, _) = open(disk).expect("what was just written opens");
    if let (Some(mut before), Some(after)) = (before, entries(&log)) {
        before.push(frame);
        assert_eq!(before, after);
    }
}

#[cfg(test)]
#[test]
fn replayed() {
    eaves_corpus::replay("log_records", log_records);
}
