//! Eaves measured beside what people would pick instead: one command, one machine, one run.
//!
//! ```console
//! $ cargo run -p eaves-bench --release -- all
//! ```
//!
//! # How it works
//!
//! A [figure](figures) is one question, such as what a put costs. It has *sides* (eaves, etcd ..), *cases* (64 clients on 8 connections
//! ..) and *rounds*; in each round every side is measured once, one after the other, so that whatever else the machine does meets all of
//! them. Each measurement is kept as it was taken ([`results`]); medians, spreads and ratios are made of them in one place
//! ([`statistics`]), the table in one ([`report`]), the plots in one ([`plot`]). A ratio is made within a round, and the median of these
//! ratios is told with the least and the most.
//!
//! Servers are real processes ([`group`]) with their defaults, on loopback, with fsync on. The load generator is that of `eaves bench`, in
//! this process ([`load`]). Processor time is what the kernel says of each process ([`processor`]), from before the load until a moment
//! after it, so that work put off is counted too and does not fall upon the next side.
//!
//! The servers of Eaves are this very program, started again with [`EAVES`] as its first word, so that what is measured is what was built:
//! the library behind the binary `eaves`, with the same profile. `--eaves` takes another binary. Peers are looked for ([`programs`]), and
//! left out with a note when they are not there.
//!
//! Where a hundred listeners are needed they are one process ([`crowd`]): real nodes of the library, each with a log and connections of its
//! own, on a disk in memory and with a state that only counts. As processes they would be all that two cores can do.
//!
//! # What it cannot do
//!
//! Clients and servers share the machine. On two cores the load generator takes up to half of them, so throughput says less about a server
//! than its processor time per operation does. Everything runs over loopback: no network, no switch, no distance. One disk has the logs of
//! all servers.

pub mod circumstances;
pub mod cli;
pub mod context;
pub mod crowd;
pub mod figures;
pub mod group;
mod happenings;
pub mod load;
pub mod plot;
pub mod processor;
pub mod programs;
pub mod redis;
pub mod report;
pub mod results;
pub mod statistics;
pub mod watchers;
pub mod zookeeper;
pub mod zookeeper_client;

/// As the first word of the command line: be `eaves`.
pub const EAVES: &str = "eaves";
