//! How quick the store is on this machine: `cargo run --release -p eaves-kv --example store_speed [KEYS]`.
//!
//! Applies one put of 256 bytes for each key in batches of 64 while a thread persists every 200 ms, then overwrites, reads, counts, opens
//! the directory again, compacts, and hands puts out to a thousand watchers. One line for each; nothing is judged here.

use bytes::Bytes;
use eaves::{Command, Position, StateMachine};
use eaves_kv::proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest};
use eaves_kv::store::{KvCommand, Store, WatchSpec};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BATCH: u64 = 64;
const VALUE_BYTES: usize = 256;

fn key(i: u64, keys: u64) -> Bytes {
    // Every key once, scattered over the key space: the factor is a prime that does not divide the number of keys.
    let i = i % keys * 1_000_003 % keys;
    format!("/registry/pods/namespace-{}/pod-{i:08}", i % 100).into()
}

fn put(i: u64, keys: u64) -> Bytes {
    KvCommand::Put(PutRequest {
        key: key(i, keys),
        value: vec![i as u8; VALUE_BYTES].into(),
        ..Default::default()
    })
    .encode()
}

fn apply(store: &Store, index: u64, data: Vec<Bytes>) {
    let commands: Vec<Command> = data
        .into_iter()
        .enumerate()
        .map(|(i, data)| Command {
            index: index + i as u64,
            data,
        })
        .collect();
    let last = commands.last().expect("a batch has commands").index;
    let position = Position(Bytes::copy_from_slice(&last.to_le_bytes()));
    store.apply(&commands, last, position).unwrap();
}

/// Applies `count` puts while another thread persists; returns the time spent in `apply`, each batch's longest, and the persists'.
fn apply_all(
    store: &Store,
    first: u64,
    count: u64,
    keys: u64,
) -> (Duration, Duration, Vec<Duration>) {
    let (mut spent, mut longest) = (Duration::ZERO, Duration::ZERO);
    let (applied, done) = (AtomicU64::new(first), AtomicBool::new(false));
    let persists = std::thread::scope(|scope| {
        let persister = scope.spawn(|| {
            let mut times = Vec::new();
            while !done.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(200));
                let start = Instant::now();
                store.persist(applied.load(Ordering::Acquire)).unwrap();
                times.push(start.elapsed());
            }
            times
        });
        let mut next = first;
        while next < first + count {
            let batch = (next..(first + count).min(next + BATCH))
                .map(|i| put(i, keys))
                .collect();
            let start = Instant::now();
            apply(store, next + 1, batch);
            let took = start.elapsed();
            spent += took;
            longest = longest.max(took);
            next += BATCH;
            applied.store(next.min(first + count), Ordering::Release);
        }
        done.store(true, Ordering::Release);
        persister.join().unwrap()
    });
    (spent, longest, persists)
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

/// Resident memory of this process in KiB, as Linux counts it.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

fn main() {
    let keys: u64 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |n| n.parse().expect("a number of keys"));
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = Store::open(dir.path()).unwrap();
    for (what, first, count) in [("new keys", 0, keys), ("overwrites", keys, keys / 2)] {
        let (spent, longest, persists) = apply_all(&store, first, count, keys);
        println!(
            "apply, {what}: {:.2} us a put, longest batch of {BATCH}: {:.1} ms; persists: {}, longest {:.0} ms",
            spent.as_secs_f64() * 1e6 / count as f64,
            longest.as_secs_f64() * 1e3,
            persists.len(),
            persists.iter().max().map_or(0.0, |p| p.as_secs_f64() * 1e3),
        );
    }
    let total = keys + keys / 2;
    timed("last persist", || store.persist(total).unwrap());
    let all = RangeRequest {
        key: b"\0".as_slice().into(),
        range_end: b"\0".as_slice().into(),
        ..Default::default()
    };
    let start = Instant::now();
    for i in 0..100_000 {
        let request = RangeRequest {
            key: key(i * 7, keys),
            ..Default::default()
        };
        assert_eq!(store.range(&request).unwrap().count, 1);
    }
    println!(
        "get from disk: {:.2} us",
        start.elapsed().as_secs_f64() * 1e6 / 1e5
    );
    let counted = RangeRequest {
        count_only: true,
        ..all.clone()
    };
    timed("count all keys", || store.range(&counted).unwrap());
    let limited = RangeRequest { limit: 500, ..all };
    timed("read 500 of all keys", || store.range(&limited).unwrap());
    println!(
        "state file: {} MiB, resident: {} MiB",
        store.db_size_bytes() >> 20,
        resident_kib() >> 10
    );
    drop(store);
    let before = resident_kib();
    let store = timed("open", || Store::open(dir.path()).unwrap());
    println!(
        "resident: {} MiB before, {} MiB after",
        before >> 10,
        resident_kib() >> 10
    );
    let revision = store.revision();
    let compact = KvCommand::Compact(CompactionRequest {
        revision,
        physical: false,
    });
    timed("compact", || {
        apply(&store, total + 1, vec![compact.encode()])
    });
    timed("scrub", || {
        while *store.scrubbed_revision().borrow() < revision {
            store.persist(total + 1).unwrap();
        }
    });
    drop(store);
    let store = timed("open after the scrub", || Store::open(dir.path()).unwrap());
    fan_out(&store, total + 1, keys);
}

/// Applies puts that a thousand streams watch, half of them all keys of the prefix and half one key each that is put.
fn fan_out(store: &Store, first: u64, keys: u64) {
    let hub = store.watch_hub();
    let streams: Vec<_> = (0..1000).map(|_| hub.open_stream()).collect();
    for (i, (handle, _)) in streams.iter().enumerate() {
        let prefix = i % 2 == 0;
        handle.watch(WatchSpec {
            key: if prefix {
                "/registry/".into()
            } else {
                key(i as u64, keys)
            },
            range_end: if prefix {
                "/registry0".into()
            } else {
                Bytes::new()
            },
            ..WatchSpec::default()
        });
    }
    let start = Instant::now();
    for i in 0..500 {
        apply(store, first + i + 1, vec![put(i, keys)]);
    }
    let events = 500 * 500 + 250;
    println!(
        "fan out: {:.3} us an event",
        start.elapsed().as_secs_f64() * 1e6 / f64::from(events)
    );
}
