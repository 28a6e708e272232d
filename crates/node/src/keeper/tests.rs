//! The keeper over a state machine that makes one entry durable at a time, as slowly as one likes.

use super::*;
use crate::dir::Dir;
use crate::state_machine::{Command, Position, SnapshotSink, SnapshotSource, StateMachine};
use bytes::Bytes;
use eaves_log::sim::SimDisk;
use eaves_log::{Frame, Kind, Log, LogId, Options};
use std::collections::VecDeque;
use std::path::Path;

/// What one entry of the tests says that it weighs.
const WEIGHT: usize = 8 << 20;

/// Entries that are just not too many.
const FITTING: u64 = (UNPERSISTED_MAX_BYTES / WEIGHT) as u64;

/// What one piece takes, in virtual time.
const LATENCY: Duration = Duration::from_secs(1);

/// A state machine that has applied entries and not made them durable yet.
#[derive(Default)]
struct Slow {
    waiting: Mutex<VecDeque<u64>>,
    durable: Mutex<Option<u64>>,
    is_full: Mutex<bool>,
    /// Pieces of work left besides what is applied.
    upkeep: Mutex<u32>,
    /// What it says instead of where it stands.
    claims: Mutex<Option<u64>>,
}

impl StateMachine for Slow {
    fn position(&self) -> Option<Position> {
        None
    }

    fn apply(&self, commands: &[Command], index: u64, _: Position) -> io::Result<Vec<Bytes>> {
        self.waiting.lock().unwrap().push_back(index);
        Ok(vec![Bytes::new(); commands.len()])
    }

    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        if *self.is_full.lock().unwrap() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut upkeep = self.upkeep.lock().unwrap();
        *upkeep = upkeep.saturating_sub(1);
        let mut waiting = self.waiting.lock().unwrap();
        let mut durable = self.durable.lock().unwrap();
        if waiting.front().is_some_and(|index| *index <= durable_index) {
            *durable = waiting.pop_front();
        }
        Ok(self.claims.lock().unwrap().or(*durable))
    }

    fn has_upkeep(&self) -> bool {
        *self.upkeep.lock().unwrap() > 0
    }

    fn unpersisted_bytes(&self) -> usize {
        self.waiting.lock().unwrap().len() * WEIGHT
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        unreachable!("nobody asks for a snapshot here")
    }

    fn install(&self) -> io::Result<Box<dyn SnapshotSink>> {
        unreachable!("nobody installs one here")
    }
}

struct Bench {
    machine: Arc<Slow>,
    flusher: Arc<Flusher>,
    keeper: Arc<Keeper>,
}

impl Bench {
    /// A keeper whose state machine has applied that many entries, of which the log has so many durably.
    async fn new(applied: u64, durable: u64) -> Bench {
        Bench::with_latency(LATENCY, applied, durable).await
    }

    async fn with_latency(latency: Duration, applied: u64, durable: u64) -> Bench {
        Bench::open((latency, Options::default(), u64::MAX), applied, durable).await
    }

    async fn open(
        (latency, options, retention_bytes): (Duration, Options, u64),
        applied: u64,
        durable: u64,
    ) -> Bench {
        let disk = Arc::new(SimDisk::new());
        let (log, _) = Log::open(disk.clone(), Path::new("/log"), options).unwrap();
        let blocking = Blocking::Inline(latency);
        let flusher = Flusher::start(log, blocking).unwrap();
        let machine = Arc::new(Slow::default());
        let applier = Applier::open(machine.clone(), Dir::new(disk, "/")).unwrap();
        let keeper = Keeper::new(flusher.clone(), applier.clone(), retention_bytes, blocking);
        let frames: Vec<Frame> = (0..applied)
            .map(|index| Frame::encode(LogId::new(1, index), Kind::Normal, b"change"))
            .collect();
        let (early, late) = frames.split_at(durable as usize);
        let ticket = flusher.log().append(early).unwrap();
        flusher.durable(ticket).await.unwrap();
        if !late.is_empty() {
            flusher.log().append(late).unwrap();
        }
        for frame in &frames {
            applier.apply(std::slice::from_ref(frame)).unwrap();
        }
        Bench {
            machine,
            flusher,
            keeper,
        }
    }

    /// Entries that are in the durable state.
    fn persisted(&self) -> u64 {
        self.machine
            .durable
            .lock()
            .unwrap()
            .map_or(0, |last| last + 1)
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_that_claims_to_stand_further_lets_no_log_go_for_it() {
    let bench = Bench::new(3, 3).await;
    *bench.machine.claims.lock().unwrap() = Some(u64::MAX);
    bench.keeper.persist_applied().await.unwrap();
    assert_eq!(*bench.keeper.persisted_end.borrow(), 3);
}

#[tokio::test(start_paused = true)]
async fn all_that_is_applied_becomes_durable_however_many_pieces_it_takes() {
    let bench = Bench::new(5, 5).await;
    bench.keeper.persist_applied().await.unwrap();
    assert_eq!(bench.persisted(), 5);
    assert_eq!(*bench.keeper.persisted_end.borrow(), 5);
    let (count, time) = (5, 5 * LATENCY);
    assert_eq!(bench.keeper.commits(), Commits { count, time });
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_goes_on_as_soon_as_there_is_room() {
    let bench = Bench::new(FITTING + 2, FITTING + 2).await;
    bench.keeper.room_to_apply().await.unwrap();
    assert_eq!(bench.persisted(), 2, "no more than it takes");
}

#[tokio::test(start_paused = true)]
async fn who_makes_everything_durable_lets_those_who_wait_for_room_go_on_meanwhile() {
    let bench = Bench::new(FITTING + 4, FITTING + 4).await;
    let keeper = bench.keeper.clone();
    let all = tokio::spawn(async move { keeper.persist_applied().await });
    tokio::task::yield_now().await;
    bench.keeper.room_to_apply().await.unwrap();
    let persisted = bench.persisted();
    assert!(
        (4..=5).contains(&persisted),
        "it waited for {persisted} pieces where four make room"
    );
    all.await.unwrap().unwrap();
    assert_eq!(bench.persisted(), FITTING + 4);
}

#[tokio::test(start_paused = true)]
async fn room_comes_from_what_the_log_has_durably_and_waits_for_no_more() {
    let bench = Bench::new(FITTING + 2, 2).await;
    let room = tokio::time::timeout(100 * LATENCY, bench.keeper.room_to_apply());
    room.await.expect("two are durable, and make room").unwrap();
    assert_eq!(bench.persisted(), 2);
}

#[tokio::test(start_paused = true)]
async fn where_the_log_lags_behind_room_waits_for_it() {
    let bench = Bench::new(FITTING + 2, 1).await;
    let mut room = std::pin::pin!(bench.keeper.room_to_apply());
    let waiting = tokio::time::timeout(100 * LATENCY, &mut room).await;
    assert!(waiting.is_err(), "the state got ahead of the log");
    assert_eq!(bench.persisted(), 1);
    bench.flusher.kick();
    let room = tokio::time::timeout(100 * LATENCY, room).await;
    room.expect("the log is durable now").unwrap();
    assert_eq!(bench.persisted(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_turn_rests_between_pieces_while_little_waits() {
    let little = (RESTLESS_BYTES / WEIGHT) as u64;
    let bench = Bench::new(FITTING, FITTING).await;
    let begin = Instant::now();
    bench.keeper.turn().await.unwrap();
    assert_eq!(bench.persisted(), FITTING);
    let pieces = LATENCY * FITTING as u32;
    let rests = (LATENCY * REST).min(PERSIST_INTERVAL) * little as u32;
    // The clock of a test counts in milliseconds, and rounds up.
    assert_eq!(begin.elapsed().as_secs(), (pieces + rests).as_secs());
}

/// On a disk that takes long a turn does, too.
#[tokio::test(start_paused = true)]
async fn the_log_is_flushed_while_a_turn_lasts() {
    let bench = Bench::new(3, 2).await;
    let mut turn = std::pin::pin!(bench.keeper.turn());
    let begins = tokio::time::timeout(LATENCY + PERSIST_INTERVAL / 2, &mut turn).await;
    assert!(begins.is_err(), "two pieces and a rest take longer");
    // The turn began with a kick, and this comes after the flush that it led to.
    let late = Frame::encode(LogId::new(1, 3), Kind::Normal, b"change");
    bench.flusher.log().append(&[late]).unwrap();
    turn.await.unwrap();
    let flushed = tokio::time::timeout(100 * LATENCY, bench.keeper.log_durable(4)).await;
    flushed.expect("nobody flushed the log").unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_cannot_become_durable_is_told() {
    let bench = Bench::new(3, 3).await;
    *bench.machine.is_full.lock().unwrap() = true;
    let error = bench.keeper.applied_is_durable().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_all_that_is_applied_leaves_it_to_the_keepers_turn() {
    let bench = Bench::new(3, 3).await;
    let waiting = bench.keeper.applied_is_durable();
    let mut waiting = std::pin::pin!(tokio::time::timeout(PERSIST_INTERVAL, waiting));
    assert!(waiting.as_mut().await.is_err());
    assert_eq!(bench.persisted(), 0, "it made something durable itself");
    // One who finds no keeper at work does it in the end.
    bench.keeper.applied_is_durable().await.unwrap();
    assert_eq!(bench.persisted(), 3);
}

/// A compaction that removes some thousand rows twice a second would not keep up with who writes more.
#[tokio::test(start_paused = true)]
async fn upkeep_goes_on_between_rests_and_not_twice_a_second() {
    let latency = Duration::from_millis(10);
    let bench = Bench::with_latency(latency, 1, 1).await;
    let pieces = 20;
    *bench.machine.upkeep.lock().unwrap() = pieces;
    let begin = Instant::now();
    let keeping = tokio::spawn(bench.keeper.clone().run());
    while bench.machine.has_upkeep() {
        tokio::time::sleep(latency).await;
    }
    let slowest = PERSIST_INTERVAL + pieces * (1 + REST) * latency + 2 * latency;
    assert!(begin.elapsed() <= slowest, "{:?}", begin.elapsed());
    let rests = (pieces - 1) * REST * latency;
    assert!(
        begin.elapsed() >= PERSIST_INTERVAL + rests,
        "{:?}",
        begin.elapsed()
    );
    let done = bench.keeper.commits().count;
    tokio::time::sleep(4 * PERSIST_INTERVAL).await;
    let since = bench.keeper.commits().count - done;
    assert!(
        (3..=5).contains(&since),
        "{since} turns of half a second in two"
    );
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn the_files_of_segments_that_go_are_freed() {
    let options = Options {
        segment_bytes: 700,
        cache_bytes: 0,
    };
    let bench = Bench::open((Duration::from_millis(1), options, 0), 100, 100).await;
    let log = bench.flusher.log();
    assert!(log.stats().segments > 3, "{:?}", log.stats());
    bench.keeper.persist_applied().await.unwrap();
    bench.keeper.turn().await.unwrap();
    bench
        .flusher
        .durable(log.purge(log.last_id().unwrap()).unwrap())
        .await
        .unwrap();
    assert_eq!(log.stats().segments, 1);
    let released = log.take_released().expect("somebody has to free them");
    drop(released);

    let (early, late) = (log.last_id().unwrap().index + 1, 200);
    for index in early..late {
        let frame = Frame::encode(LogId::new(1, index), Kind::Normal, b"change");
        bench
            .flusher
            .durable(log.append(std::slice::from_ref(&frame)).unwrap())
            .await
            .unwrap();
        bench
            .keeper
            .applier
            .apply(std::slice::from_ref(&frame))
            .unwrap();
    }
    let keeping = tokio::spawn(bench.keeper.clone().run());
    while log.stats().segments > 1 {
        tokio::time::sleep(PERSIST_INTERVAL).await;
    }
    tokio::time::sleep(4 * PERSIST_INTERVAL).await;
    assert!(log.take_released().is_none(), "the keeper frees them");
    keeping.abort();
}
