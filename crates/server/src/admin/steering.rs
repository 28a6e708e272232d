//! The part of the admin service that shows and steers the tree: the library's answers as messages.

use super::proto::{
    Candidate, Choice, DrainProgress, GroupForecast, MissingNode, Move, SteerResponse, Succession,
    Target, TreeNode, TreeResponse, WhatIfResponse, WhyResponse,
};
use super::{role, snapshot};
use eaves::{Account, Forecast, LastChoice, Node, SteerError, Steered, TreePicture, TreeRow};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Code, Response, Status};

/// Nodes in one message: a few hundred KiB with names as long as anybody gives, far below the 4 MiB that gRPC clients take.
const PAGE_NODES: usize = 500;

/// How often a node that is being drained is looked at.
const DRAIN_PAUSE: Duration = Duration::from_millis(200);

/// The messages of a picture of the tree.
pub type Pages = tokio_stream::Iter<std::vec::IntoIter<Result<TreeResponse, Status>>>;

/// Cuts a picture into messages; at least one.
pub fn pages(picture: TreePicture) -> Pages {
    let mut rows = picture.rows.into_iter().map(tree_node);
    let mut missing = picture.missing.into_iter().map(|missing| MissingNode {
        id: missing.id,
        name: missing.name,
        address: missing.peer_address,
        why: missing.why,
    });
    let mut pages = Vec::new();
    loop {
        let page = TreeResponse {
            nodes: rows.by_ref().take(PAGE_NODES).collect(),
            // Only behind the last node.
            missing: match rows.len() {
                0 => missing.by_ref().take(PAGE_NODES).collect(),
                _ => Vec::new(),
            },
        };
        pages.push(Ok(page));
        if rows.len() + missing.len() == 0 {
            break;
        }
    }
    tokio_stream::iter(pages)
}

/// A node of the tree as a message.
pub fn tree_node(row: TreeRow) -> TreeNode {
    TreeNode {
        id: row.id,
        name: row.name,
        role: role(row.role).into(),
        client_url: row.client_url,
        peer_url: row.peer_url,
        upstream: row.upstream,
        depth: row.depth,
        zone: row.zone,
        committed: row.committed,
        applied: row.applied,
        lag_entries: row.lag_entries,
        lag_ms: milliseconds(row.lag),
        registered: row.registered,
        capacity: row.capacity,
        age_ms: row.age.map(milliseconds),
        stale: row.stale,
        fed_for_ms: row.fed_for.map(milliseconds),
        draining: row.draining,
        pin: row.pin,
        avoids: row.avoids,
        snapshot: row.snapshot.map(snapshot),
    }
}

/// What came of a command.
pub fn steered(result: Result<Steered, SteerError>) -> Result<Response<SteerResponse>, Status> {
    let Steered { node, said } = result.map_err(status)?;
    Ok(Response::new(SteerResponse {
        node: Some(tree_node(node)),
        said,
    }))
}

/// An error by what its reader does next.
pub fn status(error: SteerError) -> Status {
    let code = match error {
        SteerError::Unknown(_) => Code::NotFound,
        SteerError::Refused(_) => Code::FailedPrecondition,
        SteerError::Unreachable(_) => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

/// Drains a node, and tells how many listeners are left until none is or nobody listens. The node goes on without us.
pub async fn drain(
    node: Node,
    name: String,
    progress: mpsc::Sender<Result<DrainProgress, Status>>,
) {
    let mut drain = match node.steer().drain(&name).await {
        Ok(drain) => drain,
        // Who does not listen any more needs no answer.
        Err(error) => return drop(progress.send(Err(status(error))).await),
    };
    let mut told = None;
    loop {
        if told != Some(drain.left) {
            told = Some(drain.left);
            let step = DrainProgress {
                node: Some(tree_node(drain.node.clone())),
                left: drain.left,
                warning: drain.warning.take().unwrap_or_default(),
            };
            if progress.send(Ok(step)).await.is_err() {
                return;
            }
        }
        if drain.left == 0 || progress.is_closed() {
            return;
        }
        tokio::time::sleep(DRAIN_PAUSE).await;
        if let Err(error) = drain.look().await {
            return drop(progress.send(Err(status(error))).await);
        }
    }
}

/// Why a node hangs where it hangs.
pub fn why_response(account: Account) -> WhyResponse {
    WhyResponse {
        node: Some(tree_node(account.node)),
        upstream_name: account.upstream_name,
        pinned_to: account.pinned_to,
        avoids: account.avoids,
        choice: account.choice.map(choice),
        look: account.look.map(choice),
        upstream_list: account.upstream_list,
        learned: account.learned,
    }
}

fn choice(choice: LastChoice) -> Choice {
    let candidates = choice.candidates.into_iter();
    Choice {
        why: choice.why,
        ago_ms: milliseconds(choice.ago),
        candidates: candidates
            .map(|candidate| Candidate {
                id: candidate.id,
                name: candidate.name,
                address: candidate.address,
                depth: candidate.depth,
                accepted: candidate.accepted,
                verdict: candidate.verdict,
            })
            .collect(),
    }
}

/// What would become of the tree.
pub fn what_if_response(forecast: Forecast) -> WhatIfResponse {
    let successors = forecast.successors.into_iter();
    WhatIfResponse {
        node: Some(tree_node(forecast.node)),
        group: forecast.group.map(|group| GroupForecast {
            voters: group.voters,
            left: group.left,
            needed: group.needed,
            goes_on: group.goes_on,
        }),
        moves: moves(forecast.moves),
        successors: successors
            .map(|succession| Succession {
                leader: succession.leader,
                name: succession.name,
                moves: moves(succession.moves),
            })
            .collect(),
    }
}

fn moves(moves: Vec<eaves::Move>) -> Vec<Move> {
    let message = |one: eaves::Move| Move {
        listener: one.listener,
        name: one.name,
        along: one.along,
        to: one.to.map(|to| Target {
            id: to.id,
            name: to.name,
            depth: to.depth,
            other_zone: to.other_zone,
            equals: to.equals,
        }),
    };
    moves.into_iter().map(message).collect()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves::{Missing, Role};
    use prost::Message;
    use tokio_stream::StreamExt;

    fn row(id: u64) -> TreeRow {
        TreeRow {
            id,
            name: format!("listener-{id}.rack-7.zone-b.example.org"),
            role: Role::Listener,
            client_url: format!("http://listener-{id}.rack-7.zone-b.example.org:2379"),
            peer_url: format!("http://listener-{id}.rack-7.zone-b.example.org:2380"),
            upstream: Some(id / 32),
            depth: Some(3),
            zone: "zone-b".into(),
            committed: u64::MAX,
            applied: u64::MAX,
            lag_entries: 0,
            lag: Duration::ZERO,
            registered: 32,
            capacity: 32,
            age: Some(Duration::from_secs(1)),
            stale: false,
            fed_for: Some(Duration::from_secs(100_000)),
            draining: true,
            pin: Some(u64::MAX),
            avoids: vec![u64::MAX; 3],
            snapshot: None,
        }
    }

    #[tokio::test]
    async fn ten_thousand_nodes_come_in_messages_that_every_client_takes() {
        let picture = TreePicture {
            rows: (0..10_000).map(row).collect(),
            missing: (0..700)
                .map(|id| Missing {
                    id,
                    name: String::new(),
                    peer_address: "h:1".into(),
                    why: "did not answer".into(),
                })
                .collect(),
        };
        let pages: Vec<TreeResponse> = pages(picture).map(Result::unwrap).collect().await;
        assert!(pages.iter().all(|page| page.encoded_len() < 1 << 20));
        let ids: Vec<u64> = pages
            .iter()
            .flat_map(|page| &page.nodes)
            .map(|node| node.id)
            .collect();
        assert_eq!(ids, Vec::from_iter(0..10_000));
        assert_eq!(
            pages.iter().map(|page| page.missing.len()).sum::<usize>(),
            700
        );
    }

    #[tokio::test]
    async fn an_empty_picture_is_one_message() {
        assert_eq!(
            pages(TreePicture::default())
                .collect::<Vec<_>>()
                .await
                .len(),
            1
        );
    }
}
