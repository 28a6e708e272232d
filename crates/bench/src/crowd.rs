//! Many listeners in one process of its own, for figures that need more of them than a machine can run as processes.
//!
//! They are nodes of the library with everything that a listener has, but for the state: it counts commands. Their files are in memory if
//! the machine has a file system for that, so that their syncs do not take the disk from those who are measured. The process prints how
//! far they are, and is read by its log.

use eaves::{Config, Node, SmallMachine, SmallState, StartAs};
use eaves_harness::process::Server;
use eaves_server::failure::{Failure, Outcome};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// As the first word of the command line: be a crowd.
pub const CROWD: &str = "crowd";

/// Linux's file system in memory.
const IN_MEMORY: &str = "/dev/shm";
/// Each listener's log: as small as it may be, there are many.
const SEGMENT_BYTES: u64 = 1 << 20;
/// How often the process says how far they are.
const TELLING: Duration = Duration::from_millis(10);
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running crowd. Dropping it kills it.
pub struct Crowd {
    server: Server,
    log: PathBuf,
    _directory: TempDir,
}

/// How far the listeners of a crowd are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// How many have an upstream.
    pub attached: usize,
    /// What the last of them has applied.
    pub applied: u64,
}

impl Crowd {
    /// Starts `count` listeners below `upstreams`, each of which feeds up to `capacity` others.
    pub fn start(count: usize, capacity: u32, upstreams: &str, data: &Path) -> Outcome<Crowd> {
        let parent = match Path::new(IN_MEMORY) {
            memory if memory.is_dir() => memory,
            _ => data,
        };
        let failed = |what: &str, error: io::Error| Failure::failed(format!("{what}: {error}"));
        let directory = tempfile::Builder::new()
            .prefix("eaves-bench-crowd-")
            .tempdir_in(parent)
            .map_err(|error| failed("cannot make a directory for listeners", error))?;
        let program =
            std::env::current_exe().map_err(|error| failed("cannot find this program", error))?;
        let mut command = Command::new(program);
        command
            .arg(CROWD)
            .args([&count.to_string(), &capacity.to_string(), upstreams])
            .arg(directory.path());
        let log = directory.path().join("log.txt");
        Ok(Crowd {
            server: Server::start(CROWD, command, &log),
            log,
            _directory: directory,
        })
    }

    /// How far they are.
    pub fn stand(&self) -> Stand {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().rev().find_map(parse).unwrap_or_default()
    }

    /// Waits until they are as wanted.
    pub async fn until(&mut self, wanted: impl Fn(Stand) -> bool) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(self.stand()) {
            if self.server.ended().is_some() || Instant::now() > deadline {
                return Err(Failure::failed(format!(
                    "the listeners do not get on, {:?}: {}",
                    self.stand(),
                    self.server.log_tail()
                )));
            }
            tokio::time::sleep(TELLING / 5).await;
        }
        Ok(())
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.server.id()
    }
}

/// A line that the process prints: `stand ATTACHED APPLIED`.
fn parse(line: &str) -> Option<Stand> {
    let mut words = line.strip_prefix("stand ")?.split(' ');
    Some(Stand {
        attached: words.next()?.parse().ok()?,
        applied: words.next()?.parse().ok()?,
    })
}

/// Counts commands.
#[derive(Clone, Default)]
struct Count(u64);

impl SmallState for Count {
    fn apply(&mut self, _: &[u8]) -> bytes::Bytes {
        self.0 += 1;
        bytes::Bytes::new()
    }

    fn to_bytes(&self) -> bytes::Bytes {
        self.0.to_be_bytes().to_vec().into()
    }

    fn from_bytes(bytes: &[u8]) -> io::Result<Count> {
        let bytes = bytes.try_into().map_err(io::Error::other)?;
        Ok(Count(u64::from_be_bytes(bytes)))
    }
}

/// The process: COUNT, CAPACITY, UPSTREAMS, DIRECTORY. It ends when it is killed.
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = words.filter_map(|word| word.into_string().ok()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match (runtime, &words[..]) {
        (Ok(runtime), [_, count, capacity, upstreams, directory]) => {
            let numbers = (count.parse().unwrap_or(0), capacity.parse().unwrap_or(0));
            runtime.block_on(listen(numbers, upstreams, Path::new(directory)))
        }
        _ => Err("a crowd takes a number, a capacity, upstreams and a directory".into()),
    };
    if let Err(error) = done {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}

async fn listen(
    (count, capacity): (usize, u32),
    upstreams: &str,
    directory: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let upstreams: Vec<String> = upstreams.split(',').map(str::to_owned).collect();
    let mut nodes = Vec::new();
    for number in 1..=count {
        let data_dir = directory.join(number.to_string());
        std::fs::create_dir(&data_dir)?;
        let machine = SmallMachine::<Count>::open(&data_dir.join("count"))?;
        let start_as = StartAs::Listener {
            upstreams: upstreams.clone(),
        };
        let name = format!("c{number}");
        let mut config = Config::new(name, data_dir, "127.0.0.1:0", start_as);
        config.capacity = capacity;
        config.log.segment_bytes = SEGMENT_BYTES;
        config.log.cache_bytes = SEGMENT_BYTES as usize;
        config.log_retention_bytes = SEGMENT_BYTES;
        nodes.push(Node::start(config, Arc::new(machine)).await?);
    }
    let mut told = Stand::default();
    loop {
        let applied = nodes.iter().map(|node| node.positions().applied);
        let stand = Stand {
            attached: nodes
                .iter()
                .filter(|node| node.upstream_lag().is_some())
                .count(),
            applied: applied.min().unwrap_or(0),
        };
        if stand != told {
            println!("stand {} {}", stand.attached, stand.applied);
            told = stand;
        }
        tokio::time::sleep(TELLING).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_prints_can_be_read() {
        let stand = Stand {
            attached: 3,
            applied: 70,
        };
        assert_eq!(parse("stand 3 70"), Some(stand));
        assert_eq!(parse("stand 3"), None);
        assert_eq!(parse("2026 INFO stand 3 70"), None);
    }
}
