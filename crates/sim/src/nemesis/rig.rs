//! The group under attack: its processes, the links between them, the disk that can be full; doing and healing a fault.
//!
//! A process may end only when it is made to, or when its disk is full. Whatever else ends is a finding.

use super::clients::{Shared, Target, connect, kv};
use super::faults::{Bad, Fault, Known};
use super::place::{self, Place};
use super::{EAVES, Plan};
use crate::rng::Rng;
use eaves_harness::Binary;
use eaves_harness::cluster::{Cluster, Node};
use eaves_harness::zones::Zones;
use eaves_kv::proto::etcdserverpb::RangeRequest;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Nodes of a run, in turn in the zones.
const VOTERS: [usize; 2] = [3, 5];
const LISTENERS: usize = 4;
const ZONES: [&str; 3] = ["east", "west", "north"];
/// Listeners that are never promoted, the last ones.
const EXPENDABLE: usize = 2;
/// Small files and little log, so that segments end, logs are cut, and whoever is away for long needs a snapshot.
const FLAGS: [&str; 8] = [
    "--log-segment-bytes",
    "1048576",
    "--log-retention-bytes",
    "2097152",
    "--snapshot-count",
    "2000",
    "--capacity",
    "2",
];
/// The size of the small disk, and what is left of it when it is full.
const SMALL_MEBIBYTES: u32 = 512;
/// What a file may grow to where no disk can be mounted, in the 512-byte blocks of `ulimit`.
const SHORT_BLOCKS: u32 = 768 * 2;
/// The file that fills it.
const BALLAST: &str = "ballast";
/// How long a command may take; it is asked again by whoever needs it done.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a node may take to stop when it is asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a restarted node of a rolling restart is waited for before the next one has its turn.
const ROLLING_TIMEOUT: Duration = Duration::from_secs(20);
/// A healthy node answers a read within this time, or is asked again.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

pub struct Rig {
    binary: Binary,
    cluster: Cluster,
    zones: Zones,
    place: Place,
    pub shared: Arc<Shared>,
    /// The node whose disk is small.
    small: String,
    is_full: bool,
    /// Whether its present run has met a full disk: it may take a while to end by that, also after there is room again.
    has_met_full: bool,
    paused: BTreeSet<String>,
    /// What an operator does again when all is over.
    undo: Vec<Vec<String>>,
    known: Known,
    terms: BTreeMap<String, u64>,
}

impl Rig {
    /// Plans the group and starts it. It is not waited for.
    pub fn start(plan: &Plan, rng: &mut Rng) -> Result<Rig, String> {
        let program =
            std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
        let binary = Binary::part_of(program.display().to_string(), &[EAVES]);
        std::fs::create_dir_all(&plan.directory)
            .map_err(|error| format!("make {}: {error}", plan.directory.display()))?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("nemesis-{}-", plan.seed))
            .tempdir_in(&plan.directory)
            .map_err(|error| {
                format!("make a directory in {}: {error}", plan.directory.display())
            })?;
        let voters = *rng.pick(&VOTERS);
        let (cluster, zones) =
            Cluster::plan_at(directory, binary.clone(), voters, LISTENERS, &FLAGS, &ZONES);
        let small = format!("v{voters}");
        if plan.place.mounts {
            place::mount(&cluster.node(&small).data_dir, SMALL_MEBIBYTES)?;
        }
        let target = |node: &Node| Target {
            name: node.name.clone(),
            address: ([127, 0, 0, 1], node.client_port).into(),
            run: Default::default(),
        };
        let targets = cluster.nodes().iter().map(target).collect();
        let names = |first: &str, count: usize| {
            (1..=count)
                .map(|number| format!("{first}{number}"))
                .collect()
        };
        let mut rig = Rig {
            known: Known {
                leader: None,
                voters: names("v", voters),
                listeners: names("l", LISTENERS),
                expendable: (LISTENERS - EXPENDABLE + 1..=LISTENERS)
                    .map(|number| format!("l{number}"))
                    .collect(),
                clocks: plan.place.clocks,
            },
            binary,
            cluster,
            zones,
            place: plan.place,
            shared: Arc::new(Shared::new(targets)),
            small,
            is_full: false,
            has_met_full: false,
            paused: BTreeSet::new(),
            undo: Vec::new(),
            terms: BTreeMap::new(),
        };
        for name in rig.names() {
            rig.start_node(&name, None);
        }
        Ok(rig)
    }

    /// Where data and logs are.
    pub fn directory(&self) -> &Path {
        self.cluster.directory()
    }

    /// Leaves data and logs where they are.
    pub fn keep(&mut self) {
        self.cluster.keep();
    }

    /// Ends all processes and gives the small disk back; its content goes with it.
    pub fn end(&mut self) {
        for node in self.cluster.nodes_mut() {
            if node.is_running() {
                drop(node.taken());
            }
        }
        if self.place.mounts {
            let data_dir = self.cluster.node(&self.small).data_dir.clone();
            // The disk goes away with this; what may be kept of the run shall hold its data too.
            let aside = data_dir.with_extension("data");
            let copied = Command::new("cp")
                .arg("-r")
                .arg(&data_dir)
                .arg(&aside)
                .status();
            if !copied.is_ok_and(|status| status.success()) {
                eprintln!("the data of {} could not be kept", self.small);
            }
            place::unmount(&data_dir);
        }
    }

    /// What is known of the group, to draw faults for it.
    pub fn known(&self) -> &Known {
        &self.known
    }

    pub fn names(&self) -> Vec<String> {
        self.cluster
            .nodes()
            .iter()
            .map(|node| node.name.clone())
            .collect()
    }

    /// Elections since the start: terms that were begun.
    pub fn elections(&self) -> u64 {
        self.terms.values().copied().max().unwrap_or(0)
    }

    // Faults.

    /// Does it, and prints what a command said that was refused or failed: that is news, and nothing wrong. An error is a finding.
    pub async fn apply(&mut self, fault: &Fault) -> Result<(), String> {
        match fault {
            Fault::Kill(nodes) => {
                for node in nodes {
                    self.kill_node(node)?;
                }
            }
            Fault::Bounce(nodes) => {
                for node in nodes {
                    self.kill_node(node)?;
                }
                for node in nodes {
                    self.start_node(node, None);
                }
            }
            Fault::Pause(nodes) => {
                for node in nodes {
                    self.pause(node);
                }
            }
            Fault::Partition {
                sides: [one, other],
                silent,
            } => self.cut(one, other, *silent),
            Fault::OneWay { from, to } => self.zones.trouble(from, to, |link| link.silent = true),
            Fault::Bridge {
                sides: [one, other],
                ..
            } => self.cut(one, other, false),
            Fault::BadLinks {
                between: [one, other],
                how,
            } => {
                self.worsen(one, other, *how);
                self.worsen(other, one, *how);
            }
            Fault::FullDisk => self.fill_disk()?,
            Fault::Clock {
                node,
                ahead_seconds,
            } => {
                self.kill_node(node)?;
                self.start_node(node, Some(*ahead_seconds));
            }
            Fault::RollingRestart => self.restart_all().await?,
            Fault::Promote(node) => self.command(&["promote", node]).await,
            Fault::Demote(node) => self.command(&["demote", node]).await,
            Fault::Replace { old, new } => self.command(&["replace", old, new]).await,
            Fault::TransferLeader(node) => self.command(&["transfer-leader", node]).await,
            Fault::Wipe(node) => self.wipe(node)?,
            Fault::Upstreams { listener, from } => {
                let given = |names: &[String]| {
                    let words = ["upstream", "set", listener].map(str::to_owned).into_iter();
                    words
                        .chain(names.iter().map(|name| self.reach(name)))
                        .collect::<Vec<_>>()
                };
                let (set, reset) = (given(from), given(&self.known.voters));
                self.undo.push(reset);
                self.command(&as_words(&set)).await;
            }
            Fault::Kick(node) => self.command(&["kick", node]).await,
            Fault::Pin { listener, upstream } => {
                self.undo
                    .push(["pin", listener, "--clear"].map(str::to_owned).to_vec());
                self.command(&["pin", listener, upstream]).await;
            }
            Fault::Avoid { listener, upstream } => {
                self.undo
                    .push(["avoid", listener, "--clear"].map(str::to_owned).to_vec());
                self.command(&["avoid", listener, upstream]).await;
            }
            Fault::Drain(node) => {
                self.undo
                    .push(["undrain", node].map(str::to_owned).to_vec());
                self.command(&["drain", node, "--no-wait"]).await;
            }
        }
        Ok(())
    }

    /// Ends all faults: links, processes, the disk. Whoever is down is started.
    pub fn heal(&mut self) -> Result<(), String> {
        self.zones.heal();
        for node in std::mem::take(&mut self.paused) {
            self.signal(&node, "CONT");
        }
        if self.is_full {
            self.empty_disk()?;
        }
        for name in self.names() {
            if !self.cluster.node(&name).is_running() {
                self.start_node(&name, None);
            }
        }
        Ok(())
    }

    /// Takes steering back. What is refused is told: the node may have become something else meanwhile.
    pub async fn undo(&mut self) {
        for words in std::mem::take(&mut self.undo) {
            self.command(&as_words(&words)).await;
        }
    }

    /// Finds processes that have ended by themselves.
    pub fn look_for_ended(&mut self) -> Result<(), String> {
        for name in self.names() {
            self.find_ended(&name)?;
        }
        Ok(())
    }

    /// An error if the node has ended for no good reason. One that had one is started again, when there is room.
    fn find_ended(&mut self, name: &str) -> Result<(), String> {
        let may_be_full = self.has_met_full && name == self.small;
        let node = self.cluster.node_mut(name);
        if !node.is_running() {
            return Ok(());
        }
        let Some(status) = node.server().ended() else {
            return Ok(());
        };
        let _ended = node.taken();
        let last = node.last_line();
        self.count_run(name);
        if !(may_be_full && says_full(status, &last)) {
            return Err(format!("{name} ended by itself ({status}): {last}"));
        }
        if !self.is_full {
            self.start_node(name, None);
        }
        Ok(())
    }

    fn kill_node(&mut self, name: &str) -> Result<(), String> {
        self.find_ended(name)?;
        let node = self.cluster.node_mut(name);
        if node.is_running() {
            node.kill();
            self.paused.remove(name);
            self.count_run(name);
        }
        Ok(())
    }

    fn start_node(&mut self, name: &str, ahead_seconds: Option<u64>) {
        let is_short = self.is_full && !self.place.mounts && name == self.small;
        let node = self.cluster.node_mut(name);
        if node.is_running() {
            return;
        }
        let plain = node.command();
        let command = match ahead_seconds {
            Some(seconds) => with_clock_ahead(&plain, seconds),
            None if is_short => with_short_files(&plain),
            None => plain,
        };
        node.start_as(command);
        if name == self.small {
            self.has_met_full = self.is_full;
        }
        self.count_run(name);
    }

    /// Another run of the node begins, or none: see [`Target`].
    fn count_run(&self, name: &str) {
        let mut targets = self.shared.targets.iter();
        if let Some(target) = targets.find(|target| target.name == name) {
            target.run.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pause(&mut self, name: &str) {
        if self.cluster.node(name).is_running() {
            self.signal(name, "STOP");
            self.paused.insert(name.to_owned());
        }
    }

    fn signal(&mut self, name: &str, signal: &str) {
        let node = self.cluster.node_mut(name);
        if node.is_running() && node.server().ended().is_none() {
            node.server().signal(signal);
        }
    }

    fn cut(&self, one: &[String], other: &[String], silent: bool) {
        for (from, to) in [(one, other), (other, one)] {
            self.zones.trouble(from, to, |link| match silent {
                true => link.silent = true,
                false => link.severed = true,
            });
        }
    }

    fn worsen(&self, from: &[String], to: &[String], how: Bad) {
        self.zones.trouble(from, to, |link| match how {
            Bad::Slow { delay_ms } => link.delay = Duration::from_millis(delay_ms),
            Bad::Narrow { bytes_per_second } => link.bytes_per_second = bytes_per_second,
            Bad::Stalling { every, for_ms } => {
                link.stall_every = every;
                link.stall = Duration::from_millis(for_ms);
            }
            Bad::Breaking { every } => link.reset_every = every,
        });
    }

    fn fill_disk(&mut self) -> Result<(), String> {
        self.is_full = true;
        self.has_met_full = true;
        let small = self.small.clone();
        match self.place.mounts {
            true => {
                fill(&self.ballast()).map_err(|error| format!("fill the disk of {small}: {error}"))
            }
            false => {
                self.kill_node(&small)?;
                self.start_node(&small, None);
                Ok(())
            }
        }
    }

    fn empty_disk(&mut self) -> Result<(), String> {
        let small = self.small.clone();
        if self.place.mounts {
            let ballast = self.ballast();
            std::fs::remove_file(&ballast)
                .map_err(|error| format!("remove {}: {error}", ballast.display()))?;
            self.find_ended(&small)?;
        } else {
            self.kill_node(&small)?;
        }
        self.is_full = false;
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.cluster.node(&self.small).data_dir.join(BALLAST)
    }

    fn wipe(&mut self, name: &str) -> Result<(), String> {
        assert!(
            self.known.expendable.iter().any(|other| other == name),
            "{name} may be a voter"
        );
        self.kill_node(name)?;
        let data_dir = &self.cluster.node(name).data_dir;
        std::fs::remove_dir_all(data_dir)
            .map_err(|error| format!("remove {}: {error}", data_dir.display()))?;
        self.start_node(name, None);
        Ok(())
    }

    async fn restart_all(&mut self) -> Result<(), String> {
        for name in self.names() {
            self.find_ended(&name)?;
            if !self.cluster.node(&name).is_running() || self.paused.contains(&name) {
                continue;
            }
            let asked = Instant::now();
            // One that has just been started dies of the signal before it listens for it.
            while !listens_for_term(self.cluster.node_mut(&name).server().id())
                && asked.elapsed() < STOP_TIMEOUT
            {
                sleep(Duration::from_millis(20)).await;
            }
            self.signal(&name, "TERM");
            while self.cluster.node_mut(&name).server().ended().is_none() {
                if asked.elapsed() > STOP_TIMEOUT {
                    return Err(format!(
                        "{name} does not stop within {} s",
                        STOP_TIMEOUT.as_secs()
                    ));
                }
                sleep(Duration::from_millis(20)).await;
            }
            let mut server = self.cluster.node_mut(&name).taken();
            self.count_run(&name);
            let status = server.ended();
            let is_full = self.has_met_full && name == self.small;
            if !is_full && !status.is_some_and(|status| status.success()) {
                let last = self.cluster.node(&name).last_line();
                return Err(format!(
                    "{name} was asked to stop and ended with {status:?}: {last}"
                ));
            }
            self.start_node(&name, None);
            let started = Instant::now();
            while self.answers(&name).await.is_err() && started.elapsed() < ROLLING_TIMEOUT {
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    // Commands and questions.

    /// Runs a command of the command line, asking all nodes in turn.
    async fn command(&mut self, words: &[&str]) {
        if let Err(reason) = self.eaves(words).await {
            println!("    {}: {reason}", words.join(" "));
        }
    }

    async fn eaves(&self, words: &[&str]) -> Result<String, String> {
        let addresses: Vec<String> = self.cluster.nodes().iter().map(Node::address).collect();
        let mut command = tokio::process::Command::from(self.binary.command());
        command
            .args(words)
            .args([
                "--command-timeout",
                "8",
                "--endpoints",
                &addresses.join(","),
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match timeout(COMMAND_TIMEOUT, command.output()).await {
            Ok(output) => output.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no end within {} s", COMMAND_TIMEOUT.as_secs())),
        };
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// The rows of the tree; from them, the links learn ids, and the draw learns roles.
    pub async fn look(&mut self) -> Result<Vec<Value>, String> {
        let text = self.eaves(&["tree", "--json"]).await?;
        let rows: Vec<Value> =
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let names = self.names();
        let described =
            |row: &&Value| row["id"].is_u64() && names.iter().any(|name| row["name"] == **name);
        let rows: Vec<Value> = rows.iter().filter(described).cloned().collect();
        self.zones.learn(&rows);
        let with = |wanted: &dyn Fn(&str) -> bool| {
            let rows = rows
                .iter()
                .filter(|row| wanted(row["role"].as_str().unwrap_or("")));
            rows.filter_map(|row| row["name"].as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        // Only a picture of the whole is worth drawing from.
        if rows.len() == names.len() {
            self.known.leader = with(&|role| role == "leader").first().cloned();
            self.known.voters = with(&|role| role != "listener");
            self.known.listeners = with(&|role| role == "listener");
        }
        Ok(rows)
    }

    /// Whether a node answers a linearizable read: it has a place, and it has caught up with what was committed. Else what it says.
    pub async fn answers(&self, name: &str) -> Result<(), String> {
        let read = async {
            let channel = connect(([127, 0, 0, 1], self.cluster.node(name).client_port).into())
                .await
                .map_err(|error| error.to_string())?;
            let read = RangeRequest {
                key: "ready".into(),
                ..Default::default()
            };
            let answer = kv(channel).range(read).await;
            answer.map_err(|status| status.message().to_owned())
        };
        match timeout(READ_TIMEOUT, read).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => Err(format!("nothing within {} s", READ_TIMEOUT.as_secs())),
        }
    }

    /// Asks all nodes for their terms; those that do not answer are left out.
    pub async fn look_at_terms(&mut self) {
        for node in self.cluster.nodes() {
            if let Ok(Some(term)) = timeout(READ_TIMEOUT, term(node.client_port)).await {
                let known = self.terms.entry(node.name.clone()).or_default();
                *known = term.max(*known);
            }
        }
    }

    /// Where other nodes reach a node.
    fn reach(&self, name: &str) -> String {
        format!("127.0.0.1:{}", self.cluster.node(name).reach_port)
    }
}

fn as_words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Whether a process has a handler for SIGTERM, as the kernel tells. One that has ended needs none.
fn listens_for_term(id: u32) -> bool {
    const TERM: u64 = 1 << (15 - 1);
    let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) else {
        return true;
    };
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_none_or(|mask| mask & TERM != 0)
}

/// A node whose disk is full ends by itself with exit status 1 and says why.
fn says_full(status: ExitStatus, last: &str) -> bool {
    let mut reasons = [
        "No space left",
        "File too large",
        "os error 28",
        "os error 27",
    ]
    .iter();
    status.code() == Some(1) && reasons.any(|reason| last.contains(reason))
}

fn fill(ballast: &Path) -> std::io::Result<()> {
    let mut file = File::create(ballast)?;
    let chunk = vec![0; 64 << 10];
    loop {
        match file.write_all(&chunk) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// A write beyond the limit fails as one on a full disk does: with an error, not with the signal that is the other half of this limit.
fn with_short_files(plain: &Command) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(format!(
            r#"trap "" XFSZ && ulimit -f {SHORT_BLOCKS} && exec "$0" "$@""#
        ))
        .arg(plain.get_program())
        .args(plain.get_args());
    command
}

fn with_clock_ahead(plain: &Command, seconds: u64) -> Command {
    let seconds = seconds.to_string();
    let mut command = Command::new("unshare");
    command
        .args(["--time", "--monotonic", &seconds, "--boottime", &seconds])
        .arg(plain.get_program())
        .args(plain.get_args());
    command
}

/// The Raft term that a node's metrics tell.
async fn term(port: u16) -> Option<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await.ok()?;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("eaves_raft_term "))?;
    line.trim().parse().ok()
}
