//! The `eaves` binary: a server, and a command line for it.

mod address;
mod admin;
mod bench;
mod cli;
mod client;
mod commands;
mod endpoints;
mod failure;
mod histogram;
mod key_range;
mod node_flags;
mod node_process;
mod print;
mod raft_flags;
mod role_change;
mod table;
mod tree_view;
mod up;
mod usage;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match usage::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(usage::Refusal::Failure(failure)) => return failure.report(),
        Err(usage::Refusal::Clap(error)) => {
            // Help and version come this way too, with exit code 0. A closed pipe is no reason to complain.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
