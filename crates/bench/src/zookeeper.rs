//! A ZooKeeper that is measured: three voters and observers on loopback, each a Java process.
//!
//! Observers get their log from the leader, or from a follower: since 3.6 followers feed them at `observerMasterPort`. That port is the same
//! at all followers, so each server has an address of its own, 127.0.0.1, 127.0.0.2 and so on.

use crate::group::READY;
use crate::programs::Program;
use crate::zookeeper_client::{Pipeline, Session};
use eaves_harness::process::{Server, free_ports};
use eaves_server::address::Address;
use eaves_server::failure::{Failure, Outcome};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Memory of a voter, and of an observer: there are many.
const VOTER_HEAP: &str = "-Xmx512m";
const OBSERVER_HEAP: &str = "-Xmx128m";
/// Znodes that a load writes, in turn, and their values; as the loads of other servers.
const ZNODES: u32 = 1_000;
const VALUE: [u8; 256] = [b'v'; 256];
/// Requests under way on one connection.
const WINDOW: usize = 8;
/// How often servers are asked whether they are ready.
const POLL: Duration = Duration::from_millis(100);
/// What a probe writes.
pub const PROBE: &str = "/probe";

/// Who feeds an observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feeder {
    /// The leader, as it is unless configured otherwise.
    Leader,
    /// A follower.
    Follower,
}

/// Servers of one ensemble. Dropping it kills them and removes their data.
pub struct Ensemble {
    /// Voters first, then observers.
    servers: Vec<Member>,
    _directory: TempDir,
}

struct Member {
    client_port: u16,
    server: Server,
}

/// Where the servers of an ensemble listen.
struct Ports {
    client: Vec<u16>,
    quorum: Vec<u16>,
    election: Vec<u16>,
    masters: u16,
}

impl Ensemble {
    /// How many voters there are.
    pub const VOTERS: usize = 3;

    /// Starts three voters and an observer for each of `observers`, and waits until all take part and the znodes of loads are there.
    pub async fn start(program: &Program, data: &Path, observers: &[Feeder]) -> Outcome<Ensemble> {
        let directory = tempfile::Builder::new()
            .prefix("eaves-bench-zookeeper-")
            .tempdir_in(data)
            .map_err(|error| Failure::failed(format!("cannot make a directory: {error}")))?;
        let size = Ensemble::VOTERS + observers.len();
        let mut ports = free_ports(3 * size + 1).into_iter();
        let mut some = |count| ports.by_ref().take(count).collect::<Vec<u16>>();
        let ports = Ports {
            client: some(size),
            quorum: some(size),
            election: some(size),
            masters: some(1)[0],
        };
        let mut servers = Vec::new();
        for place in 0..size {
            let feeder = place.checked_sub(Ensemble::VOTERS).map(|at| observers[at]);
            let home = directory.path().join((place + 1).to_string());
            let file = home.join("zoo.cfg");
            let written = std::fs::create_dir(&home)
                .and_then(|()| std::fs::write(home.join("myid"), (place + 1).to_string()))
                .and_then(|()| std::fs::write(&file, ports.configuration(place, feeder, &home)));
            written.map_err(|error| {
                Failure::failed(format!("cannot write {}: {error}", file.display()))
            })?;
            let heap = match feeder {
                None => VOTER_HEAP,
                Some(_) => OBSERVER_HEAP,
            };
            let mut command = program.command_with(&[heap]);
            command.arg(&file);
            servers.push(Member {
                client_port: ports.client[place],
                server: Server::start("zookeeper", command, &home.join("log.txt")),
            });
        }
        let mut ensemble = Ensemble {
            servers,
            _directory: directory,
        };
        ensemble.until_ready().await?;
        let leader = ensemble.address(ensemble.leader().await?);
        let mut session = Session::connect(&leader).await?;
        session.create("/bench", b"").await?;
        session.create(PROBE, b"").await?;
        for number in 0..ZNODES {
            session.create(&znode(number), &VALUE).await?;
        }
        Ok(ensemble)
    }

    async fn until_ready(&mut self) -> Outcome {
        let deadline = Instant::now() + READY;
        for member in &mut self.servers {
            while mode(member.client_port).await.is_none() {
                if let Some(status) = member.server.ended() {
                    return Err(Failure::failed(format!(
                        "a ZooKeeper ended while it started ({status}): {}",
                        member.server.log_tail()
                    )));
                }
                if Instant::now() > deadline {
                    return Err(Failure::failed(format!(
                        "a ZooKeeper does not take part after {} s: {}",
                        READY.as_secs(),
                        member.server.log_tail()
                    )));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Which server leads.
    pub async fn leader(&self) -> Outcome<usize> {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            for (place, member) in self.servers.iter().enumerate() {
                if mode(member.client_port).await.as_deref() == Some("leader") {
                    return Ok(place);
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Failure::failed("ZooKeeper has no leader"))
    }

    /// Process ids, in the order of the servers.
    pub fn processes(&self) -> Vec<u32> {
        self.servers
            .iter()
            .map(|member| member.server.id())
            .collect()
    }

    /// Where clients reach a server.
    pub fn address(&self, place: usize) -> Address {
        Address::new("127.0.0.1", self.servers[place].client_port)
    }

    /// Writes znodes at a server for `time`, so many a second on all connections together, or as fast as it answers eight requests under
    /// way on each. Tells how many were written, and in which time.
    pub async fn drive(
        &self,
        place: usize,
        connections: usize,
        rate: Option<u64>,
        time: Duration,
    ) -> Outcome<(u64, Duration)> {
        let mut working = JoinSet::new();
        for connection in 0..connections {
            let session = Session::connect(&self.address(place)).await?;
            let mut number = connection as u32;
            let pace = rate.map(|rate| Duration::from_secs(1) * connections as u32 / rate as u32);
            let next = move || {
                number = (number + connections as u32) % ZNODES;
                (znode(number), VALUE.to_vec())
            };
            let pipeline = Pipeline {
                window: WINDOW,
                pace,
                time,
            };
            working.spawn(session.write_all(pipeline, next));
            // Evenly, as paced loads of other servers are.
            tokio::time::sleep(pace.unwrap_or_default() / connections as u32).await;
        }
        let began = Instant::now();
        let mut written = 0;
        while let Some(done) = working.join_next().await {
            written +=
                done.map_err(|error| Failure::failed(format!("write to ZooKeeper: {error}")))??;
        }
        match written {
            0 => Err(Failure::failed(
                "ZooKeeper answered no write; measure longer",
            )),
            _ => Ok((written, began.elapsed())),
        }
    }
}

impl Ports {
    /// `zoo.cfg` of one server. Times are those of ZooKeeper's sample, but for the patience with a machine that starts many at once.
    fn configuration(&self, place: usize, feeder: Option<Feeder>, home: &Path) -> String {
        let mut text = format!(
            "tickTime=2000\ninitLimit=60\nsyncLimit=15\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr\n",
            home.display(),
            self.client[place]
        );
        if feeder != Some(Feeder::Leader) {
            let _ = writeln!(text, "observerMasterPort={}", self.masters);
        }
        if feeder.is_some() {
            text.push_str("peerType=observer\n");
        }
        for (place, (quorum, election)) in self.quorum.iter().zip(&self.election).enumerate() {
            let kind = match place < Ensemble::VOTERS {
                true => "participant",
                false => "observer",
            };
            let number = place + 1;
            let _ = writeln!(
                text,
                "server.{number}=127.0.0.{number}:{quorum}:{election}:{kind}"
            );
        }
        text
    }
}

fn znode(number: u32) -> String {
    format!("/bench/{number}")
}

/// `leader`, `follower` or `observer`, once a server takes part: what it answers to the four letters `srvr`.
async fn mode(port: u16) -> Option<String> {
    let asked = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"srvr")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    mode_of(&asked.await.ok()?.ok()?)
}

fn mode_of(answer: &str) -> Option<String> {
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix("Mode: "))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_differ_by_who_feeds_them() {
        let ports = Ports {
            client: vec![1, 2, 3, 4],
            quorum: vec![11, 12, 13, 14],
            election: vec![21, 22, 23, 24],
            masters: 31,
        };
        let voter = ports.configuration(1, None, Path::new("/d"));
        for part in [
            "clientPort=2\n",
            "observerMasterPort=31\n",
            "server.2=127.0.0.2:12:22:participant\n",
            "server.4=127.0.0.4:14:24:observer\n",
        ] {
            assert!(voter.contains(part), "{part} is not in {voter}");
        }
        assert!(!voter.contains("peerType"));
        let below = |feeder| ports.configuration(3, Some(feeder), Path::new("/d"));
        assert!(below(Feeder::Leader).contains("peerType=observer"));
        assert!(!below(Feeder::Leader).contains("observerMasterPort"));
        assert!(below(Feeder::Follower).contains("observerMasterPort=31"));
    }

    #[test]
    fn the_mode_is_found_when_there_is_one() {
        let text = "Zookeeper version: 3.8.0\nZxid: 0x100\nMode: leader\nNode count: 5\n";
        assert_eq!(mode_of(text).as_deref(), Some("leader"));
        assert_eq!(
            mode_of("This ZooKeeper instance is not currently serving requests\n"),
            None
        );
    }
}
