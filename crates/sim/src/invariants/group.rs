//! The group, whatever the listeners do.
//!
//! - **one-vote-per-term**: across restarts, promotion and demotion; and so one leader per term.
//! - **no-vote** (`S2`): who votes, or is counted for a commit, is a voter by its own disk.
//! - **durable-before-acknowledged**: what a voter says it has on disk is there; what is committed is on the disks of a quorum.

use super::Broken;
use crate::host::Host;
use crate::log::VoterSet;
use crate::raft::{RaftMessage, RaftRole};
use std::collections::BTreeMap;

/// Who voted for whom, and who led.
#[derive(Default)]
pub struct Votes {
    cast: BTreeMap<(u64, u32), u32>,
    leaders: BTreeMap<u64, u32>,
}

impl Votes {
    pub(super) fn sends(
        &mut self,
        from: u32,
        to: u32,
        message: &RaftMessage,
        hosts: &[Host],
    ) -> Result<(), Broken> {
        let host = &hosts[from as usize];
        match message {
            RaftMessage::Vote {
                term,
                granted: true,
            } => self.cast(*term, from, to, host),
            RaftMessage::RequestVote { term, .. } => self.cast(*term, from, from, host),
            RaftMessage::Appended { durable, .. } if *durable > host.log.durable() => {
                let what = format!(
                    "n{} tells {durable}, on its disk is {}",
                    from + 1,
                    host.log.durable()
                );
                Err(("durable-before-acknowledged", what))
            }
            _ => Ok(()),
        }
    }

    fn cast(&mut self, term: u64, voter: u32, candidate: u32, host: &Host) -> Result<(), Broken> {
        if !host.is_voter() {
            return Err((
                "no-vote",
                format!("n{}, a listener, votes in term {term}", voter + 1),
            ));
        }
        let first = *self.cast.entry((term, voter)).or_insert(candidate);
        if first != candidate {
            let what = format!(
                "n{} voted in term {term} for n{} and for n{}",
                voter + 1,
                first + 1,
                candidate + 1
            );
            return Err(("one-vote-per-term", what));
        }
        Ok(())
    }

    pub(super) fn elected(&mut self, leader: u32, hosts: &[Host]) -> Result<(), Broken> {
        let host = &hosts[leader as usize];
        let raft = host
            .raft
            .as_ref()
            .expect("a leader has a part in the group");
        let first = *self.leaders.entry(raft.term).or_insert(leader);
        if first != leader {
            let what = format!(
                "n{} and n{} both lead term {}",
                first + 1,
                leader + 1,
                raft.term
            );
            return Err(("one-vote-per-term", what));
        }
        are_voters("voted", raft.counted_votes(&host.log), hosts)
    }
}

fn are_voters(did: &str, counted: VoterSet, hosts: &[Host]) -> Result<(), Broken> {
    match counted
        .iter()
        .find(|&host| !hosts[host as usize].is_voter())
    {
        Some(listener) => Err((
            "no-vote",
            format!("n{}, a listener, is counted as having {did}", listener + 1),
        )),
        None => Ok(()),
    }
}

/// What a leader takes for committed is on the disks of those it counted.
pub(super) fn is_held_by_a_quorum(number: u32, hosts: &[Host]) -> Result<(), Broken> {
    let host = &hosts[number as usize];
    let Some(raft) = host
        .raft
        .as_ref()
        .filter(|raft| raft.role == RaftRole::Leader)
    else {
        return Ok(());
    };
    let index = host.committed.index;
    let counted = raft.holders(&host.log, index);
    // A leader that has been replaced may still count what somebody had who has left since.
    let is_replaced = || {
        let terms = hosts.iter().filter_map(|other| other.raft.as_ref());
        terms.map(|other| other.term).any(|term| term > raft.term)
    };
    let all_vote = are_voters("the log", counted, hosts);
    if all_vote.is_err() && !is_replaced() {
        return all_vote;
    }
    let ours = host.log.end_at(index);
    let lacks = |&other: &u32| {
        let log = &hosts[other as usize].log;
        // What it has purged was on its disk, and is compared by log-prefix.
        log.durable() < index || (log.base().position.index <= index && log.end_at(index) != ours)
    };
    match counted.iter().find(lacks) {
        Some(other) => {
            let what = format!(
                "n{} counts n{} for {index}, whose disk ends at {}",
                number + 1,
                other + 1,
                hosts[other as usize].log.durable()
            );
            Err(("durable-before-acknowledged", what))
        }
        None => Ok(()),
    }
}
