//! How soon a listener is fed again: `cargo run --release -p eaves --example moves [LISTENERS] [CHANGES]`.
//!
//! Three voters and the listeners, all in this process on loopback. Leadership is handed, again and again, to the follower that feeds most
//! listeners; it kicks them off (S10), and they go to the voters it names (B2). What is printed is the time each was without an upstream,
//! from the moment the kick arrived until the next upstream said from where it feeds. Moves below them are not needed: subtrees stay
//! together (B3). Nothing is judged here.

use bytes::Bytes;
use eaves::{Config, Group, Node, Role, RoleChange, SmallMachine, SmallState, StartAs};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(1);
/// Between two changes of leader: whoever moved is steady again.
const PAUSE: Duration = Duration::from_secs(4);
/// Nothing takes this long unless something is broken.
const HANG: Duration = Duration::from_secs(30);

/// A state with nothing in it.
#[derive(Clone, Default)]
struct Nothing;

impl SmallState for Nothing {
    fn apply(&mut self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn to_bytes(&self) -> Bytes {
        Bytes::new()
    }

    fn from_bytes(_: &[u8]) -> io::Result<Nothing> {
        Ok(Nothing)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|word| {
        word.parse::<usize>()
            .expect("arguments are numbers: LISTENERS CHANGES")
    });
    let listeners = arguments.next().unwrap_or(16);
    let changes = arguments.next().unwrap_or(10);

    let directory = tempfile::tempdir().expect("make a directory");
    let founders: Vec<(String, String)> = (1..=3)
        .map(|number| (format!("v{number}"), format!("127.0.0.1:{}", free_port())))
        .collect();
    let group = Group::new("moves", &founders);
    let addresses: Vec<String> = founders.iter().map(|founder| founder.1.clone()).collect();
    let mut nodes = Vec::new();
    for (name, address) in &founders {
        let group = group.clone();
        let data_dir = directory.path().join(name);
        nodes.push(
            start(Config::new(
                name,
                data_dir,
                address,
                StartAs::Voter { group },
            ))
            .await,
        );
    }
    nodes[0].write(Bytes::new()).await.expect("a write");
    for number in 0..listeners {
        let name = format!("l{number}");
        let data_dir = directory.path().join(&name);
        let upstreams = addresses.clone();
        let listener = StartAs::Listener { upstreams };
        nodes.push(start(Config::new(name, data_dir, "127.0.0.1:0", listener)).await);
    }
    let (voters, listeners) = nodes.split_at(founders.len());

    let mut gaps_us = Vec::new();
    for change in 1..=changes {
        until("every listener has a place", || {
            listeners
                .iter()
                .all(|listener| upstream(listener).is_some())
        })
        .await;
        tokio::time::sleep(PAUSE).await;
        let next = busiest_follower(voters, listeners);
        let next_id = next.status().borrow().node_id;
        let kicked: Vec<(&Node, u64)> = listeners
            .iter()
            .filter(|listener| upstream(listener) == Some(next_id))
            .map(|listener| (listener, listener.counters().fed_again))
            .collect();
        let began = Instant::now();
        let to = Some(next.status().borrow().name.clone());
        let handed = voters[0].change_role(RoleChange::TransferLeader { to }, |_| {});
        let handed = handed.await.expect("leadership can be handed over");
        until("every kicked listener is fed again", || {
            kicked
                .iter()
                .all(|(listener, before)| listener.counters().fed_again > *before)
        })
        .await;
        println!(
            "{change}: {handed}; {} kicked, all fed again {} ms after the change was asked for",
            kicked.len(),
            began.elapsed().as_millis()
        );
        gaps_us.extend(
            kicked
                .iter()
                .map(|(listener, _)| listener.counters().unfed_last_us),
        );
    }
    print(gaps_us);
    for node in nodes {
        node.shutdown().await;
    }
}

async fn start(config: Config) -> Node {
    std::fs::create_dir_all(&config.data_dir).expect("make a directory");
    let machine: SmallMachine<Nothing> =
        SmallMachine::open(&config.data_dir.join("state")).expect("open a state");
    Node::start(config, Arc::new(machine))
        .await
        .expect("a node starts")
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
    socket.local_addr().expect("a bound socket").port()
}

fn upstream(listener: &Node) -> Option<u64> {
    let status = listener.status().borrow().clone();
    status.depth.and(status.upstream)
}

/// The follower that feeds most of the listeners.
fn busiest_follower<'a>(voters: &'a [Node], listeners: &[Node]) -> &'a Node {
    let mut fed: BTreeMap<u64, usize> = BTreeMap::new();
    for id in listeners.iter().filter_map(upstream) {
        *fed.entry(id).or_default() += 1;
    }
    let followers = voters
        .iter()
        .filter(|voter| voter.status().borrow().role != Role::Leader);
    followers
        .max_by_key(|voter| fed.get(&voter.status().borrow().node_id))
        .expect("a group of three has followers")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {HANG:?}");
        tokio::time::sleep(POLL).await;
    }
}

fn print(mut gaps_us: Vec<u64>) {
    gaps_us.sort_unstable();
    let Some(longest) = gaps_us.last() else {
        return println!("nobody was kicked");
    };
    let at = |percent: usize| gaps_us[(gaps_us.len() - 1) * percent / 100] as f64 / 1e3;
    println!(
        "{} moves, without an upstream for: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        gaps_us.len(),
        at(50),
        at(90),
        at(99),
        *longest as f64 / 1e3
    );
}
