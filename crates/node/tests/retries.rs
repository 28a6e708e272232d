//! How often voters connect to one another: not as fast as the machine can to one that is away, and hardly ever to one that is there.

mod common;

use common::{Cluster, converged, eventually, write};
use eaves::{Connection, Listener, Network, Task, TcpNetwork};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The real network, counting the connections to one address, or to all.
struct Counting {
    address: Option<String>,
    connects: AtomicU64,
}

impl Network for Counting {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        if self
            .address
            .as_deref()
            .is_none_or(|counted| counted == address)
        {
            self.connects.fetch_add(1, Ordering::Relaxed);
        }
        TcpNetwork.connect(address)
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        TcpNetwork.listen(address)
    }
}

#[tokio::test]
async fn a_voter_that_is_away_is_not_hammered() {
    let cluster = Cluster::new(3);
    let away = cluster.voter_addresses()[2].clone();
    let network = Arc::new(Counting {
        address: Some(away),
        connects: AtomicU64::new(0),
    });
    let mut voters = Vec::new();
    let mut heartbeat = Duration::ZERO;
    for name in ["v1", "v2"] {
        let mut config = cluster.voter(name);
        config.network = network.clone();
        heartbeat = config.raft.heartbeat_interval;
        voters.push(cluster.start(config).await);
    }
    write(&voters[0].node, 0, 1).await;
    let (start, before) = (Instant::now(), network.connects.load(Ordering::Relaxed));
    eventually("twenty heartbeats have passed", async || {
        start.elapsed() > 20 * heartbeat
    })
    .await;
    write(&voters[0].node, 1, 20).await;
    let connects = network.connects.load(Ordering::Relaxed) - before;
    // One for each heartbeat, those of the replication, with pauses of 50 ms and more, and those of elections and of the tree.
    let heartbeats = start.elapsed().as_millis() as u64 / heartbeat.as_millis() as u64;
    assert!(
        connects < 6 * heartbeats + 40,
        "{connects} connections during {heartbeats} heartbeats"
    );
}

#[tokio::test]
async fn heartbeats_need_no_connections_of_their_own() {
    let cluster = Cluster::new(3);
    let network = Arc::new(Counting {
        address: None,
        connects: AtomicU64::new(0),
    });
    let mut voters = Vec::new();
    let mut heartbeat = Duration::ZERO;
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        config.network = network.clone();
        heartbeat = config.raft.heartbeat_interval;
        voters.push(cluster.start(config).await);
    }
    write(&voters[0].node, 0, 5).await;
    converged(&voters.iter().collect::<Vec<_>>(), 5).await;
    let (start, before) = (Instant::now(), network.connects.load(Ordering::Relaxed));
    eventually("forty heartbeats have passed", async || {
        start.elapsed() > 40 * heartbeat
    })
    .await;
    let connects = network.connects.load(Ordering::Relaxed) - before;
    assert!(connects < 20, "{connects} connections without a write");
}

#[tokio::test]
async fn a_write_that_was_given_up_keeps_its_share_until_its_outcome_is_known() {
    let cluster = Cluster::new(3);
    let mut voters = cluster.start_voters().await;
    write(&voters[0].node, 0, 5).await;
    let leader = voters[0].node.status().borrow().leader.unwrap();
    let leads = |voter: &common::Running| voter.node.status().borrow().node_id == leader;
    let leading = voters.swap_remove(voters.iter().position(leads).unwrap());
    for follower in &voters {
        follower.node.shutdown().await;
    }
    for _ in 0..3 {
        let write = leading.node.write(vec![7; 1000].into());
        let given_up = tokio::time::timeout(Duration::from_millis(50), write).await;
        assert!(given_up.is_err(), "nobody is there to commit with");
    }
    let held = leading.node.admission();
    assert_eq!((held.commands, held.bytes), (3, 3000));
    leading.node.shutdown().await;
    eventually("the shares are given back", async || {
        leading.node.admission().commands == 0
    })
    .await;
}
