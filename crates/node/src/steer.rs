//! Steering the tree from any of its nodes (B15, B16): names become nodes, and each command becomes an order to the node it concerns.

use crate::core::Core;
use crate::describe;
use crate::error::SteerError;
use crate::explain::{ChoiceBytes, Explained};
use crate::message::{Empty, PeerAtBytes};
use crate::names::{find, find_id, label};
use crate::orders::{
    self, AvoidOrder, DrainOrder, KickOrder, Order, OrderReply, PinOrder, UpstreamsOrder,
};
use crate::status::{Role, TreePicture, TreeRow};
use crate::tree_handle::PeerAt;
use crate::what_if::{Forecast, what_if_down};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the tree is searched for the nodes that a command names.
const FIND_TIMEOUT: Duration = Duration::from_secs(4);

/// Pause before a node that was not found is looked for again: longer than a move takes.
const MOVE_PAUSE: Duration = Duration::from_millis(300);

/// How often a listener that moves while it is being kicked is looked for again.
const KICK_ATTEMPTS: usize = 3;

/// How long a listener that was told to go elsewhere is watched, so that the answer says where it went.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is looked at.
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// The commands that steer the tree. All of them are idempotent, and all may be given at any node.
///
/// A node is named by its name, if no other node has the same, or by its id in decimal or hexadecimal.
pub struct Steering<'a> {
    core: &'a Arc<Core>,
}

/// A command that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steered {
    /// The node it was about, as it was before.
    pub node: TreeRow,
    /// What came of it, in words.
    pub said: String,
}

/// Why a node hangs where it hangs (B15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The node.
    pub node: TreeRow,
    /// The name of its upstream, if it has one and its name is known; else empty.
    pub upstream_name: String,
    /// What people call the upstream it is pinned to.
    pub pinned_to: Option<String>,
    /// What people call the nodes it avoids.
    pub avoids: Vec<String>,
    /// Its last search for an upstream; `None` for a voter and for a listener that has not searched yet.
    pub choice: Option<LastChoice>,
    /// Its last look for another place that found none, or the one under way: why it is still there.
    pub look: Option<LastChoice>,
    /// The list of upstream servers it was given (S6).
    pub upstream_list: Vec<String>,
    /// The addresses it has learned (B5).
    pub learned: Vec<String>,
}

/// A listener's last search for an upstream, or the one that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastChoice {
    /// Why it searched, as the end of a sentence.
    pub why: String,
    /// How long ago the last round of questions began.
    pub ago: Duration,
    /// Whom it asked or tried in that round, in that order.
    pub candidates: Vec<Candidate>,
}

/// One server that a listener asked or tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id, if it answered.
    pub id: Option<u64>,
    /// Its name, if known; else empty.
    pub name: String,
    /// Its peer address.
    pub address: String,
    /// Its depth, if it answered and was attached.
    pub depth: Option<u32>,
    /// Whether it took the listener.
    pub accepted: bool,
    /// What became of it, as the end of a sentence.
    pub verdict: String,
}

/// A node that is being drained.
pub struct Drain<'a> {
    steering: Steering<'a>,
    /// The node, as it was before.
    pub node: TreeRow,
    /// How many listeners are still registered with it.
    pub left: u32,
    /// What it will do to them if nobody else has room, and what to do about it.
    pub warning: Option<String>,
}

impl Drain<'_> {
    /// Looks again how many are left.
    pub async fn look(&mut self) -> Result<u32, SteerError> {
        self.left = self.steering.drain_row(&self.node, true).await?;
        Ok(self.left)
    }
}

impl<'a> Steering<'a> {
    pub(crate) fn new(core: &'a Arc<Core>) -> Steering<'a> {
        Steering { core }
    }

    /// Has the upstream of `listener` kick it off (S12). It chooses again, among alternatives that its upstream names (B2).
    pub async fn kick(&self, listener: &str) -> Result<Steered, SteerError> {
        for _ in 0..KICK_ATTEMPTS {
            let picture = self.picture(&[listener]).await;
            let rows = &picture.rows;
            let row = find(&picture, listener)?;
            listener_only(row, "nobody feeds it, so nobody can kick it")?;
            let Some(upstream) = row.upstream else {
                let said = format!("{} hangs nowhere: nobody has to let it go", label(row));
                return Ok(steered(row, said));
            };
            let Some(upstream) = rows.iter().find(|row| row.id == upstream) else {
                return Err(SteerError::Unreachable(format!(
                    "node {upstream}, which feeds {}, did not answer: try again, or ask another node",
                    label(row)
                )));
            };
            let began = Instant::now();
            let order = Order::Kick(KickOrder { listener: row.id });
            if let OrderReply::Done(_) = self.give(upstream, order).await? {
                let newer = |told: &Explained| is_newer(told, began);
                let where_now = self.where_now(rows, row, newer).await;
                let said = format!("{} let {} go; {where_now}", label(upstream), label(row));
                return Ok(steered(row, said));
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
    ) -> Result<Steered, SteerError> {
        let picture = self.picture(&[listener]).await;
        let rows = &picture.rows;
        let row = find(&picture, listener)?;
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
        if self.explain(row).await?.upstream_list == upstreams {
            return Ok(steered(
                row,
                format!("{} has this list already", label(row)),
            ));
        }
        let began = Instant::now();
        let order = UpstreamsOrder {
            upstreams: upstreams.clone(),
        };
        self.give(row, Order::SetUpstreams(order)).await?;
        let chosen = |told: &Explained| is_newer(told, began) || has_looked(told, began);
        let where_now = self.where_now(rows, row, chosen).await;
        let name = label(row);
        let said = match self.explain(row).await {
            Ok(told) if is_newer(&told, began) || is_fed_from(&told, &upstreams) => {
                format!("{name} keeps the new list and has chosen from it; {where_now}")
            }
            Ok(told) if has_looked(&told, began) => format!(
                "{name} keeps the new list, but nobody on it or named by it could be had or was better, as `eaves why {name}` tells; {where_now}"
            ),
            _ => format!("{name} keeps the new list; {where_now}"),
        };
        Ok(steered(row, said))
    }

    /// Has `listener` use `upstream` whenever that can be reached, is attached and accepts it (B16); `None` lets it choose again.
    pub async fn pin(&self, listener: &str, upstream: Option<&str>) -> Result<Steered, SteerError> {
        let names: Vec<&str> = [Some(listener), upstream].into_iter().flatten().collect();
        let picture = self.picture(&names).await;
        let rows = &picture.rows;
        let row = find(&picture, listener)?;
        listener_only(row, "nobody feeds it, so it cannot be pinned")?;
        let Some(upstream) = upstream else {
            self.give(row, Order::Pin(PinOrder { upstream: None }))
                .await?;
            let said = match row.pin {
                Some(_) => "is pinned no more and chooses by itself",
                None => "was not pinned",
            };
            return Ok(steered(row, format!("{} {said}", label(row))));
        };
        let upstream = find(&picture, upstream)?;
        if upstream.id == row.id {
            return Err(SteerError::Refused(format!(
                "{} cannot be its own upstream: name another node",
                label(row)
            )));
        }
        if row.avoids.contains(&upstream.id) {
            let (listener, upstream) = (label(row), label(upstream));
            return Err(SteerError::Refused(format!(
                "{listener} avoids {upstream}: `eaves avoid {listener} {upstream} --clear` first"
            )));
        }
        if is_below(rows, upstream, row) {
            return Err(SteerError::Refused(format!(
                "{} hangs below {} and cannot feed it: pin {} elsewhere first, or choose another upstream",
                label(upstream),
                label(row),
                label(upstream)
            )));
        }
        let peer = PeerAtBytes {
            id: upstream.id,
            address: upstream.peer_address().to_string(),
        };
        let order = Order::Pin(PinOrder {
            upstream: Some(peer),
        });
        self.give(row, order).await?;
        let there = |told: &Explained| has_upstream(told, |id| id == upstream.id);
        let where_now = match obstacle(row, upstream) {
            Some(obstacle) => format!("it goes there once it can: {obstacle}"),
            None => self.where_now(rows, row, there).await,
        };
        let said = format!(
            "{} is pinned to {}; {where_now}",
            label(row),
            label(upstream)
        );
        Ok(steered(row, said))
    }

    /// Has `listener` never register with these nodes (B16), or again; `None` stands for all that it avoids.
    pub async fn avoid(
        &self,
        listener: &str,
        nodes: Option<&[String]>,
        on: bool,
    ) -> Result<Steered, SteerError> {
        let picture = self.picture(&[listener]).await;
        let rows = &picture.rows;
        let row = find(&picture, listener)?;
        listener_only(row, "nobody feeds it, so it has nobody to avoid")?;
        let ids = match nodes {
            None if on => {
                return Err(SteerError::Refused("name the nodes to avoid".into()));
            }
            None => row.avoids.clone(),
            Some(names) => self.avoided(&picture, row, names, on)?,
        };
        let order = Order::Avoid(AvoidOrder {
            nodes: ids.clone(),
            on,
        });
        self.give(row, order).await?;
        let missing = |id: u64| {
            let mut missing = picture.missing.iter();
            missing.find(|one| one.id == id && !one.name.is_empty())
        };
        let name =
            |id: &u64| missing(*id).map_or_else(|| name_of(rows, *id), |one| one.name.clone());
        let names: Vec<String> = ids.iter().map(name).collect();
        let names = names.join(", ");
        let said = match (on, row.upstream) {
            (true, Some(upstream)) if ids.contains(&upstream) => {
                let elsewhere = |told: &Explained| has_upstream(told, |id| !ids.contains(&id));
                let where_now = self.where_now(rows, row, elsewhere).await;
                format!("{} avoids {names}; {where_now}", label(row))
            }
            (true, _) => format!("{} avoids {names}", label(row)),
            (false, _) if ids.is_empty() => format!("{} avoids nobody", label(row)),
            (false, _) => format!("{} no longer avoids {names}", label(row)),
        };
        Ok(steered(row, said))
    }

    /// Has `node` hand its listeners over to others and take no more (B16). Returns when it has begun; [`Drain::look`] says how far it is.
    pub async fn drain(&self, node: &str) -> Result<Drain<'a>, SteerError> {
        let picture = self.picture(&[node]).await;
        let row = find(&picture, node)?;
        Ok(Drain {
            left: self.drain_row(row, true).await?,
            warning: nowhere_to_go(&picture.rows, row),
            node: row.clone(),
            steering: Steering { core: self.core },
        })
    }

    /// Has `node` take listeners again.
    pub async fn undrain(&self, node: &str) -> Result<Steered, SteerError> {
        let picture = self.picture(&[node]).await;
        let row = find(&picture, node)?;
        self.drain_row(row, false).await?;
        let said = match (row.draining, row.role) {
            (false, _) => "was not draining",
            (true, Role::Leader) => "takes listeners again once it no longer leads",
            (true, _) => "takes listeners again",
        };
        Ok(steered(row, format!("{} {said}", label(row))))
    }

    /// Why `node` hangs where it hangs (B15).
    pub async fn why(&self, node: &str) -> Result<Account, SteerError> {
        let picture = self.picture(&[node]).await;
        let rows = &picture.rows;
        let row = find(&picture, node)?;
        let told = self.explain(row).await?;
        let name = |id: u64| {
            let mut rows = rows.iter();
            rows.find(|row| row.id == id)
                .map(|row| row.name.clone())
                .unwrap_or_default()
        };
        let upstream = told.upstream.as_ref().map(|upstream| upstream.id);
        Ok(Account {
            upstream_name: upstream.map(name).unwrap_or_default(),
            pinned_to: row.pin.map(|pin| name_of(rows, pin)),
            avoids: row.avoids.iter().map(|id| name_of(rows, *id)).collect(),
            choice: told.choice.map(|choice| last_choice(choice, name)),
            look: told.look.map(|look| last_choice(look, name)),
            upstream_list: told.upstream_list,
            learned: told.learned.into_iter().map(|peer| peer.address).collect(),
            // What it says of itself is newer than the survey.
            node: TreeRow {
                upstream,
                depth: told.depth,
                fed_for: told.fed_for_ms.map(Duration::from_millis),
                ..row.clone()
            },
        })
    }

    /// Where the listeners of `node` would go if it went down, and what would become of the group (B15): a prediction.
    pub async fn what_if_down(&self, node: &str) -> Result<Forecast, SteerError> {
        let picture = self.picture(&[node]).await;
        let row = find(&picture, node)?;
        let membership = self.core.membership();
        let forecast = what_if_down(&picture, &membership.configs, row.id);
        Ok(forecast.expect("a row that was found is in the picture"))
    }

    /// The tree, with the nodes that are called so. One that is just moving may be seen neither where it was nor where it will be, so
    /// who is not seen is looked for once more.
    async fn picture(&self, names: &[&str]) -> TreePicture {
        let picture = describe::survey(self.core, FIND_TIMEOUT).await;
        let is_unknown = |name: &&str| matches!(find(&picture, name), Err(SteerError::Unknown(_)));
        if !names.iter().any(is_unknown) {
            return picture;
        }
        tokio::time::sleep(MOVE_PAUSE).await;
        describe::survey(self.core, FIND_TIMEOUT).await
    }

    async fn explain(&self, row: &TreeRow) -> Result<Explained, SteerError> {
        match self.give(row, Order::Explain(Empty {})).await? {
            OrderReply::Explained(told) => Ok(*told),
            _ => Err(other_answer(row)),
        }
    }

    async fn drain_row(&self, row: &TreeRow, on: bool) -> Result<u32, SteerError> {
        match self.give(row, Order::Drain(DrainOrder { on })).await? {
            OrderReply::Registered(left) => Ok(left),
            _ => Err(other_answer(row)),
        }
    }

    async fn give(&self, to: &TreeRow, order: Order) -> Result<OrderReply, SteerError> {
        let at = PeerAt {
            id: to.id,
            address: to.peer_address().to_string(),
        };
        let given = orders::give(self.core, &at, order).await;
        given.map_err(|error| match error {
            SteerError::Unreachable(why) => SteerError::Unreachable(format!(
                "{} did not answer: {why}; try again: an order may be given twice",
                label(to)
            )),
            other => other,
        })
    }

    /// The ids of nodes to avoid, or to avoid no more. Of those it may be that the tree no longer shows them.
    fn avoided(
        &self,
        picture: &TreePicture,
        listener: &TreeRow,
        names: &[String],
        on: bool,
    ) -> Result<Vec<u64>, SteerError> {
        let mut ids = Vec::new();
        for name in names {
            let id = find_id(picture, name).or_else(|error| {
                let id = name.parse().ok();
                let avoided = id.filter(|id| !on && listener.avoids.contains(id));
                avoided.ok_or(error)
            })?;
            if on && id == listener.id {
                return Err(SteerError::Refused(format!(
                    "{} cannot avoid itself: name other nodes",
                    label(listener)
                )));
            }
            if on && listener.pin == Some(id) {
                let (listener, pinned) = (label(listener), name_of(&picture.rows, id));
                return Err(SteerError::Refused(format!(
                    "{listener} is pinned to {pinned}: `eaves pin {listener} --clear` first"
                )));
            }
            ids.push(id);
        }
        Ok(ids)
    }

    /// Waits a moment for a listener to be where it should be, and says where it is then.
    async fn where_now(
        &self,
        rows: &[TreeRow],
        listener: &TreeRow,
        settled: impl Fn(&Explained) -> bool,
    ) -> String {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let told = self.explain(listener).await;
            let done = told.as_ref().is_ok_and(&settled);
            if done || Instant::now() >= deadline {
                return match told {
                    Ok(told) => place(rows, listener, &told, done),
                    Err(error) => format!("where it is now is not known: {error}"),
                };
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }
}

/// Where a listener says it is, in words.
fn place(rows: &[TreeRow], listener: &TreeRow, told: &Explained, settled: bool) -> String {
    let name = label(listener);
    match (&told.upstream, settled) {
        (Some(upstream), true) => format!("it hangs below {} now", name_of(rows, upstream.id)),
        (Some(upstream), false) => format!(
            "it still hangs below {}: `eaves why {name}` tells more",
            name_of(rows, upstream.id)
        ),
        (None, _) => format!("it has found no place yet: `eaves why {name}` tells more"),
    }
}

fn last_choice(choice: ChoiceBytes, name: impl Fn(u64) -> String) -> LastChoice {
    let candidates = choice.candidates.into_iter();
    LastChoice {
        why: choice.why,
        ago: Duration::from_millis(choice.ago_ms),
        candidates: candidates
            .map(|candidate| Candidate {
                id: candidate.id,
                name: candidate.id.map(&name).unwrap_or_default(),
                address: candidate.address,
                depth: candidate.depth,
                accepted: candidate.accepted,
                verdict: candidate.verdict,
            })
            .collect(),
    }
}

fn steered(row: &TreeRow, said: String) -> Steered {
    Steered {
        node: row.clone(),
        said,
    }
}

fn other_answer(row: &TreeRow) -> SteerError {
    SteerError::Unreachable(format!(
        "{} answered another question: is it of the same version?",
        label(row)
    ))
}

fn has_upstream(told: &Explained, is_it: impl Fn(u64) -> bool) -> bool {
    told.upstream
        .as_ref()
        .is_some_and(|upstream| is_it(upstream.id))
}

/// Whether the upstream it has accepted it after `began`.
fn is_newer(told: &Explained, began: Instant) -> bool {
    told.fed_for_ms
        .is_some_and(|fed_for| Duration::from_millis(fed_for) < began.elapsed())
}

/// Whether it has looked for another place after `began`, and stays where it is.
fn has_looked(told: &Explained, began: Instant) -> bool {
    told.look
        .as_ref()
        .is_some_and(|look| !look.under_way && Duration::from_millis(look.ago_ms) < began.elapsed())
}

fn is_fed_from(told: &Explained, addresses: &[String]) -> bool {
    told.upstream
        .as_ref()
        .is_some_and(|upstream| addresses.contains(&upstream.address))
}

fn name_of(rows: &[TreeRow], id: u64) -> String {
    let row = rows.iter().find(|row| row.id == id);
    row.map_or_else(|| format!("node {id}"), label)
}

/// What keeps an upstream from feeding a listener right now, as far as its row tells.
fn obstacle(listener: &TreeRow, upstream: &TreeRow) -> Option<&'static str> {
    match upstream {
        _ if listener.upstream == Some(upstream.id) => None,
        row if row.role == Role::Leader => Some("it leads, and a leader feeds nobody"),
        row if row.draining => Some("it is draining"),
        row if row.depth.is_none() => Some("it is detached itself"),
        row if row.registered >= row.capacity => Some("it is full"),
        _ => None,
    }
}

/// Says so if nobody could take on the listeners of a node that is to be drained.
fn nowhere_to_go(rows: &[TreeRow], drained: &TreeRow) -> Option<String> {
    let has_room = |row: &TreeRow| {
        row.id != drained.id
            && row.role != Role::Leader
            && row.depth.is_some()
            && !row.draining
            && row.registered < row.capacity
            && !is_below(rows, row, drained)
    };
    let hangs_nowhere = drained.registered > 0 && !rows.iter().any(has_room);
    hangs_nowhere.then(|| {
        let name = label(drained);
        format!(
            "no other node has room for the {} that {name} feeds: in some seconds they are kicked, and hang nowhere with all below them until \
             there is; `eaves undrain {name}` takes them back, else add a follower or a listener, undrain another, or start one with a \
             greater --max-listeners",
            match drained.registered {
                1 => "listener".into(),
                count => format!("{count} listeners"),
            }
        )
    })
}

/// Whether `node` hangs somewhere below `above`.
fn is_below(rows: &[TreeRow], node: &TreeRow, above: &TreeRow) -> bool {
    let mut at = node;
    // Rows of different moments may form a loop.
    for _ in 0..rows.len() {
        let upstream = at
            .upstream
            .and_then(|id| rows.iter().find(|row| row.id == id));
        match upstream {
            Some(row) if row.id == above.id => return true,
            Some(row) => at = row,
            None => return false,
        }
    }
    false
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
