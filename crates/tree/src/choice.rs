//! How a listener came to its upstream: what becomes of each server it asks (`S8`), kept for people to see (`B15`).

use crate::ids::{Address, NodeId};
use crate::message::{Answer, RefuseReason, Role};
use crate::output::Why;
use crate::time::Instant;
use alloc::vec::Vec;

/// How a listener came to its upstream (`B15`): whom it asked, and why each was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Why it looked for an upstream.
    pub why: Why,
    /// When the last round of questions began.
    pub began: Instant,
    /// All that were asked or tried in that round, in that order.
    pub considered: Vec<Considered>,
}

/// One server that was asked or tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Its address.
    pub address: Address,
    /// Who it is, once known.
    pub id: Option<NodeId>,
    /// Its depth, if it answered and was attached.
    pub depth: Option<u32>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a server that was asked or tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Asked; no answer yet.
    Asked,
    /// It could not be reached, or the connection failed.
    Failed,
    /// It did not answer in time.
    Late,
    /// It leads.
    Leader,
    /// It is full.
    Full,
    /// It is detached.
    Detached,
    /// It is this node, or below it.
    Loop,
    /// Its path is as long as a path may be.
    TooDeep,
    /// It is the detached upstream that is to be left.
    Current,
    /// It would have taken the listener, but another ranked better.
    Eligible,
    /// It was asked to register the listener.
    Registering,
    /// It refused.
    Refused(RefuseReason),
    /// It accepted.
    Accepted,
}

/// What an answer is worth to the listener `me` whose detached upstream, if it has one, is `current` (`S8`, `B1`).
pub(crate) fn judge(me: NodeId, current: Option<NodeId>, answer: &Answer) -> Verdict {
    if answer.path.contains(me) {
        Verdict::Loop
    } else if answer.role == Role::Leader {
        Verdict::Leader
    } else if !answer.attached {
        Verdict::Detached
    } else if answer.path.is_full() {
        Verdict::TooDeep
    } else if answer.registered >= answer.capacity {
        Verdict::Full
    } else if current == Some(answer.id()) {
        Verdict::Current
    } else {
        Verdict::Eligible
    }
}
