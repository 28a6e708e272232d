//! Snapshots through the tree (B9): what is here already is never sent again, whatever cut the transfer; one read serves all; a crash
//! at any step leaves a node that starts again.

mod common;

use bytes::Bytes;
use common::altered::Altered;
use common::faults::{Fault, Faulty};
use common::memory::{Memory, UNDER_WAY_BYTES};
use common::{Cluster, History, Running, converged, eventually};
use eaves::{
    Config, Node, Position, Role, SmallMachine, SnapshotCounters, SnapshotSink, SnapshotSource,
};
use eaves_log::sim::SimDisk;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Commands of the state, and the bytes of each: sixteen chunks in all.
const COMMANDS: usize = 128;
const COMMAND_BYTES: usize = 32 << 10;
const CHUNK_BYTES: u64 = 256 << 10;
const STATE_BYTES: u64 = (COMMANDS * COMMAND_BYTES) as u64;

/// Where a transfer is cut: in the middle of its seventh chunk.
const CUT_AT: u64 = 6 * CHUNK_BYTES + CHUNK_BYTES / 2;

/// Three voters whose log no longer reaches back; a leader first, then two followers.
async fn voters_without_old_log(cluster: &Cluster, adjust: impl Fn(&mut Config)) -> Vec<Running> {
    let mut nodes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let mut config = small_log(cluster.voter(name));
        adjust(&mut config);
        nodes.push(cluster.start(config).await);
    }
    write_state(&nodes, 0, COMMANDS).await;
    nodes.sort_by_key(|running| running.node.status().borrow().role != Role::Leader);
    nodes
}

fn small_log(mut config: Config) -> Config {
    config.log.segment_bytes = 256 << 10;
    config.log_retention_bytes = 512 << 10;
    config.snapshot_entries = 20;
    // A change of leader would move everybody.
    config.raft.election_timeout = Duration::from_secs(2);
    config
}

/// Writes commands `from..to`, and waits until all have them and the log from `from` on is gone: it would have sixteen segments. Up to
/// eight stay, while one voter keeps a snapshot for another.
async fn write_state(nodes: &[Running], from: usize, to: usize) {
    for number in from..to {
        let mut command = vec![number as u8; COMMAND_BYTES];
        command[..8].copy_from_slice(&(number as u64).to_be_bytes());
        nodes[0].node.write(command.into()).await.unwrap();
    }
    converged(&nodes.iter().collect::<Vec<_>>(), to).await;
    eventually("the log is released", async || {
        nodes
            .iter()
            .all(|running| running.node.log_stats().segments < 12)
    })
    .await;
}

fn counters(running: &Running) -> SnapshotCounters {
    running.node.counters().snapshots
}

/// A listener below `upstream`, over a network with `fault`.
fn below(cluster: &Cluster, name: &str, upstream: &Running, fault: Fault) -> (Config, Faulty) {
    let network = Faulty::new(fault);
    let mut config = small_log(cluster.listener(name, &[upstream.node.peer_address()]));
    config.network = Arc::new(network.clone());
    (config, network)
}

async fn six_chunks_are_here(stalled: &Running, network: &Faulty) {
    eventually("it has received six chunks", async || {
        let progress = stalled.node.snapshot_progress().unwrap_or_default();
        network.faults() >= 1 && progress.received_bytes >= 6 * CHUNK_BYTES
    })
    .await;
}

#[tokio::test]
async fn a_cut_connection_costs_nothing_that_had_arrived() {
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let (config, network) = below(&cluster, "l1", &voters[1], Fault::CutAt(CUT_AT));
    let cut = cluster.start(config).await;
    converged(&[&voters[0], &cut], COMMANDS).await;
    assert_eq!(network.faults(), 1);
    let (received, served) = (counters(&cut), counters(&voters[1]));
    assert_eq!((received.received_new, received.resumed), (1, 1));
    assert_eq!(received.resumed_bytes, 6 * CHUNK_BYTES);
    assert!(
        received.received_bytes >= STATE_BYTES
            && received.received_bytes < STATE_BYTES + CHUNK_BYTES,
        "every chunk came once: {received:?}"
    );
    assert_eq!(
        (served.made, served.served_new),
        (1, 2),
        "the same snapshot, begun twice"
    );
    assert_eq!(counters(&voters[0]).served(), 0, "never from the leader");
}

#[tokio::test]
async fn a_listener_that_was_restarted_goes_on_with_what_it_has() {
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let (config, network) = below(&cluster, "l1", &voters[1], Fault::StallAt(CUT_AT));
    let stalled = cluster.start(config).await;
    six_chunks_are_here(&stalled, &network).await;
    assert!(stalled.commands().is_empty());
    stalled.node.shutdown().await;
    drop(stalled);
    let (config, _) = below(&cluster, "l1", &voters[1], Fault::None);
    let again = cluster.start(config).await;
    converged(&[&voters[0], &again], COMMANDS).await;
    let received = counters(&again);
    assert!(received.resumed_bytes >= 6 * CHUNK_BYTES);
    assert!(received.received_bytes < STATE_BYTES - 5 * CHUNK_BYTES);
    eventually("no snapshot is on its way", async || {
        again.node.snapshot_progress().is_none()
    })
    .await;
}

#[tokio::test]
async fn another_upstream_goes_on_where_the_first_was_cut() {
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let (mut config, network) = below(&cluster, "l1", &voters[1], Fault::StallAt(CUT_AT));
    config.start_as = eaves::StartAs::Listener {
        upstreams: cluster.voter_addresses(),
    };
    let moving = cluster.start(config).await;
    six_chunks_are_here(&moving, &network).await;
    let first = moving.node.status().borrow().upstream;
    let (gone, other) = match first == Some(voters[1].node.status().borrow().node_id) {
        true => (&voters[1], &voters[2]),
        false => (&voters[2], &voters[1]),
    };
    assert_eq!((counters(gone).made, counters(other).made), (1, 0));
    network.set(Fault::None);
    gone.node.shutdown().await;
    converged(&[&voters[0], &moving], COMMANDS).await;
    assert_eq!(counters(other).made, 1);
    let received = counters(&moving);
    // The first chunk names the position, which may have moved.
    assert!(received.resumed_bytes >= 5 * CHUNK_BYTES, "{received:?}");
    assert!(received.received_bytes < STATE_BYTES + 2 * CHUNK_BYTES);
}

/// B10. What a sender has in memory for a receiver that takes nothing is a chunk, and no more than that is under way.
#[tokio::test]
async fn a_receiver_that_stalls_is_sent_no_more_than_it_takes() {
    let cluster = Cluster::new(3);
    let memory = Memory::default();
    let voters = voters_without_old_log(&cluster, |config| {
        config.network = Arc::new(memory.clone());
    })
    .await;
    let network = Faulty::over(Arc::new(memory), Fault::StallAt(CUT_AT));
    let mut config = small_log(cluster.listener("l1", &[voters[1].node.peer_address()]));
    config.network = Arc::new(network.clone());
    let stalled = cluster.start(config).await;
    six_chunks_are_here(&stalled, &network).await;
    let (served, received) = (counters(&voters[1]), counters(&stalled));
    assert!(
        served.served_bytes <= received.received_bytes + CHUNK_BYTES + UNDER_WAY_BYTES as u64,
        "{served:?} {received:?}"
    );
    network.set(Fault::None);
    write_state(&voters, COMMANDS, COMMANDS + 5).await;
    assert_eq!(
        counters(&voters[1]).served_bytes,
        served.served_bytes,
        "the group goes on, and nothing more was sent in vain"
    );
}

#[tokio::test]
async fn a_damaged_chunk_is_asked_for_again() {
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let (config, network) = below(&cluster, "l1", &voters[1], Fault::FlipAt(CUT_AT));
    let listener = cluster.start(config).await;
    converged(&[&voters[0], &listener], COMMANDS).await;
    assert_eq!(network.faults(), 1);
    let received = counters(&listener);
    assert_eq!((received.damaged_chunks, received.resumed), (1, 0));
    assert!(
        received.received_bytes >= STATE_BYTES + CHUNK_BYTES,
        "one chunk came twice: {received:?}"
    );
    assert_eq!(counters(&voters[1]).served(), 1, "over the same connection");
}

#[tokio::test]
async fn all_who_want_a_snapshot_share_one_read_and_what_was_received_is_sent_on() {
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let upstream = &voters[1];
    let configs: Vec<Config> = (1..=3)
        .map(|number| below(&cluster, &format!("l{number}"), upstream, Fault::None).0)
        .collect();
    let listeners =
        futures_util::future::join_all(configs.into_iter().map(|config| cluster.start(config)))
            .await;
    let everybody: Vec<&Running> = listeners.iter().chain([&voters[0]]).collect();
    converged(&everybody, COMMANDS).await;
    let served = counters(upstream);
    assert_eq!(served.made, 1, "{served:?}");
    // More where a busy machine cut one of them.
    assert!(served.served_new >= 3, "{served:?}");
    let (config, _) = below(&cluster, "late", &listeners[0], Fault::None);
    let late = cluster.start(config).await;
    converged(&[&voters[0], &late], COMMANDS).await;
    let relayed = counters(&listeners[0]);
    assert!(relayed.served_new >= 1, "{relayed:?}");
    assert_eq!(
        relayed.made, 0,
        "what it received is sent on, its state is not read"
    );
}

#[tokio::test]
async fn a_listener_left_behind_is_counted_as_such_and_keeps_its_state_meanwhile() {
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let (config, _) = below(&cluster, "l1", &voters[1], Fault::None);
    let listener = cluster.start(config).await;
    converged(&[&voters[0], &listener], COMMANDS).await;
    listener.node.shutdown().await;
    drop(listener);
    write_state(&voters, COMMANDS, 2 * COMMANDS).await;
    let (config, _) = below(&cluster, "l1", &voters[1], Fault::StallAt(CUT_AT));
    let stalled = cluster.start(config).await;
    eventually("a snapshot is on its way", async || {
        let progress = stalled.node.snapshot_progress().unwrap_or_default();
        progress.received_bytes > 0
    })
    .await;
    assert_eq!(
        stalled.commands().len(),
        COMMANDS,
        "the old state is served until the new one is here"
    );
    stalled.node.shutdown().await;
    drop(stalled);
    let (config, _) = below(&cluster, "l1", &voters[1], Fault::None);
    let again = cluster.start(config).await;
    converged(&[&voters[0], &again], 2 * COMMANDS).await;
    assert_eq!(counters(&again).received_behind, 1);
}

/// B12: nothing is overwritten silently, not even when nobody has the log any more to compare it with.
#[tokio::test]
async fn a_log_that_was_found_to_differ_is_not_replaced_by_a_snapshot() {
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let (config, _) = below(&cluster, "l1", &voters[1], Fault::None);
    let mark = config.data_dir.join("log-differs");
    let listener = cluster.start(config).await;
    converged(&[&voters[0], &listener], COMMANDS).await;
    listener.node.shutdown().await;
    drop(listener);
    std::fs::write(&mark, "an upstream said so").unwrap();
    write_state(&voters, COMMANDS, 2 * COMMANDS).await;

    let (config, _) = below(&cluster, "l1", &voters[1], Fault::None);
    let refusing = cluster.start(config).await;
    eventually("it has been told twice to take a snapshot", async || {
        refusing.node.counters().moves.total() >= 2
    })
    .await;
    assert_eq!(counters(&refusing).received(), 0);
    assert_eq!(refusing.commands().len(), COMMANDS);
    refusing.node.shutdown().await;
    drop(refusing);

    // The administrator has looked.
    std::fs::remove_file(&mark).unwrap();
    let (config, _) = below(&cluster, "l1", &voters[1], Fault::None);
    let again = cluster.start(config).await;
    converged(&[&voters[0], &again], 2 * COMMANDS).await;
}

#[tokio::test]
async fn what_a_leader_pushes_is_resumed_too() {
    let cluster = Cluster::new(3);
    let network = Faulty::new(Fault::None);
    let voters = voters_without_old_log(&cluster, |config| {
        config.network = Arc::new(network.clone());
    })
    .await;
    let left_behind = &voters[2];
    let name = left_behind.node.status().borrow().name.clone();
    left_behind.node.shutdown().await;
    write_state(&voters[..2], COMMANDS, 2 * COMMANDS).await;
    network.set(Fault::CutAt(CUT_AT));
    let data_dir = cluster.data_dir(&name);
    let mut voters = voters;
    drop(voters.pop());
    let again = cluster.start(small_log(cluster.voter(&name))).await;
    converged(&[&voters[0], &again], 2 * COMMANDS).await;
    assert_eq!(network.faults(), 1);
    let received = counters(&again);
    assert!(received.received_pushed >= 1 && received.resumed >= 1);
    assert!(
        received.resumed_bytes >= 4 * CHUNK_BYTES,
        "{received:?} in {}",
        data_dir.display()
    );
}

/// It says so, and is given up, instead of being asked at once for the same again.
#[tokio::test]
async fn a_sender_that_cannot_make_its_snapshot_is_given_up() {
    let cluster = Cluster::new(3);
    // Nobody else has a place.
    let mut voters = voters_without_old_log(&cluster, |config| config.capacity = 0).await;
    let name = voters[1].node.status().borrow().name.clone();
    voters[1].node.shutdown().await;
    drop(voters.remove(1));
    let ledger = SmallMachine::open(&common::state_file(&cluster.data_dir(&name))).unwrap();
    let reading = Reading::default();
    reading.is_broken.store(true, Ordering::Relaxed);
    let mut machine = Altered::new(ledger.clone());
    machine.source = Box::new({
        let reading = reading.clone();
        move |inner| {
            Box::new(UnreadableSource {
                reading: reading.clone(),
                inner,
                chunks: 3,
            })
        }
    });
    let config = small_log(cluster.voter(&name));
    let node = Node::start(config, Arc::new(machine)).await.unwrap();
    let upstream = Running { node, ledger };
    converged(&[&voters[0], &upstream], COMMANDS).await;
    let (config, _) = below(&cluster, "l1", &upstream, Fault::None);
    let listener = cluster.start(config).await;
    eventually("it has been asked three times", async || {
        reading.failures.load(Ordering::Relaxed) >= 3
    })
    .await;
    let failures = reading.failures.load(Ordering::Relaxed);
    let moves = listener.node.counters().moves;
    assert!(
        failures <= moves.total() + 1,
        "{failures} failed, {moves:?}"
    );
    reading.is_broken.store(false, Ordering::Relaxed);
    converged(&[&voters[0], &listener], COMMANDS).await;
    assert_eq!(counters(&listener).received_new, 1);
}

/// A full disk is not a cut connection: to go on would fill it again. What has come makes room at once for what matters more.
#[tokio::test]
async fn a_full_disk_ends_a_transfer_which_begins_anew_when_there_is_room() {
    const SPACE: u64 = STATE_BYTES / 2;
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let (mut config, _) = below(&cluster, "l1", &voters[1], Fault::None);
    let disk = SimDisk::new();
    disk.set_capacity(Some(SPACE));
    config.disk = Arc::new(disk.clone());
    let listener = cluster.start(config).await;
    eventually("it has given up twice", async || {
        listener.node.counters().moves.total() >= 2
    })
    .await;
    let served: u64 = voters.iter().map(|voter| counters(voter).served()).sum();
    let given_up = listener.node.counters().moves.total();
    assert!(
        served <= given_up + 1,
        "begun {served} times, and given up {given_up}"
    );
    eventually("what was half received is gone", async || {
        disk.used_bytes() < SPACE / 2
    })
    .await;
    disk.set_capacity(None);
    converged(&[&voters[0], &listener], COMMANDS).await;
    let received = counters(&listener);
    assert_eq!((received.received_new, received.resumed), (1, 0));
}

/// What is on disk at each step of a receipt and an install, as a crash there would leave it. A node starts from every one of them.
#[tokio::test]
async fn a_crash_at_any_step_leaves_a_node_that_starts_again() {
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let (config, _) = below(&cluster, "l1", &voters[1], Fault::None);
    std::fs::create_dir_all(&config.data_dir).unwrap();
    let ledger = SmallMachine::open(&common::state_file(&config.data_dir)).unwrap();
    let camera = Camera {
        data_dir: config.data_dir.clone(),
        images: cluster.dir.path().join("images"),
        taken: Arc::default(),
        is_broken: false,
    };
    let node = Node::start(config, camera.over(ledger.clone()))
        .await
        .unwrap();
    let watched = Running { node, ledger };
    converged(&[&voters[0], &watched], COMMANDS).await;
    let images = camera.taken.lock().unwrap().clone();
    assert_eq!(images, ["staging", "staged", "installed"]);
    watched.node.shutdown().await;
    drop(watched);
    for image in images {
        let (mut config, _) = below(&cluster, "l1", &voters[1], Fault::None);
        config.data_dir = camera.images.join(image);
        let image_state = common::state_file(&config.data_dir);
        assert_eq!(
            image_state.exists(),
            image == "installed",
            "{image}: one state or the other"
        );
        let again = common::try_start(config).await.unwrap();
        converged(&[&voters[0], &again], COMMANDS).await;
        let received = counters(&again);
        match image {
            "installed" => assert_eq!(received.received(), 0, "only the log had to follow"),
            "staged" => assert_eq!(
                (received.received_bytes, received.resumed),
                (0, 1),
                "all was here"
            ),
            _ => {
                assert_eq!(received.resumed, 1, "{image}: the first chunk was here");
                let here_bytes = received.received_bytes + received.resumed_bytes;
                assert!(here_bytes < STATE_BYTES + CHUNK_BYTES, "{received:?}");
            }
        }
        again.node.shutdown().await;
    }
}

/// The new state has its name, and whether that is durable is not known. The node stops, and the next start takes what it finds.
#[tokio::test]
async fn an_install_that_fails_at_its_very_end_stops_the_node_which_starts_again() {
    let cluster = Cluster::new(3);
    let voters = voters_without_old_log(&cluster, |_| {}).await;
    let (config, _) = below(&cluster, "l1", &voters[1], Fault::None);
    std::fs::create_dir_all(&config.data_dir).unwrap();
    let ledger = SmallMachine::open(&common::state_file(&config.data_dir)).unwrap();
    let camera = Camera {
        data_dir: config.data_dir.clone(),
        images: cluster.dir.path().join("images"),
        taken: Arc::default(),
        is_broken: true,
    };
    let node = Node::start(config.clone(), camera.over(ledger))
        .await
        .unwrap();
    eventually("the node stops", async || {
        let pause = Duration::from_millis(10);
        tokio::time::timeout(pause, node.stopped()).await.is_ok()
    })
    .await;
    node.shutdown().await;
    drop(node);
    let again = cluster.start(config).await;
    converged(&[&voters[0], &again], COMMANDS).await;
    assert_eq!(counters(&again).received(), 0, "only the log had to follow");
}

/// Copies the data directory at the steps of an install.
#[derive(Clone)]
struct Camera {
    data_dir: PathBuf,
    images: PathBuf,
    taken: Arc<Mutex<Vec<&'static str>>>,
    /// Whether it cannot tell that an install has come to its end.
    is_broken: bool,
}

impl Camera {
    /// The ledger, whose installs are watched.
    fn over(&self, ledger: SmallMachine<History>) -> Arc<Altered> {
        let (camera, mut machine) = (self.clone(), Altered::new(ledger));
        machine.sink = Box::new(move |inner| {
            Box::new(CameraSink {
                camera: camera.clone(),
                inner,
            })
        });
        Arc::new(machine)
    }

    fn take(&self, name: &'static str) {
        let mut taken = self.taken.lock().unwrap();
        if !taken.contains(&name) {
            copy_dir(&self.data_dir, &self.images.join(name));
            taken.push(name);
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Whether states can be read, and how often one could not.
#[derive(Clone, Default)]
struct Reading {
    is_broken: Arc<AtomicBool>,
    failures: Arc<AtomicU64>,
}

/// A copy of a state that cannot be read beyond its first chunks while that is broken.
struct UnreadableSource {
    reading: Reading,
    inner: Box<dyn SnapshotSource>,
    /// Those that can be read all the same.
    chunks: u32,
}

impl SnapshotSource for UnreadableSource {
    fn position(&self) -> Position {
        self.inner.position()
    }

    fn next_chunk(&mut self, max_bytes: usize) -> io::Result<Option<Bytes>> {
        if self.chunks == 0 && self.reading.is_broken.load(Ordering::Relaxed) {
            self.reading.failures.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::other("the disk cannot be read"));
        }
        self.chunks = self.chunks.saturating_sub(1);
        self.inner.next_chunk(max_bytes)
    }
}

struct CameraSink {
    camera: Camera,
    inner: Box<dyn SnapshotSink>,
}

impl SnapshotSink for CameraSink {
    fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        self.camera.take("staging");
        self.inner.write_chunk(chunk)
    }

    fn finish(self: Box<Self>, position: Position) -> io::Result<()> {
        self.camera.take("staged");
        self.inner.finish(position)?;
        self.camera.take("installed");
        match self.camera.is_broken {
            true => Err(io::Error::other("the directory cannot be synced")),
            false => Ok(()),
        }
    }
}
