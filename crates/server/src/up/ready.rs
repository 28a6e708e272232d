//! When a group counts as ready: every voter knows the leader, every listener has an upstream; and when its tree is whole.

use super::child::last_line;
use super::directory::Directory;
use super::layout::PlannedNode;
use crate::admin::proto::admin_client::AdminClient;
use crate::admin::proto::{Role, StatusRequest, StatusResponse};
use crate::client::Client;
use crate::commands::tree;
use crate::failure::{Failure, Outcome};
use crate::tree_view::Row;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// After this long something is wrong that time does not cure.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A tree that has not settled after this long is shown as it is.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait before a node is asked again.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits until every node is ready, with a progress bar on standard error if that is a terminal.
pub async fn wait(nodes: &[PlannedNode], directory: &Directory) -> Outcome {
    let mut waiting: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let bar = progress_bar(nodes.len());
    let mut ready: FuturesUnordered<_> = nodes.iter().map(until_ready).collect();
    let all = async {
        while let Some(name) = ready.next().await {
            waiting.remove(name);
            bar.inc(1);
        }
    };
    let in_time = timeout(READY_TIMEOUT, all).await.is_ok();
    bar.finish_and_clear();
    if in_time {
        return Ok(());
    }
    let first = waiting.first().expect("somebody was waited for");
    let log = directory.log_of(first);
    let said = last_line(&log).unwrap_or_else(|| "nothing".to_string());
    Err(Failure::failed(format!(
        "not ready within {} s: {}; the last that {first} said: {said}; see {}",
        READY_TIMEOUT.as_secs(),
        waiting.iter().copied().collect::<Vec<_>>().join(", "),
        log.display()
    )))
}

/// The tree, once every node has its place in it: an election may move listeners that were ready a moment ago.
pub async fn whole_tree(client: &Client, nodes: &[PlannedNode]) -> Outcome<Vec<Row>> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let rows = tree::rows(client).await?;
        let has_place = |node: &PlannedNode| {
            let mut placed = rows.iter().filter(|row| row.depth.is_some() && !row.stale);
            placed.any(|row| row.name == node.name)
        };
        if nodes.iter().all(has_place) || Instant::now() >= deadline {
            return Ok(rows);
        }
        sleep(ASK_PAUSE).await;
    }
}

async fn until_ready(node: &PlannedNode) -> &str {
    let client = Client::of(vec![node.client.clone()], ANSWER_TIMEOUT);
    loop {
        let call = async |channel| AdminClient::new(channel).status(StatusRequest {}).await;
        match client.read("ask for the status", call).await {
            Ok(answer) if is_ready(answer.get_ref()) => return &node.name,
            _ => sleep(ASK_PAUSE).await,
        }
    }
}

/// Goes by what the node says it is: since it was planned it may have been promoted or demoted.
fn is_ready(status: &StatusResponse) -> bool {
    match status.role() {
        Role::Leader | Role::Follower => status.leader.is_some(),
        Role::Listener => status.upstream.is_some() && status.depth.is_some(),
        Role::Candidate | Role::Unspecified => false,
    }
}

fn progress_bar(nodes: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {pos} of {len} nodes are ready")
        .expect("the template of the progress bar is well formed");
    let bar = ProgressBar::new(nodes as u64).with_style(style);
    bar.enable_steady_tick(ASK_PAUSE);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_is_ready_with_a_leader_and_a_listener_with_an_upstream() {
        let status = |role: Role, leader, upstream: Option<u64>| StatusResponse {
            role: role.into(),
            leader,
            upstream,
            depth: upstream.map(|_| 1),
            ..Default::default()
        };
        assert!(is_ready(&status(Role::Follower, Some(1), None)));
        assert!(!is_ready(&status(Role::Follower, None, None)));
        assert!(!is_ready(&status(Role::Candidate, Some(1), None)));
        assert!(is_ready(&status(Role::Listener, None, Some(2))));
        assert!(!is_ready(&status(Role::Listener, Some(1), None)));
    }
}
