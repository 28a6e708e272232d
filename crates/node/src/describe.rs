//! The whole tree, from any node (B15): answers what a survey asks, and conducts one over the network.

use crate::core::Core;
use crate::edges;
use crate::message::{Call, DescribeCall, PeerAtBytes, Reply, RowBytes, Rows, SnapshotBytes};
use crate::status::TreePicture;
use crate::survey::{ASKED_AT_ONCE, Survey};
use crate::tree_handle::{Inspection, PeerAt};
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long one node is given for its own row and those of its downstreams: three round trips to it and three to them, far apart.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// The longest that a peer may make this node wait for others.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// Surveys the tree for at most `timeout`.
pub(crate) async fn survey(core: &Arc<Core>, timeout: Duration) -> TreePicture {
    let deadline = Instant::now() + timeout;
    let mut survey = Survey::new(first(core));
    let mut asking = FuturesUnordered::new();
    while !survey.is_done() {
        while let Some(peer) = survey.next() {
            asking.push(question(core, peer, deadline));
        }
        match tokio::time::timeout_at(deadline, asking.next()).await {
            Ok(Some((from, Ok(rows)))) => survey.answered(from, rows),
            Ok(Some((from, Err(error)))) => survey.failed(from, &error),
            // Nothing is being asked, or the time is over.
            Ok(None) | Err(_) => break,
        }
    }
    survey.finish()
}

/// With whom a survey begins: the voters; and this node, which may hang below none of them.
fn first(core: &Core) -> Vec<(PeerAtBytes, String)> {
    let me = PeerAtBytes {
        id: core.node_id,
        address: core.address.clone(),
    };
    let mut first = vec![(me, core.config.name.clone())];
    for voter in core.membership().voters() {
        let address = voter.peer_address.clone();
        let peer = PeerAtBytes {
            id: voter.id,
            address,
        };
        first.push((peer, voter.name.clone()));
    }
    first
}

/// Asks one node for itself and its downstreams; this node asks itself.
async fn question(
    core: &Arc<Core>,
    peer: PeerAtBytes,
    deadline: Instant,
) -> (u64, Result<Rows, String>) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = ANSWER_TIMEOUT.min(left);
    let call = DescribeCall {
        timeout_ms: timeout.as_millis() as u32,
        below: true,
    };
    let answered = match peer.id == core.node_id {
        true => Ok(answer(core, call).await),
        false => ask(core, &peer.address, call).await,
    };
    (peer.id, answered)
}

async fn ask(core: &Arc<Core>, address: &str, call: DescribeCall) -> Result<Rows, String> {
    let timeout = Duration::from_millis(u64::from(call.timeout_ms));
    let asked = core.peers.ask_once(address, Call::Describe(call), timeout);
    match asked.await {
        Ok(Reply::Rows(rows)) => Ok(rows),
        Ok(_) => Err(format!("{address} answered another question")),
        Err(error) => Err(error.to_string()),
    }
}

/// Answers a survey: this node's row, and if asked for its downstreams', as they tell it within the time.
pub(crate) async fn answer(core: &Arc<Core>, call: DescribeCall) -> Rows {
    let Some(inspection) = core.tree.inspect().await else {
        // Stopping: there is nothing to be told any more.
        return Rows::default();
    };
    let mut answer = Rows {
        rows: vec![own_row(core, &inspection)],
        ..Rows::default()
    };
    if call.below {
        // Half of it, so that the answer arrives before the asker gives up.
        let given = Duration::from_millis(u64::from(call.timeout_ms)).min(MAX_TIMEOUT);
        let deadline = Instant::now() + given / 2;
        let questions: Vec<_> = inspection
            .downstreams
            .into_iter()
            .map(|below| ask_below(core, below, deadline))
            .collect();
        let mut asked = stream::iter(questions).buffer_unordered(ASKED_AT_ONCE);
        while let Some(told) = asked.next().await {
            match told {
                Ok(row) => answer.rows.push(row),
                Err(silent) => answer.silent.push(silent),
            }
        }
        answer.former = inspection.former;
        answer.above = inspection.upstream.as_ref().map(peer_bytes);
    }
    answer
}

/// Asks a downstream for its own row.
async fn ask_below(
    core: &Arc<Core>,
    below: PeerAt,
    deadline: Instant,
) -> Result<RowBytes, PeerAtBytes> {
    let left = deadline.saturating_duration_since(Instant::now());
    let call = DescribeCall {
        timeout_ms: left.as_millis() as u32,
        below: false,
    };
    let told = ask(core, &below.address, call).await.ok();
    told.and_then(|told| told.rows.into_iter().next())
        .filter(|row| row.id == below.id)
        .ok_or_else(|| peer_bytes(&below))
}

fn own_row(core: &Core, inspection: &Inspection) -> RowBytes {
    let status = core.status.borrow().clone();
    let positions = core.positions();
    RowBytes {
        id: core.node_id,
        name: core.config.name.clone(),
        role: status.role.to_number(),
        client_url: core.config.client_urls.first().cloned().unwrap_or_default(),
        peer_url: format!("http://{}", core.address),
        upstream: inspection.upstream.as_ref().map(|upstream| upstream.id),
        depth: inspection.depth,
        zone: core.config.zone.clone(),
        committed: positions.committed,
        applied: positions.applied,
        registered: inspection.downstreams.len() as u32,
        capacity: core.config.capacity,
        age_ms: inspection.age.map(milliseconds),
        stale: inspection.stale,
        fed_for_ms: inspection.fed_for.map(milliseconds),
        draining: inspection.steering.draining,
        pin: inspection.steering.pin.as_ref().map(|pin| pin.id.0),
        avoids: inspection.steering.avoided.iter().map(|id| id.0).collect(),
        behind_ms: edges::upstream_lag(core).map_or(0, |lag| milliseconds(lag.time)),
        snapshot: core.snapshots.progress().map(|progress| SnapshotBytes {
            received_bytes: progress.received_bytes,
            total_bytes: progress.total_bytes,
            installing: progress.installing,
        }),
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn peer_bytes(peer: &PeerAt) -> PeerAtBytes {
    PeerAtBytes {
        id: peer.id,
        address: peer.address.clone(),
    }
}
