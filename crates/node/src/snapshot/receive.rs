//! The receiving end of a snapshot; what goes over the wire is in [`super::send`].
//!
//! The state is made from the chunks while others arrive. A transfer that is cut keeps the chunks, not that state: it is begun anew from
//! the file.

use super::incoming::{Incoming, is_full};
use super::manifest::Chunk;
use super::stage::stage;
use crate::blocking::Interrupt;
use crate::bulk::Bulk;
use crate::core::Core;
use crate::message::{
    ChunkHead, ChunkRange, Purpose, Reject, SnapshotAsk, SnapshotEnd, SnapshotOffer, SnapshotSums,
    SnapshotWant,
};
use crate::peer::client::Greeted;
use crate::position::Applied;
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
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Ranges asked for at once. More are asked for when these have come.
const MAX_RANGES: usize = 1024;

/// Tries after which no more of the snapshot is here than ever before, until a listener gives its upstream up.
const MAX_VAIN_TRIES: u32 = 4;

/// Rounds over the same chunks without a single one that arrived undamaged before a connection is given up.
const MAX_VAIN_ROUNDS: u32 = 4;

/// Pause after a first vain try; it grows with each.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

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
    let mut bulk = Bulk::new(core.config.blocking);
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
        incoming = receive_lacking(
            core,
            &mut bulk,
            reader,
            writer,
            incoming,
            (&arrived, total_bytes),
        )
        .await?;
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
    bulk: &mut Bulk,
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
            incoming = receive_chunk(core, bulk, incoming, number, reader.expect().await?).await?;
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
    bulk: &mut Bulk,
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
    let (incoming, is_good) = bulk.run(write).await??;
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
