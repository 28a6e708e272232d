//! Snapshots on the wire: in pieces with checksums, the same whether a leader pushes or a listener fetches (B9).
//!
//! ```text
//! leader   -> follower: SnapshotHead{vote, position}, chunk.., SnapshotEnd{chunks}   <- SnapshotEnd{vote}
//! listener -> upstream: SnapshotHead{}                                               <- SnapshotHead{position}, chunk.., SnapshotEnd
//! ```
//!
//! Memory on either side is a few chunks, whatever the size: the source is a read transaction, the sink a file beside the live state.
//! A transfer that was cut starts again; resuming has its place in the chunk numbers.

use crate::message::{ChunkHead, Purpose, SnapshotEnd, SnapshotHead};
use crate::peer::client::{Greeted, Peers};
use crate::position::Applied;
use crate::raft::VoteBytes;
use crate::state_machine::{Position, SnapshotSink, SnapshotSource};
use crate::wire::{Kind, Packet, PacketReader, garbage, write_packet};
use bytes::Bytes;
use std::io;
use tokio::io::AsyncWrite;

/// Size of a piece. A state machine may exceed it by one record.
const CHUNK_BYTES: usize = 256 << 10;

/// How long a receiver may take no piece before it loses its turn.
const CHUNK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// Snapshots served at the same time; further listeners wait (B9, bounded concurrency).
pub(crate) const MAX_SERVED: usize = 2;

/// Pushes a snapshot to a voter and returns the vote it answers with.
pub(crate) async fn push(
    peers: &Peers,
    address: &str,
    vote: VoteBytes,
    source: Box<dyn SnapshotSource>,
) -> io::Result<VoteBytes> {
    let Greeted {
        mut reader,
        mut writer,
        ..
    } = peers
        .connect(address, Purpose::Snapshot)
        .await
        .map_err(io::Error::other)?;
    send(&mut writer, Some(vote), source).await?;
    let end: SnapshotEnd = reader.expect().await?.expect(Kind::SnapshotEnd)?;
    end.vote
        .ok_or_else(|| garbage("a snapshot's receipt without a vote".into()))
}

/// Asks the upstream at `address` for a snapshot; the returned sink is complete and waits to be finished.
pub(crate) async fn fetch(
    peers: &Peers,
    address: &str,
    open: impl FnOnce() -> io::Result<Box<dyn SnapshotSink>> + Send + 'static,
) -> io::Result<(Box<dyn SnapshotSink>, Applied)> {
    let Greeted {
        mut reader,
        mut writer,
        ..
    } = peers
        .connect(address, Purpose::Snapshot)
        .await
        .map_err(io::Error::other)?;
    write_packet(
        &mut writer,
        Kind::SnapshotHead,
        &SnapshotHead::default(),
        &[],
    )
    .await?;
    let first = reader.expect().await?;
    if first.kind == Kind::Reject {
        let reject: crate::message::Reject = first.head()?;
        return Err(io::Error::other(reject.text));
    }
    receive(&mut reader, first.expect(Kind::SnapshotHead)?, open).await
}

/// Sends a snapshot.
pub(crate) async fn send<W: AsyncWrite + Unpin + Send + ?Sized>(
    writer: &mut W,
    vote: Option<VoteBytes>,
    mut source: Box<dyn SnapshotSource>,
) -> io::Result<()> {
    let head = SnapshotHead {
        vote,
        position: source.position().0,
        size_hint_bytes: source.size_hint_bytes(),
    };
    write_packet(writer, Kind::SnapshotHead, &head, &[]).await?;
    for number in 0.. {
        let read = move || {
            let chunk = source.next_chunk(CHUNK_BYTES);
            (source, chunk)
        };
        let chunk;
        (source, chunk) = tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)?;
        let Some(chunk) = chunk? else {
            return write_packet(
                writer,
                Kind::SnapshotEnd,
                &SnapshotEnd {
                    chunks: number,
                    vote: None,
                },
                &[],
            )
            .await;
        };
        let head = ChunkHead {
            number,
            crc32c: crc32c::crc32c(&chunk),
        };
        let sent = tokio::time::timeout(
            CHUNK_TIMEOUT,
            write_packet(writer, Kind::SnapshotChunk, &head, &[chunk]),
        )
        .await;
        sent.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                "the receiver of a snapshot takes nothing",
            )
        })??;
    }
    unreachable!("the numbers of chunks do not end")
}

/// Receives what [`send`] sent after its head, into a fresh sink.
pub(crate) async fn receive(
    reader: &mut PacketReader,
    head: SnapshotHead,
    open: impl FnOnce() -> io::Result<Box<dyn SnapshotSink>> + Send + 'static,
) -> io::Result<(Box<dyn SnapshotSink>, Applied)> {
    let at = Applied::from_position(&Position(head.position))
        .map_err(|error| garbage(error.to_string()))?;
    let mut sink = tokio::task::spawn_blocking(open)
        .await
        .map_err(io::Error::other)??;
    for number in 0.. {
        let packet = reader.expect().await?;
        if packet.kind == Kind::SnapshotEnd {
            let end: SnapshotEnd = packet.head()?;
            return match end.chunks == number {
                true => Ok((sink, at)),
                false => Err(garbage(format!(
                    "snapshot of {} chunks ended after {number}",
                    end.chunks
                ))),
            };
        }
        let chunk = checked(&packet, number)?;
        let write = move || sink.write_chunk(chunk).map(|()| sink);
        sink = tokio::task::spawn_blocking(write)
            .await
            .map_err(io::Error::other)??;
    }
    unreachable!("the numbers of chunks do not end")
}

fn checked(packet: &Packet, number: u64) -> io::Result<Bytes> {
    let head: ChunkHead = packet.expect(Kind::SnapshotChunk)?;
    if head.number != number || head.crc32c != crc32c::crc32c(&packet.tail) {
        return Err(garbage(format!(
            "snapshot chunk {number} arrived damaged or out of order"
        )));
    }
    Ok(packet.tail.clone())
}
