//! A node's log, as little of it as the tree can see: entries with chain values, a durable position, a purged beginning.

use crate::rng::mix;
use eaves_tree::{LogEnd, LogPosition};
use std::collections::VecDeque;
use std::rc::Rc;

/// A set of hosts that vote, by their numbers. Only the first 64 hosts can ever be voters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VoterSet(u64);

impl VoterSet {
    /// The first so many hosts.
    pub fn first(count: u32) -> VoterSet {
        (0..count).collect()
    }

    /// Whether a host is in it.
    pub fn contains(self, host: u32) -> bool {
        host < 64 && self.0 & (1 << host) != 0
    }

    /// The set with one more host.
    pub fn with(self, host: u32) -> VoterSet {
        assert!(host < 64, "host {host} cannot be a voter");
        VoterSet(self.0 | 1 << host)
    }

    /// The set without a host.
    pub fn without(self, host: u32) -> VoterSet {
        VoterSet(self.0 & !(1 << host))
    }

    /// All in either.
    pub fn union(self, other: VoterSet) -> VoterSet {
        VoterSet(self.0 | other.0)
    }

    /// How many.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is nobody in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many make a majority.
    pub fn quorum(self) -> u32 {
        self.len() / 2 + 1
    }

    /// The hosts, in order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |&host| self.contains(host))
    }
}

impl FromIterator<u32> for VoterSet {
    fn from_iter<T: IntoIterator<Item = u32>>(hosts: T) -> VoterSet {
        hosts.into_iter().fold(VoterSet::default(), VoterSet::with)
    }
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A client's write; nobody looks into it.
    Write(u64),
    /// Who votes from here on.
    Voters(VoterSet),
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// What it says.
    pub payload: Payload,
    /// The value over the whole log up to and with this entry (`B12`).
    pub chain: u64,
}

impl Entry {
    /// The entry that follows a log with this chain value.
    pub fn after(chain: u64, term: u64, payload: Payload) -> Entry {
        let content = match payload {
            Payload::Write(number) => mix(number),
            Payload::Voters(VoterSet(bits)) => mix(!bits),
        };
        Entry {
            term,
            payload,
            chain: mix(chain ^ mix(term) ^ content.rotate_left(17)),
        }
    }
}

/// One node's log. Indexes begin at 1; position zero is "nothing yet".
///
/// Invariants:
/// - **contiguous**: indexes are consecutive from the base on, and terms never go back.
/// - **purge-durable**: what is purged was durable.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The last entry that is no longer there.
    base: LogEnd,
    entries: VecDeque<Entry>,
    /// Entries up to this index are on disk.
    durable: u64,
    /// What a flush that is on its way covers.
    flushing: Option<u64>,
    /// Who votes, from which index on; the last at or below the base is kept.
    voters: Vec<(u64, VoterSet)>,
}

impl Log {
    /// An empty log of a group founded by these.
    pub fn founded(voters: VoterSet) -> Log {
        Log {
            voters: vec![(0, voters)],
            ..Log::default()
        }
    }

    /// Where the log begins: the last entry that is no longer there.
    pub fn base(&self) -> LogEnd {
        self.base
    }

    /// Where the log ends.
    pub fn last(&self) -> LogEnd {
        self.end_at(self.last_index()).expect("a log holds its end")
    }

    /// The index of the last entry.
    pub fn last_index(&self) -> u64 {
        self.base.position.index + self.entries.len() as u64
    }

    /// Up to which index the log is on disk.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Position and chain at an index, if the log knows them.
    pub fn end_at(&self, index: u64) -> Option<LogEnd> {
        if index == self.base.position.index {
            return Some(self.base);
        }
        let entry = self.entry(index)?;
        let position = LogPosition {
            term: entry.term,
            index,
        };
        Some(LogEnd {
            position,
            chain: entry.chain,
        })
    }

    /// The entry at an index, if it is there.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.base.position.index + 1)?;
        self.entries.get(offset as usize)
    }

    /// At most `most` entries from `first` to `last`. `None` if `first` has been purged.
    pub fn read(&self, first: u64, last: u64, most: usize) -> Option<Rc<[Entry]>> {
        let offset = first.checked_sub(self.base.position.index + 1)? as usize;
        let count = (last.min(self.last_index()) + 1).saturating_sub(first) as usize;
        let entries = self.entries.iter().skip(offset).take(count.min(most));
        Some(entries.copied().collect())
    }

    /// Who votes, says the last entry about it; empty if this log never said.
    pub fn voters(&self) -> VoterSet {
        self.voters
            .last()
            .map_or(VoterSet::default(), |last| last.1)
    }

    /// The index of the last entry about who votes.
    pub fn voters_index(&self) -> u64 {
        self.voters.last().map_or(0, |last| last.0)
    }

    /// Who votes as of an index.
    pub fn voters_at(&self, index: u64) -> VoterSet {
        let known = self.voters.iter().rev().find(|(from, _)| *from <= index);
        known.map_or(VoterSet::default(), |known| known.1)
    }

    /// Adds an entry. It is not on disk yet.
    pub fn append(&mut self, entry: Entry) {
        assert!(
            entry.term >= self.last().position.term,
            "contiguous: a term went back"
        );
        self.entries.push_back(entry);
        if let Payload::Voters(voters) = entry.payload {
            self.voters.push((self.last_index(), voters));
        }
    }

    /// Begins to flush what is not on disk, unless a flush is on its way or nothing waits.
    pub fn begin_flush(&mut self) -> bool {
        let begins = self.flushing.is_none() && self.durable < self.last_index();
        if begins {
            self.flushing = Some(self.last_index());
        }
        begins
    }

    /// The flush is done.
    pub fn end_flush(&mut self) {
        if let Some(index) = self.flushing.take() {
            self.durable = self.durable.max(index);
        }
    }

    /// A crash: what is not on disk is lost, or all but the first `kept` entries of it.
    pub fn crash(&mut self, kept: u64) {
        self.flushing = None;
        self.truncate((self.durable + kept).min(self.last_index()));
        self.durable = self.last_index();
    }

    /// Cuts off everything behind `index`.
    pub fn truncate(&mut self, index: u64) {
        let keep = index
            .checked_sub(self.base.position.index)
            .expect("contiguous: a purged log cannot be cut");
        self.entries.truncate(keep as usize);
        self.durable = self.durable.min(index);
        self.flushing = self.flushing.map(|covered| covered.min(index));
        self.voters.retain(|(from, _)| *from <= index);
    }

    /// Forgets everything up to `index`, which is on disk.
    pub fn purge(&mut self, index: u64) {
        if index <= self.base.position.index {
            return;
        }
        assert!(
            index <= self.durable,
            "purge-durable: purged before flushed"
        );
        let gone = (index - self.base.position.index) as usize;
        self.base = self.end_at(index).expect("what is purged is there");
        self.entries.drain(..gone);
        let kept_from = self.voters.iter().rposition(|(from, _)| *from <= index);
        self.voters.drain(..kept_from.unwrap_or(0));
    }

    /// Replaces everything by a snapshot that ends at `base`, on disk at once.
    pub fn reset(&mut self, base: LogEnd, voters: VoterSet) {
        self.base = base;
        self.entries.clear();
        self.durable = base.position.index;
        self.flushing = None;
        self.voters = vec![(base.position.index, voters)];
    }

    /// Replaces the last `count` entries by others of the same terms, as another history would have: for damage on purpose.
    pub fn rewrite_tail(&mut self, count: usize, salt: u64) -> usize {
        let first = self.entries.len().saturating_sub(count);
        let mut chain = match first.checked_sub(1) {
            Some(before) => self.entries[before].chain,
            None => self.base.chain,
        };
        for entry in self.entries.range_mut(first..) {
            *entry = Entry::after(chain, entry.term, Payload::Write(mix(salt ^ entry.chain)));
            chain = entry.chain;
        }
        self.entries.len() - first
    }

    /// Appends so many entries of another history, on disk at once.
    pub fn go_on(&mut self, count: u64, salt: u64) {
        for _ in 0..count {
            let last = self.last();
            let other = Payload::Write(mix(salt ^ last.chain));
            self.append(Entry::after(last.chain, last.position.term, other));
        }
        self.durable = self.last_index();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: u64) -> Log {
        let mut log = Log::founded(VoterSet::first(3));
        for number in 0..count {
            let entry = Entry::after(log.last().chain, 1 + number / 3, Payload::Write(number));
            log.append(entry);
        }
        log
    }

    #[test]
    fn a_purged_log_ends_where_it_ended() {
        let mut purged = log(9);
        let whole = purged.clone();
        assert!(purged.begin_flush());
        purged.end_flush();
        purged.purge(5);
        assert_eq!(purged.last(), whole.last());
        assert_eq!(purged.end_at(5), whole.end_at(5));
        assert_eq!(purged.end_at(4), None);
        assert_eq!(purged.read(5, 9, 10), None);
        assert_eq!(purged.read(6, 8, 10), whole.read(6, 8, 10));
        assert_eq!(purged.voters(), VoterSet::first(3));
    }

    #[test]
    fn a_cut_takes_the_voters_of_the_tail_with_it() {
        let mut log = log(2);
        log.begin_flush();
        let more = VoterSet::first(4);
        log.append(Entry::after(log.last().chain, 1, Payload::Voters(more)));
        assert_eq!(log.voters(), more);
        log.truncate(1);
        log.end_flush();
        assert_eq!(log.voters(), VoterSet::first(3));
        assert_eq!(log.durable(), 1);
    }

    #[test]
    fn another_history_has_other_chain_values() {
        let mut other = log(6);
        let before = other.clone();
        assert_eq!(other.rewrite_tail(2, 1), 2);
        assert_eq!(other.end_at(4), before.end_at(4));
        assert_ne!(other.end_at(5), before.end_at(5));
        assert_eq!(other.last().position, before.last().position);
    }
}
