//! Changes of role in a running group: promote, demote, replace, transfer leadership; what is refused; what survives.

mod common;

use common::{Cluster, Running, Stalling, converged, eventually, write};
use eaves::{RaftTimes, Role, RoleChange, RoleChangeError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn promote(node: &str) -> RoleChange {
    RoleChange::Promote { node: node.into() }
}

fn demote(node: &str) -> RoleChange {
    RoleChange::Demote { node: node.into() }
}

fn replace(old: &str, new: &str) -> RoleChange {
    RoleChange::Replace {
        old: old.into(),
        new: new.into(),
    }
}

fn transfer(to: Option<&str>) -> RoleChange {
    RoleChange::TransferLeader {
        to: to.map(str::to_string),
    }
}

async fn change(at: &Running, change: RoleChange) -> Result<String, RoleChangeError> {
    let mut lines = Vec::new();
    let result = at
        .node
        .change_role(change.clone(), |line| lines.push(line))
        .await;
    println!("{change:?}: {lines:?} -> {result:?}");
    result
}

async fn refusal(at: &Running, wanted: RoleChange) -> String {
    match change(at, wanted).await {
        Err(RoleChangeError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

fn role(running: &Running) -> Role {
    running.node.status().borrow().role
}

fn voters(running: &Running) -> Vec<String> {
    let mut names: Vec<String> = running
        .node
        .members()
        .into_iter()
        .map(|member| member.name)
        .collect();
    names.sort();
    names
}

fn leader(nodes: &[Running]) -> usize {
    nodes
        .iter()
        .position(|running| role(running) == Role::Leader)
        .expect("somebody leads")
}

async fn leader_known(nodes: &[Running]) {
    eventually("everybody knows the leader", async || {
        nodes
            .iter()
            .all(|running| running.node.status().borrow().leader.is_some())
    })
    .await;
}

/// A group of three whose nodes feed one listener each, and chains of listeners below its followers, one of them `depth` deep. Returns
/// the voters, that chain from the top down, and the other listeners.
async fn with_chains(
    cluster: &Cluster,
    depth: usize,
) -> (Vec<Running>, Vec<Running>, Vec<Running>) {
    let mut voters = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        config.capacity = 1;
        voters.push(cluster.start(config).await);
    }
    leader_known(&voters).await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let mut chains: Vec<Vec<Running>> = Vec::new();
    while chains.iter().all(|chain| chain.len() < depth) {
        let name = format!("l{}", chains.iter().map(Vec::len).sum::<usize>());
        let mut config = cluster.listener(&name, &upstreams);
        config.capacity = 1;
        config.client_urls = vec![format!("http://{name}.example:2379")];
        let listener = cluster.start(config).await;
        eventually("the listener is attached", async || {
            listener.node.status().borrow().depth.is_some()
        })
        .await;
        let upstream = listener.node.status().borrow().upstream;
        let is_above = |chain: &&mut Vec<Running>| {
            let last = chain.last().expect("no chain is empty");
            Some(last.node.status().borrow().node_id) == upstream
        };
        match chains.iter_mut().find(is_above) {
            Some(chain) => chain.push(listener),
            None => chains.push(vec![listener]),
        }
    }
    chains.sort_by_key(Vec::len);
    let longest = chains.pop().expect("there is a chain");
    (voters, longest, chains.into_iter().flatten().collect())
}

fn name(running: &Running) -> String {
    running.node.status().borrow().name.clone()
}

async fn attached(listener: &Running, depth: u32) {
    eventually("the listener is attached", async || {
        listener.node.status().borrow().depth == Some(depth)
    })
    .await;
}

#[tokio::test]
async fn a_listener_at_depth_one_becomes_a_voter_and_keeps_its_downstreams() {
    let cluster = Cluster::new(3);
    let (voters3, chain, other) = with_chains(&cluster, 2).await;
    write(&voters3[0].node, 0, 20).await;
    let promoted = name(&chain[0]);
    let moves = chain[1].node.counters().moves;

    // Asked of the node itself, which leaves its upstream in the middle of it.
    let text = change(&chain[0], promote(&promoted)).await.unwrap();
    assert!(
        text.contains(&format!("voters: {promoted}, v1, v2, v3")),
        "{text}"
    );
    write(&chain[0].node, 20, 40).await;
    let all: Vec<&Running> = voters3.iter().chain(&chain).chain(&other).collect();
    converged(&all, 40).await;
    let expected = [promoted.as_str(), "v1", "v2", "v3"];
    eventually("B5: everybody knows the four voters", async || {
        all.iter().all(|running| voters(running) == expected)
    })
    .await;
    let members = voters3[0].node.members();
    let member = members
        .iter()
        .find(|member| member.name == promoted)
        .unwrap();
    assert_eq!(
        member.client_urls,
        [format!("http://{promoted}.example:2379")]
    );
    assert_eq!(member.peer_address, chain[0].node.peer_address());

    assert_ne!(role(&chain[0]), Role::Listener);
    assert_eq!(chain[0].node.status().borrow().depth, Some(0));
    eventually(
        "B16: its downstream hangs below it, now a root",
        async || {
            let status = chain[1].node.status().borrow().clone();
            status.upstream == Some(chain[0].node.status().borrow().node_id)
                && status.depth == Some(1)
        },
    )
    .await;
    assert_eq!(chain[1].node.counters().moves, moves, "B16: it never moved");
    for running in &all {
        let snapshots = running.node.counters().snapshots;
        let received =
            snapshots.received_new + snapshots.received_behind + snapshots.received_pushed;
        assert_eq!(received, 0, "nothing but log was sent");
    }
    let again = change(&voters3[1], promote(&promoted)).await.unwrap();
    assert_eq!(again, format!("{promoted} is a voter already"));
}

/// For measurements: the leader feeds it, it votes for nothing, and it stays so; without the word to stay it listens again.
#[tokio::test]
async fn a_measured_learner_is_fed_by_the_leader_and_another_goes_back_to_listening() {
    let cluster = Cluster::new(3);
    let voters3 = cluster.start_voters().await;
    leader_known(&voters3).await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let mut nodes = Vec::new();
    for (name, stays) in [("m1", true), ("m2", false)] {
        let mut config = cluster.listener(name, &upstreams);
        config.stays_learner = stays;
        let node = cluster.start(config).await;
        common::attached(&node).await;
        nodes.push(node);
    }
    let learn = |node: &Running| RoleChange::Learn { node: name(node) };
    for node in &nodes {
        assert_eq!(
            change(node, learn(node)).await.unwrap(),
            format!("{} is a learner", name(node))
        );
    }
    eventually("the one without the word listens again", async || {
        role(&nodes[1]) == Role::Listener
    })
    .await;
    write(&voters3[0].node, 0, 20).await;
    let all: Vec<&Running> = voters3.iter().chain(&nodes).collect();
    converged(&all, 20).await;
    assert_eq!(role(&nodes[0]), Role::Follower, "it has Raft open");
    assert_eq!(voters(&voters3[0]), ["v1", "v2", "v3"]);

    change(&voters3[0], demote("m1")).await.unwrap();
    eventually("told to look, it listens as well", async || {
        role(&nodes[0]) == Role::Listener
    })
    .await;
}

#[tokio::test]
async fn a_listener_at_depth_three_is_promoted_and_its_vote_counts() {
    let cluster = Cluster::new(3);
    let (voters3, chain, other) = with_chains(&cluster, 4).await;
    write(&voters3[0].node, 0, 10).await;
    change(&chain[3], promote(&name(&chain[2]))).await.unwrap();
    write(&chain[3].node, 10, 20).await;
    let all: Vec<&Running> = voters3.iter().chain(&chain).chain(&other).collect();
    converged(&all, 20).await;
    attached(&chain[1], 2).await;
    attached(&chain[3], 1).await;
    assert_eq!(role(&chain[1]), Role::Listener);
    // Of four voters three are a quorum: with one gone, the new one is needed for it.
    let gone = leader(&voters3);
    voters3[gone].node.shutdown().await;
    write(&chain[3].node, 20, 25).await;
}

/// Writes numbers through `node` until told to stop; returns those that were acknowledged, in order.
struct Writer {
    stop: tokio::sync::watch::Sender<bool>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(node: eaves::Node, prefix: &'static str) -> Writer {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if *stopped.borrow() {
                    break;
                }
                let text = format!("{prefix}{number}");
                // An unknown outcome is no acknowledgement, and is not repeated.
                if node.write(text.clone().into()).await.is_ok() {
                    acknowledged.push(text);
                }
            }
            acknowledged
        });
        Writer { stop, task }
    }

    async fn stop(self) -> Vec<String> {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

/// Every acknowledged write is on every node, once, and in the order in which one writer made them.
async fn assert_kept(nodes: &[&Running], acknowledged: &[String]) {
    assert!(!acknowledged.is_empty(), "nothing was acknowledged");
    eventually("everybody has every acknowledged write", async || {
        nodes.iter().all(|running| {
            let history = running.commands();
            let mut history = history.iter();
            acknowledged
                .iter()
                .all(|write| history.any(|command| command == write.as_bytes()))
        })
    })
    .await;
    for running in nodes {
        let mut history = running.commands();
        let length = history.len();
        history.sort();
        history.dedup();
        assert_eq!(history.len(), length, "a write was applied twice");
    }
}

async fn with_listener() -> (Cluster, Vec<Running>, Running) {
    let cluster = Cluster::new(3);
    let voters3 = cluster.start_voters().await;
    leader_known(&voters3).await;
    write(&voters3[0].node, 0, 5).await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let listener = cluster.start(cluster.listener("l1", &upstreams)).await;
    eventually("the listener is attached", async || {
        listener.node.status().borrow().depth.is_some()
    })
    .await;
    (cluster, voters3, listener)
}

#[tokio::test]
async fn a_demoted_follower_listens_and_a_demoted_leader_hands_over_first() {
    let (_cluster, nodes, listener) = with_listener().await;
    let follower = (leader(&nodes) + 1) % 3;
    let text = change(&listener, demote(&name(&nodes[follower])))
        .await
        .unwrap();
    assert!(text.contains("votes no more"), "{text}");
    eventually("the demoted follower is attached", async || {
        role(&nodes[follower]) == Role::Listener
            && nodes[follower].node.status().borrow().depth.is_some()
    })
    .await;
    write(&nodes[follower].node, 5, 10).await;

    let first = leader(&nodes);
    change(&nodes[first], demote(&name(&nodes[first])))
        .await
        .unwrap();
    eventually("the demoted leader listens", async || {
        role(&nodes[first]) == Role::Listener
    })
    .await;
    // Nobody feeds listeners now, so only the last voter takes writes (S1).
    let last = 3 - follower - first;
    write(&nodes[last].node, 10, 15).await;
    assert_eq!(voters(&nodes[last]), [name(&nodes[last])]);
    eventually("the last voter leads", async || {
        role(&nodes[last]) == Role::Leader
    })
    .await;
    let text = refusal(&nodes[last], demote(&name(&nodes[last]))).await;
    assert!(text.contains("the last voter"), "{text}");

    // And back: nobody feeds listeners, so Raft brings the rest.
    change(&nodes[last], promote(&name(&nodes[first])))
        .await
        .unwrap();
    write(&nodes[last].node, 15, 20).await;
    let all: Vec<&Running> = nodes.iter().chain([&listener]).collect();
    converged(&all, 20).await;
}

#[tokio::test]
async fn a_living_voter_is_replaced_under_writes_and_becomes_a_listener() {
    let (_cluster, nodes, listener) = with_listener().await;
    let old = (leader(&nodes) + 1) % 3;
    let writer = Writer::start(nodes[leader(&nodes)].node.clone(), "w");
    let wanted = replace(&name(&nodes[old]), "l1");
    let text = change(&nodes[old], wanted.clone()).await.unwrap();
    assert!(text.contains("l1 votes in place of"), "{text}");
    eventually("the old voter is an attached listener", async || {
        role(&nodes[old]) == Role::Listener && nodes[old].node.status().borrow().depth.is_some()
    })
    .await;
    let all: Vec<&Running> = nodes.iter().chain([&listener]).collect();
    assert_kept(&all, &writer.stop().await).await;
    let again = change(&listener, wanted).await.unwrap();
    assert!(again.contains("l1 is a voter already"), "{again}");
}

#[tokio::test]
async fn a_leader_is_replaced_under_writes() {
    let (_cluster, nodes, listener) = with_listener().await;
    let first = leader(&nodes);
    let writer = Writer::start(listener.node.clone(), "w");
    change(&listener, replace(&name(&nodes[first]), "l1"))
        .await
        .unwrap();
    assert_eq!(role(&nodes[first]), Role::Listener);
    assert_ne!(role(&listener), Role::Listener);
    let all: Vec<&Running> = nodes.iter().chain([&listener]).collect();
    assert_kept(&all, &writer.stop().await).await;
}

#[tokio::test]
async fn a_dead_voter_is_replaced_and_finds_out_when_it_comes_back() {
    let (cluster, mut nodes, listener) = with_listener().await;
    let dead = (leader(&nodes) + 1) % 3;
    let dead_name = name(&nodes[dead]);
    let gone = nodes.remove(dead);
    gone.node.shutdown().await;
    drop(gone);
    let writer = Writer::start(nodes[0].node.clone(), "w");
    let text = change(&nodes[1], replace(&dead_name, "l1")).await.unwrap();
    assert!(text.contains("l1 votes in place of"), "{text}");
    let acknowledged = writer.stop().await;

    let back = cluster.start(cluster.voter(&dead_name)).await;
    assert_ne!(role(&back), Role::Listener, "nobody has told it yet");
    eventually(
        "it finds out that it votes no more, and listens",
        async || role(&back) == Role::Listener && back.node.status().borrow().depth.is_some(),
    )
    .await;
    write(&back.node, 100, 105).await;
    let all: Vec<&Running> = nodes.iter().chain([&listener, &back]).collect();
    assert_kept(&all, &acknowledged).await;

    // The directory remembers what the node has become, whatever the command line says it began as.
    back.node.shutdown().await;
    drop(back);
    let back = cluster.start(cluster.voter(&dead_name)).await;
    assert_eq!(role(&back), Role::Listener);
    eventually("it knows where to look for an upstream", async || {
        back.node.status().borrow().depth.is_some()
    })
    .await;
    let address = listener.node.peer_address().to_string();
    listener.node.shutdown().await;
    drop(listener);
    let mut config = cluster.listener("l1", &[]);
    config.listen_peer = address;
    let listener = cluster.start(config).await;
    assert_ne!(role(&listener), Role::Listener, "it was promoted");
    write(&listener.node, 105, 110).await;
}

/// A voter that was removed while it was down asks the others for votes again and again, and its leader answers each time.
#[tokio::test]
async fn a_removed_voter_finds_out_however_often_it_stands_for_election() {
    let cluster = Cluster::new(3);
    let impatient = |name: &str| {
        let mut config = cluster.voter(name);
        config.raft = RaftTimes {
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: Duration::from_millis(200),
        };
        config
    };
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        nodes.push(cluster.start(impatient(name)).await);
    }
    leader_known(&nodes).await;
    write(&nodes[0].node, 0, 5).await;
    let gone = nodes.remove((leader(&nodes) + 1) % 3);
    let name = name(&gone);
    gone.node.shutdown().await;
    drop(gone);
    change(&nodes[0], demote(&name)).await.unwrap();
    // Nobody knows it any more, so nobody can tell it from one that never was.
    let text = refusal(&nodes[leader(&nodes)], demote(&name)).await;
    assert!(text.contains("was taken out while it was down"), "{text}");
    let back = cluster.start(impatient(&name)).await;
    eventually("it finds out that it votes no more", async || {
        role(&back) == Role::Listener
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_says_why() {
    let (cluster, mut nodes, listener) = with_listener().await;
    for (wanted, says) in [
        (promote("nobody"), "no node called nobody"),
        (replace("v1", "v2"), "v2 is a voter already"),
        (replace("v1", "v1"), "cannot replace itself"),
        (transfer(Some("l1")), "l1 is no voter: `eaves promote l1`"),
    ] {
        let text = refusal(&listener, wanted).await;
        assert!(text.contains(says), "{text}");
    }
    // What is so already succeeds.
    for wanted in [promote("v1"), demote("l1"), replace("l1", "v1")] {
        let text = change(&listener, wanted).await.unwrap();
        assert!(text.contains("already"), "{text}");
    }
    assert_eq!(role(&listener), Role::Listener);

    let dead = (leader(&nodes) + 1) % 3;
    let gone = nodes.remove(dead);
    let gone_name = name(&gone);
    gone.node.shutdown().await;
    let alive = name(&nodes[0]);
    let text = refusal(&listener, demote(&alive)).await;
    assert!(text.contains("would lose its quorum"), "{text}");
    assert!(text.contains(&gone_name), "{text}");
    let text = refusal(&listener, transfer(Some(&gone_name))).await;
    assert!(text.contains("cannot be reached"), "{text}");
    write(&listener.node, 5, 10).await;

    let second = cluster
        .start(cluster.listener("l2", &[listener.node.peer_address()]))
        .await;
    eventually("l2 is attached", async || {
        second.node.status().borrow().depth.is_some()
    })
    .await;
    let id = format!("{:x}", second.node.status().borrow().node_id);
    let tree = listener.node.tree(std::time::Duration::from_secs(2)).await;
    assert!(tree.iter().any(|row| row.name == "l2"));
    // By id, as the commands print it.
    change(&listener, replace(&gone_name, &id)).await.unwrap();
    assert_eq!(voters(&second).len(), 3);
}

#[tokio::test]
async fn leadership_goes_to_whom_it_is_given() {
    let (_cluster, nodes, listener) = with_listener().await;
    let first = leader(&nodes);
    let next = (first + 1) % 3;
    let text = change(&listener, transfer(Some(&name(&nodes[next]))))
        .await
        .unwrap();
    assert_eq!(text, format!("{} leads", name(&nodes[next])));
    eventually("it leads", async || role(&nodes[next]) == Role::Leader).await;
    let text = change(&nodes[next], transfer(Some(&name(&nodes[next]))))
        .await
        .unwrap();
    assert!(text.contains("leads already"), "{text}");
    change(&listener, transfer(None)).await.unwrap();
    eventually("somebody else leads", async || {
        role(&nodes[next]) != Role::Leader && nodes.iter().any(|node| role(node) == Role::Leader)
    })
    .await;
    write(&listener.node, 5, 10).await;
}

/// A vote as the log keeps it.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Vote {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    voted_for: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

/// Stops a node, reads the vote that its log keeps, and starts it again.
async fn kept_vote(cluster: &Cluster, node: Running) -> (Vote, Running) {
    let config = cluster.voter(&name(&node));
    node.node.shutdown().await;
    drop(node);
    let (_, recovered) = eaves_log::Log::open(
        config.disk.clone(),
        &config.data_dir.join("log"),
        config.log,
    )
    .unwrap();
    let bytes = recovered.hard_state.expect("a voter has voted");
    let vote = <Vote as prost::Message>::decode(bytes).unwrap();
    (vote, cluster.start(config).await)
}

#[tokio::test]
async fn one_vote_per_term_across_demotion_restart_and_promotion() {
    let (cluster, mut nodes, listener) = with_listener().await;
    let follower = (leader(&nodes) + 1) % 3;
    let turned = nodes.remove(follower);
    let turned_name = name(&turned);
    let (before, turned) = kept_vote(&cluster, turned).await;
    change(&nodes[0], demote(&turned_name)).await.unwrap();
    assert_eq!(role(&turned), Role::Listener);
    let (as_listener, turned) = kept_vote(&cluster, turned).await;
    assert_eq!(role(&turned), Role::Listener);
    assert!(as_listener.term >= before.term);
    for _ in 0..2 {
        change(&nodes[0], transfer(None)).await.unwrap();
        leader_known(&nodes).await;
    }
    let (still, turned) = kept_vote(&cluster, turned).await;
    assert_eq!(still, as_listener, "a listener votes for nobody");
    eventually("it is attached", async || {
        turned.node.status().borrow().depth.is_some()
    })
    .await;
    change(&listener, promote(&turned_name)).await.unwrap();
    let (after, turned) = kept_vote(&cluster, turned).await;
    assert_ne!(role(&turned), Role::Listener);
    for (earlier, later) in [(before, as_listener), (as_listener, after)] {
        assert!(later.term >= earlier.term, "{earlier:?}, then {later:?}");
        assert!(
            later.term > earlier.term || later.voted_for == earlier.voted_for,
            "one-vote-per-term: {earlier:?}, then {later:?}"
        );
    }
    assert!(after.term > before.term, "the terms went on meanwhile");
    write(&turned.node, 5, 10).await;
}

#[tokio::test]
async fn a_leader_that_lost_its_quorum_is_shown_as_none() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_voters().await;
    write(&nodes[0].node, 0, 5).await;
    let first = leader(&nodes);
    let left = nodes.remove(first);
    for node in nodes {
        node.node.shutdown().await;
    }
    eventually("it no longer says that it leads", async || {
        role(&left) != Role::Leader && left.node.status().borrow().leader.is_none()
    })
    .await;
}

/// S1, S15: nobody feeds the listener of a group of one, and so nobody but itself knows it. Asked itself it becomes a voter all the same,
/// by Raft; and the group, once it has a follower, feeds listeners again.
#[tokio::test]
async fn a_group_of_one_grows_when_the_listener_is_asked() {
    let cluster = Cluster::new(1);
    let voters1 = cluster.start_voters().await;
    write(&voters1[0].node, 0, 5).await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let second = cluster.start(cluster.listener("l1", &upstreams)).await;
    let third = cluster.start(cluster.listener("l2", &upstreams)).await;
    let text = refusal(&voters1[0], promote("l1")).await;
    assert!(text.contains("asked itself"), "{text}");
    change(&second, promote("l1")).await.unwrap();
    assert_eq!(voters(&voters1[0]), ["l1", "v1"]);
    converged(&[&voters1[0], &second, &third], 5).await;
    change(&second, demote("l1")).await.unwrap();
    assert_eq!(voters(&voters1[0]), ["v1"]);
    write(&voters1[0].node, 5, 10).await;
    change(&second, promote("l1")).await.unwrap();
    converged(&[&voters1[0], &second, &third], 10).await;
}

/// B9, B12, S15: what one node of a group of one lacks comes by Raft, a snapshot in place of the log too, when the leader has let go of
/// what follows it. Nobody else could bring it.
#[tokio::test]
async fn who_is_behind_the_log_of_a_group_of_one_joins_it_by_a_snapshot() {
    let cluster = Cluster::new(2);
    let mut nodes = Vec::new();
    for name in ["v1", "v2"] {
        let mut config = cluster.voter(name);
        config.log.segment_bytes = 16 << 10;
        config.log_retention_bytes = 32 << 10;
        config.snapshot_entries = 50;
        nodes.push(cluster.start(config).await);
    }
    write(&nodes[0].node, 0, 20).await;
    let lead = leader(&nodes);
    let (lead, other) = (&nodes[lead], &nodes[1 - lead]);
    change(lead, demote(&name(other))).await.unwrap();
    eventually("it listens", async || role(other) == Role::Listener).await;
    for number in 20..600 {
        let command = format!("{number:0200}");
        lead.node.write(command.into()).await.unwrap();
    }
    eventually("the log is released", async || {
        lead.node.log_stats().segments < 9
    })
    .await;
    let mut told = Vec::new();
    let promoted = other
        .node
        .change_role(promote(&name(other)), |line| told.push(line));
    promoted.await.unwrap();
    let says = |line: &String| line.ends_with("a snapshot takes its place");
    assert!(told.iter().any(says), "{told:?}");
    assert_eq!(voters(lead).len(), 2);
    write(&other.node, 600, 620).await;
    converged(&[lead, other], 620).await;
    assert_eq!(lead.commands(), other.commands());
}

/// S15: who is far behind is waited for, and told about meanwhile.
#[tokio::test]
async fn a_listener_that_is_far_behind_is_waited_for() {
    const BEHIND: usize = 1_500;
    let (cluster, nodes, _listener) = with_listener().await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let network = Stalling::default();
    let mut config = cluster.listener("late", &upstreams);
    config.network = Arc::new(network.clone());
    let late = cluster.start(config).await;
    converged(&[&late], 5).await;
    network.stalled.store(true, Ordering::Relaxed);
    let writes = (0..BEHIND).map(|number| nodes[0].node.write(number.to_string().into()));
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    let mut waited = false;
    let promoted = nodes[1].node.change_role(promote("late"), |line| {
        if line.starts_with(&format!("late is {BEHIND} entries behind")) {
            waited = true;
            assert_eq!(role(&late), Role::Listener, "it has no vote yet");
            network.stalled.store(false, Ordering::Relaxed);
        }
    });
    promoted.await.unwrap();
    assert!(waited, "it was behind");
    assert_ne!(role(&late), Role::Listener);
    let all: Vec<&Running> = nodes.iter().chain([&late]).collect();
    converged(&all, 5 + BEHIND).await;
}
