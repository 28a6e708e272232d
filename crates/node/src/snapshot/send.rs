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

use super::manifest::{Manifest, to_sums};
use super::shelf;
use super::spool::Spool;
use super::{CHUNK_TIMEOUT, SILENCE_TIMEOUT};
use crate::bulk::Bulk;
use crate::core::Core;
use crate::message::{
    ChunkHead, ChunkRange, Reason, Reject, SnapshotAsk, SnapshotEnd, SnapshotOffer, SnapshotSums,
    SnapshotWant,
};
use crate::raft::VoteBytes;
use crate::wire::{Kind, PacketReader, garbage, write_packet};
use std::io;
use std::sync::Arc;
use tokio::io::AsyncWrite;

/// Sums of at most this many chunks travel in one packet: 64 KiB, for one gigabyte.
const SUMS_PER_PACKET: usize = 4096;

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
    let mut chunk_reader = ChunkReader {
        bulk: Bulk::new(core.config.blocking),
        room: Vec::new(),
    };
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
        match send_wanted(
            core,
            reader,
            writer,
            known,
            &mut chunk_reader,
            vote.is_some(),
        )
        .await?
        {
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
    chunk_reader: &mut ChunkReader,
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
                send_chunk(core, writer, (spool, number), chunk_reader, is_pushed).await?;
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

/// What one transfer reads its chunks with.
struct ChunkReader {
    bulk: Bulk,
    /// The same for all chunks: a new one for each, among all the small allocations of a node that works, was seen to leave holes of
    /// hundreds of MiB in the heap.
    room: Vec<u8>,
}

/// Sends one chunk.
async fn send_chunk(
    core: &Core,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    (spool, number): (&Arc<Spool>, usize),
    chunk_reader: &mut ChunkReader,
    is_pushed: bool,
) -> io::Result<()> {
    let chunk = spool.chunk(number);
    let (reading, mut room) = (spool.clone(), std::mem::take(&mut chunk_reader.room));
    room.resize(chunk.bytes as usize, 0);
    let reading = move || reading.read(chunk, room);
    let bytes = match chunk_reader.bulk.run(reading).await.flatten() {
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
    chunk_reader.room = bytes.into();
    core.count(|counters| match is_pushed {
        true => counters.snapshots.pushed_bytes += length,
        false => counters.snapshots.served_bytes += length,
    });
    Ok(())
}

fn timed_out(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}
