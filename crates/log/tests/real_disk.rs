//! The log on a real disk, used by several threads at once as a node does.

mod common;

use common::{flush, frame, read_all};
use eaves_log::{Log, Options, ReadError, RealDisk};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

const ENTRIES: u64 = 6_000;

/// Wakes the flusher.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.wake.notify_all();
    }

    fn wait(&self) {
        let mut rung = self
            .wake
            .wait_while(self.rung.lock().unwrap(), |rung| !*rung)
            .unwrap();
        *rung = false;
    }
}

#[test]
fn appenders_readers_and_a_flusher_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 64 << 10,
        cache_bytes: 32 << 10,
    };
    let (log, _) = Log::open(Arc::new(RealDisk), dir.path(), options).unwrap();
    let (bell, finished) = (Bell::default(), AtomicBool::new(false));
    let (appending, reads_from_disk) = (Mutex::new(()), AtomicU64::new(0));

    thread::scope(|scope| {
        scope.spawn(|| {
            while log.durable_index() != Some(ENTRIES - 1) {
                bell.wait();
                flush(&log);
            }
            finished.store(true, Ordering::SeqCst);
        });
        for _ in 0..2 {
            scope.spawn(|| append_all(&log, &appending, &bell));
        }
        for reader in 0..2 {
            let (log, finished, reads_from_disk) = (&log, &finished, &reads_from_disk);
            scope.spawn(move || read_about(log, reader, finished, reads_from_disk));
        }
    });

    assert!(
        reads_from_disk.load(Ordering::SeqCst) > 0,
        "entries older than the cache were read"
    );
    log.release(ENTRIES - 2000).unwrap();
    flush(&log);
    let stats = log.stats();
    assert!(
        stats.flushed_entries >= ENTRIES && stats.flushes > 0,
        "all entries were flushed"
    );
    assert!(
        stats.segments < ENTRIES * 300 / options.segment_bytes,
        "old segments were released"
    );
    let (entries, chain) = (read_all(&log, 10_000), log.last_chain());
    drop(log);
    let (log, recovered) = Log::open(Arc::new(RealDisk), dir.path(), options).unwrap();
    assert_eq!(
        (
            read_all(&log, 10_000),
            recovered.last_chain,
            recovered.torn_bytes
        ),
        (entries, chain, 0)
    );
}

/// Appends in batches, in turns with others, until the log has all entries; sometimes takes a few back, and releases old ones.
fn append_all(log: &Log, appending: &Mutex<()>, bell: &Bell) {
    loop {
        let guard = appending.lock().unwrap();
        let next = log.last_id().map_or(0, |id| id.index + 1);
        if next == ENTRIES {
            return;
        }
        let batch: Vec<_> = (next..ENTRIES.min(next + 7))
            .map(|index| frame(1, index, 250))
            .collect();
        log.append(&batch).unwrap();
        if next % 1000 < 7 {
            // What is taken back is written again, the same, so that readers cannot tell.
            let taken_back: Vec<_> = batch[batch.len() - 3..].to_vec();
            log.truncate_after(Some(taken_back[0].id().index - 1))
                .unwrap();
            log.append(&taken_back).unwrap();
        }
        log.release(next.saturating_sub(2000)).unwrap();
        drop(guard);
        bell.ring();
        thread::yield_now();
    }
}

/// Reads here and there until all is written.
fn read_about(log: &Log, reader: u64, finished: &AtomicBool, reads_from_disk: &AtomicU64) {
    let mut turn = reader;
    while !finished.load(Ordering::SeqCst) || turn < 100 {
        turn += 1;
        let (first, last) = (log.first_index(), log.last_id().map_or(0, |id| id.index));
        let from = first + (turn * 7919) % (last.saturating_sub(first) + 1);
        if !log.is_cached(from) {
            reads_from_disk.fetch_add(1, Ordering::SeqCst);
        }
        match log.read(from, from + 20, 4000) {
            Ok(frames) => {
                for (read, index) in frames.iter().zip(from..) {
                    assert_eq!(*read, frame(1, index, 250));
                }
            }
            Err(ReadError::Gone { first: now }) => {
                assert!(now > from, "entries that are not gone must be readable")
            }
            Err(error) => panic!("{error}"),
        }
    }
}
