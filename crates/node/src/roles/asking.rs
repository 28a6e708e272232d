//! The asker's side of a change of roles: finds the nodes meant, asks the leader until it is done, whoever leads meanwhile.

use super::change::{self, ASK_TIMEOUT};
use super::message::{Ask, ChangeAsk, ChangeKind, ChangeState, ChangeTold, Target, Told};
use crate::core::Core;
use crate::describe;
use crate::message::{Call, Empty, Reason, Reject, Reply};
use crate::orders::{self, Order, OrderReply};
use crate::tree_handle::PeerAt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the tree is gathered to find a node by name.
const GATHER_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is gathered before a name counts as unknown: a node that moves is seen by nobody for a moment.
const GATHER_TIMES: u32 = 3;

/// Pause before the next attempt, at finding a node and at meeting a leader.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// How long an asker goes on without hearing from any leader.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);

/// How often whoever leads may begin anew.
const MAX_RUNS: u32 = 20;

/// A change of roles that an administrator wants. Nodes are given by name, or by id, in decimal or hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleChange {
    /// Make a listener a voter, once it has caught up (S15).
    Promote {
        /// The listener.
        node: String,
    },
    /// Make a voter a listener.
    Demote {
        /// The voter.
        node: String,
    },
    /// Make a listener a voter in place of another, dead or alive, in one joint change (S16).
    Replace {
        /// The voter that goes.
        old: String,
        /// The listener that comes.
        new: String,
    },
    /// Make another voter lead.
    TransferLeader {
        /// Which; `None` for the one that is closest behind the leader.
        to: Option<String>,
    },
    /// For measurements alone: make a listener one of Raft's own learners, whom the leader feeds, so that what this costs can be
    /// measured beside listeners. It stays one if its [`crate::Config::stays_learner`] says so; any other finds within moments that it
    /// is not in the group, and listens again. `Demote` ends it.
    Learn {
        /// The listener.
        node: String,
    },
}

/// Why a change of roles was not made, by what the administrator does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleChangeError {
    /// It cannot be as things are; nothing was changed. The text says what to do.
    #[error("{0}")]
    Refused(String),
    /// What became of it is not known, because no leader answers any more. Asking again goes on where it stopped.
    #[error("{0}; ask again: it goes on where it stopped")]
    Unfinished(String),
}

/// Has a change of roles carried out. Returns how it ended; the same change asked for again succeeds, and says that nothing was to be
/// done.
pub(crate) async fn change_role(
    core: &Arc<Core>,
    change: RoleChange,
    mut progress: impl FnMut(String) + Send,
) -> Result<String, RoleChangeError> {
    let mut ask = match resolve(core, change).await? {
        Resolved::Ask(ask) => ask,
        Resolved::Done(text) => return Ok(text),
    };
    let mut heard_at = Instant::now();
    let mut runs = 0;
    loop {
        let why = match ask_once(core, ask.clone()).await {
            Ok(told) => {
                heard_at = Instant::now();
                ask.seen = match ask.run == told.run {
                    true => ask.seen + told.lines.len() as u32,
                    false => told.lines.len() as u32,
                };
                ask.run = told.run;
                if told.leader != 0 {
                    ask.leads_no_more = told.leader;
                }
                let state = told.state();
                told.lines.into_iter().for_each(&mut progress);
                match state {
                    ChangeState::Running => continue,
                    ChangeState::Done => return Ok(told.text),
                    ChangeState::Refused => return Err(RoleChangeError::Refused(told.text)),
                    ChangeState::GoOn => {
                        runs += 1;
                        ask.attempt = core.random_number();
                        told.text
                    }
                }
            }
            Err(why) => why,
        };
        if heard_at.elapsed() > SILENCE_TIMEOUT || runs > MAX_RUNS {
            return Err(RoleChangeError::Unfinished(why));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn ask_once(core: &Arc<Core>, ask: ChangeAsk) -> Result<ChangeTold, String> {
    let hangs_nowhere = core.consensus().is_none() && core.tree.upstream().is_none();
    let reply = match hangs_nowhere {
        true => ask_servers(core, ask).await,
        false => change::answer(core, ask).await,
    };
    match reply {
        Reply::Roles(reply) => match reply.told {
            Some(Told::Change(told)) => Ok(told),
            _ => Err("the leader answered another question".into()),
        },
        Reply::Reject(reject) => Err(reject.text),
        _ => Err("the leader answered another question".into()),
    }
}

/// Asks the voters and the upstream servers that a listener knows while nobody feeds it. In a group of one voter nobody ever does (S1).
async fn ask_servers(core: &Arc<Core>, ask: ChangeAsk) -> Reply {
    let call = Call::from(Ask::Change(ChangeAsk {
        leader_only: true,
        ..ask
    }));
    for address in servers(core).await {
        let asked = core.peers.ask_once(&address, call.clone(), ASK_TIMEOUT);
        if let Ok(reply) = asked.await {
            return reply;
        }
    }
    let why = "this listener hangs nowhere, and no server that it knows leads";
    Reply::Reject(Reject::new(Reason::NoLeader, why))
}

async fn servers(core: &Arc<Core>) -> Vec<String> {
    let me = PeerAt {
        id: core.node_id,
        address: core.address.clone(),
    };
    let explained = orders::give(core, &me, Order::Explain(Empty {})).await;
    let listed = match explained {
        Ok(OrderReply::Explained(told)) => told.upstream_list,
        _ => Vec::new(),
    };
    let membership = core.membership();
    let voters = membership.voters();
    let mut servers: Vec<String> = voters.map(|voter| voter.peer_address.clone()).collect();
    servers.extend(listed);
    servers.sort_unstable();
    servers.dedup();
    servers.retain(|address| *address != core.address);
    servers
}

enum Resolved {
    Ask(ChangeAsk),
    /// It is so already.
    Done(String),
}

async fn resolve(core: &Arc<Core>, change: RoleChange) -> Result<Resolved, RoleChangeError> {
    let (kind, node, replaced) = match change {
        RoleChange::Promote { node } => (ChangeKind::Promote, Some(node), None),
        RoleChange::Demote { node } => (ChangeKind::Demote, Some(node), None),
        RoleChange::Replace { old, new } => (ChangeKind::Replace, Some(new), Some(old)),
        RoleChange::TransferLeader { to } => (ChangeKind::TransferLeader, to, None),
        RoleChange::Learn { node } => (ChangeKind::Learn, Some(node), None),
    };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let known = known(core).await;
        let find = |wanted: &Option<String>| {
            let found = wanted.as_ref().map(|wanted| find_one(&known, wanted));
            found.transpose()
        };
        match (find(&node), find(&replaced)) {
            (Ok(node), Ok(replaced)) => {
                return Ok(Resolved::Ask(ChangeAsk {
                    leader_only: false,
                    attempt: core.random_number(),
                    run: 0,
                    seen: 0,
                    kind: kind as i32,
                    node,
                    replaced,
                    leads_no_more: 0,
                }));
            }
            // A dead voter that was replaced is remembered by nobody.
            (Ok(Some(new)), Err(Missing::Unknown(text))) if core.membership().is_voter(new.id) => {
                return Ok(Resolved::Done(format!(
                    "{} is a voter already, and {text}",
                    new.label()
                )));
            }
            (Err(Missing::Unknown(_)), _) | (_, Err(Missing::Unknown(_)))
                if attempt < GATHER_TIMES =>
            {
                tokio::time::sleep(RETRY_PAUSE).await
            }
            (Err(Missing::Unknown(text)), _) if kind == ChangeKind::Demote => {
                let voters: Vec<String> = (core.membership().voters())
                    .map(|voter| voter.name.clone())
                    .collect();
                return Err(RoleChangeError::Refused(format!(
                    "{text}; the voters are {}: if it was one, and was taken out while it was down, nothing is left to do",
                    voters.join(", ")
                )));
            }
            (Err(Missing::Unknown(text) | Missing::Ambiguous(text)), _)
            | (_, Err(Missing::Unknown(text) | Missing::Ambiguous(text))) => {
                return Err(RoleChangeError::Refused(text));
            }
        }
    }
}

enum Missing {
    Unknown(String),
    Ambiguous(String),
}

fn find_one(known: &BTreeMap<u64, Target>, wanted: &str) -> Result<Target, Missing> {
    let mut named: Vec<&Target> = known
        .values()
        .filter(|target| target.name == wanted)
        .collect();
    let by_id = || {
        let ids = [wanted.parse().ok(), u64::from_str_radix(wanted, 16).ok()];
        ids.into_iter().flatten().find_map(|id| known.get(&id))
    };
    match (named.pop(), named.is_empty()) {
        (Some(only), true) => Ok(only.clone()),
        (Some(one), false) => {
            let ids: Vec<String> = named
                .iter()
                .chain([&one])
                .map(|target| format!("{:x}", target.id))
                .collect();
            Err(Missing::Ambiguous(format!(
                "several nodes are called {wanted}: give one of their ids, {}",
                ids.join(", ")
            )))
        }
        (None, _) => by_id().cloned().ok_or_else(|| {
            Missing::Unknown(format!(
                "no node called {wanted} is in the tree or in the group; `eaves tree` shows all that can be reached, and a listener that \
                 hangs nowhere is found when it is asked itself"
            ))
        }),
    }
}

/// All nodes that can be seen from here: the members of the group, dead ones too, and what the tree says of itself.
async fn known(core: &Arc<Core>) -> BTreeMap<u64, Target> {
    let members = core.membership().members.into_values();
    let mut known: BTreeMap<u64, Target> = members
        .map(|member| {
            let target = Target {
                id: member.id,
                name: member.name,
                peer_address: member.peer_address,
            };
            (target.id, target)
        })
        .collect();
    for row in describe::survey(core, GATHER_TIMEOUT).await.rows {
        let peer_address = row.peer_address().to_string();
        let target = Target {
            id: row.id,
            name: row.name,
            peer_address,
        };
        known.insert(row.id, target);
    }
    known
}
