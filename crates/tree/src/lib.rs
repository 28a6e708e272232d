//! The listener tree: how replicas outside a Raft group find somebody who feeds them the committed log, and keep somebody.
//!
//! A Raft group of three or five voters commits a log. Any number of *listeners* want that log too, to serve reads and
//! watches near their users. If the leader fed them all it would do nothing else. So the listeners form trees by themselves:
//! a voter that is not the leader feeds a few, each of them feeds a few more, and so on. Nobody plans the trees, and no list
//! of listeners exists anywhere; each node knows its upstream, its downstreams and a few addresses.
//!
//! ```text
//!                 n1 leader                     feeds nobody: only Raft
//!                 /        \
//!        n2 follower     n3 follower            roots, depth 0
//!         /      \           |
//!       n4       n5         n6                  listeners, depth 1
//!      /  \
//!    n7    n8                                   depth 2; the path of n8 is n2/n4/n8
//! ```
//!
//! This crate is the protocol that makes and mends that picture, and nothing else. It does no I/O, reads no clock and draws
//! no random number that the caller did not seed: [`TreeNode`] is a state machine of (state, event, time, seed), one for each
//! node, driven as its documentation says. `no_std` keeps it honest. The entries of the log never pass through it; it only
//! says from whom to take them and to whom to push them. Rules are cited by number (`S9`, `B12`); `docs/listener-tree.md`
//! lists them all, with the code and the test of each.
//!
//! # Finding an upstream
//!
//! A listener starts with a list of servers, any of them (`S6`). It *asks* them (`S7`): what are you, where are you in the
//! tree, have you a free slot, and who else is there? An [`Answer`] tells all that, whoever gives it. Among those that answer
//! and could take it the listener chooses the least deep (`S8`), after a short time in which better answers may still come.
//! Then it opens a connection to the chosen one and *registers*. Only now something is decided: an answer may be stale, so the
//! upstream counts again (`S9`), and accepts or refuses.
//!
//! If all are full the search descends. Every answer and every refusal names *alternatives* (`B2`): the voters, and two
//! downstreams, first those that know of a free slot in their subtree. A tree in which everybody takes at least one listener
//! always has a free slot somewhere, since a full node has as many downstreams as slots, and those have slots themselves. So a
//! newcomer that knows one address, be it the leader's, finds a place in about as many steps as the tree is deep (`B4`). To
//! spread a crowd, a node that names a free slot counts it as taken until it hears more.
//!
//! A node that is flooded with questions answers "busy" instead (`B19`), which is neither late nor a refusal: it is asked again
//! a little later.
//!
//! When a whole round of questions finds nothing, the listener rests for a random time whose bound doubles, up to five
//! seconds, and begins again, for ever. That is the liveness of the whole: **never-stuck** is asserted after every event.
//!
//! # Keeping it
//!
//! The upstream heartbeats (`S11`), the listener answers. Either gives the other up after three silent seconds, and at once
//! when the connection closes (`S13`). A heartbeat carries the *path* from the root, so that everybody knows its depth and
//! can see a loop; whether that path really ends at a voter (*attached*); and how old the root's last word from a leader is
//! (`B8`). Heartbeats are relayed down as they come. A change of path or attachment does not wait for one: it is sent down at
//! once (`B1`).
//!
//! A voter that becomes leader kicks all its listeners off (`S10`) and names the other voters. Each registers with the first
//! of them without asking, and is fed again after one round trip.
//!
//! # Losing it
//!
//! A listener without an upstream is *detached*, and so is all below it. It keeps its downstreams, tells them, and searches.
//! They wait, in proportion to their distance from it (`B3`): most often it comes back with a new path, and the whole subtree
//! has moved by one registration. Whoever has waited long enough searches too, but leaves only when somebody has accepted it.
//!
//! # Moving to a better place
//!
//! Trees that only mend themselves grow deep, and zones get mixed up. So a listener that is attached *looks* around from time
//! to time (`B7`). How near the nearest free place is comes up with the answers to heartbeats, one more at each level, and goes
//! down with the heartbeats from the root; who has nothing to gain asks nobody. What is better is decided by one order (`S8`):
//! depth, one level more in another zone. One order for everything, and strictly better only, or some would move for ever. A
//! move is *make-before-break*: the old upstream feeds until the new one has accepted.
//!
//! A look is also how a listener leaves a root that hears no leader any more (`B8`), and how an administrator's wishes come
//! true (`B16`): to be below a certain node (*pin*), not to be below another (*avoid*), to leave a node that hands all its
//! downstreams over (*drain*). Wishes are on disk. None of them makes a listener starve: a pin that cannot be followed, and
//! an avoided upstream to which there is no alternative, are reported and tried again, except that a listener which has no
//! upstream at all does not go to one that it is to avoid.
//!
//! # Loops
//!
//! Three rules keep loops out (`B1`). Nobody registers below itself, as far as paths are known. A detached node takes nobody
//! on. And who keeps its upstream while it registers elsewhere does so only below what is less than itself in (stale, depth,
//! id): two that move at the same moment cannot both be less than the other. Who must go where that order does not lead
//! leaves first. Paths may be out of date for as long as a message takes, so a loop can still close; its first heartbeat comes
//! back to its sender within the sum of the delays around it, and the sender, finding itself above itself, leaves.
//!
//! # Where things are
//!
//! | file | holds |
//! | --- | --- |
//! | `node/` | [`TreeNode`]: inputs and getters; as an upstream; as a listener that follows, searches, or looks for another place; as a voter; as an administrator wishes |
//! | `search.rs`, `questions.rs`, `choice.rs`, `order.rs` | whom to ask next, what an answer is worth, whom to register with |
//! | `downstreams.rs`, `session.rs` | who is fed, and who feeds |
//! | `message.rs`, `output.rs` | what nodes say to each other, and what the driver is asked to do |
//! | `steering.rs` | what an administrator has asked of a node |
//! | `mutation.rs` | rules that a simulator can switch off, to prove that it would notice |
//! | `config.rs`, `timers.rs`, `rng.rs`, `time.rs`, `freshness.rs`, `path.rs`, `ids.rs` | what they lean on |
//!
//! # Caveats
//!
//! - Nodes are trusted to be what they say, as in Raft. A node that lies about its path can attract listeners. Ill-formed
//!   behaviour (a message out of place, a stranger's identity) ends the session, and nothing worse.
//! - The tree is as shallow as greedy moves make it: nobody makes room for another. A listener with many free places stays
//!   below one with few.
//! - The nearest free place is known for the whole tree, not for each zone. So a listener outside its zone, or one level below
//!   a free place in another, looks in vain every minute: a few questions. And what a random voter knows of its own tree is
//!   learned one voter a minute.
//! - The order (stale, depth, id) proves that no loop closes only if everybody's staleness and depth are known as they are.
//!   They are as old as a heartbeat's way; the proof is for the quiet tree, **loop-broken** is for the other.
//! - While a whole group is without a leader every listener looks for a fresher place, ever more seldom, and finds none.
//! - A listener that is pinned to a stale node stays with it: that is what it was told.
//! - A draining node that is the only one with room starves its downstreams, after ten seconds: that is what it was told.
//! - If every node's capacity is zero below some point the tree can be full. Then listeners search for ever, and say so.
#![no_std]
extern crate alloc;

mod choice;
mod config;
mod downstreams;
mod freshness;
mod ids;
mod message;
mod mutation;
mod names;
mod node;
mod order;
mod output;
mod path;
mod questions;
mod rng;
mod search;
mod session;
mod steering;
mod time;
mod timers;

pub use choice::{Choice, Considered, Verdict};
pub use config::{
    ASKED_AT_ONCE, BUSY_RETRY_AFTER, BUSY_RETRY_AFTER_MAX, CONSIDERED_MAX, Config,
    DOWNSTREAMS_NAMED, GRACE_LEVELS_MAX, IMPROVEMENT_WINDOW, IMPROVEMENTS_MAX, LEARNED_MAX,
    PROTOCOL_VERSION, QUESTION_WAIT_MAX, QUESTIONS_WAITING_MAX, ROUND_QUESTIONS_MAX, UPSTREAMS_MAX,
};
pub use downstreams::Downstream;
pub use ids::{Address, ClusterId, LinkId, LogEnd, LogPosition, NodeId, Peer, Zone};
pub use message::{
    ALTERNATIVES_MAX, Accept, Alternative, Answer, FreePlaces, Heartbeat, HeartbeatAck, Kick,
    KickReason, LeaveReason, LogVerdict, Message, OwnLog, Place, Refuse, RefuseReason, Register,
    Role, Saved,
};
#[cfg(feature = "mutations")]
pub use mutation::Mutation;
pub use node::{TreeNode, Voter, VoterState};
pub use order::OrderKey;
pub use output::{Event, Left, Output, Why};
pub use path::{PATH_LIMIT, Path, PathError};
pub use session::Upstream;
pub use steering::{AVOIDED_MAX, SteerError, Steering};
pub use time::Instant;
