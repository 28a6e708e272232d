//! The command `eaves-sim`: everything it does is in the library.

use clap::Parser;
use eaves_sim::nemesis;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.peek().is_some_and(|word| word == nemesis::EAVES) {
        return nemesis::run_as_eaves(words);
    }
    eaves_sim::cli::Args::parse().run()
}
