//! All voters of a group replaced, one by one, while writes run (S15, S16): no acknowledged write is lost, and the new group stands by
//! itself.

use crate::EAVES;
use eaves_harness::cluster::{Cluster, leader_of};
use eaves_harness::writer::Writing;
use serde_json::Value;
use std::collections::BTreeSet;

/// Writes that must be acknowledged between two things that are done to the cluster.
const WRITES_BETWEEN: usize = 50;

/// Runs a command at a node, beside the writers.
async fn command(cluster: &Cluster, at: &str, words: &[&str]) -> String {
    let address = cluster.node(at).address();
    let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    let run = move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        EAVES.run(&address, &words)
    };
    let printed = tokio::task::spawn_blocking(run).await;
    printed.expect("the command is run")
}

/// Waits until everybody shows in its place and these vote, and nobody else. Gives the leader.
async fn voters_are(cluster: &Cluster, asked: &str, names: &[&str]) -> String {
    let wanted: BTreeSet<&str> = names.iter().copied().collect();
    let all = cluster.nodes().iter().filter(|node| node.is_running());
    let all = all.count();
    let is_so = |rows: &[Value]| {
        let voters = rows.iter().filter(|row| row["role"] != "listener");
        let voters: BTreeSet<&str> = voters.filter_map(|row| row["name"].as_str()).collect();
        rows.len() == all
            && rows.iter().all(|row| row["depth"].is_u64())
            && leader_of(rows).is_some()
            && voters == wanted
    };
    let what = format!("{names:?} are the voters");
    let rows = cluster.tree_where(asked, &what, is_so).await;
    leader_of(&rows).expect("there is a leader")
}

#[tokio::test]
async fn voters_are_replaced_one_by_one_under_writes_the_leader_too_and_nothing_is_lost() {
    let mut cluster = Cluster::start(EAVES, 3, 4, &["--capacity", "2"]).await;
    let writing = Writing::start(&cluster);
    writing.more(WRITES_BETWEEN).await;
    let mut voters = vec!["v1", "v2", "v3"];
    for (old, new) in [("v1", "l1"), ("v2", "l2"), ("v3", "l3")] {
        // At whatever depth the new one hangs, asked at a listener.
        let done = command(&cluster, "l4", &["replace", old, new]).await;
        println!("{done}");
        writing.more(WRITES_BETWEEN).await;
        voters.retain(|name| *name != old);
        voters.push(new);
        voters_are(&cluster, "l4", &voters).await;
        // Once more is no mistake.
        command(&cluster, "v1", &["replace", old, new]).await;
    }
    // None of the founders votes any more: they may go, and the group goes on.
    for name in ["v1", "v2", "v3"] {
        cluster.node_mut(name).kill();
    }
    writing.more(WRITES_BETWEEN).await;
    // The new ones are a group of three: it survives the loss of one of them, the leader, but not of two.
    let leader = voters_are(&cluster, "l4", &voters).await;
    cluster.node_mut(&leader).kill();
    writing.more(WRITES_BETWEEN).await;
    for name in ["v1", "v2", "v3", &leader] {
        cluster.node_mut(name).start();
    }
    for name in ["v1", "v2", "v3", &leader] {
        cluster.node_mut(name).ready().await;
    }
    voters_are(&cluster, "v1", &voters).await;
    writing.more(WRITES_BETWEEN).await;
    let writes = writing.stop().await;
    writes.assert_held(&cluster.converge().await);
    // What a voter has not yet, it got as a voter gets it: nobody needed a snapshot.
    for node in cluster.nodes() {
        assert_eq!(node.metric("snapshots_received_total"), 0, "{}", node.name);
        node.assert_no_panic();
    }
}
