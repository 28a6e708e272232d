//! Seeing and steering the tree by the command line, at any node: each command, again, and with wrong input.

use crate::EAVES;
use eaves_harness::cluster::{Cluster, leader_of};
use eaves_harness::process::eventually;
use serde_json::Value;
use std::process::Output;

/// Longer than usual, so that a busy machine changes no leader, which would move everybody.
const FLAGS: [&str; 4] = ["--election-timeout", "3000", "--heartbeat-interval", "100"];

/// Runs a command at one node, whatever comes of it.
fn run(cluster: &Cluster, asked: &str, arguments: &[&str]) -> Output {
    EAVES
        .command()
        .args(arguments)
        .args(["--command-timeout", "30"])
        .args(["--endpoints", &cluster.node(asked).address()])
        .output()
        .expect("the binary starts")
}

/// Runs a command that must succeed, and gives its lines.
fn lines(cluster: &Cluster, asked: &str, arguments: &[&str]) -> Vec<String> {
    let arguments = [arguments, &["--command-timeout", "30"]].concat();
    let text = EAVES.run(&cluster.node(asked).address(), &arguments);
    text.lines().map(str::to_owned).collect()
}

/// Asserts that a command prints one line with all of `parts`.
fn assert_says(cluster: &Cluster, asked: &str, arguments: &[&str], parts: &[&str]) {
    let lines = lines(cluster, asked, arguments);
    assert_eq!(lines.len(), 1, "{arguments:?}: {lines:?}");
    for part in parts {
        assert!(lines[0].contains(part), "{part:?} is not in {lines:?}");
    }
}

/// Asserts that a command fails with `code` and one line that holds all of `parts`.
fn assert_fails(cluster: &Cluster, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = run(cluster, "v1", arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed something");
    for part in parts {
        assert!(
            text.contains(part),
            "{arguments:?}: {part:?} is not in {text}"
        );
    }
}

fn row(rows: &[Value], name: &str) -> Value {
    let mut rows = rows.iter();
    let row = rows.find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no {name} in the tree"))
        .clone()
}

/// Waits until `listener` hangs below `upstream`.
async fn hangs_below(cluster: &Cluster, listener: &str, upstream: &str) {
    let is_there = |rows: &[Value]| {
        let id = |name| {
            rows.iter()
                .find(|row| row["name"] == name)
                .map(|row| row["id"].clone())
        };
        let listener = rows.iter().find(|row| row["name"] == listener);
        listener.is_some_and(|row| id(upstream).is_some_and(|id| row["upstream"] == id))
    };
    let what = format!("{listener} hangs below {upstream}");
    cluster.tree_where("v1", &what, is_there).await;
}

/// The followers' names.
fn followers(rows: &[Value]) -> Vec<String> {
    let followers = rows.iter().filter(|row| row["role"] == "follower");
    followers
        .map(|row| row["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test]
async fn the_tree_is_steered_at_any_node() {
    let cluster = Cluster::start(EAVES, 3, 3, &FLAGS).await;
    let rows = cluster.whole_tree("v1").await;
    let leader = leader_of(&rows).expect("a whole tree has a leader");
    let [one, other] = &followers(&rows)[..] else {
        panic!("two followers: {rows:?}")
    };

    // S12.
    assert_says(
        &cluster,
        "l2",
        &["kick", "l1"],
        &["let l1 go", "it hangs below"],
    );
    let id = row(&rows, "l1")["id"].to_string();
    let told = lines(&cluster, &leader, &["kick", &id, "--json"]);
    let told: Value = serde_json::from_str(&told[0]).expect("the output is JSON");
    assert_eq!((&told["name"], told["id"].to_string()), (&"l1".into(), id));

    // B16: pin, kept by a restart of the process.
    for _ in 0..2 {
        assert_says(
            &cluster,
            "l3",
            &["pin", "l1", "l2"],
            &["l1 is pinned to l2"],
        );
    }
    hangs_below(&cluster, "l1", "l2").await;
    assert_eq!(
        row(&cluster.tree("l1"), "l1")["pin"],
        row(&rows, "l2")["id"]
    );
    assert_fails(
        &cluster,
        &["pin", "l2", "l1"],
        1,
        &["hangs below l2", "nothing was done"],
    );
    assert_says(
        &cluster,
        "v2",
        &["pin", "l1", &leader],
        &["once it can", "leads"],
    );
    assert_says(
        &cluster,
        "v2",
        &["pin", "l1", "--clear"],
        &["pinned no more"],
    );
    assert_says(
        &cluster,
        "v2",
        &["pin", "l1", "--clear"],
        &["was not pinned"],
    );

    // B16: avoid.
    for _ in 0..2 {
        assert_says(
            &cluster,
            "l1",
            &["avoid", "l1", "l2", one],
            &["l1 avoids l2, ", one],
        );
    }
    hangs_below(&cluster, "l1", other).await;
    let text = lines(&cluster, "v1", &["tree"]).join("\n");
    assert!(
        text.contains("avoids l2 ") || text.contains("avoids v"),
        "{text}"
    );
    assert_says(
        &cluster,
        "l1",
        &["avoid", "l1", "--clear", "l2"],
        &["no longer avoids l2"],
    );
    assert_says(
        &cluster,
        "l1",
        &["avoid", "l1", "--clear"],
        &["no longer avoids", one],
    );
    assert_says(
        &cluster,
        "l1",
        &["avoid", "l1", "--clear"],
        &["avoids nobody"],
    );

    // S14.
    let list = [one, other].map(|name| cluster.node(name).peer_address());
    for said in ["keeps the new list", "has this list already"] {
        let arguments = ["upstream", "set", "l2", &list[0], &list[1]];
        assert_says(&cluster, "v3", &arguments, &[said]);
    }

    // B16: drain, which waits until nobody is left.
    let told = lines(&cluster, "l3", &["drain", one]);
    let last = told.last().expect("it says something");
    assert!(last.contains("is drained"), "{told:?}");
    let drained = |rows: &[Value]| {
        let rows: Vec<&Value> = rows
            .iter()
            .filter(|row| row["name"] == one.as_str())
            .collect();
        rows.len() == 1 && rows[0]["draining"] == true && rows[0]["registered"] == 0
    };
    cluster
        .tree_where("l2", "the node is drained", drained)
        .await;
    let told = lines(&cluster, "v1", &["drain", one, "--json"]);
    assert!(told[0].contains(r#""left":0"#), "{told:?}");
    assert_says(
        &cluster,
        "l2",
        &["undrain", one],
        &["takes listeners again"],
    );
    assert_says(&cluster, "l2", &["undrain", one], &["was not draining"]);

    assert_wrong_input_is_told(&cluster);
    for node in cluster.nodes() {
        node.assert_no_panic();
    }
}

fn assert_wrong_input_is_told(cluster: &Cluster) {
    for (arguments, parts) in [
        (
            &["kick", "v1"][..],
            &["v1 is a voter", "nothing was done"][..],
        ),
        (
            &["kick", "l11"],
            &["\"l11\"", "did you mean l1", "eaves tree"],
        ),
        (&["pin", "l1", "l1"], &["its own upstream"]),
        (&["pin", "v1", "l1"], &["v1 is a voter"]),
        (&["pin", "l1", "nobody"], &["\"nobody\""]),
        (&["avoid", "l1", "l1"], &["cannot avoid itself"]),
        (&["avoid", "v1", "l1"], &["v1 is a voter"]),
        (
            &["upstream", "set", "v1", "127.0.0.1:1"],
            &["v1 is a voter"],
        ),
        (&["drain", "nobody"], &["\"nobody\""]),
        (&["undrain", "nobody"], &["\"nobody\""]),
        (&["why", "nobody"], &["\"nobody\""]),
        (&["what-if", "nobody", "down"], &["\"nobody\""]),
    ] {
        assert_fails(cluster, arguments, 1, parts);
    }
    let own = cluster.node("l1").peer_address();
    assert_fails(cluster, &["upstream", "set", "l1", &own], 1, &["itself"]);
    for arguments in [
        &["pin", "l1"][..],
        &["pin", "l1", "v1", "--clear"],
        &["avoid", "l1"],
        &["upstream", "set", "l1"],
        &["upstream", "set", "l1", "127.0.0.1"],
        &["what-if", "l1", "up"],
        &["kick", ""],
    ] {
        assert_fails(cluster, arguments, 2, &[]);
    }
}

/// B15.
#[tokio::test]
async fn what_a_node_does_and_why_is_told_at_any_node() {
    let mut cluster = Cluster::start(EAVES, 3, 2, &FLAGS).await;
    let rows = cluster.whole_tree("v1").await;
    let leader = leader_of(&rows).expect("a whole tree has a leader");
    for asked in ["v1", "l1", "l2"] {
        let why = lines(&cluster, asked, &["why", "l1"]);
        assert!(why[0].starts_with("l1 is a listener below v"), "{why:?}");
        let accepted = why.iter().filter(|line| line.ends_with("accepted"));
        assert_eq!(accepted.count(), 1, "{why:?}");
        let voter = lines(&cluster, asked, &["why", &leader]);
        assert_eq!(voter.len(), 1);
        assert!(voter[0].contains("leads"), "{voter:?}");

        let what_if = lines(&cluster, asked, &["what-if", &leader, "down"]);
        assert!(what_if[1].contains("2 of 3 voters"), "{what_if:?}");
        let successors = what_if.iter().filter(|line| line.contains("became leader"));
        assert_eq!(successors.count(), 2, "{what_if:?}");
    }
    let json = lines(&cluster, "l2", &["why", "l1", "--json"]);
    let json: Value = serde_json::from_str(&json[0]).expect("the output is JSON");
    let candidates = json["choice"]["candidates"].as_array();
    let accepted = candidates.expect("an array").iter();
    let accepted: Vec<&Value> = accepted.filter(|one| one["accepted"] == true).collect();
    assert_eq!(accepted.len(), 1, "{json}");
    assert_eq!(accepted[0]["id"], json["node"]["upstream"]);
    let json = lines(&cluster, "l2", &["what-if", "v1", "down", "--json"]);
    let json: Value = serde_json::from_str(&json[0]).expect("the output is JSON");
    assert_eq!(json["group"]["needed"], 2);

    // A node that is gone is named, and the rest is shown.
    cluster.node_mut("l1").kill();
    let seen = eventually("the tree is shown without the dead node", async || {
        let output = run(&cluster, "v2", &["tree"]);
        let table = String::from_utf8(output.stdout).expect("text");
        let errors = String::from_utf8(output.stderr).expect("text");
        let is_told = output.status.success() && errors.contains("not all is shown");
        (is_told && !table.contains("l1 ") && table.contains("l2 ")).then_some(errors)
    })
    .await;
    assert!(seen.contains(&cluster.node("l1").peer_address()), "{seen}");
    assert_fails(&cluster, &["kick", "l1"], 1, &["l1"]);
}
