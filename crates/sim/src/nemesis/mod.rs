//! The nemesis: real processes, real faults, and a history that is checked.
//!
//! A run starts a group of voters and listeners as processes on this machine, in three zones on loopback, every link between two nodes
//! through a proxy that can cut it or make it bad. Clients put, delete, read and run transactions on all nodes over etcd's gRPC API, and
//! watches follow everything from node to node, while faults come in episodes: drawn from the seed, done, healed. At the end everything is
//! healed, all nodes must agree, and what the clients saw must be true of one store ([`history`](crate::history)).
//!
//! ```text
//!   course    episodes: what happens when, and what must hold when an episode is over
//!   faults    what can happen to such a group, drawn from the seed
//!   rig       the group: processes, links, disk; doing and healing a fault
//!   place     what of this machine can be used for it: a file system of its own, clocks that are ahead
//!   clients   put, delete, read, transactions; each notes what it asked and was told
//!   watchers  watches that go on at another node
//!   report    progress, the summary, and what is kept of a run that failed
//! ```
//!
//! The seed decides which faults come, not what they meet: processes and their clocks are real, so a run cannot be repeated. What is kept
//! of a failure is therefore everything: the history, the data directories and the logs.
//!
//! Faults that this cannot make: lost packets inside a TCP connection (that needs the kernel's netem; proxies that hold up and break
//! connections show the same to both ends), a disk that forgets what was flushed or tears it (the simulation of whole nodes does), and a
//! wall clock that jumps while a process runs. The protocol uses the monotonic clock alone; what can be had without changing the
//! machine's clock is a process that starts with another one (a time namespace), and processes that stand still (SIGSTOP), to which time
//! seems to jump.

mod clients;
mod course;
mod faults;
mod place;
mod report;
mod rig;
mod watchers;

use place::Place;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The hidden first word by which this program becomes `eaves`: a fresh clone needs no second build to have a server to test.
pub const EAVES: &str = "eaves";

/// Breaks a group of real processes in every way for some minutes, and checks what its clients saw. Exit status 0 only when it is right.
#[derive(clap::Args, Debug)]
pub struct Nemesis {
    /// How long faults come, in minutes; healing and checking take longer
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Which faults come [default: another seed each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Where directories of runs are made; that of a run that fails is kept [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Says that mounts are seen by this process alone
    #[arg(long, hide = true)]
    private_mounts: bool,
}

/// What a run is to do.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    length: Duration,
    directory: PathBuf,
    place: Place,
}

/// A node process: dies with whoever started it, and is `eaves` otherwise.
pub fn run_as_eaves(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    if !place::die_with_parent() {
        eprintln!("error: whoever started this process has ended");
        return ExitCode::FAILURE;
    }
    eaves_server::main(words)
}

impl Nemesis {
    /// Runs it to its end.
    pub fn run(self) -> ExitCode {
        if !self.private_mounts {
            // Comes back only when mounts cannot be private here.
            place::begin_again_with_private_mounts();
        }
        if !self.minutes.is_finite() || self.minutes <= 0.0 {
            eprintln!(
                "error: --minutes: {} is no time to run; give more than 0",
                self.minutes
            );
            return ExitCode::from(2);
        }
        let seed = self.seed.unwrap_or_else(a_seed);
        let plan = Plan {
            seed,
            length: Duration::from_secs_f64(self.minutes * 60.0),
            directory: self.keep.unwrap_or_else(std::env::temp_dir),
            place: Place::look(self.private_mounts),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(course::run(plan)),
            Err(error) => {
                eprintln!("error: start the runtime: {error}; are too many files open?");
                ExitCode::FAILURE
            }
        }
    }
}

/// Any number that was not drawn before, short enough to be typed.
fn a_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| crate::rng::mix(now.as_nanos() as u64) % 1_000_000)
}
