//! The appender: pushes committed entries down one feed connection (S4).
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
use crate::edges::Edge;
use crate::links::{LinkCommand, WINDOW_BYTES, channel, obey, overdue, session};
use crate::message::{
    Empty, EntriesHead, FeedFrom, FeedStart, Mismatch, NeedSnapshot, PositionHead, Start,
};
use crate::tree_handle::Input;
use crate::tree_wire::RegisterBytes;
use crate::wire::{Kind, PacketReader, garbage, write_packet};
use bytes::Bytes;
use eaves_log::{Chain, ReadError};
use eaves_tree::{LinkId, LogEnd, LogPosition, LogVerdict, Register};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, watch};

/// Bytes of entries in one packet: large enough that the packet costs nothing, small enough that heartbeats pass between.
const BATCH_BYTES: usize = 256 << 10;

/// Serves one listener's connection until it ends.
pub(crate) async fn serve(
    core: Arc<Core>,
    mut reader: PacketReader,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
) -> io::Result<()> {
    let register: RegisterBytes = reader.expect().await?.expect(Kind::Register)?;
    let register = Register::try_from(register).map_err(|error| garbage(error.to_string()))?;
    let listener = register.listener.id.0;
    let link = LinkId::Down(core.next_link.fetch_add(1, Ordering::Relaxed));
    let (sender, commands) = channel();
    let (heard, end) = (sender.heard.clone(), sender.end.clone());
    let (judge, theirs) = (core.clone(), register.last_log);
    let judging = core.config.blocking.run(move || verdict(&judge, theirs));
    let verdict = judging.await?;
    core.tree.tell(Input::Register {
        link,
        register,
        verdict,
        commands: sender,
    });
    let feed = Feed {
        core: core.clone(),
        asked: watch::Sender::new(None),
        listener,
        edge: Arc::default(),
    };
    let both_ways = async {
        tokio::select! {
            read = feed.read(link, &heard, reader) => read,
            wrote = feed.write(writer, commands) => wrote,
            overdue = overdue(&end) => overdue,
        }
    };
    // Who is refused costs a question's worth and is not fed: only the fed count (B18).
    let ended = core.feed_cpu.run(|| feed.edge.is_fed(), both_ways).await;
    core.edges.set_fed(listener, &feed.edge, false);
    core.tree.tell(Input::Closed { link });
    ended
}

/// What our log says about a listener's (B12).
fn verdict(core: &Core, theirs: LogEnd) -> LogVerdict {
    let log = core.flusher.log();
    let committed = core.committed.get().map(|id| id.index);
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
    listener: u64,
    edge: Arc<Edge>,
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
                Kind::Position => self
                    .edge
                    .received(packet.head::<PositionHead>()?.received_end),
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
                    if !self.obey(&mut writer, command, &mut allowed).await? {
                        return Ok(());
                    }
                }
                continue;
            }
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => if !self.obey(&mut writer, command, &mut allowed).await? { return Ok(()) },
                    None => return Ok(()),
                },
                _ = asked.changed() => if let Some(from) = self.asked_now() { stage = Stage::Comparing(from) },
                _ = committed.changed(), if allowed => {}
            }
        }
    }

    async fn obey(
        &self,
        writer: &mut (dyn AsyncWrite + Send + Unpin),
        command: LinkCommand,
        allowed: &mut bool,
    ) -> io::Result<bool> {
        let goes_on = obey(writer, command, allowed).await?;
        let edges = &self.core.edges;
        edges.set_fed(self.listener, &self.edge, *allowed);
        Ok(goes_on)
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
                let Some(start) = self.compare(from).await? else {
                    return Ok(false);
                };
                let next = from.last.map_or(0, |id| id.index + 1);
                self.edge.received(next);
                *stage = match start {
                    Start::Entries(_) => Stage::Pushing { next },
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
                window.acknowledge(self.edge.received_end());
                let Some(committed) = self.core.committed.get().filter(|id| id.index >= next)
                else {
                    return Ok(false);
                };
                if window.is_full() {
                    return Ok(false);
                }
                let frames = match self.core.read_log(next, committed.index, BATCH_BYTES).await {
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
                let head = EntriesHead {
                    first: next,
                    committed_end: committed.index + 1,
                };
                write_packet(writer, Kind::Entries, &head, &pieces).await?;
                Ok(true)
            }
        }
    }

    /// Compares a listener's log with ours (B12); `None` while ours does not reach as far (B11).
    async fn compare(&self, from: FeedFrom) -> io::Result<Option<Start>> {
        let log = self.core.flusher.log().clone();
        let next = match from.last.map(|id| id.index.checked_add(1)) {
            None => 0,
            Some(Some(next)) => next,
            Some(None) => return Err(garbage("a log that ends at the end of all numbers".into())),
        };
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
            .get()
            .is_none_or(|committed| committed.index < last.index)
        {
            return Ok(None);
        }
        let comparing = self
            .core
            .config
            .blocking
            .run(move || log.chain_at(last.index));
        let ours = comparing.await?.map_err(io::Error::other)?;
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
