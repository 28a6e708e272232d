//! Many listeners in one process of its own, for figures that need more of them than a machine can run as processes. Or the same nodes as
//! openraft's own learners, whom the leader feeds: what one would have without the tree.
//!
//! They are nodes of the library with everything that a listener has, but for the state: it counts commands. Their files are in memory if
//! the machine has a file system for that, so that their syncs do not take the disk from those who are measured. The process prints how
//! far they are, and is read by its log.

use eaves::{Config, Node, RoleChange, SmallMachine, SmallState, StartAs};
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

/// What the nodes of a crowd are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fed by followers and by each other.
    Listeners,
    /// Openraft's learners, fed by the leader. They come one after the other, each by a change of the membership.
    Learners,
}

/// A running crowd. Dropping it kills it.
pub struct Crowd {
    server: Server,
    log: PathBuf,
    _directory: TempDir,
}

/// How far the listeners of a crowd are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// How many have an upstream, or are learners.
    pub attached: usize,
    /// What the last of them has applied.
    pub applied: u64,
}

impl Crowd {
    /// Starts `count` listeners below `upstreams`, each of which feeds up to `capacity` others.
    pub fn start(count: usize, capacity: u32, upstreams: &str, data: &Path) -> Outcome<Crowd> {
        Crowd::start_of(Kind::Listeners, (count, capacity), upstreams, data)
    }

    /// Starts `count` of openraft's learners in the group whose voters are `upstreams`. Who leads it goes on feeding them when they are
    /// gone: the group is of no use afterwards.
    pub fn start_learners(count: usize, upstreams: &str, data: &Path) -> Outcome<Crowd> {
        Crowd::start_of(Kind::Learners, (count, 0), upstreams, data)
    }

    fn start_of(
        kind: Kind,
        (count, capacity): (usize, u32),
        upstreams: &str,
        data: &Path,
    ) -> Outcome<Crowd> {
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
            .args([CROWD, kind.word()])
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

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Listeners => "listeners",
            Kind::Learners => "learners",
        }
    }

    fn of(word: &str) -> Option<Kind> {
        [Kind::Listeners, Kind::Learners]
            .into_iter()
            .find(|kind| kind.word() == word)
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

/// The process: KIND, COUNT, CAPACITY, UPSTREAMS, DIRECTORY. It ends when it is killed.
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = words.filter_map(|word| word.into_string().ok()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match (runtime, &words[..]) {
        (Ok(runtime), [_, kind, count, capacity, upstreams, directory]) => {
            let kind = Kind::of(kind).unwrap_or(Kind::Listeners);
            let numbers = (count.parse().unwrap_or(0), capacity.parse().unwrap_or(0));
            runtime.block_on(listen(kind, numbers, upstreams, Path::new(directory)))
        }
        _ => Err("a crowd takes a kind, a number, a capacity, upstreams and a directory".into()),
    };
    if let Err(error) = done {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}

async fn listen(
    kind: Kind,
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
        config.stays_learner = kind == Kind::Learners;
        let node = Node::start(config, Arc::new(machine)).await?;
        if kind == Kind::Learners {
            learn(&node).await?;
        }
        nodes.push(node);
    }
    let mut told = Stand::default();
    loop {
        let applied = nodes.iter().map(|node| node.positions().applied);
        let attached = match kind {
            Kind::Listeners => nodes.iter().filter(|node| is_fed(node)).count(),
            Kind::Learners => nodes.len(),
        };
        let stand = Stand {
            attached,
            applied: applied.min().unwrap_or(0),
        };
        if stand != told {
            println!("stand {} {}", stand.attached, stand.applied);
            told = stand;
        }
        tokio::time::sleep(TELLING).await;
    }
}

fn is_fed(node: &Node) -> bool {
    node.upstream_lag().is_some()
}

/// Makes a new listener a learner of its group: as the first part of a promotion.
async fn learn(node: &Node) -> Result<(), Box<dyn std::error::Error>> {
    while !is_fed(node) {
        tokio::time::sleep(TELLING).await;
    }
    let id = node.status().borrow().node_id.to_string();
    node.change_role(RoleChange::Learn { node: id }, drop)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_its_word() {
        for kind in [Kind::Listeners, Kind::Learners] {
            assert_eq!(Kind::of(kind.word()), Some(kind));
        }
        assert_eq!(Kind::of("voters"), None);
    }

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
