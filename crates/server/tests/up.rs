//! `eaves up` from start to end with real processes: a group and its tree come up, every command works on every node, an interruption
//! stops all of it, a second start finds the data again, and no child outlives its parent.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Nothing here takes this long unless it hangs.
const HANG: Duration = Duration::from_secs(90);
/// Ports that one `eaves up` of these tests may use.
const PORT_RANGE: u16 = 100;

/// A running `eaves up`. Dropping it kills it.
struct Up {
    process: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Up {
    fn start(data_dir: &Path, flags: &[&str]) -> Up {
        let mut process = Command::new(env!("CARGO_BIN_EXE_eaves"))
            .args(["up", "--data-dir"])
            .arg(data_dir)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (sender, lines) = mpsc::channel();
        let stdout = process.stdout.take().expect("stdout is piped");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Up {
            process,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line that holds `part`.
    fn wait_for(&mut self, part: &str) -> String {
        let deadline = Instant::now() + HANG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(_) => {
                    let _ = self.process.kill();
                    let stderr = self.stderr();
                    panic!("{part:?} was not printed: {:#?}\n{}", self.seen, stderr);
                }
            }
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            stderr.read_to_string(&mut text).expect("stderr is text");
        }
        text
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.process.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill {signal} failed");
    }

    /// Interrupts it and waits for its end.
    fn interrupt(mut self) {
        self.signal("-INT");
        self.wait_for("stopping");
        let status = wait(&mut self.process);
        assert_eq!(status, Some(0), "{}", self.stderr());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait(process: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + HANG;
    while Instant::now() < deadline {
        if let Some(status) = process.try_wait().expect("our own child") {
            return status.code();
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("the process does not end");
}

/// A base port with a free range above it; `test` keeps the tests of this file apart.
fn base_port(test: u16) -> u16 {
    // Below the ports that systems give to outgoing connections.
    let first = 10_000 + (std::process::id() % 30) as u16 * 600 + test * PORT_RANGE;
    (0..50)
        .map(|attempt| 10_000 + (first - 10_000 + attempt * 600) % 22_000)
        .find(|base| range_is_free(*base))
        .expect("some range of ports is free")
}

fn range_is_free(base: u16) -> bool {
    (base..base + PORT_RANGE).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

/// Waits until every port of the range is free again: then no child runs.
fn wait_until_free(base: u16) {
    let deadline = Instant::now() + HANG;
    while !range_is_free(base) {
        assert!(
            Instant::now() < deadline,
            "a child still holds a port from {base} on"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn eaves(endpoint: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eaves"))
        .args(arguments)
        .args(["--endpoints", endpoint])
        .output()
        .expect("the binary starts")
}

/// Runs a command that must succeed, and gives what it printed.
fn succeed(endpoint: &str, arguments: &[&str]) -> String {
    let output = eaves(endpoint, arguments);
    assert!(
        output.status.success(),
        "{arguments:?} on {endpoint}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("the output is text")
}

fn json(endpoint: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(endpoint, arguments)).expect("the output is JSON")
}

fn endpoint(base: u16, number: u16) -> String {
    format!("127.0.0.1:{}", base + 10 * number)
}

#[test]
fn a_group_comes_up_serves_stops_and_resumes() {
    let place = tempfile::tempdir().expect("a directory");
    let data_dir = place.path().join("data");
    let base = base_port(0);
    let base_text = base.to_string();
    let flags = [
        "--listeners",
        "3",
        "--capacity",
        "1",
        "--base-port",
        &base_text,
    ];

    let mut up = Up::start(&data_dir, &flags);
    up.wait_for("all nodes are ready");
    for name in ["v1", "v2", "v3", "l1", "l2", "l3"] {
        assert!(
            up.seen.iter().any(|line| line.starts_with(name)),
            "{name} has no line: {:#?}",
            up.seen
        );
    }
    every_command_works_on_every_node(base);
    the_tree_is_whole(base);
    up.interrupt();
    wait_until_free(base);

    // Without flags: the layout is remembered.
    let mut up = Up::start(&data_dir, &[]);
    up.wait_for("all nodes are ready");
    assert!(
        up.seen[0].contains("resuming 3 voters and 3 listeners"),
        "{:#?}",
        up.seen
    );
    for number in 0..6 {
        assert_eq!(
            succeed(&endpoint(base, number), &["get", "kept"]),
            "kept\nvalue\n"
        );
    }
    // The children see their standard input end.
    up.signal("-KILL");
    wait(&mut up.process);
    wait_until_free(base);
}

fn every_command_works_on_every_node(base: u16) {
    for number in 0..6 {
        let node = endpoint(base, number);
        let key = format!("key/{number}");
        assert_eq!(succeed(&node, &["put", &key, "one"]), "OK\n");
        assert_eq!(succeed(&node, &["get", &key]), format!("{key}\none\n"));
        assert_eq!(
            succeed(&node, &["put", &key, "two", "--prev-kv"]),
            format!("OK\n{key}\none\n")
        );
        assert_eq!(succeed(&node, &["del", &key]), "1\n");
        assert_eq!(succeed(&node, &["get", &key]), "");
        let result = json(
            &node,
            &[
                "bench",
                "put",
                "--total",
                "50",
                "--clients",
                "4",
                "--key-space",
                "50",
                "--json",
            ],
        );
        assert_eq!(
            (&result["succeeded"], &result["errors"]),
            (&Value::from(50), &Value::from(0)),
            "{result}"
        );
        let result = json(
            &node,
            &[
                "bench",
                "get",
                "--total",
                "50",
                "--clients",
                "4",
                "--rate",
                "1000",
                "--json",
            ],
        );
        assert_eq!(result["succeeded"], 50, "{result}");
        let status = json(&node, &["status", "--json"]);
        assert_eq!(status[0]["role"] == "listener", number >= 3, "{status}");
    }
    assert_eq!(
        succeed(&endpoint(base, 5), &["put", "kept", "value"]),
        "OK\n"
    );
    let all = format!("{},{}", endpoint(base, 0), endpoint(base, 5));
    assert_eq!(
        succeed(&all, &["get", "kept", "--print-value-only"]),
        "value\n"
    );
}

fn the_tree_is_whole(base: u16) {
    let rows = json(&endpoint(base, 4), &["tree", "--json"]);
    let rows = rows.as_array().expect("an array");
    assert_eq!(rows.len(), 6, "{rows:?}");
    let with_role = |role: &str| rows.iter().filter(|row| row["role"] == role).count();
    assert_eq!(
        (
            with_role("leader"),
            with_role("follower"),
            with_role("listener")
        ),
        (1, 2, 3),
        "{rows:?}"
    );
    for row in rows {
        let listens = row["role"] == "listener";
        assert_eq!(row["upstream"].is_u64(), listens, "{row}");
        assert_eq!(row["depth"].as_u64() > Some(0), listens, "{row}");
        assert!(
            row["registered"].as_u64() <= row["capacity"].as_u64(),
            "{row}"
        );
    }
    let drawn = succeed(&endpoint(base, 0), &["tree"]);
    assert_eq!(drawn.lines().count(), 1 + 6, "{drawn}");
}

#[test]
fn a_watch_sees_what_another_node_writes() {
    let place = tempfile::tempdir().expect("a directory");
    let base = base_port(1);
    let mut up = Up::start(
        &place.path().join("data"),
        &["--listeners", "1", "--base-port", &base.to_string()],
    );
    up.wait_for("all nodes are ready");
    succeed(&endpoint(base, 0), &["put", "w/1", "first"]);
    let mut watch = Command::new(env!("CARGO_BIN_EXE_eaves"))
        .args([
            "watch",
            "w/",
            "--prefix",
            "--rev",
            "1",
            "--endpoints",
            &endpoint(base, 3),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("stdout is piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!([next(), next(), next()], ["PUT", "w/1", "first"]);
    succeed(&endpoint(base, 1), &["put", "w/2", "second"]);
    assert_eq!([next(), next(), next()], ["PUT", "w/2", "second"]);
    succeed(&endpoint(base, 3), &["del", "w/1"]);
    assert_eq!([next(), next(), next()], ["DELETE", "w/1", ""]);
    watch.kill().expect("our own child");
    watch.wait().expect("our own child");
    up.interrupt();
}

#[test]
fn the_loss_of_a_leader_is_told_and_survived() {
    let place = tempfile::tempdir().expect("a directory");
    let data_dir = place.path().join("data");
    let base = base_port(5);
    let mut up = Up::start(
        &data_dir,
        &["--listeners", "2", "--base-port", &base.to_string()],
    );
    up.wait_for("all nodes are ready");
    let rows = json(&endpoint(base, 3), &["tree", "--json"]);
    let rows = rows.as_array().expect("an array");
    let leader = rows
        .iter()
        .find(|row| row["role"] == "leader")
        .expect("a leader");
    let name = leader["name"].as_str().expect("a name");

    let pid = pid_of(&data_dir.join(name));
    let killed = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    up.wait_for(&format!("{name} was killed"));
    let line = up.wait_for("became leader");
    assert!(!line.starts_with(name), "{line}");
    assert_eq!(succeed(&endpoint(base, 3), &["put", "after", "it"]), "OK\n");
    up.interrupt();
}

/// The process that runs on this data directory.
fn pid_of(data_dir: &Path) -> u32 {
    let wanted = data_dir.as_os_str().as_encoded_bytes();
    let runs_there = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == wanted)
    };
    let processes = std::fs::read_dir("/proc").expect("a list of processes");
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.find(runs_there).expect("a process runs there")
}

#[test]
fn a_node_that_cannot_start_is_told_with_its_last_words() {
    let place = tempfile::tempdir().expect("a directory");
    let (one, other) = (place.path().join("one"), place.path().join("other"));
    let base = base_port(2).to_string();
    let flags = ["--voters", "1", "--listeners", "0", "--base-port", &base];
    let mut up = Up::start(&one, &flags);
    up.wait_for("all nodes are ready");
    up.interrupt();

    // The same directory under another address: another node of another cluster.
    let moved = base_port(3).to_string();
    let flags = ["--voters", "1", "--listeners", "0", "--base-port", &moved];
    std::fs::create_dir(&other).expect("a directory");
    std::fs::rename(one.join("v1"), other.join("v1")).expect("it can be moved");
    let layout = std::fs::read_to_string(one.join("eaves-up.json")).expect("the layout is kept");
    std::fs::write(other.join("eaves-up.json"), layout.replace(&base, &moved))
        .expect("it can be written");

    let mut up = Up::start(&other, &flags);
    assert_eq!(wait(&mut up.process), Some(1));
    let stderr = up.stderr();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let log: PathBuf = other.join("v1").join("log.txt");
    for part in [
        "v1 ended (exit status: 1)",
        "belongs to",
        "--data-dir",
        &log.display().to_string(),
    ] {
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let place = tempfile::tempdir().expect("a directory");
    let base = base_port(4);
    let mut up = Up::start(
        &place.path().join("data"),
        &[
            "--voters",
            "1",
            "--listeners",
            "0",
            "--base-port",
            &base.to_string(),
        ],
    );
    up.wait_for("all nodes are ready");
    // More than a pipe holds.
    let value = "x".repeat(300_000);
    let mut put = Command::new(env!("CARGO_BIN_EXE_eaves"))
        .args(["put", "large", "-", "--endpoints", &endpoint(base, 0)])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    std::io::Write::write_all(
        &mut put.stdin.take().expect("stdin is piped"),
        value.as_bytes(),
    )
    .expect("it reads");
    assert_eq!(wait(&mut put), Some(0));
    let mut get = Command::new(env!("CARGO_BIN_EXE_eaves"))
        .args(["get", "large", "--endpoints", &endpoint(base, 0)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(get.stdout.take());
    assert_eq!(wait(&mut get), Some(0));
    up.interrupt();
}
