//! Steering the tree from any node: what is ordered at one is carried out at another, again without harm, and refused in words.

mod common;

use common::{Cluster, Running, eventually, write};
use eaves::{Role, SteerError, Steered};
use std::time::Duration;

/// Three voters with a leader, and a listener for each name, which all know all voters.
async fn grown(cluster: &Cluster, listeners: &[&str]) -> Vec<Running> {
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = cluster.voter(name);
        // A change of leader would move everybody.
        config.raft.election_timeout = Duration::from_secs(2);
        nodes.push(cluster.start(config).await);
    }
    write(&nodes[0].node, 0, 1).await;
    let voters = cluster.voter_addresses();
    let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
    for name in listeners {
        let listener = cluster.start(cluster.listener(name, &voters)).await;
        attached(&listener).await;
        nodes.push(listener);
    }
    nodes
}

async fn attached(listener: &Running) {
    eventually("the listener is attached", async || {
        listener.node.status().borrow().depth.is_some()
    })
    .await;
}

fn id(running: &Running) -> u64 {
    running.node.status().borrow().node_id
}

fn upstream(running: &Running) -> Option<u64> {
    running.node.status().borrow().upstream
}

fn leader(nodes: &[Running]) -> &Running {
    nodes
        .iter()
        .find(|running| running.node.status().borrow().role == Role::Leader)
        .expect("a leader")
}

fn followers(nodes: &[Running]) -> Vec<&Running> {
    let follows = |running: &&Running| running.node.status().borrow().role == Role::Follower;
    nodes.iter().filter(follows).collect()
}

fn text(error: SteerError) -> String {
    error.to_string()
}

/// Where a listener hangs, as it says itself.
fn hangs_below(listener: &Running, upstream: &Running) -> bool {
    self::upstream(listener) == Some(id(upstream))
}

fn said(steered: &Steered, parts: &[&str]) {
    for part in parts {
        let said = &steered.said;
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

/// S12.
#[tokio::test]
async fn a_listener_is_kicked_from_any_node_and_finds_a_place_again() {
    let cluster = Cluster::new(3);
    let nodes = grown(&cluster, &["l1", "l2"]).await;
    let listener = &nodes[3];
    let names = [
        "l1".to_string(),
        // By id, in decimal and in hexadecimal.
        id(listener).to_string(),
        format!("{:x}", id(listener)),
    ];
    for (asked, name) in [leader(&nodes), &nodes[4], listener].into_iter().zip(names) {
        let moves = listener.node.counters().moves.total();
        let kicked = asked.node.steer().kick(&name).await.unwrap();
        said(&kicked, &["let l1 go", "it hangs below"]);
        assert_eq!(kicked.node.id, id(listener));
        assert!(
            listener.node.counters().moves.total() > moves,
            "it has moved"
        );
        attached(listener).await;
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_words() {
    let cluster = Cluster::new(3);
    let nodes = grown(&cluster, &["l1"]).await;
    let steer = nodes[3].node.steer();
    let refused = steer.kick("v1").await.unwrap_err();
    assert!(matches!(refused, SteerError::Refused(_)), "{refused:?}");
    assert!(text(refused).contains("v1 is a voter"));
    let unknown = steer.kick("l7").await.unwrap_err();
    assert!(matches!(unknown, SteerError::Unknown(_)), "{unknown:?}");
    let voter = steer.set_upstreams("v2", vec!["127.0.0.1:1".into()]).await;
    assert!(text(voter.unwrap_err()).contains("voter"));
    let empty = steer.set_upstreams("l1", Vec::new()).await.unwrap_err();
    assert!(text(empty).contains("empty"));
    assert!(text(unknown).contains("did you mean l1"));
    let itself = nodes[3].node.peer_address().to_string();
    let itself = steer.set_upstreams("l1", vec![itself]).await.unwrap_err();
    assert!(text(itself).contains("itself"));
    let pin = async |listener, upstream| steer.pin(listener, Some(upstream)).await.unwrap_err();
    assert!(text(pin("l1", "l1").await).contains("its own upstream"));
    assert!(text(pin("v1", "v2").await).contains("v1 is a voter"));
    assert!(text(pin("l1", "v9").await).contains("v9"));
    let avoid = async |listener, node: &str| {
        let nodes = [node.to_string()];
        let avoided = steer.avoid(listener, Some(&nodes), true).await;
        text(avoided.unwrap_err())
    };
    assert!(avoid("l1", "l1").await.contains("cannot avoid itself"));
    assert!(avoid("v1", "v2").await.contains("v1 is a voter"));
    assert!(avoid("l1", "nobody").await.contains("nobody"));
    steer.pin("l1", Some("v1")).await.unwrap();
    let pinned = avoid("l1", "v1").await;
    assert!(pinned.starts_with("l1 is pinned to v1:"), "{pinned}");
    steer.pin("l1", None).await.unwrap();
    let names = ["v1".to_string()];
    steer.avoid("l1", Some(&names), true).await.unwrap();
    let avoided = text(pin("l1", "v1").await);
    assert!(avoided.starts_with("l1 avoids v1:"), "{avoided}");
    let nothing = steer.avoid("l1", None, true).await.unwrap_err();
    assert!(text(nothing).contains("name the nodes"));
    assert!(text(steer.drain("l9").await.map(|_| ()).unwrap_err()).contains("l9"));
    assert!(text(steer.undrain("l9").await.unwrap_err()).contains("l9"));
    assert!(text(steer.why("l9").await.unwrap_err()).contains("l9"));
    assert!(text(steer.what_if_down("l9").await.unwrap_err()).contains("l9"));
}

/// S14, S6.
#[tokio::test]
async fn a_new_list_is_chosen_from_and_survives_a_restart_with_the_old_flag() {
    let cluster = Cluster::new(3);
    let mut nodes = grown(&cluster, &["l1"]).await;
    let listener = nodes.pop().unwrap();
    let other = followers(&nodes)
        .into_iter()
        .find(|follower| Some(id(follower)) != upstream(&listener))
        .expect("two followers");
    let list = vec![other.node.peer_address().to_string()];
    for _ in 0..2 {
        let steer = leader(&nodes).node.steer();
        steer.set_upstreams("l1", list.clone()).await.unwrap();
    }
    let told = nodes[0].node.steer().why("l1").await.unwrap();
    assert_eq!(told.upstream_list, list);
    let look = told.look.or(told.choice).expect("it has looked");
    assert_eq!(look.why, "it was given a new list");
    assert!(look.candidates.iter().any(|one| one.id == Some(id(other))));
    listener.node.shutdown().await;
    drop(listener);

    let voters = cluster.voter_addresses();
    let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
    let listener = cluster.start(cluster.listener("l1", &voters)).await;
    attached(&listener).await;
    let told = nodes[0].node.steer().why("l1").await.unwrap();
    assert_eq!(told.upstream_list, list, "the flag is the old one");
    listener.node.shutdown().await;
    drop(listener);

    let first = &voters[..1];
    let listener = cluster.start(cluster.listener("l1", first)).await;
    attached(&listener).await;
    let told = nodes[0].node.steer().why("l1").await.unwrap();
    assert_eq!(told.upstream_list, first, "another flag is a new list");
}

/// B16.
#[tokio::test]
async fn a_pin_is_kept_across_a_restart_and_cleared_from_any_node() {
    let cluster = Cluster::new(3);
    let mut nodes = grown(&cluster, &["l1", "l2"]).await;
    let listener = nodes.remove(3);
    let other = &nodes[3];
    let steer = leader(&nodes).node.steer();
    for _ in 0..2 {
        let pinned = steer.pin("l1", Some("l2")).await.unwrap();
        said(&pinned, &["l1 is pinned to l2", "it hangs below l2 now"]);
        eventually("the listener hangs where it is pinned", async || {
            hangs_below(&listener, other)
        })
        .await;
    }
    let below = steer.pin("l2", Some("l1")).await.unwrap_err();
    assert!(text(below).contains("hangs below l2"));
    let to_leader = leader(&nodes).node.status().borrow().name.clone();
    let waits = steer.pin("l1", Some(&to_leader)).await.unwrap();
    said(&waits, &["it goes there once it can", "leads"]);
    steer.pin("l1", Some("l2")).await.unwrap();

    listener.node.shutdown().await;
    drop(listener);
    let voters = cluster.voter_addresses();
    let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
    let listener = cluster.start(cluster.listener("l1", &voters)).await;
    eventually("the listener goes back to where it is pinned", async || {
        hangs_below(&listener, other)
    })
    .await;
    let row = async || {
        let rows = nodes[0].node.tree(Duration::from_secs(4)).await;
        rows.into_iter().find(|row| row.name == "l1")
    };
    eventually(
        "the tree shows what the listener is pinned to",
        async || row().await.is_some_and(|row| row.pin == Some(id(other))),
    )
    .await;
    for expected in ["pinned no more", "was not pinned"] {
        let cleared = nodes[0].node.steer().pin("l1", None).await.unwrap();
        said(&cleared, &[expected]);
    }
    eventually(
        "the tree shows that the listener is pinned no more",
        async || row().await.is_some_and(|row| row.pin.is_none()),
    )
    .await;
}

/// B16.
#[tokio::test]
async fn an_avoided_upstream_is_left_for_good() {
    let cluster = Cluster::new(3);
    let nodes = grown(&cluster, &["l1"]).await;
    let listener = &nodes[3];
    let [one, other] = followers(&nodes)[..] else {
        panic!("two followers")
    };
    let name = |running: &Running| running.node.status().borrow().name.clone();
    for (left, taken) in [(one, other), (other, one)] {
        let steer = leader(&nodes).node.steer();
        let names = [name(left)];
        steer.avoid("l1", Some(&names), true).await.unwrap();
        eventually("the listener hangs elsewhere", async || {
            hangs_below(listener, taken)
        })
        .await;
        // Told again, it changes nothing.
        let again = steer.avoid("l1", Some(&names), true).await.unwrap();
        said(&again, &["avoids", &names[0]]);
        let told = nodes[0].node.tree(Duration::from_secs(4)).await;
        let row = told.iter().find(|row| row.name == "l1").unwrap();
        assert_eq!(row.avoids, [id(left)]);
        let cleared = steer.avoid("l1", None, false).await.unwrap();
        said(&cleared, &["no longer avoids", &names[0]]);
    }
    let nothing = nodes[0]
        .node
        .steer()
        .avoid("l1", None, false)
        .await
        .unwrap();
    said(&nothing, &["avoids nobody"]);
}

/// B16.
#[tokio::test]
async fn a_drained_node_hands_over_what_it_feeds_and_takes_nobody_until_undrained() {
    let cluster = Cluster::new(3);
    let nodes = grown(&cluster, &["l1", "l2", "l3", "l4"]).await;
    let listeners = &nodes[3..];
    let [drained, other] = followers(&nodes)[..] else {
        panic!("two followers")
    };
    let name = drained.node.status().borrow().name.clone();
    let mut drain = nodes[6].node.steer().drain(&name).await.unwrap();
    assert_eq!(drain.node.id, id(drained));
    assert_eq!(drain.warning, None);
    eventually("nobody is left", async || drain.look().await.unwrap() == 0).await;
    eventually("all hang elsewhere", async || {
        let fed = |listener: &Running| upstream(listener).is_some_and(|up| up != id(drained));
        listeners.iter().all(fed)
    })
    .await;
    let again = nodes[3].node.steer().drain(&name).await.unwrap();
    assert!(again.node.draining);
    assert_eq!(again.left, 0);
    // Whoever is kicked now has one root to go to.
    nodes[0].node.steer().kick("l1").await.unwrap();
    attached(&listeners[0]).await;
    assert_ne!(upstream(&listeners[0]), Some(id(drained)));

    // Then nobody is left who could feed anybody.
    let other_name = other.node.status().borrow().name.clone();
    let last = nodes[3].node.steer().drain(&other_name).await.unwrap();
    let warning = last.warning.expect("nobody else has room");
    assert!(warning.contains(&format!("`eaves undrain {other_name}`")));
    nodes[3].node.steer().undrain(&other_name).await.unwrap();

    let undrained = nodes[4].node.steer().undrain(&name).await.unwrap();
    said(&undrained, &["takes listeners again"]);
    let undrained = nodes[4].node.steer().undrain(&name).await.unwrap();
    said(&undrained, &["was not draining"]);
    let steer = nodes[0].node.steer();
    steer.avoid("l1", Some(&[other_name]), true).await.unwrap();
    eventually("the listener takes a place there again", async || {
        hangs_below(&listeners[0], drained)
    })
    .await;
}

/// B15.
#[tokio::test]
async fn why_tells_the_candidates_of_the_last_choice_from_any_node() {
    let cluster = Cluster::new(3);
    let nodes = grown(&cluster, &["l1"]).await;
    let listener = &nodes[3];
    for asked in &nodes {
        let account = asked.node.steer().why("l1").await.unwrap();
        assert_eq!(account.node.upstream, upstream(listener));
        assert!(account.node.fed_for.is_some());
        assert_eq!(account.upstream_list, cluster.voter_addresses());
        let choice = account.choice.expect("it has chosen");
        assert_eq!(choice.why, "it started");
        let accepted: Vec<_> = choice
            .candidates
            .iter()
            .filter(|one| one.accepted)
            .collect();
        assert_eq!(accepted.len(), 1);
        assert_eq!(accepted[0].id, upstream(listener));
        assert_eq!(accepted[0].name, account.upstream_name);
        let leads = choice
            .candidates
            .iter()
            .find(|one| one.verdict.contains("leads"));
        assert_eq!(leads.unwrap().id, Some(id(leader(&nodes))));
    }
    let account = listener.node.steer().why("v1").await.unwrap();
    assert_eq!(account.choice, None, "a voter chooses no upstream");
    assert_ne!(account.node.role, Role::Listener);
}

/// B15.
#[tokio::test]
async fn what_if_names_a_place_for_each_downstream_and_what_becomes_of_the_group() {
    let cluster = Cluster::new(3);
    let nodes = grown(&cluster, &["l1", "l2"]).await;
    let steer = nodes[4].node.steer();
    let forecast = steer.what_if_down("l1").await.unwrap();
    assert_eq!((forecast.moves, forecast.group), (vec![], None));
    let mut moved = Vec::new();
    for follower in followers(&nodes) {
        let name = follower.node.status().borrow().name.clone();
        let forecast = steer.what_if_down(&name).await.unwrap();
        assert!(forecast.group.unwrap().goes_on);
        for one in forecast.moves {
            let to = one.to.expect("there is room");
            assert_ne!(to.id, id(follower));
            assert_ne!(to.id, id(leader(&nodes)));
            assert_eq!(to.depth, 1);
            moved.push(one.name);
        }
    }
    moved.sort();
    assert_eq!(moved, ["l1", "l2"], "both hang below a follower");
    let name = leader(&nodes).node.status().borrow().name.clone();
    let forecast = steer.what_if_down(&name).await.unwrap();
    assert_eq!(forecast.successors.len(), 2);
}

/// B15, B3. A listener without a place is known to who let it go; a node that is gone is named.
#[tokio::test]
async fn the_survey_finds_who_hangs_nowhere_and_names_who_does_not_answer() {
    let cluster = Cluster::new(3);
    let mut nodes = grown(&cluster, &["l1", "l2"]).await;
    let steer = nodes[0].node.steer();
    let nobody = vec!["127.0.0.1:1".to_string()];
    let set = steer.set_upstreams("l1", nobody).await.unwrap();
    said(&set, &["keeps the new list, but nobody on it"]);
    let names: Vec<String> = ["v1", "v2", "v3"].map(String::from).to_vec();
    steer.avoid("l1", Some(&names), true).await.unwrap();
    steer.kick("l1").await.unwrap();
    for asked in &nodes {
        eventually("the survey shows the detached listener", async || {
            let picture = asked.node.survey(Duration::from_secs(4)).await;
            let row = |name: &str| picture.rows.iter().find(|row| row.name == name).cloned();
            picture.rows.len() == 5
                && row("l1").is_some_and(|row| row.upstream.is_none() && row.depth.is_none())
        })
        .await;
    }
    let gone = nodes.remove(1);
    let address = gone.node.peer_address().to_string();
    gone.node.shutdown().await;
    for asked in &nodes {
        eventually("the survey names the voter that is gone", async || {
            let picture = asked.node.survey(Duration::from_secs(4)).await;
            let mut missing = picture.missing.iter();
            missing.any(|one| one.name == "v2" && one.peer_address == address)
        })
        .await;
    }
    let error = nodes[0].node.steer().kick("v2").await.unwrap_err();
    assert!(matches!(error, SteerError::Unreachable(_)), "{error:?}");
    assert!(text(error).starts_with(&format!("v2 at {address}: did not answer")));
    // But it can be avoided, for when it comes back.
    let (steer, gone) = (nodes[0].node.steer(), ["v2".to_string()]);
    eventually("the listener avoids who does not answer", async || {
        let avoided = steer.avoid("l2", Some(&gone), true).await;
        avoided.is_ok_and(|avoided| avoided.said.contains("avoids v2"))
    })
    .await;
}
