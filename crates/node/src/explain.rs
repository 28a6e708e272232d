//! Why a listener hangs where it hangs (B15): the candidates of its last choice, and what became of each, in words.

use crate::describe::{milliseconds, peer_bytes};
use crate::message::PeerAtBytes;
use crate::tree_loop::peer_at;
use eaves_tree::{Choice, Considered, Instant, TreeNode, Verdict};
use prost::Message;

/// What a node tells about its place.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Explained {
    #[prost(message, optional, tag = "1")]
    pub upstream: Option<PeerAtBytes>,
    #[prost(uint32, optional, tag = "2")]
    pub depth: Option<u32>,
    /// Since how long it has its upstream.
    #[prost(uint64, optional, tag = "3")]
    pub fed_for_ms: Option<u64>,
    /// Absent for a voter, and for a listener that has not looked for a place yet.
    #[prost(message, optional, tag = "4")]
    pub choice: Option<ChoiceBytes>,
    /// Its last look for another place that found none, or the one under way; absent when it has not looked since it is there.
    #[prost(message, optional, tag = "7")]
    pub look: Option<ChoiceBytes>,
    /// The list of upstream servers it was given (S6).
    #[prost(string, repeated, tag = "5")]
    pub upstream_list: Vec<String>,
    /// The peers it has learned of (B5).
    #[prost(message, repeated, tag = "6")]
    pub learned: Vec<PeerAtBytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChoiceBytes {
    /// Why it looked for an upstream.
    #[prost(string, tag = "1")]
    pub why: String,
    /// How long ago its last round of questions began.
    #[prost(uint64, tag = "2")]
    pub ago_ms: u64,
    #[prost(message, repeated, tag = "3")]
    pub candidates: Vec<CandidateBytes>,
    /// Whether somebody still has to answer.
    #[prost(bool, tag = "4")]
    pub under_way: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CandidateBytes {
    #[prost(uint64, optional, tag = "1")]
    pub id: Option<u64>,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(uint32, optional, tag = "3")]
    pub depth: Option<u32>,
    /// What became of it.
    #[prost(string, tag = "4")]
    pub verdict: String,
    #[prost(bool, tag = "5")]
    pub accepted: bool,
}

/// What the protocol's state says.
pub(crate) fn explain(tree: &TreeNode, now: Instant) -> Explained {
    let upstream = tree.upstream();
    let saved = tree.saved();
    Explained {
        upstream: upstream.map(|upstream| peer_bytes(&peer_at(&upstream.peer))),
        depth: tree.depth(),
        fed_for_ms: upstream.map(|upstream| milliseconds(now.since(upstream.since))),
        choice: tree.last_choice().map(|choice| choice_bytes(choice, now)),
        look: tree.last_look().map(|look| choice_bytes(look, now)),
        upstream_list: saved.upstreams.iter().map(ToString::to_string).collect(),
        learned: saved
            .learned
            .iter()
            .map(|peer| peer_bytes(&peer_at(peer)))
            .collect(),
    }
}

fn choice_bytes(choice: &Choice, now: Instant) -> ChoiceBytes {
    ChoiceBytes {
        why: choice.why.to_string(),
        ago_ms: milliseconds(now.since(choice.began)),
        candidates: choice.considered.iter().map(candidate).collect(),
        under_way: choice.considered.iter().any(is_open),
    }
}

fn is_open(considered: &Considered) -> bool {
    matches!(considered.verdict, Verdict::Asked | Verdict::Registering)
}

fn candidate(considered: &Considered) -> CandidateBytes {
    CandidateBytes {
        id: considered.id.map(|id| id.0),
        address: considered.address.to_string(),
        depth: considered.depth,
        verdict: in_words(considered.verdict),
        accepted: considered.verdict == Verdict::Accepted,
    }
}

/// A verdict as the end of a sentence that begins with the candidate's name.
fn in_words(verdict: Verdict) -> String {
    let text = match verdict {
        Verdict::Asked => "was asked and has not answered yet",
        Verdict::Failed => "could not be reached",
        Verdict::Late => "did not answer in time",
        Verdict::Leader => "leads, and a leader feeds nobody (S1)",
        Verdict::Full => "is full",
        Verdict::Busy => "is overloaded, and is asked again later",
        Verdict::Detached => "is detached itself",
        Verdict::Loop => "is this listener itself or hangs below it",
        Verdict::TooDeep => "is at the end of the longest path that is allowed",
        Verdict::Draining => "is draining",
        Verdict::Uncompared => "takes nobody on before its own log is compared (B11)",
        Verdict::Avoided => "is to be avoided",
        Verdict::Kicker => "has just kicked it off",
        Verdict::Current => "is the upstream it had",
        Verdict::NotFresher => "is not fresher than the upstream it had",
        Verdict::NotBetter => "is not better than the upstream it had",
        Verdict::OutOfOrder => "is better, but two that move at once could adopt each other (B1)",
        Verdict::Eligible => "would have taken it, another was better",
        Verdict::Registering => "was chosen and has not accepted yet",
        Verdict::Refused(reason) => return format!("refused: {reason}"),
        Verdict::Accepted => "accepted",
    };
    text.into()
}
