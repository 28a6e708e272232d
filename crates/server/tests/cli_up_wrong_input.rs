//! `eaves up` with things in its way: each ends with one line that names the thing and says what to do, and leaves no process behind.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn up(data_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eaves"))
        .arg("up")
        .arg("--data-dir")
        .arg(data_dir)
        .args(arguments)
        .output()
        .expect("the binary starts")
}

fn assert_one_line(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn a_port_in_use_is_named_with_the_flag() {
    let place = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it has an address").port();
    let output = up(
        place.path(),
        &[
            "--base-port",
            &port.to_string(),
            "--voters",
            "1",
            "--listeners",
            "0",
        ],
    );
    assert_one_line(
        &output,
        1,
        &[&format!("port {port} "), "clients of v1", "--base-port"],
    );
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_alone() {
    let place = tempfile::tempdir().expect("a directory");
    fs::write(place.path().join("precious"), "mine").expect("a file");
    let output = up(place.path(), &[]);
    assert_one_line(&output, 1, &["did not make", "--data-dir"]);
    assert_eq!(fs::read_dir(place.path()).expect("it is there").count(), 1);
}

#[test]
fn a_file_in_the_place_of_the_directory_is_named() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("file");
    fs::write(&file, "").expect("a file");
    assert_one_line(&up(&file, &[]), 1, &["file", "--data-dir"]);
}

#[test]
fn impossible_counts_are_usage_errors() {
    for (arguments, part) in [
        (&["--voters", "0"][..], "--voters"),
        (&["--voters", "1"], "only followers feed listeners"),
        (&["--capacity", "0"], "--capacity"),
        (&["--listeners", "1000"], "--listeners"),
        (&["--base-port", "65500"], "--base-port"),
    ] {
        let place = tempfile::tempdir().expect("a directory");
        assert_one_line(&up(place.path(), arguments), 2, &[part]);
    }
}
