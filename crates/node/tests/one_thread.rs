//! Whole nodes on one thread, with nothing real below them: a clock that stands still while anybody works, a network and disks in
//! memory. What was acknowledged survives every crash.

mod common;

use common::memory::Memory;
use common::{Running, attached, converged, eventually, write};
use eaves::{
    Blocking, Config, Connection, Group, Listener, Network, Node, Role, RoleChange,
    RoleChangeError, SmallMachine, StartAs, StartError, Step, StepObserver, Task,
};
use eaves_log::Disk;
use eaves_log::sim::SimDisk;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// Where the nodes believe their files to be.
const NOWHERE: &str = "/nowhere/eaves";

/// What a flush and every other piece of blocking work takes.
const DISK_LATENCY: Duration = Duration::from_millis(2);

const NAMES: [&str; 5] = ["v1", "v2", "v3", "l1", "l2"];

/// Machines with a disk each, and what runs on them.
struct World {
    group: Group,
    network: Memory,
    disks: [SimDisk; NAMES.len()],
    latencies: [Duration; NAMES.len()],
    addresses: [&'static str; NAMES.len()],
    steps: Arc<Steps>,
    runs: Vec<(Running, Plug)>,
    /// Makes every seed another.
    seeds: u64,
}

impl World {
    async fn start() -> World {
        World::start_with([DISK_LATENCY; NAMES.len()]).await
    }

    async fn start_with(latencies: [Duration; NAMES.len()]) -> World {
        let mut world = World::of(&["v1", "v2", "v3"], latencies);
        for machine in 0..NAMES.len() {
            let run = world.boot(machine).await;
            world.runs.push(run);
        }
        world
    }

    /// Machines that are off, of which some are to found a group.
    fn of(founders: &[&str], latencies: [Duration; NAMES.len()]) -> World {
        let founders = founders.iter();
        let founders: Vec<_> = founders
            .map(|name| (name.to_string(), format!("{name}:1")))
            .collect();
        World {
            group: Group::new("test", &founders),
            network: Memory::default(),
            disks: Default::default(),
            latencies,
            addresses: ["v1:1", "v2:1", "v3:1", "l1:1", "l2:1"],
            steps: Arc::default(),
            runs: Vec::new(),
            seeds: 0,
        }
    }

    async fn boot(&mut self, machine: usize) -> (Running, Plug) {
        self.try_boot(machine).await.unwrap()
    }

    async fn try_boot(&mut self, machine: usize) -> Result<(Running, Plug), StartError> {
        let name = NAMES[machine];
        let start_as = match self.group.founder(name) {
            Some(_) => StartAs::Voter {
                group: self.group.clone(),
            },
            None => StartAs::Listener {
                upstreams: vec!["v1:1".into(), "v2:1".into()],
            },
        };
        let data_dir = Path::new(NOWHERE).join(name);
        let (disk, plug) = (
            Arc::new(self.disks[machine].mount()),
            Plug::new(&self.network),
        );
        let file = Path::new(NOWHERE).join(format!("ledger of {name}"));
        let ledger = SmallMachine::open_on(disk.clone(), &file).unwrap();
        let mut config = Config::new(name, data_dir, self.addresses[machine], start_as);
        config.disk = disk;
        config.network = Arc::new(plug.clone());
        config.blocking = Blocking::Inline(self.latencies[machine]);
        config.seed = self.next_seed();
        config.step_observer = Some(self.steps.clone());
        let node = Node::start(config, Arc::new(ledger.clone())).await?;
        Ok((Running { node, ledger }, plug))
    }

    /// The power of a machine fails and comes back.
    async fn crash(&mut self, machine: usize) {
        self.power_off(machine).await;
        self.runs[machine] = self.boot(machine).await;
    }

    /// The tasks of a run cannot be ended at once, but from here on they reach nothing.
    async fn power_off(&mut self, machine: usize) {
        let seed = self.next_seed();
        let (running, plug) = &self.runs[machine];
        plug.0.1.send_replace(true);
        self.disks[machine].crash(seed);
        running.node.shutdown().await;
    }

    fn next_seed(&mut self) -> u64 {
        self.seeds += 1;
        self.seeds
    }

    fn all(&self) -> Vec<&Running> {
        self.runs.iter().map(|(running, _)| running).collect()
    }

    async fn leader(&self) -> usize {
        let mut leader = None;
        eventually("somebody leads", async || {
            let leads = |run: &(Running, Plug)| run.0.node.status().borrow().role == Role::Leader;
            leader = self.runs.iter().position(leads);
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn every_machine_crashes_and_nothing_acknowledged_is_lost() {
    let mut world = World::start().await;
    for listener in [3, 4] {
        attached(&world.runs[listener].0).await;
    }
    let mut written = 0;
    for round in 0..12 {
        // Each in turn, and every other time whoever leads.
        let machine = match round % 2 {
            0 => round / 2 % NAMES.len(),
            _ => world.leader().await,
        };
        let another = (machine + 1) % NAMES.len();
        write(&world.runs[machine].0.node, written, written + 7).await;
        world.crash(machine).await;
        write(&world.runs[another].0.node, written + 7, written + 14).await;
        written += 14;
        converged(&world.all(), written).await;
    }
    // All at once.
    for machine in 0..NAMES.len() {
        world.power_off(machine).await;
    }
    for machine in 0..NAMES.len() {
        world.runs[machine] = world.boot(machine).await;
    }
    converged(&world.all(), written).await;
    let commands = world.runs[4].0.commands();
    let expected: Vec<String> = (0..written).map(|number| number.to_string()).collect();
    assert_eq!(commands, expected, "all, once, and in order");

    assert!(!Path::new(NOWHERE).exists(), "no real file is made");
    assert_eq!(threads_of_nodes(), Vec::<String>::new());
}

/// A first start is killed when the identity has its name, which is not durable yet. The next one builds on it.
#[tokio::test(start_paused = true)]
async fn what_a_start_finds_is_still_there_after_a_power_failure() {
    for seed in 0..8 {
        let mut world = World::of(&["v1"], [DISK_LATENCY; NAMES.len()]);
        world.seeds = 100 * seed;
        // Of the ledger's directory and of the node's as they were found, of the file, and of the directory with it.
        world.disks[0].fail_syncs_after(3);
        let error = world.try_boot(0).await.err().expect("the disk fails");
        assert!(error.to_string().contains("identity"), "{error}");
        world.disks[0].heal();
        let run = world.boot(0).await;
        world.runs.push(run);
        write(&world.runs[0].0.node, 0, 1).await;
        world.crash(0).await;
        converged(&world.all(), 1).await;
    }
}

/// A machine went down in the middle of receiving a snapshot, and its disk was filled meanwhile.
#[tokio::test(start_paused = true)]
async fn a_half_received_snapshot_keeps_no_node_from_starting() {
    const SPACE_LEFT: u64 = 4096;
    let mut world = World::of(&["v1"], [DISK_LATENCY; NAMES.len()]);
    let disk = world.disks[0].clone();
    let snapshots = Path::new(NOWHERE).join("v1/snapshots");
    let received = disk.create(&snapshots.join("incoming")).unwrap();
    let size = eaves_log::Options::default().segment_bytes;
    received.set_len(size).unwrap();
    received.sync_data().unwrap();
    disk.sync_dir(&snapshots).unwrap();
    drop(received);
    disk.set_capacity(Some(size + SPACE_LEFT));
    let run = world.boot(0).await;
    write(&run.0.node, 0, 1).await;
}

/// Under many writes a follower is always behind by what is on its way. That keeps it from nothing.
#[tokio::test(start_paused = true)]
async fn leadership_moves_to_a_healthy_follower_under_writes_that_never_pause() {
    const WRITERS: usize = 150;
    let slow = 10 * DISK_LATENCY;
    let world =
        World::start_with([slow, DISK_LATENCY, DISK_LATENCY, DISK_LATENCY, DISK_LATENCY]).await;
    write(&world.runs[0].0.node, 0, 1).await;
    if world.leader().await == 0 {
        transfer(&world, 1, "v2").await.unwrap();
    }
    let node = world.runs[world.leader().await].0.node.clone();
    let writers = async {
        let writing = (0..WRITERS).map(async |_| {
            // What waits while leadership moves may find no leader.
            loop {
                let _ = node.write("x".into()).await;
            }
        });
        futures_util::future::join_all(writing).await
    };
    let moving = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        transfer(&world, 3, "v1").await
    };
    tokio::select! {
        _ = writers => unreachable!("writers write on"),
        moved = moving => assert_eq!(moved.unwrap(), "v1 leads"),
    }
}

async fn transfer(world: &World, asked: usize, to: &str) -> Result<String, RoleChangeError> {
    let change = RoleChange::TransferLeader {
        to: Some(to.into()),
    };
    world.runs[asked].0.node.change_role(change, |_| {}).await
}

/// Another node has the address by the time the listener is to open Raft.
#[tokio::test(start_paused = true)]
async fn a_node_at_the_address_of_another_is_not_taken_for_it() {
    let mut world = World::start().await;
    for listener in [3, 4] {
        attached(&world.runs[listener].0).await;
    }
    let asked = world.runs[0].0.node.clone();
    let steps = world.steps.clone();
    steps.hold.send_replace(Some(Step::PositionTaken));
    let promote = RoleChange::Promote { node: "l1".into() };
    let change = tokio::spawn(async move { asked.change_role(promote, |_| {}).await });
    let mut held = steps.held.subscribe();
    held.wait_for(|held| *held).await.unwrap();
    for listener in [3, 4] {
        world.power_off(listener).await;
    }
    world.addresses[4] = "l1:1";
    world.runs[4] = world.boot(4).await;
    attached(&world.runs[4].0).await;
    steps.hold.send_replace(None);

    let Err(RoleChangeError::Refused(text)) = change.await.unwrap() else {
        panic!("not refused");
    };
    let expected = "another node than l1 answers at l1:1";
    assert!(text.starts_with(expected), "{text}");
    attached(&world.runs[4].0).await;
    assert_eq!(world.runs[4].0.node.status().borrow().role, Role::Listener);
    assert_eq!(world.runs[4].0.node.members().len(), 3);
}

/// Holds whoever reaches a step, while it is set.
struct Steps {
    hold: watch::Sender<Option<Step>>,
    held: watch::Sender<bool>,
}

impl Default for Steps {
    fn default() -> Steps {
        Steps {
            hold: watch::Sender::new(None),
            held: watch::Sender::new(false),
        }
    }
}

impl StepObserver for Steps {
    fn reached<'a>(&'a self, _node: &'a str, step: Step) -> Task<'a, ()> {
        Box::pin(async move {
            if *self.hold.borrow() == Some(step) {
                self.held.send_replace(true);
                let mut hold = self.hold.subscribe();
                // The sender lives as long as this.
                let _ = hold.wait_for(|hold| *hold != Some(step)).await;
            }
        })
    }
}

/// One voter feeds nobody. The listener that ends this by becoming the second voter is not without its food from then on.
#[tokio::test(start_paused = true)]
async fn the_time_as_a_voter_counts_as_no_gap() {
    const AS_A_VOTER: Duration = Duration::from_secs(60);
    let mut world = World::start().await;
    let node = world.runs[3].0.node.clone();
    attached(&world.runs[3].0).await;
    // The one that stays a voter.
    let asked = world.runs[0].0.node.clone();
    let change = async |change| asked.change_role(change, |_| {}).await.unwrap();
    let promote = async |name: &str| change(RoleChange::Promote { node: name.into() }).await;
    let demote = async |name: &str| change(RoleChange::Demote { node: name.into() }).await;
    demote("v3").await;
    demote("v2").await;
    let others = [1, 2, 4];
    for other in others {
        world.power_off(other).await;
    }
    eventually("the listener has lost its upstream", async || {
        node.status().borrow().upstream.is_none()
    })
    .await;
    // Asked itself: the voter may never have fed it, and so not know it.
    let change_itself = RoleChange::Promote { node: "l1".into() };
    node.change_role(change_itself, |_| {}).await.unwrap();
    tokio::time::sleep(AS_A_VOTER).await;
    for other in others {
        world.runs[other] = world.boot(other).await;
    }
    attached(&world.runs[1].0).await;
    promote("v2").await;
    demote("l1").await;
    write(&asked, 0, 1).await;
    converged(&[&world.runs[3].0], 1).await;
    let longest = Duration::from_micros(node.counters().unfed_max_us);
    assert!(longest < AS_A_VOTER, "{longest:?}");
}

/// The names of this process's threads that a node, or tokio for it, would have started.
fn threads_of_nodes() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads
        .map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap())
        .filter(|name| name.starts_with("eaves-flush") || name.starts_with("tokio"))
        .collect()
}

/// One run's end of the network. Once it is pulled, its connections are broken and it gets no others.
#[derive(Clone)]
struct Plug(Arc<(Memory, watch::Sender<bool>)>);

impl Plug {
    fn new(network: &Memory) -> Plug {
        Plug(Arc::new((network.clone(), watch::Sender::new(false))))
    }

    fn wrap(&self, connection: Connection) -> Connection {
        Connection {
            reader: Box::new(self.half(connection.reader)),
            writer: Box::new(self.half(connection.writer)),
            peer: connection.peer,
        }
    }

    fn half<T>(&self, half: T) -> Half<T> {
        let mut pulled = self.0.1.subscribe();
        Half {
            half,
            pulled: Box::pin(async move {
                // Whoever ends the run without pulling the plug has closed all connections.
                let _ = pulled.wait_for(|pulled| *pulled).await;
            }),
        }
    }
}

impl Network for Plug {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        Box::pin(async move {
            let is_pulled = *self.0.1.borrow();
            match is_pulled {
                true => Err(io::ErrorKind::NetworkUnreachable.into()),
                false => Ok(self.wrap(self.0.0.connect(address).await?)),
            }
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.0.0.listen(address).await?;
            Ok(Box::new(Socket(listener, self.clone())) as Box<dyn Listener>)
        })
    }
}

struct Socket(Box<dyn Listener>, Plug);

impl Listener for Socket {
    fn accept(&mut self) -> Task<'_, io::Result<Connection>> {
        Box::pin(async move { Ok(self.1.wrap(self.0.accept().await?)) })
    }

    fn address(&self) -> io::Result<String> {
        self.0.address()
    }
}

struct Half<T> {
    half: T,
    pulled: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<T> Half<T> {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.pulled.as_mut().poll(context) {
            Poll::Ready(()) => {
                // For whoever asks again.
                self.pulled = Box::pin(std::future::ready(()));
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Half<Box<dyn AsyncRead + Send + Unpin>> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.half).poll_read(context, buffer)
    }
}

impl AsyncWrite for Half<Box<dyn AsyncWrite + Send + Unpin>> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.half).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.half).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.half).poll_shutdown(context)
    }
}
