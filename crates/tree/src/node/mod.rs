//! The state machine of one node: what comes in, what goes out, what can be seen. What it does as an upstream is in
//! `upstream.rs`, as a listener in `listener.rs`, while it looks for an upstream `searching.rs` and, if it has one already,
//! `moving.rs`; as a voter in `voter.rs`; for an administrator in `steering.rs`. What it keeps on disk is in `keeping.rs`.

mod keeping;
mod listener;
mod moving;
mod searching;
mod steering;
mod upstream;
mod voter;

pub use voter::{Voter, VoterState};

use crate::choice::Choice;
use crate::config::Config;
use crate::downstreams::{Downstream, Downstreams};
use crate::freshness::Freshness;
use crate::ids::{Address, LinkId, LogEnd, LogPosition, NodeId, Peer};
use crate::message::{FreePlaces, Heartbeat, Message, OwnLog, Register, Role, Saved};
use crate::mutation::Mutation;
use crate::output::{Event, Output, Why};
use crate::path::Path;
use crate::rng::Rng;
use crate::search::Search;
use crate::session::{Session, Upstream};
use crate::time::Instant;
use crate::timers::{Timer, Timers};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// The protocol state of one node, voter or listener.
///
/// # How to drive it
///
/// 1. Report what happens with `handle_*(now, ..)`, one at a time. `now` never goes back.
/// 2. After each report call [`poll_output`](Self::poll_output) until it returns `None`, and do each output in that order.
/// 3. Call [`handle_timeout`](Self::handle_timeout) at the time [`poll_timeout`](Self::poll_timeout) returns; ask for it
///    again after every report. Being late is harmless. But a driver that has slept long should report what has come in the
///    meantime before the timeout, or everybody looks silent.
///
/// # Invariants
///
/// Checked after every report, here in the same names as in `docs/listener-tree.md`:
/// - **capacity**: registered downstreams never exceed N.
/// - **leader-feeds-none**: a node that knows itself leader has no downstream after the report that told it.
/// - **path-ends-here**: the path ends with this node, which is on it only once; it is the whole path of a node that has
///   no upstream.
/// - **voter-has-no-upstream**: a voter has neither a session with an upstream nor a search for one.
/// - **never-stuck**: a detached listener that knows any server to ask has a timer set that makes it go on, or waits for its
///   new list to be on disk; one that is attached and should be elsewhere looks for another place, or has a timer set to.
/// - **uncompared-feeds-none**: a node whose log has not been compared since it started has no downstream (`B11`).
/// - **steering-not-contradictory**: the pinned node is not avoided.
#[derive(Debug)]
pub struct TreeNode {
    config: Config,
    rng: Rng,
    timers: Timers,
    outputs: VecDeque<Output>,
    role: Role,
    path: Path,
    fresh: Freshness,
    committed: LogPosition,
    /// Whether what it holds is a prefix of the committed log for sure, and so is all it takes in from now on (`B11`): it held
    /// nothing when it started, or somebody who knows has compared it.
    compared: bool,
    /// The other voters, best first (`B2`).
    voters: Vec<Peer>,
    /// Who leads, as a voter knows it.
    leader: Option<NodeId>,
    /// Who led before, as a voter knew it.
    former_leader: Option<NodeId>,
    downstreams: Downstreams,
    session: Option<Session>,
    search: Option<Search>,
    last_choice: Option<Choice>,
    last_look: Option<Choice>,
    /// Why the listener should be elsewhere, though it is attached.
    wish: Option<Why>,
    /// Looks for another place that found none, since the wish changed.
    vain_looks: u32,
    /// When it moved to better places (`B7`).
    improved: Vec<Instant>,
    /// Who kicked it because an administrator asked for it, and until when not to go back there (`S12`).
    kicker: Option<(NodeId, Instant)>,
    saved: Saved,
    /// The version of the last [`Output::Persist`].
    saved_version: u64,
    /// A new list, which is not to be used before this version is on disk (`S6`).
    new_list: Option<(u64, Vec<Address>)>,
    /// Rounds that found no place since the listener was last attached for a timeout (`B2`).
    failed_rounds: u32,
    /// Counts the connections to upstreams.
    last_link: u64,
}

impl TreeNode {
    /// A voter that starts with what an earlier run left on disk, if anything. It is stale until it hears a leader.
    pub fn voter(config: Config, saved: Saved, seed: u64) -> TreeNode {
        // What a voter knows committed Raft has said.
        TreeNode::new(config, Role::Follower, saved, true, seed)
    }

    /// A listener that starts with what an earlier run left on disk, if anything. If it knows any server it begins to search
    /// at once, or, if it knows only one, after a random while (`B19`). Otherwise it waits for
    /// [`handle_upstream_list`](Self::handle_upstream_list) or [`handle_voters`](Self::handle_voters).
    pub fn listener(
        now: Instant,
        config: Config,
        saved: Saved,
        log: OwnLog,
        seed: u64,
    ) -> TreeNode {
        let compared = log == OwnLog::Empty;
        let mut node = TreeNode::new(config, Role::Listener, saved, compared, seed);
        node.restart(now);
        node.check();
        node
    }

    fn new(config: Config, role: Role, saved: Saved, compared: bool, seed: u64) -> TreeNode {
        config.check();
        TreeNode {
            path: Path::of(config.id),
            downstreams: Downstreams::new(config.capacity, !config.lacks(Mutation::S9)),
            config,
            rng: Rng::new(seed),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            role,
            fresh: Freshness::default(),
            committed: LogPosition::default(),
            compared,
            voters: Vec::new(),
            leader: None,
            former_leader: None,
            session: None,
            search: None,
            last_choice: None,
            last_look: None,
            wish: None,
            vain_looks: 0,
            improved: Vec::new(),
            kicker: None,
            saved,
            saved_version: 0,
            new_list: None,
            failed_rounds: 0,
            last_link: 0,
        }
    }

    // Inputs. Those of a voter are in voter.rs, those about downstreams in upstream.rs, those about the upstream in
    // listener.rs; here are those that concern both sides.

    /// A message came on a session. One that has no business there ends the session: peers are not trusted to behave.
    pub fn handle_session_message(&mut self, now: Instant, link: LinkId, message: Message) {
        match link {
            LinkId::Up(_) => self.handle_upstream_message(now, link, message),
            LinkId::Down(_) => self.handle_downstream_message(now, link, message),
        }
        self.check();
    }

    /// Something else came on a session, an entry for instance: its sender is alive (`S11`, `S13`). Cheap; call it as often
    /// as it happens.
    pub fn handle_heard(&mut self, now: Instant, link: LinkId) {
        match link {
            LinkId::Up(_) => {
                if let Some(session) = self
                    .session
                    .as_mut()
                    .filter(|session| session.upstream.link == link)
                {
                    session.upstream.heard = now;
                }
            }
            LinkId::Down(_) => {
                if let Some(downstream) = self.downstreams.get_mut(link) {
                    downstream.heard = now;
                }
            }
        }
    }

    /// A connection closed, or could not be opened. Counts at once (`S11`, `S13`).
    pub fn handle_link_closed(&mut self, now: Instant, link: LinkId) {
        match link {
            LinkId::Up(_) => self.upstream_link_closed(now, link),
            LinkId::Down(_) => self.downstream_link_closed(link),
        }
        self.check();
    }

    /// This node's own committed position moved. Cheap; call it as often as it happens.
    pub fn handle_committed(&mut self, committed: LogPosition) {
        self.committed = committed;
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        for timer in Timer::ALL {
            if !self.timers.take_due(timer, now) {
                continue;
            }
            match timer {
                Timer::Heartbeat => self.heartbeat_downstreams(now),
                Timer::Reap => self.kick_silent(now),
                Timer::Silence => self.look_for_silence(now),
                Timer::Probe => self.give_up_late_questions(now),
                Timer::Settle => self.settle(now),
                Timer::Registration => self.give_up_registration(now),
                Timer::Retry => self.begin_round(now),
                Timer::Grace => self.give_up_head(now),
                Timer::Steady => self.failed_rounds = 0,
                Timer::Look => self.look(now),
                Timer::Drain => self.kick_undrained(),
                Timer::Patience => self.end_patience(now),
            }
        }
        self.check();
    }

    // Outputs.

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next, if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    // Getters.

    /// The registration to send first on a session that [`Output::Connect`] asked for. `last_log` is where this node's log
    /// ends at that moment (`B12`).
    pub fn register(&self, last_log: LogEnd) -> Register {
        Register {
            listener: self.peer(),
            zone: self.config.zone.clone(),
            cluster: self.config.cluster,
            protocol: crate::config::PROTOCOL_VERSION,
            last_log,
            uncompared: !self.compared,
            free: self.free_places(),
        }
    }

    /// What this node was told once.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What this node is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The ids from the root, or the detached head, down to this node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This node's depth, if it is attached.
    pub fn depth(&self) -> Option<u32> {
        self.is_attached().then(|| self.path.depth())
    }

    /// Whether this node is a voter or its chain of upstreams ends at one.
    pub fn is_attached(&self) -> bool {
        match self.role {
            Role::Leader | Role::Follower => true,
            Role::Listener => self
                .session
                .as_ref()
                .is_some_and(|session| session.attached),
        }
    }

    /// Whether this node is stale: attached, but used only when nothing fresher exists (`B8`).
    pub fn is_stale(&self, now: Instant) -> bool {
        match self.role {
            Role::Leader => false,
            Role::Follower => self.age(now) >= self.config.stale_voter,
            Role::Listener => {
                let told = self.session.as_ref().is_some_and(|session| session.stale);
                told || self.age(now) >= self.config.stale_chain
            }
        }
    }

    /// How old the last word from a leader is; `Duration::MAX` if there never was one (`B8`).
    pub fn age(&self, now: Instant) -> Duration {
        match self.role {
            Role::Leader => Duration::ZERO,
            Role::Follower | Role::Listener => self.fresh.age(now),
        }
    }

    /// Who leads the group, as far as this node knows; `None` on a node that is not attached, where it would mean nothing.
    pub fn leader(&self) -> Option<NodeId> {
        match self.role {
            Role::Leader | Role::Follower => self.leader,
            Role::Listener => {
                self.session
                    .as_ref()
                    .filter(|session| session.attached)?
                    .leader
            }
        }
    }

    /// The group's voters as far as this node knows, itself left out, best first (`B2`).
    pub fn voters(&self) -> &[Peer] {
        &self.voters
    }

    /// Who feeds this listener, if anybody.
    pub fn upstream(&self) -> Option<&Upstream> {
        self.session.as_ref().map(|session| &session.upstream)
    }

    /// The listeners registered here.
    pub fn downstreams(&self) -> impl Iterator<Item = &Downstream> {
        self.downstreams.iter()
    }

    /// How many listeners are registered here.
    pub fn registered(&self) -> u32 {
        self.downstreams.len()
    }

    /// Up to where this node knows the log committed.
    pub fn committed(&self) -> LogPosition {
        self.committed
    }

    /// What this node keeps on disk.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// The version of the last [`Output::Persist`]: what has been asked of this node so far is on disk once this version is.
    pub fn saved_version(&self) -> u64 {
        self.saved_version
    }

    /// How this listener came to its upstream, or how the search for one goes while it has none (`B15`).
    pub fn last_choice(&self) -> Option<&Choice> {
        self.search
            .as_ref()
            .filter(|_| !self.is_attached())
            .map(Search::choice)
            .or(self.last_choice.as_ref())
    }

    /// How the last look for another place went that found none, or how the present one goes: why this listener is still
    /// where it is (`B7`, `B15`).
    pub fn last_look(&self) -> Option<&Choice> {
        self.search
            .as_ref()
            .filter(|_| self.is_attached())
            .map(Search::choice)
            .or(self.last_look.as_ref())
    }

    // What both sides lean on.

    fn peer(&self) -> Peer {
        Peer {
            id: self.config.id,
            address: self.config.address.clone(),
        }
    }

    fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn event(&mut self, event: Event) {
        self.output(Output::Event(event));
    }

    fn send(&mut self, link: LinkId, message: Message) {
        self.output(Output::Send { link, message });
    }

    /// What this node says about itself now.
    fn state(&self, now: Instant) -> Heartbeat {
        Heartbeat {
            path: self.path.clone(),
            attached: self.is_attached(),
            stale: self.is_stale(now),
            leader: self.leader(),
            age: self.age(now),
            draining: self.saved.steering.draining,
            free_depth: self.free_depth(),
            committed: self.committed,
        }
    }

    /// Whether what this node holds may be passed on (`B11`).
    fn may_feed(&self) -> bool {
        self.compared || self.config.lacks(Mutation::B11)
    }

    /// The free places of this node's subtree (`B4`). A draining node offers none: who came would have to leave again.
    fn free_places(&self) -> FreePlaces {
        if self.saved.steering.draining || self.role == Role::Leader || !self.may_feed() {
            return FreePlaces::default();
        }
        self.downstreams.free_places(self.committed)
    }

    /// How deep the least deep node with a free slot is, in the whole tree (`B7`). What comes up with the answers to
    /// heartbeats grows by one at each level, so that a root, whose depth is zero, has the depth itself; from there it goes
    /// down unchanged.
    fn free_depth(&self) -> Option<u32> {
        match self.role {
            Role::Leader => None,
            Role::Follower => {
                let free = self.free_places();
                (free.slots > 0).then_some(free.levels)
            }
            Role::Listener => {
                let session = self.session.as_ref().filter(|session| session.attached)?;
                session.free_depth
            }
        }
    }

    /// Asserts the invariants.
    fn check(&self) {
        let id = self.config.id;
        assert!(
            self.downstreams.len() <= self.config.capacity || self.config.lacks(Mutation::S9),
            "capacity: {id} has more downstreams than N"
        );
        assert!(
            self.role != Role::Leader
                || self.downstreams.is_empty()
                || self.config.lacks(Mutation::S10),
            "leader-feeds-none: {id} leads and feeds"
        );
        assert!(
            self.may_feed() || self.downstreams.is_empty(),
            "uncompared-feeds-none: {id} feeds what nobody has compared"
        );
        assert!(
            self.path.last() == id,
            "path-ends-here: the path of {id} ends elsewhere"
        );
        assert!(
            self.config.lacks(Mutation::B1)
                || !self.path.ids()[..self.path.ids().len() - 1].contains(&id),
            "path-ends-here: {id} is above itself"
        );
        assert!(
            self.session.is_some() == (self.path.depth() > 0),
            "path-ends-here: {id} has a path without an upstream"
        );
        assert!(
            !self
                .saved
                .steering
                .pin
                .as_ref()
                .is_some_and(|pin| self.saved.steering.avoids(pin.id)),
            "steering-not-contradictory: {id} is pinned to a node that it avoids"
        );
        if self.role != Role::Listener {
            assert!(
                self.session.is_none(),
                "voter-has-no-upstream: voter {id} has one"
            );
            assert!(
                self.search.is_none(),
                "voter-has-no-upstream: voter {id} looks for one"
            );
        } else if self.is_attached() {
            assert!(
                self.wish.is_none() || self.search.is_some() || self.timers.is_set(Timer::Look),
                "never-stuck: attached {id} should be elsewhere and does not look"
            );
        } else if self.knows_servers() {
            let timers = [
                Timer::Probe,
                Timer::Registration,
                Timer::Retry,
                Timer::Grace,
            ];
            assert!(
                self.new_list.is_some() || timers.iter().any(|&timer| self.timers.is_set(timer)),
                "never-stuck: detached {id} waits for nothing"
            );
        }
    }

    /// Whether there is any server to look for a place at.
    fn knows_servers(&self) -> bool {
        !(self.saved.upstreams.is_empty()
            && self.saved.learned.is_empty()
            && self.saved.steering.pin.is_none())
    }
}

/// The addresses of a list that came from outside: each once, in order, not too many.
fn sanitized(addresses: Vec<Address>, most: usize) -> Vec<Address> {
    let mut list: Vec<Address> = Vec::with_capacity(addresses.len().min(most));
    for address in addresses {
        if list.len() < most && !list.contains(&address) {
            list.push(address);
        }
    }
    list
}
