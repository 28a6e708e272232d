//! Runs what the fuzzers found worth keeping as ordinary tests, on any compiler: the committed corpus of a target, and random changes
//! of what is in it.
//!
//! A fuzzer needs a special build and hours; it runs now and then. What it found stays in `fuzz/corpus`, and this replays it on every
//! change. It is a help for tests only: nothing that is shipped depends on it.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use std::path::{Path, PathBuf};

/// Random inputs for each target, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 2_000;

/// The longest random input. The fuzzers try longer ones.
const MAX_BYTES: usize = 2_048;

/// One change of an input. Places are shares of the whole range of `u16`.
#[derive(Clone, Debug)]
enum Edit {
    Set(u16, u8),
    Flip(u16, u8),
    Insert(u16, Vec<u8>),
    Remove(u16, u8),
    Repeat(u16, u8),
    CutOff(u16),
    /// What follows is that of another input.
    Splice(u16, prop::sample::Index, u16),
}

/// Calls `entry` with every input in `fuzz/corpus/TARGET`, then with random changes of them and with random bytes. `entry` panics on
/// what must not be.
///
/// # Panics
///
/// If `entry` does, naming the input; if the target has no corpus.
pub fn replay(target: &str, entry: fn(&[u8])) {
    let corpus = corpus(target);
    for (path, input) in &corpus {
        println!("{}", path.display());
        entry(input);
    }
    let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").map_or(CASES, |cases| {
            cases.parse().expect("PROPTEST_CASES is a number")
        }),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let changed = (
        any::<prop::sample::Index>(),
        prop::collection::vec(edit(), 1..6),
    );
    let changed = changed.prop_map(|(index, edits)| {
        let mut input = index.get(&inputs).clone();
        for edit in edits {
            change(&mut input, edit, &inputs);
        }
        input.truncate(MAX_BYTES);
        input
    });
    let random = prop::collection::vec(any::<u8>(), 0..256);
    let strategy = prop_oneof![8 => changed, 1 => random];
    let run = TestRunner::new(config).run(&strategy, |input| {
        entry(&input);
        Ok(())
    });
    match run {
        Ok(()) => {}
        Err(TestError::Fail(why, input)) => {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("{target}: {why}: with the input {hex}");
        }
        Err(error) => panic!("{target}: {error}"),
    }
}

/// The committed inputs of a target, in order of their names.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the directory can be read").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", directory.display());
    let read = |path: PathBuf| {
        let input = std::fs::read(&path).expect("the input can be read");
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<u16>;
    // Where lengths, counts and indexes are wrong they are mostly wrong like this.
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(vec![0, 1, 0x7f, 0x80, 0xff])
    ];
    prop_oneof![
        4 => (place(), byte).prop_map(|(at, byte)| Edit::Set(at, byte)),
        4 => (place(), 0..8u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        2 => (place(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        2 => (place(), 1..20u8).prop_map(|(at, count)| Edit::Remove(at, count)),
        1 => (place(), 1..40u8).prop_map(|(at, count)| Edit::Repeat(at, count)),
        1 => place().prop_map(Edit::CutOff),
        2 => (place(), any::<prop::sample::Index>(), place()).prop_map(|(at, other, from)| Edit::Splice(at, other, from)),
    ]
}

fn change(input: &mut Vec<u8>, edit: Edit, others: &[Vec<u8>]) {
    let len = input.len();
    let scale = |share: u16, len: usize| usize::from(share) * len / (1 << 16);
    match edit {
        Edit::Set(at, byte) if len > 0 => input[scale(at, len)] = byte,
        Edit::Flip(at, bit) if len > 0 => input[scale(at, len)] ^= 1 << bit,
        Edit::Set(..) | Edit::Flip(..) => {}
        Edit::Insert(at, bytes) => {
            let at = scale(at, len + 1);
            drop(input.splice(at..at, bytes));
        }
        Edit::Remove(at, count) => {
            let at = scale(at, len);
            drop(input.drain(at..(at + usize::from(count)).min(len)));
        }
        Edit::Repeat(at, count) => {
            let at = scale(at, len);
            let piece = input[at..(at + usize::from(count)).min(len)].to_vec();
            drop(input.splice(at..at, piece));
        }
        Edit::CutOff(at) => input.truncate(scale(at, len)),
        Edit::Splice(at, other, from) => {
            let other = other.get(others);
            input.truncate(scale(at, len));
            input.extend_from_slice(&other[scale(from, other.len())..]);
        }
    }
}
