//! Disks that refuse and callers that err: each gets an error in words, and nothing acknowledged is lost.

mod common;

use common::{Pair, SMALL, flush, frame, open, read_all};
use eaves_log::disk::{read_whole, write_durably};
use eaves_log::sim::SimDisk;
use eaves_log::{
    Base, Chain, DirLock, Disk, FrozenDisk, LogId, OpenError, ReadError, RealDisk, WriteError,
};
use std::path::Path;

#[test]
fn a_full_disk_poisons_and_loses_nothing_acknowledged() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    pair.append(1, &[100, 100]);
    pair.flush().unwrap();
    pair.disk.set_capacity(Some(pair.disk.used_bytes() + 800));
    let error = loop {
        pair.append(1, &[100, 100]);
        match pair.flush() {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(error.contains("previous I/O error"), "{error}");
    assert!(
        error.contains("cannot reserve space for /log/segment.tmp"),
        "{error}"
    );
    assert!(error.contains("restart the node"), "{error}");

    let next = pair.next_index();
    let refused = pair
        .log
        .append(&[frame(1, next, 1)])
        .expect_err("a poisoned log");
    assert_eq!(
        refused.to_string(),
        error,
        "later writes name the first error"
    );
    assert!(pair.log.next_flush().is_none());
    assert!(
        !read_all(&pair.log, 1000).is_empty(),
        "a poisoned log can be read"
    );

    pair.disk.set_capacity(None);
    pair.reopen();
    pair.append(2, &[100]);
    pair.flush().unwrap();
    pair.crash(1, None);
}

#[test]
fn a_failed_sync_poisons_and_loses_nothing_acknowledged() {
    for fail_after in 0..6 {
        let mut pair = Pair::new(SimDisk::new(), SMALL);
        pair.append(1, &[100, 100]);
        pair.flush().unwrap();
        pair.disk.fail_syncs_after(fail_after);
        let error = loop {
            pair.append(1, &[100, 100]);
            if let Err(error) = pair.flush() {
                break error;
            }
        };
        assert!(error.contains("cannot sync"), "{error}");
        pair.disk.heal();
        assert!(
            pair.log.save_hard_state("vote".into()).is_err(),
            "a sync that works again proves nothing"
        );
        pair.crash(fail_after, None);
    }
}

#[test]
fn a_failed_write_poisons_and_loses_nothing_acknowledged() {
    for fail_after in 0..6 {
        let mut pair = Pair::new(SimDisk::new(), SMALL);
        pair.disk.fail_writes_after(fail_after);
        let error = loop {
            pair.append(1, &[100, 100]);
            if let Err(error) = pair.flush() {
                break error;
            }
        };
        assert!(error.contains("cannot write /log/"), "{error}");
        pair.crash(fail_after, None);
    }
}

/// A sync that fails leaves what it should have written in the page cache, where the next start reads it and no later sync writes it.
#[test]
fn what_a_start_finds_is_durable_though_an_earlier_sync_failed() {
    let lost_by_crash = |seed: &u64| {
        let mut pair = Pair::new(SimDisk::new(), SMALL);
        pair.append(1, &[100]);
        pair.flush().unwrap();
        pair.append(1, &[100, 100]);
        pair.disk.fail_syncs_after(0);
        pair.flush().unwrap_err();
        pair.disk.heal();
        pair.reopen();
        assert_eq!(pair.log.durable_index(), Some(2), "told durable");
        pair.disk.crash(*seed);
        let (log, _) = open(&pair.disk, SMALL).unwrap();
        log.last_id() != Some(LogId::new(1, 2))
    };
    let lost: Vec<u64> = (0..20).filter(lost_by_crash).collect();
    assert!(lost.is_empty(), "lost what a start told durable: {lost:?}");
}

#[test]
fn an_abandoned_flush_poisons() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    pair.append(1, &[1]);
    drop(pair.log.next_flush().expect("something waits"));
    assert_eq!(
        pair.log.poisoned().expect("poisoned").0,
        "a flush was abandoned"
    );

    let mut pair = Pair::new(SimDisk::new(), SMALL);
    pair.append(1, &[1]);
    drop(pair.log.next_flush().expect("something waits").run());
    assert!(pair.log.poisoned().is_some());
}

#[test]
fn one_flush_in_flight_covers_all_that_waits() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    pair.append(1, &[1]);
    let job = pair.log.next_flush().expect("something waits");
    pair.append(1, &[1]);
    pair.append(1, &[1]);
    assert!(pair.log.next_flush().is_none(), "one is in flight");
    let durable = pair.log.durable_index();
    assert_eq!(durable, None, "what is in flight is told durable");
    let ticket = pair.log.flushed(job.run()).unwrap();
    assert_eq!(
        (ticket, pair.log.durable_index()),
        (pair.log.durable_ticket(), Some(0))
    );
    let job = pair.log.next_flush().expect("more waits");
    assert_eq!(job.entries(), 2);
    pair.log.flushed(job.run()).unwrap();
    assert_eq!(pair.log.durable_index(), Some(2));
    assert!(pair.log.next_flush().is_none());
}

#[test]
fn a_cut_entry_is_not_durable_though_its_flush_was() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    pair.append(1, &[1, 1, 1]);
    let job = pair.log.next_flush().unwrap();
    pair.truncate_after(Some(0));
    pair.append(2, &[1, 1]);
    pair.log.flushed(job.run()).unwrap();
    assert_eq!(
        pair.log.durable_index(),
        Some(0),
        "entries 1 and 2 are others now"
    );
    flush(&pair.log);
    assert_eq!(pair.log.durable_index(), Some(2));
    pair.check();
}

#[test]
fn entries_that_do_not_follow_are_refused() {
    let (log, _) = open(&SimDisk::new(), SMALL).unwrap();
    let error = log
        .append(&[frame(1, 1, 0)])
        .expect_err("the first index is 0");
    assert_eq!(
        error.to_string(),
        "cannot append T1-N1: the next index is 0"
    );
    let error = log
        .append(&[frame(2, 0, 0), frame(2, 1, 0), frame(2, 1, 0)])
        .expect_err("a gap");
    assert!(matches!(
        error,
        WriteError::NotContiguous { expected: 2, .. }
    ));
    assert_eq!(log.last_id(), None, "all or none");
    log.append(&[frame(2, 0, 0)]).unwrap();
    let error = log.append(&[frame(1, 1, 0)]).expect_err("an older term");
    assert_eq!(
        error.to_string(),
        "cannot append T1-N1 after T2-N0: terms never go back"
    );
}

#[test]
fn purge_and_cut_are_bounded() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    assert!(matches!(
        pair.log.purge(LogId::new(1, 0)),
        Err(WriteError::OutOfRange { .. })
    ));
    pair.append(1, &[10; 6]);
    assert!(matches!(
        pair.log.purge(LogId::new(1, 6)),
        Err(WriteError::OutOfRange { .. })
    ));
    pair.purge(3);
    let error = pair
        .log
        .truncate_after(Some(2))
        .expect_err("entry 3 is purged, so committed");
    assert_eq!(
        error.to_string(),
        "cannot cut after entry 2: the log has entries 0 to T1-N5"
    );
    assert!(pair.log.truncate_after(None).is_err());
    pair.truncate_after(Some(3));
    pair.check();
}

#[test]
fn released_entries_are_gone_and_purged() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    for _ in 0..12 {
        pair.append(1, &[200]);
        pair.flush().unwrap();
    }
    let before = pair.log.stats();
    let oldest_end = pair.log.oldest_segment_end().expect("several segments");
    pair.release(oldest_end - 1);
    assert_eq!(
        pair.log.first_index(),
        0,
        "a segment stays while one of its entries does"
    );
    pair.release(oldest_end);
    assert_eq!(pair.log.first_index(), oldest_end + 1);
    pair.release(7);
    let first = pair.log.first_index();
    assert!(
        first > 0 && first <= 8,
        "whole segments below entry 8 are released: {first}"
    );
    assert!(
        matches!(pair.log.read(0, 20, 1000), Err(ReadError::Gone { first: now }) if now == first)
    );
    assert!(matches!(
        pair.log.chain_at(first - 2),
        Err(ReadError::Gone { .. })
    ));
    assert_eq!(pair.log.purged(), Some(LogId::new(1, first - 1)));
    pair.flush().unwrap();
    let after = pair.log.stats();
    assert!(after.segments < before.segments && after.disk_bytes < before.disk_bytes);
    pair.release(u64::MAX);
    pair.flush().unwrap();
    assert!(pair.log.first_index() <= 11, "the newest segment stays");
    assert_eq!(
        pair.log.oldest_segment_end(),
        None,
        "which cannot be released"
    );
    pair.check();
    pair.reopen();
}

#[test]
fn a_reader_goes_on_with_what_was_released_or_cut_meanwhile() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    for _ in 0..12 {
        pair.append(1, &[200]);
        pair.flush().unwrap();
    }
    assert!(!pair.log.is_cached(4) && pair.log.is_cached(11));
    let before = pair.log.read(4, 4, 1).unwrap();
    pair.truncate_after(Some(4));
    pair.append(9, &[200]);
    assert_eq!(
        pair.log.read(4, 9, 1).unwrap(),
        before,
        "an older entry, while the cut waits"
    );
    pair.flush().unwrap();
    pair.check();
}

#[test]
fn entries_longer_than_a_segment_get_their_own() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    pair.append(1, &[10, 5000, 10, 700, 9000]);
    pair.flush().unwrap();
    pair.append(1, &[10]);
    pair.flush().unwrap();
    pair.check();
    pair.crash(3, None);
    pair.check();
}

#[test]
fn acknowledged_entries_that_are_missing_are_named() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    let error = pair.log.require_at_least(0).expect_err("an empty log");
    assert!(
        error
            .to_string()
            .contains("the log in /log ends at its beginning"),
        "{error}"
    );
    pair.append(3, &[1, 1]);
    pair.log.require_at_least(1).unwrap();
    let error = pair.log.require_at_least(2).expect_err("the log ends at 1");
    assert!(matches!(error, OpenError::Missing { required: 2, .. }));
    assert!(
        error
            .to_string()
            .contains("ends at T3-N1, but this node has applied entry 2"),
        "{error}"
    );
}

#[test]
fn a_reset_log_goes_on_after_its_base() {
    let mut pair = Pair::new(SimDisk::new(), SMALL);
    pair.append(1, &[100; 8]);
    pair.purge(2);
    pair.flush().unwrap();
    let base = Base {
        last: Some(LogId::new(5, 1000)),
        chain: Chain(77),
    };
    pair.reset(base);
    assert_eq!(
        (
            pair.log.first_index(),
            pair.log.last_id(),
            pair.log.purged()
        ),
        (1001, base.last, base.last)
    );
    assert_eq!(pair.log.chain_at(1000).unwrap(), Some(Chain(77)));
    pair.append(5, &[3]);
    pair.flush().unwrap();
    pair.check();
    let stats = pair.log.stats();
    assert_eq!(
        (stats.segments, stats.disk_bytes),
        (1, SMALL.segment_bytes),
        "the old segments are deleted"
    );
    pair.crash(0, None);
    assert_eq!(pair.log.last_id(), Some(LogId::new(5, 1001)));
}

#[test]
fn a_directory_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let sim = SimDisk::new();
    for disk in [&RealDisk as &dyn Disk, &sim] {
        let lock = DirLock::acquire(disk, &data).unwrap();
        let error = DirLock::acquire(disk, &data)
            .expect_err("locked")
            .to_string();
        assert!(
            error.contains("another process uses") && error.contains("/data"),
            "{error}"
        );
        drop(lock);
        DirLock::acquire(disk, &data).unwrap();
    }
}

#[test]
fn a_frozen_disk_respects_and_takes_real_locks_and_makes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data");
    FrozenDisk::new().lock(&file).unwrap();
    assert!(!file.exists(), "nothing is made");
    let lock = RealDisk.lock(&file).unwrap();
    assert!(FrozenDisk::new().lock(&file).is_err(), "somebody has it");
    drop(lock);
    let _lock = FrozenDisk::new().lock(&file).unwrap();
    assert!(RealDisk.lock(&file).is_err(), "it is read");
}

#[test]
fn a_lock_goes_with_the_file_to_its_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let sim = SimDisk::new();
    for disk in [&RealDisk as &dyn Disk, &sim] {
        let lock = disk.lock(&old).unwrap();
        disk.rename(&old, &new).unwrap();
        assert!(disk.lock(&new).is_err(), "it is the same file");
        disk.lock(&old).unwrap();
        drop(lock);
        disk.lock(&new).unwrap();
    }
}

#[test]
fn a_crash_lets_go_of_a_simulated_lock() {
    let disk = SimDisk::new();
    let before = disk.lock(Path::new("/data/LOCK")).unwrap();
    disk.crash(1);
    let _after = disk.lock(Path::new("/data/LOCK")).unwrap();
    drop(before);
    let error = disk.lock(Path::new("/data/LOCK")).expect_err("locked");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn what_runs_on_after_a_crash_changes_nothing() {
    let disk = SimDisk::new();
    let run = disk.mount();
    write_durably(&run, Path::new("/data/file"), b"before").unwrap();
    let file = run.open(Path::new("/data/file")).unwrap();
    disk.crash(1);
    assert!(file.write_all_at(b"after", 0).is_err());
    assert!(write_durably(&run, Path::new("/data/file"), b"after").is_err());
    assert!(run.remove(Path::new("/data/file")).is_err());
    assert!(run.lock(Path::new("/data/LOCK")).is_err());
    let next = disk.mount();
    assert_eq!(
        &read_whole(&next, Path::new("/data/file")).unwrap()[..],
        b"before"
    );
}

#[test]
fn a_disk_that_cannot_be_read_is_named() {
    let error = eaves_log::Log::open(
        std::sync::Arc::new(eaves_log::RealDisk),
        Path::new("/dev/null/log"),
        SMALL,
    )
    .err()
    .expect("no directory there")
    .to_string();
    assert!(
        error.contains("cannot create directory /dev/null/log"),
        "{error}"
    );
}
