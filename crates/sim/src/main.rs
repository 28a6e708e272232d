//! The command `eaves-sim`: everything it does is in the library.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    eaves_sim::cli::Args::parse().run()
}
