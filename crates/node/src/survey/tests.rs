//! Surveys of trees that exist as tables only, with answers in any order.

use super::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A tree as it is, and who of it answers.
struct World {
    nodes: BTreeMap<u64, Node>,
    questions: usize,
    most_at_once: usize,
}

struct Node {
    upstream: Option<u64>,
    is_voter: bool,
    applied: u64,
    answers: bool,
    former: Vec<u64>,
}

impl World {
    /// Three voters, of which the first leads; then listeners, each below the first node that has fewer than `capacity`.
    fn grown(listeners: u64, capacity: u64) -> World {
        let upstream = |id: u64| match id {
            1..=3 => None,
            id => Some(2 + (id - 4) / capacity),
        };
        let node = |id| Node {
            upstream: upstream(id),
            is_voter: id <= 3,
            applied: 100,
            answers: true,
            former: Vec::new(),
        };
        World {
            nodes: (1..=listeners + 3).map(|id| (id, node(id))).collect(),
            questions: 0,
            most_at_once: 0,
        }
    }

    fn depth(&self, id: u64) -> Option<u32> {
        let node = &self.nodes[&id];
        match node.upstream {
            None => node.is_voter.then_some(0),
            Some(upstream) => Some(self.depth(upstream)? + 1),
        }
    }

    fn below(&self) -> HashMap<u64, Vec<u64>> {
        let mut below: HashMap<u64, Vec<u64>> = HashMap::new();
        for (id, node) in &self.nodes {
            if let Some(upstream) = node.upstream {
                below.entry(upstream).or_default().push(*id);
            }
        }
        below
    }

    fn row(&self, id: u64, below: usize) -> RowBytes {
        let node = &self.nodes[&id];
        RowBytes {
            id,
            name: format!("n{id}"),
            role: match (node.is_voter, id) {
                (true, 1) => Role::Leader,
                (true, _) => Role::Follower,
                (false, _) => Role::Listener,
            }
            .to_number(),
            peer_url: format!("http://{}", address(id)),
            upstream: node.upstream,
            depth: self.depth(id),
            committed: 100,
            behind_ms: if id == 4 || id == 8 { 30 } else { 0 },
            applied: node.applied,
            registered: below as u32,
            capacity: 32,
            ..RowBytes::default()
        }
    }

    fn answer(&self, id: u64) -> Option<Rows> {
        self.answer_of(id, &self.below())
    }

    fn answer_of(&self, id: u64, all_below: &HashMap<u64, Vec<u64>>) -> Option<Rows> {
        let node = self.nodes.get(&id).filter(|node| node.answers)?;
        let nobody = Vec::new();
        let below = |id| all_below.get(&id).unwrap_or(&nobody);
        let (told, silent): (Vec<u64>, Vec<u64>) =
            below(id).iter().partition(|id| self.nodes[id].answers);
        let mut rows = vec![self.row(id, below(id).len())];
        rows.extend(told.into_iter().map(|id| self.row(id, below(id).len())));
        Some(Rows {
            rows,
            silent: silent.into_iter().map(peer).collect(),
            former: node.former.iter().map(|id| former(*id)).collect(),
            above: node.upstream.map(peer),
        })
    }

    /// Surveys it, beginning with `first`; whatever is being asked answers in an order that `seed` draws.
    fn survey(&mut self, first: &[u64], seed: u64) -> TreePicture {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut survey = Survey::new(first.iter().map(|id| (peer(*id), format!("n{id}"))));
        let mut asking = Vec::new();
        let below = self.below();
        while !survey.is_done() {
            while let Some(peer) = survey.next() {
                asking.push(peer.id);
                self.questions += 1;
            }
            self.most_at_once = self.most_at_once.max(asking.len());
            let answering = rng.random_range(0..asking.len());
            let id = asking.swap_remove(answering);
            match self.answer_of(id, &below) {
                Some(rows) => survey.answered(id, rows),
                None => survey.failed(id, "connection refused"),
            }
        }
        survey.finish()
    }
}

/// One who said that it has another place, and is nowhere to be found.
const MOVED: u64 = 99;

fn address(id: u64) -> String {
    format!("h:{id}")
}

fn peer(id: u64) -> PeerAtBytes {
    PeerAtBytes {
        id,
        address: address(id),
    }
}

fn former(id: u64) -> FormerBytes {
    FormerBytes {
        peer: peer(id),
        ago_ms: 12_000,
        why: "the connection closed".into(),
        moved: id == MOVED,
    }
}

fn ids(picture: &TreePicture) -> Vec<u64> {
    let mut ids: Vec<u64> = picture.rows.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn ten_thousand_listeners_are_seen_by_asking_the_inner_nodes_only() {
    let mut world = World::grown(10_000, 32);
    let inner: HashSet<u64> = world
        .nodes
        .values()
        .filter_map(|node| node.upstream)
        .collect();
    let picture = world.survey(&[1, 2, 3], 7);
    assert_eq!(ids(&picture), Vec::from_iter(1..=10_003));
    assert_eq!(picture.missing, []);
    // Two of the voters are inner nodes; the leader is asked for itself.
    assert_eq!(world.questions, inner.len() + 1);
    assert_eq!(world.most_at_once, ASKED_AT_ONCE);
    assert!(picture.rows.is_sorted_by_key(|row| row.depth));
    for row in &picture.rows {
        assert_eq!(row.depth, world.depth(row.id), "node {}", row.id);
    }
}

#[test]
fn the_order_of_the_answers_does_not_matter() {
    let pictures: Vec<TreePicture> = (0..20)
        .map(|seed| World::grown(300, 4).survey(&[1, 2, 3], seed))
        .collect();
    assert!(pictures.iter().all(|picture| *picture == pictures[0]));
    assert_eq!(pictures[0].rows.len(), 303);
}

#[test]
fn a_survey_that_begins_at_a_leaf_reaches_everybody_through_what_is_above() {
    let mut world = World::grown(50, 3);
    let picture = world.survey(&[53], 1);
    // The other root and the leader are not above it: who asks names the voters.
    let of_its_root = |row: &TreeRow| row.role == Role::Listener;
    assert!(picture.rows.iter().any(|row| row.id == 53));
    assert!(picture.rows.iter().filter(|row| of_its_root(row)).count() > 20);
}

#[test]
fn who_does_not_answer_is_missing_by_name_with_what_is_below() {
    let mut world = World::grown(20, 2);
    // Below 4 hang 8 and 9, and so on.
    world.nodes.get_mut(&4).unwrap().answers = false;
    world.nodes.get_mut(&3).unwrap().answers = false;
    let picture = world.survey(&[1, 2, 3], 3);
    let missing: Vec<(u64, &str)> = picture
        .missing
        .iter()
        .map(|missing| (missing.id, missing.why.as_str()))
        .collect();
    let why = "did not answer, what is below it is missing: connection refused";
    assert_eq!(missing, [(3, why), (4, why)]);
    assert_eq!(picture.missing[0].name, "n3");
    assert_eq!(picture.missing[1].peer_address, "h:4");
    let seen = ids(&picture);
    assert!(seen.contains(&5) && !seen.contains(&4) && !seen.contains(&8));
}

#[test]
fn time_that_ends_leaves_a_picture_that_says_what_it_lacks() {
    let world = World::grown(200, 4);
    let mut survey = Survey::new([1, 2, 3].map(|id| (peer(id), String::new())));
    for _ in 0..5 {
        let peer = survey.next().expect("somebody is left to ask");
        survey.answered(peer.id, world.answer(peer.id).unwrap());
    }
    let waited_for = survey.next().expect("somebody is left to ask");
    let picture = survey.finish();
    assert!(picture.rows.len() < 203);
    let why = |id| {
        let mut missing = picture.missing.iter();
        missing
            .find(|missing| missing.id == id)
            .map(|missing| &missing.why)
    };
    assert!(
        why(waited_for.id)
            .unwrap()
            .contains("did not answer in time")
    );
    for missing in &picture.missing {
        assert!(missing.why.contains("in time"), "{missing:?}");
        let row = picture.rows.iter().find(|row| row.id == missing.id);
        assert_eq!(missing.name, row.map_or("", |row| &row.name));
    }
}

#[test]
fn a_listener_described_twice_is_where_its_later_word_says() {
    let mut world = World::grown(4, 2);
    let mut survey = Survey::new([2, 3].map(|id| (peer(id), String::new())));
    assert_eq!(survey.next().map(|peer| peer.id), Some(2));
    survey.answered(2, world.answer(2).unwrap());
    // 4 moves from 2 to 3 before 3 is asked, and has applied more by then.
    let moved = world.nodes.get_mut(&4).unwrap();
    (moved.upstream, moved.applied) = (Some(3), 101);
    assert_eq!(survey.next().map(|peer| peer.id), Some(3));
    survey.answered(3, world.answer(3).unwrap());
    let picture = survey.finish();
    let rows: Vec<&TreeRow> = picture.rows.iter().filter(|row| row.id == 4).collect();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].upstream, Some(3));
}

#[test]
fn a_detached_listener_is_found_through_who_let_it_go_with_all_below_it() {
    let mut world = World::grown(12, 2);
    // 4 has lost 2, and keeps 8 and 9 with what is below them (B3).
    world.nodes.get_mut(&4).unwrap().upstream = None;
    world.nodes.get_mut(&2).unwrap().former = vec![4, 77, MOVED];
    let picture = world.survey(&[1, 2, 3], 5);
    assert_eq!(ids(&picture), Vec::from_iter(1..=15));
    let depths: Vec<Option<u32>> = [4, 8, 9]
        .map(|id| picture.rows.iter().find(|row| row.id == id).unwrap().depth)
        .to_vec();
    assert_eq!(depths, [None; 3]);
    assert_eq!(picture.missing.len(), 1);
    assert_eq!(
        picture.missing[0].why,
        "went 12 s ago (the connection closed) and does not answer: connection refused"
    );
}

#[test]
fn one_who_went_and_is_seen_elsewhere_is_not_asked_again() {
    let mut world = World::grown(6, 2);
    world.nodes.get_mut(&3).unwrap().former = vec![4];
    let questions = {
        let mut world = World::grown(6, 2);
        world.survey(&[1, 2, 3], 2);
        world.questions
    };
    let picture = world.survey(&[1, 2, 3], 2);
    assert_eq!(picture.missing, []);
    assert_eq!(world.questions, questions);
}

#[test]
fn what_the_edges_of_a_path_are_behind_is_added_up() {
    // 8 hangs below 4, 16 below 8.
    let picture = World::grown(20, 2).survey(&[1, 2, 3], 1);
    let lag = |id| {
        let mut rows = picture.rows.iter();
        rows.find(|row| row.id == id).unwrap().lag.as_millis()
    };
    assert_eq!([2, 4, 5, 8, 9, 16].map(lag), [0, 30, 0, 60, 30, 60]);
}

#[test]
fn an_address_that_belongs_to_another_node_is_told() {
    let world = World::grown(2, 2);
    let mut survey = Survey::new([(peer(9), "old".to_string())]);
    survey.next().unwrap();
    survey.answered(9, world.answer(2).unwrap());
    let picture = survey.finish();
    assert_eq!(picture.rows, []);
    assert_eq!(picture.missing[0].why, "its address belongs to node 2 now");
}
