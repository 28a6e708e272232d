//! `eaves bench`: puts load on a server that speaks the etcd v3 API and measures how it bears it.
//!
//! - [`plan`] turns the flags into a checked plan and makes the requests.
//! - [`wire`] is a gRPC client bare of all comfort: the load generator often shares the machine with what it measures.
//! - [`load`] runs the clients, in a closed loop or at a target rate.
//! - [`report`] prints what was measured.
//! - [`moves`] is of another kind: it changes the leader and asks the listeners.
//!
//! # What the numbers mean
//!
//! In a closed loop (no `--rate`) each client sends its next request when it has the answer to the last, and a latency is the time
//! between. Such clients wait while a server stalls and so measure the stall once. With `--rate`, requests are due at fixed moments,
//! and a latency counts from the moment the request was due, whether or not a client was free: a stall then counts for all that would
//! have been sent during it. The moments are kept to within about 0.2 ms.
//!
//! The clients and the plan are a library too: `eaves-bench` compares servers with them.
//!
//! Failed requests are counted by their message and are in neither throughput nor latencies.

mod load;
mod moves;
mod pacer;
mod plan;
mod report;
mod wire;

pub use load::{Measured, SLICE, run as run_load};
pub use plan::{Operation, Plan};

use crate::failure::Outcome;
use clap::Subcommand;

/// What to measure.
#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// Put random keys
    Put(plan::PutArgs),
    /// Get random keys
    Get(plan::GetArgs),
    /// Hand leadership over again and again and measure how soon listeners are fed again
    Moves(moves::MovesArgs),
}

/// Runs `bench`.
pub async fn run(command: BenchCommand) -> Outcome {
    let (plan, json) = match command {
        BenchCommand::Put(args) => (plan::Plan::of_puts(&args)?, args.common.json),
        BenchCommand::Moves(args) => return moves::run(args).await,
        BenchCommand::Get(args) => (plan::Plan::of_gets(&args)?, args.common.json),
    };
    let result = load::run(&plan).await?;
    report::print(&plan, &result, json)
}
