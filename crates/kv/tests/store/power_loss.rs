//! The store on a disk that loses, tears and refuses what was not synced: what is found after a crash is what some prefix of the commands
//! leads to, one that reaches at least as far as was told durable and never further than was allowed.
//!
//! redb is tested here too. The disk is harsher than most: every sector of 512 bytes written since the last sync may be any of its versions,
//! each for itself.

use crate::harness::*;
use crate::model::Model;
use crate::random::{self, model_answer};
use bytes::Bytes;
use eaves::StateMachine;
use eaves_kv::proto::etcdserverpb::*;
use eaves_kv::store::{KvCommand, Store};
use eaves_log::Disk;
use eaves_log::sim::SimDisk;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/data";

/// Something done to a store, or to the disk below it.
#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<KvCommand>),
    /// Persists, letting the log be durable that many entries short of its end.
    Persist(u64),
    /// Takes in a snapshot of a store that stands that many commands further.
    Install(Vec<KvCommand>),
    /// After so many operations of that kind, each one fails.
    Fail(Kind, u64),
    /// So many bytes are left on the disk.
    Fill(u64),
    /// The power fails.
    Crash(u64),
    /// The process is killed, and the disk stays as it is.
    Kill,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Write,
    Sync,
    Any,
}

/// A store on a simulated disk, and what is known of it.
struct Machine {
    disk: SimDisk,
    store: Store,
    /// Every command ever applied, as far as it was not lost.
    log: Vec<KvCommand>,
    /// Told durable.
    persisted: usize,
    /// The furthest that was ever allowed to be durable.
    allowed: usize,
    outcome: Outcome,
}

/// How often what happened; so that a test knows what it has tested.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    crashes: u32,
    kills: u32,
    failures: u32,
    installs: u32,
    /// Restarts that found more than was told durable.
    ahead: u32,
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.crashes += other.crashes;
        self.kills += other.kills;
        self.failures += other.failures;
        self.installs += other.installs;
        self.ahead += other.ahead;
    }
}

impl Machine {
    fn new() -> Self {
        let disk = SimDisk::new();
        Self {
            store: open(&disk),
            disk,
            log: Vec::new(),
            persisted: 0,
            allowed: 0,
            outcome: Outcome::default(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(commands) => self.apply(commands),
            Step::Persist(short) => {
                let index = (self.log.len() as u64).saturating_sub(short);
                self.allowed = self.allowed.max(index as usize);
                match self.store.persist(index) {
                    Ok(durable) => {
                        let durable = durable.unwrap_or(0) as usize;
                        assert!(
                            self.persisted <= durable && durable <= self.allowed,
                            "{} <= {durable} <= {}",
                            self.persisted,
                            self.allowed
                        );
                        self.persisted = durable;
                    }
                    Err(_) => self.fail(),
                }
            }
            Step::Install(commands) => self.install(commands),
            Step::Fail(Kind::Write, n) => self.disk.fail_writes_after(n),
            Step::Fail(Kind::Sync, n) => self.disk.fail_syncs_after(n),
            Step::Fail(Kind::Any, n) => self.disk.fail_all_after(n),
            Step::Fill(bytes) => {
                let used = self.disk.used_bytes();
                self.disk.set_capacity(Some(used + bytes));
            }
            Step::Crash(seed) => self.crash(seed),
            Step::Kill => {
                self.outcome.kills += 1;
                // What the old store does when it is dropped happens to the old disk.
                self.disk = self.disk.fork();
                self.restart();
            }
        }
    }

    fn apply(&mut self, commands: Vec<KvCommand>) {
        let first = self.log.len();
        self.log.extend(commands);
        apply_log(&self.store, &encoded(&self.log), first);
    }

    /// A state that stands further, as another node would send it.
    fn install(&mut self, commands: Vec<KvCommand>) {
        self.outcome.installs += 1;
        let mut log = self.log.clone();
        log.extend(commands);
        let index = log.len();
        let other = open(&SimDisk::new());
        apply_log(&other, &encoded(&log), 0);
        other.persist(index as u64).unwrap();
        let mut source = other.snapshot().unwrap();
        let mut receive = || -> std::io::Result<()> {
            let mut sink = self.store.install()?;
            while let Some(chunk) = source.next_chunk(200)? {
                sink.write_chunk(chunk)?;
            }
            sink.finish(position(index as u64))
        };
        let received = receive();
        self.log = log;
        self.allowed = self.allowed.max(index);
        match received {
            Ok(()) => self.persisted = index,
            Err(_) => self.fail(),
        }
    }

    /// Something failed, so the node stops, with or without a power failure; the disk works again when it is started.
    fn fail(&mut self) {
        self.outcome.failures += 1;
        match self.log.len() % 2 {
            0 => self.crash(self.log.len() as u64),
            _ => self.step(Step::Kill),
        }
    }

    fn crash(&mut self, seed: u64) {
        self.outcome.crashes += 1;
        self.disk.crash(seed);
        self.restart();
    }

    fn restart(&mut self) {
        self.disk.heal();
        self.disk.set_capacity(None);
        self.store = open(&self.disk);
        let found = durable_index(&self.store);
        assert!(
            self.persisted <= found && found <= self.allowed,
            "told durable {}, found {found}, allowed {}",
            self.persisted,
            self.allowed
        );
        self.outcome.ahead += u32::from(found > self.persisted);
        assert_is(&self.store, &model_of(&self.log[..found]));
        assert_eq!(
            self.disk.list(Path::new(DIR)).unwrap(),
            ["state.redb"],
            "nothing is left over"
        );
        // The log may lose what was not durable.
        self.log.truncate(self.allowed);
        self.persisted = found;
        if found < self.log.len() {
            apply_log(&self.store, &encoded(&self.log), found);
        }
    }
}

fn open(disk: &SimDisk) -> Store {
    Store::open_on(Arc::new(disk.clone()), Path::new(DIR)).expect("no crash damages a state")
}

fn encoded(log: &[KvCommand]) -> Vec<Bytes> {
    log.iter().map(KvCommand::encode).collect()
}

fn model_of(log: &[KvCommand]) -> Model {
    let mut model = Model::new();
    for command in log {
        let _ = model_answer(&mut model, command);
    }
    model
}

fn assert_is(store: &Store, model: &Model) {
    assert_eq!(store.revision(), model.revision);
    assert_eq!(store.compact_revision(), model.compact_revision);
    for revision in model.compact_revision.max(1)..=model.revision {
        let request = RangeRequest { revision, ..all() };
        assert_eq!(store.range(&request), model.range(&request));
    }
}

fn command() -> impl Strategy<Value = KvCommand> {
    let compact = |revision| CompactionRequest {
        revision,
        physical: false,
    };
    prop_oneof![
        6 => random::put().prop_map(KvCommand::Put),
        // Some pages full, so that redb's trees grow and its file with them.
        2 => (random::key(), 0..6000usize).prop_map(|(key, len)| KvCommand::Put(PutRequest {
            key,
            value: vec![7; len].into(),
            ..Default::default()
        })),
        3 => random::delete().prop_map(KvCommand::DeleteRange),
        2 => random::txn().prop_map(KvCommand::Txn),
        1 => (1..40i64).prop_map(move |revision| KvCommand::Compact(compact(revision))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let commands = || prop::collection::vec(command(), 1..6);
    let kind = prop_oneof![Just(Kind::Write), Just(Kind::Sync), Just(Kind::Any)];
    prop_oneof![
        8 => commands().prop_map(Step::Apply),
        6 => (0..3u64).prop_map(Step::Persist),
        1 => commands().prop_map(Step::Install),
        2 => (kind, 0..12u64).prop_map(|(kind, n)| Step::Fail(kind, n)),
        1 => (0..40_000u64).prop_map(Step::Fill),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Kill),
    ]
}

#[test]
fn after_a_crash_the_state_is_a_prefix() {
    let total = RefCell::new(Outcome::default());
    let config = ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let steps = prop::collection::vec(step(), 1..50);
    TestRunner::new(config)
        .run(&steps, |steps| {
            let mut machine = Machine::new();
            for step in steps {
                machine.step(step);
            }
            machine.crash(1);
            total.borrow_mut().add(machine.outcome);
            Ok(())
        })
        .unwrap();
    let Outcome {
        crashes,
        kills,
        failures,
        installs,
        ahead,
    } = total.into_inner();
    let all = [crashes, kills, failures, installs, ahead];
    assert!(all.iter().all(|count| *count > 0), "tested: {all:?}");
}

/// redb makes its file long before it says that it is one, and does not open what is left if it is killed in between.
#[test]
fn a_first_start_may_be_cut_anywhere() {
    let mut cuts = 0;
    loop {
        let disk = SimDisk::new();
        disk.fail_all_after(cuts);
        let opened = Store::open_on(Arc::new(disk.clone()), Path::new(DIR));
        let killed = disk.fork();
        let is_whole = opened.is_ok();
        drop(opened);
        killed.heal();
        assert_eq!(open(&killed).revision(), 1);
        for seed in 0..8 {
            let crashed = killed_at(cuts);
            crashed.crash(seed);
            assert_eq!(open(&crashed).revision(), 1);
        }
        if is_whole {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 8, "it has many operations: {cuts}");
}

/// The disk of a first start that was killed after so many operations.
fn killed_at(operations: u64) -> SimDisk {
    let disk = SimDisk::new();
    disk.fail_all_after(operations);
    let _opened = Store::open_on(Arc::new(disk.clone()), Path::new(DIR));
    disk.fork()
}

#[test]
fn a_new_state_file_has_its_name_for_good_before_it_is_used() {
    for seed in 0..16 {
        let disk = SimDisk::new();
        let store = open(&disk);
        apply_log(&store, &puts(1), 0);
        assert_eq!(store.persist(1).unwrap(), Some(1));
        disk.crash(seed);
        assert_eq!(durable_index(&open(&disk)), 1);
    }
}

/// Kernels may take pages for clean that a failed sync has not brought to the disk. A process that starts again reads them, and the next
/// sync has nothing to do for them.
#[test]
fn what_a_failed_sync_left_in_memory_is_written_again_by_the_next_start() {
    // So many pages that a later put leaves some of them as they are.
    let log = puts(200);
    let mut failed = 0;
    for syncs in 0..4 {
        for seed in 0..8 {
            let disk = SimDisk::new();
            let store = open(&disk);
            apply_log(&store, &log[..199], 0);
            disk.fail_syncs_after(syncs);
            failed += u32::from(store.persist(199).is_err());

            let disk = disk.fork();
            disk.heal();
            let store = open(&disk);
            apply_log(&store, &log, durable_index(&store));
            assert_eq!(store.persist(200).unwrap(), Some(200));
            disk.crash(seed);
            assert_eq!(durable_index(&open(&disk)), 200);
        }
    }
    assert!(failed > 0, "a sync has failed");
}

/// The process is killed when a received state has its name, and before the name is durable.
#[test]
fn a_name_given_before_a_kill_is_made_durable_by_the_next_start() {
    let (from, log) = (open(&SimDisk::new()), puts(3));
    apply_log(&from, &log[..2], 0);
    from.persist(2).unwrap();
    let mut found = [0; 3];
    for operations in 0.. {
        for seed in 0..16 {
            let disk = SimDisk::new();
            let store = open(&disk);
            let mut sink = store.install().unwrap();
            let mut source = from.snapshot().unwrap();
            while let Some(chunk) = source.next_chunk(1000).unwrap() {
                sink.write_chunk(chunk).unwrap();
            }
            disk.fail_all_after(operations);
            if sink.finish(position(2)).is_ok() {
                assert!(found[0] > 0 && found[2] > 0, "{found:?}");
                return;
            }

            let disk = disk.fork();
            disk.heal();
            let store = open(&disk);
            let index = durable_index(&store);
            found[index] += 1;
            apply_log(&store, &log, index);
            assert_eq!(store.persist(3).unwrap(), Some(3));
            disk.crash(seed);
            assert_eq!(durable_index(&open(&disk)), 3);
        }
    }
}

fn puts(count: usize) -> Vec<Bytes> {
    let commands: Vec<KvCommand> = (0..count)
        .map(|i| KvCommand::Put(put(&format!("key{i}"), &"value ".repeat(30))))
        .collect();
    encoded(&commands)
}

/// When the name of a received state may or may not be durable, nothing written to either file can be called durable.
#[test]
fn what_is_persisted_after_a_failed_install_is_not_lost() {
    let from = open(&SimDisk::new());
    let log = encoded(&[KvCommand::Put(put("a", "1")), KvCommand::Put(put("b", "2"))]);
    apply_log(&from, &log, 0);
    from.persist(2).unwrap();
    let (mut refused, mut persisted) = (0, 0);
    for operations in 0.. {
        let disk = SimDisk::new();
        let store = open(&disk);
        let mut sink = store.install().unwrap();
        let mut source = from.snapshot().unwrap();
        while let Some(chunk) = source.next_chunk(1000).unwrap() {
            sink.write_chunk(chunk).unwrap();
        }
        disk.fail_all_after(operations);
        let installed = sink.finish(position(2)).is_ok();
        disk.heal();
        let first = durable_index(&store);
        apply_log(&store, &[log.clone(), log.clone()].concat(), first);
        match store.persist(4) {
            Ok(durable) => {
                assert_eq!(durable, Some(4));
                disk.crash(operations);
                assert_eq!(durable_index(&open(&disk)), 4);
                persisted += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("restart the node"), "{error}");
                refused += 1;
            }
        }
        if installed {
            break;
        }
    }
    assert!(refused > 0 && persisted > 1, "{refused} {persisted}");
}
