//! The whole tree, from any node (B15): each node describes itself and asks its downstreams, in parallel and within a time.
//!
//! The leader is asked about itself only, and knows no listener; the answers of the other voters carry the rest.

use crate::core::Core;
use crate::message::{Call, DescribeCall, Reply, RowBytes, Rows};
use crate::status::{Role, TreeRow};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a node keeps for itself of the time it is given, so that its answer arrives before the asker gives up.
const KEPT_MS: u32 = 50;

/// Gathers the rows of all nodes that can be reached within `timeout`: voters first, then listeners by depth.
pub(crate) async fn gather(core: &Arc<Core>, timeout: Duration) -> Vec<TreeRow> {
    let timeout_ms = timeout.as_millis().min(u128::from(u32::MAX)) as u32;
    let membership = core.membership();
    let voters: Vec<_> = membership
        .voters()
        .filter(|voter| voter.id != core.node_id)
        .map(|voter| voter.peer_address.clone())
        .collect();
    let asked = join_all(voters.iter().map(|address| ask(core, address, timeout_ms)));
    let own = answer(
        core,
        DescribeCall {
            timeout_ms,
            below: true,
        },
    );
    let (asked, own) = futures_util::future::join(asked, own).await;
    let mut rows: BTreeMap<u64, TreeRow> = BTreeMap::new();
    for row in asked
        .into_iter()
        .flatten()
        .chain(own.rows)
        .filter_map(row_from_bytes)
    {
        // A listener that moved meanwhile may be described twice; its latest word counts.
        match rows.get(&row.id) {
            Some(known) if known.applied > row.applied => {}
            _ => drop(rows.insert(row.id, row)),
        }
    }
    let furthest = rows.values().map(|row| row.committed).max().unwrap_or(0);
    let mut rows: Vec<TreeRow> = rows
        .into_values()
        .map(|row| TreeRow {
            lag_entries: furthest.saturating_sub(row.applied),
            ..row
        })
        .collect();
    rows.sort_by(|a, b| {
        (a.depth.unwrap_or(u32::MAX), &a.name, a.id).cmp(&(
            b.depth.unwrap_or(u32::MAX),
            &b.name,
            b.id,
        ))
    });
    rows
}

/// This node's row, and those below it if asked for.
pub(crate) async fn answer(core: &Arc<Core>, call: DescribeCall) -> Rows {
    let mut rows = vec![own_row(core).await];
    if call.below && call.timeout_ms > KEPT_MS {
        let below = core
            .tree
            .inspect()
            .await
            .map(|view| view.downstreams)
            .unwrap_or_default();
        let asked = join_all(
            below
                .iter()
                .map(|downstream| ask(core, &downstream.address, call.timeout_ms - KEPT_MS)),
        )
        .await;
        rows.extend(asked.into_iter().flatten());
    }
    Rows { rows }
}

async fn ask(core: &Arc<Core>, address: &str, timeout_ms: u32) -> Vec<RowBytes> {
    let call = Call::Describe(DescribeCall {
        timeout_ms,
        below: true,
    });
    let timeout = Duration::from_millis(u64::from(timeout_ms));
    match core.peers.ask_once(address, call, timeout).await {
        Ok(Reply::Rows(rows)) => rows.rows,
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::debug!("describe {address}: {error}");
            Vec::new()
        }
    }
}

async fn own_row(core: &Arc<Core>) -> RowBytes {
    let status = core.status.borrow().clone();
    let positions = core.positions();
    let registered = core
        .tree
        .inspect()
        .await
        .map_or(0, |view| view.downstreams.len() as u32);
    RowBytes {
        id: core.node_id,
        name: core.config.name.clone(),
        role: status.role.to_number(),
        client_url: core.config.client_urls.first().cloned().unwrap_or_default(),
        peer_url: format!("http://{}", core.address),
        upstream: status.upstream,
        depth: status.depth,
        zone: core.config.zone.clone(),
        committed: positions.committed,
        applied: positions.applied,
        registered,
        capacity: core.config.capacity,
    }
}

fn row_from_bytes(row: RowBytes) -> Option<TreeRow> {
    Some(TreeRow {
        id: row.id,
        name: row.name,
        role: Role::from_number(row.role)?,
        client_url: row.client_url,
        peer_url: row.peer_url,
        upstream: row.upstream,
        depth: row.depth,
        zone: row.zone,
        committed: row.committed,
        applied: row.applied,
        lag_entries: 0,
        registered: row.registered,
        capacity: row.capacity,
    })
}
