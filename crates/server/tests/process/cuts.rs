//! A zone that is cut off from the others, with its voter and its listeners, and comes back.
//!
//! While it is away its nodes serve what they have to who allows that (serializable reads, watches) and refuse what they cannot know
//! (linearizable reads, writes), in words; the others go on. When it is back all hold the same, with every acknowledged write (no loss, no
//! divergence), and no watch has a gap. Each test cuts in its own way, around the leader or around a follower.

use crate::EAVES;
use eaves_harness::cluster::{Cluster, Node, leader_of, revision};
use eaves_harness::watcher::Watching;
use eaves_harness::writer::Writing;
use eaves_harness::zones::Zones;
use futures_util::future::join_all;
use tonic::Code;

const ZONES: [&str; 3] = ["a", "b", "c"];
/// Two in each zone.
const LISTENERS: usize = 6;
/// Writes that must be acknowledged before and after the cut, and while it lasts.
const WRITES_BETWEEN: usize = 25;
/// What etcd says to a client of a member that cannot answer for the group.
const REFUSALS: [&str; 2] = ["etcdserver: no leader", "etcdserver: request timed out"];

/// Around whom the cut is made.
#[derive(Clone, Copy)]
enum Around {
    Leader,
    Follower,
}

#[tokio::test]
async fn a_follower_and_its_zone_lose_their_connections() {
    survives(Around::Follower, Zones::sever).await;
}

#[tokio::test]
async fn a_leader_and_its_zone_lose_their_connections() {
    survives(Around::Leader, Zones::sever).await;
}

#[tokio::test]
async fn a_follower_and_its_zone_hear_and_are_heard_no_more() {
    survives(Around::Follower, silence).await;
}

#[tokio::test]
async fn a_leader_and_its_zone_hear_and_are_heard_no_more() {
    survives(Around::Leader, silence).await;
}

#[tokio::test]
async fn a_follower_and_its_zone_hear_but_are_not_heard() {
    survives(Around::Follower, Zones::silence_from).await;
}

#[tokio::test]
async fn a_leader_and_its_zone_hear_but_are_not_heard() {
    survives(Around::Leader, Zones::silence_from).await;
}

#[tokio::test]
async fn a_follower_and_its_zone_are_heard_but_hear_nothing() {
    survives(Around::Follower, Zones::silence_to).await;
}

#[tokio::test]
async fn a_leader_and_its_zone_are_heard_but_hear_nothing() {
    survives(Around::Leader, Zones::silence_to).await;
}

fn silence(zones: &Zones, zone: &str) {
    zones.silence_from(zone);
    zones.silence_to(zone);
}

async fn survives(around: Around, cut: impl Fn(&Zones, &str)) {
    let (mut cluster, zones) = Cluster::plan_in_zones(EAVES, 3, LISTENERS, &[], &ZONES);
    cluster.start_all().await;
    let rows = cluster.whole_tree("v1").await;
    zones.learn(&rows);
    let leader = leader_of(&rows).expect("a whole tree has a leader");
    let wanted = |node: &&Node| match around {
        Around::Leader => node.name == leader,
        Around::Follower => node.name != leader,
    };
    let zone = cluster.nodes()[..3].iter().find(wanted).expect("a voter");
    let zone = zone.zone.clone();
    let (inside, outside): (Vec<&Node>, Vec<&Node>) =
        cluster.nodes().iter().partition(|node| node.zone == zone);

    let watching = Watching::start(cluster.nodes().iter()).await;
    let writing = Writing::through(outside.iter().copied());
    writing.more(WRITES_BETWEEN).await;
    cut(&zones, &zone);
    join_all(inside.iter().map(|node| refuses(node))).await;
    for (i, node) in inside.iter().enumerate() {
        let written = writing.put(node, &format!("cut/{i}")).await;
        written.expect_err("a write is not acknowledged in a zone that was cut off");
    }
    writing.more(WRITES_BETWEEN).await;
    for node in &outside {
        let read = revision(node.kv(), false).await;
        read.unwrap_or_else(|status| panic!("{} is not cut off: {status}", node.name));
    }

    zones.heal();
    writing.more(WRITES_BETWEEN).await;
    let writes = writing.stop().await;
    for node in cluster.nodes_mut() {
        node.ready().await;
    }
    let content = cluster.converge().await;
    writes.assert_held(&content);
    watching.assert_gapless(&content).await;
    cluster.whole_tree("v1").await;
}

/// The node serves its own state, and says that it cannot speak for the group.
async fn refuses(node: &Node) {
    let read = revision(node.kv(), false).await;
    let status = read.expect_err("a linearizable read needs the group");
    assert!(
        status.code() == Code::Unavailable && REFUSALS.contains(&status.message()),
        "{}: {status}",
        node.name
    );
    let own = node.revision().await;
    own.unwrap_or_else(|status| panic!("a serializable read on {}: {status}", node.name));
}
