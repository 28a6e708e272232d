//! What administrators ask for, at any node and at any moment, and what they are told.

use super::faults::Order;
use super::process::Process;
use super::trace;
use eaves::{Node, RoleChange, SteerError, Steered};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long an administrator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause before something that must succeed is asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a node answers with when nothing was to be done.
const ALREADY: &str = "already";

/// All orders.
#[derive(Default)]
pub struct Orders {
    shared: Arc<Mutex<Tallies>>,
    promotions: u64,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    /// Being carried out, as far as who asked knows.
    pub pending: u64,
    /// Carried out, by kind.
    pub done: BTreeMap<&'static str, u64>,
    /// Asked for what was so already.
    pub idle: u64,
    /// Refused, or ended without success.
    pub failed: u64,
    /// The node that was asked went down before it answered.
    pub lost: u64,
}

impl Tallies {
    fn has_done(&mut self, kind: &'static str) {
        *self.done.entry(kind).or_default() += 1;
    }
}

/// An order that waits for its answer.
struct Pending {
    shared: Arc<Mutex<Tallies>>,
    answered: bool,
}

impl Pending {
    fn begin(shared: &Arc<Mutex<Tallies>>) -> Pending {
        shared.lock().unwrap().pending += 1;
        Pending {
            shared: shared.clone(),
            answered: false,
        }
    }

    fn end(mut self, count: impl FnOnce(&mut Tallies)) {
        self.answered = true;
        count(&mut self.shared.lock().unwrap());
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let tallies = &mut *self.shared.lock().unwrap();
        tallies.pending -= 1;
        tallies.lost += u64::from(!self.answered);
    }
}

impl Orders {
    /// Gives an order to a node.
    pub fn give(
        &mut self,
        process: &Process,
        node: Node,
        order: &Order,
        name: impl Fn(usize) -> String,
    ) {
        let role = match order {
            Order::Promote(who) => Some(RoleChange::Promote { node: name(*who) }),
            Order::Demote(who) => Some(RoleChange::Demote { node: name(*who) }),
            Order::Replace { old, new } => Some(RoleChange::Replace {
                old: name(*old),
                new: name(*new),
            }),
            Order::TransferLeader(to) => Some(RoleChange::TransferLeader { to: to.map(&name) }),
            _ => None,
        };
        let pending = Pending::begin(&self.shared);
        let kind = order.kind();
        let Some(role) = role else {
            let steer = Steer::of(order, name);
            process.spawn(async move {
                let answer = timeout(PATIENCE, steer.give(&node)).await;
                trace::note(format_args!("{steer:?}: {answer:?}"));
                pending.end(|tallies| match answer {
                    Ok(Ok(())) => tallies.has_done(kind),
                    _ => tallies.failed += 1,
                });
            });
            return;
        };
        if matches!(
            role,
            RoleChange::Promote { .. } | RoleChange::Replace { .. }
        ) {
            self.promotions += 1;
        }
        process.spawn(async move {
            let answer = timeout(PATIENCE, node.change_role(role.clone(), |_| {})).await;
            trace::note(format_args!("{role:?}: {answer:?}"));
            pending.end(|tallies| match answer {
                Ok(Ok(text)) if text.contains(ALREADY) => tallies.idle += 1,
                Ok(Ok(_)) => tallies.has_done(kind),
                _ => tallies.failed += 1,
            });
        });
    }

    /// Takes back pins, avoided nodes and drains, of all the machines named, again and again until all have heard it.
    pub fn unsteer(&mut self, process: &Process, node: Node, names: Vec<String>) {
        let pending = Pending::begin(&self.shared);
        process.spawn(async move {
            for name in names {
                for steer in Steer::back(&name) {
                    while let Err(SteerError::Unreachable(_) | SteerError::Unknown(_)) =
                        steer.give(&node).await
                    {
                        sleep(AGAIN_AFTER).await;
                    }
                }
            }
            pending.end(|_| {});
        });
    }

    /// Whether any listener may have become, or may still become, a voter.
    pub fn may_have_promoted(&self) -> bool {
        self.promotions > 0
    }

    /// What became of all orders so far.
    pub fn tallies(&self) -> Tallies {
        self.shared.lock().unwrap().clone()
    }
}

/// An order about the tree, with names.
#[derive(Debug)]
enum Steer {
    Kick(String),
    Pin(String, Option<String>),
    Avoid(String, Option<Vec<String>>, bool),
    Drain(String, bool),
}

impl Steer {
    fn of(order: &Order, name: impl Fn(usize) -> String) -> Steer {
        match order {
            Order::Kick(who) => Steer::Kick(name(*who)),
            Order::Pin(who, to) => Steer::Pin(name(*who), to.map(name)),
            Order::Avoid(who, whom, on) => Steer::Avoid(name(*who), Some(vec![name(*whom)]), *on),
            Order::Drain(who, on) => Steer::Drain(name(*who), *on),
            other => unreachable!("{other:?} is no order about the tree"),
        }
    }

    /// What takes back all that may have been asked of a node.
    fn back(name: &str) -> [Steer; 3] {
        [
            Steer::Pin(name.to_string(), None),
            Steer::Avoid(name.to_string(), None, false),
            Steer::Drain(name.to_string(), false),
        ]
    }

    async fn give(&self, node: &Node) -> Result<(), SteerError> {
        let steering = node.steer();
        let done = |_: Steered| ();
        match self {
            Steer::Kick(who) => steering.kick(who).await.map(done),
            Steer::Pin(who, to) => steering.pin(who, to.as_deref()).await.map(done),
            Steer::Avoid(who, whom, on) => {
                steering.avoid(who, whom.as_deref(), *on).await.map(done)
            }
            Steer::Drain(who, true) => steering.drain(who).await.map(|_| ()),
            Steer::Drain(who, false) => steering.undrain(who).await.map(done),
        }
    }
}
