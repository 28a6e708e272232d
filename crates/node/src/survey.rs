//! A survey of the tree (B15): whom to ask next, and what their answers add up to. It does no I/O; [`crate::describe`] asks for it.
//!
//! No node knows the tree, so its picture is put together from what each says. One node, whichever an administrator asks, conducts the
//! survey: it asks the voters, who answer for themselves and for their downstreams, then those of the downstreams that have downstreams,
//! and so on. So it asks inner nodes only, a small part of a large tree; each leaf is asked once, by its upstream. The leader is asked
//! about itself and knows no listener (S2). No question is passed on, so that a slow node holds up its own answer and no other.
//!
//! ```text
//!            asked: v2        answers: v2, l1, l2        then asked: l1, since it has downstreams
//!            asked: l1        answers: l1, l3, l4        nobody below has any
//! ```
//!
//! What it cannot do: answers come from different moments. A listener that moves meanwhile may be described twice, then its later word
//! counts; or not at all, then it is looked for once more, since whoever let a listener go remembers it for a while. A listener that
//! nobody remembers, and that has found no place, is known to itself alone: ask it.

use crate::message::{FormerBytes, PeerAtBytes, RowBytes, Rows};
use crate::status::{Missing, Role, SnapshotProgress, TreePicture, TreeRow};
use eaves_tree::PATH_LIMIT;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

/// Questions on their way at the same time: enough that delays overlap, few enough that a picture of ten thousand nodes costs no more
/// sockets than a busy client.
pub(crate) const ASKED_AT_ONCE: usize = 64;

/// The largest tree that is surveyed; nodes beyond are counted as missing. Bounds the memory that answers may take.
const NODES_MAX: usize = 200_000;

/// A survey under way.
///
/// Invariants:
/// - **asked-once**: nobody is asked twice.
/// - **asked-at-once**: at most [`ASKED_AT_ONCE`] questions are on their way.
#[derive(Default)]
pub(crate) struct Survey {
    rows: BTreeMap<u64, TreeRow>,
    to_ask: VecDeque<PeerAtBytes>,
    /// Asked, or about to be.
    known: HashSet<u64>,
    asking: HashMap<u64, PeerAtBytes>,
    /// Listeners that somebody let go, to be looked for at the end.
    former: HashMap<u64, FormerBytes>,
    /// Those of them that were not seen anywhere.
    unseen: HashMap<u64, FormerBytes>,
    names: HashMap<u64, String>,
    missing: BTreeMap<u64, Missing>,
}

impl Survey {
    /// A survey that begins with these nodes; names are known of some.
    pub fn new(first: impl IntoIterator<Item = (PeerAtBytes, String)>) -> Survey {
        let mut survey = Survey::default();
        for (peer, name) in first {
            survey.names.insert(peer.id, name);
            survey.ask_later(peer);
        }
        survey
    }

    /// Whom to ask now. `None` when enough are being asked, or nobody is left.
    pub fn next(&mut self) -> Option<PeerAtBytes> {
        if self.asking.len() >= ASKED_AT_ONCE {
            return None;
        }
        let peer = self.to_ask.pop_front()?;
        let before = self.asking.insert(peer.id, peer.clone());
        assert!(before.is_none(), "asked-once: {} is being asked", peer.id);
        Some(peer)
    }

    /// Whether nobody is left to ask or to wait for.
    pub fn is_done(&self) -> bool {
        self.to_ask.is_empty() && self.asking.is_empty()
    }

    /// A node that was asked has answered.
    pub fn answered(&mut self, from: u64, answer: Rows) {
        let Some(peer) = self.asking.remove(&from) else {
            return;
        };
        if answer.rows.first().is_none_or(|row| row.id != from) {
            let other = answer.rows.first().map_or(0, |row| row.id);
            self.miss(peer, format!("its address belongs to node {other} now"));
            return self.look_for_former();
        }
        for row in answer.rows.into_iter().filter_map(row_from_bytes) {
            self.add(row, from);
        }
        // Its upstream could not reach them; perhaps we can.
        for silent in answer.silent {
            self.ask_later(silent);
        }
        if let Some(above) = answer.above {
            self.ask_later(above);
        }
        for former in answer.former {
            match self.former.get(&former.peer.id) {
                Some(known) if known.ago_ms <= former.ago_ms => {}
                _ => drop(self.former.insert(former.peer.id, former)),
            }
        }
        self.look_for_former();
    }

    /// A node that was asked did not answer.
    pub fn failed(&mut self, from: u64, error: &str) {
        let Some(peer) = self.asking.remove(&from) else {
            return;
        };
        let why = match (self.rows.contains_key(&from), self.unseen.get(&from)) {
            (true, _) => format!("what is below it is missing: {error}"),
            // Wherever it went, its upstream there knows more.
            (false, Some(former)) if former.moved => return self.look_for_former(),
            (false, Some(former)) => format!(
                "went {} s ago ({}) and does not answer: {error}",
                former.ago_ms / 1000,
                former.why
            ),
            (false, None) => {
                format!("did not answer, what is below it is missing: {error}")
            }
        };
        self.miss(peer, why);
        self.look_for_former();
    }

    /// What has been found out until now. Whoever has not answered is missing.
    pub fn finish(mut self) -> TreePicture {
        let asking: Vec<PeerAtBytes> = self.asking.drain().map(|(_, peer)| peer).collect();
        for peer in asking {
            self.miss(
                peer,
                "did not answer in time, what is below it is missing".into(),
            );
        }
        for peer in std::mem::take(&mut self.to_ask) {
            self.miss(
                peer,
                "was not asked in time, what is below it is missing".into(),
            );
        }
        let furthest = self
            .rows
            .values()
            .map(|row| row.committed)
            .max()
            .unwrap_or(0);
        let lags: Vec<Duration> = self.rows.values().map(|row| self.lag(row)).collect();
        let mut rows: Vec<TreeRow> = self.rows.into_values().collect();
        for (row, lag) in rows.iter_mut().zip(lags) {
            row.lag = lag;
            row.lag_entries = furthest.saturating_sub(row.applied);
        }
        rows.sort_by(|a, b| {
            let order = |row: &TreeRow| row.depth.unwrap_or(u32::MAX);
            (order(a), &a.name, a.id).cmp(&(order(b), &b.name, b.id))
        });
        TreePicture {
            rows,
            missing: self.missing.into_values().collect(),
        }
    }

    /// How long a node has been behind its root: what each edge of its path is behind, added up.
    fn lag(&self, row: &TreeRow) -> Duration {
        let mut lag = Duration::ZERO;
        let mut at = Some(row);
        // Rows of different moments may form a loop.
        for _ in 0..PATH_LIMIT {
            let Some(row) = at else { break };
            lag = lag.saturating_add(row.lag);
            at = row.upstream.and_then(|upstream| self.rows.get(&upstream));
        }
        lag
    }

    /// Takes a row in; the later word of the same node counts. What it applied is its clock.
    fn add(&mut self, row: TreeRow, from: u64) {
        if row.id != from && row.registered > 0 {
            self.ask_later(PeerAtBytes {
                id: row.id,
                address: row.peer_address().to_string(),
            });
        }
        match self.rows.get(&row.id) {
            Some(known) if known.applied > row.applied => {}
            None if self.rows.len() >= NODES_MAX => {}
            _ => drop(self.rows.insert(row.id, row)),
        }
    }

    fn ask_later(&mut self, peer: PeerAtBytes) {
        if self.known.len() < NODES_MAX && self.known.insert(peer.id) {
            self.to_ask.push_back(peer);
        }
    }

    /// At the end: those who went, and are not seen anywhere else, may be alive without an upstream.
    fn look_for_former(&mut self) {
        if !self.is_done() {
            return;
        }
        for (id, former) in std::mem::take(&mut self.former) {
            if !self.rows.contains_key(&id) {
                self.ask_later(former.peer.clone());
                self.unseen.insert(id, former);
            }
        }
    }

    fn miss(&mut self, peer: PeerAtBytes, why: String) {
        let known = self.rows.get(&peer.id).map(|row| row.name.clone());
        let name = known.or_else(|| self.names.get(&peer.id).cloned());
        self.missing.insert(
            peer.id,
            Missing {
                id: peer.id,
                name: name.unwrap_or_default(),
                peer_address: peer.address,
                why,
            },
        );
    }
}

/// A row as a node sent it; `None` for a role that this version does not know.
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
        lag: Duration::from_millis(row.behind_ms),
        registered: row.registered,
        capacity: row.capacity,
        age: row.age_ms.map(Duration::from_millis),
        stale: row.stale,
        fed_for: row.fed_for_ms.map(Duration::from_millis),
        draining: row.draining,
        pin: row.pin,
        avoids: row.avoids,
        snapshot: row.snapshot.map(|snapshot| SnapshotProgress {
            received_bytes: snapshot.received_bytes,
            total_bytes: snapshot.total_bytes,
            installing: snapshot.installing,
        }),
    })
}

#[cfg(test)]
mod tests;
