//! Links between nodes that can be cut or made bad: every node is reached through a proxy of the test, which knows who calls and lets
//! through what may pass.
//!
//! A node tells others one address, which is that of its proxy; who calls says the first packet of every connection. The proxies run on a
//! thread of their own: tests block theirs.

use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
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
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Where the others reach it.
    pub proxy: SocketAddr,
    /// Where it listens.
    pub node: SocketAddr,
}

/// The proxies of a cluster.
pub struct Zones {
    state: watch::Sender<State>,
    /// Zone by name.
    zones: BTreeMap<String, String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What becomes of the bytes that one node sends another. By default they pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Connections are broken and new ones refused.
    pub severed: bool,
    /// Nothing passes; connections stay open, as when a network loses packets.
    pub silent: bool,
    /// How much longer each chunk takes. Chunks wait for one another: a slow line, not only a long one.
    pub delay: Duration,
    /// Bytes that pass in a second; 0 is no bound.
    pub bytes_per_second: u32,
    /// After so many chunks the line stands still for a while, as TCP does that has lost a packet; 0 is never.
    pub stall_every: u32,
    /// For how long.
    pub stall: Duration,
    /// After so many chunks the connection breaks; 0 is never.
    pub reset_every: u32,
}

/// Who is who, and what does not simply pass, as (from, to).
#[derive(Clone, Default)]
struct State {
    names: BTreeMap<u64, String>,
    links: BTreeMap<(String, String), Quality>,
}

/// Who called, and who was called.
#[derive(Clone)]
struct Link {
    caller: u64,
    called: String,
}

/// The two ways of a link.
#[derive(Clone, Copy)]
enum Way {
    FromCaller,
    ToCaller,
}

impl State {
    fn is_severed(&self, link: &Link) -> bool {
        self.quality(link, Way::FromCaller).severed || self.quality(link, Way::ToCaller).severed
    }

    /// Everything passes from and to a caller that nobody has named yet.
    fn quality(&self, link: &Link, way: Way) -> Quality {
        let Some(caller) = self.names.get(&link.caller) else {
            return Quality::default();
        };
        let pair = match way {
            Way::FromCaller => (caller.clone(), link.called.clone()),
            Way::ToCaller => (link.called.clone(), caller.clone()),
        };
        self.links.get(&pair).copied().unwrap_or_default()
    }
}

impl Zones {
    /// Opens the proxies. Everything passes.
    pub fn open(gates: Vec<Gate>) -> Zones {
        let names = gates
            .iter()
            .map(|gate| (gate.name.clone(), gate.zone.clone()));
        let zones = names.collect();
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
            zones,
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
                state.names.insert(id, name.to_owned());
            }
        });
    }

    /// Has one more kind of trouble for what goes from any of `from` to any of `to`.
    pub fn trouble(&self, from: &[String], to: &[String], change: impl Fn(&mut Quality)) {
        let pairs = from
            .iter()
            .flat_map(|from| to.iter().map(move |to| (from.clone(), to.clone())));
        self.state.send_modify(|state| {
            for pair in pairs.filter(|(from, to)| from != to) {
                change(state.links.entry(pair).or_default());
            }
        });
    }

    /// Breaks all connections between `zone` and the others, and refuses new ones.
    pub fn sever(&self, zone: &str) {
        let (inside, outside) = self.sides(zone);
        self.trouble(&inside, &outside, |link| link.severed = true);
    }

    /// Lets nothing through that comes from `zone`; connections stay open, as when a network loses packets.
    pub fn silence_from(&self, zone: &str) {
        let (inside, outside) = self.sides(zone);
        self.trouble(&inside, &outside, |link| link.silent = true);
    }

    /// Lets nothing through that goes to `zone`.
    pub fn silence_to(&self, zone: &str) {
        let (inside, outside) = self.sides(zone);
        self.trouble(&outside, &inside, |link| link.silent = true);
    }

    /// Lets everything through again. What was held up arrives, as TCP would send it again.
    pub fn heal(&self) {
        self.state.send_modify(|state| state.links.clear());
    }

    /// The names of the nodes in a zone, and of the others.
    fn sides(&self, zone: &str) -> (Vec<String>, Vec<String>) {
        let names = |inside: bool| {
            let names = self
                .zones
                .iter()
                .filter(move |(_, of)| (*of == zone) == inside);
            names.map(|(name, _)| name.clone()).collect()
        };
        (names(true), names(false))
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
        called: gate.name.clone(),
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

/// Passes on `first` and what follows it, as well as the line lets it.
async fn copy(
    first: Vec<u8>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (link, way): (Link, Way),
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut chunk = first;
    for number in 1.. {
        // Also the end of the stream is news that may not pass.
        let passes = |state: &State| !state.quality(&link, way).silent;
        if state.wait_for(passes).await.is_err() {
            return Ok(());
        }
        let quality = state.borrow().quality(&link, way);
        quality.hold_up(number, chunk.len()).await?;
        to.write_all(&chunk).await?;
        chunk.resize(CHUNK_BYTES, 0);
        let bytes = from.read(&mut chunk).await?;
        chunk.truncate(bytes);
        if bytes == 0 {
            let _ = state.wait_for(passes).await;
            return to.shutdown().await;
        }
    }
    Ok(())
}

impl Quality {
    /// Takes as long as a chunk does; an error when the connection is to break.
    async fn hold_up(&self, number: u32, bytes: usize) -> io::Result<()> {
        let falls = |every: u32| every != 0 && number.is_multiple_of(every);
        if falls(self.reset_every) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut time = self.delay;
        if falls(self.stall_every) {
            time += self.stall;
        }
        if self.bytes_per_second != 0 {
            time += Duration::from_secs(1) * bytes as u32 / self.bytes_per_second;
        }
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        Ok(())
    }
}
