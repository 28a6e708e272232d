//! Random runs against naive models.
//!
//! - The choice of an upstream against a literal reading of `S8`.
//! - A small network under random faults: the safety invariants hold after every step (most are asserted in the crate itself,
//!   so it is enough that nothing panics), and when the faults stop everybody is attached, and every node's view of the tree
//!   is what a walk along the upstreams finds.
//! - A crowd that starts at once on one address (`B19`).

use crate::net::{Net, address};
use eaves_tree::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::BTreeSet;
use std::time::Duration;

/// The same cases in every run, unless PROPTEST_RNG_SEED asks for others; PROPTEST_CASES asks for more.
fn repeatable(cases: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    let rng_seed = match asked.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0xea7e5),
        fixed => fixed,
    };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() {
        asked.cases
    } else {
        cases
    };
    ProptestConfig {
        cases,
        rng_seed,
        failure_persistence: None,
        ..asked
    }
}

// The choice (S8).

/// What one server of the list answers, if it does.
#[derive(Clone, Debug)]
struct Server {
    answers: bool,
    leads: bool,
    attached: bool,
    stale: bool,
    depth: u64,
    registered: u32,
    zone: Option<bool>,
    knows_me: bool,
}

fn server() -> impl Strategy<Value = Server> {
    let states = (
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.2),
    );
    (
        states,
        0..4u64,
        0..3u32,
        any::<Option<bool>>(),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |((answers, leads, attached, stale), depth, registered, zone, knows_me)| Server {
                answers,
                leads,
                attached,
                stale,
                depth,
                registered,
                zone,
                knows_me: knows_me && depth > 0,
            },
        )
}

const ME: u64 = 50;
const N: u32 = 2;

fn zone(zone: Option<bool>) -> Option<Zone> {
    zone.map(|a| Zone::from(if a { "a" } else { "b" }))
}

fn answer(id: u64, server: &Server) -> Answer {
    let mut ids: Vec<NodeId> = (0..server.depth).map(|level| NodeId(100 + level)).collect();
    if server.knows_me {
        ids[0] = NodeId(ME);
    }
    ids.push(NodeId(id));
    Answer {
        role: if server.leads {
            Role::Leader
        } else {
            Role::Listener
        },
        attached: server.attached,
        stale: server.stale,
        age: Duration::ZERO,
        draining: false,
        uncompared: false,
        path: Path::try_from(ids).unwrap(),
        zone: zone(server.zone),
        capacity: N,
        registered: server.registered,
        free: FreePlaces::default(),
        committed: LogPosition::default(),
        alternatives: Vec::new(),
    }
}

/// S8 to the letter: the servers among which the choice must fall.
fn naive_choice(servers: &[Server], my_zone: Option<bool>) -> BTreeSet<u64> {
    let key = |server: &Server| {
        let other = my_zone.is_some() && server.zone != my_zone;
        (server.stale, server.depth + u64::from(other), other)
    };
    let eligible = |server: &&Server| {
        server.answers
            && !server.leads
            && server.attached
            && server.registered < N
            && !server.knows_me
    };
    let best = servers.iter().filter(eligible).map(key).min();
    let numbered = (1..).zip(servers);
    numbered
        .filter(|(_, server)| eligible(server) && Some(key(server)) == best)
        .map(|(id, _)| id)
        .collect()
}

proptest! {
    #![proptest_config(repeatable(256))]

    #[test]
    fn the_choice_is_what_the_rule_says(
        servers in prop::collection::vec(server(), 1..=4),
        my_zone in any::<Option<bool>>(),
        seed in any::<u64>(),
    ) {
        let mut config = Net::config(ME);
        config.zone = zone(my_zone);
        let upstreams = (1..=servers.len() as u64).map(address).collect();
        let saved = Saved { upstreams, ..Saved::default() };
        let mut node = TreeNode::listener(Instant(0), config, saved, OwnLog::Empty, seed);
        // A restart that knows one server waits first (B19).
        if servers.len() == 1 {
            node.handle_timeout(Instant(5_000_000));
        }
        let now = Instant(5_010_000);
        let asked: BTreeSet<Address> = std::iter::from_fn(|| node.poll_output())
            .filter_map(|output| match output {
                Output::Ask { to } => Some(to),
                _ => None,
            })
            .collect();
        prop_assert_eq!(asked.len(), servers.len());
        for (id, server) in (1..).zip(&servers) {
            if server.answers {
                node.handle_answer(now, &address(id), answer(id, server));
            } else {
                node.handle_ask_failed(now, &address(id));
            }
        }
        let chosen = std::iter::from_fn(|| node.poll_output()).find_map(|output| match output {
            Output::Connect { to, .. } => Some(crate::net::node_at(&to)),
            _ => None,
        });
        let best = naive_choice(&servers, my_zone);
        match chosen {
            Some(chosen) => prop_assert!(best.contains(&chosen), "chose n{chosen}, best are {best:?}"),
            None => prop_assert!(best.is_empty(), "chose nobody, best are {best:?}"),
        }
    }
}

// The network.

const VOTERS: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Run(u16),
    Leader(u64),
    NoLeader,
    Kill(u64),
    Vanish(u64),
    Start(u64),
    Cut(u64, u64),
    Heal,
    Kick(u64, u64),
    List(u64, Vec<u64>),
    LogVoters(u64),
    Promote(u64),
    Pin(u64, Option<u64>),
    Avoid(u64, u64, bool),
    Drain(u64, bool),
}

fn step(nodes: u64) -> impl Strategy<Value = Step> {
    let any = 1..=nodes;
    let voter = 1..=VOTERS;
    prop_oneof![
        6 => (1..4000u16).prop_map(Step::Run),
        2 => voter.clone().prop_map(Step::Leader),
        1 => Just(Step::NoLeader),
        2 => any.clone().prop_map(Step::Kill),
        1 => any.clone().prop_map(Step::Vanish),
        3 => any.clone().prop_map(Step::Start),
        2 => (any.clone(), any.clone()).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => Just(Step::Heal),
        2 => (any.clone(), any.clone()).prop_map(|(a, b)| Step::Kick(a, b)),
        1 => (any.clone(), list(nodes)).prop_map(|(id, list)| Step::List(id, list)),
        1 => any.clone().prop_map(Step::LogVoters),
        1 => any.clone().prop_map(Step::Promote),
        1 => (any.clone(), prop::option::weighted(0.8, any.clone())).prop_map(|(id, pin)| Step::Pin(id, pin)),
        1 => (any.clone(), any.clone(), prop::bool::weighted(0.8)).prop_map(|(id, other, on)| Step::Avoid(id, other, on)),
        1 => (any, prop::bool::weighted(0.7)).prop_map(|(id, on)| Step::Drain(id, on)),
    ]
}

/// Any servers, and one voter: a listener that knows only others that know nobody cannot be helped.
fn list(nodes: u64) -> impl Strategy<Value = Vec<u64>> {
    (1..=VOTERS, prop::collection::vec(1..=nodes + 2, 0..6)).prop_map(|(voter, mut list)| {
        list.insert(list.len() / 2, voter);
        list
    })
}

#[derive(Clone, Debug)]
struct Scenario {
    listeners: Vec<(u32, Vec<u64>)>,
    voter_capacity: u32,
    uneven: bool,
    steps: Vec<Step>,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (1..=14u64).prop_flat_map(|listeners| {
        let nodes = VOTERS + listeners;
        let listener = (1..=3u32, list(nodes));
        let listeners = prop::collection::vec(listener, listeners as usize);
        (
            listeners,
            1..=3u32,
            any::<bool>(),
            prop::collection::vec(step(nodes), 0..40),
        )
            .prop_map(|(listeners, voter_capacity, uneven, steps)| Scenario {
                listeners,
                voter_capacity,
                uneven,
                steps,
            })
    })
}

fn build(scenario: &Scenario) -> Net {
    let mut net = Net::new(Duration::from_millis(3), scenario.uneven);
    for id in 1..=VOTERS {
        let mut config = Net::config(id);
        config.capacity = scenario.voter_capacity;
        net.add_voter(config);
    }
    net.set_leader(Some(1));
    for (id, (capacity, list)) in (VOTERS + 1..).zip(&scenario.listeners) {
        let mut config = Net::config(id);
        config.capacity = *capacity;
        net.add_listener(config, Saved::default());
        net.set_list(id, list);
    }
    net
}

/// Starts a node as an operator does: a listener that has nothing on disk is given its list again.
fn start(net: &mut Net, scenario: &Scenario, id: u64) {
    net.start(id);
    let saved = net
        .node(id)
        .is_some_and(|node| !node.saved().upstreams.is_empty());
    if !saved && !net.voters().contains(&id) {
        net.set_list(id, &scenario.listeners[(id - VOTERS - 1) as usize].1);
    }
}

fn perform(net: &mut Net, scenario: &Scenario, step: &Step) {
    let is_voter = |net: &Net, id: u64| net.voters().contains(&id);
    match step {
        Step::Run(milliseconds) => net.run(Duration::from_millis(u64::from(*milliseconds))),
        Step::Leader(id) if net.is_up(*id) => net.set_leader(Some(*id)),
        Step::NoLeader => net.set_leader(None),
        Step::Kill(id) if net.is_up(*id) => net.kill(*id),
        Step::Vanish(id) if net.is_up(*id) => net.vanish(*id),
        Step::Start(id) if !net.is_up(*id) => start(net, scenario, *id),
        Step::Cut(a, b) if a != b => net.cut(*a, *b),
        Step::Heal => net.heal(),
        Step::Kick(upstream, listener) => {
            net.with(*upstream, |node, now| node.kick(now, NodeId(*listener)));
        }
        Step::List(id, list) if net.is_up(*id) && !is_voter(net, *id) => net.set_list(*id, list),
        Step::LogVoters(id) if net.is_up(*id) && !is_voter(net, *id) => {
            let voters = net.voters().into_iter().map(crate::net::peer).collect();
            net.with(*id, |node, now| node.handle_voters(now, voters));
        }
        Step::Promote(id) if net.is_up(*id) && !is_voter(net, *id) => net.promote(*id),
        // What cannot be granted is refused, and changes nothing.
        Step::Pin(id, upstream) if net.is_up(*id) => drop(net.pin(*id, *upstream)),
        Step::Avoid(id, other, on) if net.is_up(*id) => drop(net.avoid(*id, *other, *on)),
        Step::Drain(id, on) if net.is_up(*id) => net.set_draining(*id, *on),
        _ => {}
    }
}

/// With everybody avoided or draining there may be no place for all.
fn lift_avoidances(net: &mut Net, id: u64) {
    net.set_draining(id, false);
    let avoided = net
        .node(id)
        .expect("all nodes run")
        .steering()
        .avoided
        .clone();
    for other in avoided {
        net.avoid(id, other.0, false)
            .expect("not to avoid is always granted");
    }
}

/// capacity and leader-feeds-none, seen from outside.
fn check_safety(net: &Net) {
    for id in net.ids() {
        let Some(node) = net.node(id) else { continue };
        let registered: BTreeSet<u64> = node
            .downstreams()
            .map(|downstream| downstream.peer.id.0)
            .collect();
        assert!(
            registered.len() as u32 == node.registered(),
            "one-session: n{id} has a listener twice"
        );
        assert!(
            node.registered() <= node.config().capacity,
            "capacity: n{id} is beyond N"
        );
        assert!(
            node.role() != Role::Leader || registered.is_empty(),
            "leader-feeds-none: n{id} leads and feeds"
        );
        let fed: BTreeSet<u64> = net
            .feeding()
            .iter()
            .filter(|(upstream, _)| *upstream == id)
            .map(|(_, listener)| *listener)
            .collect();
        assert_eq!(fed, registered, "n{id} feeds others than are registered");
    }
}

/// The path a naive walk along the upstreams finds, root first; nothing if it does not end at a voter.
fn walk(net: &Net, id: u64) -> Option<Vec<NodeId>> {
    let mut path = vec![NodeId(id)];
    while let Some(upstream) = net.node(path[0].0)?.upstream() {
        if path.contains(&upstream.peer.id) {
            return None;
        }
        path.insert(0, upstream.peer.id);
    }
    net.voters().contains(&path[0].0).then_some(path)
}

/// Who is followed by whom.
fn followed(net: &Net) -> BTreeSet<(u64, u64)> {
    net.following()
        .iter()
        .map(|(&listener, &upstream)| (upstream, listener))
        .collect()
}

/// Lets a move that is just being made come to its end: for that long two feed one (B7).
fn let_moves_end(net: &mut Net) {
    for _ in 0..20 {
        if *net.feeding() != followed(net) {
            net.run(Duration::from_millis(25));
        }
    }
}

/// reattach, and that every view of the tree is true.
fn check_quiet(net: &Net) {
    for id in net.ids() {
        let node = net.node(id).expect("all nodes run");
        let path = walk(net, id).unwrap_or_else(|| {
            panic!("reattach: n{id} is not attached\n{}", net.tree().join("\n"))
        });
        assert!(
            node.is_attached(),
            "reattach: n{id} does not know that it is attached"
        );
        assert_eq!(node.path().ids(), path, "n{id} believes in another path");
        assert!(
            !node.is_stale(net.now),
            "n{id} is stale though the leader is heard"
        );
        if let Some(upstream) = node.upstream() {
            let registered = net
                .node(upstream.peer.id.0)
                .unwrap()
                .downstreams()
                .any(|downstream| downstream.peer.id.0 == id);
            assert!(
                registered,
                "n{id} follows n{} and is not registered there",
                upstream.peer.id.0
            );
        }
    }
    assert_eq!(
        *net.feeding(),
        followed(net),
        "somebody is fed by another than it follows"
    );
}

proptest! {
    #![proptest_config(repeatable(192))]

    #[test]
    fn faults_hurt_no_invariant_and_all_attach_when_they_stop(scenario in scenario()) {
        let mut net = build(&scenario);
        for step in &scenario.steps {
            perform(&mut net, &scenario, step);
            check_safety(&net);
        }
        net.heal();
        for id in net.ids() {
            if !net.is_up(id) {
                start(&mut net, &scenario, id);
            }
        }
        for id in net.ids() {
            lift_avoidances(&mut net, id);
        }
        net.set_leader(Some(2));
        net.run(Duration::from_secs(60));
        let_moves_end(&mut net);
        check_safety(&net);
        check_quiet(&net);
    }
}

// Improvement (B6, B7).

/// A tree of two zones that grows while nodes die, and then is left alone.
#[derive(Clone, Debug)]
struct Forest {
    /// Capacity, zone, and when it starts in milliseconds.
    listeners: Vec<(u32, bool, u16)>,
    zoned: bool,
    dying: Vec<u64>,
}

fn forest() -> impl Strategy<Value = Forest> {
    (2..=16usize).prop_flat_map(|count| {
        let listener = (1..=3u32, any::<bool>(), 0..4000u16);
        let nodes = VOTERS + count as u64;
        (
            prop::collection::vec(listener, count),
            any::<bool>(),
            prop::collection::vec(VOTERS + 1..=nodes, 0..6),
        )
            .prop_map(|(listeners, zoned, dying)| Forest {
                listeners,
                zoned,
                dying,
            })
    })
}

/// Heartbeat and timeout for runs of hours.
const SELDOM: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(12));

fn grown(forest: &Forest) -> Net {
    let mut net = Net::new(Duration::from_millis(3), true);
    for id in 1..=VOTERS {
        let mut config = Net::config(id);
        config.capacity = 2;
        (config.heartbeat, config.timeout) = SELDOM;
        config.zone = zone(forest.zoned.then_some(id == 2));
        net.add_voter(config);
    }
    net.set_leader(Some(1));
    for (id, (capacity, in_a, after)) in (VOTERS + 1..).zip(&forest.listeners) {
        let mut config = Net::config(id);
        config.capacity = *capacity;
        (config.heartbeat, config.timeout) = SELDOM;
        config.zone = zone(forest.zoned.then_some(*in_a));
        net.add_listener(config, Saved::default());
        net.set_list(id, &[1]);
        net.run(Duration::from_millis(u64::from(*after)));
    }
    for &id in &forest.dying {
        if net.is_up(id) {
            net.kill(id);
            net.run(Duration::from_secs(2));
        }
    }
    net
}

/// The place of an upstream in the order of a listener, as B6 has it.
fn place(listener: &TreeNode, upstream: &TreeNode) -> (u32, bool) {
    let zone = &listener.config().zone;
    let abroad = zone.is_some() && upstream.config().zone != *zone;
    (upstream.path().depth() + u32::from(abroad), abroad)
}

/// min-depth: nobody could register at a strictly smaller place, by the rule for who may move where (B1).
fn check_min_depth(net: &Net) {
    let up: Vec<u64> = net.ids().into_iter().filter(|&id| net.is_up(id)).collect();
    for &id in &up {
        let listener = net.node(id).unwrap();
        let Some(upstream) = listener.upstream() else {
            continue;
        };
        let present = place(listener, net.node(upstream.peer.id.0).unwrap());
        for &other_id in up.iter().filter(|&&other| other != id) {
            let other = net.node(other_id).unwrap();
            let is_free = other.role() != Role::Leader
                && other.registered() < other.config().capacity
                && !other.path().contains(NodeId(id));
            let is_less = (other.path().depth(), other_id) < (listener.path().depth(), id);
            assert!(
                !(is_free && is_less && place(listener, other) < present),
                "min-depth: n{id} could be below n{other_id}\n{}",
                net.tree().join("\n")
            );
        }
    }
}

proptest! {
    #![proptest_config(repeatable(24))]

    #[test]
    fn everybody_comes_to_the_least_place_and_stays_there(forest in forest()) {
        let mut net = grown(&forest);
        // Long enough for two windows of three moves each.
        net.run(IMPROVEMENT_WINDOW * 2);
        check_safety(&net);
        check_min_depth(&net);
        let settled = net.following().clone();
        net.run(IMPROVEMENT_WINDOW);
        prop_assert_eq!(net.following(), &settled, "somebody moves though all is quiet");
    }
}

// The crowd (B19).

/// Many listeners start at once and know the leader's address only. All attach, nobody is asked without measure, and the
/// tree is at most one level deeper than it could be.
#[test]
fn a_crowd_on_one_address_all_attaches() {
    const CROWD: u64 = 600;
    const CAPACITY: u32 = 8;
    let mut net = Net::new(Duration::from_millis(5), false);
    for id in 1..=3 {
        let mut config = Net::config(id);
        config.capacity = CAPACITY;
        net.add_voter(config);
    }
    net.set_leader(Some(1));
    for id in 10..10 + CROWD {
        let mut config = Net::config(id);
        config.capacity = CAPACITY;
        net.add_listener(config, Saved::default());
        net.set_list(id, &[1]);
    }
    net.run(Duration::from_secs(20));
    check_safety(&net);
    let deepest = (10..10 + CROWD)
        .map(|id| net.node(id).unwrap().depth().expect("reattach: all attach"))
        .max();
    // 2 roots of 8, then 128 at depth 2, then 1024 at depth 3: three levels are the least.
    assert!(deepest <= Some(4), "the tree is {deepest:?} levels deep");
    assert!(
        net.asked < 60 * CROWD,
        "{} questions for {CROWD} listeners",
        net.asked
    );
}
