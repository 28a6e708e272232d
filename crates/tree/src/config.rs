//! What one node is told once: who it is, and the times and bounds of the protocol with their defaults.

use crate::ids::{Address, ClusterId, NodeId, Zone};
use core::time::Duration;

#[cfg(feature = "mutations")]
use crate::mutation::Mutation;

/// The version of the protocol this crate speaks. Nodes of different versions do not register with each other (`B12`).
pub const PROTOCOL_VERSION: u32 = 1;

/// How many servers are asked at a time (`S7`): all of a short list, four at a time of a long one.
pub const ASKED_AT_ONCE: usize = 4;

/// How many downstreams an answer, refusal or kick names beside the voters (`B2`).
pub const DOWNSTREAMS_NAMED: usize = 2;

/// How many learned peers are kept (`B5`).
pub const LEARNED_MAX: usize = 16;

/// How many upstream servers a list may hold. Longer ones are cut.
pub const UPSTREAMS_MAX: usize = 1024;

/// How many moves to a better place a listener makes in [`IMPROVEMENT_WINDOW`] at most (`B7`).
pub const IMPROVEMENTS_MAX: usize = 3;

/// See [`IMPROVEMENTS_MAX`]: an hour.
pub const IMPROVEMENT_WINDOW: Duration = Duration::from_secs(3600);

/// How many servers of a choice are kept once it is made (`B15`).
pub const CONSIDERED_MAX: usize = 64;

/// How long questions may wait at a node (`B19`): half the time an asker waits for its answer. While they wait longer, a driver
/// answers further ones with "busy" at once, before it does any work for them. Putting askers off earlier only makes a crowd
/// slower: a hundred thousand that ask one node at 10 us each are answered within the second if they wait, and within two and
/// more if most are told to come back.
pub const QUESTION_WAIT_MAX: Duration = Duration::from_secs(1);

/// How many questions may wait at a node, however fast it is, so that its memory is bounded.
pub const QUESTIONS_WAITING_MAX: usize = 1 << 16;

/// When a listener is to ask a busy node again (`B19`), unless that says otherwise. The listener adds up to as much again, so
/// that a crowd does not come back together.
pub const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest that a listener lets itself be put off by a busy node (`B19`).
pub const BUSY_RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// How many levels below a detached head the patience of `B3` still grows.
pub const GRACE_LEVELS_MAX: u32 = 4;

/// How many questions one round of a search asks at most beyond the configured list, so that a round ends even in a large
/// tree without a free place.
pub const ROUND_QUESTIONS_MAX: usize = 256;

/// What one node is told once. Build it with [`Config::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Where the others find it.
    pub address: Address,
    /// The cluster it belongs to (`B12`).
    pub cluster: ClusterId,
    /// Its zone, if it has one (`B6`). Default none: no preference.
    pub zone: Option<Zone>,
    /// N: how many listeners it accepts (`S9`). Default 32; much less makes the tree deep and every change dearer. 0 makes a
    /// node that feeds nobody.
    pub capacity: u32,
    /// How often an upstream heartbeats its downstreams (`S11`). Default 1 s.
    pub heartbeat: Duration,
    /// How long a session may be silent before either side gives it up (`S11`, `S13`). Default 3 s; at least two heartbeats.
    pub timeout: Duration,
    /// How long a search waits for better answers after the first eligible one, beside two round trips (`S8`). Default 20 ms.
    pub settle: Duration,
    /// How long an answer to a question or a registration is waited for (`B19`). Default 2 s; less makes an overloaded
    /// server answer the same questions again and again.
    pub probe_timeout: Duration,
    /// The same when only one server is known (`B19`). Default 5 s.
    pub probe_timeout_lone: Duration,
    /// The bound of the first random wait after a round that found no place (`B2`). Doubles with every further one. Default
    /// 100 ms.
    pub backoff_min: Duration,
    /// Where that doubling ends (`B2`). Default 5 s.
    pub backoff_max: Duration,
    /// The bound of the random wait of a listener that restarts knowing one server only (`B19`). Default 5 s.
    pub restart_spread: Duration,
    /// A voter that has heard no leader for this long is stale (`B8`). Default 2 s.
    pub stale_voter: Duration,
    /// A voter heard by another within this time is not silent (`B2`): the shortest time after which the group replaces a
    /// leader that says nothing. Default 500 ms.
    pub silent_voter: Duration,
    /// A chain whose freshness is older than this is stale (`B8`). Default 5 s.
    pub stale_chain: Duration,
    /// By how much fresher a place must be to leave a stale one for it (`B8`). Default 2 s.
    pub fresher_by: Duration,
    /// How often a listener looks for a better place (`B7`), jittered by half. Default 60 s.
    pub improve: Duration,
    /// How long a listener that an administrator has kicked stays away from who kicked it (`S12`). Default 10 s.
    pub kick_away: Duration,
    /// How long a draining node waits for its downstreams to leave by themselves before it kicks them (`B16`). Default 10 s.
    pub drain_patience: Duration,
    /// How long a listener that waits for its log to be compared keeps its place though others want it (`B11`). Default 10 s: an
    /// upstream that has restarted has caught up long before.
    pub compare_patience: Duration,
    /// The rule that is switched off, if one is.
    #[cfg(feature = "mutations")]
    pub mutation: Option<Mutation>,
}

impl Config {
    /// The defaults of the protocol for the node `id` of `cluster` at `address`.
    pub fn new(id: NodeId, address: Address, cluster: ClusterId) -> Config {
        Config {
            id,
            address,
            cluster,
            zone: None,
            capacity: 32,
            heartbeat: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
            settle: Duration::from_millis(20),
            probe_timeout: Duration::from_secs(2),
            probe_timeout_lone: Duration::from_secs(5),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            restart_spread: Duration::from_secs(5),
            stale_voter: Duration::from_secs(2),
            silent_voter: Duration::from_millis(500),
            stale_chain: Duration::from_secs(5),
            fresher_by: Duration::from_secs(2),
            improve: Duration::from_secs(60),
            kick_away: Duration::from_secs(10),
            drain_patience: Duration::from_secs(10),
            compare_patience: Duration::from_secs(10),
            #[cfg(feature = "mutations")]
            mutation: None,
        }
    }

    /// Asserts what the protocol leans on. Our own configuration, checked by whoever read it from a user.
    pub(crate) fn check(&self) {
        assert!(!self.heartbeat.is_zero(), "the heartbeat interval is zero");
        assert!(
            self.timeout >= 2 * self.heartbeat,
            "the timeout is shorter than two heartbeats"
        );
        assert!(!self.probe_timeout.is_zero(), "the probe timeout is zero");
        assert!(!self.improve.is_zero(), "the improvement interval is zero");
        assert!(!self.backoff_min.is_zero(), "the backoff starts at zero");
        assert!(
            self.backoff_min <= self.backoff_max,
            "the backoff's bounds are the wrong way round"
        );
    }
}
