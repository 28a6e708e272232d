//! A key-value server that etcd v3 clients can use: the state machine and the services.
//!
//! The crate is a user of the library `eaves` like any other. [`store::Store`] is a state machine: committed commands go in, revisions
//! and events come out. [`serve()`] puts the etcd v3 API in front of a node and its store, on voters and listeners alike.
//!
//! ```text
//!   client ── gRPC ──> services ── command bytes ──> Node::write ──> log ──> Store::apply
//!                         │                              answer bytes <─────────┘ │
//!                         ├── Node::read_barrier, then Store::range               │
//!                         └── watch hub <──────────── events of each revision ────┘
//! ```
//!
//! # What a call goes through
//!
//! A request is checked by [`services::validate`] before anything is proposed, so that a log never holds a command that was wrong from
//! the start. A write becomes command bytes; its answer comes back from the state machine through the node, either a response or the
//! byte of a [`store::KvError`], the same on every replica. A linearizable read waits for the read index and reads the local store. A
//! watch is served from the local store alone, wherever it is, so watchers cost the voters nothing when they are on listeners.
//!
//! # Compatibility
//!
//! Names, numbers, codes and strings are etcd's, because clients depend on them: clientv3 maps errors back by their exact text. What is
//! not there answers `Unimplemented` and says so; nothing pretends. `docs/etcd-compatibility.md` has the table, call by call.
//!
//! # Caveats
//!
//! - No leases, no authentication, no lock and election services, no JSON gateway, no TLS on the client port.
//! - There is no space quota, so no NOSPACE alarm.
//! - A slow client's watchers fall behind until compaction overtakes them, as in etcd. It is cut off only when what clients do not take
//!   fills the memory for it (`clients.rs`).
//! - A client's deadline (`grpc-timeout`) is left to the client: when it gives up, it resets the call, and the server drops it then,
//!   unless it is a write: that goes on, and may still commit.

// The naive model of the tests, which the fuzzers use too, knows this crate by its name.
#[cfg(any(test, fuzzing))]
extern crate self as eaves_kv;

mod clients;
mod codec;
mod http;
mod metrics;
pub mod proto;
mod serve;
pub mod services;
pub mod store;

pub use clients::{ClientCounts, ClientLimits, Clients};
pub use serve::{ClientListener, serve};
pub use services::ServiceOptions;
