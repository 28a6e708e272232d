//! Snapshots: a copy of the state for whoever is so far behind that the log no longer reaches back (B9).
//!
//! The same whether a listener fetches from its upstream or a leader pushes to a follower:
//!
//! ```text
//! sender                                                        receiver
//!   state machine                                                 state machine
//!        │ read once, for all who want it                              ▲ install, by one rename
//!        v                                                             │ stage: chunk by chunk, beside the live state
//!   Spool: a file of chunks,  ── offer, sums ──────────────────>  Incoming: a file of chunks,
//!   and what each must be     <───────────── want: what it lacks  proven chunk by chunk against the sums
//!        ^                    ── chunks ───────────────────────>       │
//!        └─────────────────────────────────────────────────────────────┘
//!                      what was received is kept, to be sent on
//! ```
//!
//! **All at once.** While the state is read, chunks that are in the file are sent; while others arrive, the receiver makes its state from
//! those that it has. A new listener is ready when the slowest of the three is, not after one, the other and the third.
//!
//! **Chunks prove themselves.** The sender says what chunks must be before it sends them: their length and two checksums ([`manifest`]).
//! The receiver looks at what its file already holds and asks for the rest. So there is no note of how far a transfer came, and none that
//! could be wrong: a cut connection, a restarted receiver, a damaged chunk and another sender whose content is the same, as a whole or in
//! part, are one case. A state machine that cuts equal states into equal chunks, on every node, gets the last of these for nothing.
//!
//! **A file between state and network.** The state is read once, on a thread that gives way to others, however many want it and however slow they are;
//! who comes later gets the same file from its beginning, as long as the log goes on from there. The read of the state ends soon, so the
//! state file does not grow under a transfer that takes an hour. The price is the disk space of one more copy, for as long as somebody
//! takes it and [`KEPT_FOR`] beyond.
//!
//! **Bounds.** Memory: one chunk for each transfer at the sender, two at the receiver, and about 50 bytes for each chunk there is;
//! at the receiver, too, what its state machine needs to make a state, from the first chunk on. Sending: [`MAX_SENDING`] at
//! a time, `Config::snapshot_rate` bytes per second for all together ([`throttle`]). Log: what follows a kept snapshot is kept too, up
//! to a bound, so that its receiver can go on from there.
//!
//! **Crashes.** While receiving: the file stays and is proven again, the staged state is removed at the next start. While installing: see
//! `Applier::install`. The files of a sender are removed at the next start.
//!
//! **A full disk.** What is half received is worth less than anything else on the disk: it goes as soon as there is no space, for itself, for
//! the state that is made from it, or for the log, also at a start.
//!
//! Caveats. A cut transfer goes on with the chunks it has, but stages them anew. The receiver needs the disk space twice: as a file of
//! chunks, and as a state. A state machine whose state is inserted into, and not only appended to, shares few chunks between two
//! positions; then only a transfer of the very same snapshot is resumed.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod incoming;
mod manifest;
mod push;
mod receive;
mod send;
mod shelf;
mod spool;
mod stage;
mod throttle;

pub(crate) use incoming::is_full;
pub(crate) use push::{push, serve_push};
pub(crate) use receive::{Received, fetch};
pub(crate) use send::serve;
pub(crate) use shelf::{DIR_NAME, Snapshots, tidy};

use std::time::Duration;

/// Size of a chunk. A state machine may exceed it by one record.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// No chunk is longer: it must fit into a packet, and a receiver holds one in memory.
const MAX_CHUNK_BYTES: u32 = 15 << 20;

/// No snapshot has more chunks: 4 TiB of the usual size. The receiver keeps about 50 bytes for each.
const MAX_CHUNKS: u64 = 1 << 24;

/// Snapshots being sent at the same time; further receivers wait.
const MAX_SENDING: usize = 4;

/// How long a receiver may take no chunk before its connection is closed.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a receiver may say nothing. It says nothing while it proves what it has, and while a voter installs.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// How long a snapshot is kept after its last use, for those who come late.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// How long a half received snapshot is kept after its last chunk. By then another one shares little with it.
const HALF_KEPT_FOR: Duration = Duration::from_secs(60 * 60);

/// How often it is looked at what is no longer needed.
const TIDY_INTERVAL: Duration = Duration::from_secs(5);
