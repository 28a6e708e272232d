//! Steering the tree from any of its nodes (B16): names become nodes, and each command becomes an order to the node it concerns.

use crate::core::Core;
use crate::describe;
use crate::error::SteerError;
use crate::orders::{self, KickOrder, Order, OrderReply, UpstreamsOrder};
use crate::status::{Role, TreeRow};
use crate::tree_loop::PeerAt;
use std::sync::Arc;
use std::time::Duration;

/// How long the tree is searched for the nodes that a command names.
const FIND_TIMEOUT: Duration = Duration::from_secs(4);

/// How often a listener that moves while it is being kicked is looked for again.
const KICK_ATTEMPTS: usize = 3;

/// The commands that steer the tree. All of them are idempotent, and all may be given at any node.
///
/// A node is named by its name, if no other node has the same, or by its id in decimal or hexadecimal.
pub struct Steering<'a> {
    core: &'a Arc<Core>,
}

/// What became of a kick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kicked {
    /// This upstream has let the listener go.
    From(TreeRow),
    /// It has no upstream: there is nothing to be kicked from.
    Detached,
}

impl<'a> Steering<'a> {
    pub(crate) fn new(core: &'a Arc<Core>) -> Steering<'a> {
        Steering { core }
    }

    /// Has the upstream of `listener` kick it off (S12). It chooses again, among alternatives that its upstream names (B2), and may come
    /// back.
    pub async fn kick(&self, listener: &str) -> Result<Kicked, SteerError> {
        for _ in 0..KICK_ATTEMPTS {
            let rows = self.rows().await;
            let row = find(&rows, listener)?;
            listener_only(row, "nobody feeds it, so nobody can kick it")?;
            let Some(upstream) = row.upstream else {
                return Ok(Kicked::Detached);
            };
            let Some(upstream) = rows.iter().find(|row| row.id == upstream) else {
                return Err(SteerError::Unreachable(format!(
                    "node {upstream}, which feeds {}, did not answer: try again, or at another node",
                    label(row)
                )));
            };
            let order = Order::Kick(KickOrder { listener: row.id });
            if let OrderReply::Done(_) = self.give(upstream, order).await? {
                return Ok(Kicked::From(upstream.clone()));
            }
        }
        Err(SteerError::Unreachable(format!(
            "{listener} moved each time it was to be kicked: try again"
        )))
    }

    /// Gives `listener` a new list of upstream servers, `host:port` each (S14). It is on disk when this returns; then the listener chooses
    /// from it. The list it already has changes nothing.
    pub async fn set_upstreams(
        &self,
        listener: &str,
        upstreams: Vec<String>,
    ) -> Result<TreeRow, SteerError> {
        let rows = self.rows().await;
        let row = find(&rows, listener)?;
        listener_only(row, "it has no list of upstream servers")?;
        if upstreams.is_empty() {
            return Err(SteerError::Refused(
                "the list is empty: name at least one upstream server".into(),
            ));
        }
        if upstreams
            .iter()
            .all(|address| address == row.peer_address())
        {
            return Err(SteerError::Refused(format!(
                "the list names only {} itself: name the peer address of another node",
                label(row)
            )));
        }
        self.give(row, Order::SetUpstreams(UpstreamsOrder { upstreams }))
            .await?;
        Ok(row.clone())
    }

    async fn rows(&self) -> Vec<TreeRow> {
        describe::survey(self.core, FIND_TIMEOUT).await.rows
    }

    async fn give(&self, to: &TreeRow, order: Order) -> Result<OrderReply, SteerError> {
        let at = PeerAt {
            id: to.id,
            address: to.peer_address().to_string(),
        };
        orders::give(self.core, &at, order)
            .await
            .map_err(|error| match error {
                SteerError::Unreachable(why) => {
                    SteerError::Unreachable(format!("{} did not answer: {why}", label(to)))
                }
                other => other,
            })
    }
}

/// The one row that `text` names.
fn find<'a>(rows: &'a [TreeRow], text: &str) -> Result<&'a TreeRow, SteerError> {
    let named: Vec<&TreeRow> = rows.iter().filter(|row| row.name == text).collect();
    match named[..] {
        [row] => return Ok(row),
        [] => {}
        _ => {
            let ids: Vec<String> = named.iter().map(|row| row.id.to_string()).collect();
            return Err(SteerError::Unknown(format!(
                "{} nodes are named {text:?}: give the id, one of {}",
                named.len(),
                ids.join(", ")
            )));
        }
    }
    let ids = [text.parse().ok(), u64::from_str_radix(text, 16).ok()];
    ids.into_iter()
        .flatten()
        .find_map(|id| rows.iter().find(|row| row.id == id))
        .ok_or_else(|| {
            SteerError::Unknown(format!(
                "no node of the tree is called {text:?}: `eaves tree` shows them"
            ))
        })
}

fn listener_only(row: &TreeRow, why: &str) -> Result<(), SteerError> {
    match row.role {
        Role::Listener => Ok(()),
        role => Err(SteerError::Refused(format!(
            "{} is a voter ({}): {why}; `eaves tree` shows the listeners",
            label(row),
            role.as_str()
        ))),
    }
}

/// What people call a node.
fn label(row: &TreeRow) -> String {
    match row.name.is_empty() {
        true => format!("node {}", row.id),
        false => row.name.clone(),
    }
}
