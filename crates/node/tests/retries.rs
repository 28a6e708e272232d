//! A voter that is away is tried again with pauses, and not as fast as the machine can.

mod common;

use common::{Cluster, eventually, write};
use eaves::{Connection, Listener, Network, Task, TcpNetwork};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The real network, counting the connections to one address.
struct Counting {
    address: String,
    connects: AtomicU64,
}

impl Network for Counting {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        if address == self.address {
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
        address: away,
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
