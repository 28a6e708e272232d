//! Reads at listeners: what ten thousand of them cost the leader (B13), what they see while leaders change, and reads that allow a
//! bounded staleness (B14).

mod common;

use common::{Cluster, Running, attached, eventually, write};
use eaves::{ReadError, Role};
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Three voters and listeners below them, `capacity` at each node.
async fn tree(cluster: &Cluster, listeners: usize, capacity: u32) -> (Vec<Running>, Vec<Running>) {
    let mut voters = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        config.capacity = capacity;
        config.log.segment_bytes = 1 << 20;
        voters.push(cluster.start(config).await);
    }
    write(&voters[0].node, 0, 1).await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let starts = (1..=listeners).map(|number| {
        let mut config = cluster.listener(&format!("l{number}"), &upstreams);
        config.capacity = capacity;
        config.log.segment_bytes = 1 << 20;
        cluster.start(config)
    });
    let listeners = join_all(starts).await;
    for listener in &listeners {
        attached(listener).await;
    }
    (voters, listeners)
}

fn is_leader(running: &Running) -> bool {
    running.node.status().borrow().role == Role::Leader
}

#[tokio::test]
async fn ten_thousand_reads_cost_the_leader_a_few_questions() {
    const LISTENERS: usize = 20;
    const READS: usize = 10_000;
    let cluster = Cluster::new(3);
    let (voters, listeners) = tree(&cluster, LISTENERS, 2).await;
    let depth = |running: &Running| running.node.status().borrow().depth.unwrap();
    let deepest = listeners.iter().map(depth).max().unwrap();
    assert!(
        deepest >= 3,
        "a tree of depth {deepest} has no hop that merges questions of several others"
    );
    let leader = voters.iter().find(|voter| is_leader(voter)).unwrap();
    let roots: Vec<&Running> = voters.iter().filter(|voter| !is_leader(voter)).collect();
    let leader_before = leader.node.counters();
    let sent_before: Vec<u64> = roots
        .iter()
        .map(|root| root.node.counters().read_index_sent)
        .collect();

    let reads = (0..READS).map(|number| listeners[number % LISTENERS].node.read_barrier());
    for read in join_all(reads).await {
        read.unwrap();
    }

    let leader_after = leader.node.counters();
    let received = leader_after.read_index_received - leader_before.read_index_received;
    let rounds = leader_after.read_index_rounds - leader_before.read_index_rounds;
    let sent: u64 = roots
        .iter()
        .zip(sent_before)
        .map(|(root, before)| root.node.counters().read_index_sent - before)
        .sum();
    let by_listeners: u64 = listeners
        .iter()
        .map(|listener| listener.node.counters().read_index_sent)
        .sum();
    println!(
        "{READS} reads at {LISTENERS} listeners, depth {deepest}: {by_listeners} questions sent by listeners, \
         {received} questions at the leader from {} roots, {rounds} rounds among the voters",
        roots.len()
    );
    assert!(
        rounds >= 1 && received >= 1,
        "the leader was not asked at all"
    );
    assert_eq!(received, sent, "nobody but the roots asks the leader");
    assert!(
        received <= roots.len() as u64 * rounds,
        "{received} questions in {rounds} rounds: a root had two on their way"
    );
    // All reads began before any answer came. So a node asks for its readers, once more for those that came meanwhile, and a few times
    // because the levels below it are not in step; nothing of this grows with the number of reads.
    let levels = u64::from(deepest) + 1;
    assert!(
        received <= roots.len() as u64 * 2 * levels,
        "{received} questions at the leader for one burst of reads"
    );
    assert!(
        by_listeners <= LISTENERS as u64 * 2 * levels,
        "{by_listeners} questions for one burst of reads"
    );
}

/// What is acknowledged is counted before a read begins, and must be there when it ends.
#[tokio::test]
async fn reads_at_any_depth_stay_linearizable_while_the_leader_changes() {
    const WRITES: usize = 60;
    let cluster = Cluster::new(3);
    let (voters, listeners) = tree(&cluster, 4, 1).await;
    let acknowledged = Arc::new(AtomicUsize::new(1));
    let writing = {
        let (acknowledged, node) = (acknowledged.clone(), listeners[0].node.clone());
        tokio::spawn(async move {
            while acknowledged.load(Ordering::SeqCst) < WRITES {
                // One whose outcome is unknown may have been done: then there is more to see, never less.
                if node.write("w".into()).await.is_ok() {
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    };
    let reading = listeners.iter().map(async |listener| {
        let mut reads = 0;
        while acknowledged.load(Ordering::SeqCst) < WRITES {
            let before = acknowledged.load(Ordering::SeqCst);
            if listener.node.read_barrier().await.is_ok() {
                reads += 1;
                let seen = listener.commands().len();
                assert!(seen >= before, "a read saw {seen} writes of {before}");
            }
        }
        reads
    });
    let stopping = async {
        eventually("a third is written", async || {
            acknowledged.load(Ordering::SeqCst) > WRITES / 3
        })
        .await;
        let leader = voters.iter().find(|voter| is_leader(voter)).unwrap();
        leader.node.shutdown().await;
    };
    let (reads, ()) = tokio::join!(join_all(reading), stopping);
    writing.await.unwrap();
    assert!(reads.iter().all(|reads| *reads > 0), "{reads:?}");
}

#[tokio::test]
async fn a_bounded_read_asks_only_when_its_bound_is_passed() {
    let cluster = Cluster::new(3);
    let (voters, listeners) = tree(&cluster, 2, 1).await;
    let reader = &listeners[1];
    let sent = || reader.node.counters().read_index_sent;
    let hour = Duration::from_secs(3600);

    assert_eq!(sent(), 0);
    reader.node.read_barrier_within(hour).await.unwrap();
    assert_eq!(sent(), 1, "nothing was known: it asked");
    for _ in 0..100 {
        assert!(reader.node.read_barrier_within(hour).await.unwrap() < hour);
    }
    assert_eq!(sent(), 1, "what is known serves for an hour");

    // A write acknowledged before a read that allows nothing must be there: as strong as a linearizable read.
    write(&voters[0].node, 1, 20).await;
    let began = Instant::now();
    let staleness = reader
        .node
        .read_barrier_within(Duration::ZERO)
        .await
        .unwrap();
    assert!(staleness <= began.elapsed());
    assert_eq!(reader.commands().len(), 20);
    assert_eq!(sent(), 2);
}

/// The promise itself, on a listener that is served by its note alone.
#[tokio::test]
async fn a_bounded_read_has_what_was_acknowledged_before_its_bound() {
    let bound = Duration::from_millis(40);
    let cluster = Cluster::new(3);
    let (voters, listeners) = tree(&cluster, 2, 1).await;
    let mut acknowledged: Vec<Instant> = Vec::new();
    for number in 1..200 {
        write(&voters[0].node, number, number + 1).await;
        acknowledged.push(Instant::now());
        for listener in &listeners {
            let began = Instant::now();
            listener.node.read_barrier_within(bound).await.unwrap();
            let old_enough = acknowledged
                .iter()
                .filter(|at| began.duration_since(**at) > bound)
                .count();
            let seen = listener.commands().len() - 1;
            assert!(
                seen >= old_enough,
                "{seen} of {old_enough} writes older than the bound"
            );
        }
    }
}

#[tokio::test]
async fn without_a_leader_bounded_reads_go_on_until_their_bound() {
    let cluster = Cluster::new(3);
    let (voters, listeners) = tree(&cluster, 1, 1).await;
    let reader = &listeners[0];
    let hour = Duration::from_secs(3600);
    reader.node.read_barrier_within(hour).await.unwrap();
    for voter in &voters {
        voter.node.shutdown().await;
    }
    reader.node.read_barrier_within(hour).await.unwrap();
    let refused = reader.node.read_barrier_within(Duration::ZERO).await;
    assert!(
        matches!(refused, Err(ReadError::NoLeader(_) | ReadError::Timeout(_))),
        "{refused:?}"
    );
    assert!(reader.node.read_barrier().await.is_err());
    reader.node.read_barrier_within(hour).await.unwrap();
}
