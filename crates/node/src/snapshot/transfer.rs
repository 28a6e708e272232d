//! A snapshot on the wire. The picture is in [`super`]; these are its packets, on a connection of their own:
//!
//! ```text
//! receiver                                sender
//!    | Ask{last}                             |   listeners only; a leader begins with its offer
//!    |-------------------------------------->|   begins to make a snapshot, or takes the kept one
//!    |   Offer{vote, position}               |
//!    |<--------------------------------------|
//!    |                  Sums{digest, is_all} |   of the chunks that were made since, or of many
//!    |<--------------------------------------|
//!    | Want{ranges}                          |   what its file lacks of these; again for what arrived damaged
//!    |-------------------------------------->|   waits for its turn, and for the rate
//!    |                       Chunk, Chunk .. |
//!    |<--------------------------------------|
//!    | Want{}                                |   it lacks none of these: Sums of the next follow
//!    |-------------------------------------->|
//!    | End{vote}                             |   after all: its state is made; to a leader: and installed
//!    |-------------------------------------->|
//! ```
//!
//! The receiver makes its state from the chunks while others arrive. A transfer that is cut keeps the chunks, not that state: it is begun
//! anew from the file.

use super::incoming::{ChunkFile, Incoming, is_full};
use super::manifest::{Chunk, Manifest, to_sums};
use super::shelf;
use super::spool::Spool;
use super::{CHUNK_TIMEOUT, SILENCE_TIMEOUT};
use crate::applier::Applier;
use crate::blocking::{Blocking, Interrupt};
use crate::core::Core;
use crate::message::{
    ChunkHead, ChunkRange, Purpose, Reason, Reject, SnapshotAsk, SnapshotEnd, SnapshotOffer,
    SnapshotSums, SnapshotWant,
};
use crate::peer::client::Greeted;
use crate::position::Applied;
use crate::raft::VoteBytes;
use crate::state_machine::{Position, SnapshotSink};
use crate::status::SnapshotProgress;
use crate::wire::{Kind, Packet, PacketReader, garbage, write_packet};
use bytes::Bytes;
use eaves_log::LogId;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Sums of at most this many chunks travel in one packet: 64 KiB, for one gigabyte.
const SUMS_PER_PACKET: usize = 4096;

/// Ranges asked for at once. More are asked for when these have come.
const MAX_RANGES: usize = 1024;

/// Tries after which no more of the snapshot is here than ever before, until a listener gives its upstream up.
const MAX_VAIN_TRIES: u32 = 4;

/// Rounds over the same chunks without a single one that arrived undamaged before a connection is given up.
const MAX_VAIN_ROUNDS: u32 = 4;

/// Pause after a first vain try; it grows with each.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Serves a snapshot to the listener `from`, which is registered here.
pub(crate) async fn serve(
    core: Arc<Core>,
    from: u64,
    mut reader: PacketReader,
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
    ask: SnapshotAsk,
) -> io::Result<()> {
    if let Some(reject) = refuse(&core, from).await {
        return write_packet(&mut writer, Kind::Reject, &reject, &[]).await;
    }
    let Some(spool) = shelf::obtain(&core).await? else {
        let reject = Reject::new(Reason::NoLeader, "this node has no state to copy yet");
        return write_packet(&mut writer, Kind::Reject, &reject, &[]).await;
    };
    tracing::info!(
        "send listener {from:x} a snapshot at {:?}, about {} bytes",
        spool.at.last,
        spool.expected_bytes
    );
    core.count(|counters| match ask.last {
        None => counters.snapshots.served_new += 1,
        Some(_) => counters.snapshots.served_behind += 1,
    });
    send(&core, &mut reader, &mut writer, None, &spool).await?;
    Ok(())
}

/// A listener is fed by its upstream and by nobody else, never by a leader (S1).
async fn refuse(core: &Core, from: u64) -> Option<Reject> {
    if leads(core) {
        return Some(Reject::new(
            Reason::Invalid,
            "this voter leads, it feeds no listeners (S1)",
        ));
    }
    let view = core.tree.inspect().await;
    let is_registered = view.is_some_and(|view| {
        view.downstreams
            .iter()
            .any(|downstream| downstream.id == from)
    });
    (!is_registered).then(|| {
        Reject::new(
            Reason::Invalid,
            "register first: a snapshot comes from the upstream",
        )
    })
}

fn leads(core: &Core) -> bool {
    core.consensus()
        .is_some_and(|consensus| consensus.is_leader())
}

/// Sends a snapshot to whoever is at the other end, as it is made, until it says that it is done. `vote` is a leader's.
pub(super) async fn send(
    core: &Arc<Core>,
    reader: &mut PacketReader,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    vote: Option<VoteBytes>,
    spool: &Arc<Spool>,
) -> io::Result<SnapshotEnd> {
    let offer = SnapshotOffer {
        vote,
        position: spool.at.to_position().0,
        expected_bytes: spool.expected_bytes,
    };
    write_packet(writer, Kind::SnapshotOffer, &offer, &[]).await?;
    let mut digest = Manifest::new(spool.at.clone()).digest();
    let mut told = 0;
    let mut room = Vec::new();
    loop {
        let (chunks, is_all) = match spool.chunks_from(told, SUMS_PER_PACKET).await {
            Ok(told) => told,
            Err(error) => {
                let reject = Reject::new(Reason::NoLeader, error.to_string());
                write_packet(writer, Kind::Reject, &reject, &[]).await?;
                return Err(error);
            }
        };
        told += chunks.len();
        for chunk in &chunks {
            digest = chunk.add_to_digest(digest);
        }
        let head = SnapshotSums { digest, is_all };
        write_packet(writer, Kind::SnapshotSums, &head, &[to_sums(&chunks)]).await?;
        let known = (spool, told);
        match send_wanted(core, reader, writer, known, &mut room, vote.is_some()).await? {
            Some(end) => return Ok(end),
            None if is_all => {
                return Err(garbage(
                    "a receiver that waits for more than a whole snapshot".into(),
                ));
            }
            None => {}
        }
    }
}

/// Sends what the receiver lacks of the first `told` chunks. It ends the transfer, or is ready to be told of others: `None`.
async fn send_wanted(
    core: &Arc<Core>,
    reader: &mut PacketReader,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    (spool, told): (&Arc<Spool>, usize),
    room: &mut Vec<u8>,
    is_pushed: bool,
) -> io::Result<Option<SnapshotEnd>> {
    loop {
        let packet = tokio::time::timeout(SILENCE_TIMEOUT, reader.expect())
            .await
            .map_err(|_| timed_out("the receiver of a snapshot says nothing"))??;
        if packet.kind == Kind::SnapshotEnd {
            return packet.head().map(Some);
        }
        let want: SnapshotWant = packet.expect(Kind::SnapshotWant)?;
        if want.ranges.is_empty() {
            return Ok(None);
        }
        // Held only while it sends: who says nothing keeps nobody waiting.
        let _turn = core
            .snapshots
            .turns
            .acquire()
            .await
            .map_err(io::Error::other)?;
        for range in &want.ranges {
            for number in numbers(range, told)? {
                if !is_pushed && leads(core) {
                    return Err(io::Error::other(
                        "this voter leads now, it feeds no listeners (S10)",
                    ));
                }
                send_chunk(core, writer, (spool, number), room, is_pushed).await?;
            }
        }
    }
}

/// The chunks of a range, of which there are `known`.
pub(crate) fn numbers(range: &ChunkRange, known: usize) -> io::Result<std::ops::Range<usize>> {
    let end = range
        .first
        .checked_add(range.count)
        .filter(|end| *end <= known as u64);
    let end = end.ok_or_else(|| garbage("a wish for chunks that do not exist".into()))?;
    Ok(range.first as usize..end as usize)
}

/// Sends one chunk. `room` is the same for all chunks of a transfer: a new one for each, among all the small allocations of a node that
/// works, was seen to leave holes of hundreds of MiB in the heap.
async fn send_chunk(
    core: &Core,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    (spool, number): (&Arc<Spool>, usize),
    room: &mut Vec<u8>,
    is_pushed: bool,
) -> io::Result<()> {
    let chunk = spool.chunk(number);
    let (reading, mut taken) = (spool.clone(), std::mem::take(room));
    taken.resize(chunk.bytes as usize, 0);
    let reading = move || reading.read(chunk, taken);
    let bytes = match core.config.blocking.run(reading).await.flatten() {
        Ok(bytes) => bytes,
        Err(error) => {
            shelf::forget(core, spool).await;
            return Err(error);
        }
    };
    let length = bytes.len() as u64;
    core.snapshots.throttle.pass(length).await;
    let head = ChunkHead {
        number: number as u64,
    };
    let pieces = [bytes];
    let writing = write_packet(writer, Kind::SnapshotChunk, &head, &pieces);
    tokio::time::timeout(CHUNK_TIMEOUT, writing)
        .await
        .map_err(|_| timed_out("the receiver of a snapshot takes nothing"))??;
    let [bytes] = pieces;
    *room = bytes.into();
    core.count(|counters| match is_pushed {
        true => counters.snapshots.pushed_bytes += length,
        false => counters.snapshots.served_bytes += length,
    });
    Ok(())
}

/// A snapshot that was received to the end.
pub(crate) struct Received {
    pub incoming: Incoming,
    /// The state that was made from it, beside the live one.
    pub sink: Box<dyn SnapshotSink>,
}

/// Why a snapshot was not received to the end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The transfer was cut: what came is kept, and it may go on.
    Cut(io::Error),
    /// To ask for more would not help: the sender cannot make it, the disk here is full, or what came is no state.
    ForGood(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        match is_full(error.kind()) {
            true => Broken::ForGood(error),
            false => Broken::Cut(error),
        }
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> io::Error {
        match broken {
            Broken::Cut(error) | Broken::ForGood(error) => error,
        }
    }
}

/// Takes a snapshot from the upstream at `address` to the end, trying again while more and more of it is here. `last` is the end of the
/// log here, the reason why one is needed: `None` on a new listener.
pub(crate) async fn fetch(
    core: &Arc<Core>,
    address: &str,
    last: Option<LogId>,
) -> io::Result<Received> {
    let mut vain_tries = 0;
    let mut most_bytes = 0;
    loop {
        let error = match fetch_once(core, address, last).await {
            Ok(received) => {
                core.count(|counters| match last {
                    None => counters.snapshots.received_new += 1,
                    Some(_) => counters.snapshots.received_behind += 1,
                });
                return Ok(received);
            }
            Err(Broken::ForGood(error)) => return Err(error),
            Err(Broken::Cut(error)) => error,
        };
        // That chunks came is not enough: they may be the same again and again, of one snapshot after the other that fails.
        let here_bytes = core.snapshots.progress().unwrap_or_default().received_bytes;
        vain_tries = if here_bytes > most_bytes {
            0
        } else {
            vain_tries + 1
        };
        most_bytes = most_bytes.max(here_bytes);
        if vain_tries == MAX_VAIN_TRIES {
            return Err(error);
        }
        tracing::info!("the snapshot from {address} was cut, go on with it: {error}");
        tokio::time::sleep(RETRY_PAUSE * (vain_tries + 1)).await;
    }
}

async fn fetch_once(
    core: &Arc<Core>,
    address: &str,
    last: Option<LogId>,
) -> Result<Received, Broken> {
    let (offer, mut reader, mut writer) = ask(core, address, last).await?;
    let received = receive(core, &mut reader, &mut writer, offer).await?;
    // The sender has nothing more to give, so it is all the same whether it hears this.
    let end = SnapshotEnd::default();
    let _ = write_packet(&mut writer, Kind::SnapshotEnd, &end, &[]).await;
    Ok(received)
}

type Offered = (
    SnapshotOffer,
    PacketReader,
    Box<dyn AsyncWrite + Send + Unpin>,
);

async fn ask(core: &Core, address: &str, last: Option<LogId>) -> io::Result<Offered> {
    let Greeted {
        mut reader,
        mut writer,
        ..
    } = core
        .peers
        .connect(address, Purpose::Snapshot)
        .await
        .map_err(io::Error::other)?;
    let ask = SnapshotAsk {
        last: last.map(Into::into),
    };
    write_packet(&mut writer, Kind::SnapshotAsk, &ask, &[]).await?;
    let first = reader.expect().await?;
    if first.kind == Kind::Reject {
        let reject: Reject = first.head()?;
        return Err(io::Error::other(reject.text));
    }
    Ok((first.expect(Kind::SnapshotOffer)?, reader, writer))
}

/// Receives what was offered to the last chunk, and makes a state from it meanwhile. Another sender takes over as long as chunks lack.
pub(super) async fn receive(
    core: &Arc<Core>,
    reader: &mut PacketReader,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    offer: SnapshotOffer,
) -> Result<Received, Broken> {
    let expected_bytes = offer.expected_bytes;
    let at = Applied::from_position(&Position(offer.position))
        .map_err(|error| garbage(error.to_string()))?;
    let mut others = pin!(core.snapshots.inbox.take_over());
    let taken_over = || Broken::Cut(io::Error::other("another node sends a snapshot now"));
    let incoming = tokio::select! {
        opened = core.snapshots.inbox.open(at) => opened?,
        () = &mut others => return Err(taken_over()),
    };
    let (arrived, to_stage) = unbounded_channel();
    let staging = stage(core, incoming.file(), to_stage);
    let receiving = async {
        tokio::select! {
            received = receive_all(core, (reader, writer), incoming, arrived, expected_bytes) => received,
            () = others => Err(taken_over()),
        }
    };
    let (incoming, sink) = tokio::try_join!(receiving, staging)?;
    Ok(Received { incoming, sink })
}

async fn receive_all(
    core: &Arc<Core>,
    (reader, writer): (&mut PacketReader, &mut (dyn AsyncWrite + Send + Unpin)),
    mut incoming: Incoming,
    arrived: UnboundedSender<Chunk>,
    expected_bytes: u64,
) -> Result<Incoming, Broken> {
    let mut resumed = false;
    loop {
        let packet = reader.expect().await?;
        if packet.kind == Kind::Reject {
            let reject: Reject = packet.head()?;
            return Err(Broken::ForGood(io::Error::other(reject.text)));
        }
        let sums: SnapshotSums = packet.expect(Kind::SnapshotSums)?;
        let before = incoming.proven_bytes();
        incoming = learn(core, incoming, sums, packet.tail).await?;
        let here_bytes = incoming.proven_bytes() - before;
        if here_bytes > 0 && !resumed {
            tracing::info!("a part of the snapshot is here already: go on with it");
        }
        core.count(|counters| {
            counters.snapshots.resumed += u64::from(here_bytes > 0 && !resumed);
            counters.snapshots.resumed_bytes += here_bytes;
        });
        resumed |= here_bytes > 0;
        let known_bytes = incoming.manifest.total_bytes();
        let total_bytes = match sums.is_all {
            true => known_bytes,
            false => expected_bytes.max(known_bytes),
        };
        incoming = receive_lacking(core, reader, writer, incoming, (&arrived, total_bytes)).await?;
        if sums.is_all {
            show_progress(core, total_bytes, total_bytes, true);
            return Ok(incoming);
        }
        let ready = SnapshotWant::default();
        write_packet(writer, Kind::SnapshotWant, &ready, &[]).await?;
    }
}

/// Learns of further chunks, some of which may be here already.
async fn learn(
    core: &Core,
    mut incoming: Incoming,
    head: SnapshotSums,
    sums: Bytes,
) -> io::Result<Incoming> {
    if sums.is_empty() && !head.is_all {
        return Err(garbage("sums of no chunk".into()));
    }
    let learning = move |interrupt: Interrupt| -> io::Result<Incoming> {
        incoming.learn(sums, &interrupt)?;
        if incoming.manifest.digest() != head.digest {
            return Err(garbage("the sums of a snapshot arrived damaged".into()));
        }
        if head.is_all {
            incoming.end()?;
        }
        Ok(incoming)
    };
    core.config.blocking.interruptible(learning).await?
}

/// Receives those of the known chunks that are not here.
async fn receive_lacking(
    core: &Arc<Core>,
    reader: &mut PacketReader,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    mut incoming: Incoming,
    (arrived, total_bytes): (&UnboundedSender<Chunk>, u64),
) -> io::Result<Incoming> {
    let mut vain_rounds = 0;
    loop {
        hand_on(&mut incoming, arrived);
        show_progress(core, incoming.proven_bytes(), total_bytes, false);
        let lacking = incoming.lacking(MAX_RANGES);
        if lacking.is_empty() {
            return Ok(incoming);
        }
        let ranges = lacking.iter().map(|range| ChunkRange {
            first: range.start as u64,
            count: range.len() as u64,
        });
        let want = SnapshotWant {
            ranges: ranges.collect(),
        };
        write_packet(writer, Kind::SnapshotWant, &want, &[]).await?;
        let before = incoming.proven_bytes();
        for number in lacking.into_iter().flatten() {
            incoming = receive_chunk(core, incoming, number, reader.expect().await?).await?;
            hand_on(&mut incoming, arrived);
            show_progress(core, incoming.proven_bytes(), total_bytes, false);
        }
        vain_rounds = match incoming.proven_bytes() == before {
            true => vain_rounds + 1,
            false => 0,
        };
        if vain_rounds == MAX_VAIN_ROUNDS {
            return Err(garbage("no chunk of a snapshot arrives undamaged".into()));
        }
    }
}

fn hand_on(incoming: &mut Incoming, arrived: &UnboundedSender<Chunk>) {
    while let Some(chunk) = incoming.next_in_order() {
        // Whoever makes the state has ended only with an error, which ends the transfer too.
        let _ = arrived.send(chunk);
    }
}

fn show_progress(core: &Core, received_bytes: u64, total_bytes: u64, installing: bool) {
    core.snapshots.set_progress(SnapshotProgress {
        received_bytes,
        total_bytes,
        installing,
    });
}

/// Puts a chunk into its place; one that arrived damaged stays lacking.
async fn receive_chunk(
    core: &Core,
    mut incoming: Incoming,
    number: usize,
    packet: Packet,
) -> io::Result<Incoming> {
    let head: ChunkHead = packet.expect(Kind::SnapshotChunk)?;
    if head.number != number as u64 {
        return Err(garbage(format!(
            "chunk {} of a snapshot where {number} belongs",
            head.number
        )));
    }
    let length = packet.tail.len() as u64;
    let write = move || match incoming.write(number, &packet.tail) {
        Ok(is_good) => Ok((incoming, is_good)),
        Err(error) => Err(incoming.give_up(error)),
    };
    let (incoming, is_good) = core.config.blocking.run(write).await??;
    core.count(|counters| {
        counters.snapshots.received_bytes += length;
        match is_good {
            true => counters.snapshots.received_chunks += 1,
            false => counters.snapshots.damaged_chunks += 1,
        }
    });
    if !is_good {
        tracing::warn!("chunk {number} of a snapshot arrived damaged: ask for it again");
    }
    Ok(incoming)
}

/// Gives chunks to the state machine as they arrive, in order, into a place beside the live state.
async fn stage(
    core: &Arc<Core>,
    file: ChunkFile,
    mut arrived: UnboundedReceiver<Chunk>,
) -> Result<Box<dyn SnapshotSink>, Broken> {
    let blocking = core.config.blocking;
    let mut half = Half {
        sink: None,
        blocking,
    };
    loop {
        let chunk = arrived.recv().await.map(|chunk| (chunk, chunk.room()));
        let is_end = chunk.is_none();
        let (sink, applier, file) = (half.sink.take(), core.applier.clone(), file.clone());
        let staging = blocking.run(move || {
            let spell = blocking.begin_spell();
            let staged = stage_chunk(&applier, sink, &file, chunk);
            let staged = staged.map_err(|error| file.give_up(error));
            spell.rest();
            staged
        });
        let sink = staging.await.flatten().map_err(Broken::ForGood)?;
        if is_end {
            return Ok(sink);
        }
        half.sink = Some(sink);
    }
}

/// Gives the state machine one chunk, or none when all have come; opens its place before the first. Blocks.
fn stage_chunk(
    applier: &Applier,
    sink: Option<Box<dyn SnapshotSink>>,
    file: &ChunkFile,
    chunk: Option<(Chunk, Vec<u8>)>,
) -> io::Result<Box<dyn SnapshotSink>> {
    let mut sink = match sink {
        Some(sink) => sink,
        None => applier.receive()?,
    };
    if let Some((chunk, room)) = chunk {
        let bytes = file.read(chunk, room)?.ok_or_else(|| {
            // The next try proves the file again, and asks for this one.
            let text = format!(
                "the chunk at {} of a snapshot changed on disk",
                chunk.offset
            );
            io::Error::other(text)
        })?;
        sink.write_chunk(bytes)?;
    }
    Ok(sink)
}

/// A state that is half made. Dropping it removes its file, which takes a while.
struct Half {
    sink: Option<Box<dyn SnapshotSink>>,
    blocking: Blocking,
}

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            self.blocking.dispose(sink);
        }
    }
}

fn timed_out(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}
