//! Nodes that were away: a listener is brought up by the log as long as there is one, and by a snapshot only when there is none (B9).

use crate::EAVES;
use bytes::Bytes;
use eaves_harness::cluster::{Cluster, Node, leader_of};
use eaves_harness::process::eventually;
use futures_util::{StreamExt, stream};

const PUTS_AT_A_TIME: usize = 50;
const SEGMENT_BYTES: u64 = 1 << 20;
const RETENTION_BYTES: u64 = 4 << 20;

#[tokio::test]
async fn a_listener_far_behind_gets_a_delta_and_a_snapshot_only_when_the_log_is_gone() {
    let (segment, retention) = (SEGMENT_BYTES.to_string(), RETENTION_BYTES.to_string());
    let flags = [
        "--capacity",
        "1",
        "--log-segment-bytes",
        &segment,
        "--log-retention-bytes",
        &retention,
        "--snapshot-count",
        "20",
    ];
    // With two followers, each with room for one, the third listener hangs below another.
    let mut cluster = Cluster::start(EAVES, 3, 3, &flags).await;
    cluster.node("v1").put("before", "1").await.expect("a put");

    // A thousand entries, well within the retention.
    cluster.node_mut("l3").kill();
    put_many(cluster.node("v1"), "small", 1000, 1 << 10).await;
    cluster.node_mut("l3").start();
    cluster.node_mut("l3").ready().await;
    cluster.converge().await;
    assert_eq!(cluster.node("l3").metric("snapshots_received_total"), 0);

    // Three times the retention: nobody has the log from there any more. A voter is away as well.
    let leader = leader_of(&cluster.whole_tree("v1").await).expect("a whole tree has a leader");
    let away = if leader == "v3" { "v2" } else { "v3" };
    for name in ["l3", away] {
        cluster.node_mut(name).kill();
    }
    cluster.whole_tree("v1").await;
    put_many(cluster.node("v1"), "large", 100, 128 << 10).await;
    for node in cluster.nodes().iter().filter(|node| node.is_running()) {
        let what = format!("{} has let go of its oldest log", node.name);
        eventually(&what, async || {
            let kept = node.metric("log_disk_bytes");
            (kept <= RETENTION_BYTES + SEGMENT_BYTES).then_some(())
        })
        .await;
    }
    for name in ["l3", away] {
        cluster.node_mut(name).start();
        cluster.node_mut(name).ready().await;
    }
    cluster.converge().await;
    for node in cluster.nodes() {
        let needed = node.name == "l3" || node.name == away;
        let received = node.metric("snapshots_received_total");
        assert_eq!(received, u64::from(needed), "{}", node.name);
    }

    // What came by snapshot is as good as what came by log: from here on a delta serves again.
    for name in ["l3", away] {
        cluster.node_mut(name).kill();
    }
    put_many(cluster.node("v1"), "more", 100, 1 << 10).await;
    for name in ["l3", away] {
        cluster.node_mut(name).start();
        cluster.node_mut(name).ready().await;
    }
    cluster.converge().await;
    for name in ["l3", away] {
        let received = cluster.node(name).metric("snapshots_received_total");
        assert_eq!(received, 0, "{name}");
    }
}

/// Puts `count` keys, some at a time, each with a value of `value_bytes`; again where an election was in the way.
async fn put_many(node: &Node, prefix: &str, count: usize, value_bytes: usize) {
    let put = |number: usize| async move {
        let value = Bytes::from(vec![b'a' + (number % 26) as u8; value_bytes]);
        let put = async || {
            node.put(format!("{prefix}/{number}"), value.clone())
                .await
                .ok()
        };
        eventually("a put is acknowledged", put).await;
    };
    let puts = stream::iter(0..count).map(put);
    puts.buffer_unordered(PUTS_AT_A_TIME).collect::<()>().await;
}
