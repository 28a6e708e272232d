//! The system as its users have it: real processes on real ports and files, written to by the clients that etcd's protocol generates.
//!
//! `kills` ends each node by SIGKILL while writes run, `moves` takes upstreams away from listeners, `recover` loses the group and makes
//! another of what is left, `catch_up` lets nodes fall behind, `disk` takes space away, `damage` flips bits and moves files, `clients` asks
//! for too much and reads too little, `up` runs the whole by its one command. `cluster` starts the processes, `writer` keeps writing and
//! remembers what was acknowledged, `watcher` keeps watching and reading.
//!
//! Nothing here depends on how fast anything is. When a test fails, its data and logs are kept and named.

mod catch_up;
mod clients;
mod cluster;
mod damage;
mod disk;
mod kills;
mod moves;
mod recover;
#[path = "../support/mod.rs"]
mod support;
mod up;
mod watcher;
mod writer;
