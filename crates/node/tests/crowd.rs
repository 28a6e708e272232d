//! Two hundred listeners in one process: all find a place, all get the log, the leader feeds none of them, and they survive its loss.

mod common;

use common::{Cluster, Running, converged, eventually, write};
use eaves::Role;
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;

const LISTENERS: usize = 200;
/// Two followers with room for 8 feed 16 listeners, these 128, and so the rest is at depth 3.
const CAPACITY: u32 = 8;
const LEAST_DEPTH: u32 = 3;
/// Sockets and files of all nodes together; about 20 each.
const FILES: u64 = 8192;

#[tokio::test]
async fn two_hundred_listeners_attach_are_fed_and_survive_a_change_of_leader() {
    allow_files();
    let cluster = Cluster::new(3);
    let mut voters = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = small(cluster.voter(name));
        // A busy machine must not change the leader.
        config.raft.election_timeout = Duration::from_secs(2);
        voters.push(cluster.start(config).await);
    }
    write(&voters[0].node, 0, 10).await;
    let addresses = cluster.voter_addresses();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let starting = (0..LISTENERS).map(|number| {
        let config = small(cluster.listener(&format!("l{number}"), &addresses));
        cluster.start(config)
    });
    let listeners = join_all(starting).await;

    attached(&listeners).await;
    // Listeners that move up while others arrive may be a level deeper for a while.
    eventually(
        "S8, B4: nobody is deeper than one level more than need be",
        async || {
            depths(&listeners)
                .iter()
                .all(|depth| depth.is_some_and(|depth| depth <= LEAST_DEPTH + 1))
        },
    )
    .await;
    write(&listeners[LISTENERS - 1].node, 10, 30).await;
    converged(&all(&voters, &listeners), 30).await;
    let old = position_of_leader(&voters);
    assert_eq!(
        voters[old].node.counters().feed_bytes,
        0,
        "S1, B18: the leader feeds nobody"
    );

    // S10: one of the two roots becomes leader. What it fed finds places below the other one.
    let gone = voters.remove(old);
    gone.node.shutdown().await;
    drop(gone);
    write(&listeners[0].node, 30, 31).await;
    let leader = &voters[position_of_leader(&voters)];
    let fed_bytes = leader.node.counters().feed_bytes;
    attached(&listeners).await;
    write(&listeners[LISTENERS - 1].node, 31, 50).await;
    converged(&all(&voters, &listeners), 50).await;
    assert_eq!(
        leader.node.counters().feed_bytes,
        fed_bytes,
        "S10, B18: a new leader feeds nobody any more"
    );
    for listener in &listeners {
        let counters = listener.node.counters();
        assert_eq!(counters.snapshots.received(), 0, "B9: a move is a delta");
    }
    print_gaps(&listeners);
}

/// A node that takes little space: there are many.
fn small(mut config: eaves::Config) -> eaves::Config {
    config.capacity = CAPACITY;
    config.log.segment_bytes = 256 << 10;
    config.log.cache_bytes = 64 << 10;
    config.log_retention_bytes = 1 << 20;
    config
}

async fn attached(listeners: &[Running]) {
    eventually("all listeners are attached", async || {
        depths(listeners).iter().all(Option::is_some)
    })
    .await;
}

fn depths(listeners: &[Running]) -> Vec<Option<u32>> {
    let depth = |listener: &Running| listener.node.status().borrow().depth;
    listeners.iter().map(depth).collect()
}

fn position_of_leader(voters: &[Running]) -> usize {
    voters
        .iter()
        .position(|voter| voter.node.status().borrow().role == Role::Leader)
        .expect("one of the voters leads")
}

fn all<'a>(voters: &'a [Running], listeners: &'a [Running]) -> Vec<&'a Running> {
    voters.iter().chain(listeners).collect()
}

fn print_gaps(listeners: &[Running]) {
    let counters = listeners.iter().map(|listener| listener.node.counters());
    let mut gaps: Vec<u64> = counters
        .filter(|counters| counters.fed_again > 0)
        .map(|counters| counters.unfed_max_us)
        .collect();
    gaps.sort_unstable();
    println!("microseconds without an upstream: {gaps:?}");
}

/// Raises the limit on open files if need be, and says so if that is not allowed.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    let suffices = |limit: Option<u64>| limit.is_none_or(|limit| limit >= FILES);
    if suffices(limit.current) {
        return;
    }
    assert!(
        suffices(limit.maximum),
        "this test opens up to {FILES} files, and the system allows {:?} at most: raise the hard limit (`ulimit -Hn {FILES}`)",
        limit.maximum
    );
    let raised = Rlimit {
        current: Some(FILES),
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("a limit below the hard one may be set");
}
