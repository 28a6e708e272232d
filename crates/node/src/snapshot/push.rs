//! Raft's InstallSnapshot: a leader pushes, a voter receives and installs (Raft paper, figure 13). The transfer is that of listeners.

use super::receive::{Received, receive};
use super::send::send;
use super::shelf;
use crate::core::Core;
use crate::message::{Purpose, SnapshotEnd, SnapshotOffer, SnapshotSums};
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
    let end = send(core, &mut reader, &mut writer, Some(vote), &spool).await?;
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
    if let Some(own) = consensus.vote_ahead_of(vote) {
        // It must not end what the leader of now is sending. What it says before it listens is read first, or it would not hear the answer.
        let sums = reader.expect().await?;
        sums.expect::<SnapshotSums>(Kind::SnapshotSums)?;
        let end = SnapshotEnd { vote: Some(own) };
        return write_packet(&mut writer, Kind::SnapshotEnd, &end, &[]).await;
    }
    let _shown = core.snapshots.show();
    let Received { incoming, sink } = receive(&core, &mut reader, &mut writer, offer).await?;
    core.count(|counters| counters.snapshots.received_pushed += 1);
    let at = incoming.manifest.at.clone();
    let vote = consensus.install(vote, sink, at.clone()).await?;
    if core.applier.state().last >= at.last {
        core.snapshots.keep_received(&core, incoming).await;
    }
    let end = SnapshotEnd { vote: Some(vote) };
    write_packet(&mut writer, Kind::SnapshotEnd, &end, &[]).await
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Manifest;
    use super::*;
    use crate::peer::client::{Me, Peers};
    use crate::{Config, Group, Node, SmallMachine, StartAs, TcpNetwork};
    use eaves_log::sim::SimDisk;
    use futures_util::FutureExt;
    use std::path::Path;
    use std::pin::pin;

    /// A voter that leads, alone.
    async fn leader() -> Node {
        let disk = Arc::new(SimDisk::new());
        let group = Group::new("test", &[("v1".into(), "v1:1".into())]);
        let machine = SmallMachine::<Vec<u8>>::open_on(disk.clone(), Path::new("/state")).unwrap();
        let start_as = StartAs::Voter { group };
        let mut config = Config::new("v1", "/data", "127.0.0.1:0", start_as);
        config.disk = disk;
        let node = Node::start(config, Arc::new(machine)).await.unwrap();
        node.write("command".into()).await.unwrap();
        node
    }

    #[tokio::test]
    async fn a_leader_of_an_older_term_takes_nothing_over() {
        let node = leader().await;
        let core = node.core();
        let mut taken_over = pin!(core.snapshots.inbox.take_over());
        let me = Me {
            cluster_id: core.cluster_id,
            node_id: 77,
        };
        let peers = Peers::new(Arc::new(TcpNetwork), me);
        let Greeted {
            mut reader,
            mut writer,
            ..
        } = peers
            .connect(&core.address, Purpose::Snapshot)
            .await
            .unwrap();
        let manifest = Manifest::new(Applied::default());
        let offer = SnapshotOffer {
            vote: Some(VoteBytes {
                term: 0,
                voted_for: me.node_id,
                committed: true,
            }),
            position: manifest.at.to_position().0,
            expected_bytes: 0,
        };
        write_packet(&mut writer, Kind::SnapshotOffer, &offer, &[])
            .await
            .unwrap();
        let sums = SnapshotSums {
            digest: manifest.digest(),
            is_all: true,
        };
        write_packet(&mut writer, Kind::SnapshotSums, &sums, &[])
            .await
            .unwrap();
        let answer = reader.expect().await.unwrap();
        let end: SnapshotEnd = answer.expect(Kind::SnapshotEnd).unwrap();
        assert!(end.vote.unwrap().term > 0, "it hears of the newer term");
        assert!(taken_over.as_mut().now_or_never().is_none());
        node.shutdown().await;
    }
}
