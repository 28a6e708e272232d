//! A group lost for good and made again of a listener (B17), through the library: for a state machine of the user's own.

mod common;

use common::{
    Cluster, History, Running, converged, eventually, free_port, state_file, try_start, write,
};
use eaves::{Config, Group, SmallMachine, Source, StartAs, StateMachine, Survey};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn open(dir: &Path) -> io::Result<Arc<dyn StateMachine>> {
    Ok(Arc::new(SmallMachine::<History>::open(&state_file(dir))?))
}

async fn stop(nodes: Vec<Running>) {
    for running in &nodes {
        running.node.shutdown().await;
    }
}

/// B17, B9. The listener came late: its log begins where its snapshot ends. So do the new voters' logs, and who joins them gets a snapshot.
#[tokio::test]
async fn a_listener_that_began_with_a_snapshot_becomes_a_group_that_others_join() {
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
        let command = format!("{number:0200}");
        nodes[0].node.write(command.into()).await.unwrap();
    }
    eventually("the log is released", async || {
        (nodes.iter()).all(|running| running.node.log_stats().segments < 9)
    })
    .await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let listener = cluster.start(cluster.listener("l1", &upstreams)).await;
    converged(&[&nodes[0], &listener], 600).await;
    assert_eq!(listener.node.counters().snapshots.received(), 1);
    write(&listener.node, 600, 650).await;
    converged(&[&nodes[0], &listener], 650).await;
    let before = listener.commands();
    let index = listener.node.positions().applied;
    stop(nodes).await;
    stop(vec![listener]).await;

    let source = Source::open(&cluster.data_dir("l1"), open).unwrap();
    let stand = source.stand().clone();
    assert_eq!((stand.index, stand.is_voter), (index, false));
    assert!(stand.log_first > 0);
    assert_eq!(stand.voters.len(), 3);
    let survey = Survey::of(vec![source]).unwrap();
    let founders: Vec<(String, String)> = ["n1", "n2"]
        .map(|name| (name.to_string(), format!("127.0.0.1:{}", free_port())))
        .into();
    let group = Group::new("again", &founders);
    let dirs: Vec<PathBuf> = (founders.iter())
        .map(|(name, _)| cluster.data_dir(name))
        .collect();
    let (term, first) = survey.make(&group, &dirs, open).unwrap();
    assert!(term > stand.term);
    assert_eq!(first, index + 1);
    drop(survey);

    let mut again = Vec::new();
    for (name, address) in &founders {
        let start_as = StartAs::Voter {
            group: group.clone(),
        };
        let config = Config::new(name, cluster.data_dir(name), address, start_as);
        again.push(try_start(config).await.unwrap());
    }
    write(&again[0].node, 650, 700).await;
    converged(&[&again[0], &again[1]], 700).await;
    assert_eq!(again[0].commands()[..650], before);
    let status = again[0].node.status().borrow().clone();
    assert_eq!(status.cluster_id, group.cluster_id);
    assert!(
        status.term > term,
        "the first leader's term is one of its own"
    );

    let addresses: Vec<&str> = founders.iter().map(|founder| founder.1.as_str()).collect();
    let joined = cluster.start(cluster.listener("l2", &addresses)).await;
    converged(&[&again[0], &joined], 700).await;
    assert_eq!(joined.node.counters().snapshots.received(), 1);
    // And the old one is told on its old directory, at once.
    let refused = try_start(cluster.listener("l1", &addresses)).await.err();
    let refused = refused.expect("it is of the lost group").to_string();
    assert!(
        refused.contains("`eaves recover` made of the caller's"),
        "{refused}"
    );
}
