//! The simulation of whole nodes: openraft, log, store, tree, services and clients, many in one thread on virtual time, with a simulated
//! network and simulated disks. `docs/simulator.md` tells what is drawn and what is checked.
//!
//! ```text
//!   cli ── a process for each seed ──> run ── scenario, faults: what the seed draws
//!                                       │
//!                                     world ── steps of time ──┬── machine ── process ── Node, Store, services
//!                                       │                      │     SimDisk     on a runtime of its own
//!                                  invariants                  ├── clients ── gRPC ── history, checked at the end
//!                                                              └── network between all of them
//! ```
//!
//! What makes it repeatable is in three places: [`world`] (nothing happens but in turns), [`clock`] (no clock but virtual ones) and
//! [`entropy`] (no randomness but the seed's). What a node does is in none of them: it is the node that runs in production, given a
//! [`network`], a disk, a place to block and a seed by its `Config`.
//!
//! Caveats: `docs/simulator.md` ends with what is not shown.

pub mod cli;
pub mod clients;
pub mod clock;
pub mod entropy;
pub mod faults;
pub mod invariants;
pub mod machine;
pub mod network;
pub mod operator;
pub mod process;
pub mod run;
pub mod scenario;
pub mod trace;
pub mod world;
