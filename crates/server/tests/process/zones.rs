//! Links between zones that can be cut: every node is reached through a proxy of the test, which knows who calls and lets through what
//! may pass.
//!
//! A node tells others one address, which is that of its proxy; who calls says the first packet of every connection. The proxies run on a
//! thread of their own: tests block theirs.

use prost::Message;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// Bytes passed on at once.
const CHUNK_BYTES: usize = 64 << 10;

/// The fixed part of a packet between peers: its length comes first, little endian, without this part.
const HEADER_BYTES: usize = 12;

/// No first packet is longer.
const HELLO_MAX_BYTES: usize = 4 << 10;

/// What is of interest of the first packet.
#[derive(Clone, PartialEq, Message)]
struct Hello {
    #[prost(uint64, tag = "3")]
    from: u64,
}

/// A node behind its proxy.
#[derive(Clone, Debug)]
pub struct Gate {
    pub name: String,
    pub zone: String,
    /// Where the others reach it.
    pub proxy: SocketAddr,
    /// Where it listens.
    pub node: SocketAddr,
}

/// The proxies of a cluster.
pub struct Zones {
    state: watch::Sender<State>,
    zone_of_name: BTreeMap<String, String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What does not pass, as (from zone, to zone).
#[derive(Clone, Default)]
struct State {
    zone_of_id: BTreeMap<u64, String>,
    severed: BTreeSet<(String, String)>,
    silent: BTreeSet<(String, String)>,
}

/// Who called, and in which zone the one is that was called.
#[derive(Clone)]
struct Link {
    caller: u64,
    zone: String,
}

/// The two ways of a link.
#[derive(Clone, Copy)]
enum Way {
    FromCaller,
    ToCaller,
}

impl State {
    fn is_severed(&self, link: &Link) -> bool {
        let pair = |way| self.pair(link, way);
        self.severed.contains(&pair(Way::FromCaller)) || self.severed.contains(&pair(Way::ToCaller))
    }

    fn is_silent(&self, link: &Link, way: Way) -> bool {
        self.silent.contains(&self.pair(link, way))
    }

    fn pair(&self, link: &Link, way: Way) -> (String, String) {
        let caller = self.zone_of_id.get(&link.caller).cloned();
        let (caller, called) = (caller.unwrap_or_default(), link.zone.clone());
        match way {
            Way::FromCaller => (caller, called),
            Way::ToCaller => (called, caller),
        }
    }
}

impl Zones {
    /// Opens the proxies. Everything passes.
    pub fn open(gates: Vec<Gate>) -> Zones {
        let names = gates
            .iter()
            .map(|gate| (gate.name.clone(), gate.zone.clone()));
        let zone_of_name = names.collect();
        let state = watch::Sender::new(State::default());
        let watched = state.subscribe();
        let (stop, stopped) = oneshot::channel();
        let listeners: Vec<_> = gates
            .iter()
            .map(|gate| {
                let listener = std::net::TcpListener::bind(gate.proxy).expect("the port is free");
                listener.set_nonblocking(true).expect("a socket can do so");
                listener
            })
            .collect();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                for (gate, listener) in gates.into_iter().zip(listeners) {
                    let listener = TcpListener::from_std(listener).expect("a listening socket");
                    tokio::spawn(run(gate, listener, watched.clone()));
                }
                let _ = stopped.await;
            });
        });
        Zones {
            state,
            zone_of_name,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Learns the ids of the nodes, without which nothing can be cut, from the rows of a tree.
    pub fn learn(&self, rows: &[Value]) {
        self.state.send_modify(|state| {
            for row in rows {
                let id = row["id"].as_u64().expect("a node has an id");
                let name = row["name"].as_str().expect("a node has a name");
                state.zone_of_id.insert(id, self.zone_of_name[name].clone());
            }
        });
    }

    /// Breaks all connections between `zone` and the others, and refuses new ones.
    pub fn sever(&self, zone: &str) {
        let pairs = self.pairs(|from, to| from == zone && to != zone);
        self.state.send_modify(|state| state.severed.extend(pairs));
    }

    /// Lets nothing through that comes from `zone`; connections stay open, as when a network loses packets.
    pub fn silence_from(&self, zone: &str) {
        let pairs = self.pairs(|from, to| from == zone && to != zone);
        self.state.send_modify(|state| state.silent.extend(pairs));
    }

    /// Lets nothing through that goes to `zone`.
    pub fn silence_to(&self, zone: &str) {
        let pairs = self.pairs(|from, to| from != zone && to == zone);
        self.state.send_modify(|state| state.silent.extend(pairs));
    }

    /// Lets everything through again. What was held up arrives, as TCP would send it again.
    pub fn heal(&self) {
        self.state.send_modify(|state| {
            state.severed.clear();
            state.silent.clear();
        });
    }

    fn pairs(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<(String, String)> {
        let zones: BTreeSet<&String> = self.zone_of_name.values().collect();
        let pairs = zones
            .iter()
            .flat_map(|from| zones.iter().map(move |to| (*from, *to)));
        pairs
            .filter(|(from, to)| wanted(from, to))
            .map(|(from, to)| (from.clone(), to.clone()))
            .collect()
    }
}

impl Drop for Zones {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "a proxy panicked"
            );
        }
    }
}

async fn run(gate: Gate, listener: TcpListener, state: watch::Receiver<State>) {
    loop {
        let (caller, _) = listener.accept().await.expect("accept a connection");
        let (gate, state) = (gate.clone(), state.clone());
        tokio::spawn(async move {
            // A link that ends with an error ends all the same: both sides see it closed.
            let _ = pass(caller, &gate, state).await;
        });
    }
}

async fn pass(
    mut caller: TcpStream,
    gate: &Gate,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let (first, id) = hello(&mut caller).await?;
    let link = Link {
        caller: id,
        zone: gate.zone.clone(),
    };
    if state.borrow().is_severed(&link) {
        return Ok(());
    }
    let node = TcpStream::connect(gate.node).await?;
    caller.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let (from_caller, to_caller) = caller.into_split();
    let (from_node, to_node) = node.into_split();
    let there = (link.clone(), Way::FromCaller);
    let back = (link.clone(), Way::ToCaller);
    let watched = state.clone();
    tokio::select! {
        passed = async { tokio::try_join!(
            copy(first, from_caller, to_node, there, watched.clone()),
            copy(Vec::new(), from_node, to_caller, back, watched.clone()),
        ) } => passed.map(|_| ()),
        _ = state.wait_for(|state| state.is_severed(&link)) => Ok(()),
    }
}

/// The first packet of a connection, and whom it is from.
async fn hello(caller: &mut TcpStream) -> io::Result<(Vec<u8>, u64)> {
    let mut packet = vec![0; HEADER_BYTES];
    caller.read_exact(&mut packet).await?;
    let length = u32::from_le_bytes(packet[..4].try_into().expect("four bytes")) as usize;
    assert!(
        length <= HELLO_MAX_BYTES,
        "a first packet of {length} bytes"
    );
    packet.resize(HEADER_BYTES + length, 0);
    caller.read_exact(&mut packet[HEADER_BYTES..]).await?;
    let hello = Hello::decode(&packet[HEADER_BYTES..]).expect("the first packet says who calls");
    Ok((packet, hello.from))
}

/// Passes on `first` and what follows it, while it may pass.
async fn copy(
    first: Vec<u8>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (link, way): (Link, Way),
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut chunk = first;
    loop {
        // Also the end of the stream is news that may not pass.
        let passes = |state: &State| !state.is_silent(&link, way);
        if state.wait_for(passes).await.is_err() {
            return Ok(());
        }
        to.write_all(&chunk).await?;
        chunk.resize(CHUNK_BYTES, 0);
        let bytes = from.read(&mut chunk).await?;
        chunk.truncate(bytes);
        if bytes == 0 {
            let _ = state.wait_for(passes).await;
            return to.shutdown().await;
        }
    }
}
