//! The system as its users have it: real processes on real ports and files, written to by the clients that etcd's protocol generates.
//!
//! `kills` ends each node by SIGKILL while writes run, `moves` takes upstreams away from listeners, `cuts` cuts zones off, `outside` shows
//! what listeners cost the group, `roles` and `replace` change who votes while clients are at work, `recover` loses the group and makes
//! another of what is left, `catch_up` lets nodes fall behind, `disk` takes space away, `damage` flips bits and moves files, `clients` asks
//! for too much and reads too little, `bounds` gives nodes small bounds, `up` runs the whole by its one command. The processes, and the
//! clients at work, are those of `eaves-harness`.
//!
//! Nothing here depends on how fast anything is. When a test fails, its data and logs are kept and named.

mod bounds;
mod catch_up;
mod clients;
mod cuts;
mod damage;
mod disk;
mod kills;
mod moves;
mod outside;
mod recover;
mod replace;
mod roles;
mod steering;
mod up;

/// What is tested.
const EAVES: eaves_harness::Binary = eaves_harness::Binary::at(env!("CARGO_BIN_EXE_eaves"));
