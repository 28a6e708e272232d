//! All of the `eaves` binary: a server, and a command line for it. A library so that a test that brings its own processes can be one.

pub mod address;
mod admin;
pub mod bench;
mod cli;
mod client;
mod client_flags;
mod commands;
mod endpoints;
pub mod failure;
pub mod histogram;
mod key_range;
mod node_flags;
mod node_process;
mod print;
mod raft_flags;
mod role_change;
mod slow_disk;
mod table;
mod tree_view;
mod up;
mod usage;

use eaves_log::{Disk, RealDisk};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// Has the last word on how a node is run, and on what a command writes to: for tests that end processes between two steps.
pub trait Adjust {
    /// Changes how a node is run.
    fn node(&self, _config: &mut eaves::Config) {}

    /// The disk on which `eaves recover` makes directories.
    fn recovered(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }
}

/// Changes nothing.
struct AsItIs;

impl Adjust for AsItIs {}

/// Does what the words of a command line say, the first of which is the program's name.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_adjusted(words, &AsItIs)
}

/// The same, as `adjust` says.
pub fn main_adjusted(words: impl IntoIterator<Item = OsString>, adjust: &dyn Adjust) -> ExitCode {
    let cli = match usage::parse(words) {
        Ok(cli) => cli,
        Err(usage::Refusal::Failure(failure)) => return failure.report(),
        Err(usage::Refusal::Clap(error)) => {
            // Help and version come this way too, with exit code 0. A closed pipe is no reason to complain.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.run(adjust) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
