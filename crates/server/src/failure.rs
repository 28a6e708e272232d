//! How a command ends badly: what is printed and with which exit code.
//!
//! A failure is one line, `eaves: <what>: <cause>; <what to do next>`. Exit codes: 0 success, 1 the command failed, 2 the command line
//! was wrong. Output that nobody reads any more (`eaves get --prefix '' | head`) is success.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for something impossible; the text names the flag and what to write instead.
    Usage(String),
    /// The command was understood and failed; the text says what failed, why, and what to do next.
    Failed(String),
    /// Whoever read our output went away. Not an error.
    OutputClosed,
}

/// What every command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure of the command itself.
    pub fn failed(text: impl Into<String>) -> Failure {
        Failure::Failed(text.into())
    }

    /// A wrong command line.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::Usage(text.into())
    }

    /// A failed write to standard output. A closed pipe is told apart from a real fault such as a full disk.
    pub fn output(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Failed(format!(
                "cannot write the output: {error}; free some space or send it elsewhere"
            )),
        }
    }

    /// Prints the failure, if it has something to say, and gives the process's exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Failure::OutputClosed => ExitCode::SUCCESS,
            Failure::Failed(_) => {
                eprintln!("eaves: {self}");
                ExitCode::from(1)
            }
            Failure::Usage(_) => {
                eprintln!("eaves: {self}");
                ExitCode::from(2)
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Failure::Usage(text) | Failure::Failed(text) => text,
            Failure::OutputClosed => "output closed",
        };
        // One failure is one line, whatever a server put into its message.
        f.write_str(&text.replace('\n', " "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
        let closed = Failure::output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(closed, Failure::OutputClosed));
        let full = Failure::output(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(full, Failure::Failed(text) if text.contains("free some space")));
    }

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(Failure::failed("first\nsecond").to_string(), "first second");
    }
}
