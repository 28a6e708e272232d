//! The `eaves` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    eaves_server::main(std::env::args_os())
}
