//! The group: Raft as far as the tree can tell (Ongaro, "Consensus: bridging theory and practice", 2014).
//!
//! Elections with one persisted vote per term, replication, commit by a quorum of durable copies, truncation of what a new leader
//! does not have, one membership change at a time (4.1), transfer of leadership (3.10), snapshots for voters that are far behind.
//! A voter that has just heard a leader does not vote another down (4.2.3). There is no pre-vote and there are no joint changes,
//! so leaders change more often here than in a real group: that is only harder for the tree.
//!
//! Like the protocol of the tree it does no I/O: reports in, messages out, in an [`Env`].

use crate::engine::Micros;
use crate::log::{Entry, Log, Payload, VoterSet};
use crate::rng::Rng;
use eaves_tree::{LogEnd, LogPosition};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How many entries one message carries at most.
const BATCH_ENTRIES: usize = 64;

/// The times of a group.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How often a leader is heard.
    pub heartbeat: Micros,
    /// How long a voter waits at least for a leader; at most twice that.
    pub election: Micros,
}

/// What voters say to each other. Messages may be lost, repeated and overtaken.
#[derive(Clone, Debug)]
pub enum RaftMessage {
    /// Vote for me.
    RequestVote {
        /// The candidate's term.
        term: u64,
        /// Where its log ends.
        last: LogPosition,
        /// Its leader has asked it to stand.
        transfer: bool,
    },
    /// I do, or do not.
    Vote {
        /// The voter's term.
        term: u64,
        /// Whether it does.
        granted: bool,
    },
    /// I lead; here is more log, if there is any.
    Append {
        /// The leader's term.
        term: u64,
        /// What comes before the entries.
        previous: LogPosition,
        /// The entries.
        entries: Rc<[Entry]>,
        /// Up to where the log is committed.
        committed: u64,
    },
    /// I have it on disk up to here.
    Appended {
        /// The voter's term.
        term: u64,
        /// Its durable position that is known to agree with the leader.
        durable: u64,
    },
    /// My log differs at `previous`, or does not reach it.
    Behind {
        /// The voter's term.
        term: u64,
        /// Where to try next.
        hint: u64,
    },
    /// The log you need is gone: begin here.
    Snapshot {
        /// The leader's term.
        term: u64,
        /// Where the snapshot ends.
        base: LogEnd,
        /// Who votes there.
        voters: VoterSet,
    },
    /// Stand for election now.
    TimeoutNow {
        /// The leader's term.
        term: u64,
    },
}

/// A voter's part in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftRole {
    /// Follows, or waits for somebody to follow.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    next: u64,
    durable: u64,
    /// `durable` as of the last heartbeat: without progress since then, what was sent may be lost.
    durable_at_beat: u64,
}

/// What a voter acts on and with.
pub struct Env<'a> {
    /// The time.
    pub now: Micros,
    /// Its log.
    pub log: &'a mut Log,
    /// Up to where it knows the log committed.
    pub committed: &'a mut LogPosition,
    /// Its random numbers.
    pub rng: &'a mut Rng,
    /// What it sends, to whom.
    pub sent: &'a mut Vec<(u32, RaftMessage)>,
}

/// One voter, or a server that is about to become one and is not in the membership yet.
///
/// Invariants, checked by the world around it:
/// - **one-vote-per-term**: `vote` is set at most once in a term; both are on disk before anybody is told.
/// - **durable-before-acknowledged**: `Appended` names only what is on disk.
#[derive(Clone, Debug)]
pub struct Raft {
    me: u32,
    times: Times,
    /// On disk, as `vote`.
    pub term: u64,
    /// Who got this voter's vote in this term.
    pub vote: Option<u32>,
    /// What it is.
    pub role: RaftRole,
    /// Who leads, as far as it knows.
    pub leader: Option<u32>,
    votes: VoterSet,
    progress: BTreeMap<u32, Progress>,
    /// Servers that the leader feeds though they have no vote, because they are about to get one.
    pub learners: VoterSet,
    heard: BTreeMap<u32, Micros>,
    /// Up to where the log is known to agree with that of this term's leader.
    agreed: u64,
    election_at: Micros,
    beat_at: Micros,
}

impl Raft {
    /// A voter that starts from what its disk says.
    pub fn new(env: &mut Env<'_>, me: u32, times: Times, term: u64, vote: Option<u32>) -> Raft {
        let mut raft = Raft {
            me,
            times,
            term,
            vote,
            role: RaftRole::Follower,
            leader: None,
            votes: VoterSet::default(),
            progress: BTreeMap::new(),
            learners: VoterSet::default(),
            heard: BTreeMap::new(),
            agreed: 0,
            election_at: 0,
            beat_at: Micros::MAX,
        };
        raft.await_leader(env);
        raft
    }

    /// When [`tick`](Self::tick) wants to be called.
    pub fn next_timer(&self) -> Micros {
        match self.role {
            RaftRole::Leader => self.beat_at,
            RaftRole::Follower | RaftRole::Candidate => self.election_at,
        }
    }

    /// When another voter was last heard.
    pub fn heard(&self, other: u32) -> Option<Micros> {
        self.heard.get(&other).copied()
    }

    /// How far a follower's or learner's durable log is known to reach, on a leader.
    pub fn durable_of(&self, other: u32) -> u64 {
        self.progress
            .get(&other)
            .map_or(0, |progress| progress.durable)
    }

    /// The time that [`next_timer`](Self::next_timer) named has come.
    pub fn tick(&mut self, env: &mut Env<'_>) {
        match self.role {
            RaftRole::Leader if env.now >= self.beat_at => self.beat(env),
            RaftRole::Follower | RaftRole::Candidate if env.now >= self.election_at => {
                self.stand(env, false);
            }
            _ => {}
        }
    }

    /// A message came.
    pub fn handle(&mut self, env: &mut Env<'_>, from: u32, message: RaftMessage) {
        self.heard.insert(from, env.now);
        match message {
            RaftMessage::RequestVote {
                term,
                last,
                transfer,
            } => self.handle_request(env, from, term, last, transfer),
            RaftMessage::Vote { term, granted } => self.handle_vote(env, from, term, granted),
            RaftMessage::Append {
                term,
                previous,
                entries,
                committed,
            } => {
                if self.follow(env, from, term) {
                    self.handle_append(env, from, previous, &entries, committed);
                }
            }
            RaftMessage::Snapshot { term, base, voters } => {
                if self.follow(env, from, term) {
                    self.handle_snapshot(env, from, base, voters);
                }
            }
            RaftMessage::Appended { term, durable } => {
                self.observe(env, term);
                self.handle_appended(env, from, term, durable);
            }
            RaftMessage::Behind { term, hint } => {
                self.observe(env, term);
                self.handle_behind(env, from, term, hint);
            }
            RaftMessage::TimeoutNow { term } => {
                if term == self.term && self.role == RaftRole::Follower {
                    self.stand(env, true);
                }
            }
        }
    }

    /// More of the log is on disk.
    pub fn flushed(&mut self, env: &mut Env<'_>) {
        match (self.role, self.leader) {
            (RaftRole::Leader, _) => self.advance_commit(env),
            (_, Some(leader)) => self.acknowledge(env, leader),
            (_, None) => {}
        }
    }

    /// Proposes an entry; false if this voter does not lead.
    pub fn propose(&mut self, env: &mut Env<'_>, payload: Payload) -> bool {
        if self.role != RaftRole::Leader {
            return false;
        }
        let entry = Entry::after(env.log.last().chain, self.term, payload);
        env.log.append(entry);
        self.replicate(env);
        true
    }

    /// Whether a leader may change the membership: the last change, and an entry of its own term, are committed.
    pub fn may_change_voters(&self, log: &Log, committed: LogPosition) -> bool {
        self.role == RaftRole::Leader
            && committed.term == self.term
            && log.voters_index() <= committed.index
    }

    /// Asks another voter to take over.
    pub fn transfer(&mut self, env: &mut Env<'_>, to: u32) {
        if self.role == RaftRole::Leader {
            env.sent
                .push((to, RaftMessage::TimeoutNow { term: self.term }));
        }
    }

    // Elections.

    fn await_leader(&mut self, env: &mut Env<'_>) {
        self.election_at = env.now
            + env
                .rng
                .between(self.times.election, 2 * self.times.election);
    }

    /// Somebody is in a later term: follow there.
    fn observe(&mut self, env: &mut Env<'_>, term: u64) {
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.agreed = 0;
            self.step_down(env);
            self.leader = None;
        }
    }

    fn step_down(&mut self, env: &mut Env<'_>) {
        if self.role == RaftRole::Leader {
            self.await_leader(env);
        }
        self.role = RaftRole::Follower;
        self.progress.clear();
        self.beat_at = Micros::MAX;
    }

    fn stand(&mut self, env: &mut Env<'_>, transfer: bool) {
        self.await_leader(env);
        if !env.log.voters().contains(self.me) {
            return;
        }
        self.role = RaftRole::Candidate;
        self.term += 1;
        self.vote = Some(self.me);
        self.agreed = 0;
        self.leader = None;
        self.votes = VoterSet::default().with(self.me);
        let last = env.log.last().position;
        for other in env.log.voters().without(self.me).iter() {
            env.sent.push((
                other,
                RaftMessage::RequestVote {
                    term: self.term,
                    last,
                    transfer,
                },
            ));
        }
        self.count_votes(env);
    }

    fn handle_request(
        &mut self,
        env: &mut Env<'_>,
        from: u32,
        term: u64,
        last: LogPosition,
        transfer: bool,
    ) {
        let led = match (self.role, self.leader) {
            (RaftRole::Leader, _) => true,
            (_, Some(leader)) => self
                .heard(leader)
                .is_some_and(|at| at + self.times.election > env.now),
            (_, None) => false,
        };
        if term > self.term && led && !transfer {
            return;
        }
        self.observe(env, term);
        let granted = term == self.term
            && self.vote.is_none_or(|vote| vote == from)
            && last >= env.log.last().position;
        if granted {
            self.vote = Some(from);
            self.await_leader(env);
        }
        env.sent.push((
            from,
            RaftMessage::Vote {
                term: self.term,
                granted,
            },
        ));
    }

    fn handle_vote(&mut self, env: &mut Env<'_>, from: u32, term: u64, granted: bool) {
        self.observe(env, term);
        if self.role == RaftRole::Candidate && term == self.term && granted {
            self.votes = self.votes.with(from);
            self.count_votes(env);
        }
    }

    /// The votes that count: those of members.
    pub fn counted_votes(&self, log: &Log) -> VoterSet {
        self.votes
            .iter()
            .filter(|&host| log.voters().contains(host))
            .collect()
    }

    fn count_votes(&mut self, env: &mut Env<'_>) {
        if self.counted_votes(env.log).len() < env.log.voters().quorum() {
            return;
        }
        self.role = RaftRole::Leader;
        self.leader = Some(self.me);
        self.learners = VoterSet::default();
        self.progress.clear();
        self.beat_at = env.now;
        // An entry of its own term, or nothing older would ever commit (Raft 3.6.2).
        // The very first also says who founded the group, so that whoever reads the log knows.
        let first = match env.log.voters_index() {
            0 => Payload::Voters(env.log.voters()),
            _ => Payload::Write(0),
        };
        self.propose(env, first);
        self.beat(env);
    }

    // Replication: the leader's side.

    fn beat(&mut self, env: &mut Env<'_>) {
        self.beat_at = env.now + self.times.heartbeat;
        for progress in self.progress.values_mut() {
            if progress.durable == progress.durable_at_beat {
                progress.next = progress.next.min(progress.durable + 1);
            }
            progress.durable_at_beat = progress.durable;
        }
        self.replicate(env);
        self.advance_commit(env);
    }

    fn replicate(&mut self, env: &mut Env<'_>) {
        let others = env.log.voters().union(self.learners).without(self.me);
        // Who has left cuts its log, and may come back.
        self.progress.retain(|other, _| others.contains(*other));
        for other in others.iter() {
            self.append_to(env, other);
        }
    }

    fn append_to(&mut self, env: &mut Env<'_>, other: u32) {
        let end = env.log.last_index();
        let progress = self.progress.entry(other).or_insert(Progress {
            next: end.max(1),
            durable: 0,
            durable_at_beat: 0,
        });
        let message = match env.log.read(progress.next, end, BATCH_ENTRIES) {
            Some(entries) => {
                let previous = env
                    .log
                    .end_at(progress.next - 1)
                    .expect("what comes before an entry that is there is known");
                progress.next += entries.len() as u64;
                RaftMessage::Append {
                    term: self.term,
                    previous: previous.position,
                    entries,
                    committed: env.committed.index,
                }
            }
            None => {
                let base = env.log.base();
                progress.next = base.position.index + 1;
                RaftMessage::Snapshot {
                    term: self.term,
                    base,
                    voters: env.log.voters_at(base.position.index),
                }
            }
        };
        env.sent.push((other, message));
    }

    fn handle_appended(&mut self, env: &mut Env<'_>, from: u32, term: u64, durable: u64) {
        if self.role != RaftRole::Leader || term != self.term {
            return;
        }
        let Some(progress) = self.progress.get_mut(&from) else {
            return;
        };
        progress.durable = progress.durable.max(durable);
        progress.next = progress.next.max(durable + 1);
        let more = progress.next <= env.log.last_index();
        self.advance_commit(env);
        if more {
            self.append_to(env, from);
        }
    }

    fn handle_behind(&mut self, env: &mut Env<'_>, from: u32, term: u64, hint: u64) {
        if self.role != RaftRole::Leader || term != self.term {
            return;
        }
        let Some(progress) = self.progress.get_mut(&from) else {
            return;
        };
        progress.next = progress.next.min(hint + 1).max(progress.durable + 1);
        self.append_to(env, from);
    }

    /// Who has the log on disk up to `index`, of those who count.
    pub fn holders(&self, log: &Log, index: u64) -> VoterSet {
        let holds = |&host: &u32| match host == self.me {
            true => log.durable() >= index,
            false => self.durable_of(host) >= index,
        };
        log.voters().iter().filter(holds).collect()
    }

    fn advance_commit(&mut self, env: &mut Env<'_>) {
        let mut index = env.committed.index;
        while env
            .log
            .end_at(index + 1)
            .is_some_and(|_| self.holders(env.log, index + 1).len() >= env.log.voters().quorum())
        {
            index += 1;
        }
        let end = env.log.end_at(index).map(|end| end.position);
        if let Some(end) =
            end.filter(|end| end.term == self.term && end.index > env.committed.index)
        {
            *env.committed = end;
            self.replicate(env);
        }
    }

    // Replication: the follower's side.

    /// Takes `from` for the leader of `term`, unless that is over.
    fn follow(&mut self, env: &mut Env<'_>, from: u32, term: u64) -> bool {
        self.observe(env, term);
        if term < self.term {
            let message = RaftMessage::Behind {
                term: self.term,
                hint: 0,
            };
            env.sent.push((from, message));
            return false;
        }
        self.role = RaftRole::Follower;
        self.leader = Some(from);
        self.await_leader(env);
        true
    }

    fn handle_append(
        &mut self,
        env: &mut Env<'_>,
        from: u32,
        previous: LogPosition,
        entries: &[Entry],
        committed: u64,
    ) {
        let base = env.log.base().position.index;
        if previous.index >= base {
            let ours = env.log.end_at(previous.index).map(|end| end.position);
            if ours != Some(previous) {
                let hint = env.log.last_index().min(previous.index - 1).max(base);
                let message = RaftMessage::Behind {
                    term: self.term,
                    hint,
                };
                return env.sent.push((from, message));
            }
        }
        // What is purged here is committed, so it agrees.
        for (index, entry) in (previous.index + 1..)
            .zip(entries)
            .filter(|(index, _)| *index > base)
        {
            match env.log.entry(index) {
                Some(ours) if ours.term == entry.term => {}
                ours => {
                    if ours.is_some() {
                        env.log.truncate(index - 1);
                    }
                    env.log.append(*entry);
                }
            }
        }
        self.agreed = self.agreed.max(previous.index + entries.len() as u64);
        self.learn_committed(env, committed.min(self.agreed));
        self.acknowledge(env, from);
    }

    fn handle_snapshot(&mut self, env: &mut Env<'_>, from: u32, base: LogEnd, voters: VoterSet) {
        if base.position.index > env.committed.index {
            // A log that goes on behind the snapshot is kept: some of it may have been acknowledged (Raft, figure 13, step 6).
            if env.log.end_at(base.position.index) != Some(base) {
                env.log.reset(base, voters);
            }
            *env.committed = base.position;
        }
        self.agreed = self.agreed.max(base.position.index);
        self.acknowledge(env, from);
    }

    fn learn_committed(&mut self, env: &mut Env<'_>, index: u64) {
        if index > env.committed.index {
            *env.committed = env
                .log
                .end_at(index)
                .expect("what agrees with the leader is there")
                .position;
        }
    }

    fn acknowledge(&mut self, env: &mut Env<'_>, leader: u32) {
        let message = RaftMessage::Appended {
            term: self.term,
            durable: env.log.durable().min(self.agreed),
        };
        env.sent.push((leader, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MILLISECOND;

    #[test]
    fn a_late_snapshot_takes_nothing_back() {
        let voters = VoterSet::first(2);
        let (mut log, mut committed) = (Log::founded(voters), LogPosition::default());
        let mut env = Env {
            now: 0,
            log: &mut log,
            committed: &mut committed,
            rng: &mut Rng::new(1, 1),
            sent: &mut Vec::new(),
        };
        let times = Times {
            heartbeat: 100 * MILLISECOND,
            election: 500 * MILLISECOND,
        };
        let mut raft = Raft::new(&mut env, 1, times, 1, None);
        let mut entries = Vec::new();
        for number in 0..3 {
            let chain = entries.last().map_or(0, |last: &Entry| last.chain);
            entries.push(Entry::after(chain, 1, Payload::Write(number)));
        }
        let append = |entries: &[Entry], previous, committed| RaftMessage::Append {
            term: 1,
            previous,
            entries: entries.into(),
            committed,
        };
        raft.handle(&mut env, 0, append(&entries, LogPosition::default(), 0));
        let base = env.log.end_at(1).expect("it was appended");
        let snapshot = RaftMessage::Snapshot {
            term: 1,
            base,
            voters,
        };
        raft.handle(&mut env, 0, snapshot);
        assert_eq!(env.log.last_index(), 3);
        raft.handle(&mut env, 0, append(&[], base.position, 3));
        assert_eq!(env.committed.index, 3);
    }
}
