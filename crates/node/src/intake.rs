//! The listener's end of a feed connection: registers, takes entries, fetches a snapshot when the upstream's log starts too late.
//!
//! Entries are verified, appended, and known committed from that moment: what is below gets them, and the state machine, before this
//! node's disk has them (B11). The picture of the exchange is in [`crate::appender`].

use crate::applier::InstallError;
use crate::core::Core;
use crate::links::{LinkCommand, WINDOW_BYTES, obey, overdue, session};
use crate::message::{EntriesHead, FeedFrom, FeedStart, Mismatch, PositionHead, Purpose, Start};
use crate::peer::client::Greeted;
use crate::position::LogIdBytes;
use crate::snapshot::{self, Received};
use crate::status::NodeEvent;
use crate::tree_handle::{Input, LinkSender};
use crate::tree_wire::RegisterBytes;
use crate::wire::{Kind, Packet, PacketReader, garbage, write_packet};
use bytes::Bytes;
use eaves_log::{Base, Frame};
use eaves_tree::{Address, Heartbeat, LinkId, LogPosition, Message, Register};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// A listener acknowledges when it took in this much.
const ACK_BYTES: u64 = WINDOW_BYTES / 8;

/// It acknowledges what it took in no later than this, however little, so that its upstream knows its lag (B15).
pub(crate) const ACK_INTERVAL: Duration = Duration::from_millis(100);

/// Entries that wait for this listener's disk beyond this are not acknowledged.
const UNFLUSHED_MAX_BYTES: u64 = 2 * WINDOW_BYTES;

/// The one link a listener takes entries from.
#[derive(Default)]
pub(crate) struct Following(Mutex<Followed>);

#[derive(Default)]
struct Followed {
    link: Option<LinkId>,
    /// Whether a snapshot is being installed: nobody may append meanwhile.
    installing: bool,
    /// One past the last index that the upstream said is committed.
    told_end: u64,
    /// Since when this node has not had all of that.
    behind_since: Option<Instant>,
}

impl Following {
    pub fn set(&self, link: Option<LinkId>) {
        let mut followed = self.0.lock().unwrap();
        *followed = Followed {
            link,
            installing: followed.installing,
            ..Followed::default()
        };
    }

    /// Up to where the upstream said the log is committed, one past it, and since when this node lacks some of that. `None` without an
    /// upstream.
    pub fn told(&self) -> Option<(u64, Option<Instant>)> {
        let followed = self.0.lock().unwrap();
        followed
            .link
            .map(|_| (followed.told_end, followed.behind_since))
    }

    /// The upstream on `link` says that all below `told_end` is committed; this node has all below `own_end`.
    fn heard(&self, link: LinkId, told_end: u64, own_end: u64) {
        let mut followed = self.0.lock().unwrap();
        if followed.link != Some(link) {
            return;
        }
        followed.told_end = followed.told_end.max(told_end);
        match followed.told_end > own_end {
            true => drop(followed.behind_since.get_or_insert_with(Instant::now)),
            false => followed.behind_since = None,
        }
    }

    pub fn unset(&self, link: LinkId) {
        let mut followed = self.0.lock().unwrap();
        if followed.link == Some(link) {
            followed.link = None;
        }
    }

    /// Runs `take` if `link` is the one; the lock keeps two links from appending at once.
    fn with<T>(&self, link: LinkId, take: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
        let followed = self.0.lock().unwrap();
        if followed.installing {
            return Err(io::Error::other("a snapshot is being installed"));
        }
        match followed.link == Some(link) {
            true => take().map(Some),
            false => Ok(None),
        }
    }

    /// Keeps everybody from appending while a snapshot that came with `link` is installed.
    fn close(&self, link: LinkId) -> io::Result<Closed<'_>> {
        let mut followed = self.0.lock().unwrap();
        if followed.link != Some(link) {
            return Err(io::Error::other(
                "the upstream changed while its snapshot was on the way",
            ));
        }
        followed.installing = true;
        Ok(Closed(self))
    }
}

/// While it lives nobody appends.
struct Closed<'a>(&'a Following);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().installing = false;
    }
}

/// Connects to `to`, registers, and takes what comes until the link ends.
pub(crate) async fn follow(
    core: Arc<Core>,
    to: Address,
    link: LinkId,
    register: Register,
    sender: LinkSender,
    commands: mpsc::UnboundedReceiver<LinkCommand>,
) {
    if let Err(error) = try_follow(&core, &to, link, register, &sender, commands).await {
        tracing::info!("link to upstream {to} ended: {error}");
    }
    core.tree.tell(Input::Closed { link });
}

async fn try_follow(
    core: &Arc<Core>,
    to: &Address,
    link: LinkId,
    register: Register,
    sender: &LinkSender,
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
        took_some: Notify::new(),
    };
    tokio::select! {
        read = intake.read(&sender.heard, reader) => read,
        wrote = intake.write(writer, commands, said) => wrote,
        overdue = overdue(&sender.end) => overdue,
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
    /// Tells the writing half that there is something to acknowledge.
    took_some: Notify,
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
                Kind::Session => self.pass_on(session(&packet)?),
                Kind::Entries => self.take(packet)?,
                Kind::FeedStart => match packet.head::<FeedStart>()?.start {
                    Some(Start::Entries(_)) => self.fed(),
                    Some(Start::NeedSnapshot(need)) => {
                        self.core.differing.check()?;
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

    /// Passes a message of the protocol on to it. A heartbeat says, too, how far the upstream is.
    fn pass_on(&self, message: Message) {
        if let Message::Heartbeat(heartbeat) = &message {
            let following = &self.core.following;
            following.heard(self.link, told_end(heartbeat), self.own_end());
        }
        let link = self.link;
        self.core.tree.tell(Input::Session { link, message });
    }

    /// One past the last index this node holds.
    fn own_end(&self) -> u64 {
        let last = self.core.flusher.log().last_id();
        last.map_or(0, |id| id.index + 1)
    }

    async fn write(
        &self,
        mut writer: Box<dyn AsyncWrite + Send + Unpin>,
        mut commands: mpsc::UnboundedReceiver<LinkCommand>,
        mut said: mpsc::UnboundedReceiver<Say>,
    ) -> io::Result<()> {
        let mut durable_end = self.core.flusher.durable_end();
        let mut acknowledge_at = None;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(LinkCommand::Follow) => drop(self.say.send(Say::FeedFrom)),
                    Some(command) => if !obey(&mut writer, command, &mut false).await? { return Ok(()) },
                    None => return Ok(()),
                },
                Some(say) = said.recv() => self.say(&mut writer, say).await?,
                () = self.took_some.notified() => acknowledge_at = Some(Instant::now() + ACK_INTERVAL),
                () = sleep_until(acknowledge_at) => {
                    // Not while the disk is far behind: then the window closes.
                    let acknowledged = self.acknowledge(1);
                    acknowledge_at = (!acknowledged).then(|| Instant::now() + ACK_INTERVAL);
                }
                Ok(()) = durable_end.changed() => drop(self.acknowledge(ACK_BYTES)),
            }
        }
    }

    async fn say(&self, writer: &mut (dyn AsyncWrite + Send + Unpin), say: Say) -> io::Result<()> {
        match say {
            Say::FeedFrom => {
                let end = self.core.flusher.log().end();
                let from = FeedFrom {
                    last: end.last.map(LogIdBytes::from),
                    chain: end.chain.0,
                };
                write_packet(writer, Kind::FeedFrom, &from, &[]).await
            }
            Say::Position => {
                let received_end = self.own_end();
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
        let head: EntriesHead = packet.head()?;
        let bytes = packet.tail.len() as u64;
        let frames = frames(packet.tail)?;
        let taken = self.core.following.with(self.link, || {
            self.core
                .flusher
                .log()
                .append(&frames)
                .map_err(io::Error::other)?;
            self.core.committed.raise(frames.last().map(Frame::id));
            Ok(())
        })?;
        if taken.is_none() {
            return Ok(());
        }
        self.core.keeper.flush_soon();
        let following = &self.core.following;
        following.heard(self.link, head.committed_end, self.own_end());
        if self.unacked_bytes.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.took_some.notify_one();
        }
        self.acknowledge(ACK_BYTES);
        Ok(())
    }

    /// The upstream feeds from here on: counts how long nobody did.
    fn fed(&self) {
        self.core.differing.agrees();
        self.core.tree.tell(Input::Compared);
        let Some(gap) = self.core.unfed.end() else {
            return;
        };
        let gap_us = gap.as_micros() as u64;
        tracing::info!(
            "fed again by {} after {gap_us} us without an upstream",
            self.address
        );
        self.core.count(|counters| {
            counters.fed_again += 1;
            counters.unfed_us += gap_us;
            counters.unfed_max_us = counters.unfed_max_us.max(gap_us);
            counters.unfed_last_us = gap_us;
        });
    }

    /// Acknowledges if at least `bytes` came in, unless this node's disk is far behind: then the upstream's window closes, and with it
    /// the memory that entries without a place on disk take (B10). Whether nothing is left to acknowledge.
    fn acknowledge(&self, bytes: u64) -> bool {
        let unacked_bytes = self.unacked_bytes.load(Ordering::Relaxed);
        let waiting_bytes = self.core.flusher.log().stats().waiting_bytes;
        if unacked_bytes >= bytes && waiting_bytes <= UNFLUSHED_MAX_BYTES {
            self.unacked_bytes.store(0, Ordering::Relaxed);
            let _ = self.say.send(Say::Position);
        }
        self.unacked_bytes.load(Ordering::Relaxed) == 0
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
        self.core.differing.found(&text);
        let _ = self.core.events.send(NodeEvent::Tree(text.clone()));
        io::Error::other(text)
    }
}

/// Never, without a time.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Up to where a heartbeat says that the log is committed, one past it.
pub(crate) fn told_end(heartbeat: &Heartbeat) -> u64 {
    let none = heartbeat.committed == LogPosition::default();
    heartbeat.committed.index + u64::from(!none)
}

/// The entries in the tail of a packet, every checksum verified.
pub(crate) fn frames(mut tail: Bytes) -> io::Result<Vec<Frame>> {
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

/// Replaces state and log by a snapshot from the upstream (B9).
async fn fetch_snapshot(core: Arc<Core>, link: LinkId, address: String) -> io::Result<()> {
    let _shown = core.snapshots.show();
    let last = core.flusher.log().last_id();
    let received = snapshot::fetch(&core, &address, last).await?;
    // A task of its own: the link may end at any time, an install never stops half way.
    tokio::spawn(install(core.clone(), link, address, received))
        .await
        .map_err(io::Error::other)?
}

/// Installs a received snapshot and lets the log follow. A crash in between leaves the old state, or the new state with a marker that
/// says why the log is behind it.
async fn install(
    core: Arc<Core>,
    link: LinkId,
    address: String,
    Received { incoming, sink }: Received,
) -> io::Result<()> {
    let _turn = core.apply_turn.lock().await;
    let _closed = core.following.close(link)?;
    let at = incoming.manifest.at.clone();
    if at.last > core.applier.state().last {
        let applier = core.applier.clone();
        let installing = core.config.blocking.run(move || applier.install(sink, at));
        match installing.await.map_err(InstallError::Broken).flatten() {
            Ok(()) => {}
            Err(InstallError::Refused(error)) => return Err(error),
            Err(InstallError::Broken(error)) => {
                core.fail("install a snapshot", &error);
                return Err(error);
            }
        }
    }
    // Now, or since an install that an I/O error ended before this, the state is ahead of the log.
    let state = core.applier.state();
    if state.last <= core.flusher.log().last_id() {
        return Err(io::Error::other(format!(
            "the snapshot from {address} is not ahead of this node"
        )));
    }
    let base = Base {
        last: state.last,
        chain: state.chain,
    };
    let ticket = core.flusher.log().reset(base).map_err(io::Error::other)?;
    core.flusher.durable(ticket).await?;
    core.applier.log_follows()?;
    core.keeper.installed(state.next_index());
    core.committed.raise(state.last);
    core.snapshots.keep_received(&core, incoming).await;
    let at = state.last.map_or("the start".into(), |id| id.to_string());
    let text = format!("installed a snapshot at {at} from {address}");
    tracing::info!("{text}");
    let _ = core.events.send(NodeEvent::Snapshot(text));
    Ok(())
}
