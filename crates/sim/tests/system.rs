//! The simulation of whole nodes does the same again, in another process and beside others.

use std::path::Path;
use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eaves-sim"))
        .arg("system")
        .args(arguments)
        .output()
        .expect("the simulator starts")
}

/// The trace of one seed, as text.
fn trace(dir: &Path, seed: &str, name: &str) -> String {
    let file = dir.join(name);
    let path = file.to_str().expect("a temporary path is text");
    let output = simulate(&["--seeds", "1", "--start", seed, "--trace", path]);
    assert!(
        output.status.success(),
        "seed {seed} does not hold: {output:?}"
    );
    std::fs::read_to_string(&file).expect("a trace was written")
}

#[test]
fn the_same_seed_in_two_processes_gives_the_same_trace() {
    let dir = tempfile::tempdir().unwrap();
    // And one more that is soon done.
    for seed in ["1", "9"] {
        let first = trace(dir.path(), seed, "first");
        let second = trace(dir.path(), seed, "second");
        let differing = first
            .lines()
            .zip(second.lines())
            .find(|(one, other)| one != other);
        assert_eq!(differing, None, "seed {seed} does not repeat itself");
        assert!(first == second, "seed {seed} ends otherwise");
        let lines = first.lines().count();
        assert!(lines > 300, "seed {seed} leaves hardly a trace");
    }
}

#[test]
fn how_many_run_at_a_time_changes_nothing() {
    let hash_of = |jobs: &str| {
        let output = simulate(&["--seeds", "2", "--start", "1", "--jobs", jobs]);
        let text = String::from_utf8(output.stdout).expect("a report is text");
        let hash = text.lines().find(|line| line.contains("trace hash"));
        hash.expect("a report has a hash").to_string()
    };
    assert_eq!(hash_of("1"), hash_of("2"));
}
