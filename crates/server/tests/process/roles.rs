//! Changes of role by the command line, under load: no acknowledged write is lost, and the clients of a node that changes its role notice
//! nothing.

use crate::EAVES;
use eaves_harness::cluster::{Cluster, leader_of};
use eaves_harness::watcher::Watching;
use eaves_harness::writer::Writing;
use serde_json::Value;

/// Writes that must be acknowledged between two changes.
const WRITES_BETWEEN: usize = 50;

/// S15, B16: a listener with listeners below it becomes a voter and keeps them; then a voter, and then the leader, become listeners. All
/// the while each node keeps its watches and its readers.
#[tokio::test]
async fn promoted_and_demoted_nodes_keep_their_clients_and_their_listeners() {
    let cluster = Cluster::start(EAVES, 3, 4, &["--capacity", "1"]).await;
    let watching = Watching::start(cluster.nodes().iter()).await;
    let writing = Writing::start(&cluster);
    writing.more(WRITES_BETWEEN).await;

    let rows = cluster.whole_tree("v1").await;
    let feeds = |row: &Value| rows.iter().any(|below| below["upstream"] == row["id"]);
    let upper = named(&rows, |row| row["depth"] == 1 && feeds(row));
    let below = named(&rows, |row| row["upstream"] == id_of(&rows, &upper));
    let printed = EAVES.run(&cluster.node(&below).address(), &["promote", &upper]);
    assert!(
        printed.contains(&format!("{upper} is a voter; voters: {upper}, v1, v2, v3")),
        "{printed}"
    );
    let rows = cluster
        .tree_where("v2", "B16: the promoted node feeds what it fed", |rows| {
            let feeds = |row: &&Value| row["name"] == below.as_str();
            let below = rows.iter().find(feeds);
            below.is_some_and(|row| row["upstream"] == id_of(rows, &upper) && row["depth"] == 1)
        })
        .await;
    assert_eq!(row(&rows, &upper)["depth"], 0);
    writing.more(WRITES_BETWEEN).await;

    let again = EAVES.run(&cluster.node("v1").address(), &["promote", &upper]);
    assert_eq!(again.trim_end(), format!("{upper} is a voter already"));

    let follower = named(&rows, |row| {
        row["role"] == "follower" && row["name"] != upper.as_str()
    });
    let printed = EAVES.run(&cluster.node("v1").address(), &["demote", &follower]);
    assert!(
        printed.contains(&format!("{follower} votes no more")),
        "{printed}"
    );
    writing.more(WRITES_BETWEEN).await;
    let rows = cluster.whole_tree("v1").await;
    assert_eq!(row(&rows, &follower)["role"], "listener");

    let leader = leader_of(&rows).expect("a whole tree has a leader");
    let printed = EAVES.run(&cluster.node(&leader).address(), &["demote", &leader]);
    assert!(printed.contains("hand leadership to"), "{printed}");
    writing.more(WRITES_BETWEEN).await;
    let rows = cluster.whole_tree(&leader).await;
    assert_eq!(row(&rows, &leader)["role"], "listener");

    let next = leader_of(&rows).expect("a whole tree has a leader");
    let other = named(&rows, |row| row["role"] == "follower");
    let printed = EAVES.run(
        &cluster.node(&leader).address(),
        &["transfer-leader", &other],
    );
    assert!(printed.contains(&format!("{other} leads")), "{printed}");
    writing.more(WRITES_BETWEEN).await;
    let rows = cluster.whole_tree(&next).await;
    assert_eq!(leader_of(&rows), Some(other));

    let writes = writing.stop().await;
    let content = cluster.converge().await;
    writes.assert_held(&content);
    watching.assert_gapless(&content).await;
}

/// S16: a voter that was killed is replaced under load; when it comes back, on its old directory and by its old command, it finds out.
#[tokio::test]
async fn a_killed_voter_is_replaced_under_load_and_listens_when_it_comes_back() {
    let mut cluster = Cluster::start(EAVES, 3, 2, &[]).await;
    let writing = Writing::start(&cluster);
    writing.more(WRITES_BETWEEN).await;
    let rows = cluster.whole_tree("l2").await;
    let dead = leader_of(&rows).expect("a whole tree has a leader");
    cluster.node_mut(&dead).kill();
    let alive = ["v1", "v2", "v3"].into_iter().find(|name| *name != dead);
    let alive = cluster.node(alive.expect("two are alive")).address();
    writing.more(WRITES_BETWEEN).await;

    let refused = failing(&alive, &["demote", other_voter(&dead)]);
    assert!(refused.contains("would lose its quorum"), "{refused}");
    let printed = EAVES.run(&alive, &["replace", &dead, "l1"]);
    assert!(
        printed.contains(&format!("l1 votes in place of {dead}")),
        "{printed}"
    );
    writing.more(WRITES_BETWEEN).await;
    // One of the three may be killed again: the new one counts.
    let second = other_voter(&dead).to_string();
    cluster.node_mut(&second).kill();
    writing.more(WRITES_BETWEEN).await;
    cluster.node_mut(&second).start();
    cluster.node_mut(&second).ready().await;

    cluster.node_mut(&dead).start();
    cluster.node_mut(&dead).ready().await;
    cluster
        .tree_where("l2", "the replaced voter listens", |rows| {
            row(rows, &dead)["role"] == "listener" && row(rows, &dead)["depth"].is_u64()
        })
        .await;
    // A restart changes nothing about what anybody is.
    for name in ["l1", dead.as_str()] {
        cluster.node_mut(name).kill();
        cluster.node_mut(name).start();
        cluster.node_mut(name).ready().await;
    }
    writing.more(WRITES_BETWEEN).await;
    let rows = cluster.whole_tree("l2").await;
    assert_eq!(row(&rows, "l1")["depth"], 0);
    assert_eq!(row(&rows, &dead)["role"], "listener");
    let writes = writing.stop().await;
    writes.assert_held(&cluster.converge().await);
}

/// A voter other than this one, never the first that comes to mind for it.
fn other_voter(name: &str) -> &'static str {
    match name {
        "v1" => "v2",
        "v2" => "v3",
        _ => "v1",
    }
}

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    let found = rows.iter().find(|row| row["name"] == name);
    found.unwrap_or(&Value::Null)
}

fn id_of(rows: &[Value], name: &str) -> Value {
    row(rows, name)["id"].clone()
}

fn named(rows: &[Value], wanted: impl Fn(&Value) -> bool) -> String {
    let found = rows.iter().find(|row| wanted(row));
    let found = found.unwrap_or_else(|| panic!("no such node in {rows:#?}"));
    found["name"].as_str().expect("a name is text").to_string()
}

/// Runs a command that must be refused with exit code 1, and gives what it says.
fn failing(endpoint: &str, arguments: &[&str]) -> String {
    let output = EAVES
        .command()
        .args(arguments)
        .args(["--endpoints", endpoint])
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).expect("the output is text")
}
