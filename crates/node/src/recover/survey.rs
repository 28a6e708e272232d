//! Several directories of one lost group side by side: which has most, and whether the others agree with it.

use super::RecoverError;
use super::source::{Source, Stand};
use eaves_log::{Log, ReadError};
use std::collections::BTreeSet;

/// The directories found, compared.
pub struct Survey {
    sources: Vec<Source>,
    chosen: usize,
    agreements: Vec<Agreement>,
}

/// How a directory compares with the most advanced one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// It is the most advanced one.
    Chosen,
    /// The same entries, the last so many of them missing.
    Prefix {
        /// How many.
        behind: u64,
    },
    /// It ends before the most advanced log begins, or begins after that one ends: no entry is in both.
    Unknown,
    /// A voter's: its entries from `from` on were never committed.
    Differs {
        /// The first entry that differs, as far as the logs reach back.
        from: u64,
    },
}

impl Survey {
    /// Compares directories. Fails if they are of different clusters, or if listeners contradict each other.
    ///
    /// # Panics
    ///
    /// If there is no source.
    pub fn of(sources: Vec<Source>) -> Result<Survey, RecoverError> {
        let first = sources.first().expect("there is something to recover from");
        if let Some(other) =
            (sources.iter()).find(|source| source.stand.cluster_id != first.stand.cluster_id)
        {
            return Err(RecoverError::OtherCluster {
                first: first.stand.dir.display().to_string(),
                first_cluster: first.stand.cluster_id,
                second: other.stand.dir.display().to_string(),
                second_cluster: other.stand.cluster_id,
            });
        }
        // Of equals a listener's, of which it is known that all is committed; of those the one given first.
        let rank = |source: &Source| (source.stand.last(), !source.stand.is_voter);
        let chosen = (0..sources.len())
            .rev()
            .max_by_key(|i| rank(&sources[*i]))
            .expect("there is a source");
        let agreements = sources
            .iter()
            .enumerate()
            .map(|(i, source)| match i == chosen {
                true => Ok(Agreement::Chosen),
                false => compare(&sources[chosen], source),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Survey {
            sources,
            chosen,
            agreements,
        })
    }

    /// The directories in the order given, each with how it compares.
    pub fn found(&self) -> impl Iterator<Item = (&Stand, Agreement)> {
        let stands = self.sources.iter().map(|source| &source.stand);
        stands.zip(self.agreements.iter().copied())
    }

    /// The most advanced one, from which the group is made.
    pub fn chosen(&self) -> &Stand {
        &self.source().stand
    }

    /// How many of the lost group's voters are among the directories, and how many it had. With a majority of them nothing needs to be
    /// lost: they elect a leader when they are started.
    pub fn voters(&self) -> (usize, usize) {
        let voters: BTreeSet<u64> = self.chosen().voters.iter().map(|voter| voter.id).collect();
        let here = (self.sources.iter())
            .filter(|source| source.stand.is_voter && voters.contains(&source.stand.node_id));
        (here.count(), voters.len())
    }

    pub(super) fn source(&self) -> &Source {
        &self.sources[self.chosen]
    }
}

fn compare(chosen: &Source, other: &Source) -> Result<Agreement, RecoverError> {
    let unreadable = |error: ReadError| RecoverError::Source {
        dir: other.stand.dir.display().to_string(),
        cause: error.to_string(),
    };
    let end = chosen.stand.index.min(other.stand.index);
    // The id and the chain value of the entry before the first are known too.
    let begin = (chosen.stand.log_first.max(other.stand.log_first)).saturating_sub(1);
    if end < begin {
        return Ok(Agreement::Unknown);
    }
    match first_difference(&chosen.log, &other.log, begin, end).map_err(unreadable)? {
        None => Ok(Agreement::Prefix {
            behind: chosen.stand.index - end,
        }),
        Some(from) if other.stand.is_voter => Ok(Agreement::Differs { from }),
        Some(from) => Err(RecoverError::Diverged {
            dir: other.stand.dir.display().to_string(),
            chosen: chosen.stand.dir.display().to_string(),
            from,
        }),
    }
}

/// The first entry from `begin` to `end` at which the chain values differ. Once they do they never agree again.
fn first_difference(
    one: &Log,
    other: &Log,
    begin: u64,
    end: u64,
) -> Result<Option<u64>, ReadError> {
    let differ = |index| Ok::<bool, ReadError>(one.chain_at(index)? != other.chain_at(index)?);
    if !differ(end)? {
        return Ok(None);
    }
    let (mut low, mut high) = (begin, end);
    while low < high {
        let middle = low + (high - low) / 2;
        match differ(middle)? {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Ok(Some(high))
}
