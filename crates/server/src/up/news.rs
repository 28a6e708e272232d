//! What happened, told from one status of a node to its next.

use crate::admin::proto::{Event, Role, StatusResponse};
use std::collections::BTreeMap;

/// Names of nodes by id, for people.
#[derive(Default)]
pub struct Names(BTreeMap<u64, String>);

impl Names {
    /// Remembers what a node is called.
    pub fn learn(&mut self, status: &StatusResponse) {
        self.0.insert(status.node_id, status.name.clone());
    }

    fn of(&self, id: u64) -> String {
        self.0
            .get(&id)
            .cloned()
            .unwrap_or_else(|| format!("node {id}"))
    }
}

/// What changed for a node since `before`, one line for each thing that a person wants to know.
pub fn describe(before: &StatusResponse, event: &Event, names: &Names) -> Vec<String> {
    let Some(after) = &event.status else {
        return Vec::new();
    };
    let change = change(before, after, names).map(|change| match reason(&event.tree) {
        Some(reason) if before.upstream != after.upstream => format!("{change} because {reason}"),
        _ => change,
    });
    change
        .into_iter()
        .chain(event.notices.iter().cloned())
        .map(|text| format!("{} {text}", after.name))
        .collect()
}

fn change(before: &StatusResponse, after: &StatusResponse, names: &Names) -> Option<String> {
    if before.role() != after.role() {
        return match after.role() {
            Role::Leader => Some(format!("became leader in term {}", after.term)),
            // An election is told by whoever wins it.
            Role::Follower if before.role() == Role::Candidate => None,
            Role::Follower => Some("became follower".to_string()),
            Role::Candidate => Some("hears no leader and asks for votes".to_string()),
            Role::Listener => Some("became listener".to_string()),
            Role::Unspecified => None,
        };
    }
    match (before.upstream, after.upstream) {
        (None, Some(now)) => Some(format!("attached to {}{}", names.of(now), at_depth(after))),
        (Some(was), None) => Some(format!("lost {}", names.of(was))),
        (Some(was), Some(now)) if was != now => Some(format!(
            "moved from {} to {}{}",
            names.of(was),
            names.of(now),
            at_depth(after)
        )),
        _ => None,
    }
}

/// Why the node moved, in its own words: the end of the last text that gives a reason.
fn reason(texts: &[String]) -> Option<&str> {
    texts
        .iter()
        .rev()
        .find_map(|text| text.split_once(" because "))
        .map(|(_, reason)| reason)
}

fn at_depth(status: &StatusResponse) -> String {
    status
        .depth
        .map_or(String::new(), |depth| format!(" at depth {depth}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: u64, name: &str, role: Role, upstream: Option<u64>) -> StatusResponse {
        StatusResponse {
            node_id: id,
            name: name.into(),
            role: role.into(),
            upstream,
            depth: upstream.map(|_| 1),
            term: 3,
            ..Default::default()
        }
    }

    fn told(before: StatusResponse, after: StatusResponse, tree: &[&str]) -> Vec<String> {
        let mut names = Names::default();
        names.learn(&status(1, "v1", Role::Follower, None));
        let tree = tree.iter().map(ToString::to_string).collect();
        describe(
            &before,
            &Event {
                status: Some(after),
                tree,
                notices: Vec::new(),
            },
            &names,
        )
    }

    #[test]
    fn changes_of_role_are_told() {
        let v = |role| status(1, "v1", role, None);
        assert_eq!(
            told(v(Role::Candidate), v(Role::Leader), &[]),
            ["v1 became leader in term 3"]
        );
        assert_eq!(
            told(v(Role::Leader), v(Role::Follower), &[]),
            ["v1 became follower"]
        );
        assert!(told(v(Role::Candidate), v(Role::Follower), &[]).is_empty());
        assert!(told(v(Role::Follower), v(Role::Follower), &["took on n9"]).is_empty());
    }

    #[test]
    fn changes_of_upstream_are_told_by_name_with_the_reason() {
        let l = |upstream| status(9, "l1", Role::Listener, upstream);
        assert_eq!(
            told(l(None), l(Some(1)), &[]),
            ["l1 attached to v1 at depth 1"]
        );
        assert_eq!(told(l(Some(1)), l(None), &[]), ["l1 lost v1"]);
        assert_eq!(
            told(
                l(Some(1)),
                l(Some(7)),
                &[
                    "moved from n1 to n7 because it became leader",
                    "attached at n7"
                ]
            ),
            ["l1 moved from v1 to node 7 at depth 1 because it became leader"]
        );
        assert!(told(l(Some(1)), l(Some(1)), &[]).is_empty());
    }

    #[test]
    fn notices_are_always_told() {
        let v = status(1, "v1", Role::Follower, None);
        let event = Event {
            status: Some(v.clone()),
            tree: Vec::new(),
            notices: vec!["cannot flush: disk full".into()],
        };
        assert_eq!(
            describe(&v, &event, &Names::default()),
            ["v1 cannot flush: disk full"]
        );
    }
}
