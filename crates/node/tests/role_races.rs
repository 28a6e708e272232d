//! Changes of role while something else changes: the leader, or how far a voter is.

mod common;

use common::held::HeldDisk;
use common::{Cluster, Running, attached, eventually, write};
use eaves::{
    Connection, Listener, Network, Role, RoleChange, RoleChangeError, Step, StepObserver, Task,
    TcpNetwork,
};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::sync::watch;

fn promote(node: &str) -> RoleChange {
    RoleChange::Promote { node: node.into() }
}

async fn change(at: &Running, change: RoleChange) -> Result<String, RoleChangeError> {
    at.node.change_role(change, |_| {}).await
}

fn role(running: &Running) -> Role {
    running.node.status().borrow().role
}

fn name(running: &Running) -> String {
    running.node.status().borrow().name.clone()
}

fn voters(running: &Running) -> Vec<String> {
    let members = running.node.members().into_iter();
    let mut names: Vec<String> = members.map(|member| member.name).collect();
    names.sort();
    names
}

/// TCP, over which this node says nothing any more on connections of its own while it is cut.
#[derive(Clone, Default)]
struct Cuttable(Arc<AtomicBool>);

impl Cuttable {
    fn cut(&self, cut: bool) {
        self.0.store(cut, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl Network for Cuttable {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        Box::pin(async move {
            self.check()?;
            let connection = TcpNetwork.connect(address).await?;
            let writer = CuttableWriter(connection.writer, self.clone());
            Ok(Connection {
                writer: Box::new(writer),
                ..connection
            })
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        TcpNetwork.listen(address)
    }
}

struct CuttableWriter(Box<dyn AsyncWrite + Send + Unpin>, Cuttable);

impl AsyncWrite for CuttableWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.check()?;
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Holds the first node that has finished a step.
struct Held {
    step: Step,
    holder: watch::Sender<Option<String>>,
    /// How many have finished it.
    reached: AtomicUsize,
    let_go: watch::Sender<bool>,
}

impl Held {
    fn after(step: Step) -> Arc<Held> {
        Arc::new(Held {
            step,
            holder: watch::Sender::new(None),
            reached: AtomicUsize::new(0),
            let_go: watch::Sender::new(false),
        })
    }
}

impl StepObserver for Held {
    fn reached<'a>(&'a self, node: &'a str, step: Step) -> Task<'a, ()> {
        Box::pin(async move {
            if step == self.step && self.reached.fetch_add(1, Ordering::Relaxed) == 0 {
                self.holder.send_replace(Some(node.to_string()));
                let mut let_go = self.let_go.subscribe();
                let _ = let_go.wait_for(|let_go| *let_go).await;
            }
        })
    }
}

#[tokio::test]
async fn a_leader_that_was_held_up_does_not_undo_what_another_has_changed_meanwhile() {
    let cluster = Cluster::new(3);
    let held = Held::after(Step::PositionTaken);
    let mut networks = Vec::new();
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        let network = Cuttable::default();
        config.network = Arc::new(network.clone());
        config.step_observer = Some(held.clone());
        networks.push(network);
        nodes.push(cluster.start(config).await);
    }
    write(&nodes[0].node, 0, 5).await;
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    for name in ["l1", "l2"] {
        nodes.push(cluster.start(cluster.listener(name, &upstreams)).await);
    }
    attached(&nodes[3]).await;
    attached(&nodes[4]).await;

    // Somebody asks for l1, and goes away.
    let asking = nodes[3].node.clone();
    let asker = tokio::spawn(async move { asking.change_role(promote("l1"), |_| {}).await });
    eventually("a leader is held", async || held.holder.borrow().is_some()).await;
    asker.abort();
    let first = held.holder.borrow().clone().unwrap();
    let first = nodes.iter().position(|node| name(node) == first).unwrap();

    // Another leads for a while, and makes l2 a voter.
    networks[first].cut(true);
    let mut second = None;
    eventually("another leads", async || {
        let leads = |i: &usize| *i != first && role(&nodes[*i]) == Role::Leader;
        second = (0..3).find(leads);
        second.is_some()
    })
    .await;
    let second = &nodes[second.unwrap()];
    change(second, promote("l2")).await.unwrap();
    networks[first].cut(false);
    eventually("the first leads again", async || {
        let to = Some(name(&nodes[first]));
        let _ = change(second, RoleChange::TransferLeader { to }).await;
        role(&nodes[first]) == Role::Leader
    })
    .await;

    held.let_go.send_replace(true);
    change(&nodes[3], promote("l1")).await.unwrap();
    assert_eq!(voters(&nodes[first]), ["l1", "l2", "v1", "v2", "v3"]);
    write(&nodes[4].node, 5, 10).await;
}

/// The answer of the leader that handed on never comes; whoever leads now is asked, by the same command.
#[tokio::test]
async fn leadership_that_was_handed_on_is_not_handed_on_again_for_an_answer_that_was_lost() {
    let cluster = Cluster::new(3);
    let held = Held::after(Step::LeadershipMoved);
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        config.step_observer = Some(held.clone());
        nodes.push(cluster.start(config).await);
    }
    write(&nodes[0].node, 0, 5).await;
    let leads = |node: &Running| role(node) == Role::Leader;
    let first = nodes.iter().position(leads).unwrap();
    let asked = &nodes[(first + 1) % 3];

    let to_anybody = RoleChange::TransferLeader { to: None };
    let text = change(asked, to_anybody).await.unwrap();
    eventually("the first has seen it, and says nothing", async || {
        held.holder.borrow().as_ref() == Some(&name(&nodes[first]))
    })
    .await;
    let mut new = None;
    eventually("another leads", async || {
        new = nodes.iter().position(leads).filter(|new| *new != first);
        new.is_some()
    })
    .await;
    assert_eq!(text, format!("{} leads", name(&nodes[new.unwrap()])));
    assert_eq!(held.reached.load(Ordering::Relaxed), 1, "handed on once");
    write(&asked.node, 5, 10).await;
}

/// Nothing would be committed without it until it had caught up.
#[tokio::test]
async fn a_voter_that_is_far_behind_counts_for_no_quorum() {
    const BEHIND: usize = 1_500;
    let cluster = Cluster::new(3);
    let mut disks = Vec::new();
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        let disk = HeldDisk::default();
        config.disk = Arc::new(disk.clone());
        disks.push(disk);
        nodes.push(cluster.start(config).await);
    }
    write(&nodes[0].node, 0, 5).await;
    let leads = |node: &Running| role(node) == Role::Leader;
    let leader = nodes.iter().position(leads).unwrap();
    let (slow, other) = ((leader + 1) % 3, (leader + 2) % 3);
    disks[slow].hold(true);
    let writes = (0..BEHIND).map(|number| nodes[leader].node.write(number.to_string().into()));
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    let demote = RoleChange::Demote {
        node: name(&nodes[other]),
    };
    let refused = change(&nodes[leader], demote.clone()).await;
    disks[slow].hold(false);
    let Err(RoleChangeError::Refused(text)) = refused else {
        panic!("not refused: {refused:?}");
    };
    let slow_name = name(&nodes[slow]);
    assert!(text.contains("would lose its quorum"), "{text}");
    assert!(
        text.contains(&format!("{slow_name} has not caught up")),
        "{text}"
    );
    change(&nodes[leader], demote).await.unwrap();
    write(&nodes[other].node, 5, 10).await;
}

/// Addresses are used again. Four voters, two of them gone: whoever stands at a dead one's address must not speak for both.
#[tokio::test]
async fn a_node_at_a_dead_voters_address_does_not_vote_for_it_too() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_voters().await;
    write(&nodes[0].node, 0, 5).await;
    let leads = |node: &Running| role(node) == Role::Leader;
    let leader = nodes.iter().position(leads).unwrap();
    let dead = nodes.remove((leader + 1) % 3);
    let address = dead.node.peer_address().to_string();
    dead.node.shutdown().await;
    drop(dead);
    let upstreams = cluster.voter_addresses();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let mut config = cluster.listener("l1", &upstreams);
    config.listen_peer = address;
    let listener = cluster.start(config).await;
    attached(&listener).await;
    change(&listener, promote("l1")).await.unwrap();
    write(&listener.node, 5, 10).await;

    let leader = nodes.iter().position(leads).unwrap();
    let gone = nodes.remove(leader);
    gone.node.shutdown().await;
    // Many times as long as an election takes.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for node in [&nodes[0], &listener] {
            assert_ne!(role(node), Role::Leader, "two of four are no quorum");
        }
    }
}
