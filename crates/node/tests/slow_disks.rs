//! Disks that take their time: nobody loses anything by it, a leader not its office. And one without room, of which its node says so.

mod common;

use bytes::Bytes;
use common::{Cluster, History, Running, eventually, write};
use eaves::{Command, Node, NodeEvent, Position, SmallMachine};
use eaves::{SnapshotSink, SnapshotSource, StateMachine};
use eaves_log::sim::SimDisk;
use eaves_log::{Disk, DiskFile, FileLock, RealDisk};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The real disk, on which nothing becomes durable while it is stuck.
#[derive(Clone, Default)]
struct Sticky {
    stuck: Arc<AtomicBool>,
}

struct StickyFile {
    file: Arc<dyn DiskFile>,
    disk: Sticky,
}

impl Sticky {
    fn wait(&self) {
        while self.stuck.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn over(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let disk = self.clone();
        Arc::new(StickyFile { file, disk })
    }
}

impl Disk for Sticky {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.over(RealDisk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.over(RealDisk.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<FileLock> {
        RealDisk.lock(path)
    }
}

impl DiskFile for StickyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.disk.wait();
        self.file.sync_data()
    }
}

/// Three voters, each with its own disk; the leader is the first.
async fn voters(cluster: &Cluster) -> (Vec<Running>, Vec<Sticky>) {
    let (mut running, mut disks) = (Vec::new(), Vec::new());
    for name in ["v1", "v2", "v3"] {
        let disk = Sticky::default();
        let mut config = cluster.voter(name);
        config.disk = Arc::new(disk.clone());
        running.push(cluster.start(config).await);
        disks.push(disk);
    }
    write(&running[0].node, 0, 5).await;
    let leader = running[0].node.status().borrow().leader.unwrap();
    let leads = |voter: &Running| voter.node.status().borrow().node_id == leader;
    let first = running.iter().position(leads).unwrap();
    running.swap(0, first);
    disks.swap(0, first);
    (running, disks)
}

#[tokio::test]
async fn a_leader_whose_followers_have_slow_disks_stays_in_office() {
    let cluster = Cluster::new(3);
    let (voters, disks) = voters(&cluster).await;
    let term = voters[0].node.status().borrow().term;
    for disk in &disks[1..] {
        disk.stuck.store(true, Ordering::Relaxed);
    }
    let (leader, start) = (voters[0].node.clone(), Instant::now());
    let writing = tokio::spawn(async move { leader.write("patience".into()).await });
    // Many times what a leader may be without an answer, and less than a write may take.
    eventually("four seconds have passed", async || {
        start.elapsed() > Duration::from_secs(4)
    })
    .await;
    for disk in &disks {
        disk.stuck.store(false, Ordering::Relaxed);
    }
    let written = writing.await.unwrap();
    for voter in &voters {
        let status = voter.node.status().borrow().clone();
        assert_eq!(status.term, term, "{} saw an election", status.name);
    }
    written.unwrap();
    write(&voters[0].node, 5, 10).await;
}

#[tokio::test]
async fn a_leader_whose_own_disk_is_stuck_refuses_writes_before_they_fill_its_memory() {
    let cluster = Cluster::new(3);
    let (voters, disks) = voters(&cluster).await;
    disks[0].stuck.store(true, Ordering::Relaxed);
    // The others have them on disk, so they are committed, and answered.
    let command = vec![7u8; 1 << 20];
    let limit = eaves::MAX_UNFLUSHED_BYTES as usize / command.len();
    let mut written = 0;
    while voters[0].node.write(command.clone().into()).await.is_ok() {
        written += 1;
        assert!(written <= limit + 2, "{written} MiB wait for the disk");
    }
    assert!(written > 0);
    let waiting = voters[0].node.log_stats().waiting_bytes;
    assert!(waiting > eaves::MAX_UNFLUSHED_BYTES, "{waiting}");
    let refused = voters[0].node.write(command.into()).await;
    assert!(
        matches!(refused, Err(eaves::WriteError::Busy)),
        "{refused:?}"
    );
    disks[0].stuck.store(false, Ordering::Relaxed);
    eventually("writes are taken again", async || {
        voters[0].node.write("again".into()).await.is_ok()
    })
    .await;
}

/// A state of which nothing more may be applied before all of it is durable.
struct Heavy {
    machine: SmallMachine<History>,
    is_durable: AtomicBool,
}

impl StateMachine for Heavy {
    fn position(&self) -> Option<Position> {
        self.machine.position()
    }
    fn apply(&self, commands: &[Command], index: u64, at: Position) -> io::Result<Vec<Bytes>> {
        self.is_durable.store(false, Ordering::Relaxed);
        self.machine.apply(commands, index, at)
    }
    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        let persisted = self.machine.persist(durable_index)?;
        self.is_durable.store(true, Ordering::Relaxed);
        Ok(persisted)
    }
    fn unpersisted_bytes(&self) -> usize {
        match self.is_durable.load(Ordering::Relaxed) {
            true => 0,
            false => usize::MAX,
        }
    }
    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        self.machine.snapshot()
    }
    fn install(&self) -> io::Result<Box<dyn SnapshotSink>> {
        self.machine.install()
    }
}

/// Who applies for Raft makes room where too much is not durable, and may be the first to hear that the disk has none.
#[tokio::test]
async fn a_node_that_raft_stops_says_what_stopped_it() {
    let cluster = Cluster::new(1);
    let disk = SimDisk::new();
    let ledger = SmallMachine::<History>::open_on(Arc::new(disk.clone()), Path::new("/ledger"));
    let heavy = Heavy {
        machine: ledger.unwrap(),
        is_durable: AtomicBool::new(true),
    };
    let node = Node::start(cluster.voter("v1"), Arc::new(heavy))
        .await
        .unwrap();
    let mut events = node.events();
    write(&node, 0, 1).await;
    disk.set_capacity(Some(0));
    let failed = async {
        loop {
            if let NodeEvent::Failed(text) = events.recv().await.unwrap() {
                return text;
            }
        }
    };
    let writing = async {
        loop {
            let _ = node.write("more".into()).await;
            // What is refused at once would leave nobody else a turn.
            tokio::task::yield_now().await;
        }
    };
    let text = tokio::select! {
        text = failed => text,
        () = writing => unreachable!("writers write on"),
    };
    assert!(text.starts_with("run Raft: "), "{text}");
    assert!(text.contains("no storage space"), "{text}");
    node.shutdown().await;
}
