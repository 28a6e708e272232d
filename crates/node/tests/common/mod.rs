//! A state machine that remembers every command, and clusters of nodes in one process, on real sockets and a real disk.

// Every test binary uses its own part of this.
#![allow(dead_code)]

pub mod altered;
pub mod faults;
pub mod held;
pub mod memory;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use eaves::{
    Config, Connection, Group, Listener, Network, Node, SmallMachine, SmallState, StartAs, Task,
    TcpNetwork,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, ReadBuf};

/// Everything that was ever applied, in order.
#[derive(Clone, Default)]
pub struct History(pub Vec<Bytes>);

impl SmallState for History {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        self.0.push(Bytes::copy_from_slice(command));
        self.0.len().to_string().into()
    }

    fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        for command in &self.0 {
            bytes.put_u32(command.len() as u32);
            bytes.put_slice(command);
        }
        bytes.freeze()
    }

    fn from_bytes(mut bytes: &[u8]) -> io::Result<History> {
        let mut commands = Vec::new();
        while bytes.has_remaining() {
            let length = bytes.get_u32() as usize;
            commands.push(bytes.copy_to_bytes(length));
        }
        Ok(History(commands))
    }
}

/// A node and its state machine.
pub struct Running {
    pub node: Node,
    pub ledger: SmallMachine<History>,
}

impl Running {
    pub fn commands(&self) -> Vec<Bytes> {
        self.ledger.read(|history| history.0.clone())
    }
}

/// Nodes in one process. Voters are `v1`, `v2`..; every other name is a listener.
pub struct Cluster {
    pub dir: TempDir,
    group: Group,
}

impl Cluster {
    pub fn new(voters: usize) -> Cluster {
        let founders: Vec<_> = (1..=voters)
            .map(|n| (format!("v{n}"), format!("127.0.0.1:{}", free_port())))
            .collect();
        Cluster {
            dir: tempfile::tempdir().unwrap(),
            group: Group::new("test", &founders),
        }
    }

    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn voter_addresses(&self) -> Vec<String> {
        self.group
            .founders
            .iter()
            .map(|founder| founder.peer_address.clone())
            .collect()
    }

    pub fn voter(&self, name: &str) -> Config {
        let address = self.group.founder(name).unwrap().peer_address.clone();
        Config::new(
            name,
            self.data_dir(name),
            address,
            StartAs::Voter {
                group: self.group.clone(),
            },
        )
    }

    pub fn listener(&self, name: &str, upstreams: &[&str]) -> Config {
        let upstreams = upstreams
            .iter()
            .map(|address| address.to_string())
            .collect();
        Config::new(
            name,
            self.data_dir(name),
            "127.0.0.1:0",
            StartAs::Listener { upstreams },
        )
    }

    pub async fn start(&self, config: Config) -> Running {
        try_start(config).await.unwrap()
    }

    pub async fn start_voters(&self) -> Vec<Running> {
        let mut voters = Vec::new();
        for founder in &self.group.founders {
            voters.push(self.start(self.voter(&founder.name)).await);
        }
        voters
    }
}

pub async fn try_start(config: Config) -> Result<Running, eaves::StartError> {
    std::fs::create_dir_all(&config.data_dir)?;
    let ledger = SmallMachine::open(&state_file(&config.data_dir))?;
    Ok(Running {
        node: Node::start(config, Arc::new(ledger.clone())).await?,
        ledger,
    })
}

pub fn state_file(data_dir: &Path) -> PathBuf {
    data_dir.join("ledger")
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections: one of these may be gone when it is needed.
pub fn free_port() -> u16 {
    let mut random = SmallRng::from_os_rng();
    std::iter::repeat_with(|| random.random_range(10_000..30_000))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// Writes numbers `from..to` through `node`.
pub async fn write(node: &Node, from: usize, to: usize) {
    for number in from..to {
        node.write(number.to_string().into()).await.unwrap();
    }
}

/// Waits until a listener has an upstream whose chain ends at a voter.
pub async fn attached(listener: &Running) {
    eventually("the listener is attached", async || {
        listener.node.status().borrow().depth.is_some()
    })
    .await;
}

/// Waits until `done` holds; fails naming `what` after two minutes.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..2400 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never came true: {what}");
}

/// Waits until all have the same history of `length` commands.
pub async fn converged(nodes: &[&Running], length: usize) {
    eventually(&format!("everybody has {length} commands"), async || {
        nodes
            .iter()
            .all(|running| running.commands().len() == length)
    })
    .await;
    let first = nodes[0].commands();
    assert!(
        nodes.iter().all(|running| running.commands() == first),
        "histories differ"
    );
}

/// TCP, on which nothing arrives any more on connections that this node opens, once it is told to stall. They stay stalled for good.
#[derive(Clone, Default)]
pub struct Stalling {
    pub stalled: Arc<AtomicBool>,
}

impl Network for Stalling {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        Box::pin(async move {
            let connection = TcpNetwork.connect(address).await?;
            Ok(Connection {
                reader: Box::new(StallingReader {
                    reader: connection.reader,
                    stalled: self.stalled.clone(),
                }),
                ..connection
            })
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        TcpNetwork.listen(address)
    }
}

struct StallingReader {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    stalled: Arc<AtomicBool>,
}

impl AsyncRead for StallingReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stalled.load(Ordering::Relaxed) {
            return Poll::Pending; // For good: nobody is to be woken.
        }
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}
