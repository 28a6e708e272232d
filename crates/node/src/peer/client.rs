//! Connections to peers: the handshake, and channels that carry many questions at once.

use crate::message::{
    Call, Hello, PROTOCOL_VERSION, Purpose, Reason, Reject, Reply, Request, Response, Welcome,
};
use crate::net::{Network, Task};
use crate::wire::{Kind, PacketReader, garbage, put_packet, write_packet};
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};

/// How long the other side may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Questions on their way over one channel; one more is answered "busy" here.
const MAX_WAITING_CALLS: usize = 16 << 10;

/// A channel that has carried nothing for this long is closed, so that a node keeps connections to its neighbours only (B13).
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that wait to be written to one peer; one more question is answered "busy" here, and no further question of the peer is taken.
const MAX_OUTBOX_BYTES: usize = 16 << 20;

/// Bytes gathered for one write while more questions wait.
const WRITE_BATCH_BYTES: usize = 256 << 10;

/// Who this node is to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Me {
    /// 0 while a new listener does not know.
    pub cluster_id: u64,
    pub node_id: u64,
}

/// Why a call gave no answer, by what the caller knows then.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The question never left: nothing happened.
    #[error("{0}")]
    NotSent(String),
    /// It left, and no answer came: it may have happened.
    #[error("{0}")]
    Lost(String),
    /// The peer said no.
    #[error("{}", .0.text)]
    Rejected(Reject),
}

impl CallError {
    /// The peer's reason, if it gave one.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            CallError::Rejected(reject) => Some(reject.reason()),
            CallError::NotSent(_) | CallError::Lost(_) => None,
        }
    }
}

/// A connection on which both sides know each other.
pub(crate) struct Greeted {
    pub reader: PacketReader,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub welcome: Welcome,
}

/// Connects and shakes hands.
pub(crate) async fn connect(
    network: &dyn Network,
    me: Me,
    address: &str,
    purpose: Purpose,
) -> Result<Greeted, CallError> {
    let not_sent =
        |error: io::Error| CallError::NotSent(format!("connect to peer {address}: {error}"));
    let connection = network.connect(address).await.map_err(not_sent)?;
    let mut writer = connection.writer;
    let mut reader = PacketReader::new(connection.reader);
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster_id: me.cluster_id,
        from: me.node_id,
        purpose: purpose as i32,
    };
    let greeting = async {
        write_packet(&mut writer, Kind::Hello, &hello, &[]).await?;
        writer.flush().await?;
        reader.expect().await
    };
    let timeout = || io::Error::new(io::ErrorKind::TimedOut, "no answer to the handshake");
    let answer = tokio::time::timeout(HANDSHAKE_TIMEOUT, greeting)
        .await
        .map_err(|_| not_sent(timeout()))?
        .map_err(not_sent)?;
    if answer.kind == Kind::Reject {
        return Err(CallError::Rejected(answer.head().map_err(not_sent)?));
    }
    let welcome = answer.expect(Kind::Welcome).map_err(not_sent)?;
    reader.greeted();
    Ok(Greeted {
        reader,
        writer,
        welcome,
    })
}

/// The channels of a node, one for each address and purpose, opened when first needed and again after they broke.
pub(crate) struct Peers {
    network: Arc<dyn Network>,
    me: Me,
    channels: Mutex<HashMap<(String, Purpose), Arc<Channel>>>,
    /// Addresses at which a stranger was met, each reported once.
    strangers: Mutex<HashSet<String>>,
}

/// Strangers remembered; those beyond are not reported.
const MAX_STRANGERS: usize = 64;

impl Peers {
    pub fn new(network: Arc<dyn Network>, me: Me) -> Arc<Peers> {
        Arc::new(Peers {
            network,
            me,
            channels: Mutex::default(),
            strangers: Mutex::default(),
        })
    }

    /// Opens a connection of its own to `node` and nobody else, for a stream.
    pub async fn connect_node(
        &self,
        (node, address): (u64, &str),
        purpose: Purpose,
    ) -> Result<Greeted, CallError> {
        let greeted = self.connect(address, purpose).await?;
        expect_node(node, greeted.welcome.node_id, address)?;
        Ok(greeted)
    }

    /// Opens a connection of its own, for a stream.
    pub async fn connect(&self, address: &str, purpose: Purpose) -> Result<Greeted, CallError> {
        let connected = connect(&*self.network, self.me, address, purpose).await;
        connected.inspect_err(|error| self.report_stranger(address, error))
    }

    /// Says once for each address why nobody there has anything to do with this node (B12), if that is what is wrong.
    fn report_stranger(&self, address: &str, error: &CallError) {
        let CallError::Rejected(reject) = error else {
            return;
        };
        let mut strangers = self.strangers.lock().unwrap();
        if reject.reason() == Reason::Mismatch
            && strangers.len() < MAX_STRANGERS
            && strangers.insert(address.to_string())
        {
            tracing::warn!("peer {address} refuses this node: {}", reject.text);
        }
    }

    /// A connection for a channel. It is nobody's but the channel's, so it owns what it needs.
    fn attempt(&self, address: &str, purpose: Purpose) -> Attempt {
        let (network, me, address) = (self.network.clone(), self.me, address.to_string());
        Box::pin(async move { connect(&*network, me, &address, purpose).await })
    }

    /// Asks the peer at `address` and waits at most `timeout` for the answer.
    pub async fn call(
        &self,
        address: &str,
        purpose: Purpose,
        call: Call,
        tail: &[u8],
        timeout: Duration,
    ) -> Result<(Reply, Bytes), CallError> {
        self.call_whom(address, purpose, None, call, tail, timeout)
            .await
    }

    /// Like [`Peers::call`], but asks nobody but `node`: another that is at `address` by now must not answer for it.
    pub async fn call_node(
        &self,
        (node, address): (u64, &str),
        purpose: Purpose,
        call: Call,
        tail: &[u8],
        timeout: Duration,
    ) -> Result<(Reply, Bytes), CallError> {
        self.call_whom(address, purpose, Some(node), call, tail, timeout)
            .await
    }

    async fn call_whom(
        &self,
        address: &str,
        purpose: Purpose,
        node: Option<u64>,
        call: Call,
        tail: &[u8],
        timeout: Duration,
    ) -> Result<(Reply, Bytes), CallError> {
        let channel = self.channel(address, purpose);
        let ask_once = async |call| {
            let live = channel.live(self).await?;
            node.map_or(Ok(()), |node| expect_node(node, live.node_id, address))?;
            live.call(call, tail).await
        };
        let ask = async {
            match ask_once(call.clone()).await {
                // It was idle and closed under us; a new one is not.
                Err(CallError::NotSent(_)) => ask_once(call).await,
                result => result,
            }
        };
        match tokio::time::timeout(timeout, ask).await {
            Ok(Ok((Reply::Reject(reject), _))) => Err(CallError::Rejected(reject)),
            Ok(result) => result,
            Err(_) => Err(CallError::Lost(format!(
                "peer {address} did not answer within {} ms",
                timeout.as_millis()
            ))),
        }
    }

    /// Asks over a connection of its own: for questions to nodes that are no neighbours (B13: a crowd that asks one node leaves no
    /// connections behind).
    pub async fn ask_once(
        &self,
        address: &str,
        call: Call,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let lost = |error: io::Error| CallError::Lost(format!("ask peer {address}: {error}"));
        let ask = async {
            let Greeted {
                mut reader,
                mut writer,
                ..
            } = self.connect(address, Purpose::Control).await?;
            let request = Request {
                id: 0,
                call: Some(call),
            };
            write_packet(&mut writer, Kind::Request, &request, &[])
                .await
                .map_err(lost)?;
            let response: Response = reader
                .expect()
                .await
                .map_err(lost)?
                .expect(Kind::Response)
                .map_err(lost)?;
            response
                .reply
                .ok_or_else(|| lost(garbage("a response without a reply".into())))
        };
        match tokio::time::timeout(timeout, ask).await {
            Ok(Ok(Reply::Reject(reject))) => Err(CallError::Rejected(reject)),
            Ok(result) => result,
            Err(_) => Err(lost(io::ErrorKind::TimedOut.into())),
        }
    }

    fn channel(&self, address: &str, purpose: Purpose) -> Arc<Channel> {
        let mut channels = self.channels.lock().unwrap();
        let channel = channels.entry((address.to_string(), purpose));
        channel
            .or_insert_with(|| {
                Arc::new(Channel {
                    address: address.into(),
                    purpose,
                    state: tokio::sync::Mutex::default(),
                })
            })
            .clone()
    }
}

/// Addresses are used again: what one voter says must never count for another.
fn expect_node(wanted: u64, found: u64, address: &str) -> Result<(), CallError> {
    match wanted == found {
        true => Ok(()),
        false => Err(CallError::NotSent(format!(
            "node {found:x} answers at {address}, where node {wanted:x} was"
        ))),
    }
}

/// One address for one purpose. The lock makes all who find it broken wait for one new connection.
///
/// Whoever waits for a connection to be made drives it, and leaves it where it is when he gives up: the next goes on with it. On a slow
/// line, or a busy machine, it takes longer than anybody waits for an answer, and would never be made if each began anew. No task of its
/// own does it, which would go on after the node: what nobody waits for stands still, and its own timeouts say whether it is too old when
/// somebody goes on with it.
struct Channel {
    address: String,
    purpose: Purpose,
    state: tokio::sync::Mutex<State>,
}

/// How far a channel is.
#[derive(Default)]
enum State {
    /// Nobody has needed it, or the last attempt has failed.
    #[default]
    Idle,
    /// A connection is being made.
    Connecting(Attempt),
    /// It has one, which may be broken by now.
    Made(Arc<Live>),
}

/// A connection that is being made.
type Attempt = Task<'static, Result<Greeted, CallError>>;

impl Channel {
    async fn live(&self, peers: &Peers) -> Result<Arc<Live>, CallError> {
        let mut state = self.state.lock().await;
        if let State::Made(live) = &*state
            && !live.outbox.is_closed()
        {
            return Ok(live.clone());
        }
        if !matches!(&*state, State::Connecting(_)) {
            *state = State::Connecting(peers.attempt(&self.address, self.purpose));
        }
        let State::Connecting(attempt) = &mut *state else {
            unreachable!("an attempt was just begun");
        };
        let greeted = attempt.await;
        // It has ended, and must not be asked again.
        *state = State::Idle;
        let greeted = greeted.inspect_err(|error| peers.report_stranger(&self.address, error))?;
        let live = Live::start(greeted, self.address.clone());
        *state = State::Made(live.clone());
        Ok(live)
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<(Reply, Bytes)>>>>;

/// A working connection of a channel: one task writes, one reads.
struct Live {
    address: String,
    /// Who is at the other end, by its own word.
    node_id: u64,
    next_id: AtomicU64,
    outbox: Outbox,
    waiting: Waiting,
}

impl Live {
    fn start(greeted: Greeted, address: String) -> Arc<Live> {
        let node_id = greeted.welcome.node_id;
        let (outbox, inbox) = outbox();
        let waiting = Waiting::default();
        let (writer, reader) = (
            write_until_idle(greeted.writer, inbox, waiting.clone()),
            read_answers(greeted.reader, waiting.clone()),
        );
        tokio::spawn({
            let (waiting, address) = (waiting.clone(), address.clone());
            async move {
                let error = tokio::select! { error = writer => error, error = reader => error };
                tracing::debug!("connection to peer {address} ended: {error}");
                // Dropping the senders tells every caller that its answer is lost.
                waiting.lock().unwrap().clear();
            }
        });
        Arc::new(Live {
            address,
            node_id,
            next_id: AtomicU64::new(1),
            outbox,
            waiting,
        })
    }

    async fn call(&self, call: Call, tail: &[u8]) -> Result<(Reply, Bytes), CallError> {
        if self.outbox.is_full() {
            return Err(CallError::Rejected(Reject::new(
                Reason::Busy,
                "too many bytes wait to be sent to this peer",
            )));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut packet = BytesMut::new();
        put_packet(
            &mut packet,
            Kind::Request,
            &Request {
                id,
                call: Some(call),
            },
            tail,
        );
        let (answer, wait) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap();
            if waiting.len() >= MAX_WAITING_CALLS {
                return Err(CallError::Rejected(Reject::new(
                    Reason::Busy,
                    "too many calls wait for this peer",
                )));
            }
            waiting.insert(id, answer);
        }
        let _forget = Forget {
            id,
            waiting: &self.waiting,
        };
        let gone = || format!("connection to peer {} closed", self.address);
        if !self.outbox.send(packet) {
            return Err(CallError::NotSent(gone()));
        }
        wait.await.map_err(|_| CallError::Lost(gone()))
    }
}

/// Takes a caller off the list however it ends, by answer or by timeout.
struct Forget<'a> {
    id: u64,
    waiting: &'a Waiting,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.lock().unwrap().remove(&self.id);
    }
}

/// A place for packets that wait to be written to a peer, and the end that takes them out. There is always room for one more, so that
/// who puts them in never waits; it asks before whether it is full.
pub(crate) fn outbox() -> (Outbox, Inbox) {
    let (packets, inbox) = mpsc::unbounded_channel();
    let waiting = Arc::<Unwritten>::default();
    let outbox = Outbox {
        packets,
        waiting: waiting.clone(),
    };
    let inbox = Inbox {
        packets: inbox,
        waiting,
    };
    (outbox, inbox)
}

/// Packets in an [`Outbox`].
#[derive(Default)]
struct Unwritten {
    bytes: AtomicUsize,
    written: Notify,
}

/// The end that packets are put in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outbox {
    packets: mpsc::UnboundedSender<BytesMut>,
    waiting: Arc<Unwritten>,
}

/// The end that they are taken from.
pub(crate) struct Inbox {
    packets: mpsc::UnboundedReceiver<BytesMut>,
    waiting: Arc<Unwritten>,
}

impl Outbox {
    /// Whether [`MAX_OUTBOX_BYTES`] wait: the peer, or the way to it, does not keep up.
    pub fn is_full(&self) -> bool {
        self.waiting.bytes.load(Ordering::Relaxed) >= MAX_OUTBOX_BYTES
    }

    /// Waits until it is not full.
    pub async fn room(&self) {
        while self.is_full() {
            self.waiting.written.notified().await;
        }
    }

    /// Puts a packet in; false when nobody takes any more out.
    pub fn send(&self, packet: BytesMut) -> bool {
        let bytes = packet.len();
        self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.packets.send(packet).is_ok()
    }

    fn is_closed(&self) -> bool {
        self.packets.is_closed()
    }
}

impl Inbox {
    async fn recv(&mut self) -> Option<BytesMut> {
        self.packets.recv().await
    }

    /// Writes `batch` and whatever else waits already, in one go.
    async fn write(
        &mut self,
        writer: &mut (dyn AsyncWrite + Send + Unpin),
        mut batch: BytesMut,
    ) -> io::Result<()> {
        while batch.len() < WRITE_BATCH_BYTES {
            match self.packets.try_recv() {
                Ok(more) => batch.extend_from_slice(&more),
                Err(_) => break,
            }
        }
        writer.write_all(&batch).await?;
        self.waiting.bytes.fetch_sub(batch.len(), Ordering::Relaxed);
        self.waiting.written.notify_one();
        Ok(())
    }
}

/// Writes what comes, everything that waits at once. Ends with why.
pub(crate) async fn write_all(
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
    mut inbox: Inbox,
) -> io::Error {
    while let Some(first) = inbox.recv().await {
        if let Err(error) = inbox.write(&mut writer, first).await {
            return error;
        }
    }
    no_longer_needed()
}

fn no_longer_needed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "no longer needed")
}

/// Writes what comes until nothing has for a long time and nobody waits for an answer.
async fn write_until_idle(
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
    mut inbox: Inbox,
    waiting: Waiting,
) -> io::Error {
    loop {
        match tokio::time::timeout(IDLE_TIMEOUT, inbox.recv()).await {
            Ok(Some(first)) => {
                if let Err(error) = inbox.write(&mut writer, first).await {
                    return error;
                }
            }
            Ok(None) => return no_longer_needed(),
            Err(_) if waiting.lock().unwrap().is_empty() => return no_longer_needed(),
            Err(_) => {}
        }
    }
}

async fn read_answers(mut reader: PacketReader, waiting: Waiting) -> io::Error {
    loop {
        let answer = async {
            let packet = reader.expect().await?;
            let response: Response = packet.expect(Kind::Response)?;
            let reply = response
                .reply
                .ok_or_else(|| garbage("a response without a reply".into()))?;
            Ok((response.id, reply, packet.tail))
        };
        match answer.await {
            Ok((id, reply, tail)) => {
                if let Some(caller) = waiting.lock().unwrap().remove(&id) {
                    let _ = caller.send((reply, tail));
                }
            }
            Err(error) => return error,
        }
    }
}
