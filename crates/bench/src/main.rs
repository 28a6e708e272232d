//! The command `eaves-bench`: Eaves beside its peers, in one run on one machine. What it is made of is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.peek().is_some_and(|word| word == eaves_bench::EAVES) {
        return eaves_server::main(words);
    }
    if words
        .peek()
        .is_some_and(|word| word == eaves_bench::crowd::CROWD)
    {
        return eaves_bench::crowd::run(words);
    }
    eaves_bench::cli::run()
}
