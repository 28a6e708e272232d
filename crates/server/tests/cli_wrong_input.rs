//! Wrong input on the command line: each ends with the right exit code and one line that names the thing and says what to do.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

/// Runs the binary without any environment that could name a server.
fn eaves(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eaves"))
        .args(arguments)
        .env_remove("EAVES_ENDPOINTS")
        .env_remove("ETCDCTL_ENDPOINTS")
        .env_remove("EAVES_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that `arguments` end with `code` and a single line that holds all of `parts`.
fn assert_one_line(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = eaves(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed something");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    assert!(text.starts_with("eaves: "), "{arguments:?}: {text}");
    for part in parts {
        assert!(
            text.contains(part),
            "{arguments:?}: {part:?} is not in: {text}"
        );
    }
}

/// An address where nobody listens: it was ours a moment ago.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .local_addr()
        .expect("it has an address")
        .to_string()
}

#[test]
fn help_and_version_are_success() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["help", "serve"],
        &["bench", "put", "--help"],
        &["bench", "moves", "--help"],
    ] {
        let output = eaves(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn what_the_parser_refuses_is_a_usage_error() {
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["put", "only-a-key"],
        &["get"],
        &["get", "k", "--limit", "-1"],
        &["listen"],
        &["kick"],
        &["pin", "l1"],
        &["pin", "l1", "v1", "--clear"],
        &["avoid", "l1"],
        &["upstream", "set", "l1"],
        &["what-if", "l1", "up"],
    ] {
        let output = eaves(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let (first, second) = (nobody(), nobody());
    let endpoints = format!("{first},http://{second}");
    for command in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["del", "k"],
        &["watch", "k"],
        &["tree"],
        &["why", "l1"],
        &["what-if", "l1", "down"],
        &["kick", "l1"],
        &["upstream", "set", "l1", "h:1"],
        &["pin", "l1", "l2"],
        &["avoid", "l1", "l2"],
        &["drain", "l1"],
        &["undrain", "l1"],
    ] {
        let arguments = [command, &["--endpoints", &endpoints]].concat();
        assert_one_line(
            &arguments,
            1,
            &["cannot reach a node", "refused", "--endpoints"],
        );
    }
    assert_one_line(
        &["get", "k", "--endpoints", &endpoints],
        1,
        &[&first, &second],
    );
    assert_one_line(
        &["bench", "get", "--endpoints", &first],
        1,
        &["cannot reach", &first],
    );
}

#[test]
fn status_names_every_endpoint_that_does_not_answer() {
    let (first, second) = (nobody(), nobody());
    let output = eaves(&["status", "--endpoints", &format!("{first},{second}")]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains(&first) && text.contains(&second), "{text}");
}

#[test]
fn something_else_that_listens_there_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener
        .local_addr()
        .expect("it has an address")
        .to_string();
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"220 this is no etcd\r\n"));
        }
    });
    assert_one_line(
        &[
            "get",
            "k",
            "--endpoints",
            &address,
            "--command-timeout",
            "2",
        ],
        1,
        &[&address],
    );
}

#[test]
fn wrong_endpoints_are_usage_errors() {
    for (endpoints, part) in [
        ("127.0.0.1", "no port"),
        ("https://a:1", "TLS"),
        ("", "empty"),
        ("a:0", "1 to 65535"),
    ] {
        assert_one_line(
            &["get", "k", "--endpoints", endpoints],
            2,
            &["--endpoints", part],
        );
    }
    assert_one_line(
        &["get", "k", "--command-timeout", "0"],
        2,
        &["--command-timeout"],
    );
    assert_one_line(
        &["get", "k", "--limit", "-1"],
        2,
        &["--limit", "-1 is below 0"],
    );
    assert_one_line(
        &["get", "k", "--serializable", "--max-staleness", "5"],
        2,
        &["--serializable", "--max-staleness"],
    );
}

#[test]
fn a_wrong_variable_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_eaves"))
        .args(["get", "k"])
        .env("EAVES_ENDPOINTS", "nowhere")
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("$EAVES_ENDPOINTS"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn contradictory_flags_are_usage_errors() {
    for (arguments, part) in [
        (&["get", "a", "b", "--prefix"][..], "RANGE_END"),
        (
            &["del", "a", "--prefix", "--from-key"],
            "--prefix and --from-key",
        ),
        (&["get", ""], "KEY is empty"),
        (&["put", "", "v"], "KEY is empty"),
        (&["get", "a", "--keys-only", "--count-only"], "--keys-only"),
        (&["bench", "put", "--clients", "0"], "--clients"),
        (&["bench", "moves", "--changes", "0"], "--changes"),
        (&["bench", "put", "--value-size", "2000000"], "--value-size"),
        (
            &["bench", "get", "--connections", "9", "--clients", "8"],
            "--connections",
        ),
        (&["--log-level", "a=b=c", "get", "k"], "--log-level"),
        (&["kick", ""], "LISTENER is empty"),
        (&["pin", "l1", " "], "UPSTREAM is empty"),
        (&["upstream", "set", "l1", "127.0.0.1"], "no port"),
    ] {
        assert_one_line(arguments, 2, &[part]);
    }
}

#[test]
fn a_recovery_from_nothing_or_to_nowhere_is_refused() {
    let directory = tempfile::tempdir().expect("make a directory");
    let empty = directory.path().display().to_string();
    let absent = format!("{empty}/absent");
    assert_one_line(
        &["recover", "--from", &empty],
        1,
        &[&empty, "holds no node's data"],
    );
    assert_one_line(
        &["recover", "--from", &absent],
        1,
        &[&absent, "no such directory"],
    );
    for (arguments, part) in [
        (&["--yes"][..], "add --voter"),
        (&["--from", &empty], "twice"),
        (&["--voter", "v1"], "NAME=URL,DIR"),
        (&["--voter", "v1=http://0.0.0.0:1,d"], "not to connect to"),
        (
            &["--voter", "v1=http://h:1,d", "--voter", "v1=http://h:2,e"],
            "in common",
        ),
        (&["--initial-cluster-token", ""], "--initial-cluster-token"),
    ] {
        let arguments = [&["recover", "--from", &empty], arguments].concat();
        assert_one_line(&arguments, 2, &[part]);
    }
    assert!(!directory.path().join("absent").exists());
}

#[test]
fn a_directory_that_a_recovery_did_not_finish_is_refused_as_that() {
    let directory = tempfile::tempdir().expect("make a directory");
    let dir = directory.path().display().to_string();
    for (file, content) in [("recovering", ""), ("state.redb", "a part of a copy")] {
        std::fs::write(directory.path().join(file), content).expect("write a file");
    }
    let (clients, peers) = (nobody(), nobody());
    let node = [
        "--data-dir",
        &dir,
        "--listen-client-urls",
        &clients,
        "--listen-peer-urls",
        &peers,
    ];
    for command in [&["serve"][..], &["listen", "--upstream", "h:1"]] {
        let arguments = [command, &node].concat();
        assert_one_line(
            &arguments,
            1,
            &[
                &dir,
                "is not whole",
                "remove all directories that it was to make",
            ],
        );
    }
    assert_one_line(&["recover", "--from", &dir], 1, &[&dir, "is not whole"]);
}

#[test]
fn wrong_flags_of_a_node_are_usage_errors() {
    for (arguments, parts) in [
        (
            &["serve", "--name", "a", "--initial-cluster", "b=http://h:1"][..],
            &["--initial-cluster", "add a="][..],
        ),
        (
            &["serve", "--name", "a", "--initial-cluster", "a=http://h:1"],
            &["--initial-cluster", "make them the same"],
        ),
        (
            &["serve", "--listen-client-urls", "https://127.0.0.1:1"],
            &["--listen-client-urls", "TLS"],
        ),
        (
            &["serve", "--listen-client-urls", "http://0.0.0.0:2379"],
            &["--advertise-client-urls", "HOST"],
        ),
        (
            &["serve", "--election-timeout", "100"],
            &["--election-timeout", "--heartbeat-interval"],
        ),
        (
            &["serve", "--max-connections", "0"],
            &["--max-connections", "give 1 to 1048576, not 0"],
        ),
        (
            &["serve", "--max-request-memory", "1"],
            &["--max-request-memory", "give 2 to 65536 MiB, not 1"],
        ),
        (
            &["listen", "--upstream", "h:1", "--max-watch-streams", "0"],
            &["--max-watch-streams", "give 1 to 1048576, not 0"],
        ),
        (
            &["listen", "--upstream", "h:1", "--max-answer-memory", "-1"],
            &["--max-answer-memory", "-1 is below 2; give 2 or more"],
        ),
        (
            &["serve", "--max-watch-streams", "-1"],
            &["--max-watch-streams", "-1 is below 1; give 1 or more"],
        ),
        (
            &["listen", "--upstream", "127.0.0.1"],
            &["--upstream", "no port"],
        ),
        (
            &["listen", "--upstream", "127.0.0.1:2380"],
            &["--upstream", "itself"],
        ),
    ] {
        assert_one_line(arguments, 2, parts);
    }
}
