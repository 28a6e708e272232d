//! Links between zones that can be cut: every node is reached through a proxy of the test, which knows who calls and lets through what
//! may pass.
//!
//! A node tells others one address, which is that of its proxy; so a link is known by both its ends only because the kernel tells whose
//! a connection is. The proxies run on a thread of their own: tests block theirs.

use crate::sockets::{self, Process};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// Bytes passed on at once.
const CHUNK_BYTES: usize = 64 << 10;

/// A node behind its proxy.
#[derive(Clone, Debug)]
pub struct Gate {
    pub name: String,
    pub zone: String,
    /// Where the others reach it.
    pub proxy: std::net::SocketAddr,
    /// Where it listens.
    pub node: std::net::SocketAddr,
}

/// The proxies of a cluster.
pub struct Zones {
    state: watch::Sender<State>,
    zone_of: Arc<BTreeMap<String, String>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What does not pass, as (from zone, to zone).
#[derive(Clone, Default)]
struct State {
    severed: BTreeSet<(String, String)>,
    silent: BTreeSet<(String, String)>,
}

impl State {
    fn is_severed(&self, (from, to): &(String, String)) -> bool {
        let reverse = (to.clone(), from.clone());
        self.severed.contains(&(from.clone(), to.clone())) || self.severed.contains(&reverse)
    }
}

impl Zones {
    /// Opens the proxies. `directory` is in the command line of every node of the cluster, and of nobody else.
    pub fn open(gates: Vec<Gate>, directory: &str) -> Zones {
        let zone_of = gates
            .iter()
            .map(|gate| (gate.name.clone(), gate.zone.clone()))
            .collect();
        let zone_of: Arc<BTreeMap<String, String>> = Arc::new(zone_of);
        let state = watch::Sender::new(State::default());
        let (stop, stopped) = oneshot::channel();
        let proxies = Proxies {
            zone_of: zone_of.clone(),
            directory: directory.to_owned(),
            known: Arc::default(),
            state: state.subscribe(),
        };
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
                    tokio::spawn(proxies.clone().run(gate, listener));
                }
                let _ = stopped.await;
            });
        });
        Zones {
            state,
            zone_of,
            stop: Some(stop),
            thread: Some(thread),
        }
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
        self.state.send_replace(State::default());
    }

    fn pairs(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<(String, String)> {
        let zones: BTreeSet<&String> = self.zone_of.values().collect();
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

#[derive(Clone)]
struct Proxies {
    zone_of: Arc<BTreeMap<String, String>>,
    directory: String,
    /// The processes of the nodes, as last looked at: looking for them takes long.
    known: Arc<Mutex<Vec<Process>>>,
    state: watch::Receiver<State>,
}

impl Proxies {
    async fn run(self, gate: Gate, listener: TcpListener) {
        loop {
            let (caller, address) = listener.accept().await.expect("accept a connection");
            let (proxies, gate) = (self.clone(), gate.clone());
            tokio::spawn(async move {
                // A link that ends with an error ends all the same: both sides see it closed.
                let _ = proxies.pass(caller, address, &gate).await;
            });
        }
    }

    async fn pass(
        self,
        caller: TcpStream,
        address: SocketAddr,
        gate: &Gate,
    ) -> std::io::Result<()> {
        let Some(zone) = self.zone_of_caller(address.port(), gate.proxy.port()) else {
            // It has closed the connection already.
            return Ok(());
        };
        let there = (zone.clone(), gate.zone.clone());
        let back = (gate.zone.clone(), zone);
        let mut state = self.state.clone();
        if state.borrow().is_severed(&there) {
            return Ok(());
        }
        let node = TcpStream::connect(gate.node).await?;
        caller.set_nodelay(true)?;
        node.set_nodelay(true)?;
        let (from_caller, to_caller) = caller.into_split();
        let (from_node, to_node) = node.into_split();
        let cut = there.clone();
        tokio::select! {
            passed = async { tokio::try_join!(
                copy(from_caller, to_node, there, self.state.clone()),
                copy(from_node, to_caller, back, self.state.clone()),
            ) } => passed.map(|_| ()),
            _ = state.wait_for(|state| state.is_severed(&cut)) => Ok(()),
        }
    }

    /// The zone of the node that opened the connection from `port` to a proxy.
    fn zone_of_caller(&self, port: u16, proxy: u16) -> Option<String> {
        let end = sockets::end(port, proxy)?;
        let mut known = self.known.lock().unwrap();
        let caller = |known: &[Process]| {
            let caller = known.iter().find(|process| process.sockets().have(end))?;
            caller.flag("--name").map(str::to_owned)
        };
        let name = caller(&known).or_else(|| {
            // It was started since.
            *known = Process::with(&self.directory);
            caller(&known)
        })?;
        self.zone_of.get(&name).cloned()
    }
}

/// Passes bytes on while they may pass.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pair: (String, String),
    mut state: watch::Receiver<State>,
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let bytes = from.read(&mut chunk).await?;
        // Also the end of the stream is news that may not pass.
        let passes = |state: &State| !state.silent.contains(&pair);
        let may_pass = state.wait_for(passes).await.is_ok();
        if !may_pass || bytes == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..bytes]).await?;
    }
}
