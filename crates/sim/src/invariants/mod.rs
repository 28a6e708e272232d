//! What must hold, by the names of `docs/listener-tree.md`: one invariant, one file. Safety is checked on the way, on whatever an
//! event has touched; liveness when the faults are over.
//!
//! | name | file |
//! | --- | --- |
//! | log-prefix | `log_prefix.rs` |
//! | leader-feeds-none, capacity, monotonic, list-on-disk | `node.rs` |
//! | no-vote, one-vote-per-term, durable-before-acknowledged | `group.rs` |
//! | loop-broken | `loops.rs` |
//! | fresh-first (`B8`), subtree-together (`B3`) | `choices.rs` |
//! | nothing-overwritten (`B12`) | `log_prefix.rs` |
//! | no-flapping (`B7`) | `moves.rs` |
//! | reattach, true-views, min-depth | `liveness.rs` |

pub mod choices;
mod group;
pub mod liveness;
mod log_prefix;
pub mod loops;
pub mod moves;
mod node;

use crate::engine::Micros;
use crate::host::Host;
use crate::log::VoterSet;
use crate::network::Network;
use crate::raft::RaftMessage;
use eaves_tree::{Event, LinkId};

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which invariant does not hold.
    pub invariant: &'static str,
    /// When that was seen.
    pub at: Micros,
    /// What was seen.
    pub what: String,
}

/// A broken invariant and what was seen of it.
pub(crate) type Broken = (&'static str, String);

/// Everything that is checked while things happen. Keeps the first violation; what comes after it proves nothing.
pub struct Checks {
    /// The first thing that was found wrong.
    pub violation: Option<Violation>,
    /// The log of the group as far as anybody has known it committed.
    pub log: log_prefix::CommittedLog,
    /// Who voted for whom.
    votes: group::Votes,
    /// Loops there are and were.
    pub loops: loops::Loops,
    /// Who was told what while choosing.
    pub choices: choices::Choices,
    /// Who moved.
    moves: moves::Moves,
    /// Where each node was when it was last looked at.
    seen: node::Seen,
}

impl Checks {
    /// Nothing has happened yet.
    pub fn new(hosts: usize, founders: VoterSet) -> Checks {
        Checks {
            violation: None,
            log: log_prefix::CommittedLog::new(founders),
            votes: Default::default(),
            loops: Default::default(),
            choices: choices::Choices::new(hosts),
            moves: Default::default(),
            seen: node::Seen::new(hosts),
        }
    }

    /// Keeps what is found broken.
    pub(crate) fn expect(&mut self, now: Micros, held: Result<(), Broken>) {
        if let (None, Err((invariant, what))) = (&self.violation, held) {
            self.violation = Some(Violation {
                invariant,
                at: now,
                what,
            });
        }
    }

    /// A node was told something, or its timers went off.
    pub(crate) fn node(&mut self, now: Micros, number: u32, host: &Host) {
        let held = self.seen.look(number, host);
        self.expect(now, held);
    }

    /// A process has started.
    pub(crate) fn started(&mut self, number: u32) {
        self.seen.forget(number);
        self.choices.forget(number);
    }

    /// A version of what a listener keeps has reached its disk.
    pub(crate) fn list_is_on_disk(&mut self, now: Micros, number: u32, host: &Host) {
        self.expect(now, node::list_is_on_disk(number, host));
    }

    /// A listener was told that its log differs from its upstream's.
    pub(crate) fn told_to_differ(&mut self, now: Micros, number: u32, hosts: &[Host]) {
        self.expect(now, log_prefix::may_be_told(number, hosts));
    }

    /// An upstream has decided about a registration on a connection; its log `differs` from the listener's.
    pub(crate) fn registered(
        &mut self,
        now: Micros,
        upstream: (u32, LinkId),
        listener: u32,
        differs: bool,
        hosts: &[Host],
    ) {
        if differs {
            self.expect(now, log_prefix::is_refused(upstream, listener, hosts));
        }
    }

    /// A listener follows somebody from now on.
    pub(crate) fn follows(
        &mut self,
        now: Micros,
        number: u32,
        upstream: u32,
        hosts: &[Host],
        network: &Network,
    ) {
        let held = self.loops.follows(now, number, upstream, hosts, network);
        self.expect(now, held);
    }

    /// Time has passed.
    pub(crate) fn loops_are_broken(&mut self, now: Micros, hosts: &[Host], network: &Network) {
        let held = self.loops.look(now, hosts, network);
        self.expect(now, held);
    }

    /// A node has said something for people to see.
    pub(crate) fn event(&mut self, now: Micros, number: u32, event: &Event, hosts: &[Host]) {
        self.choices
            .event(now, number, event, &hosts[number as usize]);
        let held = self
            .moves
            .event(now, number, event, self.loops.quiet, hosts);
        self.expect(now, held);
        if let Event::Refused { by, reason } = event {
            let by = crate::host::host_at(by);
            self.expect(now, log_prefix::may_be_refused(number, by, *reason, hosts));
        }
    }

    /// A listener asks, or registers, while it has an upstream.
    pub(crate) fn searches(&mut self, now: Micros, number: u32, host: &Host) {
        let held = self.choices.may_search(now, number, host);
        self.expect(now, held);
    }

    /// A listener registers with somebody.
    pub(crate) fn registers(&mut self, now: Micros, number: u32, upstream: u32, host: &Host) {
        self.searches(now, number, host);
        let held = self.choices.chooses(number, upstream, host);
        self.expect(now, held);
    }

    /// A voter has become leader.
    pub(crate) fn elected(&mut self, now: Micros, number: u32, hosts: &[Host]) {
        let held = self.votes.elected(number, hosts);
        self.expect(now, held);
    }

    /// A voter knows more of the log committed than up to `before`.
    pub(crate) fn committed(&mut self, now: Micros, number: u32, before: u64, hosts: &[Host]) {
        let held = group::is_held_by_a_quorum(number, hosts);
        self.expect(now, held);
        let held = self.log.committed(number, &hosts[number as usize], before);
        self.expect(now, held);
    }

    /// A voter says something to another.
    pub(crate) fn sends(
        &mut self,
        now: Micros,
        from: u32,
        to: u32,
        message: &RaftMessage,
        hosts: &[Host],
    ) {
        let held = self.votes.sends(from, to, message, hosts);
        self.expect(now, held);
    }
}
