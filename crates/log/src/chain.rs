//! A running value over all entries of a log, by which two logs are compared without being read.
//!
//! Two nodes whose chain values agree at an index have, but for a chance of 2^-64, the same entries up to there, whatever they have
//! purged since. A listener and its upstream compare it when they meet; a snapshot carries it; on disk it tells a record that
//! continues the log from one that does not.
//!
//! It guards against mistakes and damage, not against an adversary: the mixing is fast, not cryptographic.

use crate::{Frame, LogId};
use std::fmt;

/// The value after some entry: `chain[i] = mix(chain[i-1], term[i], index[i], checksum[i])`.
///
/// For a given entry the step is a bijection of the value before, so logs that once differed never agree again by appending the same
/// entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chain(pub u64);

impl Chain {
    /// The value of a log without entries. Not zero, so that zeroes read from a disk are not a chain.
    pub const START: Chain = Chain(0x6561_7665_732d_6c67);

    /// The value after `frame`.
    pub fn next(self, frame: &Frame) -> Chain {
        let LogId { term, index } = frame.id();
        let entry = scramble(scramble(term) ^ index).wrapping_add(u64::from(frame.checksum()));
        Chain(scramble(self.0 ^ scramble(entry)))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A position in a log and what is before it: what precedes the first entry that is kept, which is a purged prefix or the state an
/// installed snapshot stands for; or all that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The last entry of what precedes; `None` when the log begins at its very beginning.
    pub last: Option<LogId>,
    /// The chain value up to and including it.
    pub chain: Chain,
}

impl Base {
    /// The beginning of all logs.
    pub const START: Base = Base {
        last: None,
        chain: Chain::START,
    };

    /// The index of the first entry after this base.
    pub fn next_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014) over an odd-constant step: a bijection that spreads every bit.
fn scramble(value: u64) -> u64 {
    let mut x = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn chain(entries: &[(u64, u64, &[u8])]) -> Chain {
        let frame = |(term, index, payload): &(u64, u64, &[u8])| {
            Frame::encode(LogId::new(*term, *index), Kind::Normal, payload)
        };
        entries
            .iter()
            .map(frame)
            .fold(Chain::START, |chain, frame| chain.next(&frame))
    }

    #[test]
    fn every_part_of_every_entry_counts() {
        let ours = chain(&[(1, 0, b"a"), (1, 1, b"b"), (2, 2, b"c")]);
        let others = [
            chain(&[(1, 0, b"x"), (1, 1, b"b"), (2, 2, b"c")]),
            chain(&[(0, 0, b"a"), (1, 1, b"b"), (2, 2, b"c")]),
            chain(&[(1, 0, b"b"), (1, 1, b"a"), (2, 2, b"c")]),
            chain(&[(1, 0, b"a"), (1, 1, b"b"), (3, 2, b"c")]),
            chain(&[(1, 1, b"b"), (2, 2, b"c")]),
            chain(&[(1, 0, b"a"), (1, 1, b"b")]),
        ];
        assert!(others.iter().all(|other| *other != ours));
    }

    #[test]
    fn values_never_change() {
        // Compared between nodes of different versions, and kept on disk.
        assert_eq!(
            chain(&[(1, 0, b"a"), (1, 1, b"b")]).to_string(),
            "690527d78b3f685d"
        );
    }
}
