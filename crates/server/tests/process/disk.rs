//! Disks that are full, and disks that return something else than was written.

use crate::cluster::{Cluster, Content, Node};
use crate::support::eventually;
use bytes::Bytes;
use eaves_kv::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use eaves_kv::proto::etcdserverpb::{Compare, PutRequest, RequestOp, TxnRequest, request_op};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tonic::{Code, Status};

/// What a file may grow to once space is short, in the 512-byte blocks of `ulimit`. The log's segment is larger and has its space
/// reserved, so that it is an append that fails.
const SHORT_BLOCKS: u64 = 768 * 2;
const SEGMENT: [&str; 2] = ["--log-segment-bytes", "1048576"];
/// Writes that make the log grow fast, and their number after which any log would have met the limit.
const BALLAST_BYTES: usize = 64 << 10;
const BALLAST_MAX: usize = 100;
/// The file that a log begins with.
const FIRST_SEGMENT: &str = "00000000000000000000-0000000001.seg";
/// How much of a record a cut leaves.
const TORN_BYTES: usize = 100;

#[tokio::test]
async fn a_full_disk_ends_a_node_with_a_clear_error_and_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(1, 0, &SEGMENT).await;
    let node = cluster.node_mut("v1");
    let mut acknowledged = BTreeMap::new();
    put_one(node, "before", &mut acknowledged)
        .await
        .expect("a put");
    node.stop().await;
    node.start_as(with_little_space(node));
    node.ready().await;

    let error = fill_log(node, &mut acknowledged).await;
    // Either the node said that it does not know what became of the write, or it was gone before it could.
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert_says_so(node).await;

    // There is space again.
    node.start();
    node.ready().await;
    put_one(node, "after", &mut acknowledged)
        .await
        .expect("a put");
    let content = cluster.converge().await;
    for (key, revision) in &acknowledged {
        let held = content.pairs.iter().find(|pair| pair.key == key);
        let held = held.map(|pair| pair.mod_revision);
        assert_eq!(held, Some(*revision), "{key} was acknowledged");
    }
}

#[tokio::test]
async fn a_group_goes_on_without_the_nodes_whose_disks_are_full() {
    let mut cluster = Cluster::start(3, 1, &SEGMENT).await;
    let short = ["v2", "l1"];
    for name in short {
        let node = cluster.node_mut(name);
        node.stop().await;
        node.start_as(with_little_space(node));
        node.ready().await;
    }
    for _ in 0..BALLAST_MAX {
        // Should v2 lead, then one of these may be lost on the way.
        let _ = cluster.node("v3").kv().txn(ballast()).await;
    }
    for name in short {
        assert_says_so(cluster.node_mut(name)).await;
    }
    let mut acknowledged = BTreeMap::new();
    put_one(cluster.node("v3"), "meanwhile", &mut acknowledged)
        .await
        .expect("a put");
    for name in short {
        cluster.node_mut(name).start();
        cluster.node_mut(name).ready().await;
    }
    let content = cluster.converge().await;
    assert_eq!(content.pairs.len(), acknowledged.len());
}

#[tokio::test]
async fn a_state_file_that_was_moved_away_is_made_anew_or_said_to_be_needed() {
    // So little log is kept that it does not reach back to the beginning.
    let flags = [
        &SEGMENT[..],
        &["--log-retention-bytes", "1048576", "--snapshot-count", "10"],
    ];
    let mut cluster = Cluster::start(3, 1, &flags.concat()).await;
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

    for name in ["v3", "l1"] {
        let node = cluster.node(name);
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
    let line = last_line(voter);
    let part = format!("open the state in {}", voter.data_dir.display());
    assert!(
        line.starts_with("eaves: cannot start v3") && line.contains(&part),
        "{line}"
    );
    assert_no_panic(voter);
    fs::rename(voter.data_dir.join("moved"), state(voter)).expect("move a file of a stopped node");
    voter.start();
    voter.ready().await;

    cluster.node_mut("l1").ready().await;
    assert_eq!(cluster.node("l1").metric("snapshots_received_total"), 1);
    assert_eq!(cluster.converge().await, expected);
}

/// The command of a node whose files may not grow beyond the limit. A write beyond it fails as one on a full disk does: with an error,
/// not with the signal that is the other half of this limit.
fn with_little_space(node: &Node) -> Command {
    let plain = node.command();
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(format!(
            r#"trap "" XFSZ && ulimit -f {SHORT_BLOCKS} && exec "$0" "$@""#
        ))
        .arg(plain.get_program())
        .args(plain.get_args());
    command
}

/// Puts ever other keys with ballast between them until an error; gives the error.
async fn fill_log(node: &Node, acknowledged: &mut BTreeMap<String, i64>) -> Status {
    for number in 0..BALLAST_MAX {
        if let Err(error) = put_one(node, &format!("key/{number}"), acknowledged).await {
            return error;
        }
        if let Err(error) = node.kv().txn(ballast()).await {
            return error;
        }
    }
    panic!("the log has grown without end");
}

async fn put_one(
    node: &Node,
    key: &str,
    acknowledged: &mut BTreeMap<String, i64>,
) -> Result<(), Status> {
    let revision = node.put(key.to_owned(), "value").await?;
    acknowledged.insert(key.to_owned(), revision);
    Ok(())
}

/// A transaction that takes space in the log and none in the state: its condition never holds.
fn ballast() -> TxnRequest {
    let never = Compare {
        key: "nobody".into(),
        target: CompareTarget::Version.into(),
        result: CompareResult::Greater.into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Default::default()
    };
    let put = PutRequest {
        key: "nobody".into(),
        value: Bytes::from(vec![b'x'; BALLAST_BYTES]),
        ..Default::default()
    };
    TxnRequest {
        compare: vec![never],
        success: vec![RequestOp {
            request: Some(request_op::Request::RequestPut(put)),
        }],
        ..Default::default()
    }
}

/// The node ends with exit status 1, and its last line names the file and what is wrong with it.
async fn assert_says_so(node: &mut Node) {
    let status = node.taken().wait().await;
    let line = last_line(node);
    assert_eq!(status.code(), Some(1), "{line}");
    let segments = node.data_dir.join("log").display().to_string();
    for part in [&segments, "File too large", "space"] {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
    assert_no_panic(node);
}

fn last_line(node: &Node) -> String {
    let printed = node.printed();
    printed.lines().last().unwrap_or_default().to_owned()
}

fn assert_no_panic(node: &Node) {
    let printed = node.printed();
    assert!(!printed.contains("panicked"), "{printed}");
}

#[tokio::test]
async fn a_flipped_bit_is_refused_by_name_or_does_not_matter() {
    let mut cluster = Cluster::start(1, 0, &SEGMENT).await;
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
    let mut cluster = Cluster::start(3, 1, &SEGMENT).await;
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
        let line = last_line(node);
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
    assert_no_panic(node);
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
        let request = eaves_kv::proto::etcdserverpb::RangeRequest {
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
