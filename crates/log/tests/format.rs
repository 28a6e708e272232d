//! The format on disk, version 1, against files that were written once and are kept.
//!
//! Two promises: what version 1 wrote opens for ever, and while the version is 1, the same calls write the same bytes. To make a
//! fixture for a new version, run this test with `UPDATE_GOLDENFILES=1`.

mod common;

use bytes::Bytes;
use common::{DIR, SMALL, flush, open, read_all};
use eaves_log::sim::SimDisk;
use eaves_log::{Base, Chain, Disk, Frame, Kind, Log, LogId, RealDisk};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the fixture holds.
fn fixture_entries() -> Vec<Frame> {
    let payloads: [(u64, Kind, &[u8]); 7] = [
        (0, Kind::Membership, b"one voter"),
        (1, Kind::Blank, b""),
        (1, Kind::Normal, b"put a = 1"),
        (1, Kind::Normal, &[0xab; 300]),
        (4, Kind::Blank, b""),
        (4, Kind::Normal, &[0; 200]),
        (4, Kind::Normal, b"the last"),
    ];
    payloads
        .iter()
        .zip(0..)
        .map(|((term, kind, payload), i)| Frame::encode(LogId::new(*term, i), *kind, payload))
        .collect()
}

fn fixture_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// Writes the fixture's log: several batches and segments, a cut, a hard state, a purge.
fn write_log() -> SimDisk {
    let disk = SimDisk::new();
    let (log, _) = open(&disk, SMALL).unwrap();
    let entries = fixture_entries();
    log.append(&entries[..3]).unwrap();
    flush(&log);
    log.append(&[Frame::encode(LogId::new(2, 3), Kind::Normal, b"cut again")])
        .unwrap();
    log.save_hard_state(Bytes::from_static(b"T4 for node 1"))
        .unwrap();
    flush(&log);
    log.truncate_after(Some(2)).unwrap();
    log.append(&entries[3..6]).unwrap();
    flush(&log);
    log.purge(LogId::new(1, 2)).unwrap();
    log.append(&entries[6..]).unwrap();
    flush(&log);
    disk
}

/// The names of the files, sorted.
fn names(disk: &dyn Disk, dir: &Path) -> Vec<String> {
    let mut names = disk.list(dir).unwrap();
    names.sort();
    names
}

#[test]
fn version_1_is_written_as_it_was() {
    let disk = write_log();
    let dir = fixture_dir();
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::create_dir_all(&dir).unwrap();
        for name in names(&disk, Path::new(DIR)) {
            std::fs::write(dir.join(&name), disk.contents(&Path::new(DIR).join(&name))).unwrap();
        }
    }
    assert_eq!(
        names(&disk, Path::new(DIR)),
        names(&RealDisk, &dir),
        "other files than version 1 wrote"
    );
    for name in names(&disk, Path::new(DIR)) {
        let kept = std::fs::read(dir.join(&name)).unwrap();
        assert_eq!(
            disk.contents(&Path::new(DIR).join(&name)),
            kept,
            "{name} is not as version 1 wrote it"
        );
    }
}

#[test]
fn version_1_opens() {
    let copy = tempfile::tempdir().unwrap();
    for name in names(&RealDisk, &fixture_dir()) {
        std::fs::copy(fixture_dir().join(&name), copy.path().join(&name)).unwrap();
    }
    let (log, recovered) = Log::open(Arc::new(RealDisk), copy.path(), SMALL).unwrap();
    let entries = fixture_entries();
    assert_eq!(read_all(&log, 100), entries);
    assert_eq!((recovered.base, recovered.torn_bytes), (Base::START, 0));
    assert_eq!(
        recovered.last_chain,
        entries.iter().fold(Chain::START, Chain::next)
    );
    assert_eq!(recovered.purged, Some(LogId::new(1, 2)));
    assert_eq!(
        recovered.hard_state,
        Some(Bytes::from_static(b"T4 for node 1"))
    );

    log.append(&[Frame::encode(
        LogId::new(5, 7),
        Kind::Normal,
        b"written by today's version",
    )])
    .unwrap();
    flush(&log);
    drop(log);
    let (log, _) = Log::open(Arc::new(RealDisk), copy.path(), SMALL).unwrap();
    assert_eq!(log.last_id(), Some(LogId::new(5, 7)));
}
