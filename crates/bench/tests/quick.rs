//! The command as a user runs it, from servers to plots, with times that measure nothing.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// How often something is looked at that is waited for.
const POLL: Duration = Duration::from_millis(20);

fn bench(arguments: &[&str], out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eaves-bench"))
        .args(arguments)
        .arg("--out")
        .arg(out)
        .output()
        .expect("the program starts")
}

fn assert_success(output: &Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_figure_leaves_raw_data_a_plot_and_tables() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("performance");
    let document = directory.path().join("performance.md");
    let marks = "<!-- eaves-bench: begin, written by the program -->\n<!-- eaves-bench: end -->\n";
    std::fs::write(&document, format!("before\n{marks}after\n")).unwrap();

    let words = [
        "put",
        "--quick",
        "--rounds",
        "1",
        "--seconds",
        "0.3",
        "--cases",
        "64 clients on 8",
    ];
    assert_success(&bench(&words, &out));

    let read = |path: &str| std::fs::read_to_string(out.join(path)).unwrap();
    let data: serde_json::Value = serde_json::from_str(&read("put.json")).unwrap();
    let measurements = data["measurements"].as_array().unwrap();
    let sides: Vec<&str> = measurements
        .iter()
        .map(|one| one["side"].as_str().unwrap())
        .collect();
    let notes = data["notes"].to_string();
    let with_etcd = match sides[..] {
        ["eaves", "etcd"] => true,
        ["eaves"] => false,
        _ => panic!("{sides:?}"),
    };
    assert_eq!(with_etcd, !notes.contains("etcd is left out"), "{notes}");
    assert!(measurements[0]["values"]["throughput"].as_f64().unwrap() > 0.0);
    assert!(read("put.svg").starts_with("<svg"));
    assert!(read("README.md").contains("| 64 clients on 8 connections |"));
    let document = std::fs::read_to_string(&document).unwrap();
    assert!(
        document.starts_with("before\n") && document.contains("| put |"),
        "{document}"
    );
    // All that is to be reached is beside etcd.
    assert_eq!(document.contains("quick run"), with_etcd, "{document}");

    // The tables come of the raw data alone.
    let tables = read("README.md");
    std::fs::remove_file(out.join("README.md")).unwrap();
    assert_success(&bench(&["--render"], &out));
    assert_eq!(read("README.md"), tables);
}

#[test]
fn what_cannot_be_done_is_said_with_what_can() {
    let directory = tempfile::tempdir().unwrap();
    for (words, part) in [
        (vec!["nothing"], "--list"),
        (vec!["put", "--seconds", "0"], "more than 0"),
        (vec!["put", "--rounds", "0"], "at least 1"),
        (vec!["put", "--etcd", "/no/etcd"], "/no/etcd"),
        (vec!["--quick"], "--render"),
    ] {
        let output = bench(&words, directory.path());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(part), "{said}");
    }
}

fn children(process: u32) -> Vec<String> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn sigterm_ends_the_servers_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_eaves-bench"))
        .args(["put", "--rounds", "1", "--seconds", "600"])
        .arg("--out")
        .arg(directory.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut servers = Vec::new();
    while servers.len() < 3 {
        assert!(bench.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(POLL);
        servers = children(bench.id());
    }
    let status = Command::new("kill")
        .args(["-s", "TERM", &bench.id().to_string()])
        .status();
    assert!(status.expect("kill runs").success());
    assert_eq!(bench.wait().unwrap().code(), Some(1));
    for server in servers {
        assert!(!Path::new("/proc").join(&server).exists(), "{server} lives");
    }
}

fn documents() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

#[test]
fn the_document_names_every_figure() {
    let text = std::fs::read_to_string(documents().join("performance.md")).unwrap();
    let list = bench(&["--list"], Path::new("."));
    assert_success(&list);
    let list = String::from_utf8(list.stdout).unwrap();
    for line in list.lines() {
        let name = line.split(' ').next().unwrap();
        assert!(
            text.contains(&format!("`{name}`")),
            "docs/performance.md does not tell of the figure {name}"
        );
    }
    assert!(list.lines().count() > 10);
}

/// What the documents show is what the raw data beside them gives: nobody has changed a number by hand, or forgotten to write them anew.
#[test]
fn the_documents_tables_are_of_their_raw_data() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("performance");
    std::fs::create_dir(&out).unwrap();
    for entry in std::fs::read_dir(documents().join("performance")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, out.join(path.file_name().unwrap())).unwrap();
    }
    let copy = directory.path().join("performance.md");
    std::fs::copy(documents().join("performance.md"), &copy).unwrap();
    assert_success(&bench(&["--render"], &out));
    for (path, anew) in [
        ("performance.md", copy),
        ("performance/README.md", out.join("README.md")),
    ] {
        let anew = std::fs::read_to_string(anew).unwrap();
        let committed = std::fs::read_to_string(documents().join(path)).unwrap();
        assert!(
            anew == committed,
            "docs/{path} is not of its raw data: run `cargo run -p eaves-bench --release -- --render`"
        );
    }
}
