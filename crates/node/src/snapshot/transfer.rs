//! A snapshot on the wire. The picture is in [`super`]; these are its packets, on a connection of their own:
//!
//! ```text
//! receiver                                sender
//!    | Ask{last}                             |   listeners only; a leader begins with its offer
//!    |-------------------------------------->|   makes a snapshot, or takes the kept one
//!    |   Offer{vote, position, chunks, digest}, Sums..
//!    |<--------------------------------------|
//!    | Want{ranges}                          |   what its file lacks; again for what arrived damaged
//!    |-------------------------------------->|   waits for its turn, and for the rate
//!    |                       Chunk, Chunk .. |
//!    |<--------------------------------------|
//!    | End{vote}                             |   has all; to a leader: has installed it
//!    |-------------------------------------->|
//! ```

use super::incoming::Incoming;
use super::manifest::Manifest;
use super::shelf;
use super::spool::Spool;
use super::{CHUNK_TIMEOUT, MAX_CHUNKS, SILENCE_TIMEOUT};
use crate::core::Core;
use crate::message::{
    ChunkHead, ChunkRange, Empty, Purpose, Reason, Reject, SnapshotAsk, SnapshotEnd, SnapshotOffer,
    SnapshotWant,
};
use crate::peer::client::Greeted;
use crate::position::Applied;
use crate::raft::VoteBytes;
use crate::state_machine::{Position, SnapshotSink};
use crate::status::SnapshotProgress;
use crate::wire::{Kind, Packet, PacketReader, garbage, write_packet};
use eaves_log::LogId;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWrite;

/// Sums of this many chunks travel in one packet: 64 KiB, for one gigabyte.
const SUMS_PER_PACKET: usize = 4096;

/// Ranges asked for at once. More are asked for when these have come.
const MAX_RANGES: usize = 1024;

/// Tries without a single chunk in return before a listener gives its upstream up.
const MAX_VAIN_TRIES: u32 = 4;

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
        "send listener {from:x} a snapshot at {:?}, {} bytes",
        spool.manifest.at.last,
        spool.manifest.total_bytes()
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

/// Sends a snapshot to whoever is at the other end, until it says that it is done. `vote` is a leader's.
pub(super) async fn send(
    core: &Arc<Core>,
    reader: &mut PacketReader,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    vote: Option<VoteBytes>,
    spool: &Arc<Spool>,
) -> io::Result<SnapshotEnd> {
    let manifest = &spool.manifest;
    let offer = SnapshotOffer {
        vote,
        position: manifest.at.to_position().0,
        chunks: manifest.chunks().len() as u64,
        digest: manifest.digest(),
    };
    write_packet(writer, Kind::SnapshotOffer, &offer, &[]).await?;
    for piece in manifest.to_pieces(SUMS_PER_PACKET) {
        write_packet(writer, Kind::SnapshotSums, &Empty {}, &[piece]).await?;
    }
    loop {
        let packet = tokio::time::timeout(SILENCE_TIMEOUT, reader.expect())
            .await
            .map_err(|_| timed_out("the receiver of a snapshot says nothing"))??;
        if packet.kind == Kind::SnapshotEnd {
            return packet.head();
        }
        let want: SnapshotWant = packet.expect(Kind::SnapshotWant)?;
        // Held only while it sends: who says nothing keeps nobody waiting.
        let _turn = core
            .snapshots
            .turns
            .acquire()
            .await
            .map_err(io::Error::other)?;
        for range in &want.ranges {
            for number in numbers(range, manifest)? {
                if vote.is_none() && leads(core) {
                    return Err(io::Error::other(
                        "this voter leads now, it feeds no listeners (S10)",
                    ));
                }
                send_chunk(core, writer, spool, number, vote.is_some()).await?;
            }
        }
    }
}

pub(crate) fn numbers(
    range: &ChunkRange,
    manifest: &Manifest,
) -> io::Result<std::ops::Range<usize>> {
    let end = range
        .first
        .checked_add(range.count)
        .filter(|end| *end <= manifest.chunks().len() as u64);
    let end = end.ok_or_else(|| garbage("a wish for chunks that do not exist".into()))?;
    Ok(range.first as usize..end as usize)
}

async fn send_chunk(
    core: &Core,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    spool: &Arc<Spool>,
    number: usize,
    is_pushed: bool,
) -> io::Result<()> {
    let (reading, room) = (spool.clone(), spool.room(number));
    let reading = move || reading.read(number, room);
    let bytes = match core.config.blocking.run(reading).await.flatten() {
        Ok(bytes) => bytes,
        Err(error) => {
            // The next to ask gets a new one.
            core.snapshots.forget(spool).await;
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
    core.count(|counters| match is_pushed {
        true => counters.snapshots.pushed_bytes += length,
        false => counters.snapshots.served_bytes += length,
    });
    Ok(())
}

/// Takes a snapshot from the upstream at `address` to the last chunk, trying again while that brings chunks. `last` is the end of the
/// log here, the reason why one is needed: `None` on a new listener.
pub(crate) async fn fetch(
    core: &Arc<Core>,
    address: &str,
    last: Option<LogId>,
) -> io::Result<Incoming> {
    let mut vain_tries = 0;
    loop {
        let before = core.counters.lock().unwrap().snapshots.received_chunks;
        let error = match fetch_once(core, address, last).await {
            Ok(incoming) => {
                core.count(|counters| match last {
                    None => counters.snapshots.received_new += 1,
                    Some(_) => counters.snapshots.received_behind += 1,
                });
                return Ok(incoming);
            }
            Err(error) => error,
        };
        let brought = core.counters.lock().unwrap().snapshots.received_chunks > before;
        vain_tries = if brought { 0 } else { vain_tries + 1 };
        if vain_tries == MAX_VAIN_TRIES {
            return Err(error);
        }
        tracing::info!("the snapshot from {address} was cut, go on with it: {error}");
        tokio::time::sleep(RETRY_PAUSE * (vain_tries + 1)).await;
    }
}

async fn fetch_once(core: &Arc<Core>, address: &str, last: Option<LogId>) -> io::Result<Incoming> {
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
    let offer = first.expect(Kind::SnapshotOffer)?;
    let incoming = receive(core, &mut reader, &mut writer, offer).await?;
    write_packet(&mut writer, Kind::SnapshotEnd, &SnapshotEnd::default(), &[]).await?;
    Ok(incoming)
}

/// Receives what was offered to the last chunk.
pub(super) async fn receive(
    core: &Arc<Core>,
    reader: &mut PacketReader,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    offer: SnapshotOffer,
) -> io::Result<Incoming> {
    let manifest = receive_manifest(reader, offer).await?;
    let others = core.snapshots.inbox.take_over();
    tokio::select! {
        received = receive_all(core, reader, writer, manifest) => received,
        () = others => Err(io::Error::other("another node sends a snapshot now")),
    }
}

async fn receive_all(
    core: &Arc<Core>,
    reader: &mut PacketReader,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    manifest: Manifest,
) -> io::Result<Incoming> {
    let total_bytes = manifest.total_bytes();
    let mut incoming = core.snapshots.inbox.open(manifest).await?;
    let here_bytes = incoming.proven_bytes();
    if here_bytes > 0 {
        tracing::info!("{here_bytes} of the snapshot's {total_bytes} bytes are here already");
        core.count(|counters| {
            counters.snapshots.resumed += 1;
            counters.snapshots.resumed_bytes += here_bytes;
        });
    }
    loop {
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
            core.snapshots.set_progress(SnapshotProgress {
                received_bytes: incoming.proven_bytes(),
                total_bytes,
                installing: false,
            });
            incoming = receive_chunk(core, incoming, number, reader.expect().await?).await?;
        }
        if incoming.proven_bytes() == before {
            return Err(garbage("no chunk of a snapshot arrived undamaged".into()));
        }
    }
}

pub(super) async fn receive_manifest(
    reader: &mut PacketReader,
    offer: SnapshotOffer,
) -> io::Result<Manifest> {
    let at = Applied::from_position(&Position(offer.position))
        .map_err(|error| garbage(error.to_string()))?;
    if offer.chunks > MAX_CHUNKS {
        return Err(garbage(format!("a snapshot of {} chunks", offer.chunks)));
    }
    let mut manifest = Manifest::new(at);
    while (manifest.chunks().len() as u64) < offer.chunks {
        let packet = reader.expect().await?;
        packet.expect::<Empty>(Kind::SnapshotSums)?;
        manifest.add_piece(packet.tail)?;
    }
    match manifest.digest() == offer.digest {
        true => Ok(manifest),
        false => Err(garbage("the sums of a snapshot arrived damaged".into())),
    }
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

/// Gives a complete snapshot to the state machine, chunk by chunk, into a place beside the live state.
pub(crate) async fn stage(
    core: &Arc<Core>,
    incoming: Incoming,
) -> io::Result<(Box<dyn SnapshotSink>, Incoming)> {
    let total_bytes = incoming.manifest.total_bytes();
    core.snapshots.set_progress(SnapshotProgress {
        received_bytes: total_bytes,
        total_bytes,
        installing: true,
    });
    let applier = core.applier.clone();
    let blocking = core.config.blocking;
    let staging = blocking.interruptible(move |interrupt| {
        let mut sink = applier.receive()?;
        for number in 0..incoming.manifest.chunks().len() {
            interrupt.check()?;
            let spell = blocking.begin_spell();
            let bytes = incoming.read(number)?.ok_or_else(|| {
                // The next try proves the file again, and asks for this one.
                io::Error::other(format!("chunk {number} of a snapshot changed on disk"))
            })?;
            if let Err(error) = sink.write_chunk(bytes) {
                return Err(incoming.give_up(error));
            }
            spell.rest();
        }
        Ok((sink, incoming))
    });
    staging.await?
}

fn timed_out(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}
