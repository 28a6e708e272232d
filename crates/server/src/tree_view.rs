//! The tree as people and programs see it: a picture in text, and rows of JSON.

use crate::admin::proto;
use crate::print::duration;
use crate::table::{Align, layout};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One node of the tree. The fields are those of `eaves tree --json`, a promise to scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub id: u64,
    pub name: String,
    pub role: Role,
    pub client_url: String,
    pub peer_url: String,
    pub upstream: Option<u64>,
    pub depth: Option<u32>,
    pub zone: String,
    pub committed: u64,
    pub applied: u64,
    pub lag_entries: u64,
    pub lag_ms: u64,
    pub registered: u32,
    pub capacity: u32,
    pub age_ms: Option<u64>,
    pub stale: bool,
    pub fed_for_ms: Option<u64>,
    pub draining: bool,
    pub pin: Option<u64>,
    pub avoids: Vec<u64>,
    pub snapshot: Option<Snapshot>,
}

/// How far a snapshot on its way to a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    pub received_bytes: u64,
    pub total_bytes: u64,
    pub installing: bool,
}

impl From<proto::SnapshotProgress> for Snapshot {
    fn from(progress: proto::SnapshotProgress) -> Snapshot {
        Snapshot {
            received_bytes: progress.received_bytes,
            total_bytes: progress.total_bytes,
            installing: progress.installing,
        }
    }
}

/// A role by the name users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Listener,
}

impl Role {
    /// The name of the role.
    pub fn name(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Listener => "listener",
        }
    }

    /// The role a message names; a role of a later version is the weakest we know.
    pub fn from_proto(role: proto::Role) -> Role {
        match role {
            proto::Role::Leader => Role::Leader,
            proto::Role::Follower => Role::Follower,
            proto::Role::Candidate => Role::Candidate,
            proto::Role::Listener | proto::Role::Unspecified => Role::Listener,
        }
    }
}

impl From<proto::TreeNode> for Row {
    fn from(node: proto::TreeNode) -> Row {
        Row {
            role: Role::from_proto(node.role()),
            id: node.id,
            name: node.name,
            client_url: node.client_url,
            peer_url: node.peer_url,
            upstream: node.upstream,
            depth: node.depth,
            zone: node.zone,
            committed: node.committed,
            applied: node.applied,
            lag_entries: node.lag_entries,
            lag_ms: node.lag_ms,
            registered: node.registered,
            capacity: node.capacity,
            age_ms: node.age_ms,
            stale: node.stale,
            fed_for_ms: node.fed_for_ms,
            draining: node.draining,
            pin: node.pin,
            avoids: node.avoids,
            snapshot: node.snapshot.map(Snapshot::from),
        }
    }
}

/// Draws the tree: the voters, the leader first, each with its listeners below it; then the listeners that hang nowhere.
///
/// Every row is drawn exactly once, whatever the rows say of one another: answers of different moments may form loops.
pub fn draw(rows: &[Row]) -> Vec<String> {
    let mut drawing = Drawing {
        rows,
        children: children(rows),
        drawn: BTreeSet::new(),
        lines: Vec::new(),
    };
    let mut roots: Vec<&Row> = rows
        .iter()
        .filter(|row| row.role != Role::Listener)
        .collect();
    roots.sort_by_key(|row| (row.role, &row.name, row.id));
    for root in roots {
        drawing.subtree(root, "", "");
    }
    let mut rest: Vec<&Row> = rows
        .iter()
        .filter(|row| row.role == Role::Listener)
        .collect();
    rest.sort_by_key(|row| (row.upstream.is_some(), &row.name, row.id));
    for row in rest {
        drawing.subtree(row, "", "? ");
    }
    let mut columns = vec![
        ("NODE", Align::Left),
        ("ROLE", Align::Left),
        ("DEPTH", Align::Right),
        ("LAG", Align::Right),
        ("AGE", Align::Right),
        ("FEEDS", Align::Right),
        ("FED FOR", Align::Right),
        ("CLIENT ADDRESS", Align::Left),
    ];
    if rows.iter().any(|row| !row.zone.is_empty()) {
        columns.push(("ZONE", Align::Left));
        for (line, row) in &mut drawing.lines {
            line.push(row.zone.clone());
        }
    }
    let names: BTreeMap<u64, &str> = rows.iter().map(|row| (row.id, row.name.as_str())).collect();
    let notes: Vec<String> = drawing
        .lines
        .iter()
        .map(|(_, row)| notes(row, &names))
        .collect();
    if notes.iter().any(|notes| !notes.is_empty()) {
        columns.push(("NOTES", Align::Left));
        for ((line, _), notes) in drawing.lines.iter_mut().zip(notes) {
            line.push(notes);
        }
    }
    let lines: Vec<Vec<String>> = drawing.lines.into_iter().map(|(line, _)| line).collect();
    layout(&columns, &lines)
}

/// The rows below each id, in the order they are drawn.
fn children(rows: &[Row]) -> BTreeMap<u64, Vec<&Row>> {
    let mut children: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        if let Some(upstream) = row.upstream {
            children.entry(upstream).or_default().push(row);
        }
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|row| (&row.name, row.id));
    }
    children
}

struct Drawing<'a> {
    rows: &'a [Row],
    children: BTreeMap<u64, Vec<&'a Row>>,
    drawn: BTreeSet<u64>,
    lines: Vec<(Vec<String>, &'a Row)>,
}

impl<'a> Drawing<'a> {
    /// Draws a node and what hangs below it. `indent` stands before the lines of its children, `branch` before its own name.
    fn subtree(&mut self, row: &'a Row, indent: &str, branch: &str) {
        if !self.drawn.insert(row.id) {
            return;
        }
        self.lines
            .push((cells(row, &format!("{indent}{branch}")), row));
        let below = match branch {
            "├─ " => format!("{indent}│  "),
            "└─ " => format!("{indent}   "),
            _ => indent.to_string(),
        };
        let children = self.children.get(&row.id).cloned().unwrap_or_default();
        let children: Vec<&Row> = children
            .into_iter()
            .filter(|child| !self.drawn.contains(&child.id))
            .collect();
        for (position, child) in children.iter().enumerate() {
            let last = position + 1 == children.len();
            self.subtree(child, &below, if last { "└─ " } else { "├─ " });
        }
        debug_assert!(
            self.lines.len() <= self.rows.len(),
            "each row is drawn once"
        );
    }
}

fn cells(row: &Row, before_name: &str) -> Vec<String> {
    let name = if row.name.is_empty() {
        row.id.to_string()
    } else {
        row.name.clone()
    };
    let feeds = match row.role {
        // S1: the leader never feeds a listener.
        Role::Leader => "-".to_string(),
        _ => format!("{}/{}", row.registered, row.capacity),
    };
    vec![
        format!("{before_name}{name}"),
        row.role.name().to_string(),
        row.depth.map_or("-".to_string(), |depth| depth.to_string()),
        lag(row),
        span(row.age_ms),
        feeds,
        span(row.fed_for_ms),
        row.client_url.trim_start_matches("http://").to_string(),
    ]
}

/// In entries, and in time if it is behind.
fn lag(row: &Row) -> String {
    match row.lag_ms {
        0 => row.lag_entries.to_string(),
        _ => format!("{} ({})", row.lag_entries, span(Some(row.lag_ms))),
    }
}

fn span(milliseconds: Option<u64>) -> String {
    let told = milliseconds.map(|milliseconds| duration(Duration::from_millis(milliseconds)));
    told.unwrap_or_else(|| "-".into())
}

/// What is out of the ordinary with a node.
fn notes(row: &Row, names: &BTreeMap<u64, &str>) -> String {
    let name = |id: u64| match names.get(&id) {
        Some(name) if !name.is_empty() => name.to_string(),
        _ => id.to_string(),
    };
    let mut notes = Vec::new();
    match row.upstream {
        None if row.role == Role::Listener => notes.push("hangs nowhere".to_string()),
        Some(upstream) if !names.contains_key(&upstream) => {
            notes.push(format!("below node {upstream}, which is not seen"))
        }
        Some(_) if row.depth.is_none() => notes.push("detached".to_string()),
        _ => {}
    }
    if let Some(snapshot) = row.snapshot {
        notes.push(match (snapshot.installing, snapshot.total_bytes) {
            (true, _) => "installs a snapshot".to_string(),
            (false, 0) => "gets a snapshot".to_string(),
            (false, total) => {
                // Never 100 before all is there.
                let percent = u128::from(snapshot.received_bytes) * 100 / u128::from(total);
                format!("gets a snapshot, {percent} %")
            }
        });
    }
    if row.stale {
        notes.push("stale".to_string());
    }
    if row.draining {
        notes.push("draining".to_string());
    }
    if let Some(pin) = row.pin {
        notes.push(format!("pinned to {}", name(pin)));
    }
    if !row.avoids.is_empty() {
        let avoided: Vec<String> = row.avoids.iter().map(|id| name(*id)).collect();
        notes.push(format!("avoids {}", avoided.join(" ")));
    }
    notes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64, name: &str, role: Role, upstream: Option<u64>, depth: Option<u32>) -> Row {
        Row {
            id,
            name: name.into(),
            role,
            client_url: format!("http://127.0.0.1:{id}"),
            peer_url: String::new(),
            upstream,
            depth,
            zone: String::new(),
            committed: 7,
            applied: 7,
            lag_entries: 0,
            lag_ms: 0,
            registered: 1,
            capacity: 2,
            age_ms: Some(12),
            stale: false,
            fed_for_ms: upstream.map(|_| 61_000),
            draining: false,
            pin: None,
            avoids: Vec::new(),
            snapshot: None,
        }
    }

    #[test]
    fn draws_voters_then_their_listeners_then_the_lost() {
        let rows = [
            row(31, "l3", Role::Listener, Some(11), Some(2)),
            row(1, "v1", Role::Follower, None, Some(0)),
            row(2, "v2", Role::Leader, None, Some(0)),
            row(11, "l1", Role::Listener, Some(1), Some(1)),
            row(12, "l2", Role::Listener, Some(1), Some(1)),
            row(13, "l9", Role::Listener, None, None),
        ];
        assert_eq!(
            draw(&rows),
            [
                "NODE      ROLE      DEPTH  LAG    AGE  FEEDS  FED FOR  CLIENT ADDRESS  NOTES",
                "v2        leader        0    0  12 ms      -        -  127.0.0.1:2",
                "v1        follower      0    0  12 ms    1/2        -  127.0.0.1:1",
                "├─ l1     listener      1    0  12 ms    1/2  1 m 1 s  127.0.0.1:11",
                "│  └─ l3  listener      2    0  12 ms    1/2  1 m 1 s  127.0.0.1:31",
                "└─ l2     listener      1    0  12 ms    1/2  1 m 1 s  127.0.0.1:12",
                "? l9      listener      -    0  12 ms    1/2        -  127.0.0.1:13    hangs nowhere",
            ]
        );
    }

    #[test]
    fn a_loop_of_stale_answers_is_drawn_once() {
        let rows = [
            row(1, "a", Role::Listener, Some(2), Some(1)),
            row(2, "b", Role::Listener, Some(1), Some(2)),
            row(3, "c", Role::Listener, Some(99), Some(1)),
        ];
        assert_eq!(draw(&rows).len(), 1 + rows.len());
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_noted() {
        let note = |change: &dyn Fn(&mut Row)| {
            let mut listener = row(11, "l1", Role::Listener, Some(1), Some(1));
            change(&mut listener);
            notes(&listener, &BTreeMap::from([(1, "v1"), (2, "")]))
        };
        assert_eq!(note(&|_| {}), "");
        assert_eq!(
            note(&|row| row.upstream = Some(7)),
            "below node 7, which is not seen"
        );
        assert_eq!(note(&|row| row.depth = None), "detached");
        let steered = |row: &mut Row| {
            row.draining = true;
            row.pin = Some(1);
            row.avoids = vec![2, 9];
        };
        assert_eq!(note(&steered), "draining, pinned to v1, avoids 2 9");
        let snapshot = |received_bytes, total_bytes, installing| {
            note(&|row| {
                row.snapshot = Some(Snapshot {
                    received_bytes,
                    total_bytes,
                    installing,
                })
            })
        };
        assert_eq!(snapshot(1, 0, false), "gets a snapshot");
        assert_eq!(snapshot(999, 1000, false), "gets a snapshot, 99 %");
        assert_eq!(snapshot(1000, 1000, true), "installs a snapshot");
    }

    #[test]
    fn who_is_behind_is_told_in_entries_and_in_time() {
        let mut behind = row(11, "l1", Role::Listener, Some(1), Some(1));
        (behind.lag_entries, behind.lag_ms) = (40, 1_500);
        assert!(draw(&[behind])[1].contains(" 40 (1.5 s) "));
    }

    #[test]
    fn ten_thousand_rows_are_drawn_once_each() {
        let mut rows = vec![row(1, "v1", Role::Leader, None, Some(0))];
        rows.extend((2..4).map(|id| row(id, "v", Role::Follower, None, Some(0))));
        rows.extend((4..10_001).map(|id| {
            let upstream = 2 + (id - 4) / 32;
            row(
                id,
                &format!("l{id}"),
                Role::Listener,
                Some(upstream),
                Some(1),
            )
        }));
        let lines = draw(&rows);
        assert_eq!(lines.len(), 1 + rows.len());
        for id in [4, 77, 9_999, 10_000] {
            let name = format!(" l{id} ");
            assert_eq!(lines.iter().filter(|line| line.contains(&name)).count(), 1);
        }
    }

    #[test]
    fn the_json_has_the_promised_fields() {
        let mut detached = row(5, "l1", Role::Listener, None, None);
        detached.zone = "eu".into();
        let expected = r#"{"id":5,"name":"l1","role":"listener","client_url":"http://127.0.0.1:5","peer_url":"","upstream":null,"#
            .to_string()
            + r#""depth":null,"zone":"eu","committed":7,"applied":7,"lag_entries":0,"lag_ms":0,"registered":1,"capacity":2,"age_ms":12,"#
            + r#""stale":false,"fed_for_ms":null,"draining":false,"pin":null,"avoids":[],"snapshot":null}"#;
        assert_eq!(serde_json::to_string(&detached).unwrap(), expected);
    }
}
