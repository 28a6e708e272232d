//! Listeners that lose their upstream and are fed again: a leader dies above eight of them (S10, B2), one of them dies in the middle (B3).
//!
//! How long each was without an upstream is printed, and never asserted.

use crate::EAVES;
use eaves_harness::cluster::{Cluster, Node, leader_of};
use eaves_harness::process::eventually;
use eaves_harness::watcher::Watching;
use eaves_harness::writer::Writing;
use serde_json::Value;

/// Writes before a loss: enough that being fed from the beginning again would show.
const WRITES_BEFORE: usize = 300;
/// Writes that must be acknowledged after it.
const WRITES_AFTER: usize = 50;
/// Entries that may be sent twice because of moves. The writers wait for their answers, so only few are on their way to a listener at
/// any time.
const SENT_AGAIN_MAX: u64 = 100;

/// S10, B2, B9: with the leader gone, one of the two upstreams becomes leader and sends its listeners away. All are fed again from where
/// they were, and their clients notice nothing.
#[tokio::test]
async fn a_leader_killed_under_eight_listeners_leaves_all_of_them_fed_by_deltas() {
    let mut cluster = Cluster::start(EAVES, 3, 8, &["--capacity", "3"]).await;
    let watching = Watching::start(listeners(&cluster)).await;
    let writing = Writing::start(&cluster);
    writing.more(WRITES_BEFORE).await;
    let before = cluster.whole_tree("l1").await;
    let old = leader_of(&before).expect("a whole tree has a leader");
    cluster.node_mut(&old).kill();
    writing.more(WRITES_AFTER).await;
    let after = cluster
        .tree_where("l1", "all listeners have a place again", |rows| {
            let leader = leader_of(rows);
            leader.is_some_and(|leader| leader != old) && all_fed(rows, 8)
        })
        .await;
    writing.more(WRITES_AFTER).await;
    let writes = writing.stop().await;
    let content = cluster.converge().await;
    writes.assert_held(&content);
    watching.assert_gapless(&content).await;

    let new = leader_of(&after).expect("there is a leader");
    let kicked = below(&before, &new);
    assert!(!kicked.is_empty(), "the new leader fed nobody: {before:#?}");
    for name in &kicked {
        assert!(
            cluster.node(name).metric("fed_again_total") > 0,
            "S10: {name} was fed by {new}, which became leader"
        );
    }
    assert_only_deltas(&cluster);
    print_gaps(&cluster);
}

/// B3: whoever was below the dead listener finds another place and takes along what is below it.
#[tokio::test]
async fn an_inner_listener_killed_its_subtree_stays_together_and_is_fed_again() {
    // Two followers and all listeners with room for one each: two chains, one of them at least four deep.
    let mut cluster = Cluster::start(EAVES, 3, 8, &["--capacity", "1"]).await;
    let watched = chain_below(&cluster.whole_tree("v1").await);
    let inner = watched[0].clone();
    let others = listeners(&cluster).filter(|node| node.name != inner);
    let watching = Watching::start(others).await;
    let writing = Writing::start(&cluster);
    writing.more(WRITES_BEFORE).await;

    let before = cluster.whole_tree("v1").await;
    let [inner, child, grandchild] = chain_below(&before);
    let moves = |cluster: &Cluster, name: &str| cluster.node(name).metric("upstream_moves_total");
    let (child_moves, grandchild_moves) = (moves(&cluster, &child), moves(&cluster, &grandchild));
    cluster.node_mut(&inner).kill();
    writing.more(WRITES_AFTER).await;
    eventually("the child is fed again", async || {
        (cluster.node(&child).metric("fed_again_total") > 0).then_some(())
    })
    .await;
    let after = cluster
        .tree_where("v1", "all listeners have a place again", |rows| {
            all_fed(rows, 7)
        })
        .await;
    assert!(moves(&cluster, &child) > child_moves);
    assert_eq!(
        (
            row(&after, &grandchild)["upstream"].clone(),
            moves(&cluster, &grandchild)
        ),
        (row(&after, &child)["id"].clone(), grandchild_moves),
        "B3: {grandchild} stays with {child}: {after:#?}"
    );
    writing.more(WRITES_AFTER).await;
    let writes = writing.stop().await;
    let content = cluster.converge().await;
    writes.assert_held(&content);
    watching.assert_gapless(&content).await;
    assert_only_deltas(&cluster);
    print_gaps(&cluster);
}

/// S10, B2: leadership is handed over, and the old leader lives on: whoever the new one kicks off goes where it sends it. `eaves bench
/// moves` does that again and again and measures it.
#[tokio::test]
async fn listeners_kicked_while_the_old_leader_lives_are_fed_again_each_time() {
    const CHANGES: u64 = 3;
    let cluster = Cluster::start(EAVES, 3, 6, &[]).await;
    let watching = Watching::start(listeners(&cluster)).await;
    let writing = Writing::start(&cluster);
    writing.more(WRITES_BEFORE).await;
    cluster.whole_tree("v1").await;
    let changes = CHANGES.to_string();
    let address = cluster.node("l1").address();
    let measured = tokio::task::spawn_blocking(move || {
        EAVES.run(
            &address,
            &["bench", "moves", "--json", "--changes", &changes],
        )
    });
    let measured: Value = serde_json::from_str(&measured.await.expect("no panic")).expect("JSON");
    println!("{measured}");
    assert_eq!(measured["changes"], CHANGES);
    // Each time at least one listener.
    assert!(measured["moves"].as_u64() >= Some(CHANGES), "{measured}");

    writing.more(WRITES_AFTER).await;
    let writes = writing.stop().await;
    let content = cluster.converge().await;
    writes.assert_held(&content);
    watching.assert_gapless(&content).await;
    assert_only_deltas(&cluster);
    print_gaps(&cluster);
}

fn listeners(cluster: &Cluster) -> impl Iterator<Item = &Node> {
    let nodes = cluster.nodes().iter();
    nodes.filter(|node| node.name.starts_with('l'))
}

/// Whether a tree shows that many listeners, each with an upstream.
fn all_fed(rows: &[Value], count: usize) -> bool {
    let fed = rows.iter().filter(|row| row["upstream"].is_u64());
    fed.filter(|row| row["depth"].is_u64()).count() == count
}

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    let row = rows.iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("{name} is not in the tree: {rows:#?}"))
}

/// The names of those whose upstream is `name`.
fn below(rows: &[Value], name: &str) -> Vec<String> {
    let id = &row(rows, name)["id"];
    let below = rows.iter().filter(|row| row["upstream"] == *id);
    below
        .map(|row| row["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// A listener at depth 2, one below it and one below that.
fn chain_below(rows: &[Value]) -> [String; 3] {
    let chains = rows
        .iter()
        .filter(|row| row["depth"] == 2)
        .filter_map(|row| {
            let inner = row["name"].as_str()?;
            let child = below(rows, inner).pop()?;
            let grandchild = below(rows, &child).pop()?;
            Some([inner.to_owned(), child, grandchild])
        });
    chains
        .into_iter()
        .next()
        .unwrap_or_else(|| panic!("no chain is four deep: {rows:#?}"))
}

/// B9: the log that was kept sufficed, and only what was on its way was sent again.
fn assert_only_deltas(cluster: &Cluster) {
    let running = || cluster.nodes().iter().filter(|node| node.is_running());
    for node in running() {
        let snapshots = node.metric("snapshots_received_total");
        assert_eq!(snapshots, 0, "{} needed a snapshot", node.name);
    }
    let fed: u64 = running()
        .map(|node| node.metric("feed_entries_total"))
        .sum();
    let last = running().map(|node| node.metric("last_index")).max();
    // Index 0 is an entry too. One that was killed had its entries as well.
    let needed = listeners(cluster).count() as u64 * (last.unwrap_or(0) + 1);
    assert!(
        fed <= needed + SENT_AGAIN_MAX,
        "{fed} entries were sent where {needed} were needed"
    );
}

/// How long each listener was without an upstream the last time.
fn print_gaps(cluster: &Cluster) {
    let running = listeners(cluster).filter(|node| node.is_running());
    let mut gaps: Vec<u64> = running
        .filter(|node| node.metric("fed_again_total") > 0)
        .map(|node| node.metric("unfed_microseconds_last"))
        .collect();
    gaps.sort_unstable();
    println!("microseconds without an upstream: {gaps:?}");
}
