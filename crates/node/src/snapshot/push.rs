//! Raft's InstallSnapshot: a leader pushes, a voter receives and installs (Raft paper, figure 13). The transfer is that of listeners.

use super::{shelf, transfer};
use crate::core::Core;
use crate::message::{Purpose, SnapshotEnd, SnapshotOffer};
use crate::peer::client::Greeted;
use crate::position::Applied;
use crate::raft::{Consensus, VoteBytes};
use crate::state_machine::{Position, SnapshotSource};
use crate::wire::{Kind, PacketReader, garbage, write_packet};
use std::io;
use std::sync::Arc;
use tokio::io::AsyncWrite;

/// Pushes a snapshot to the voter `to`, by id and address, and returns the vote it answers with.
pub(crate) async fn push(
    core: &Arc<Core>,
    to: (u64, &str),
    vote: VoteBytes,
    source: Box<dyn SnapshotSource>,
) -> io::Result<VoteBytes> {
    let at = Applied::from_position(&Position(source.position().0)).map_err(io::Error::other)?;
    let spool = shelf::exactly(core, at, source).await?;
    let Greeted {
        mut reader,
        mut writer,
        ..
    } = core
        .peers
        .connect_node(to, Purpose::Snapshot)
        .await
        .map_err(io::Error::other)?;
    core.count(|counters| counters.snapshots.pushed += 1);
    let end = transfer::send(core, &mut reader, &mut writer, Some(vote), &spool).await?;
    end.vote
        .ok_or_else(|| garbage("a snapshot's receipt without a vote".into()))
}

/// Receives what a leader pushes, installs it and answers.
pub(crate) async fn serve_push(
    core: Arc<Core>,
    consensus: Arc<Consensus>,
    mut reader: PacketReader,
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
    offer: SnapshotOffer,
) -> io::Result<()> {
    let vote = offer
        .vote
        .ok_or_else(|| garbage("a leader's snapshot without its vote".into()))?;
    let _shown = core.snapshots.show();
    let incoming = transfer::receive(&core, &mut reader, &mut writer, offer).await?;
    core.count(|counters| counters.snapshots.received_pushed += 1);
    let (sink, incoming) = transfer::stage(&core, incoming).await?;
    let at = incoming.manifest.at.clone();
    let vote = consensus.install(vote, sink, at.clone()).await?;
    if core.applier.state().last >= at.last {
        core.snapshots.keep_received(&core, incoming).await;
    }
    let end = SnapshotEnd { vote: Some(vote) };
    write_packet(&mut writer, Kind::SnapshotEnd, &end, &[]).await
}
