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
pub const READY: Duration = Duration::from_secs(600);
/// How often it is asked whether it is.
const POLL: Duration = Duration::from_millis(10);

/// Servers of one program. Dropping the group kills them and removes their data.
pub struct Group {
    side: String,
    program: Program,
    /// Voters first, then listeners.
    members: Vec<Member>,
    voters: usize,
    directory: TempDir,
}

/// One of them.
pub struct Member {
    name: String,
    client_port: u16,
    peer_port: u16,
    program: Program,
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
        Group::start_of(&vec![program.clone(); size], data, flags).await
    }

    /// The same, with a program for each server; the last is the one for commands.
    pub async fn start_of(programs: &[Program], data: &Path, flags: &[&str]) -> Outcome<Group> {
        let (size, program) = (programs.len(), &programs[programs.len() - 1]);
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
                peer_port: peer_ports[i],
                program: programs[i].clone(),
                server: None,
            }
        };
        let mut group = Group {
            side: program.side.to_owned(),
            program: program.clone(),
            voters: size,
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
                let mut command = member.program.command();
                command.args(&member.arguments);
                let log = log_file(&self.directory, &member.name);
                member.server = Some(Server::start(&member.name, command, &log));
            }
        }
        for member in &mut self.members {
            member.ready().await?;
        }
        Ok(())
    }

    /// The side it is in figures: its program's, unless it was given another.
    pub fn side(&self) -> &str {
        &self.side
    }

    /// The same, as another side.
    pub fn as_side(mut self, side: &str) -> Group {
        self.side = side.to_owned();
        self
    }

    /// Starts one more listener with these flags, and waits until it is ready. Its place is behind all others.
    pub async fn add_listener(&mut self, flags: &[&str]) -> Outcome<usize> {
        self.add_listener_of(&self.program.clone(), flags).await
    }

    /// The same, of another program.
    pub async fn add_listener_of(&mut self, program: &Program, flags: &[&str]) -> Outcome<usize> {
        let ports = free_ports(2);
        let name = format!("l{}", self.members.len() - self.voters + 1);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let pairs = [
            ("--name", name.clone()),
            ("--data-dir", self.data_dir(&name).display().to_string()),
            ("--listen-client-urls", url(ports[0])),
            ("--listen-peer-urls", url(ports[1])),
            ("--upstream", self.peer_addresses()),
        ];
        let pairs = pairs
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        self.members.push(Member {
            arguments: std::iter::once("listen".to_owned())
                .chain(pairs)
                .chain(flags.iter().map(|flag| flag.to_string()))
                .collect(),
            name,
            client_port: ports[0],
            peer_port: ports[1],
            program: program.clone(),
            server: None,
        });
        self.start_all().await?;
        Ok(self.members.len() - 1)
    }

    /// Asks all servers to stop, and waits until they have.
    pub async fn stop(&mut self) {
        for member in &mut self.members {
            if let Some(mut server) = member.server.take() {
                server.signal("TERM");
                // etcd ends by the signal, so the exit status says nothing.
                server.wait().await;
            }
        }
    }

    /// Runs a command of the program's command line on the first server.
    pub async fn command(&self, words: &[&str]) -> Outcome<String> {
        let mut command = self.program.command();
        command
            .args(words)
            .args(["--endpoints", &self.address(0).to_string()]);
        let what = words.join(" ");
        let run = tokio::task::spawn_blocking(move || command.output()).await;
        let output = run
            .map_err(|error| error.to_string())
            .and_then(|output| output.map_err(|error| error.to_string()))
            .map_err(|error| Failure::failed(format!("cannot run {what}: {error}")))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Failure::failed(format!(
                "{what}: {}",
                String::from_utf8_lossy(&output.stderr)
            ))),
        }
    }

    /// Adds listeners one below the other, the first below a voter that does not lead. Gives that voter's place; the listeners follow the
    /// voters in the order of their depth.
    pub async fn add_chain(&mut self, depth: usize) -> Outcome<usize> {
        let leader = self.leader().await?;
        let root = (0..self.voters).find(|place| *place != leader);
        let root = root.expect("a group has more than one voter");
        let mut above = root;
        for wanted in 1..=depth {
            let place = self.add_listener(&[]).await?;
            let (name, upstream) = (self.name(place).to_owned(), self.name(above).to_owned());
            self.command(&["pin", &name, &upstream]).await?;
            self.until_depth(place, wanted).await?;
            above = place;
        }
        Ok(root)
    }

    /// Waits until a listener hangs at this depth.
    pub async fn until_depth(&self, place: usize, depth: usize) -> Outcome {
        let deadline = Instant::now() + READY;
        while self.metric(place, "eaves_tree_depth").await != depth as f64 {
            if Instant::now() > deadline {
                return Err(Failure::failed(format!(
                    "{} does not come to depth {depth}",
                    self.name(place)
                )));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// What a server's metrics say under this name, all labels together unless the name has one; 0 if they do not have it.
    pub async fn metric(&self, place: usize, name: &str) -> f64 {
        let page = get(self.members[place].client_port, "/metrics").await;
        sum_of(&page, name)
    }

    /// The name of a server.
    pub fn name(&self, place: usize) -> &str {
        &self.members[place].name
    }

    /// How many servers there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Where the voters listen for peers, as a list.
    pub fn peer_addresses(&self) -> String {
        let voters = self.members[..self.voters].iter();
        let addresses: Vec<String> = voters
            .map(|member| format!("127.0.0.1:{}", member.peer_port))
            .collect();
        addresses.join(",")
    }

    fn data_dir(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
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
                    "{} has no leader after {} s; {}",
                    self.side(),
                    READY.as_secs(),
                    self.last_said()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last line of each member's log. The files themselves go with the group.
    fn last_said(&self) -> String {
        let said = self.members.iter().map(|member| {
            let log = std::fs::read(log_file(&self.directory, &member.name)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let last = log.lines().next_back().unwrap_or("nothing");
            format!("{} said last: {last}", member.name)
        });
        said.collect::<Vec<_>>().join("; ")
    }

    /// Where clients reach a member.
    pub fn address(&self, place: usize) -> Address {
        Address::new("127.0.0.1", self.members[place].client_port)
    }

    /// Where clients reach each member.
    pub fn client_ports(&self) -> Vec<u16> {
        self.members.iter().map(|one| one.client_port).collect()
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

/// The sum of all samples of one metric.
pub fn sum_of(page: &str, name: &str) -> f64 {
    let samples = page
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit_once(' '));
    samples
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

fn log_file(directory: &TempDir, member: &str) -> std::path::PathBuf {
    directory.path().join(format!("{member}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_over_its_labels() {
        let page = "# TYPE a counter\na{b=\"c d\"} 2\na{b=\"e\"} 3.5\nab 7\n";
        assert_eq!(sum_of(page, "a"), 5.5);
        assert_eq!(sum_of(page, "ab"), 7.0);
        assert_eq!(sum_of(page, "c"), 0.0);
    }
}
