//! What comes late. A leader that was cut off in silence hears after the cut what its voters answered before it: that says nothing about whom
//! they follow now. And connections that take longer to be made than anybody waits for an answer.

mod common;

use common::memory::Memory;
use common::{Running, eventually, write};
use eaves::{
    Blocking, Config, Connection, Group, Listener, Network, Node, Role, RoleChange, SmallMachine,
    StartAs, Task,
};
use eaves_log::sim::SimDisk;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

const NAMES: [&str; 3] = ["v1", "v2", "v3"];

const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

/// Far more than a message, an answer and a flush take.
const A_MOMENT: Duration = Duration::from_millis(20);

/// The first leader is not to give up its office by itself before it hears of the second one.
const PATIENCE: Duration = Duration::from_secs(10);

/// openraft takes such an answer for one to every request that ends at the same entry, also to the empty one by which it has just told
/// that the entry is committed. Whoever confirms reads by that finds that two of three voters have answered after the read.
#[tokio::test(start_paused = true)]
async fn an_answer_from_before_a_cut_confirms_no_read_that_was_asked_for_during_it() {
    let cut = Cut::default();
    let voters = start(&cut).await;
    let [v1, v2, v3] = &voters;
    write(&v1.node, 0, 1).await;

    // An entry reaches both followers, and their answers stay on the way. Then nothing gets through any more.
    cut.answers_of_v2.close();
    cut.answers_of_v3.close();
    let late = tokio::spawn({
        let node = v1.node.clone();
        async move { node.write("late".into()).await }
    });
    tokio::time::sleep(A_MOMENT).await;
    cut.from_v1.close();
    cut.to_v1.close();
    eventually("the others have a leader", async || leads(v2) || leads(v3)).await;
    let new = if leads(v2) { v2 } else { v3 };
    new.node.write("acknowledged".into()).await.unwrap();
    assert!(leads(v1), "it has heard nothing");

    let reading = tokio::spawn({
        let node = v1.node.clone();
        async move { node.read_barrier().await }
    });
    tokio::time::sleep(A_MOMENT).await;
    assert!(!late.is_finished() && !reading.is_finished());

    // The first answer is a quorum for the entry, which it tells the other follower. Then that one's answer arrives.
    cut.answers_of_v2.open();
    tokio::time::sleep(A_MOMENT).await;
    late.await.unwrap().unwrap();
    cut.answers_of_v3.open();
    tokio::time::sleep(A_MOMENT).await;
    assert!(leads(v1), "what it heard is older than the other leader");
    if reading.is_finished() && reading.await.unwrap().is_ok() {
        let seen = v1.commands();
        assert!(
            seen.contains(&"acknowledged".into()),
            "a linearizable read misses what was acknowledged before it: {seen:?}"
        );
    }

    // When the cut has ended, everybody reads everything.
    cut.from_v1.open();
    cut.to_v1.open();
    for voter in &voters {
        eventually("a read is confirmed", async || {
            voter.node.read_barrier().await.is_ok()
        })
        .await;
        assert_eq!(voter.commands(), ["0", "late", "acknowledged"]);
    }
}

/// On a slow line, or a busy machine. Who waits for an answer gives up before, and asks again.
#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_longer_than_anybody_waits_is_made_all_the_same() {
    let network = SlowToConnect(Memory::default());
    let mut voters = Vec::new();
    for name in NAMES {
        voters.push(start_voter(name, Arc::new(network.clone()), ELECTION_TIMEOUT).await);
    }
    eventually("somebody leads", async || voters.iter().any(leads)).await;
    write(&voters[0].node, 0, 3).await;
    for voter in &voters {
        eventually("a read is confirmed", async || {
            voter.node.read_barrier().await.is_ok()
        })
        .await;
        assert_eq!(voter.commands(), ["0", "1", "2"]);
    }
}

/// A network on which nothing is slow but the beginning of a connection.
#[derive(Clone)]
struct SlowToConnect(Memory);

impl Network for SlowToConnect {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        Box::pin(async move {
            tokio::time::sleep(3 * ELECTION_TIMEOUT).await;
            self.0.connect(address).await
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        self.0.listen(address)
    }
}

/// Three voters, of which the first leads and can be cut off.
async fn start(cut: &Cut) -> [Running; 3] {
    let mut voters = Vec::new();
    for name in NAMES {
        voters.push(match name == NAMES[0] {
            true => start_voter(name, Arc::new(cut.clone()), PATIENCE).await,
            false => start_voter(name, Arc::new(cut.network.clone()), ELECTION_TIMEOUT).await,
        });
    }
    let voters: [Running; 3] = voters.try_into().ok().expect("three");
    eventually("v1 leads", async || {
        let to = Some("v1".to_string());
        let change = RoleChange::TransferLeader { to };
        leads(&voters[0]) || {
            // Refused while nobody leads.
            let _ = voters[1].node.change_role(change, |_| {}).await;
            false
        }
    })
    .await;
    voters
}

async fn start_voter(
    name: &'static str,
    network: Arc<dyn Network>,
    election_timeout: Duration,
) -> Running {
    let founders = NAMES.map(|name| (name.to_string(), format!("{name}:1")));
    let group = Group::new("test", &founders);
    let disk = Arc::new(SimDisk::new());
    let data_dir = Path::new("/nowhere/eaves").join(name);
    let ledger = SmallMachine::open_on(disk.clone(), &data_dir.join("ledger")).unwrap();
    let mut config = Config::new(
        name,
        data_dir,
        format!("{name}:1"),
        StartAs::Voter { group },
    );
    config.disk = disk;
    config.blocking = Blocking::Inline(Duration::from_millis(1));
    config.seed = name.bytes().map(u64::from).sum();
    config.network = network;
    config.raft.election_timeout = election_timeout;
    let node = Node::start(config, Arc::new(ledger.clone())).await.unwrap();
    Running { node, ledger }
}

fn leads(voter: &Running) -> bool {
    voter.node.status().borrow().role == Role::Leader
}

/// The network of v1, which can be cut one way or the other. Nothing is lost: what is under way arrives when the way is open again.
#[derive(Clone, Default)]
struct Cut {
    network: Memory,
    answers_of_v2: Gate,
    answers_of_v3: Gate,
    /// What v1 sends.
    from_v1: Gate,
    /// What others send v1, answers to it apart.
    to_v1: Gate,
}

/// A way for bytes.
#[derive(Clone)]
struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Gate {
        Gate(Arc::new(watch::Sender::new(true)))
    }
}

impl Gate {
    fn open(&self) {
        self.0.send_replace(true);
    }

    fn close(&self) {
        self.0.send_replace(false);
    }

    fn before<S>(&self, stream: S) -> Gated<S> {
        Gated {
            stream,
            gate: self.clone(),
            opening: None,
        }
    }
}

impl Cut {
    fn around(&self, connection: Connection, incoming: &Gate) -> Connection {
        Connection {
            reader: Box::new(incoming.before(connection.reader)),
            writer: Box::new(self.from_v1.before(connection.writer)),
            peer: connection.peer,
        }
    }
}

impl Network for Cut {
    fn connect<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Connection>> {
        Box::pin(async move {
            let answers = match address {
                "v2:1" => &self.answers_of_v2,
                _ => &self.answers_of_v3,
            };
            Ok(self.around(self.network.connect(address).await?, answers))
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> Task<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.network.listen(address).await?;
            Ok(Box::new(Socket(listener, self.clone())) as Box<dyn Listener>)
        })
    }
}

struct Socket(Box<dyn Listener>, Cut);

impl Listener for Socket {
    fn accept(&mut self) -> Task<'_, io::Result<Connection>> {
        Box::pin(async move { Ok(self.1.around(self.0.accept().await?, &self.1.to_v1)) })
    }

    fn address(&self) -> io::Result<String> {
        self.0.address()
    }
}

/// One direction of a connection, behind a gate.
struct Gated<S> {
    stream: S,
    gate: Gate,
    opening: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> Gated<S> {
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !*self.gate.0.borrow() {
            let mut is_open = self.gate.0.subscribe();
            let opening = self.opening.get_or_insert_with(|| {
                Box::pin(async move {
                    // The gate lives as long as this.
                    let _ = is_open.wait_for(|is_open| *is_open).await;
                })
            });
            ready!(opening.as_mut().poll(context));
            self.opening = None;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context));
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context));
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
