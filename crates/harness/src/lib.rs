//! The system as its users have it, for tests and for the nemesis: real processes on real ports and files, clients that write, read and
//! watch, and links between nodes that can be cut.
//!
//! [`cluster`] plans and starts the processes, [`process`] is one of them, [`writer`] keeps writing and remembers what was acknowledged,
//! [`watcher`] keeps watching and reading, [`overload`] asks for far too much, [`zones`] stands between the nodes of different zones, and [`sockets`] knows who is connected
//! with whom, [`recovery`] looks at directories. Which binary is run is the caller's to say: [`Binary`].
//!
//! Nothing here depends on how fast anything is. What does not happen fails the test that waits for it, after a time that no machine
//! takes; data and logs are kept then, and named.

pub mod cluster;
pub mod overload;
pub mod process;
pub mod recovery;
pub mod sockets;
pub mod watcher;
pub mod writer;
pub mod zones;

use std::borrow::Cow;
use std::process::Command;

/// How `eaves` is run.
#[derive(Clone, Debug)]
pub struct Binary {
    program: Cow<'static, str>,
    first: &'static [&'static str],
}

impl Binary {
    /// The executable at a path that was known when the test was built.
    pub const fn at(program: &'static str) -> Binary {
        Binary {
            program: Cow::Borrowed(program),
            first: &[],
        }
    }

    /// A program that is `eaves` when its first words are these.
    pub const fn part_of(program: String, first: &'static [&'static str]) -> Binary {
        Binary {
            program: Cow::Owned(program),
            first,
        }
    }

    /// A command of it, without arguments yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&*self.program);
        command.args(self.first);
        command
    }

    /// Runs a command of the command line that must succeed, and gives what it printed.
    pub fn run(&self, endpoint: &str, arguments: &[&str]) -> String {
        let output = self
            .command()
            .args(arguments)
            .args(["--endpoints", endpoint])
            .output()
            .expect("the binary starts");
        assert!(
            output.status.success(),
            "{arguments:?} on {endpoint}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("the output is text")
    }
}
