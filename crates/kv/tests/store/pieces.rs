//! However much is applied and not durable, it becomes durable in pieces, each in a transaction of its own: room for what is applied next
//! comes after the first. Between two pieces the durable state is what the commands up to its position lead to, as always.

use crate::harness::*;
use bytes::Bytes;
use eaves::StateMachine;
use eaves_kv::proto::etcdserverpb::*;
use eaves_kv::store::{KvCommand, PIECE_BYTES, Store};
use eaves_log::sim::SimDisk;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/data";

/// Bytes of one value.
const VALUE_BYTES: usize = 96 << 10;

/// Commands that are applied and wait, in calls of one each.
const WAITING: usize = 64;

/// What a transaction may write beside the records: the values of one call of `apply`, rows of notes, and the inner pages of redb's trees
/// with those that say which pages are free.
const ASIDE_BYTES: usize = 512 << 10;

fn open(disk: &SimDisk) -> Store {
    Store::open_on(Arc::new(disk.clone()), Path::new(DIR)).expect("the state is whole")
}

/// Puts of one key each, of which all but `distinct` replace an earlier one.
fn puts(count: usize, distinct: usize) -> Vec<Bytes> {
    let put = |number: usize| PutRequest {
        key: format!("key{}", number % distinct).into(),
        value: vec![number as u8; VALUE_BYTES].into(),
        ..Default::default()
    };
    (0..count)
        .map(|number| KvCommand::Put(put(number)).encode())
        .collect()
}

/// Applies `log` from entry `from` on, each in a call of its own.
fn apply_singly(store: &Store, log: &[Bytes], from: usize) {
    for end in from + 1..=log.len() {
        apply_log(store, &log[..end], end - 1);
    }
}

/// Bytes written to the state file before each of its syncs.
fn written_between_syncs(trace: &[String]) -> Vec<usize> {
    let mut sums = vec![0];
    for line in trace.iter().filter(|line| line.contains("state.redb")) {
        if line.starts_with("sync ") {
            sums.push(0);
        } else if line.starts_with("write ") {
            // "write NAME OFFSET+BYTES"
            let bytes = line.rsplit('+').next().expect("a part");
            *sums.last_mut().expect("one sum") += bytes.parse::<usize>().expect("a number");
        }
    }
    sums
}

#[test]
fn no_transaction_writes_much_more_than_a_piece_however_much_waits() {
    let disk = SimDisk::new();
    let store = open(&disk);
    apply_singly(&store, &puts(WAITING, WAITING), 0);
    let waiting_bytes = store.unpersisted_bytes();
    assert!(
        waiting_bytes > 5 * PIECE_BYTES,
        "a few pieces: {waiting_bytes}"
    );
    disk.start_trace();
    let mut last = 0;
    while last < WAITING as u64 {
        let before_bytes = store.unpersisted_bytes();
        let durable = store.persist(WAITING as u64).unwrap().unwrap();
        assert!(durable > last, "every piece moves the durable state");
        let freed_bytes = before_bytes - store.unpersisted_bytes();
        assert!(
            freed_bytes <= PIECE_BYTES,
            "{freed_bytes} bytes in one piece"
        );
        last = durable;
    }
    assert_eq!(store.unpersisted_bytes(), 0);
    let most = written_between_syncs(&disk.take_trace()).into_iter().max();
    assert!(
        most <= Some(PIECE_BYTES + ASIDE_BYTES),
        "{most:?} bytes were written before one sync"
    );
}

#[test]
fn a_call_of_apply_is_never_divided_however_large() {
    let store = open(&SimDisk::new());
    let log = puts(WAITING, WAITING);
    apply_log(&store, &log, 0);
    apply_log(&store, &[log.clone(), puts(1, 1)].concat(), WAITING);
    assert_eq!(
        store.persist(WAITING as u64 + 1).unwrap(),
        Some(WAITING as u64)
    );
    assert_eq!(
        store.persist(WAITING as u64 + 1).unwrap(),
        Some(WAITING as u64 + 1)
    );
}

/// The power fails before each operation of the disk while pieces become durable; the state found is that of some command, at least the
/// last that was told durable, and at most one piece more.
#[test]
fn a_power_failure_amid_the_pieces_leaves_what_the_commands_up_to_its_position_lead_to() {
    let log = puts(WAITING, 10);
    let disk = SimDisk::new();
    apply_singly(&open(&disk), &log, 0);
    let (mut ends, mut told_least) = (std::collections::BTreeSet::new(), 0);
    for operations in 0.. {
        let disk = SimDisk::new();
        let store = open(&disk);
        apply_singly(&store, &log, 0);
        disk.fail_all_after(operations);
        let mut told = 0;
        while told < WAITING {
            match store.persist(WAITING as u64) {
                Ok(durable) => told = durable.unwrap_or(0) as usize,
                Err(_) => break,
            }
        }
        let is_whole = told == WAITING;
        disk.crash(operations);
        let found = assert_is_prefix(&open(&disk), &log);
        assert!(told <= found, "told durable {told}, found {found}");
        ends.insert(found);
        told_least += u32::from(found > 0 && found < WAITING);
        if is_whole {
            break;
        }
    }
    assert!(
        ends.len() > 5 && told_least > 10,
        "the power failed between pieces: {ends:?}"
    );
}

/// Returns how many commands the state stands for.
fn assert_is_prefix(store: &Store, log: &[Bytes]) -> usize {
    let found = durable_index(store);
    let expected = open(&SimDisk::new());
    apply_log(&expected, &log[..found], 0);
    assert_eq!(store.revision(), expected.revision(), "of {found} commands");
    let range = |store: &Store| store.range(&all()).unwrap();
    assert_eq!(range(store), range(&expected), "of {found} commands");
    found
}

/// A scrub in each of many pieces would make each as long as the whole was.
#[test]
fn a_scrub_waits_for_the_last_piece() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut log = puts(WAITING, 4);
    log.push(compaction(WAITING).encode());
    apply_singly(&store, &log, 0);
    let index = log.len() as u64;
    while store.persist(index).unwrap() < Some(index) {}
    log.extend(puts(WAITING, WAITING));
    apply_singly(&store, &log, index as usize);
    let (index, scrubbed) = (log.len() as u64, store.scrubbed_revision());
    while store.persist(index).unwrap() < Some(index) {
        assert_eq!(*scrubbed.borrow(), -1, "pieces are left");
    }
    assert_eq!(*scrubbed.borrow(), WAITING as i64, "nothing is left");
}

/// Rows are neighbours in the order of revisions; removed in that of the index, one key after the other, each would be alone in its page.
#[test]
fn a_scrub_removes_neighbours_together() {
    const KEYS: usize = 500;
    const VERSIONS: usize = 40;
    const VALUE_BYTES: usize = 200;
    let disk = SimDisk::new();
    let store = open(&disk);
    let put = |number: usize| PutRequest {
        key: format!("key{:05}", number % KEYS).into(),
        value: vec![number as u8; VALUE_BYTES].into(),
        ..Default::default()
    };
    let mut log: Vec<Bytes> = (0..KEYS * VERSIONS)
        .map(|number| KvCommand::Put(put(number)).encode())
        .collect();
    log.push(compaction(KEYS * VERSIONS).encode());
    apply_log(&store, &log, 0);
    let index = log.len() as u64;
    while store.persist(index).unwrap() < Some(index) {}
    let rows = store.db_size_in_use_bytes();
    disk.start_trace();
    while store.has_upkeep() {
        store.persist(index).unwrap();
    }
    let written: usize = written_between_syncs(&disk.take_trace()).iter().sum();
    let removed = (rows - store.db_size_in_use_bytes()) as usize;
    assert!(
        removed > (KEYS * (VERSIONS - 1) - KEYS) * VALUE_BYTES,
        "{removed}"
    );
    assert!(
        written < removed,
        "{written} bytes written to remove {removed}"
    );
}

fn compaction(revision: usize) -> KvCommand {
    KvCommand::Compact(CompactionRequest {
        revision: revision as i64,
        physical: false,
    })
}
