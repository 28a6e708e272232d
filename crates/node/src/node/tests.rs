//! A node that was shut down and let go leaves nothing behind: programs with several nodes, tests for instance, start and stop many.

use crate::status::Role;
use crate::{Config, Group, Node, RoleChange, SmallMachine, StartAs};
use eaves_log::sim::SimDisk;
use std::any::Any;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn group(voters: usize) -> Group {
    let address = || format!("127.0.0.1:{}", free_port());
    let founders: Vec<_> = (1..=voters).map(|n| (format!("v{n}"), address())).collect();
    Group::new("test", &founders)
}

async fn start(name: &str, address: &str, start_as: StartAs) -> Node {
    let disk = Arc::new(SimDisk::new());
    let machine = SmallMachine::<Vec<u8>>::open_on(disk.clone(), Path::new("/state")).unwrap();
    let mut config = Config::new(name, "/data", address, start_as);
    config.disk = disk;
    Node::start(config, Arc::new(machine)).await.unwrap()
}

async fn start_voters(group: &Group) -> Vec<Node> {
    let mut nodes = Vec::new();
    for founder in &group.founders {
        let start_as = StartAs::Voter {
            group: group.clone(),
        };
        nodes.push(start(&founder.name, &founder.peer_address, start_as).await);
    }
    nodes
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within a minute: {what}");
}

/// Shuts these down, lets them go, and waits until nothing of them is left.
async fn are_freed(nodes: Vec<Node>) {
    let mut kept: Vec<(String, Weak<dyn Any + Send + Sync>)> = Vec::new();
    for node in nodes {
        let core = node.core();
        let status = node.status().borrow().clone();
        let mut keep = |part: &str, weak| {
            let what = format!("the {part} of {}, a {:?}", status.name, status.role);
            kept.push((what, weak));
        };
        keep("core", weak(core));
        keep("log", weak(&core.flusher));
        keep("state", weak(&core.applier));
        keep("keeper", weak(&core.keeper));
        if let Some(consensus) = core.consensus() {
            keep("Raft", weak(&consensus));
        }
        node.shutdown().await;
    }
    for (what, weak) in kept {
        eventually(&format!("{what}, is freed"), || weak.strong_count() == 0).await;
    }
}

fn weak<T: Any + Send + Sync>(part: &Arc<T>) -> Weak<dyn Any + Send + Sync> {
    let weak: Weak<T> = Arc::downgrade(part);
    weak
}

#[tokio::test]
async fn a_leader_alone_is_freed_when_it_was_shut_down() {
    let nodes = start_voters(&group(1)).await;
    nodes[0].write("command".into()).await.unwrap();
    nodes[0].read_barrier().await.unwrap();
    assert_eq!(nodes[0].status().borrow().role, Role::Leader);
    are_freed(nodes).await;
}

#[tokio::test]
async fn leader_follower_and_listener_are_freed_when_they_were_shut_down() {
    let group = group(3);
    let mut nodes = start_voters(&group).await;
    let upstreams = group
        .founders
        .iter()
        .map(|founder| founder.peer_address.clone());
    let start_as = StartAs::Listener {
        upstreams: upstreams.collect(),
    };
    nodes.push(start("l1", "127.0.0.1:0", start_as).await);
    for node in &nodes {
        node.write("command".into()).await.unwrap();
        node.read_barrier().await.unwrap();
    }
    let listener = nodes[3].status();
    eventually("the listener is fed", || listener.borrow().depth.is_some()).await;
    drop(listener);
    are_freed(nodes).await;
}

#[tokio::test]
async fn who_led_and_listens_now_is_freed_when_it_was_shut_down() {
    let group = group(3);
    let nodes = start_voters(&group).await;
    nodes[0].write("command".into()).await.unwrap();
    let leads = |node: &&Node| node.status().borrow().role == Role::Leader;
    let leader = nodes.iter().find(leads).expect("somebody leads");
    let name = leader.status().borrow().name.clone();
    let demote = RoleChange::Demote { node: name };
    nodes[0].change_role(demote, |_| {}).await.unwrap();
    let status = leader.status();
    eventually("it listens", || status.borrow().role == Role::Listener).await;
    drop(status);
    are_freed(nodes).await;
}
