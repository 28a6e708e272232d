//! Data directories that are not as their node left them: bits flipped, files taken away, another process on them.

use crate::EAVES;
use crate::disk::{SEGMENT, ballast};
use eaves_harness::cluster::{Cluster, Content, Node};
use eaves_harness::process::{eventually, free_ports};
use eaves_kv::proto::etcdserverpb::RangeRequest;
use std::fs;
use std::path::{Path, PathBuf};

/// The file that a log begins with.
const FIRST_SEGMENT: &str = "00000000000000000000-0000000001.seg";
/// How much of a record a cut leaves.
const TORN_BYTES: usize = 100;

#[tokio::test]
async fn a_flipped_bit_is_refused_by_name_or_does_not_matter() {
    let mut cluster = Cluster::start(EAVES, 1, 0, &SEGMENT).await;
    let node = cluster.node_mut("v1");
    put_some(node).await;
    let expected = node.content(node.revision().await.expect("a read")).await;
    node.stop().await;

    // All of the log was acknowledged and is known to be applied: every byte of it counts, to the last.
    let segment = segment_of(node);
    let end = used_bytes(&segment);
    for at in [10, end / 3, end / 2, end - 300, end - 1] {
        assert!(is_refused(node, &segment, at, &expected).await, "{at}");
    }
    for small in ["log/state", "identity"] {
        let file = node.data_dir.join(small);
        let middle = used_bytes(&file) / 2;
        assert!(is_refused(node, &file, middle, &expected).await, "{small}");
    }
    let state = node.data_dir.join("state.redb");
    let end = used_bytes(&state);
    for part in 1..6 {
        is_refused(node, &state, part * end / 6 + part, &expected).await;
    }
    node.start();
    node.ready().await;
    assert_eq!(node.content(expected.revision).await, expected);
}

#[tokio::test]
async fn damage_in_one_node_of_a_group_never_shows_wrong_data() {
    let mut cluster = Cluster::start(EAVES, 3, 1, &SEGMENT).await;
    put_some(cluster.node("v1")).await;
    let expected = cluster.converge().await;
    for name in ["v3", "l1"] {
        let node = cluster.node_mut(name);
        node.stop().await;
        for (file, _) in contents(&node.data_dir) {
            if used_bytes(&file) > 0 {
                let middle = used_bytes(&file) / 2;
                is_refused(node, &file, middle, &expected).await;
            }
        }
        node.start();
        node.ready().await;

        // A batch that was cut off while it was written: nobody has heard of it, so it may go.
        node.kill();
        let segment = segment_of(node);
        let mut bytes = fs::read(&segment).expect("read the log of a killed node");
        let end = used_bytes(&segment);
        bytes.copy_within(end - TORN_BYTES..end, end + TORN_BYTES);
        fs::write(&segment, bytes).expect("write the log of a killed node");
        node.start();
        node.ready().await;
        assert!(node.printed().contains("torn"), "{}", node.printed());
    }
    assert_eq!(cluster.converge().await, expected);
}

#[tokio::test]
async fn a_state_file_that_was_moved_away_is_made_anew_or_said_to_be_needed() {
    // So little log is kept that it does not reach back to the beginning.
    let flags = [
        &SEGMENT[..],
        &["--log-retention-bytes", "1048576", "--snapshot-count", "10"],
    ];
    let mut cluster = Cluster::start(EAVES, 3, 1, &flags.concat()).await;
    put_some(cluster.node("v1")).await;
    let expected = cluster.converge().await;
    let state = |node: &Node| node.data_dir.join("state.redb");

    // While the log is whole, it is enough.
    let voter = cluster.node_mut("v3");
    voter.stop().await;
    fs::remove_file(state(voter)).expect("remove a file of a stopped node");
    voter.start();
    voter.ready().await;
    assert_eq!(cluster.converge().await, expected);

    for node in cluster.nodes() {
        eventually("the beginning of the log is gone", async || {
            let ballast = cluster.node("v1").kv().txn(ballast()).await;
            ballast.is_ok().then_some(())?;
            fs::metadata(node.data_dir.join("log").join(FIRST_SEGMENT))
                .is_err()
                .then_some(())
        })
        .await;
    }
    for name in ["v3", "l1"] {
        let node = cluster.node_mut(name);
        node.stop().await;
        fs::rename(state(node), node.data_dir.join("moved"))
            .expect("move a file of a stopped node");
        node.start();
    }

    let voter = cluster.node_mut("v3");
    assert_eq!(voter.taken().wait().await.code(), Some(1));
    let line = voter.last_line();
    let part = format!("open the state in {}", voter.data_dir.display());
    assert!(
        line.starts_with("eaves: cannot start v3") && line.contains(&part),
        "{line}"
    );
    voter.assert_no_panic();
    fs::rename(voter.data_dir.join("moved"), state(voter)).expect("move a file of a stopped node");
    voter.start();
    voter.ready().await;

    cluster.node_mut("l1").ready().await;
    assert_eq!(cluster.node("l1").metric("snapshots_received_total"), 1);
    assert_eq!(cluster.converge().await, expected);
}

#[tokio::test]
async fn a_data_directory_is_for_one_process_of_one_node_of_one_cluster() {
    let mut cluster = Cluster::start(EAVES, 2, 1, &[]).await;
    let upstream = cluster.node("v2").peer_address();
    let (serve, listen) = (&["serve"][..], &["listen", "--upstream", &upstream][..]);
    for name in ["v1", "l1"] {
        let node = cluster.node_mut(name);
        let directory = node.data_dir.display().to_string();
        for role in [serve, listen] {
            assert_refuses(&node.data_dir, role, &["another process", &directory]);
        }
        node.stop().await;
        if name == "v1" {
            // Here "intruder" is a voter of a cluster of its own.
            assert_refuses(&node.data_dir, serve, &["belongs to", &directory]);
            assert_refuses(&node.data_dir, listen, &["for a voter", &directory]);
        } else {
            assert_refuses(&node.data_dir, serve, &["for a listener", &directory]);
        }
        node.start();
        node.ready().await;
    }
}

/// A second process on a node's directory, on ports of its own, ends with a line that holds `parts`.
fn assert_refuses(data_dir: &Path, role: &[&str], parts: &[&str]) {
    let ports = free_ports(2);
    let output = EAVES
        .command()
        .args(role)
        .args(["--name", "intruder", "--data-dir"])
        .arg(data_dir)
        .args([
            "--listen-client-urls",
            &format!("http://127.0.0.1:{}", ports[0]),
        ])
        .args([
            "--listen-peer-urls",
            &format!("http://127.0.0.1:{}", ports[1]),
        ])
        .args(["--log-level", "warn"])
        .output()
        .expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{role:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{role:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{role:?}: {part:?} is not in: {text}");
    }
}

async fn put_some(node: &Node) {
    for number in 0..40 {
        let value = format!("value {number} ").repeat(50);
        let put = node.put(format!("key/{number}"), value).await;
        put.expect("a put");
    }
}

/// Starts the stopped node with one bit of `file` flipped. Either it refuses by a line that names the file, and then all is put
/// back, or it holds `expected` all the same, and then it goes on from there. Afterwards it is stopped.
async fn is_refused(node: &mut Node, file: &Path, at: usize, expected: &Content) -> bool {
    let sound = contents(&node.data_dir);
    let is_newest_segment = *file == segment_of(node);
    flip_bit(file, at);
    node.start();
    let place = format!("{} at {at}", file.display());
    let refused = ended_or_ready(node).await;
    if refused {
        let line = node.last_line();
        // The end of a log looks like a write that was cut off; that there was more is known from the state.
        let missing = format!("the log in {} ends at", node.data_dir.join("log").display());
        let named = line.contains(&file.display().to_string())
            || is_newest_segment && line.contains(&missing);
        assert!(
            line.starts_with("eaves: cannot") && named,
            "{place}: {line}"
        );
        restore(&node.data_dir, &sound);
    } else {
        assert_eq!(node.content(expected.revision).await, *expected, "{place}");
        node.stop().await;
    }
    node.assert_no_panic();
    refused
}

/// The newest file of a node's log.
fn segment_of(node: &Node) -> PathBuf {
    let files = contents(&node.data_dir.join("log")).into_iter();
    let segments = files.filter(|(path, _)| path.extension().is_some_and(|end| end == "seg"));
    let (newest, _) = segments.max().expect("a log has a segment");
    newest
}

/// Whether the node, just started, ended with exit status 1; else it is ready.
async fn ended_or_ready(node: &mut Node) -> bool {
    eventually("the node ends or is ready", async || {
        if let Some(status) = node.server().ended() {
            assert_eq!(status.code(), Some(1), "{}", node.printed());
            drop(node.taken());
            return Some(true);
        }
        let request = RangeRequest {
            key: "key/1".into(),
            ..Default::default()
        };
        node.kv().range(request).await.ok().map(|_| false)
    })
    .await
}

/// The length of a file without the zeroes at its end.
fn used_bytes(file: &Path) -> usize {
    let bytes = fs::read(file).expect("read a file of a stopped node");
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)
}

fn flip_bit(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("read a file of a stopped node");
    bytes[at] ^= 1 << (at % 8);
    fs::write(file, bytes).expect("write a file of a stopped node");
}

/// All files of a directory.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("list a directory").path();
        match path.is_dir() {
            true => files.extend(contents(&path)),
            false => files.push((path.clone(), fs::read(&path).expect("read a file"))),
        }
    }
    files
}

/// Brings back the files of [`contents`], and takes away what has come since.
fn restore(directory: &Path, sound: &[(PathBuf, Vec<u8>)]) {
    for (path, _) in contents(directory) {
        fs::remove_file(path).expect("remove a file of a stopped node");
    }
    for (path, bytes) in sound {
        fs::write(path, bytes).expect("write a file of a stopped node");
    }
}
