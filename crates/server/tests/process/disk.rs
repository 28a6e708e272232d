//! Disks that are full.

use crate::EAVES;
use bytes::Bytes;
use eaves_harness::cluster::{Cluster, Node};
use eaves_kv::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use eaves_kv::proto::etcdserverpb::{Compare, PutRequest, RequestOp, TxnRequest, request_op};
use std::collections::BTreeMap;
use std::process::Command;
use tonic::{Code, Status};

/// What a file may grow to once space is short, in the 512-byte blocks of `ulimit`. The log's segment is larger and has its space
/// reserved, so that it is an append that fails.
const SHORT_BLOCKS: u64 = 768 * 2;
pub const SEGMENT: [&str; 2] = ["--log-segment-bytes", "1048576"];
/// Writes that make the log grow fast, and their number after which any log would have met the limit.
const BALLAST_BYTES: usize = 64 << 10;
const BALLAST_MAX: usize = 100;

#[tokio::test]
async fn a_full_disk_ends_a_node_with_a_clear_error_and_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(EAVES, 1, 0, &SEGMENT).await;
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
    let mut cluster = Cluster::start(EAVES, 3, 1, &SEGMENT).await;
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
pub fn ballast() -> TxnRequest {
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
    let line = node.last_line();
    assert_eq!(status.code(), Some(1), "{line}");
    let segments = node.data_dir.join("log").display().to_string();
    for part in [&segments, "File too large", "space"] {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
    node.assert_no_panic();
}
