//! What a link between upstream and listener promises beside being right: a hop does not wait for a disk, and one that stalls delays
//! nobody else.

mod common;

use common::held::HeldDisk;
use common::{Cluster, Running, Stalling, converged, eventually, write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Three voters that feed one listener each, so that their two places are taken: by `l0`, and by one that feeds nobody. Whoever comes
/// next hangs below `l0`.
async fn voters_and_upstream(
    cluster: &Cluster,
    adjust: impl FnOnce(&mut eaves::Config),
) -> (Vec<Running>, Running) {
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        config.capacity = 1;
        // A change of leader would move everybody.
        config.raft.election_timeout = Duration::from_secs(2);
        nodes.push(cluster.start(config).await);
    }
    // Now there is a leader, who feeds nobody.
    write(&nodes[0].node, 0, 1).await;
    let voters = cluster.voter_addresses();
    let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
    let mut config = cluster.listener("l0", &voters);
    adjust(&mut config);
    let upstream = cluster.start(config).await;
    attached(&upstream, 1).await;
    let mut config = cluster.listener("filler", &voters);
    config.capacity = 0;
    let filler = cluster.start(config).await;
    attached(&filler, 1).await;
    nodes.push(filler);
    (nodes, upstream)
}

async fn attached(listener: &Running, depth: u32) {
    eventually("the listener is attached", async || {
        listener.node.status().borrow().depth == Some(depth)
    })
    .await;
}

/// B11. Nothing becomes durable at the upstream; what it feeds does not wait for that.
#[tokio::test]
async fn entries_are_applied_and_passed_on_before_they_are_flushed() {
    let cluster = Cluster::new(3);
    let disk = HeldDisk::default();
    let (voters, slow) = voters_and_upstream(&cluster, |config| {
        config.disk = Arc::new(disk.clone());
    })
    .await;
    let below = cluster
        .start(cluster.listener("l1", &[slow.node.peer_address()]))
        .await;
    attached(&below, 2).await;
    disk.hold(true);
    let entries_before = slow.node.positions().last + 1;
    write(&voters[0].node, 1, 50).await;
    converged(&[&voters[0], &slow, &below], 50).await;
    eventually("the listener below has flushed them", async || {
        below.node.log_stats().flushed_entries > 50
    })
    .await;
    let flushed_entries = slow.node.log_stats().flushed_entries;
    disk.hold(false);
    assert!(
        flushed_entries <= entries_before,
        "not an entry was flushed where all came through"
    );
}

/// B10. One of two listeners stops reading. The other gets everything, the group goes on, and what the upstream sent to the one that
/// stalled is bounded; in the end it is let go of (S11).
#[tokio::test]
async fn one_that_stops_reading_delays_neither_sibling_nor_group() {
    const COMMANDS: usize = 32;
    const COMMAND_BYTES: usize = 1 << 20;
    /// Not yet acknowledged bytes that an upstream sends at most, one batch and one entry beyond included.
    const SENT_IN_VAIN_MAX_BYTES: u64 = (8 << 20) + (256 << 10) + COMMAND_BYTES as u64 + 4096;

    let cluster = Cluster::new(3);
    let (voters, upstream) = voters_and_upstream(&cluster, |_| {}).await;
    let address = upstream.node.peer_address();
    let network = Stalling::default();
    let mut config = cluster.listener("stalled", &[address]);
    config.network = Arc::new(network.clone());
    config.capacity = 0;
    let stalled = cluster.start(config).await;
    attached(&stalled, 2).await;
    let sibling = cluster.start(cluster.listener("sibling", &[address])).await;
    attached(&sibling, 2).await;
    converged(&[&stalled, &sibling], 1).await;

    network.stalled.store(true, Ordering::Relaxed);
    let lag = |listener: &Running| {
        let peer = listener.node.status().borrow().node_id;
        let lags = upstream.node.downstream_lags();
        lags.into_iter().find(|lag| lag.peer == peer)
    };
    let mut seen = Vec::new();
    for _ in 0..COMMANDS {
        let command = vec![7; COMMAND_BYTES];
        voters[0].node.write(command.into()).await.unwrap();
        seen.extend(lag(&stalled));
    }
    assert!(
        seen.iter().any(|lag| lag.entries >= 1
            && lag.bytes >= lag.entries * COMMAND_BYTES as u64
            && lag.time > Duration::ZERO),
        "B15: the upstream tells how far the stalled one is behind: {seen:?}"
    );
    converged(&[&voters[0], &upstream, &sibling], COMMANDS + 1).await;
    eventually(
        "both ends of the other edge say that it has all",
        async || {
            [lag(&sibling), sibling.node.upstream_lag()]
                .iter()
                .all(|lag| {
                    lag.is_some_and(|lag| lag.entries + lag.bytes == 0 && lag.time.is_zero())
                })
        },
    )
    .await;
    assert!(stalled.commands().len() < COMMANDS + 1);
    let sent = upstream.node.counters().feed_bytes;
    let needed = ((COMMANDS * COMMAND_BYTES) as u64) + (64 << 10);
    assert!(
        sent <= needed + SENT_IN_VAIN_MAX_BYTES,
        "{sent} bytes were sent where {needed} were of use"
    );
    eventually("the stalled listener is let go of", async || {
        upstream.node.counters().listeners_left.total() >= 1
    })
    .await;
}
