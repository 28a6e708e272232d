//! What a node must refuse, and how it says so: strangers on the peer port, and directories that are not its own.

mod common;

use common::{Cluster, attached, converged, eventually, state_file, try_start, write};
use eaves::{RoleChange, StartError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A handshake as a peer would send it: version, cluster id, node id and purpose as protobuf fields 1 to 4.
fn hello(version: u8, cluster_id: u64, purpose: u8) -> Vec<u8> {
    let head = [
        &[0x08, version, 0x11][..],
        &cluster_id.to_le_bytes(),
        &[0x18, 0x09, 0x20, purpose],
    ]
    .concat();
    let length = (head.len() as u32).to_le_bytes();
    [&length[..], &[1, 0, 0, 0], &length, &head].concat()
}

/// Sends bytes and reads until the node closes or is silent for a second; returns what was readable in its answer.
async fn answer_to(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn strangers_on_the_peer_port_are_refused_and_harm_nobody() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_voters().await;
    write(&nodes[0].node, 0, 5).await;
    let address = nodes[0].node.peer_address().to_string();
    let cluster_id = nodes[0].node.status().borrow().cluster_id;

    let other_cluster = answer_to(&address, &hello(4, cluster_id ^ 1, 1)).await;
    assert!(
        other_cluster.contains("belongs to cluster"),
        "{other_cluster:?}"
    );
    let other_version = answer_to(&address, &hello(7, cluster_id, 1)).await;
    assert!(
        other_version.contains("speaks peer protocol version 4, the caller 7"),
        "{other_version:?}"
    );
    assert_eq!(
        answer_to(&address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await,
        ""
    );
    assert_eq!(answer_to(&address, &[0xff; 4096]).await, "");
    for purpose in 1..=5 {
        let mut garbage = hello(4, cluster_id, purpose);
        for step in 0..200u32 {
            garbage.extend_from_slice(&step.wrapping_mul(2_654_435_761).to_le_bytes());
        }
        answer_to(&address, &garbage).await;
        // A packet of the right kind with nothing in it.
        for kind in 4..=16 {
            answer_nothing(&address, cluster_id, purpose, kind).await;
        }
    }
    write(&nodes[0].node, 5, 10).await;
    converged(&nodes.iter().collect::<Vec<_>>(), 10).await;
}

async fn answer_nothing(address: &str, cluster_id: u64, purpose: u8, kind: u8) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let packet = [
        &0u32.to_le_bytes()[..],
        &[kind, 0, 0, 0],
        &0u32.to_le_bytes(),
    ]
    .concat();
    let _ = stream
        .write_all(&[hello(4, cluster_id, purpose), packet].concat())
        .await;
    let mut answer = [0; 256];
    let _ = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut answer)).await;
}

/// B11, B12: a listener that starts with a log of another history, and is ahead of all who could compare it.
#[tokio::test]
async fn who_is_ahead_with_another_history_misleads_no_newcomer() {
    let cluster = Cluster::new(3);
    let former = cluster.start_voters().await;
    let addresses = cluster.voter_addresses();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let ahead = cluster.start(cluster.listener("l1", &addresses)).await;
    write(&former[0].node, 0, 30).await;
    converged(&[&former[0], &ahead], 30).await;
    ahead.node.shutdown().await;
    drop(ahead);
    for voter in former {
        voter.node.shutdown().await;
    }
    for name in ["v1", "v2", "v3"] {
        std::fs::remove_dir_all(cluster.data_dir(name)).unwrap();
    }
    let voters = cluster.start_voters().await;
    write(&voters[0].node, 100, 105).await;
    let ahead = cluster.start(cluster.listener("l1", &addresses)).await;
    attached(&ahead).await;

    let newcomer = cluster.listener("l2", &[ahead.node.peer_address()]);
    let newcomer = cluster.start(newcomer).await;
    converged(&[&voters[0], &newcomer], 5).await;
    assert_eq!(ahead.commands().len(), 30);

    // Now the group has as much, and it is found out.
    write(&voters[0].node, 105, 160).await;
    converged(&[&voters[0], &newcomer], 60).await;
    let mark = cluster.data_dir("l1").join("log-differs");
    eventually("it is told that its log differs", async || mark.exists()).await;
    assert_eq!(ahead.commands().len(), 30);

    // Nor is it made a voter, which Raft would take for one that has caught up.
    let promote = RoleChange::Promote { node: "l1".into() };
    let refused = ahead.node.change_role(promote, |_| {}).await.unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("differs from the leader's"), "{refused}");
    assert_eq!(ahead.commands().len(), 30);
}

/// Raft takes no message for its own that came from outside: a leader's that bears the id of whom it came to, as one would that a leader
/// sent to itself, at the address where another was.
#[tokio::test]
async fn what_a_leader_seems_to_send_to_itself_is_refused() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_voters().await;
    write(&nodes[0].node, 0, 5).await;
    for (number, node) in nodes.iter().enumerate() {
        let (address, status) = (node.node.peer_address(), node.node.status());
        let (cluster_id, term, id) = {
            let status = status.borrow();
            (status.cluster_id, status.term, status.node_id)
        };
        for committed in [true, false] {
            let vote = [
                vec![0x08],
                varint(term),
                vec![0x10],
                varint(id),
                vec![0x18, committed.into()],
            ]
            .concat();
            let head = field(1, &vote);
            send_to(address, &hello(4, cluster_id, 3), &packet(6, &head)).await;
            // As a call too: 2 is a vote, 3 a pre-vote, 4 a transfer, 5 entries.
            for call in 2..=5 {
                let request = [vec![0x08, 1], field(call, &head)].concat();
                send_to(address, &hello(4, cluster_id, 1), &packet(4, &request)).await;
            }
        }
        write(&nodes[0].node, 5 + number, 6 + number).await;
    }
    converged(&nodes.iter().collect::<Vec<_>>(), 8).await;
}

/// A packet without a tail.
fn packet(kind: u8, head: &[u8]) -> Vec<u8> {
    let length = (head.len() as u32).to_le_bytes();
    [&length[..], &[kind, 0, 0, 0], &length, head].concat()
}

/// A protobuf field that holds a message.
fn field(number: u8, message: &[u8]) -> Vec<u8> {
    [
        &[number << 3 | 2][..],
        &varint(message.len() as u64),
        message,
    ]
    .concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Greets, sends a packet, and waits a moment for an answer or the end.
async fn send_to(address: &str, greeting: &[u8], packet: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(&[greeting, packet].concat()).await;
    let mut answers = Vec::new();
    let reading = stream.read_to_end(&mut answers);
    let _ = tokio::time::timeout(Duration::from_millis(200), reading).await;
}

#[tokio::test]
async fn two_processes_on_one_directory_are_one_too_many() {
    let cluster = Cluster::new(1);
    let _running = cluster.start_voters().await;
    let mut second = cluster.voter("v1");
    second.listen_peer = "127.0.0.1:0".into();
    let error = refused(second).await;
    assert!(
        error.contains("another process uses") && error.contains("stop it"),
        "{error}"
    );
}

#[tokio::test]
async fn a_taken_peer_port_is_named() {
    let cluster = Cluster::new(1);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = cluster.voter("v1");
    config.listen_peer = taken.local_addr().unwrap().to_string();
    let error = refused(config.clone()).await;
    assert!(
        error.contains(&config.listen_peer) && error.contains("choose another address"),
        "{error}"
    );
}

#[tokio::test]
async fn directories_of_others_are_refused() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_voters().await;
    for running in &nodes {
        running.node.shutdown().await;
    }
    drop(nodes);
    let mut of_another_node = cluster.voter("v1");
    of_another_node.data_dir = cluster.data_dir("v2");
    let error = refused(of_another_node).await;
    assert!(
        error.contains("belongs to node") && error.contains("choose another --data-dir"),
        "{error}"
    );

    let stranger = Cluster::new(3);
    let mut of_another_cluster = stranger.voter("v1");
    of_another_cluster.data_dir = cluster.data_dir("v1");
    let error = refused(of_another_cluster).await;
    assert!(error.contains("belongs to cluster"), "{error}");
}

#[tokio::test]
async fn a_listener_is_told_that_it_is_in_the_wrong_place() {
    let (one, other) = (Cluster::new(3), Cluster::new(3));
    let (nodes, _others) = (one.start_voters().await, other.start_voters().await);
    let upstreams = one.voter_addresses();
    let listener = one.start(one.listener("l1", &[&upstreams[0]])).await;
    listener.node.shutdown().await;
    drop(listener);
    let strange = other.voter_addresses();
    let error = refused(one.listener("l1", &[&strange[0]])).await;
    assert!(
        error.contains(&strange[0]) && error.contains("belongs to cluster"),
        "{error}"
    );

    nodes[0].node.shutdown().await;
    let mut on_a_voters_directory = one.listener("v1", &[&upstreams[1]]);
    on_a_voters_directory.data_dir = one.data_dir("v1");
    drop(nodes);
    let error = refused(on_a_voters_directory).await;
    assert!(
        error.contains("was made for a voter, not for a listener"),
        "{error}"
    );
}

#[tokio::test]
async fn a_listener_of_another_history_keeps_its_data_and_waits() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_voters().await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let listener = cluster.start(cluster.listener("l1", &upstreams)).await;
    write(&nodes[0].node, 0, 10).await;
    converged(&[&listener], 10).await;
    let before = listener.commands();
    for running in nodes.iter().chain([&listener]) {
        running.node.shutdown().await;
    }
    drop((nodes, listener));

    // The same group, founded again on empty disks: the same ids, another history.
    for name in ["v1", "v2", "v3"] {
        std::fs::remove_dir_all(cluster.data_dir(name)).unwrap();
    }
    let nodes = cluster.start_voters().await;
    write(&nodes[0].node, 100, 150).await;
    let listener = cluster.start(cluster.listener("l1", &upstreams)).await;
    let mut events = listener.node.events();
    let refusal = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            if let eaves::NodeEvent::Tree(text) = events.recv().await.unwrap()
                && text.contains("its log differs")
            {
                return text;
            }
        }
    });
    assert!(refusal.await.is_ok(), "B12: the difference is told");
    assert_eq!(listener.commands(), before, "B12: nothing is overwritten");
    assert_eq!(listener.node.status().borrow().upstream, None);
}

#[tokio::test]
async fn a_log_that_lost_its_end_or_its_middle_is_refused() {
    let cluster = Cluster::new(1);
    let running = cluster.start_voters().await.remove(0);
    write(&running.node, 0, 50).await;
    running.node.shutdown().await;
    drop(running);
    let log = cluster.data_dir("v1").join("log");
    let segment = std::fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let segment = segment
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .max()
        .unwrap();
    let whole = std::fs::read(&segment).unwrap();

    let mut damaged = whole.clone();
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap();
    damaged[written / 2] ^= 0x10;
    std::fs::write(&segment, &damaged).unwrap();
    let error = refused(cluster.voter("v1")).await;
    assert!(
        error.contains(&segment.display().to_string()),
        "names the file: {error}"
    );

    std::fs::write(&segment, &whole).unwrap();
    let running = try_start(cluster.voter("v1")).await.unwrap();
    assert_eq!(running.commands().len(), 50, "untouched again, it opens");
    running.node.shutdown().await;
    drop(running);

    for entry in std::fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if entry
            .extension()
            .is_some_and(|extension| extension == "seg")
        {
            std::fs::remove_file(entry).unwrap();
        }
    }
    std::fs::write(&segment, &whole[..written / 2]).unwrap();
    let error = refused(cluster.voter("v1")).await;
    assert!(
        error.contains(&log.display().to_string()),
        "names the log: {error}"
    );
}

#[tokio::test]
async fn a_log_and_a_state_from_different_histories_are_refused() {
    let (one, other) = (Cluster::new(1), Cluster::new(1));
    for (cluster, first) in [(&one, 0), (&other, 1000)] {
        let running = cluster.start_voters().await.remove(0);
        write(&running.node, first, first + 20).await;
        running.node.shutdown().await;
    }
    std::fs::copy(
        state_file(&other.data_dir("v1")),
        state_file(&one.data_dir("v1")),
    )
    .unwrap();
    let error = refused(one.voter("v1")).await;
    assert!(error.contains("was not made from this log"), "{error}");
}

async fn refused(config: eaves::Config) -> String {
    match try_start(config).await {
        Ok(_) => panic!("it started"),
        Err(error @ StartError::Other(_)) => panic!("it failed without saying what to do: {error}"),
        Err(error) => error.to_string(),
    }
}
