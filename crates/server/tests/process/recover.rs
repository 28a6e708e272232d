//! The group is lost for good, and `eaves recover` makes another of what its listeners still have (B17).

use crate::EAVES;
use eaves_harness::cluster::{Cluster, Node, leader_of, url};
use eaves_harness::process::{eventually, free_ports};
use eaves_harness::recovery::{files, start_command};
use eaves_harness::writer::Writing;
use eaves_kv::proto::etcdserverpb::watch_client::WatchClient;
use eaves_kv::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request};
use futures_util::StreamExt;
use std::path::Path;
use std::process::Output;

/// Writes before the group is lost.
const WRITES: usize = 60;

/// Runs `eaves recover`.
fn recover(arguments: &[&str]) -> Output {
    EAVES
        .command()
        .arg("recover")
        .args(arguments)
        .env_remove("EAVES_LOG")
        .output()
        .expect("the binary starts")
}

/// What a run printed that must succeed.
fn printed(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).expect("the output is text")
}

/// What a run complained of that must fail.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).expect("the output is text")
}

/// The revision in "... revision 17 of cluster ...".
fn revision_in(text: &str) -> i64 {
    let (_, after) = text.split_once(", revision ").expect("a revision");
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

fn kill(cluster: &mut Cluster, is_voter: bool) {
    let nodes = cluster.nodes_mut().iter_mut();
    for node in nodes.filter(|node| node.name.starts_with('v') == is_voter) {
        node.kill();
    }
}

#[tokio::test]
async fn three_voters_are_made_of_a_listener_and_nodes_of_the_lost_group_are_refused() {
    let mut cluster = Cluster::start(EAVES, 3, 3, &["--capacity", "1"]).await;
    let writing = Writing::start(&cluster);
    writing.more(WRITES).await;
    // What a listener has not flushed is not there after SIGKILL; some of it must be.
    for name in ["l1", "l2", "l3"] {
        eventually("a listener has flushed", async || {
            (cluster.node(name).metric("log_flushed_entries_total") > 1).then_some(())
        })
        .await;
    }
    // This one will be behind the others, once these have flushed what it cannot have.
    cluster.node_mut("l3").kill();
    writing.more(WRITES).await;
    let entries = cluster.node("l1").metric("committed_index") + 1;
    for name in ["l1", "l2"] {
        eventually("a listener has flushed what came after", async || {
            (cluster.node(name).metric("log_flushed_entries_total") >= entries).then_some(())
        })
        .await;
    }

    let l1 = cluster.node("l1").data_dir.display().to_string();
    let l2 = cluster.node("l2").data_dir.display().to_string();
    let l3 = cluster.node("l3").data_dir.display().to_string();
    let running = refused(&recover(&["--from", &l1]));
    assert!(
        running.contains(&l1) && running.contains("another process"),
        "{running}"
    );

    kill(&mut cluster, true);
    for name in ["l1", "l2"] {
        cluster.node_mut(name).kill();
    }
    let mut writes = writing.stop().await;

    // A dry run says which has most, and changes nothing.
    let all = ["--from", &l3, "--from", &l1, "--from", &l2];
    let before = files(cluster.directory());
    let dry = printed(&recover(&all));
    println!("{dry}");
    assert_eq!(files(cluster.directory()), before);
    let row = dry
        .lines()
        .find(|line| line.starts_with(&l3))
        .expect("a row");
    assert!(row.contains("the same entries, without the last"), "{row}");
    assert!(dry.contains("Nothing was changed"), "{dry}");
    assert!(
        dry.contains("is lost, and nothing here tells how much"),
        "{dry}"
    );

    // One new voter takes the address of an old one, which the old nodes know.
    let ports = free_ports(2);
    let ports = [cluster.node("v1").peer_port, ports[0], ports[1]];
    let names = ["n1", "n2", "n3"];
    let dirs = names.map(|name| cluster.directory().join(name));
    let voters: Vec<String> = (0..3)
        .map(|i| format!("{}={},{}", names[i], url(ports[i]), dirs[i].display()))
        .collect();
    let mut arguments = all.to_vec();
    voters
        .iter()
        .for_each(|voter| arguments.extend(["--voter", voter]));
    arguments.push("--yes");
    let made = printed(&recover(&arguments));
    println!("{made}");
    let revision = revision_in(&made);
    assert_eq!(revision, revision_in(&dry));
    let still: Vec<_> = files(cluster.directory())
        .into_iter()
        .filter(|(path, _)| !dirs.iter().any(|dir| path.starts_with(dir)))
        .collect();
    assert_eq!(still, before);
    let whole = "it holds a voter that `eaves recover` has made";
    assert!(refused(&recover(&arguments)).contains(whole));
    arguments.pop();
    assert!(refused(&recover(&arguments)).contains(whole));

    for (i, dir) in dirs.iter().enumerate() {
        cluster.add(
            names[i],
            &start_command(&made, names[i]),
            dir.clone(),
            ports[i],
        );
        cluster.node_mut(names[i]).start();
    }
    for name in names {
        cluster.node_mut(name).ready().await;
    }
    // All that the listener had, and nothing else.
    writes.lose_after(revision);
    writes.assert_held(&cluster.node("n1").content(revision).await);

    // Revisions go on, and a watch sees the old ones and the new one.
    let put = cluster.node("n2").put("after", "the end").await;
    assert_eq!(put.expect("a put"), revision + 1);
    watches_all(cluster.node("n3"), revision + 1).await;

    // A listener joins the new group and hangs below a follower.
    let upstream = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let peer_port = free_ports(1)[0];
    let dir = cluster.directory().join("new");
    let listen = |dir: &Path, name: &str, upstream: &str, peer_port| {
        let dir = dir.display().to_string();
        let words = [
            "listen",
            "--name",
            name,
            "--data-dir",
            &dir,
            "--upstream",
            upstream,
        ];
        let port = ["--listen-peer-urls".to_string(), url(peer_port)];
        let words = words.iter().map(|word| word.to_string());
        words.chain(port).collect::<Vec<String>>()
    };
    let words = listen(&dir, "new", &upstream, peer_port);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    cluster.add("new", &words, dir, peer_port);
    cluster.node_mut("new").start();
    cluster.node_mut("new").ready().await;
    let rows = cluster.whole_tree("new").await;
    assert!(leader_of(&rows).is_some_and(|leader| leader.starts_with('n')));
    writes_and_one(cluster.converge().await.pairs.len(), revision);

    // An old listener comes back: it asks the address it knows, and is told.
    let old = cluster.node_mut("l1");
    old.start();
    let status = old.server().wait().await;
    assert_eq!(status.code(), Some(1), "{}", old.printed());
    drop(old.taken());
    let line = old.last_line();
    for part in [
        "refuses this node",
        "`eaves recover` made of the caller's",
        "empty data directory",
    ] {
        assert!(line.contains(part), "{line}");
    }
    // Old voters come back; two of three, they elect a leader, which is told when it looks for the third.
    for name in ["v2", "v3"] {
        cluster.node_mut(name).start();
    }
    told(
        [cluster.node("v2"), cluster.node("v3")],
        "`eaves recover` made of the caller's",
    )
    .await;
    // And a node of the new group that comes to one of the lost group is refused by that one.
    let strayed = cluster.node("v2").peer_address();
    cluster.node_mut("new").stop().await;
    let dir = cluster.node("new").data_dir.clone();
    let words = listen(&dir, "new", &strayed, peer_port);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // A second node on the same directory; the first does not run.
    cluster.add("strayed", &words, dir, peer_port);
    let strayed = cluster.node_mut("strayed");
    strayed.start();
    let status = strayed.server().wait().await;
    assert_eq!(status.code(), Some(1), "{}", strayed.printed());
    drop(strayed.taken());
    let line = strayed.last_line();
    assert!(
        line.contains("refuses this node") && line.contains("its group was lost"),
        "{line}"
    );

    // Nothing of that went into the new group.
    assert_eq!(
        cluster.node("n1").revision().await.expect("a read"),
        revision + 1
    );
    for node in cluster.nodes() {
        node.assert_no_panic();
    }
}

fn writes_and_one(pairs: usize, revision: i64) {
    assert_eq!(
        pairs as i64, revision,
        "as many keys as revisions after 1, and one more"
    );
}

/// Waits until one of the nodes has printed `text`.
async fn told(nodes: [&Node; 2], text: &str) {
    let what = format!("{} or {} says {text:?}", nodes[0].name, nodes[1].name);
    let is_told = || nodes.iter().any(|node| node.printed().contains(text));
    eventually(&what, async || is_told().then_some(())).await;
}

/// Watches from the first revision on, and checks that every one comes, in order, up to `last`.
async fn watches_all(node: &Node, last: i64) {
    let create = WatchCreateRequest {
        key: [0].to_vec().into(),
        range_end: [0].to_vec().into(),
        start_revision: 2,
        ..Default::default()
    };
    let create = WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
    };
    let requests = futures_util::stream::iter([create]).chain(futures_util::stream::pending());
    let watching = WatchClient::new(node.channel()).watch(requests).await;
    let mut responses = watching.expect("the watch service answers").into_inner();
    let mut next = 2;
    while next <= last {
        let response = responses.message().await.expect("a stream").expect("open");
        for event in response.events {
            assert_eq!(event.kv.expect("an event has a pair").mod_revision, next);
            next += 1;
        }
    }
}

#[tokio::test]
async fn one_voter_is_made_of_a_voter_and_goes_on_alone() {
    let mut cluster = Cluster::start(EAVES, 3, 1, &[]).await;
    for number in 0..10 {
        let put = cluster
            .node("v1")
            .put(format!("key/{number}"), "value")
            .await;
        put.expect("a put");
    }
    let before = cluster.converge().await;
    kill(&mut cluster, true);
    kill(&mut cluster, false);

    let from = cluster.node("v1").data_dir.display().to_string();
    let port = free_ports(1)[0];
    let dir = cluster.directory().join("alone");
    let voter = format!("alone={},{}", url(port), dir.display());
    let dry = printed(&recover(&["--from", &from, "--voter", &voter]));
    println!("{dry}");
    assert!(
        dry.contains("may or may not have been acknowledged"),
        "{dry}"
    );
    assert!(!dir.exists());
    let made = printed(&recover(&["--from", &from, "--voter", &voter, "--yes"]));
    println!("{made}");
    assert!(made.contains("feeds no listeners"), "{made}");

    cluster.add("alone", &start_command(&made, "alone"), dir, port);
    // It comes back from its own directory, too.
    for number in 1..=2 {
        let alone = cluster.node_mut("alone");
        alone.start();
        alone.ready().await;
        assert_eq!(alone.content(before.revision).await, before);
        let put = alone.put("after", number.to_string()).await;
        assert_eq!(put.expect("a put"), before.revision + number);
        alone.kill();
    }

    // From one to two, who feed listeners: recovered once more, from the lone one.
    let from_alone = cluster.node("alone").data_dir.display().to_string();
    let mut arguments = vec!["--from".to_owned(), from_alone, "--yes".to_owned()];
    let mut pair = Vec::new();
    for name in ["p1", "p2"] {
        let (port, dir) = (free_ports(1)[0], cluster.directory().join(name));
        arguments.push("--voter".to_owned());
        arguments.push(format!("{name}={},{}", url(port), dir.display()));
        pair.push((name, port, dir));
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let made = printed(&recover(&words));
    for (name, port, dir) in pair {
        cluster.add(name, &start_command(&made, name), dir, port);
        cluster.node_mut(name).start();
    }
    for name in ["p1", "p2"] {
        cluster.node_mut(name).ready().await;
        let p = cluster.node(name);
        assert_eq!(p.content(before.revision).await, before);
        assert!(p.revision().await.expect("a read") >= before.revision + 2);
    }

    // Two of three voters: nothing is lost, and that is said.
    let other = cluster.node("v2").data_dir.display().to_string();
    let majority = printed(&recover(&["--from", &from, "--from", &other]));
    assert!(
        majority.contains("2 of the 3 voters are here"),
        "{majority}"
    );
}
