//! A listener that was away: it is brought up by the log as long as there is one, and by a snapshot only when there is none (B9).

use crate::cluster::{Cluster, Node};
use crate::support::eventually;

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
    let mut cluster = Cluster::start(3, 3, &flags).await;
    cluster.node("v1").put("before", "1").await.expect("a put");

    // A thousand entries, well within the retention.
    cluster.node_mut("l3").kill();
    put_many(cluster.node("v1"), "small", 1000, 1 << 10).await;
    cluster.node_mut("l3").start();
    cluster.node_mut("l3").ready().await;
    cluster.converge().await;
    assert_eq!(cluster.node("l3").metric("snapshots_received_total"), 0);

    // Three times the retention: nobody has the log from there any more.
    cluster.node_mut("l3").kill();
    put_many(cluster.node("v1"), "large", 100, 128 << 10).await;
    for name in ["v1", "v2", "v3", "l1", "l2"] {
        let node = cluster.node(name);
        let what = format!("{name} has let go of its oldest log");
        eventually(&what, async || {
            let kept = node.metric("log_disk_bytes");
            (kept <= RETENTION_BYTES + SEGMENT_BYTES).then_some(())
        })
        .await;
    }
    cluster.node_mut("l3").start();
    cluster.node_mut("l3").ready().await;
    cluster.converge().await;
    assert_eq!(cluster.node("l3").metric("snapshots_received_total"), 1);
    let serves = |node: &Node| node.metric("snapshots_served_total");
    let served: u64 = cluster.nodes().iter().map(serves).sum();
    assert_eq!(served, 1, "by the upstream alone");

    // What came by snapshot is as good as what came by log: from here on a delta serves again.
    cluster.node_mut("l3").kill();
    put_many(cluster.node("v1"), "more", 100, 1 << 10).await;
    cluster.node_mut("l3").start();
    cluster.node_mut("l3").ready().await;
    cluster.converge().await;
    assert_eq!(cluster.node("l3").metric("snapshots_received_total"), 0);

    // None of the others ever needed one, the voters included.
    for node in cluster.nodes() {
        let received = node.metric("snapshots_received_total");
        assert_eq!(received, 0, "{}", node.name);
    }
}

/// Puts `count` keys at once, each with a value of `value_bytes`.
async fn put_many(node: &Node, prefix: &str, count: usize, value_bytes: usize) {
    let put = |number: usize| async move {
        let value = vec![b'a' + (number % 26) as u8; value_bytes];
        node.put(format!("{prefix}/{number}"), value).await
    };
    for chunk in (0..count).collect::<Vec<_>>().chunks(50) {
        let puts = futures_util::future::join_all(chunk.iter().map(|number| put(*number)));
        for put in puts.await {
            put.expect("a put");
        }
    }
}
