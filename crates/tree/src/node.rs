//! The state machine of one node.

use crate::config::Config;
use crate::ids::{Address, LinkId, LogEnd, LogPosition, NodeId, Peer};
use crate::message::{Answer, LogVerdict, Message, RefuseReason, Register, Role, Saved};
use crate::output::{Output, Why};
use crate::path::Path;
use crate::time::Instant;
use alloc::vec::Vec;
use core::time::Duration;

/// The protocol state of one node, voter or listener.
///
/// # How to drive it
///
/// 1. Report what happens with `handle_*(now, ..)`. `now` never goes back.
/// 2. After each report call [`poll_output`](Self::poll_output) until it returns `None` and do each output in order.
/// 3. Call [`handle_timeout`](Self::handle_timeout) at the time [`poll_timeout`](Self::poll_timeout) returns; ask again
///    after every report.
pub struct TreeNode {
    config: Config,
}

/// What a voter knows about its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterState {
    /// Who leads, as far as this voter knows; itself if it leads.
    pub leader: Option<NodeId>,
    /// All voters, this one included or not.
    pub voters: Vec<Voter>,
}

/// A voter as another voter knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Who and where.
    pub peer: Peer,
    /// How long ago it was last heard; `None` if it was not.
    pub heard: Option<Duration>,
}

/// The session a listener is fed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Who feeds it.
    pub peer: Peer,
    /// On which connection.
    pub link: LinkId,
    /// Since when.
    pub since: Instant,
    /// When it was last heard.
    pub heard: Instant,
    /// Up to where it knows the log committed.
    pub committed: LogPosition,
}

/// A listener that is registered here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// Who it is.
    pub peer: Peer,
    /// On which connection.
    pub link: LinkId,
    /// Its zone.
    pub zone: Option<crate::ids::Zone>,
    /// Since when it is registered.
    pub since: Instant,
    /// When it was last heard.
    pub heard: Instant,
    /// Up to where it held the committed log when it last said so.
    pub committed: LogPosition,
    /// The free places of its subtree when it last said so, less those given out since (`B4`).
    pub free: crate::message::FreePlaces,
}

/// How a listener came to its upstream (`B15`): whom it asked, and why each was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Why it looked for an upstream.
    pub why: Why,
    /// When the round of questions began.
    pub began: Instant,
    /// All that were asked or tried, in that order.
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
    /// It could not be reached, or the question failed.
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
    /// It is the upstream that is to be left.
    Current,
    /// It would take the listener.
    Eligible,
    /// It was tried.
    Registering,
    /// It refused.
    Refused(RefuseReason),
    /// It accepted.
    Accepted,
}

impl TreeNode {
    /// A voter. It is stale until it has heard a leader, and feeds nobody until it knows that it does not lead.
    pub fn voter(config: Config, seed: u64) -> TreeNode {
        TreeNode { config }
    }

    /// A listener that starts with what an earlier run left on disk, if anything. With a saved list it begins to search at
    /// once; without one it waits for [`handle_upstream_list`](Self::handle_upstream_list).
    pub fn listener(now: Instant, config: Config, saved: Saved, seed: u64) -> TreeNode {
        TreeNode { config }
    }

    // Inputs.

    /// A voter's view of its group has changed: who leads, who votes. Becoming leader kicks all downstreams (`S10`).
    pub fn handle_voter_state(&mut self, now: Instant, state: VoterState) {}

    /// A voter has heard its leader. Cheap; call it as often as it happens (`B8`).
    pub fn handle_leader_heard(&mut self, now: Instant) {}

    /// A listener has read the group's voters from the log (`B5`).
    pub fn handle_voters(&mut self, now: Instant, voters: Vec<Peer>) {}

    /// A listener is given its list of upstream servers, first or anew (`S6`, `S14`). It is persisted before it is used.
    pub fn handle_upstream_list(&mut self, now: Instant, upstreams: Vec<Address>) {}

    /// The given version of [`Output::Persist`] is on disk.
    pub fn handle_persisted(&mut self, now: Instant, version: u64) {}

    /// A question was answered, in time or late.
    pub fn handle_answer(&mut self, now: Instant, from: &Address, answer: Answer) {}

    /// A question could not be asked, or its connection failed.
    pub fn handle_ask_failed(&mut self, now: Instant, to: &Address) {}

    /// A node asks (`S7`).
    pub fn handle_ask(&mut self, now: Instant, from: NodeId) -> Answer {
        loop {}
    }

    /// A listener asks to be fed, on a connection this side has numbered `link` (`S9`). `log` is what this node's log says
    /// about the listener's (`B12`).
    pub fn handle_register(
        &mut self,
        now: Instant,
        link: LinkId,
        register: Register,
        log: LogVerdict,
    ) {
    }

    /// A message came on a session.
    pub fn handle_session_message(&mut self, now: Instant, link: LinkId, message: Message) {}

    /// Something else came on a session, an entry for instance: its sender is alive (`S11`, `S13`).
    pub fn handle_heard(&mut self, now: Instant, link: LinkId) {}

    /// A connection closed, or could not be opened. Counts at once (`S11`, `S13`).
    pub fn handle_link_closed(&mut self, now: Instant, link: LinkId) {}

    /// This node's own committed position moved. Cheap; call it as often as it happens.
    pub fn handle_committed(&mut self, committed: LogPosition) {}

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub fn handle_timeout(&mut self, now: Instant) {}

    // Commands.

    /// A listener becomes a voter (`B16`): leaves its upstream, keeps its downstreams, is their root from now on.
    pub fn become_voter(&mut self, now: Instant) {}

    /// A voter becomes a listener (`B16`): keeps its downstreams and looks for an upstream.
    pub fn become_listener(&mut self, now: Instant, saved: Saved) {}

    /// Kicks a downstream off (`S12`). Returns whether it was registered.
    pub fn kick(&mut self, now: Instant, listener: NodeId) -> bool {
        false
    }

    // Outputs.

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next, if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    // Getters.

    /// The registration to send first on a session that [`Output::Connect`] asked for. `last_log` is where this node's log
    /// ends.
    pub fn register(&self, last_log: LogEnd) -> Register {
        loop {}
    }

    /// What this node was told once.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What this node is.
    pub fn role(&self) -> Role {
        Role::Listener
    }

    /// The ids from the root, or the detached head, down to this node.
    pub fn path(&self) -> &Path {
        loop {}
    }

    /// This node's depth, if it is attached.
    pub fn depth(&self) -> Option<u32> {
        None
    }

    /// Whether this node is a voter or its chain of upstreams ends at one.
    pub fn is_attached(&self) -> bool {
        false
    }

    /// Whether this node is stale (`B8`).
    pub fn is_stale(&self, now: Instant) -> bool {
        false
    }

    /// How old the last word from a leader is; `Duration::MAX` if there never was one (`B8`).
    pub fn age(&self, now: Instant) -> Duration {
        Duration::MAX
    }

    /// Who leads the group, as far as this node knows. Means nothing on a node that is not attached.
    pub fn leader(&self) -> Option<NodeId> {
        None
    }

    /// The group's voters as far as this node knows, best first.
    pub fn voters(&self) -> &[Peer] {
        &[]
    }

    /// Who feeds this listener, if anybody.
    pub fn upstream(&self) -> Option<&Upstream> {
        None
    }

    /// The listeners registered here.
    pub fn downstreams(&self) -> impl Iterator<Item = &Downstream> {
        [].iter()
    }

    /// What this listener keeps on disk.
    pub fn saved(&self) -> &Saved {
        loop {}
    }

    /// How the listener came to its upstream, or how the search for one goes (`B15`).
    pub fn last_choice(&self) -> Option<&Choice> {
        None
    }
}
