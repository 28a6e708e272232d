//! A group of servers that is measured: three voters of Eaves, or three members of etcd, on loopback, each a process.
//!
//! Both take the same flags, and say on the same pages whether they are healthy and lead.

use crate::processor;
use crate::programs::Program;
use eaves_harness::process::{Server, free_ports, page};
use eaves_server::address::Address;
use eaves_server::failure::{Failure, Outcome};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Within this time a server must be ready, whatever it has to read.
const READY: Duration = Duration::from_secs(600);
/// How often it is asked whether it is.
const POLL: Duration = Duration::from_millis(10);

/// Servers of one program. Dropping the group kills them and removes their data.
pub struct Group {
    program: Program,
    members: Vec<Member>,
    directory: TempDir,
}

/// One of them.
pub struct Member {
    name: String,
    client_port: u16,
    arguments: Vec<String>,
    server: Option<Server>,
}

impl Group {
    /// Starts `size` servers with their data below `data` and these flags more, and waits until all are ready.
    pub async fn start(
        program: &Program,
        size: usize,
        data: &Path,
        flags: &[&str],
    ) -> Outcome<Group> {
        let directory = tempfile::Builder::new()
            .prefix("eaves-bench-")
            .tempdir_in(data)
            .map_err(|error| {
                Failure::failed(format!(
                    "cannot make a directory in {}: {error}; choose another --data",
                    data.display()
                ))
            })?;
        let ports = free_ports(2 * size);
        let (client_ports, peer_ports) = ports.split_at(size);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (0..size)
            .map(|i| format!("v{}={}", i + 1, url(peer_ports[i])))
            .collect();
        let member = |i: usize| {
            let name = format!("v{}", i + 1);
            let pairs = [
                ("--name", name.clone()),
                (
                    "--data-dir",
                    directory.path().join(&name).display().to_string(),
                ),
                ("--listen-client-urls", url(client_ports[i])),
                ("--advertise-client-urls", url(client_ports[i])),
                ("--listen-peer-urls", url(peer_ports[i])),
                ("--initial-advertise-peer-urls", url(peer_ports[i])),
                ("--initial-cluster", cluster.join(",")),
                ("--initial-cluster-state", "new".to_owned()),
            ];
            let pairs = pairs
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value]);
            // Only Eaves has more than one kind of server.
            let command = (program.side == "eaves").then(|| "serve".to_owned());
            Member {
                arguments: command
                    .into_iter()
                    .chain(pairs)
                    .chain(flags.iter().map(|flag| flag.to_string()))
                    .collect(),
                name,
                client_port: client_ports[i],
                server: None,
            }
        };
        let mut group = Group {
            program: program.clone(),
            members: (0..size).map(member).collect(),
            directory,
        };
        group.start_all().await?;
        Ok(group)
    }

    /// Starts all that do not run, and waits until all are ready.
    pub async fn start_all(&mut self) -> Outcome {
        for member in &mut self.members {
            if member.server.is_none() {
                let mut command = self.program.command();
                command.args(&member.arguments);
                let log = self.directory.path().join(format!("{}.log", member.name));
                member.server = Some(Server::start(&member.name, command, &log));
            }
        }
        for member in &mut self.members {
            member.ready().await?;
        }
        Ok(())
    }

    /// The side it is in figures.
    pub fn side(&self) -> &'static str {
        self.program.side
    }

    /// Process ids, in the order of the members.
    pub fn processes(&self) -> Vec<u32> {
        let servers = self.members.iter().filter_map(|one| one.server.as_ref());
        servers.map(Server::id).collect()
    }

    /// Which of the members leads.
    pub async fn leader(&self) -> Outcome<usize> {
        let deadline = Instant::now() + READY;
        loop {
            for (place, member) in self.members.iter().enumerate() {
                if member.leads().await {
                    return Ok(place);
                }
            }
            if Instant::now() > deadline {
                return Err(Failure::failed(format!(
                    "{} has no leader after {} s; its logs are in {}",
                    self.side(),
                    READY.as_secs(),
                    self.directory.path().display()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Where clients reach a member.
    pub fn address(&self, place: usize) -> Address {
        Address::new("127.0.0.1", self.members[place].client_port)
    }

    /// Memory of each member.
    pub fn resident_bytes(&self) -> Outcome<Vec<u64>> {
        self.processes()
            .into_iter()
            .map(processor::resident_bytes)
            .collect()
    }
}

impl Member {
    /// Waits until its page says that it is healthy: it answers a linearizable read.
    async fn ready(&mut self) -> Outcome {
        let server = self.server.as_mut().expect("it was just started");
        let deadline = Instant::now() + READY;
        while !get(self.client_port, "/health").await.contains("\"true\"") {
            if let Some(status) = server.ended() {
                return Err(Failure::failed(format!(
                    "{} ended while it started ({status}): {}",
                    self.name,
                    server.log_tail()
                )));
            }
            if Instant::now() > deadline {
                return Err(Failure::failed(format!(
                    "{} is not healthy after {} s: {}",
                    self.name,
                    READY.as_secs(),
                    server.log_tail()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn leads(&self) -> bool {
        let metrics = get(self.client_port, "/metrics").await;
        let leading = ["etcd_server_is_leader 1", "eaves_is_leader 1"];
        metrics.lines().any(|line| leading.contains(&line))
    }
}

/// A page of a server, empty if there is none.
pub async fn get(port: u16, path: &'static str) -> String {
    let asked = tokio::task::spawn_blocking(move || page(port, path)).await;
    asked.ok().and_then(Result::ok).unwrap_or_default()
}
