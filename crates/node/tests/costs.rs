//! What listeners cost whom (B18): the leader nothing, those who feed them what they say.

mod common;

use common::{Cluster, Running, attached, converged, write};
use eaves::Role;
use std::time::Duration;

#[tokio::test]
async fn feeding_costs_the_leader_nothing() {
    const LISTENERS: usize = 8;
    const WRITES: usize = 1000;
    let cluster = Cluster::new(3);
    let voters = cluster.start_voters().await;
    write(&voters[0].node, 0, 1).await;
    let is_leader = |running: &&Running| running.node.status().borrow().role == Role::Leader;
    let leader = voters.iter().find(is_leader).unwrap();
    let roots: Vec<&Running> = voters.iter().filter(|voter| !is_leader(voter)).collect();

    // The leader is on every listener's list, and the first to be asked by half of them.
    let addresses = cluster.voter_addresses();
    let mut addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    addresses.sort_by_key(|address| *address != leader.node.peer_address());
    let mut listeners = Vec::new();
    for number in 0..LISTENERS {
        let known = if number % 2 == 0 {
            &addresses[..1]
        } else {
            &addresses
        };
        listeners.push(
            cluster
                .start(cluster.listener(&format!("l{number}"), known))
                .await,
        );
    }
    for listener in &listeners {
        attached(listener).await;
    }
    for writer in [&leader.node, &listeners[0].node] {
        for _ in 0..WRITES / 2 {
            writer.write(vec![b'x'; 1000].into()).await.unwrap();
        }
    }
    let everybody: Vec<&Running> = voters.iter().chain(&listeners).collect();
    converged(&everybody, 1 + WRITES).await;

    let of_leader = leader.node.counters();
    assert_eq!(of_leader.feed_entries, 0);
    assert_eq!(of_leader.feed_bytes, 0);
    assert_eq!(of_leader.feed_cpu, Duration::ZERO);
    assert_eq!(of_leader.snapshots.served(), 0);
    assert_eq!(of_leader.snapshots.served_bytes, 0);
    assert!(leader.node.downstream_lags().is_empty());
    let connections = leader.node.peer_connections();
    let open = |purpose| {
        connections
            .iter()
            .find(|(name, _)| *name == purpose)
            .map_or(0, |(_, open)| *open)
    };
    assert_eq!(open("feed"), 0);
    assert!(
        open("append") <= roots.len() as u64 && open("forward") <= roots.len() as u64,
        "O(roots): {connections:?}"
    );

    let fed: usize = roots
        .iter()
        .map(|root| root.node.downstream_lags().len())
        .sum();
    assert_eq!(fed, LISTENERS);
    for root in roots
        .iter()
        .filter(|root| !root.node.downstream_lags().is_empty())
    {
        let counters = root.node.counters();
        let each = (WRITES * 1000) as u64;
        assert!(counters.feed_bytes >= each * root.node.downstream_lags().len() as u64);
        assert!(counters.feed_cpu > Duration::ZERO);
    }
    let moves: u64 = listeners
        .iter()
        .map(|listener| listener.node.counters().moves.total())
        .sum();
    assert!(moves >= LISTENERS as u64);
    assert_eq!(
        of_leader.listeners_left.total() + of_leader.kicks.total(),
        0
    );
}
