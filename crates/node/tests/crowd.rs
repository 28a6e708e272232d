//! Two hundred listeners in one process: all find a place, all get the log, the leader feeds none of them, and they survive its loss.

mod common;

use common::{Cluster, Running, converged, eventually, write};
use eaves::{Node, Role, WriteError};
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;

const LISTENERS: usize = 200;
/// Two followers with room for 8 feed 16 listeners, these 128, and so the rest is at depth 3.
const CAPACITY: u32 = 8;
const LEAST_DEPTH: u32 = 3;
/// Sockets and files of all nodes together; about 20 each.
const FILES: u64 = 8192;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
    let mut written = 10;
    leader_feeds_none(&voters, &listeners, &mut written).await;

    // S10: one of the two roots becomes leader. What it fed finds places below the other one.
    let gone = voters.remove(leader_of(&voters).await.0);
    gone.node.shutdown().await;
    drop(gone);
    leader_of(&voters).await;
    attached(&listeners).await;
    leader_feeds_none(&voters, &listeners, &mut written).await;
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

/// Who leads, and in which term.
async fn leader_of(voters: &[Running]) -> (usize, u64) {
    let mut found = None;
    eventually("one of the voters leads", async || {
        let status = |voter: &Running| voter.node.status().borrow().clone();
        let leads = |voter: &Running| status(voter).role == Role::Leader;
        let leader = voters.iter().position(leads);
        found = leader.map(|leader| (leader, status(&voters[leader]).term));
        found.is_some()
    })
    .await;
    found.expect("it was waited for")
}

/// S1, S10, B18: writes that everybody gets, none of them from the leader. Again if a busy machine changed the leader meanwhile: the new
/// one may have fed some of them before.
async fn leader_feeds_none(voters: &[Running], listeners: &[Running], written: &mut usize) {
    let mut write_more = async |count: usize| {
        for number in *written..*written + count {
            write_one(&listeners[LISTENERS - 1].node, number).await;
        }
        *written += count;
        converged(&all(voters, listeners), *written).await;
    };
    loop {
        // Whoever was fed by this leader before it led is fed by another when it has this one.
        write_more(1).await;
        let (leader, term) = leader_of(voters).await;
        let counters = voters[leader].node.counters();
        write_more(20).await;
        if leader_of(voters).await == (leader, term) {
            let fed_bytes = voters[leader].node.counters().feed_bytes - counters.feed_bytes;
            assert_eq!(fed_bytes, 0, "the leader feeds nobody");
            return;
        }
    }
}

/// Writes `number`, again while there is no leader: then it certainly did not happen.
async fn write_one(node: &Node, number: usize) {
    eventually("a write is taken", async || {
        match node.write(number.to_string().into()).await {
            Ok(_) => true,
            Err(WriteError::NoLeader(_)) => false,
            Err(error) => panic!("write {number}: {error}"),
        }
    })
    .await;
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
