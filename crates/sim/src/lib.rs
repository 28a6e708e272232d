//! A deterministic simulator of the listener tree: many nodes, each a [`TreeNode`](eaves_tree::TreeNode), in one thread on virtual
//! time.
//!
//! A seed draws a group, listeners, a network and what goes wrong in it; everything follows from the seed, so a run can be
//! repeated byte for byte. Invariants are checked on the way, and when the faults have stopped everybody must find a place.

pub mod calls;
pub mod cli;
pub mod engine;
pub mod faults;
pub mod history;
pub mod host;
pub mod invariants;
pub mod ledger;
pub mod log;
pub mod nemesis;
pub mod network;
pub mod raft;
pub mod rng;
pub mod run;
pub mod scale;
pub mod scenario;
pub mod summary;
pub mod system;
pub mod trace;
pub mod world;
