//! A naive model of the log beside the real one, on a disk that forgets.
//!
//! The model remembers the log after every single change (each entry of an append is one). Whatever happens to the disk, what recovery
//! finds must be one of these moments, none older than the last one told durable.
#![allow(dead_code, reason = "every test binary uses its part of this")]

use bytes::Bytes;
use eaves_log::sim::SimDisk;
use eaves_log::{Base, Chain, Frame, Kind, Log, LogId, OpenError, Options, Recovered, Ticket};
use std::path::Path;
use std::sync::Arc;

/// Where the tests' logs live on their disks.
pub const DIR: &str = "/log";

/// Small segments and a small cache, so that a few entries fill several.
pub const SMALL: Options = Options {
    segment_bytes: 700,
    cache_bytes: 600,
};

/// An entry whose payload is made of its index.
pub fn frame(term: u64, index: u64, payload_bytes: usize) -> Frame {
    let payload: Vec<u8> = (0..payload_bytes)
        .map(|at| (index as usize * 31 + at * 7 + term as usize) as u8)
        .collect();
    Frame::encode(LogId::new(term, index), Kind::Normal, &payload)
}

/// Opens a log on `disk` in the usual place.
pub fn open(disk: &SimDisk, options: Options) -> Result<(Log, Recovered), OpenError> {
    Log::open(Arc::new(disk.clone()), Path::new(DIR), options)
}

/// Runs flushes until nothing waits.
pub fn flush(log: &Log) {
    while let Some(job) = log.next_flush() {
        log.flushed(job.run()).expect("the disk works");
    }
}

/// All entries that can be read, in pieces of at most about `max_bytes`.
pub fn read_all(log: &Log, max_bytes: usize) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        let next = log.first_index() + frames.len() as u64;
        let piece = log
            .read(next, u64::MAX, max_bytes)
            .expect("readable entries");
        if piece.is_empty() {
            return frames;
        }
        frames.extend(piece);
    }
}

/// The log at one moment, as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    pub base: Base,
    pub entries: Vec<Frame>,
    pub purged: Option<LogId>,
    pub hard_state: Option<Bytes>,
}

impl Moment {
    const START: Moment = Moment {
        base: Base::START,
        entries: Vec::new(),
        purged: None,
        hard_state: None,
    };

    pub fn last(&self) -> Option<LogId> {
        self.entries.last().map(Frame::id).or(self.base.last)
    }

    /// Id and chain value after the entry before `index`.
    pub fn base_before(&self, index: u64) -> Base {
        let count = (index - self.base.next_index()) as usize;
        let before = &self.entries[..count];
        Base {
            last: before.last().map(Frame::id).or(self.base.last),
            chain: before.iter().fold(self.base.chain, Chain::next),
        }
    }

    /// What differs between this and the log, if anything. The log may have released a part of what this has.
    pub fn difference(&self, log: &Log) -> Option<String> {
        let (first, last) = (log.first_index(), self.last());
        if log.last_id() != last {
            return Some(format!("last is {:?}, should be {last:?}", log.last_id()));
        }
        if first < self.base.next_index() {
            return Some(format!("first is {first}, before the base {:?}", self.base));
        }
        let base = self.base_before(first);
        if read_all(log, 400) != self.entries[(first - self.base.next_index()) as usize..] {
            return Some("entries differ".to_string());
        }
        if log.last_chain() != self.base_before(last.map_or(0, |id| id.index + 1)).chain {
            return Some("the last chain value differs".to_string());
        }
        let base_of_log = base.last.map(|id| {
            (
                log.id_at(id.index).unwrap(),
                log.chain_at(id.index).unwrap(),
            )
        });
        if base_of_log.is_some_and(|found| found != (base.last, Some(base.chain))) {
            return Some(format!("the base is {base_of_log:?}, should be {base:?}"));
        }
        for index in first..self.base.next_index() + self.entries.len() as u64 {
            let here = self.base_before(index + 1);
            if (log.id_at(index).unwrap(), log.chain_at(index).unwrap())
                != (here.last, Some(here.chain))
            {
                return Some(format!("id or chain value of {index} differs"));
            }
        }
        let purged = self.purged.filter(|id| id.index >= first).or(base.last);
        if log.purged() != purged {
            return Some(format!(
                "purged is {:?}, should be {purged:?}",
                log.purged()
            ));
        }
        if log.hard_state() != self.hard_state {
            return Some(format!(
                "hard state is {:?}, should be {:?}",
                log.hard_state(),
                self.hard_state
            ));
        }
        None
    }
}

/// A log and its model.
pub struct Pair {
    pub disk: SimDisk,
    pub log: Log,
    options: Options,
    /// All moments since the log was opened; the last is now.
    history: Vec<Moment>,
    /// Which moment each ticket stands for.
    tickets: Vec<(Ticket, usize)>,
    /// The latest moment that was told durable.
    durable: usize,
}

impl Pair {
    pub fn new(disk: SimDisk, options: Options) -> Pair {
        let (log, _) = open(&disk, options).expect("a new log");
        Pair {
            disk,
            log,
            options,
            history: vec![Moment::START],
            tickets: Vec::new(),
            durable: 0,
        }
    }

    pub fn now(&self) -> &Moment {
        self.history.last().expect("there is always a moment")
    }

    pub fn next_index(&self) -> u64 {
        self.now().last().map_or(0, |id| id.index + 1)
    }

    pub fn append(&mut self, term: u64, payload_bytes: &[usize]) {
        let next = self.next_index();
        let frames: Vec<Frame> = payload_bytes
            .iter()
            .zip(next..)
            .map(|(bytes, i)| frame(term, i, *bytes))
            .collect();
        let ticket = self.log.append(&frames).expect("entries that follow");
        for frame in frames {
            self.change(|now| now.entries.push(frame));
        }
        self.note(ticket);
    }

    pub fn truncate_after(&mut self, keep: Option<u64>) {
        let ticket = self
            .log
            .truncate_after(keep)
            .expect("a cut above what was purged");
        let count = keep
            .map_or(0, |keep| keep + 1)
            .saturating_sub(self.now().base.next_index());
        self.change(|now| now.entries.truncate(count as usize));
        self.note(ticket);
    }

    pub fn save_hard_state(&mut self, text: String) {
        let ticket = self
            .log
            .save_hard_state(Bytes::from(text.clone()))
            .expect("a working disk");
        self.change(|now| now.hard_state = Some(Bytes::from(text)));
        self.note(ticket);
    }

    pub fn reset(&mut self, base: Base) {
        let ticket = self.log.reset(base).expect("a working disk");
        if self.now().purged.is_some() {
            self.change(|now| now.purged = None);
        }
        self.change(|now| {
            now.base = base;
            now.entries.clear();
        });
        self.note(ticket);
    }

    pub fn purge(&mut self, upto: u64) {
        let id = self.log.id_at(upto).unwrap().expect("an entry");
        let moves = self.log.purged().is_none_or(|purged| purged.index < upto);
        let ticket = self.log.purge(id).expect("an entry of the log");
        if moves {
            self.change(|now| now.purged = Some(id));
        }
        self.note(ticket);
    }

    pub fn release(&mut self, upto: u64) {
        // Only what lies before the log's first entry changes, and the model keeps that.
        self.log.release(upto).expect("a working disk");
    }

    /// Runs one flush, if there is something to flush. An I/O error is a reason to crash.
    pub fn flush(&mut self) -> Result<(), String> {
        let Some(job) = self.log.next_flush() else {
            return Ok(());
        };
        let done = job.run();
        let ticket = self
            .log
            .flushed(done)
            .map_err(|poisoned| poisoned.to_string())?;
        let moments = self
            .tickets
            .iter()
            .filter(|(other, _)| *other <= ticket)
            .map(|(_, moment)| *moment);
        self.durable = moments.max().unwrap_or(self.durable).max(self.durable);
        Ok(())
    }

    /// What is in memory agrees with the model.
    pub fn check(&self) {
        assert_eq!(
            self.now().difference(&self.log),
            None,
            "the log in memory differs from the model"
        );
    }

    /// The machine goes down and comes back; while it comes back it may go down again, after so many operations.
    pub fn crash(&mut self, seed: u64, again_after: Option<u64>) {
        self.disk.crash(seed);
        if let Some(operations) = again_after {
            self.disk.fail_all_after(operations);
            let _ = open(&self.disk, self.options);
            self.disk.crash(seed ^ 0x5555);
        }
        self.reopen();
    }

    /// The process ends and starts again.
    pub fn reopen(&mut self) {
        let (log, _) = open(&self.disk, self.options)
            .unwrap_or_else(|error| panic!("a crash is no damage: {error}"));
        let differences: Vec<_> = self.history[self.durable..]
            .iter()
            .map(|moment| moment.difference(&log))
            .collect();
        let Some(found) = differences.iter().position(Option::is_none) else {
            panic!("found no moment since the last durable one, but: {differences:#?}");
        };
        let moment = self.history[self.durable + found].clone();
        assert_eq!(log.durable_index(), moment.last().map(|id| id.index));
        (self.history, self.tickets, self.durable) = (vec![moment], Vec::new(), 0);
        self.log = log;
    }

    fn change(&mut self, change: impl FnOnce(&mut Moment)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.history.push(next);
    }

    fn note(&mut self, ticket: Ticket) {
        self.tickets.push((ticket, self.history.len() - 1));
    }
}
