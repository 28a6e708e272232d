//! openraft's log storage over `eaves-log`: nothing here blocks the Raft core but a read of entries that left the cache.

use super::types::{
    Entry, RaftLogId, RaftVote, Types, VoteBytes, from_raft_log_id, to_raft_log_id,
};
use crate::applier::Applier;
use crate::committed::Committed;
use crate::flusher::Flusher;
use bytes::Bytes;
use eaves_log::{Base, Frame};
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use prost::Message;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex};

/// Bytes of entries in one AppendEntries request; one larger entry is sent alone.
const MAX_APPEND_BYTES: usize = 1 << 20;

/// Bytes of entries read at once to be applied, and applied in one batch.
pub(super) const MAX_APPLY_BYTES: usize = 1 << 20;

/// The log as openraft sees it; clones are readers of the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    flusher: Arc<Flusher>,
    applier: Arc<Applier>,
    /// Where the tree learns what is committed, the moment Raft does.
    committed: Committed,
    durable_vote: DurableVote,
}

/// The vote that is on this node's disk, as it changes.
#[derive(Clone, Default)]
pub(super) struct DurableVote(Arc<Mutex<Option<VoteBytes>>>);

impl DurableVote {
    pub fn is(&self, vote: &VoteBytes) -> bool {
        self.0.lock().unwrap().as_ref() == Some(vote)
    }

    /// What an earlier run has left: a voter that starts anew still follows whom it followed.
    fn found(&self, vote: VoteBytes) {
        self.0.lock().unwrap().get_or_insert(vote);
    }

    fn set(&self, vote: VoteBytes) {
        *self.0.lock().unwrap() = Some(vote);
    }
}

impl LogStore {
    pub fn new(flusher: Arc<Flusher>, applier: Arc<Applier>, committed: Committed) -> LogStore {
        LogStore {
            flusher,
            applier,
            committed,
            durable_vote: DurableVote::default(),
        }
    }

    /// The vote on disk, once Raft has read or saved one.
    pub fn durable_vote(&self) -> DurableVote {
        self.durable_vote.clone()
    }

    /// The store as the next start finds it.
    #[cfg(test)]
    pub fn anew(&self) -> LogStore {
        let (flusher, applier) = (self.flusher.clone(), self.applier.clone());
        LogStore::new(flusher, applier, self.committed.clone())
    }

    fn read(&self, from: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        // Raft's purge is logical: what it purged may still be here for listeners, and must not show.
        let log = self.flusher.log();
        let from = from
            .max(log.purged().map_or(0, |id| id.index + 1))
            .max(log.first_index());
        let end = end.min(log.last_id().map_or(0, |id| id.index + 1));
        let mut entries = Vec::new();
        let mut budget = max_bytes;
        while from + (entries.len() as u64) < end && (budget > 0 || entries.is_empty()) {
            let frames = log
                .read(from + entries.len() as u64, end - 1, budget)
                .map_err(io::Error::other)?;
            if frames.is_empty() {
                break;
            }
            for frame in frames {
                budget = budget.saturating_sub(frame.as_bytes().len());
                entries.push(Entry::from_frame(frame).map_err(io::Error::other)?);
            }
        }
        Ok(entries)
    }
}

/// First index, and the one after the last.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (from, end)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, end) = bounds(&range);
        self.read(from, end, usize::MAX)
    }

    /// Entries to apply, read a piece at a time: after a restart, or behind a slow disk, they are a whole log.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, end) = bounds(&range);
        let log = self.clone();
        futures_util::stream::try_unfold(from, move |from| {
            let piece = log.read(from, end, MAX_APPLY_BYTES);
            std::future::ready(piece.map(|entries| {
                let next = entries.last()?.frame().id().index + 1;
                let entries = entries.into_iter().map(Ok);
                Some((futures_util::stream::iter(entries), next))
            }))
        })
        .try_flatten()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, MAX_APPEND_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        let Some(bytes) = self.flusher.log().hard_state() else {
            return Ok(None);
        };
        let vote = VoteBytes::decode(bytes)
            .map_err(|error| io::Error::other(format!("read vote: {error}")))?;
        self.durable_vote.found(vote);
        Ok(Some(vote.into()))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let log = self.flusher.log();
        let purged = log.purged();
        Ok(LogState {
            last_purged_log_id: purged.map(to_raft_log_id),
            last_log_id: log.last_id().max(purged).map(to_raft_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        let vote = VoteBytes::from(vote);
        let bytes = Bytes::from(vote.encode_to_vec());
        let ticket = self
            .flusher
            .log()
            .save_hard_state(bytes)
            .map_err(io::Error::other)?;
        self.flusher.durable(ticket).await?;
        self.durable_vote.set(vote);
        Ok(())
    }

    /// The earliest moment a follower knows an entry committed; what it wakes must not be behind a lock or a disk.
    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        self.committed
            .raise(committed.as_ref().map(from_raft_log_id));
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let frames: Vec<Frame> = entries.into_iter().map(Entry::into_frame).collect();
        let ticket = self
            .flusher
            .log()
            .append(&frames)
            .map_err(io::Error::other)?;
        self.flusher
            .when_durable(ticket, move |result| callback.io_completed(result));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        let keep = last.as_ref().map(|id| id.index);
        self.flusher
            .log()
            .truncate_after(keep)
            .map_err(io::Error::other)?;
        self.flusher.kick();
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        let upto = from_raft_log_id(&upto);
        let log = self.flusher.log();
        if log.last_id() < Some(upto) {
            // A snapshot went past the end of the log: what is left of it is of no use.
            let applied = self.applier.state();
            if applied.last != Some(upto) {
                let text = format!(
                    "cannot purge up to {upto}: the log ends before it and the state stands at {:?}",
                    applied.last
                );
                return Err(io::Error::other(text));
            }
            let base = Base {
                last: applied.last,
                chain: applied.chain,
            };
            let ticket = log.reset(base).map_err(io::Error::other)?;
            self.flusher.durable(ticket).await?;
            self.applier.log_follows()?;
            self.committed.raise(Some(upto));
            return Ok(());
        }
        self.applier.log_follows()?;
        log.purge(upto).map_err(io::Error::other)?;
        // Raft does not say so when it installs a snapshot. Only now: before, an uncommitted tail might still stand in the log.
        self.committed.raise(Some(upto));
        self.flusher.kick();
        Ok(())
    }
}
