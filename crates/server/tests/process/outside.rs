//! Listeners are outside the group: they add nothing to its log, its elections and the leader's connections (S2), and count in no quorum
//! (S3, no-vote).

use crate::EAVES;
use eaves_harness::cluster::{Cluster, leader_of, revision};
use eaves_harness::process::eventually;
use eaves_harness::sockets::{self, End, Process, Sockets};
use std::collections::BTreeSet;
use std::time::Duration;

const LISTENERS: usize = 6;
const PUTS: usize = 50;
/// An election that a busy machine causes is none that listeners cause.
const CALM: [&str; 2] = ["--election-timeout", "10000"];
/// Voters try to publish their addresses five times in this time.
const PUBLISHING_PAUSE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn listeners_cost_the_group_no_entry_no_election_and_the_leader_no_connection() {
    let mut cluster = Cluster::plan(EAVES, 3, LISTENERS, &CALM);
    for name in ["v1", "v2", "v3"] {
        cluster.node_mut(name).start();
    }
    for name in ["v1", "v2", "v3"] {
        cluster.node_mut(name).ready().await;
    }
    let leader = leader_of(&cluster.whole_tree("v1").await).expect("a whole tree has a leader");
    let alone = quiet_log(&cluster, &leader).await;
    put_some(&cluster, "alone", &[&leader]).await;
    let with_puts = quiet_log(&cluster, &leader).await;
    assert_eq!(with_puts.last_index, alone.last_index + PUTS as u64);

    let names: Vec<String> = (1..=LISTENERS).map(|i| format!("l{i}")).collect();
    for name in &names {
        cluster.node_mut(name).start();
    }
    for name in &names {
        cluster.node_mut(name).ready().await;
    }
    // They come, go, and come again, and their clients write and read.
    let through: Vec<&str> = names.iter().map(String::as_str).collect();
    put_some(&cluster, "below", &through).await;
    cluster.node_mut("l1").kill();
    cluster.node_mut("l2").stop().await;
    for name in ["l1", "l2"] {
        cluster.node_mut(name).start();
        cluster.node_mut(name).ready().await;
    }
    for name in &names {
        let read = revision(cluster.node(name).kv(), false).await;
        read.expect("a linearizable read");
    }
    cluster.whole_tree("l1").await;
    let below = quiet_log(&cluster, &leader).await;
    assert_eq!(
        below,
        Log {
            last_index: with_puts.last_index + PUTS as u64,
            ..with_puts
        },
        "S2: the same entries and no election"
    );
    assert_eq!(cluster.node(&leader).metric("is_leader"), 1);
    assert_eq!(cluster.node(&leader).metric("feed_bytes_total"), 0);

    let voters: BTreeSet<String> = ["v1", "v2", "v3"].map(str::to_owned).into();
    let others: BTreeSet<String> = voters.into_iter().filter(|name| *name != leader).collect();
    eventually(
        "only the other voters are connected with the leader",
        async || (connected_with(&cluster, &leader) == others).then_some(()),
    )
    .await;
    cluster.converge().await;
}

#[tokio::test]
async fn listeners_are_in_no_quorum() {
    let mut cluster = Cluster::start(EAVES, 3, LISTENERS, &[]).await;
    let leader = leader_of(&cluster.whole_tree("v1").await).expect("a whole tree has a leader");
    cluster.node("l1").put("before", "1").await.expect("a put");
    let others: Vec<String> = ["v1", "v2", "v3"]
        .into_iter()
        .filter(|name| *name != leader)
        .map(str::to_owned)
        .collect();
    for name in &others {
        cluster.node_mut(name).kill();
    }
    // Seven of nine nodes run, and one of three votes.
    for name in [&leader[..], "l1"] {
        let written = cluster.node(name).put(format!("alone/{name}"), "1").await;
        written.expect_err("no-vote: one voter of three is no quorum, however many listeners run");
        let read = revision(cluster.node(name).kv(), false).await;
        read.expect_err("no-vote: nor for a linearizable read");
    }
    cluster.node_mut(&others[0]).start();
    for node in cluster.nodes_mut() {
        if node.is_running() {
            node.ready().await;
        }
    }
    cluster.node("l1").put("after", "1").await.expect("a put");
    cluster.converge().await;
}

/// What a group has written and elected.
#[derive(Debug, PartialEq)]
struct Log {
    last_index: u64,
    terms: Vec<u64>,
}

/// The log of a group to which nobody writes any more: its voters publish their addresses at first.
async fn quiet_log(cluster: &Cluster, leader: &str) -> Log {
    let mut last = 0;
    let last_index = eventually("the log is at rest", async || {
        let now = cluster.node(leader).metric("last_index");
        let before = std::mem::replace(&mut last, now);
        tokio::time::sleep(PUBLISHING_PAUSE).await;
        (before == now).then_some(now)
    })
    .await;
    let voters = ["v1", "v2", "v3"].map(|name| cluster.node(name));
    Log {
        last_index,
        terms: voters.map(|voter| voter.metric("raft_term")).into(),
    }
}

/// Puts through these nodes in turn, each put once.
async fn put_some(cluster: &Cluster, prefix: &str, through: &[&str]) {
    for number in 0..PUTS {
        let node = cluster.node(through[number % through.len()]);
        let put = node.put(format!("{prefix}/{number}"), "value").await;
        put.unwrap_or_else(|status| panic!("a put through {}: {status}", node.name));
    }
}

/// The names of the nodes with which `name` has a connection, whoever opened it.
fn connected_with(cluster: &Cluster, name: &str) -> BTreeSet<String> {
    let ends = sockets::ends();
    let nodes: Vec<(String, Sockets)> = Process::with(&cluster.directory().display().to_string())
        .iter()
        .map(|process| {
            let name = process.flag("--name").expect("every node has a name");
            (name.to_owned(), process.sockets())
        })
        .collect();
    let (_, own) = nodes.iter().find(|node| node.0 == name).expect("it runs");
    let other_end = |end: &&End| {
        ends.iter().find(|other| {
            other.local_port == end.remote_port && other.remote_port == end.local_port
        })
    };
    let others = ends
        .iter()
        .filter(|end| own.have(**end))
        .filter_map(|end| other_end(&end));
    let owner = |end: &End| nodes.iter().find(|node| node.1.have(*end));
    others
        .filter_map(owner)
        .map(|node| node.0.clone())
        .collect()
}
