//! **log-prefix** (`S5`): what any node knows committed is the same everywhere; a listener's log is a prefix of it and only grows.
//! **nothing-overwritten** (`B12`): a listener whose log is of another history gets no entry behind it, and nobody else is
//! refused for its log.

use super::Broken;
use crate::host::Host;
use crate::log::{Entry, Payload, VoterSet};
use eaves_tree::{LinkId, LogEnd, LogPosition, RefuseReason};

/// The group's log as far as anybody in it has known it committed.
pub struct CommittedLog {
    entries: Vec<Entry>,
    founders: VoterSet,
}

impl CommittedLog {
    pub(super) fn new(founders: VoterSet) -> CommittedLog {
        CommittedLog {
            entries: Vec::new(),
            founders,
        }
    }

    /// The last index in it.
    pub fn last_index(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Who votes by it.
    pub fn voters(&self) -> VoterSet {
        let said = self
            .entries
            .iter()
            .rev()
            .find_map(|entry| match entry.payload {
                Payload::Voters(voters) => Some(voters),
                Payload::Write(_) => None,
            });
        said.unwrap_or(self.founders)
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(1)? as usize)
    }

    /// A voter knows its log committed up to a new position.
    pub(super) fn committed(
        &mut self,
        number: u32,
        host: &Host,
        before: u64,
    ) -> Result<(), Broken> {
        for index in before + 1..=host.committed.index {
            // What a snapshot has replaced is compared at its end.
            let Some(ours) = host.log.entry(index) else {
                continue;
            };
            match self.entry(index) {
                None if index == self.last_index() + 1 => self.entries.push(*ours),
                Some(known) if known == ours => {}
                known => {
                    let what = format!(
                        "n{} knows {ours:?} committed at {index}, where others know {known:?}",
                        number + 1
                    );
                    return Err(("log-prefix", what));
                }
            }
        }
        match host.log.end_at(host.committed.index) {
            Some(end) => self.holds(number, end),
            None => Err((
                "log-prefix",
                format!("n{} has no entry at its committed position", number + 1),
            )),
        }
    }

    /// A log that ends there is a prefix.
    pub(crate) fn holds(&self, number: u32, end: LogEnd) -> Result<(), Broken> {
        let ours = match end.position.index {
            0 => Some(LogEnd::default()),
            index => self.entry(index).map(|entry| LogEnd {
                position: LogPosition {
                    term: entry.term,
                    index,
                },
                chain: entry.chain,
            }),
        };
        if ours == Some(end) {
            return Ok(());
        }
        Err((
            "log-prefix",
            format!("n{} holds {end}, committed is {ours:?}", number + 1),
        ))
    }

    /// A listener is about to append entries.
    pub(crate) fn fed(
        &self,
        number: u32,
        host: &Host,
        first: u64,
        entries: &[Entry],
    ) -> Result<(), Broken> {
        let name = number + 1;
        if host.diverged {
            let what = format!("n{name}, whose log is of another history, is fed from {first} on");
            return Err(("nothing-overwritten", what));
        }
        if first != host.log.last_index() + 1 {
            let what = format!(
                "n{name} holds {} and is fed from {first} on",
                host.log.last_index()
            );
            return Err(("log-prefix", what));
        }
        for (index, entry) in (first..).zip(entries) {
            if self.entry(index) != Some(entry) {
                let what = format!(
                    "n{name} is fed {entry:?} at {index}, committed is {:?}",
                    self.entry(index)
                );
                return Err(("log-prefix", what));
            }
        }
        Ok(())
    }
}

/// Whose log differs has no session.
pub(super) fn is_refused(
    upstream: (u32, LinkId),
    listener: u32,
    hosts: &[Host],
) -> Result<(), Broken> {
    let node = hosts[upstream.0 as usize].node.as_ref();
    let taken_on = node.is_some_and(|node| {
        node.downstreams()
            .any(|downstream| downstream.link == upstream.1)
    });
    if !taken_on {
        return Ok(());
    }
    let what = format!(
        "n{} takes on n{}, whose log differs from its own",
        upstream.0 + 1,
        listener + 1
    );
    Err(("nothing-overwritten", what))
}

/// Only another history differs: the listener's log `is_other`.
fn may_differ(number: u32, is_other: bool) -> Result<(), Broken> {
    if is_other {
        return Ok(());
    }
    let what = format!(
        "n{} is told that its log differs, and it does not",
        number + 1
    );
    Err(("nothing-overwritten", what))
}

/// A listener whose upstream compared its log is told that it differs.
pub(super) fn may_be_told(number: u32, hosts: &[Host]) -> Result<(), Broken> {
    may_differ(number, hosts[number as usize].diverged)
}

/// A refusal that an administrator must look at is deserved.
pub(super) fn may_be_refused(
    number: u32,
    by: u32,
    reason: RefuseReason,
    hosts: &[Host],
) -> Result<(), Broken> {
    match reason {
        RefuseReason::Log { .. } => may_differ(number, hosts[number as usize].registered_diverged),
        RefuseReason::Cluster { .. } | RefuseReason::Protocol { .. } => Err((
            "nothing-overwritten",
            format!("n{} is refused as a stranger by n{}", number + 1, by + 1),
        )),
        _ => Ok(()),
    }
}
