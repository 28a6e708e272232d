//! What would become of the tree if a node went down: a prediction from its present picture, by the protocol's own order (B15).
//!
//! Pure: rows in, prediction out. It plays what the protocol would do. Those whom the node feeds are left with all that hangs below
//! them (B3), and one after the other each takes the best free place in the order of S8 and B6, where it is not below itself (B1), its
//! pin before all others and an avoided node never (B16). A place that one takes is no longer free for the next, and the subtree it
//! brings along may have free places for others.
//!
//! Why it is a prediction and no promise: the picture is some seconds old; who of several asks first, and which of equally good places it
//! takes, is chance; a listener asks the servers it knows and those they name, and may not hear of the best place at once. Then it finds
//! a worse one first and moves later (B7).

use crate::status::{Role, TreePicture, TreeRow};
use std::collections::{BTreeMap, BTreeSet};

/// Longer chains are not followed: rows of different moments may form a loop.
const DEPTH_MAX: u32 = 64;

/// What would happen if a node went down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// The node.
    pub node: TreeRow,
    /// What it would mean for the group, if the node is a voter.
    pub group: Option<GroupForecast>,
    /// Where the listeners that it feeds would go.
    pub moves: Vec<Move>,
    /// If the node leads: who might lead then, and where the listeners would go that a new leader kicks off (S10).
    pub successors: Vec<Succession>,
}

/// What the loss of a voter would mean for its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupForecast {
    /// How many voters there are.
    pub voters: u32,
    /// How many of them would be left, counting only those that answered now.
    pub left: u32,
    /// How many are needed to elect a leader and to commit.
    pub needed: u32,
    /// Whether those that would be left are enough, in both sets of voters while a change of membership is under way.
    pub goes_on: bool,
}

/// A listener that would need another upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The listener.
    pub listener: u64,
    /// Its name.
    pub name: String,
    /// How many hang below it and would move along.
    pub along: u32,
    /// Where it would go; `None` if nobody has a place for it.
    pub to: Option<Target>,
}

/// Where a listener would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The new upstream.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The listener's depth then.
    pub depth: u32,
    /// Whether the new upstream is in another zone than the listener.
    pub other_zone: bool,
    /// How many nodes, this one included, are equally good.
    pub equals: u32,
}

/// A voter that might lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// Its id.
    pub leader: u64,
    /// Its name.
    pub name: String,
    /// Where the listeners would go that it feeds now.
    pub moves: Vec<Move>,
}

/// Predicts what happens when `node` goes down. `voter_sets` are the group's, two of them while its membership changes. `None` if the
/// picture does not show the node.
pub(crate) fn what_if_down(
    picture: &TreePicture,
    voter_sets: &[BTreeSet<u64>],
    node: u64,
) -> Option<Forecast> {
    let down = picture.rows.iter().find(|row| row.id == node)?;
    let group = (down.role != Role::Listener).then(|| group(picture, voter_sets, node));
    let successors = match (&group, down.role) {
        (Some(group), Role::Leader) if group.goes_on => picture
            .rows
            .iter()
            .filter(|row| matches!(row.role, Role::Follower | Role::Candidate))
            .map(|row| Succession {
                leader: row.id,
                name: row.name.clone(),
                moves: moves(picture, &[node, row.id]),
            })
            .collect(),
        _ => Vec::new(),
    };
    Some(Forecast {
        node: down.clone(),
        group,
        moves: moves(picture, &[node]),
        successors,
    })
}

fn group(picture: &TreePicture, voter_sets: &[BTreeSet<u64>], node: u64) -> GroupForecast {
    let answer = |id: &&u64| {
        let voter = picture.rows.iter().find(|row| row.id == **id);
        **id != node && voter.is_some_and(|row| row.role != Role::Listener)
    };
    let all: BTreeSet<u64> = voter_sets.iter().flatten().copied().collect();
    let enough = |set: &BTreeSet<u64>| set.iter().filter(answer).count() > set.len() / 2;
    GroupForecast {
        voters: all.len() as u32,
        left: all.iter().filter(answer).count() as u32,
        needed: all.len() as u32 / 2 + 1,
        goes_on: voter_sets.iter().all(enough),
    }
}

/// Where the listeners would go that hang directly below `gone`, which feed nobody any more.
fn moves(picture: &TreePicture, gone: &[u64]) -> Vec<Move> {
    let mut play = Play::new(picture, gone);
    let mut orphans: Vec<&TreeRow> = picture
        .rows
        .iter()
        .filter(|row| {
            // One that is just becoming a voter may still show its upstream.
            row.role == Role::Listener
                && row
                    .upstream
                    .is_some_and(|upstream| gone.contains(&upstream))
        })
        .collect();
    orphans.sort_by_key(|row| (&row.name, row.id));
    for orphan in &orphans {
        play.upstream.remove(&orphan.id);
    }
    orphans
        .into_iter()
        .map(|orphan| Move {
            listener: orphan.id,
            name: orphan.name.clone(),
            along: play.count_below(orphan.id),
            to: play.place(orphan),
        })
        .collect()
}

/// The tree while it is being played.
struct Play<'a> {
    rows: BTreeMap<u64, &'a TreeRow>,
    gone: &'a [u64],
    upstream: BTreeMap<u64, u64>,
    registered: BTreeMap<u64, u32>,
}

impl<'a> Play<'a> {
    fn new(picture: &'a TreePicture, gone: &'a [u64]) -> Play<'a> {
        let rows = picture.rows.iter();
        let mut registered: BTreeMap<u64, u32> =
            rows.clone().map(|row| (row.id, row.registered)).collect();
        // Who goes down leaves its own place free.
        for row in rows.clone().filter(|row| gone.contains(&row.id)) {
            if let Some(taken) = row
                .upstream
                .and_then(|upstream| registered.get_mut(&upstream))
            {
                *taken = taken.saturating_sub(1);
            }
        }
        Play {
            rows: rows.clone().map(|row| (row.id, row)).collect(),
            gone,
            upstream: rows
                .filter_map(|row| Some((row.id, row.upstream?)))
                .collect(),
            registered,
        }
    }

    /// Gives a listener the best free place, if there is one.
    fn place(&mut self, orphan: &TreeRow) -> Option<Target> {
        let mut best: Vec<(&TreeRow, u32)> = Vec::new();
        let mut best_rank = None;
        for row in self.rows.values() {
            let Some(depth) = self.free_depth(row, orphan) else {
                continue;
            };
            let other_zone = is_other_zone(orphan, row);
            let rank = (
                orphan.pin != Some(row.id),
                row.stale,
                depth + u32::from(other_zone),
                other_zone,
            );
            if best_rank.is_none_or(|best| rank < best) {
                best.clear();
                best_rank = Some(rank);
            }
            if best_rank == Some(rank) {
                best.push((row, depth));
            }
        }
        // Which of them is chance; the emptiest shows best how a crowd spreads.
        let equals = best.len() as u32;
        let emptiest = |(row, _): &(&TreeRow, u32)| {
            (
                row.capacity - self.registered[&row.id],
                std::cmp::Reverse(row.id),
            )
        };
        let (upstream, depth) = best.into_iter().max_by_key(emptiest)?;
        self.upstream.insert(orphan.id, upstream.id);
        *self.registered.entry(upstream.id).or_default() += 1;
        Some(Target {
            id: upstream.id,
            name: upstream.name.clone(),
            depth: depth + 1,
            other_zone: is_other_zone(orphan, upstream),
            equals,
        })
    }

    /// The depth of a node that would take this listener now (S8, B1, B16).
    fn free_depth(&self, row: &TreeRow, orphan: &TreeRow) -> Option<u32> {
        let takes = row.role != Role::Leader
            && !row.draining
            && self.registered[&row.id] < row.capacity
            && !orphan.avoids.contains(&row.id);
        if takes { self.depth(row.id) } else { None }
    }

    /// The depth of a node as things stand in the play; `None` if it is gone or detached.
    fn depth(&self, id: u64) -> Option<u32> {
        let mut at = id;
        for depth in 0..DEPTH_MAX {
            if self.gone.contains(&at) {
                return None;
            }
            match self.upstream.get(&at) {
                Some(upstream) => at = *upstream,
                None => {
                    let head = self.rows.get(&at)?;
                    return (head.role != Role::Listener).then_some(depth);
                }
            }
        }
        None
    }

    fn count_below(&self, id: u64) -> u32 {
        let is_below = |below: &&u64| {
            let mut at = **below;
            for _ in 0..DEPTH_MAX {
                match self.upstream.get(&at) {
                    Some(upstream) if *upstream == id => return true,
                    Some(upstream) => at = *upstream,
                    None => return false,
                }
            }
            false
        };
        self.rows.keys().filter(is_below).count() as u32
    }
}

/// B6: a listener without a zone has no preference.
fn is_other_zone(listener: &TreeRow, upstream: &TreeRow) -> bool {
    !listener.zone.is_empty() && listener.zone != upstream.zone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64, role: Role, upstream: Option<u64>, registered: u32, capacity: u32) -> TreeRow {
        TreeRow {
            id,
            name: format!("n{id}"),
            role,
            client_url: String::new(),
            peer_url: String::new(),
            upstream,
            depth: None,
            zone: String::new(),
            committed: 0,
            applied: 0,
            lag_entries: 0,
            lag: std::time::Duration::ZERO,
            registered,
            capacity,
            age: None,
            stale: false,
            fed_for: None,
            draining: false,
            pin: None,
            avoids: Vec::new(),
            snapshot: None,
        }
    }

    fn leader(id: u64) -> TreeRow {
        row(id, Role::Leader, None, 0, 2)
    }

    fn voter(id: u64, registered: u32) -> TreeRow {
        row(id, Role::Follower, None, registered, 2)
    }

    fn listener(id: u64, upstream: u64, registered: u32) -> TreeRow {
        row(id, Role::Listener, Some(upstream), registered, 2)
    }

    fn forecast(rows: &[TreeRow], node: u64) -> Forecast {
        let voters = rows.iter().filter(|row| row.role != Role::Listener);
        let voters = BTreeSet::from_iter(voters.map(|row| row.id));
        let picture = TreePicture {
            rows: rows.to_vec(),
            missing: Vec::new(),
        };
        what_if_down(&picture, &[voters], node).expect("the node is in the picture")
    }

    /// `listener -> upstream at depth`, or `-> nobody`.
    fn told(moves: &[Move]) -> Vec<String> {
        let line = |one: &Move| match &one.to {
            Some(to) => format!("{} -> {} at {}", one.listener, to.id, to.depth),
            None => format!("{} -> nobody", one.listener),
        };
        moves.iter().map(line).collect()
    }

    /// 1 leads; 2 feeds 10 and 11, 3 feeds 12; 10 feeds 20.
    fn small() -> Vec<TreeRow> {
        vec![
            leader(1),
            voter(2, 2),
            voter(3, 1),
            listener(10, 2, 1),
            listener(11, 2, 0),
            listener(12, 3, 0),
            listener(20, 10, 0),
        ]
    }

    /// Found by the fuzzer: it would have moved to itself.
    #[test]
    fn one_that_is_just_becoming_a_voter_moves_nowhere() {
        let mut rows = small();
        rows[4].role = Role::Follower;
        assert_eq!(told(&forecast(&rows, 2).moves), ["10 -> 3 at 1"]);
    }

    #[test]
    fn the_downstreams_take_the_nearest_free_places_one_after_the_other() {
        let forecast = forecast(&small(), 2);
        // One slot is free at 3; then 11 goes one deeper: 10 with one free slot, 12 with two.
        assert_eq!(told(&forecast.moves), ["10 -> 3 at 1", "11 -> 12 at 2"]);
        assert_eq!(forecast.moves[0].along, 1);
        assert_eq!(forecast.moves[1].to.as_ref().unwrap().equals, 2);
        assert_eq!(forecast.successors, []);
    }

    #[test]
    fn a_listener_that_feeds_nobody_moves_nobody() {
        let forecast = forecast(&small(), 20);
        assert_eq!((forecast.moves, forecast.group), (vec![], None));
    }

    #[test]
    fn nobody_goes_below_itself_and_who_finds_no_place_is_said() {
        let rows = [
            leader(1),
            row(2, Role::Follower, None, 1, 1),
            row(3, Role::Follower, None, 0, 0),
            listener(10, 2, 1),
            listener(20, 10, 0),
        ];
        assert_eq!(told(&forecast(&rows, 2).moves), ["10 -> nobody"]);
        assert_eq!(told(&forecast(&rows, 10).moves), ["20 -> 2 at 1"]);
    }

    #[test]
    fn zones_drains_staleness_pins_and_avoidance_count() {
        let base = || {
            vec![
                leader(1),
                voter(2, 1),
                voter(3, 0),
                voter(4, 0),
                listener(10, 2, 0),
            ]
        };
        let of = |change: &dyn Fn(&mut Vec<TreeRow>)| {
            let mut rows = base();
            change(&mut rows);
            told(&forecast(&rows, 2).moves)
        };
        assert_eq!(of(&|_| {}), ["10 -> 3 at 1"]);
        assert_eq!(of(&|rows| rows[2].draining = true), ["10 -> 4 at 1"]);
        assert_eq!(of(&|rows| rows[2].stale = true), ["10 -> 4 at 1"]);
        assert_eq!(of(&|rows| rows[4].avoids = vec![3]), ["10 -> 4 at 1"]);
        assert_eq!(of(&|rows| rows[4].pin = Some(4)), ["10 -> 4 at 1"]);
        assert_eq!(of(&|rows| rows[4].avoids = vec![3, 4]), ["10 -> nobody"]);
        let zones = |rows: &mut Vec<TreeRow>| {
            rows[3].zone = "a".into();
            rows[4].zone = "a".into();
        };
        assert_eq!(of(&zones), ["10 -> 4 at 1"]);
    }

    #[test]
    fn a_leader_that_goes_down_is_followed_by_one_who_kicks_its_listeners() {
        let forecast = forecast(&small(), 1);
        assert_eq!(forecast.moves, []);
        let group = forecast.group.unwrap();
        assert_eq!((group.voters, group.left, group.needed), (3, 2, 2));
        assert!(group.goes_on);
        let told: Vec<_> = forecast
            .successors
            .iter()
            .map(|next| (next.leader, told(&next.moves)))
            .collect();
        assert_eq!(
            told,
            [
                (2, vec!["10 -> 3 at 1".to_string(), "11 -> 12 at 2".into()]),
                (3, vec!["12 -> 11 at 2".to_string()]),
            ]
        );
    }

    #[test]
    fn a_group_that_would_lose_its_quorum_is_told_so() {
        let rows = [leader(1), voter(2, 1), listener(10, 2, 0)];
        let forecast = forecast(&rows, 1);
        let group = forecast.group.unwrap();
        assert!(!group.goes_on);
        assert_eq!((group.left, group.needed), (1, 2));
        assert_eq!(forecast.successors, [], "nobody can be elected");
    }

    #[test]
    fn a_voter_that_does_not_answer_now_is_not_counted_on() {
        let picture = TreePicture {
            rows: vec![leader(1), voter(2, 0)],
            missing: Vec::new(),
        };
        let voters = BTreeSet::from([1, 2, 3]);
        let forecast = what_if_down(&picture, &[voters], 2).unwrap();
        assert!(!forecast.group.unwrap().goes_on);
        assert_eq!(what_if_down(&picture, &[], 77), None);
    }

    #[test]
    fn rows_of_different_moments_that_form_a_loop_do_no_harm() {
        let rows = [
            leader(1),
            voter(2, 1),
            listener(10, 11, 1),
            listener(11, 10, 1),
        ];
        assert_eq!(told(&forecast(&rows, 10).moves), ["11 -> 2 at 1"]);
    }

    #[test]
    fn ten_thousand_rows_are_played_soon_enough_to_be_waited_for() {
        let mut rows = vec![leader(1), row(2, Role::Follower, None, 32, 32)];
        rows.push(row(3, Role::Follower, None, 32, 32));
        for id in 4..10_000 {
            let upstream = 2 + (id - 4) / 32;
            rows.push(row(id, Role::Listener, Some(upstream), 32, 32));
        }
        for row in &mut rows[400..] {
            row.registered = 0;
        }
        let forecast = forecast(&rows, 2);
        assert_eq!(forecast.moves.len(), 32);
        assert!(forecast.moves.iter().all(|one| one.to.is_some()));
    }
}
