//! Feeding: an upstream pushes its committed log down its connections, as the appender and the intake of a real node do.
//!
//! A listener that follows says where its log ends. The upstream waits until its own committed log reaches as far (`B11`),
//! compares (`B12`), says that it agrees, and from there on pushes whatever is committed, a window at a time (`B10`). If the log the listener needs
//! has been purged it gets a snapshot (`B9`). Entries are passed on as they come, before they are flushed.

use super::{Event, World};
use crate::host::peer;
use crate::log::{Entry, Payload, VoterSet};
use crate::network::{Key, LISTENER, Packet, UPSTREAM};
use eaves_tree::{LinkId, LogEnd, LogVerdict, Peer};

/// Entries in one packet.
const BATCH_ENTRIES: usize = 64;
/// Entries on their way to one listener, at most.
const WINDOW_ENTRIES: u64 = 512;
/// A listener tells its position when it took in this many.
const ACK_ENTRIES: u64 = 64;

/// Where an upstream stands with one listener.
#[derive(Clone, Copy, Debug, Default)]
pub struct Feed {
    /// The protocol lets it push.
    allowed: bool,
    stage: Stage,
    /// The listener has taken in entries up to here.
    acknowledged: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// The listener has not said from where.
    #[default]
    Idle,
    /// It has; our log may have to reach that far first.
    Comparing(LogEnd),
    /// It gets entries from this index on.
    Pushing(u64),
}

impl World {
    // The upstream's side.

    /// What a host's log says about a listener's (`B12`).
    pub(super) fn verdict(&self, host: u32, theirs: LogEnd) -> LogVerdict {
        let host = &self.hosts[host as usize];
        if theirs == LogEnd::default() || host.committed.index < theirs.position.index {
            return LogVerdict::Agrees;
        }
        match host.log.end_at(theirs.position.index) {
            Some(ours) if ours != theirs => LogVerdict::Differs { ours },
            _ => LogVerdict::Agrees,
        }
    }

    pub(super) fn start_feeding(&mut self, host: u32, link: LinkId) {
        self.with_feed(host, link, |feed| feed.allowed = true);
    }

    pub(super) fn stop_feeding(&mut self, host: u32, link: LinkId) {
        self.with_feed(host, link, |feed| feed.allowed = false);
    }

    fn with_feed(&mut self, host: u32, link: LinkId, change: impl FnOnce(&mut Feed)) {
        let key = self.host(host).key_of(link);
        if let Some((key, connection)) = key.and_then(|key| Some((key, self.network.get_mut(key)?)))
        {
            change(&mut connection.feed);
            self.feed(key, host);
        }
    }

    pub(super) fn on_feed_from(&mut self, key: Key, host: u32, end: LogEnd) {
        let Some(connection) = self.network.get_mut(key) else {
            return;
        };
        connection.feed.stage = Stage::Comparing(end);
        connection.feed.acknowledged = end.position.index;
        self.feed(key, host);
    }

    pub(super) fn on_position(&mut self, key: Key, host: u32, index: u64) {
        let Some(connection) = self.network.get_mut(key) else {
            return;
        };
        connection.feed.acknowledged = connection.feed.acknowledged.max(index);
        self.feed(key, host);
    }

    /// More of a host's log is committed: push it.
    pub(super) fn feed_all(&mut self, host: u32) {
        for position in 0..self.host(host).links.len() {
            if let (LinkId::Down(_), key) = self.host(host).links[position] {
                self.feed(key, host);
            }
        }
    }

    /// Pushes to one listener what can be pushed now.
    fn feed(&mut self, key: Key, host: u32) {
        loop {
            let Some(connection) = self.network.get(key) else {
                return;
            };
            let feed = connection.feed;
            if !feed.allowed || !connection.ends[UPSTREAM].open {
                return;
            }
            match feed.stage {
                Stage::Idle => return,
                Stage::Comparing(theirs) => {
                    if !self.compare(key, host, theirs) {
                        return;
                    }
                }
                Stage::Pushing(next) => {
                    if !self.push(key, host, next, feed.acknowledged) {
                        return;
                    }
                }
            }
        }
    }

    fn set_stage(&mut self, key: Key, stage: Stage) {
        if let Some(connection) = self.network.get_mut(key) {
            connection.feed.stage = stage;
        }
    }

    /// Compares a listener's log with the host's; false if that has to wait (`B11`, `B12`).
    fn compare(&mut self, key: Key, host: u32, theirs: LogEnd) -> bool {
        let machine = &self.hosts[host as usize];
        let index = theirs.position.index;
        if index < machine.log.base().position.index {
            self.send_snapshot(key);
        } else if index > machine.committed.index {
            return false;
        } else if machine.log.end_at(index) == Some(theirs) {
            self.set_stage(key, Stage::Pushing(index + 1));
            self.send_packet(key, LISTENER, 0, Packet::FeedStart);
        } else {
            self.set_stage(key, Stage::Idle);
            self.send_packet(key, LISTENER, 0, Packet::Mismatch);
        }
        true
    }

    /// Pushes one batch; false if there is nothing to push, or the window is full.
    fn push(&mut self, key: Key, host: u32, next: u64, acknowledged: u64) -> bool {
        let machine = &self.hosts[host as usize];
        if next > machine.committed.index || next > acknowledged + WINDOW_ENTRIES {
            return false;
        }
        let Some(entries) = machine
            .log
            .read(next, machine.committed.index, BATCH_ENTRIES)
        else {
            self.send_snapshot(key);
            return true;
        };
        if entries.is_empty() {
            return false;
        }
        self.set_stage(key, Stage::Pushing(next + entries.len() as u64));
        self.counts.entries_fed += entries.len() as u64;
        if self.leads(host) {
            self.ledger.leader_entries += entries.len() as u64;
        }
        self.send_packet(key, LISTENER, 0, Packet::Entries(next, entries));
        true
    }

    /// The log that a listener needs is gone: it has to fetch a snapshot.
    fn send_snapshot(&mut self, key: Key) {
        self.set_stage(key, Stage::Idle);
        self.send_packet(key, LISTENER, 0, Packet::NeedSnapshot);
    }

    // The listener's side.

    pub(super) fn on_entries(
        &mut self,
        key: Key,
        host: u32,
        link: LinkId,
        first: u64,
        entries: &[Entry],
    ) {
        let now = self.queue.now();
        if self.host(host).following != Some(link) {
            return;
        }
        let machine = &self.hosts[host as usize];
        let held = self.checks.log.fed(host, machine, first, entries);
        self.checks.expect(now, held);
        if self.checks.violation.is_some() {
            return;
        }
        self.trace
            .fold(now, host, [21, first, entries.len() as u64]);
        let machine = self.host(host);
        let before = machine.log.last_index();
        let mut voters_changed = false;
        for entry in entries {
            machine.log.append(*entry);
            voters_changed |= matches!(entry.payload, Payload::Voters(_));
        }
        machine.committed = machine.log.last().position;
        let after = machine.log.last_index();
        self.flush_soon(host);
        if before / ACK_ENTRIES != after / ACK_ENTRIES {
            self.send_packet(key, UPSTREAM, 0, Packet::Position(after));
        }
        if voters_changed {
            self.tell_voters(host);
        }
        self.feed_all(host);
    }

    /// A listener's upstream has compared its log, and feeds from its end on.
    pub(super) fn on_feed_start(&mut self, host: u32) {
        self.trace.fold(self.queue.now(), host, [24, 0, 0]);
        self.host(host).disk.differs = false;
        self.report(host, |node, _| node.handle_log_compared());
    }

    /// Tells a listener's protocol state who votes, as its log says (`B5`).
    pub(super) fn tell_voters(&mut self, host: u32) {
        let voters: Vec<Peer> = self.host(host).log.voters().iter().map(peer).collect();
        if !voters.is_empty() {
            self.report(host, |node, now| node.handle_voters(now, voters));
        }
    }

    /// Fetches what the upstream's state is made of, as far as it is on disk. The fetch has a connection of its own, which is not
    /// modelled: the snapshot is there after its time, if the session still stands then.
    pub(super) fn fetch_snapshot(&mut self, key: Key, host: u32) {
        let Some(connection) = self.network.get(key) else {
            return;
        };
        let upstream = connection.ends[UPSTREAM].host;
        let machine = &self.hosts[upstream as usize];
        let index = machine.committed.index.min(machine.log.durable());
        let Some(at) = machine.log.end_at(index) else {
            return;
        };
        let voters = machine.log.voters_at(index);
        let round_trip = self.network.delay(host, upstream) + self.network.delay(upstream, host);
        self.counts.snapshots += 1;
        self.trace.note(
            self.queue.now(),
            host,
            [20, u64::from(upstream), index],
            || {
                format!(
                    "fetches a snapshot at {} from n{}",
                    at.position,
                    upstream + 1
                )
            },
        );
        self.queue.post(
            round_trip + self.setup.snapshot,
            Event::Snapshot { key, at, voters },
        );
    }

    pub(super) fn on_snapshot(&mut self, key: Key, at: LogEnd, voters: VoterSet) {
        let now = self.queue.now();
        let Some(connection) = self.network.get(key) else {
            return;
        };
        let [upstream, listener] = &connection.ends;
        let (from, from_life, host, life) =
            (upstream.host, upstream.life, listener.host, listener.life);
        let (open, link) = (listener.open, listener.name.expect("the listener named it"));
        if !open || self.is_gone(host, life) || self.host(host).following != Some(link) {
            return;
        }
        let machine = &self.hosts[host as usize];
        let is_ahead = at.position.index > machine.log.last_index();
        if self.is_gone(from, from_life) || self.network.is_cut(from, host) || !is_ahead {
            return self.fail_link(host, link);
        }
        let held = self.checks.log.holds(host, at);
        self.checks.expect(now, held);
        self.trace.note(now, host, [22, at.position.index, 0], || {
            format!("installs a snapshot at {}", at.position)
        });
        let machine = self.host(host);
        machine.log.reset(at, voters);
        machine.committed = at.position;
        machine.log_was_replaced();
        self.send_packet(key, UPSTREAM, 0, Packet::FeedFrom(at));
        self.tell_voters(host);
        self.feed_all(host);
    }

    pub(super) fn on_mismatch(&mut self, host: u32, link: LinkId) {
        let now = self.queue.now();
        self.trace.note(now, host, [23, 0, 0], || {
            "is told that its log differs".into()
        });
        self.counts.mismatches += 1;
        self.host(host).disk.differs = true;
        self.checks.told_to_differ(now, host, &self.hosts);
        self.fail_link(host, link);
    }

    /// A listener's end of a connection fails: it is closed, and the protocol is told.
    fn fail_link(&mut self, host: u32, link: LinkId) {
        self.close_link(host, link);
        self.report(host, |node, now| node.handle_link_closed(now, link));
    }

    // The disk.

    /// Something was appended: flush it, a voter at once, a listener before long.
    pub(super) fn flush_soon(&mut self, host: u32) {
        let (interval, flush) = (self.setup.flush_interval, self.setup.flush);
        let machine = self.host(host);
        let life = machine.life;
        if machine.raft.is_some() {
            if machine.log.begin_flush() {
                self.queue.post(flush, Event::Flushed { host, life });
            }
        } else if !machine.flush_posted {
            machine.flush_posted = true;
            self.queue.post(interval, Event::FlushDue { host, life });
        }
    }

    pub(super) fn on_flush_due(&mut self, host: u32, life: u32) {
        if self.is_gone(host, life) {
            return;
        }
        let flush = self.setup.flush;
        let machine = self.host(host);
        machine.flush_posted = false;
        if machine.log.begin_flush() {
            self.queue.post(flush, Event::Flushed { host, life });
        }
    }

    pub(super) fn on_flushed(&mut self, host: u32, life: u32) {
        if self.is_gone(host, life) {
            return;
        }
        let retention = self.setup.retention;
        let machine = self.host(host);
        machine.log.end_flush();
        let kept_from = machine
            .log
            .durable()
            .min(machine.committed.index)
            .saturating_sub(retention);
        // Not entry by entry: whole stretches, as segments are deleted.
        if kept_from > machine.log.base().position.index + retention / 4 {
            machine.log.purge(kept_from);
        }
        if machine.log.durable() < machine.log.last_index() {
            self.flush_soon(host);
        }
        self.group_act(host, |raft, env| raft.flushed(env));
    }
}
