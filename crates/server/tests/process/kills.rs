//! Nodes ended by SIGKILL while writes run.

use crate::EAVES;
use eaves_harness::cluster::{Cluster, depth_of, leader_of};
use eaves_harness::process::eventually;
use eaves_harness::writer::Writing;
use serde_json::Value;

/// Writes that must be acknowledged before something else is done to the cluster.
const WRITES_BETWEEN: usize = 25;

/// Two followers with room for one listener each, and listeners with room for one: five listeners are at least three deep.
const CHAINS: [&str; 2] = ["--capacity", "1"];

#[tokio::test]
async fn every_acknowledged_write_survives_the_killing_of_each_node_in_turn() {
    let mut cluster = Cluster::start(EAVES, 3, 5, &CHAINS).await;
    let rows = cluster.whole_tree("v1").await;
    assert!(depth_of(&rows) >= 3, "{rows:#?}");

    let writing = Writing::start(&cluster);
    writing.more(WRITES_BETWEEN).await;
    for i in 0..cluster.nodes().len() {
        cluster.nodes_mut()[i].kill();
        writing.more(WRITES_BETWEEN).await;
        cluster.nodes_mut()[i].start();
        cluster.nodes_mut()[i].ready().await;
        writing.more(WRITES_BETWEEN).await;
    }
    // And all of them at once.
    for node in cluster.nodes_mut() {
        node.kill();
    }
    for node in cluster.nodes_mut() {
        node.start();
    }
    for node in cluster.nodes_mut() {
        node.ready().await;
    }
    writing.more(WRITES_BETWEEN).await;
    let writes = writing.stop().await;
    writes.assert_held(&cluster.converge().await);

    let rows = cluster.whole_tree("v1").await;
    assert!(depth_of(&rows) >= 3, "{rows:#?}");
}

#[tokio::test]
async fn a_killed_leader_is_replaced_and_comes_back_as_a_follower() {
    let mut cluster = Cluster::start(EAVES, 3, 2, &CHAINS).await;
    let rows = cluster.whole_tree("v1").await;
    let old = leader_of(&rows).expect("a whole tree has a leader");
    let writing = Writing::start(&cluster);
    writing.more(WRITES_BETWEEN).await;
    cluster.node_mut(&old).kill();
    writing.more(WRITES_BETWEEN).await;
    let new = eventually("there is a new leader", async || {
        leader_of(&cluster.tree("l1")).filter(|leader| *leader != old)
    })
    .await;
    // It fed a listener while it followed, and feeds none now (S1, S10).
    let fed_bytes = eventually("the leader has let its listener go", async || {
        let rows = cluster.tree("l1");
        (row(&rows, &new)?["registered"] == 0)
            .then(|| cluster.node(&new).metric("feed_bytes_total"))
    })
    .await;

    cluster.node_mut(&old).start();
    cluster.node_mut(&old).ready().await;
    cluster
        .tree_where("l1", "the old leader follows the new one", |rows| {
            let role = |name: &str| row(rows, name).map(|row| row["role"].clone());
            role(&old) == Some("follower".into()) && role(&new) == Some("leader".into())
        })
        .await;
    cluster.whole_tree("v1").await;
    writing.more(WRITES_BETWEEN).await;
    assert_eq!(cluster.node(&new).metric("feed_bytes_total"), fed_bytes);

    let writes = writing.stop().await;
    // The listeners too: they are fed again.
    writes.assert_held(&cluster.converge().await);
}

fn row<'a>(rows: &'a [Value], name: &str) -> Option<&'a Value> {
    rows.iter().find(|row| row["name"] == name)
}
