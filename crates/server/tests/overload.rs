//! A group of real processes under ten times the writes that it sustains, with slow disks, large values, and watchers that never read.
//!
//! The short form; `crates/harness/examples/overload.rs` is the long one, with ten times the clients and rates that mean something.

use eaves_harness::Binary;
use eaves_harness::cluster::Cluster;
use eaves_harness::overload::{Plan, run};
use std::time::Duration;

const EAVES: Binary = Binary::at(env!("CARGO_BIN_EXE_eaves"));

/// What the disk of each node writes in a second: so little that it is what limits the group, and not the processor.
const DISK_BYTES_PER_SECOND: &str = "4194304";

/// Times that a machine keeps which is busy with other tests, too; what waits behind a queue without end would take far longer.
const HEARTBEAT_MS: &str = "400";
const ELECTION_MS: &str = "4000";

#[tokio::test]
async fn ten_times_the_sustainable_writes_cost_bounded_memory_no_election_and_no_write() {
    let flags = [
        ("--test-disk-bytes-per-second", DISK_BYTES_PER_SECOND),
        ("--heartbeat-interval", HEARTBEAT_MS),
        ("--election-timeout", ELECTION_MS),
    ];
    let flags = flags.map(|(flag, value)| [flag, value]).concat();
    let mut cluster = Cluster::start(EAVES, 3, 0, &flags).await;
    let plan = Plan {
        calibrate: Duration::from_secs(6),
        overload: Duration::from_secs(20),
        recover: Duration::from_secs(5),
        clients: 64,
        factor: 10.0,
        connections: 300,
        watchers: 1_000,
        lazy_watchers: 20,
        value_bytes: 2 << 10,
        large_bytes: (3 << 19) - (1 << 10),
        large_per_second: 2.0,
        watched_per_second: 1.0,
    };
    let report = run(&mut cluster, &plan).await;
    println!("{report:#?}");
    assert_eq!(report.answers.unexpected(), [], "other answers");
    for node in &report.nodes {
        assert!(
            node.peak_bytes <= node.bound_bytes,
            "{} took {} bytes of {}",
            node.name,
            node.peak_bytes,
            node.bound_bytes
        );
        assert_eq!(node.terms.0, node.terms.1, "{} saw an election", node.name);
    }
    assert!(report.acknowledged > 0.0, "some writes got through");
    let refused: u64 = report
        .nodes
        .iter()
        .map(|node| node.refused.0 + node.refused.1)
        .sum();
    assert!(refused > 0, "the rest was refused");
    for node in cluster.nodes() {
        node.assert_no_panic();
    }
}
