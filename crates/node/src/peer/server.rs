//! The accepting side: the handshake, then whatever the connection is for.
//!
//! A peer of another cluster, another protocol version, or no peer at all gets a reason (B12) and nothing else; what it sends is never
//! trusted, only rejected.

use super::client::{Outbox, outbox, write_all};
use crate::appender;
use crate::core::{Core, REQUEST_TIMEOUT};
use crate::describe;
use crate::message::{
    BusyReply, Call, Empty, Hello, IndexReply, PROTOCOL_VERSION, Purpose, Reason, Reject, Reply,
    Request, Response, Welcome,
};
use crate::net::{Connection, Listener};
use crate::orders;
use crate::recover::Origin;
use crate::roles;
use crate::snapshot;
use crate::tree_handle::Asked;
use crate::wire::{Kind, MAX_PACKET_BYTES, PacketReader, garbage, put_packet, write_packet};
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long a new connection may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections from listeners at the same time; one more is told that the node is busy (B19). Voters always get in.
const MAX_CONNECTIONS: usize = 4096;

/// Connections that have not said yet who they are; more are closed at once.
const MAX_STRANGERS: usize = 1024;

/// How often it is told that one peer is refused, and of how many peers.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);
const MAX_REFUSALS: usize = 256;

/// Requests of one connection being worked on; one more is answered "busy".
const MAX_REQUESTS: usize = 16 << 10;

/// Accepts peers until the node stops.
pub(crate) async fn run(core: Arc<Core>, mut listener: Box<dyn Listener>) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let refusals = Arc::new(Refusals::default());
    let mut stopping = core.stopping.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, most likely: others may close some.
                tracing::warn!("accept a peer: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(stranger) = strangers.clone().try_acquire_owned() else {
            tracing::debug!(
                "turn away {}: {MAX_STRANGERS} others have not said who they are",
                connection.peer
            );
            continue;
        };
        let (core, room, refusals) = (core.clone(), room.clone(), refusals.clone());
        tokio::spawn(async move {
            let peer = connection.peer.clone();
            let mut stopping = core.stopping.subscribe();
            tokio::select! {
                ended = serve(core, connection, stranger, room, &refusals) => if let Err(error) = ended {
                    let garbage = error.kind() == io::ErrorKind::InvalidData;
                    match garbage {
                        true => tracing::warn!("drop connection from {peer}: {error}"),
                        false => tracing::debug!("connection from {peer} ended: {error}"),
                    }
                },
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        });
    }
}

async fn serve(
    core: Arc<Core>,
    connection: Connection,
    stranger: OwnedSemaphorePermit,
    room: Arc<Semaphore>,
    refusals: &Refusals,
) -> io::Result<()> {
    let mut reader = PacketReader::new(connection.reader);
    let mut writer = connection.writer;
    let first = tokio::time::timeout(HELLO_TIMEOUT, reader.expect()).await;
    let hello: Hello = first
        .map_err(|_| garbage("said nothing".into()))??
        .expect(Kind::Hello)?;
    drop(stranger);
    let room = room.try_acquire_owned();
    if room.is_err() && !core.membership().is_voter(hello.from) {
        let reject = Reject::new(
            Reason::Busy,
            "busy: too many nodes are connected, try again later or elsewhere",
        );
        return write_packet(&mut writer, Kind::Reject, &reject, &[]).await;
    }
    if let Some(reject) = refuse(&core, &hello) {
        if refusals.are_news(hello.from) {
            tracing::warn!(
                "refuse peer {:x} at {}: {}",
                hello.from,
                connection.peer,
                reject.text
            );
        }
        return write_packet(&mut writer, Kind::Reject, &reject, &[]).await;
    }
    let welcome = Welcome {
        cluster_id: core.cluster_id,
        node_id: core.node_id,
    };
    write_packet(&mut writer, Kind::Welcome, &welcome, &[]).await?;
    if hello.cluster_id == 0 {
        // It wanted to know which cluster this is, and comes again as a member of it.
        return Ok(());
    }
    core.hear(hello.from);
    reader.greeted();
    let counted = core.clone();
    let _open = counted.connections.open(hello.purpose());
    match hello.purpose() {
        Purpose::Control | Purpose::Forward => {
            answer_requests(core, hello.from, reader, writer).await
        }
        Purpose::Append => match core.consensus() {
            Some(consensus) => {
                let heard = core.clone();
                consensus
                    .serve_append(reader, writer, move || heard.hear(hello.from))
                    .await
            }
            None => write_packet(&mut writer, Kind::Reject, &not_voter(), &[]).await,
        },
        Purpose::Feed => appender::serve(core, reader, writer).await,
        Purpose::Snapshot => serve_snapshot(core, hello.from, reader, writer).await,
        Purpose::Unknown => Err(garbage("a connection without a purpose".into())),
    }
}

/// Who was refused, and when that was last told: one that keeps coming must not fill the log.
#[derive(Default)]
struct Refusals(Mutex<HashMap<u64, Instant>>);

impl Refusals {
    /// Whether to tell that `peer` is refused.
    fn are_news(&self, peer: u64) -> bool {
        let mut told = self.0.lock().unwrap();
        let now = Instant::now();
        if told.len() >= MAX_REFUSALS {
            told.retain(|_, at| now - *at < REFUSAL_INTERVAL);
        }
        let is_known = told
            .get(&peer)
            .is_some_and(|at| now - *at < REFUSAL_INTERVAL);
        let is_news = !is_known && told.len() < MAX_REFUSALS;
        if is_news {
            told.insert(peer, now);
        }
        is_news
    }
}

fn refuse(core: &Core, hello: &Hello) -> Option<Reject> {
    if hello.version != PROTOCOL_VERSION {
        let text = format!(
            "this node speaks peer protocol version {PROTOCOL_VERSION}, the caller {}: upgrade the older one",
            hello.version
        );
        return Some(Reject::new(Reason::Mismatch, text));
    }
    if hello.cluster_id != 0 && hello.cluster_id != core.cluster_id {
        let text = other_cluster(core.cluster_id, core.origin.as_ref(), hello.cluster_id);
        return Some(Reject::new(Reason::Mismatch, text));
    }
    None
}

/// What a caller of another cluster is told: the likeliest cause, and what to do.
fn other_cluster(own: u64, origin: Option<&Origin>, caller: u64) -> String {
    match origin {
        Some(origin) if origin.cluster_id == caller => format!(
            "this node belongs to cluster {own:016x}, which `eaves recover` made of the caller's, {caller:016x}, as it stood at entry {}: the old \
             group does not go on; to have the caller join the new one, start it as a listener on an empty data directory, and keep the old \
             directory until nothing in it is missed",
            origin.last
        ),
        _ => format!(
            "this node belongs to cluster {own:016x}, the caller to {caller:016x}: one of them is configured with the other's address, or \
             its group was lost and `eaves recover` made another of it, which nodes of the old one join on an empty data directory only"
        ),
    }
}

fn not_voter() -> Reject {
    Reject::new(
        Reason::Invalid,
        "this node is a listener, it takes no part in Raft",
    )
}

/// Answers questions, many at once, in whatever order their answers are ready.
async fn answer_requests(
    core: Arc<Core>,
    from: u64,
    mut reader: PacketReader,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
) -> io::Result<()> {
    let (outbox, inbox) = outbox();
    let room = Arc::new(Semaphore::new(MAX_REQUESTS));
    let reading = async {
        loop {
            // A peer that does not take its answers asks nothing more.
            outbox.room().await;
            let Some(packet) = reader.next().await? else {
                return Ok(());
            };
            core.hear(from);
            let request: Request = packet.expect(Kind::Request)?;
            let call = request
                .call
                .ok_or_else(|| garbage("a request that asks nothing this version knows".into()))?;
            let (core, outbox) = (core.clone(), outbox.clone());
            let Ok(permit) = room.clone().try_acquire_owned() else {
                send(
                    &outbox,
                    request.id,
                    Reply::Reject(Reject::new(Reason::Busy, "too many requests")),
                    &[],
                );
                continue;
            };
            tokio::spawn(async move {
                let (reply, tail) = answer(&core, from, call, packet.tail).await;
                send(&outbox, request.id, reply, &tail);
                drop(permit);
            });
        }
    };
    tokio::select! {
        read = reading => read,
        error = write_all(writer, inbox) => Err(error),
    }
}

fn send(outbox: &Outbox, id: u64, reply: Reply, tail: &[u8]) {
    let response = Response {
        id,
        reply: Some(reply),
    };
    if response.encoded_len() + tail.len() > MAX_PACKET_BYTES {
        let text =
            "done, but the answer is too large to be passed on: ask the leader itself, or for less";
        return send(
            outbox,
            id,
            Reply::Reject(Reject::new(Reason::OutcomeUnknown, text)),
            &[],
        );
    }
    let mut packet = BytesMut::new();
    put_packet(&mut packet, Kind::Response, &response, tail);
    // A closed outbox is a closed connection: the asker knows already.
    outbox.send(packet);
}

async fn answer(core: &Arc<Core>, from: u64, call: Call, tail: Bytes) -> (Reply, Bytes) {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let reply = match call {
        Call::Write(call) => match core.write(tail, call.leader_only, deadline).await {
            Ok((end, answer)) => return (Reply::Written(IndexReply { end }), answer),
            Err(error) => Reply::Reject(error.into()),
        },
        Call::ReadIndex(call) => {
            core.count(|counters| counters.read_index_received += 1);
            match core.reads.ask(core, call.leader_only, deadline).await {
                Ok(index) => Reply::ReadIndex(IndexReply { end: index.end }),
                Err(error) => Reply::Reject(error.into()),
            }
        }
        Call::Ask(call) => match core.tree.ask(from, call.zone.as_deref()).await {
            Some(Asked::Answer(answer)) => Reply::Answer((&answer).into()),
            Some(Asked::Busy(retry_after)) => Reply::Busy(BusyReply {
                retry_after_ms: retry_after.as_millis() as u32,
            }),
            None => Reply::Reject(Reject::new(Reason::Stopped, "the node is stopping")),
        },
        Call::Describe(call) => Reply::Rows(describe::answer(core, call).await),
        Call::Order(call) => orders::answer(core, call).await,
        Call::Roles(call) => roles::answer(core, call).await,
        raft => raft_answer(core, from, raft, tail)
            .await
            .unwrap_or_else(|error| Reply::Reject(Reject::new(Reason::Stopped, error.to_string()))),
    };
    (reply, Bytes::new())
}

async fn raft_answer(core: &Arc<Core>, from: u64, call: Call, tail: Bytes) -> io::Result<Reply> {
    let Some(consensus) = core.consensus() else {
        return Ok(Reply::Reject(not_voter()));
    };
    Ok(match call {
        Call::Vote(call) => Reply::Vote(consensus.handle_vote(call).await?),
        Call::PreVote(call) => Reply::Vote(consensus.handle_pre_vote(call).await?),
        Call::TransferLeader(call) => {
            consensus.handle_transfer(call).await?;
            Reply::Done(Empty {})
        }
        Call::Append(head) => Reply::Appended(consensus.handle_append(head, tail).await?),
        Call::Confirm(call) => match consensus.follows(&call.vote) {
            true => Reply::Done(Empty {}),
            false => Reply::Reject(Reject::new(
                Reason::NoLeader,
                "this voter does not follow that leader",
            )),
        },
        Call::Publish(member) => match consensus
            .publish(crate::member::Member {
                id: from,
                ..member.into()
            })
            .await
        {
            Ok(()) => Reply::Done(Empty {}),
            Err(error) => Reply::Reject(Reject::new(Reason::NoLeader, error.to_string())),
        },
        other => Reply::Reject(Reject::new(
            Reason::Invalid,
            format!("{other:?} does not belong to Raft"),
        )),
    })
}

/// A listener fetches, or a leader pushes.
async fn serve_snapshot(
    core: Arc<Core>,
    from: u64,
    mut reader: PacketReader,
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
) -> io::Result<()> {
    let first = reader.expect().await?;
    if first.kind == Kind::SnapshotAsk {
        let served = snapshot::serve(core.clone(), from, reader, writer, first.head()?);
        return core.feed_cpu.run(|| true, served).await;
    }
    let offer = first.expect(Kind::SnapshotOffer)?;
    match core.consensus() {
        Some(consensus) => snapshot::serve_push(core, consensus, reader, writer, offer).await,
        None => write_packet(&mut writer, Kind::Reject, &not_voter(), &[]).await,
    }
}
