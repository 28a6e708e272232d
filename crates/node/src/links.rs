//! Feed connections, both ends: the appender that pushes committed entries down (S4), and the listener's side that takes them.
//!
//! One task per connection. The appender is the same whether this node is a follower or a listener: it knows a log and a committed
//! position, and nothing else. It sends the log's own bytes, as many entries at once as wait, and never beyond the committed position
//! (S5). One that is slow stalls in its own task: its memory is one batch, and the entries are the log's, shared (B10).
//!
//! ```text
//! listener                                   upstream
//!    | Register{id, last log, ..}               |
//!    |----------------------------------------->|  the tree protocol decides
//!    |                      Session(Accept{..}) |
//!    |<-----------------------------------------|
//!    | FeedFrom{last, chain}                    |
//!    |----------------------------------------->|  waits until it has that much, compares the chain (B12)
//!    |   FeedStart{entries | need snapshot | mismatch}
//!    |<-----------------------------------------|
//!    |                       Entries, Entries.. |
//!    |<-----------------------------------------|
//!    | Position{received, applied}  now and then |
//!    |----------------------------------------->|
//! ```
//!
//! Both directions carry `Session` messages (heartbeats, kicks) between these.

use crate::core::Core;
use crate::message::{
    Empty, EntriesHead, FeedFrom, FeedStart, Mismatch, NeedSnapshot, PositionHead, Purpose, Reason,
    Reject, Start,
};
use crate::peer::client::Greeted;
use crate::position::LogIdBytes;
use crate::snapshot;
use crate::status::NodeEvent;
use crate::tree_loop::{Input, LinkSender};
use crate::tree_wire::{RegisterBytes, SessionBytes};
use crate::wire::{Kind, Packet, PacketReader, garbage, write_packet};
use bytes::Bytes;
use eaves_log::{Base, Chain, Frame, LogId, ReadError};
use eaves_tree::{Address, LinkId, LogEnd, LogPosition, LogVerdict, Message, Register};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

/// Bytes of entries in one packet: large enough that the packet costs nothing, small enough that heartbeats pass between.
const BATCH_BYTES: usize = 256 << 10;

/// Bytes sent and not yet acknowledged to one listener (B10). TCP holds them; this bounds how much it must.
const WINDOW_BYTES: u64 = 8 << 20;

/// A listener acknowledges when it took in this much.
const ACK_BYTES: u64 = WINDOW_BYTES / 8;

/// What the tree's loop tells a link's task.
pub(crate) enum LinkCommand {
    /// Send a message of the protocol.
    Send(Message),
    /// Upstream: push entries to this listener, or stop.
    Feed(bool),
    /// Listener: ask to be fed and take entries from here.
    Follow,
    /// End, after what was sent before.
    Close,
}

/// The two ends of the way to a link's task.
pub(crate) fn channel() -> (LinkSender, mpsc::UnboundedReceiver<LinkCommand>) {
    let (commands, receiver) = mpsc::unbounded_channel();
    (
        LinkSender {
            commands,
            heard: Arc::new(AtomicBool::new(false)),
        },
        receiver,
    )
}

/// The one link a listener takes entries from.
#[derive(Default)]
pub(crate) struct Following(Mutex<Option<LinkId>>);

impl Following {
    pub fn set(&self, link: Option<LinkId>) {
        *self.0.lock().unwrap() = link;
    }

    pub fn unset(&self, link: LinkId) {
        let mut following = self.0.lock().unwrap();
        if *following == Some(link) {
            *following = None;
        }
    }

    /// Runs `take` if `link` is the one; the lock keeps two links from appending at once.
    fn with<T>(&self, link: LinkId, take: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
        let following = self.0.lock().unwrap();
        match *following == Some(link) {
            true => take().map(Some),
            false => Ok(None),
        }
    }
}

/// Upstream: serves one listener's connection until it ends.
pub(crate) async fn serve(
    core: Arc<Core>,
    mut reader: PacketReader,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
) -> io::Result<()> {
    let register: RegisterBytes = reader.expect().await?.expect(Kind::Register)?;
    let register = Register::try_from(register).map_err(|error| garbage(error.to_string()))?;
    let link = LinkId::Down(core.next_link.fetch_add(1, Ordering::Relaxed));
    let (sender, commands) = channel();
    let heard = sender.heard.clone();
    let verdict = verdict(&core, register.last_log);
    core.tree.tell(Input::Register {
        link,
        register,
        verdict,
        commands: sender,
    });
    let feed = Feed {
        core: core.clone(),
        asked: watch::Sender::new(None),
        acked_end: AtomicU64::new(0),
    };
    let ended = tokio::select! {
        read = feed.read(link, &heard, reader) => read,
        wrote = feed.write(writer, commands) => wrote,
    };
    core.tree.tell(Input::Closed { link });
    ended
}

/// What our log says about a listener's (B12).
fn verdict(core: &Core, theirs: LogEnd) -> LogVerdict {
    let log = core.flusher.log();
    let committed = core.committed.borrow().map(|id| id.index);
    let nothing = LogEnd {
        position: LogPosition::default(),
        chain: Chain::START.0,
    };
    if theirs == nothing || committed < Some(theirs.position.index) {
        return LogVerdict::Agrees;
    }
    match (
        log.id_at(theirs.position.index),
        log.chain_at(theirs.position.index),
    ) {
        (Ok(Some(id)), Ok(Some(chain))) => {
            let ours = LogEnd {
                position: LogPosition {
                    term: id.term,
                    index: id.index,
                },
                chain: chain.0,
            };
            if ours == theirs {
                LogVerdict::Agrees
            } else {
                LogVerdict::Differs { ours }
            }
        }
        // Before what we still have: a snapshot will replace it.
        _ => LogVerdict::Agrees,
    }
}

/// The upstream's side of one link.
struct Feed {
    core: Arc<Core>,
    /// What the listener asked for last.
    asked: watch::Sender<Option<FeedFrom>>,
    acked_end: AtomicU64,
}

/// Where the appender stands with one listener.
#[derive(Clone, Copy)]
enum Stage {
    /// The listener has not said from where.
    Idle,
    /// It has; we may have to wait until our log reaches that far.
    Comparing(FeedFrom),
    /// It gets entries from this index on.
    Pushing { next: u64 },
}

impl Feed {
    async fn read(
        &self,
        link: LinkId,
        heard: &AtomicBool,
        mut reader: PacketReader,
    ) -> io::Result<()> {
        while let Some(packet) = reader.next().await? {
            heard.store(true, Ordering::Relaxed);
            match packet.kind {
                Kind::Session => self.core.tree.tell(Input::Session {
                    link,
                    message: session(&packet)?,
                }),
                Kind::FeedFrom => drop(self.asked.send_replace(Some(packet.head()?))),
                Kind::Position => self.acked_end.store(
                    packet.head::<PositionHead>()?.received_end,
                    Ordering::Relaxed,
                ),
                kind => return Err(garbage(format!("a {kind:?} packet from a listener"))),
            }
            // Acknowledgements open the window.
            self.asked.send_modify(|_| {});
        }
        Ok(())
    }

    async fn write(
        &self,
        mut writer: Box<dyn AsyncWrite + Send + Unpin>,
        mut commands: mpsc::UnboundedReceiver<LinkCommand>,
    ) -> io::Result<()> {
        let mut asked = self.asked.subscribe();
        let mut committed = self.core.committed.subscribe();
        let mut allowed = false;
        let mut stage = Stage::Idle;
        let mut window = Window::default();
        loop {
            if allowed && self.advance(&mut writer, &mut stage, &mut window).await? {
                // More waits, but commands go first.
                while let Ok(command) = commands.try_recv() {
                    if !obey(&mut writer, command, &mut allowed).await? {
                        return Ok(());
                    }
                }
                continue;
            }
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => if !obey(&mut writer, command, &mut allowed).await? { return Ok(()) },
                    None => return Ok(()),
                },
                _ = asked.changed() => if let Some(from) = self.asked_now() { stage = Stage::Comparing(from) },
                _ = committed.changed(), if allowed => {}
            }
        }
    }

    /// Takes what the listener asked for, once.
    fn asked_now(&self) -> Option<FeedFrom> {
        let mut taken = None;
        self.asked.send_if_modified(|asked| {
            taken = asked.take();
            false
        });
        taken
    }

    /// Does the next thing that can be done now; false when it must wait for entries, acknowledgements or commands.
    async fn advance(
        &self,
        writer: &mut (dyn AsyncWrite + Send + Unpin),
        stage: &mut Stage,
        window: &mut Window,
    ) -> io::Result<bool> {
        match *stage {
            Stage::Idle => Ok(false),
            Stage::Comparing(from) => {
                let Some(start) = self.compare(from)? else {
                    return Ok(false);
                };
                *stage = match start {
                    Start::Entries(_) => Stage::Pushing {
                        next: from.last.map_or(0, |id| id.index + 1),
                    },
                    Start::NeedSnapshot(_) | Start::Mismatch(_) => Stage::Idle,
                };
                *window = Window::default();
                write_packet(
                    writer,
                    Kind::FeedStart,
                    &FeedStart { start: Some(start) },
                    &[],
                )
                .await?;
                Ok(true)
            }
            Stage::Pushing { next } => {
                window.acknowledge(self.acked_end.load(Ordering::Relaxed));
                let Some(committed) = self.core.committed.borrow().filter(|id| id.index >= next)
                else {
                    return Ok(false);
                };
                if window.is_full() {
                    return Ok(false);
                }
                let frames = match self
                    .core
                    .flusher
                    .log()
                    .read(next, committed.index, BATCH_BYTES)
                {
                    Ok(frames) => frames,
                    Err(ReadError::Gone { first }) => {
                        *stage = Stage::Idle;
                        let start = Some(Start::NeedSnapshot(NeedSnapshot { first }));
                        write_packet(writer, Kind::FeedStart, &FeedStart { start }, &[]).await?;
                        return Ok(true);
                    }
                    Err(error) => return Err(io::Error::other(error)),
                };
                let Some(last) = frames.last() else {
                    return Ok(false);
                };
                *stage = Stage::Pushing {
                    next: last.id().index + 1,
                };
                let bytes: u64 = frames
                    .iter()
                    .map(|frame| frame.as_bytes().len() as u64)
                    .sum();
                window.sent(last.id().index + 1, bytes);
                self.core.count(|counters| {
                    counters.feed_bytes += bytes;
                    counters.feed_entries += frames.len() as u64;
                });
                let pieces: Vec<Bytes> = frames
                    .iter()
                    .map(|frame| frame.as_bytes().clone())
                    .collect();
                write_packet(writer, Kind::Entries, &EntriesHead { first: next }, &pieces).await?;
                Ok(true)
            }
        }
    }

    /// Compares a listener's log with ours (B12); `None` while ours does not reach as far (B11).
    fn compare(&self, from: FeedFrom) -> io::Result<Option<Start>> {
        let log = self.core.flusher.log();
        let next = from.last.map_or(0, |id| id.index + 1);
        let first = log.first_index();
        if next < first {
            return Ok(Some(Start::NeedSnapshot(NeedSnapshot { first })));
        }
        let Some(last) = from.last else {
            return Ok(Some(Start::Entries(Empty {})));
        };
        if self
            .core
            .committed
            .borrow()
            .is_none_or(|committed| committed.index < last.index)
        {
            return Ok(None);
        }
        let ours = log.chain_at(last.index).map_err(io::Error::other)?;
        match ours {
            Some(ours) if ours.0 == from.chain => Ok(Some(Start::Entries(Empty {}))),
            Some(ours) => {
                let mismatch = Mismatch {
                    index: last.index,
                    upstream_chain: ours.0,
                    listener_chain: from.chain,
                };
                Ok(Some(Start::Mismatch(mismatch)))
            }
            None => Err(io::Error::other(format!(
                "the log has no chain value at {}",
                last.index
            ))),
        }
    }
}

/// Bytes on their way to one listener.
#[derive(Default)]
struct Window {
    in_flight: std::collections::VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Window {
    fn sent(&mut self, end: u64, bytes: u64) {
        self.in_flight.push_back((end, bytes));
        self.bytes += bytes;
    }

    fn acknowledge(&mut self, received_end: u64) {
        while let Some((_, bytes)) = self
            .in_flight
            .front()
            .filter(|(end, _)| *end <= received_end)
        {
            self.bytes -= bytes;
            self.in_flight.pop_front();
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= WINDOW_BYTES
    }
}

/// Carries out a command; false when the link must end.
async fn obey(
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    command: LinkCommand,
    allowed: &mut bool,
) -> io::Result<bool> {
    match command {
        LinkCommand::Send(message) => {
            write_packet(writer, Kind::Session, &SessionBytes::from(&message), &[]).await?
        }
        LinkCommand::Feed(feed) => *allowed = feed,
        LinkCommand::Follow => unreachable!("an upstream's link is never told to follow"),
        LinkCommand::Close => {
            writer.shutdown().await?;
            return Ok(false);
        }
    }
    Ok(true)
}

fn session(packet: &Packet) -> io::Result<Message> {
    let bytes: SessionBytes = packet.head()?;
    Message::try_from(bytes).map_err(|error| garbage(error.to_string()))
}

/// Upstream: serves a snapshot to a listener that asked for one.
pub(crate) async fn serve_snapshot(
    core: Arc<Core>,
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
) -> io::Result<()> {
    let _turn = core
        .snapshot_turns
        .acquire()
        .await
        .map_err(io::Error::other)?;
    core.keeper.persist_applied().await?;
    let applier = core.applier.clone();
    let made = tokio::task::spawn_blocking(move || applier.snapshot())
        .await
        .map_err(io::Error::other)??;
    let Some((at, source)) = made else {
        let reject = Reject::new(Reason::NoLeader, "this node has no state to copy yet");
        return write_packet(&mut writer, Kind::Reject, &reject, &[]).await;
    };
    tracing::info!("send a snapshot at {:?} to a listener", at.last);
    core.count(|counters| counters.snapshots_served += 1);
    snapshot::send(&mut writer, None, source).await?;
    writer.shutdown().await
}

/// Listener: connects to `to`, registers, and takes what comes until the link ends.
pub(crate) async fn follow(
    core: Arc<Core>,
    to: Address,
    link: LinkId,
    register: Register,
    heard: Arc<AtomicBool>,
    commands: mpsc::UnboundedReceiver<LinkCommand>,
) {
    if let Err(error) = try_follow(&core, &to, link, register, &heard, commands).await {
        tracing::info!("link to upstream {to} ended: {error}");
    }
    core.tree.tell(Input::Closed { link });
}

async fn try_follow(
    core: &Arc<Core>,
    to: &Address,
    link: LinkId,
    register: Register,
    heard: &AtomicBool,
    commands: mpsc::UnboundedReceiver<LinkCommand>,
) -> io::Result<()> {
    let Greeted {
        reader, mut writer, ..
    } = core
        .peers
        .connect(to.as_str(), Purpose::Feed)
        .await
        .map_err(io::Error::other)?;
    write_packet(
        &mut writer,
        Kind::Register,
        &RegisterBytes::from(&register),
        &[],
    )
    .await?;
    let (say, said) = mpsc::unbounded_channel();
    let intake = Intake {
        core: core.clone(),
        link,
        address: to.as_str().to_string(),
        say,
        unacked_bytes: AtomicU64::new(0),
    };
    tokio::select! {
        read = intake.read(heard, reader) => read,
        wrote = intake.write(writer, commands, said) => wrote,
    }
}

/// The listener's side of one link.
struct Intake {
    core: Arc<Core>,
    link: LinkId,
    address: String,
    /// What the reading half wants said.
    say: mpsc::UnboundedSender<Say>,
    unacked_bytes: AtomicU64,
}

enum Say {
    FeedFrom,
    Position,
}

impl Intake {
    async fn read(&self, heard: &AtomicBool, mut reader: PacketReader) -> io::Result<()> {
        let mut fetching = None;
        loop {
            let packet = match &mut fetching {
                None => reader.next().await?,
                // Heartbeats go on while a snapshot is on its way.
                Some(fetch) => tokio::select! {
                    packet = reader.next() => packet?,
                    fetched = fetch => {
                        fetched?;
                        fetching = None;
                        let _ = self.say.send(Say::FeedFrom);
                        continue;
                    }
                },
            };
            let Some(packet) = packet else { return Ok(()) };
            heard.store(true, Ordering::Relaxed);
            match packet.kind {
                Kind::Session => self.core.tree.tell(Input::Session {
                    link: self.link,
                    message: session(&packet)?,
                }),
                Kind::Entries => self.take(packet)?,
                Kind::FeedStart => match packet.head::<FeedStart>()?.start {
                    Some(Start::Entries(_)) => {}
                    Some(Start::NeedSnapshot(need)) => {
                        tracing::info!(
                            "upstream {} has the log from {} only: fetch a snapshot",
                            self.address,
                            need.first
                        );
                        fetching = Some(Box::pin(fetch_snapshot(
                            self.core.clone(),
                            self.link,
                            self.address.clone(),
                        )));
                    }
                    Some(Start::Mismatch(mismatch)) => return Err(self.diverged(mismatch)),
                    None => return Err(garbage("a feed that starts with nothing".into())),
                },
                kind => return Err(garbage(format!("a {kind:?} packet from an upstream"))),
            }
        }
    }

    async fn write(
        &self,
        mut writer: Box<dyn AsyncWrite + Send + Unpin>,
        mut commands: mpsc::UnboundedReceiver<LinkCommand>,
        mut said: mpsc::UnboundedReceiver<Say>,
    ) -> io::Result<()> {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(LinkCommand::Follow) => drop(self.say.send(Say::FeedFrom)),
                    Some(command) => if !obey(&mut writer, command, &mut false).await? { return Ok(()) },
                    None => return Ok(()),
                },
                Some(say) = said.recv() => self.say(&mut writer, say).await?,
            }
        }
    }

    async fn say(&self, writer: &mut (dyn AsyncWrite + Send + Unpin), say: Say) -> io::Result<()> {
        let log = self.core.flusher.log();
        match say {
            Say::FeedFrom => {
                let from = FeedFrom {
                    last: log.last_id().map(LogIdBytes::from),
                    chain: log.last_chain().0,
                };
                write_packet(writer, Kind::FeedFrom, &from, &[]).await
            }
            Say::Position => {
                let received_end = log.last_id().map_or(0, |id| id.index + 1);
                let applied_end = self
                    .core
                    .applier
                    .applied()
                    .borrow()
                    .map_or(0, |id| id.index + 1);
                write_packet(
                    writer,
                    Kind::Position,
                    &PositionHead {
                        received_end,
                        applied_end,
                    },
                    &[],
                )
                .await
            }
        }
    }

    /// Takes a batch of entries: verified, appended, known committed, and so on its way down before it is flushed (B11).
    fn take(&self, packet: Packet) -> io::Result<()> {
        let bytes = packet.tail.len() as u64;
        let frames = frames(packet.tail)?;
        let taken = self.core.following.with(self.link, || {
            self.core
                .flusher
                .log()
                .append(&frames)
                .map_err(io::Error::other)?;
            self.core
                .committed
                .send_replace(frames.last().map(Frame::id));
            Ok(())
        })?;
        if taken.is_none() {
            return Ok(());
        }
        self.core.keeper.flush_soon();
        let unacked = self.unacked_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unacked >= ACK_BYTES {
            self.unacked_bytes.store(0, Ordering::Relaxed);
            let _ = self.say.send(Say::Position);
        }
        Ok(())
    }

    /// The logs differ: nothing may be overwritten, an administrator must look (B12).
    fn diverged(&self, mismatch: Mismatch) -> io::Error {
        let text = format!(
            "this listener's log differs from that of upstream {} at index {} (chain {:016x} here, {:016x} there): \
             one of the two data directories is damaged or of another history; compare with other nodes, \
             then remove the wrong one's directory and let it join anew",
            self.address, mismatch.index, mismatch.listener_chain, mismatch.upstream_chain
        );
        tracing::error!("{text}");
        let _ = self.core.events.send(NodeEvent::Tree(text.clone()));
        io::Error::other(text)
    }
}

/// Cuts a packet's tail into entries, verifying each (B12).
fn frames(mut tail: Bytes) -> io::Result<Vec<Frame>> {
    let mut frames = Vec::new();
    while let Some(frame) =
        Frame::split_from_bytes(&mut tail).map_err(|error| garbage(error.to_string()))?
    {
        frames.push(frame);
    }
    match tail.is_empty() && !frames.is_empty() {
        true => Ok(frames),
        false => Err(garbage(
            "half an entry, or none, in a packet of entries".into(),
        )),
    }
}

/// Replaces state and log by a snapshot from the upstream (B9). A crash in between leaves the old state, or the new state with a
/// marker that says why the log is behind it.
async fn fetch_snapshot(core: Arc<Core>, link: LinkId, address: String) -> io::Result<()> {
    let applier = core.applier.clone();
    let (sink, at) = snapshot::fetch(&core.peers, &address, move || applier.receive()).await?;
    core.count(|counters| counters.snapshots_received += 1);
    let _turn = core.apply_turn.lock().await;
    let base = Base {
        last: at.last,
        chain: at.chain,
    };
    let last = at.last;
    let applier = core.applier.clone();
    if core.following.with(link, || Ok(()))?.is_none() {
        return Err(io::Error::other(
            "the upstream changed while its snapshot was on the way",
        ));
    }
    tokio::task::spawn_blocking(move || applier.install(sink, at))
        .await
        .map_err(io::Error::other)??;
    let ticket = core.flusher.log().reset(base).map_err(io::Error::other)?;
    core.flusher.durable(ticket).await?;
    core.applier.log_follows()?;
    core.committed.send_replace(last);
    core.keeper.installed();
    let text = format!(
        "installed a snapshot at {} from {address}",
        last.map_or("the start".into(), |id: LogId| id.to_string())
    );
    tracing::info!("{text}");
    let _ = core.events.send(NodeEvent::Snapshot(text));
    Ok(())
}
