//! Voters and listeners together, in one process: writes from anywhere, linearizable reads anywhere, restarts, deltas and snapshots.

mod common;

use common::{Cluster, Running, converged, eventually, write};
use eaves::{Role, TreeRow};
use std::time::Duration;

#[tokio::test]
async fn a_write_from_anywhere_reaches_everybody_and_is_read_back_at_once() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_voters().await;
    let voters = cluster.voter_addresses();
    let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
    nodes.push(cluster.start(cluster.listener("l1", &voters)).await);
    nodes.push(cluster.start(cluster.listener("l2", &voters)).await);
    for (turn, running) in nodes.iter().cycle().take(20).enumerate() {
        write(&running.node, turn, turn + 1).await;
        assert_eq!(
            running.commands().len(),
            turn + 1,
            "a node that answered a write has applied it"
        );
        let reader = &nodes[(turn + 3) % nodes.len()];
        reader.node.read_barrier().await.unwrap();
        assert_eq!(
            reader.commands().len(),
            turn + 1,
            "a linearizable read sees every write before it"
        );
    }
    converged(&nodes.iter().collect::<Vec<_>>(), 20).await;
}

/// Two followers that take one listener each, and listeners that take one each: two chains.
#[tokio::test]
async fn chains_of_depth_five_are_fed_and_every_node_sees_the_whole_tree() {
    let cluster = Cluster::new(3);
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        config.capacity = 1;
        // A change of leader would move everybody.
        config.raft.election_timeout = Duration::from_secs(2);
        nodes.push(cluster.start(config).await);
    }
    write(&nodes[0].node, 0, 1).await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    for number in 0..10 {
        let mut config = cluster.listener(&format!("l{number}"), &upstreams);
        config.capacity = 1;
        let listener = cluster.start(config).await;
        attached(&listener, number / 2 + 1).await;
        nodes.push(listener);
    }
    write(&nodes.last().unwrap().node, 1, 50).await;
    converged(&nodes.iter().collect::<Vec<_>>(), 50).await;
    for running in &nodes {
        let rows = running.node.tree(Duration::from_secs(5)).await;
        assert_eq!(
            rows.len(),
            13,
            "seen from {}",
            running.node.status().borrow().name
        );
        assert_eq!(
            rows.iter().filter(|row| row.role == Role::Leader).count(),
            1
        );
        let listeners: Vec<&TreeRow> = rows
            .iter()
            .filter(|row| row.role == Role::Listener)
            .collect();
        assert_eq!(
            listeners
                .iter()
                .map(|row| row.depth.unwrap())
                .collect::<Vec<_>>(),
            [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        );
        for listener in listeners {
            let upstream = rows
                .iter()
                .find(|row| Some(row.id) == listener.upstream)
                .expect("an upstream that is there");
            assert_eq!(
                upstream.depth.map(|depth| depth + 1),
                listener.depth,
                "{} below {}",
                listener.name,
                upstream.name
            );
        }
    }
    let leader = nodes
        .iter()
        .find(|running| running.node.status().borrow().role == Role::Leader)
        .unwrap();
    assert_eq!(
        leader.node.counters().feed_bytes,
        0,
        "S2: the leader sends listeners nothing"
    );
}

#[tokio::test]
async fn a_group_of_one_has_no_follower_and_feeds_nobody() {
    let cluster = Cluster::new(1);
    let voters = cluster.start_voters().await;
    write(&voters[0].node, 0, 3).await;
    let address = voters[0].node.peer_address().to_string();
    let listener = cluster.start(cluster.listener("l1", &[&address])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        listener.node.status().borrow().upstream,
        None,
        "S1: the leader never feeds a listener"
    );
    assert!(listener.commands().is_empty());
}

#[tokio::test]
async fn a_listener_far_behind_gets_a_delta_while_the_log_lasts() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_voters().await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let listener = cluster.start(cluster.listener("l1", &upstreams)).await;
    write(&nodes[0].node, 0, 100).await;
    converged(&[&listener], 100).await;
    listener.node.shutdown().await;
    drop(listener);
    write(&nodes[0].node, 100, 1000).await;
    let listener = restart(&cluster, "l1").await;
    converged(&[&nodes[0], &listener], 1000).await;
    assert_eq!(
        listener.node.counters().snapshots.received(),
        0,
        "the log still reached back"
    );
}

#[tokio::test]
async fn a_listener_gets_a_snapshot_when_the_log_is_gone_and_so_does_the_one_below_it() {
    let cluster = Cluster::new(3);
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        config.log.segment_bytes = 16 << 10;
        config.log_retention_bytes = 32 << 10;
        config.snapshot_entries = 50;
        nodes.push(cluster.start(config).await);
    }
    for number in 0..600 {
        nodes[0]
            .node
            .write(format!("{number:0200}").into())
            .await
            .unwrap();
    }
    eventually("the log is released", async || {
        nodes
            .iter()
            .all(|running| running.node.log_stats().segments < 9)
    })
    .await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let first = cluster.start(cluster.listener("l1", &upstreams)).await;
    converged(&[&nodes[0], &first], 600).await;
    assert_eq!(first.node.counters().snapshots.received(), 1);
    let address = first.node.peer_address().to_string();
    let second = cluster.start(cluster.listener("l2", &[&address])).await;
    converged(&[&nodes[0], &second], 600).await;
    assert_eq!(second.node.counters().snapshots.received(), 1);
    assert_eq!(
        first.node.counters().snapshots.served(),
        1,
        "B9: from the upstream, not from above it"
    );
    write(&second.node, 600, 650).await;
    converged(&[&nodes[0], &nodes[1], &nodes[2], &first, &second], 650).await;
    for running in [&first, &second] {
        running.node.shutdown().await;
    }
    drop((first, second));
    let again = restart(&cluster, "l1").await;
    converged(&[&nodes[0], &again], 650).await;
    assert_eq!(
        again.node.counters().snapshots.received(),
        0,
        "what was installed survives a restart"
    );
}

#[tokio::test]
async fn a_restarted_group_keeps_everything() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_voters().await;
    write(&nodes[1].node, 0, 200).await;
    converged(&nodes.iter().collect::<Vec<_>>(), 200).await;
    for running in &nodes {
        running.node.shutdown().await;
    }
    drop(nodes);
    let nodes = cluster.start_voters().await;
    write(&nodes[2].node, 200, 210).await;
    converged(&nodes.iter().collect::<Vec<_>>(), 210).await;
}

async fn restart(cluster: &Cluster, name: &str) -> Running {
    // The list it was given last is on disk (S6).
    cluster.start(cluster.listener(name, &[])).await
}

async fn attached(listener: &Running, depth: u32) {
    eventually("the listener is attached", async || {
        listener.node.status().borrow().depth == Some(depth)
    })
    .await;
}

#[tokio::test]
async fn the_upstream_list_is_on_disk_before_anybody_on_it_has_answered() {
    let cluster = Cluster::new(3);
    let nobody = format!("127.0.0.1:{}", common::free_port());
    let config = cluster.listener("l1", &[&nobody]);
    let starting = tokio::spawn(common::try_start(config));
    let list = cluster.data_dir("l1").join("upstreams");
    eventually("S6: the list is on disk", async || {
        std::fs::read(&list).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&nobody))
    })
    .await;
    assert!(!starting.is_finished(), "nobody has answered");
    starting.abort();
}

#[tokio::test]
async fn a_leader_that_is_gone_for_good_is_reported_by_nobody() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_voters().await;
    write(&nodes[0].node, 0, 5).await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let listener = cluster.start(cluster.listener("l1", &upstreams)).await;
    let leader = |running: &Running| running.node.status().borrow().leader;
    eventually("the listener knows the leader", async || {
        leader(&listener).is_some()
    })
    .await;
    let (left, gone): (Vec<_>, Vec<_>) = {
        let survivor = nodes
            .iter()
            .position(|running| running.node.status().borrow().role == Role::Follower)
            .unwrap();
        nodes
            .iter()
            .enumerate()
            .partition(|(number, _)| *number == survivor)
    };
    for (_, running) in gone {
        running.node.shutdown().await;
    }
    eventually(
        "B8: neither the voter that is left nor the listener names a leader",
        async || leader(left[0].1).is_none() && leader(&listener).is_none(),
    )
    .await;
}
