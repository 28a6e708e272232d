//! Steering the tree from any node: what is ordered at one is carried out at another, again without harm, and refused in words.

mod common;

use common::{Cluster, Running, eventually, write};
use eaves::{Kicked, Role, SteerError};
use std::time::Duration;

/// Three voters with a leader, and a listener for each name, which all know all voters.
async fn grown(cluster: &Cluster, listeners: &[&str]) -> Vec<Running> {
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        // A change of leader would move everybody.
        config.raft.election_timeout = Duration::from_secs(2);
        nodes.push(cluster.start(config).await);
    }
    write(&nodes[0].node, 0, 1).await;
    let voters = cluster.voter_addresses();
    let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
    for name in listeners {
        let listener = cluster.start(cluster.listener(name, &voters)).await;
        attached(&listener).await;
        nodes.push(listener);
    }
    nodes
}

async fn attached(listener: &Running) {
    eventually("the listener is attached", async || {
        listener.node.status().borrow().depth.is_some()
    })
    .await;
}

fn id(running: &Running) -> u64 {
    running.node.status().borrow().node_id
}

fn upstream(running: &Running) -> Option<u64> {
    running.node.status().borrow().upstream
}

fn leader(nodes: &[Running]) -> &Running {
    nodes
        .iter()
        .find(|running| running.node.status().borrow().role == Role::Leader)
        .expect("a leader")
}

fn text(error: SteerError) -> String {
    error.to_string()
}

/// S12.
#[tokio::test]
async fn a_listener_is_kicked_from_any_node_and_finds_a_place_again() {
    let cluster = Cluster::new(3);
    let nodes = grown(&cluster, &["l1", "l2"]).await;
    let listener = &nodes[3];
    for asked in [leader(&nodes), &nodes[4], listener] {
        attached(listener).await;
        let moves = listener.node.counters().moves;
        let kicked = asked.node.steer().kick("l1").await.unwrap();
        let Kicked::From(from) = kicked else {
            panic!("{kicked:?}")
        };
        assert_ne!(from.id, id(leader(&nodes)), "S1: the leader feeds nobody");
        eventually("the listener has a place again", async || {
            listener.node.counters().moves > moves && upstream(listener).is_some()
        })
        .await;
    }
    // By id, in decimal and in hexadecimal.
    for name in [id(listener).to_string(), format!("{:x}", id(listener))] {
        attached(listener).await;
        let steer = nodes[0].node.steer();
        eventually("the listener is found by its id", async || {
            steer.kick(&name).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_words() {
    let cluster = Cluster::new(3);
    let nodes = grown(&cluster, &["l1"]).await;
    let steer = nodes[3].node.steer();
    let refused = steer.kick("v1").await.unwrap_err();
    assert!(matches!(refused, SteerError::Refused(_)), "{refused:?}");
    assert!(text(refused).contains("v1 is a voter"));
    let unknown = steer.kick("l7").await.unwrap_err();
    assert!(matches!(unknown, SteerError::Unknown(_)), "{unknown:?}");
    let voter = steer.set_upstreams("v2", vec!["127.0.0.1:1".into()]).await;
    assert!(text(voter.unwrap_err()).contains("voter"));
    let empty = steer.set_upstreams("l1", Vec::new()).await.unwrap_err();
    assert!(text(empty).contains("empty"));
    let itself = nodes[3].node.peer_address().to_string();
    let itself = steer.set_upstreams("l1", vec![itself]).await.unwrap_err();
    assert!(text(itself).contains("itself"));
}
