//! The system as its users have it: real processes on real ports and files, written to by the clients that etcd's protocol generates.
//!
//! `kills` ends each node by SIGKILL while writes run, `moves` takes upstreams away from listeners, `cuts` cuts zones off, `outside` shows
//! what listeners cost the group, `roles` and `replace` change who votes while clients are at work, `recover` loses the group and makes
//! another of what is left, `catch_up` lets nodes fall behind, `disk` takes space away, `damage` flips bits and moves files, `clients` asks
//! for too much and reads too little, `up` runs the whole by its one command. `cluster` starts the processes, `writer` keeps writing and
//! remembers what was acknowledged, `watcher` keeps watching and reading, `zones` stands between the nodes of different zones, and
//! `sockets` knows who is connected with whom.
//!
//! Nothing here depends on how fast anything is. When a test fails, its data and logs are kept and named.

mod catch_up;
mod clients;
mod cluster;
mod cuts;
mod damage;
mod disk;
mod kills;
mod moves;
mod outside;
mod recover;
mod replace;
mod roles;
mod sockets;
mod steering;
#[path = "../support/mod.rs"]
mod support;
mod up;
mod watcher;
mod writer;
mod zones;
