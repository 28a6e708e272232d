//! Changes of role that are interrupted: each participant goes down between any two steps, comes back, and everything mends.
//!
//! A leader is replaced by a listener, which takes every step there is. At each step the node that has just taken it is held there, and
//! one of the participants is stopped and started again: the leader at that time, the listener that comes in, the voter that goes, or
//! only the one who asked. Whoever is held is let go afterwards. Then the command is repeated, and must come to its end.

mod common;

use common::{Cluster, Running, eventually, try_start, write};
use eaves::{Config, Node, Role, RoleChange, Step, StepObserver, Task};
use futures_util::StreamExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Runs at the same time.
const AT_ONCE: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// Whoever has taken the step.
    Holder,
    /// Whoever leads at that time.
    Leader,
    /// The listener that is to become a voter.
    Incoming,
    /// The voter that is to become a listener.
    Outgoing,
    /// Nobody but the asker, who goes away.
    Asker,
}

/// Holds the first node that takes a step, until it is let go.
struct HoldAt {
    step: Step,
    holder: watch::Sender<Option<String>>,
    let_go: watch::Sender<bool>,
}

impl HoldAt {
    fn new(step: Step) -> Arc<HoldAt> {
        Arc::new(HoldAt {
            step,
            holder: watch::Sender::new(None),
            let_go: watch::Sender::new(false),
        })
    }
}

impl StepObserver for HoldAt {
    fn reached<'a>(&'a self, node: &'a str, step: Step) -> Task<'a, ()> {
        Box::pin(async move {
            let is_first = step == self.step
                && self.holder.send_if_modified(|holder| {
                    let is_first = holder.is_none();
                    if is_first {
                        *holder = Some(node.to_string());
                    }
                    is_first
                });
            if is_first {
                let mut let_go = self.let_go.subscribe();
                let _ = let_go.wait_for(|let_go| *let_go).await;
            }
        })
    }
}

/// A node with what it takes to start it again.
struct Member {
    config: Config,
    running: Option<Running>,
}

struct Group {
    _cluster: Cluster,
    members: Vec<Member>,
}

impl Group {
    async fn start(observer: Arc<HoldAt>) -> Group {
        let cluster = Cluster::new(3);
        let mut members = Vec::new();
        for name in ["v1", "v2", "v3"] {
            members.push(Group::member(cluster.voter(name), observer.clone()).await);
        }
        let upstreams = cluster.voter_addresses();
        let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
        write(&running(&members[0]).node, 0, 3).await;
        members.push(Group::member(cluster.listener("l1", &upstreams), observer).await);
        let group = Group {
            _cluster: cluster,
            members,
        };
        eventually("the listener is attached", async || {
            let status = running(&group.members[3]).node.status();
            status.borrow().depth.is_some()
        })
        .await;
        group
    }

    async fn member(mut config: Config, observer: Arc<HoldAt>) -> Member {
        config.step_observer = Some(observer);
        let running = try_start(config.clone()).await.unwrap();
        // It comes back where it was.
        config.listen_peer = running.node.peer_address().to_string();
        Member {
            config,
            running: Some(running),
        }
    }

    fn node(&self, name: &str) -> Option<&Running> {
        let found = self
            .members
            .iter()
            .find(|member| member.config.name == name);
        found.and_then(|member| member.running.as_ref())
    }

    fn leader(&self) -> Option<String> {
        let leads = |member: &&Member| role(running(member)) == Role::Leader;
        let leader = self.members.iter().find(leads);
        leader.map(|member| member.config.name.clone())
    }

    async fn restart(&mut self, name: &str) {
        let member = self
            .members
            .iter_mut()
            .find(|member| member.config.name == name)
            .unwrap();
        let down = member.running.take().unwrap();
        down.node.shutdown().await;
        drop(down);
        member.running = Some(try_start(member.config.clone()).await.unwrap());
    }

    /// Every node knows the same group, and is what that says; listeners are fed.
    async fn agrees(&self, what: &str) {
        eventually(what, async || {
            let first = voters(running(&self.members[0]));
            self.members.iter().all(|member| {
                let node = running(member);
                let votes = role(node) != Role::Listener;
                voters(node) == first
                    && votes == first.contains(&member.config.name)
                    && node.node.status().borrow().depth.is_some()
                    && node.node.status().borrow().leader.is_some()
            })
        })
        .await;
    }
}

fn running(member: &Member) -> &Running {
    member.running.as_ref().expect("it runs")
}

fn role(running: &Running) -> Role {
    running.node.status().borrow().role
}

fn voters(running: &Running) -> Vec<String> {
    let members = running.node.members().into_iter();
    let mut names: Vec<String> = members.map(|member| member.name).collect();
    names.sort();
    names
}

/// Writes through whatever node is up, one after the other, and keeps those that were acknowledged.
#[derive(Default)]
struct Acknowledged(Mutex<Vec<String>>);

impl Acknowledged {
    async fn write(&self, node: &Node, text: String) {
        if node.write(text.clone().into()).await.is_ok() {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// False when the step was not taken, because leadership had moved before the command came.
async fn interrupted(step: Step, victim: Victim) -> bool {
    let what = format!("{step}, {victim:?} goes down");
    let observer = HoldAt::new(step);
    let mut group = Group::start(observer.clone()).await;
    eventually("somebody leads", async || group.leader().is_some()).await;
    let old = group.leader().unwrap();
    let third = ["v1", "v2", "v3"]
        .into_iter()
        .find(|name| *name != old)
        .unwrap();
    let command = RoleChange::Replace {
        old: old.clone(),
        new: "l1".into(),
    };
    let acknowledged = Acknowledged::default();
    let asked_at = group.node(third).unwrap().node.clone();
    acknowledged.write(&asked_at, "before".into()).await;
    let asker = tokio::spawn({
        let (asked_at, command) = (asked_at.clone(), command.clone());
        async move { asked_at.change_role(command, |_| {}).await }
    });
    let mut held = observer.holder.subscribe();
    let holder = async { held.wait_for(Option::is_some).await.unwrap().clone() };
    let taken = tokio::time::timeout(Duration::from_secs(30), holder).await;
    let Some(holder) = taken.ok().flatten() else {
        assert_ne!(group.leader(), Some(old), "{what}: nobody takes the step");
        asker.abort();
        return false;
    };
    acknowledged.write(&asked_at, "held".into()).await;

    let down = match victim {
        Victim::Holder => Some(holder),
        Victim::Leader => group.leader(),
        Victim::Incoming => Some("l1".to_string()),
        Victim::Outgoing => Some(old.clone()),
        Victim::Asker => None,
    };
    drop(asked_at);
    asker.abort();
    let _ = asker.await;
    if let Some(name) = down {
        group.restart(&name).await;
    }
    observer.let_go.send_replace(true);

    // The group can write, whoever is what by now; and it becomes whole by itself.
    let node = group.node(third).unwrap().node.clone();
    eventually(&format!("{what}: the group takes writes"), async || {
        node.write("probe".into()).await.is_ok()
    })
    .await;
    acknowledged.write(&node, "after".into()).await;
    group
        .agrees(&format!("{what}: roles and membership agree"))
        .await;

    let end = node.change_role(command, |_| {}).await;
    assert!(end.is_ok(), "{what}: repeated, it ends with {end:?}");
    group
        .agrees(&format!("{what}: roles and membership agree in the end"))
        .await;
    let mut expected = vec!["l1".to_string(), "v1".into(), "v2".into(), "v3".into()];
    expected.retain(|name| *name != old);
    assert_eq!(voters(group.node(third).unwrap()), expected, "{what}");
    acknowledged.write(&node, "end".into()).await;
    let acknowledged = acknowledged.0.into_inner().unwrap();
    eventually(
        &format!("{what}: every acknowledged write is everywhere"),
        async || {
            group.members.iter().all(|member| {
                let history = running(member).commands();
                acknowledged
                    .iter()
                    .all(|write| history.iter().any(|command| command == write.as_bytes()))
            })
        },
    )
    .await;
    for member in &group.members {
        running(member).node.shutdown().await;
    }
    true
}

async fn all_steps(victim: Victim) {
    futures_util::stream::iter(Step::ALL)
        .for_each_concurrent(AT_ONCE, |step| async move {
            while !interrupted(step, victim).await {}
        })
        .await;
}

#[tokio::test]
async fn whoever_took_a_step_goes_down_after_it() {
    all_steps(Victim::Holder).await;
}

#[tokio::test]
async fn the_leader_goes_down_between_two_steps() {
    all_steps(Victim::Leader).await;
}

#[tokio::test]
async fn the_listener_that_comes_in_goes_down_between_two_steps() {
    all_steps(Victim::Incoming).await;
}

#[tokio::test]
async fn the_voter_that_goes_goes_down_between_two_steps() {
    all_steps(Victim::Outgoing).await;
}

#[tokio::test]
async fn the_asker_goes_away_between_two_steps() {
    all_steps(Victim::Asker).await;
}
