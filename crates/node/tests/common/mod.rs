//! A state machine that remembers every command, and clusters of nodes in one process, on real sockets and a real disk.

// Every test binary uses its own part of this.
#![allow(dead_code)]

use bytes::{Buf, BufMut, Bytes, BytesMut};
use eaves::{
    Command, Config, Group, Node, Position, SnapshotSink, SnapshotSource, StartAs, StateMachine,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// Everything that was ever applied, in order.
#[derive(Clone, Default)]
pub struct History {
    pub commands: Vec<Bytes>,
    index: u64,
    position: Position,
}

/// A [`History`] that is replicated; its file is rewritten whole.
#[derive(Clone)]
pub struct Ledger {
    applied: Arc<Mutex<History>>,
    durable: Arc<Mutex<History>>,
    file: PathBuf,
}

impl Ledger {
    pub fn open(file: PathBuf) -> io::Result<Ledger> {
        let history = match std::fs::read(&file) {
            Ok(bytes) => History::from_bytes(bytes.into()),
            Err(_) => History::default(),
        };
        Ok(Ledger {
            applied: Arc::new(Mutex::new(history.clone())),
            durable: Arc::new(Mutex::new(history)),
            file,
        })
    }

    pub fn commands(&self) -> Vec<Bytes> {
        self.applied.lock().unwrap().commands.clone()
    }

    fn store(&self, history: History) -> io::Result<()> {
        std::fs::write(self.file.with_extension("new"), history.to_bytes())?;
        std::fs::rename(self.file.with_extension("new"), &self.file)?;
        *self.durable.lock().unwrap() = history;
        Ok(())
    }
}

impl History {
    fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u64(self.index);
        for part in std::iter::once(&self.position.0).chain(&self.commands) {
            bytes.put_u32(part.len() as u32);
            bytes.put_slice(part);
        }
        bytes.freeze()
    }

    fn from_bytes(mut bytes: Bytes) -> History {
        let index = bytes.get_u64();
        let mut parts = Vec::new();
        while bytes.has_remaining() {
            let length = bytes.get_u32() as usize;
            parts.push(bytes.split_to(length));
        }
        let position = Position(parts.remove(0));
        History {
            commands: parts,
            index,
            position,
        }
    }
}

impl StateMachine for Ledger {
    fn position(&self) -> Option<Position> {
        Some(self.durable.lock().unwrap().position.clone())
            .filter(|position| !position.0.is_empty())
    }

    fn apply(
        &self,
        commands: &[Command],
        index: u64,
        position: Position,
    ) -> io::Result<Vec<Bytes>> {
        let mut history = self.applied.lock().unwrap();
        (history.index, history.position) = (index, position);
        let mut answers = Vec::new();
        for command in commands {
            history.commands.push(command.data.clone());
            answers.push(history.commands.len().to_string().into());
        }
        Ok(answers)
    }

    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        let applied = self.applied.lock().unwrap().clone();
        if applied.index <= durable_index && !applied.position.0.is_empty() {
            self.store(applied)?;
        }
        let durable = self.durable.lock().unwrap();
        Ok((!durable.position.0.is_empty()).then_some(durable.index))
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        let history = self.durable.lock().unwrap().clone();
        let (position, bytes) = (history.position.clone(), history.to_bytes());
        Ok(Box::new(Outgoing { position, bytes }))
    }

    fn install(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Incoming {
            ledger: self.clone(),
            bytes: BytesMut::new(),
        }))
    }
}

struct Outgoing {
    position: Position,
    bytes: Bytes,
}

impl SnapshotSource for Outgoing {
    fn position(&self) -> Position {
        self.position.clone()
    }

    fn next_chunk(&mut self, max_bytes: usize) -> io::Result<Option<Bytes>> {
        let length = self.bytes.len().min(max_bytes);
        Ok((length > 0).then(|| self.bytes.split_to(length)))
    }
}

struct Incoming {
    ledger: Ledger,
    bytes: BytesMut,
}

impl SnapshotSink for Incoming {
    fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        self.bytes.put_slice(&chunk);
        Ok(())
    }

    fn finish(self: Box<Self>, position: Position) -> io::Result<()> {
        let history = History {
            position,
            ..History::from_bytes(self.bytes.freeze())
        };
        self.ledger.store(history.clone())?;
        *self.ledger.applied.lock().unwrap() = history;
        Ok(())
    }
}

/// A node and its state machine.
pub struct Running {
    pub node: Node,
    pub ledger: Ledger,
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
    let ledger = Ledger::open(state_file(&config.data_dir))?;
    Ok(Running {
        node: Node::start(config, Arc::new(ledger.clone())).await?,
        ledger,
    })
}

pub fn state_file(data_dir: &Path) -> PathBuf {
    data_dir.join("ledger")
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Writes numbers `from..to` through `node`.
pub async fn write(node: &Node, from: usize, to: usize) {
    for number in from..to {
        node.write(number.to_string().into()).await.unwrap();
    }
}

/// Waits until `done` holds; fails naming `what` after half a minute.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
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
            .all(|running| running.ledger.commands().len() == length)
    })
    .await;
    let first = nodes[0].ledger.commands();
    assert!(
        nodes
            .iter()
            .all(|running| running.ledger.commands() == first),
        "histories differ"
    );
}
