//! Real threads: one applies, one persists, some read, some watch. Every answer is of one point in time.

use crate::harness::*;
use bytes::Bytes;
use eaves::{Command, StateMachine};
use eaves_kv::proto::etcdserverpb::{CompactionRequest, RangeRequest};
use eaves_kv::proto::mvccpb::KeyValue;
use eaves_kv::store::{KvCommand, KvError, Store, WatchEvents, WatchItem, WatchSpec};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

const ACCOUNTS: u64 = 10;
const TOTAL: u64 = 1000;
const TRANSFERS: u64 = 3000;

fn account(i: u64) -> String {
    format!("account/{i}")
}

fn amount(value: &Bytes) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

fn sum<'a>(kvs: impl IntoIterator<Item = &'a KeyValue>) -> u64 {
    kvs.into_iter().map(|kv| amount(&kv.value)).sum()
}

fn put_amount(i: u64, amount: u64) -> eaves_kv::proto::etcdserverpb::RequestOp {
    op_put(put(&account(i), &amount.to_string()))
}

/// First all accounts at once, then transfers between two of them.
fn commands() -> Vec<Bytes> {
    let mut balances = vec![TOTAL / ACCOUNTS; ACCOUNTS as usize];
    let all = (0..ACCOUNTS).map(|i| put_amount(i, TOTAL / ACCOUNTS));
    let mut log = vec![KvCommand::Txn(txn(vec![], all.collect(), vec![])).encode()];
    for i in 0..TRANSFERS {
        let (from, to) = (i * 7 % ACCOUNTS, (i * 3 + 1) % ACCOUNTS);
        if from == to || balances[from as usize] == 0 {
            continue;
        }
        balances[from as usize] -= 1;
        balances[to as usize] += 1;
        let ops = [from, to].map(|i| put_amount(i, balances[i as usize]));
        log.push(KvCommand::Txn(txn(vec![], ops.to_vec(), vec![])).encode());
    }
    log
}

fn compaction(revision: i64) -> Bytes {
    let physical = false;
    KvCommand::Compact(CompactionRequest { revision, physical }).encode()
}

fn accounts() -> RangeRequest {
    range("account/", "account0")
}

/// Reads until `done`: money neither appears nor vanishes, and a revision read twice reads the same.
fn read(store: &Store, done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        let response = store.range(&accounts()).unwrap();
        let revision = revision_of(&response.header);
        if revision == 1 {
            continue;
        }
        assert_eq!(sum(&response.kvs), TOTAL, "at revision {revision}");
        let again = RangeRequest {
            revision,
            ..accounts()
        };
        match store.range(&again) {
            Ok(again) => assert_eq!(again.kvs, response.kvs),
            Err(error) => assert_eq!(error, KvError::Compacted),
        }
    }
}

/// Follows all events up to `last`, saying in `seen` how far it is; the accounts add up after every revision.
fn follow(mut events: WatchEvents, last: i64, seen: &AtomicI64) -> BTreeMap<Bytes, KeyValue> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut known: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
    let mut revision = 0;
    while revision < last {
        let item = runtime.block_on(events.recv()).unwrap();
        let WatchItem::Events { events, .. } = item else {
            continue;
        };
        for of_one_revision in events.chunk_by(|a, b| mod_of(a) == mod_of(b)) {
            assert!(mod_of(&of_one_revision[0]) > revision);
            revision = mod_of(&of_one_revision[0]);
            for event in of_one_revision {
                let kv = event.kv.clone().unwrap();
                known.insert(kv.key.clone(), kv);
            }
            assert_eq!(sum(known.values()), TOTAL, "after revision {revision}");
            seen.store(revision, Ordering::Release);
        }
    }
    known
}

fn mod_of(event: &eaves_kv::proto::mvccpb::Event) -> i64 {
    event.kv.as_ref().unwrap().mod_revision
}

#[test]
fn readers_and_watchers_see_whole_commands_only() {
    let node = Node::new();
    let store = &node.store;
    let commands = commands();
    let last = 1 + commands.len() as i64;
    let (applied, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let seen = [AtomicI64::new(0), AtomicI64::new(0)];
    let apply = |data: Bytes| {
        let index = applied.load(Ordering::Acquire) + 1;
        store
            .apply(&[Command { index, data }], index, position(index))
            .unwrap();
        applied.store(index, Ordering::Release);
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| read(store, &done));
        }
        let persister = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                store.persist(applied.load(Ordering::Acquire)).unwrap();
            }
        });
        let followers = seen.each_ref().map(|seen| {
            let (handle, events) = store.watch_hub().open_stream();
            handle.watch(WatchSpec {
                key: bytes("account/"),
                range_end: bytes("account0"),
                start_revision: 2,
                ..WatchSpec::default()
            });
            scope.spawn(move || follow(events, last, seen))
        });
        for (i, command) in commands.into_iter().enumerate() {
            apply(command);
            if i % 50 == 0 {
                // Never what a follower has yet to see.
                let seen = seen.each_ref().map(|seen| seen.load(Ordering::Acquire));
                apply(compaction(seen[0].min(seen[1])));
            }
        }
        let end = store.range(&accounts()).unwrap();
        assert_eq!(revision_of(&end.header), last);
        for follower in followers {
            let known: Vec<KeyValue> = follower.join().unwrap().into_values().collect();
            assert_eq!(known, end.kvs);
        }
        done.store(true, Ordering::Release);
        persister.join().unwrap();
    });
}
