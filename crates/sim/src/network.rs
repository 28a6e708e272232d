//! The network: delays, losses, cuts, and connections.
//!
//! Three kinds of traffic, as in a real node:
//!
//! - *Questions and answers* (`S7`) each have a connection of their own. One that is lost is a connection that hangs, until its
//!   driver gives up. They may come twice, which TCP would not do: the protocol must not mind.
//! - *Sessions* are ordered streams, like TCP. Nothing on them is lost or overtaken while they live: a packet that is lost is
//!   sent again and holds up what comes behind it, or ends the connection. Behind a cut a stream waits; the sender gives up
//!   after [`DEAD_PEER_TIMEOUT`]. A stream to a process that is gone is reset when something arrives.
//! - *The group's messages* may be lost, repeated and overtaken; Raft does not care.
//!
//! This file knows who can reach whom, how long it takes, and what lies on each stream. What arrives is acted on in `world`.

use crate::engine::{MILLISECOND, Micros, SECOND};
use crate::log::Entry;
use crate::rng::{Rng, mix};
use eaves_tree::{LinkId, LogEnd, Message, Register};
use std::collections::VecDeque;
use std::rc::Rc;

/// How long a sender waits for any sign that what it sent has arrived, before it ends the connection: `TCP_USER_TIMEOUT` and
/// keepalive of a real node.
pub const DEAD_PEER_TIMEOUT: Micros = 10 * SECOND;
/// How long a real node's driver keeps a question open.
pub const ASK_TIMEOUT: Micros = 10 * SECOND;
/// How long a real node tries to connect.
pub const CONNECT_TIMEOUT: Micros = 2 * SECOND;
/// How long a lost packet holds a stream up, at least and at most: TCP's retransmission.
pub const RETRANSMISSION: (Micros, Micros) = (200 * MILLISECOND, 1000 * MILLISECOND);

/// A set of hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSet(Vec<u64>);

impl HostSet {
    /// Adds one.
    pub fn insert(&mut self, host: u32) {
        let word = (host / 64) as usize;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (host % 64);
    }

    /// Whether it is in.
    pub fn contains(&self, host: u32) -> bool {
        let word = self.0.get((host / 64) as usize);
        word.is_some_and(|word| word & (1 << (host % 64)) != 0)
    }
}

impl FromIterator<u32> for HostSet {
    fn from_iter<T: IntoIterator<Item = u32>>(hosts: T) -> HostSet {
        let mut set = HostSet::default();
        hosts.into_iter().for_each(|host| set.insert(host));
        set
    }
}

/// Some hosts cut off from all others.
#[derive(Clone, Debug)]
pub struct Cut {
    /// They.
    pub inside: HostSet,
    /// Nothing goes out.
    pub out: bool,
    /// Nothing comes in.
    pub inward: bool,
}

/// How good the network is.
#[derive(Clone, Debug)]
pub struct Quality {
    /// One way, within a zone.
    pub near: Micros,
    /// One way, between zones.
    pub far: Micros,
    /// Added at random to each message.
    pub jitter: Micros,
    /// Of a thousand packets so many are lost.
    pub loss_permille: u64,
    /// Of a thousand lost packets of a session so many end it.
    pub reset_permille: u64,
    /// Of a thousand questions, answers and messages of the group so many come twice.
    pub repeat_permille: u64,
    /// Round trips before the first packet of a connection arrives.
    pub connect_round_trips: u64,
}

/// What goes over a session.
#[derive(Debug)]
pub enum Packet {
    /// Listener: the first packet.
    Register(Box<Register>),
    /// Both: a message of the protocol.
    Session(Message),
    /// Listener: feed me from behind the end of my log.
    FeedFrom(LogEnd),
    /// Upstream: the log you need is gone, fetch a snapshot.
    NeedSnapshot,
    /// Upstream: your log is a prefix of mine.
    FeedStart,
    /// Upstream: your log and mine differ.
    Mismatch,
    /// Upstream: entries from this index on.
    Entries(u64, Rc<[Entry]>),
    /// Listener: I have taken in entries up to this index.
    Position(u64),
    /// Both: the end of the stream.
    Closed,
}

/// Names a connection for as long as the simulation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// One end of a connection.
#[derive(Debug)]
pub struct End {
    /// The machine.
    pub host: u32,
    /// Which life of its process.
    pub life: u32,
    /// What that process calls the connection; nothing before it knows of it.
    pub name: Option<LinkId>,
    /// It has not closed it, nor been told that it is closed.
    pub open: bool,
    /// What is on its way to this end.
    pub coming: VecDeque<(Micros, Packet)>,
    /// An arrival is in the queue of events.
    pub expected: bool,
    /// The way to this end is cut: since when the stream waits.
    pub blocked: Option<Micros>,
    /// The last packet on its way arrives then.
    busy_until: Micros,
    /// The last packet that was lost and sent again, or waited behind a cut, arrives then; nothing overtakes it.
    late_until: Micros,
}

/// A session: a listener's connection to an upstream.
#[derive(Debug)]
pub struct Connection {
    /// The upstream's end, then the listener's.
    pub ends: [End; 2],
    /// What the upstream pushes to the listener.
    pub feed: crate::world::feed::Feed,
}

/// The upstream's end of a connection.
pub const UPSTREAM: usize = 0;
/// The listener's end of a connection.
pub const LISTENER: usize = 1;

/// The network.
pub struct Network {
    /// How good it is now.
    pub quality: Quality,
    zones: Vec<u32>,
    salt: u64,
    rng: Rng,
    group_rng: Rng,
    /// What is cut now, by a number for each cut.
    pub cuts: Vec<(u64, Cut)>,
    connections: Vec<Option<Connection>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    /// Packets that were lost and sent again so far; connections that were reset.
    pub losses: u64,
    /// Connections that a loss ended.
    pub resets: u64,
    /// Questions, answers and messages of the group that came twice.
    pub repeats: u64,
}

impl Network {
    /// A network of hosts in these zones.
    pub fn new(seed: u64, quality: Quality, zones: Vec<u32>) -> Network {
        Network {
            quality,
            zones,
            salt: mix(seed),
            rng: Rng::new(seed, 101),
            group_rng: Rng::new(seed, 102),
            cuts: Vec::new(),
            connections: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            losses: 0,
            resets: 0,
            repeats: 0,
        }
    }

    /// Whether nothing gets from one host to another now.
    pub fn is_cut(&self, from: u32, to: u32) -> bool {
        self.cuts.iter().any(|(_, cut)| {
            match (cut.inside.contains(from), cut.inside.contains(to)) {
                (true, false) => cut.out,
                (false, true) => cut.inward,
                _ => false,
            }
        })
    }

    /// The delay from one host to another without jitter: its own for each pair and direction, up to half more than the least.
    pub fn delay(&self, from: u32, to: u32) -> Micros {
        let same = self.zones[from as usize] == self.zones[to as usize];
        let least = if same {
            self.quality.near
        } else {
            self.quality.far
        };
        let pair = mix(self.salt ^ (u64::from(from) << 32 | u64::from(to)));
        least + pair % (least / 2 + 1)
    }

    /// The most that [`delay`](Self::delay) and jitter can be.
    pub fn delay_max(&self, from: u32, to: u32) -> Micros {
        self.delay(from, to) + self.quality.jitter
    }

    fn drawn_delay(&mut self, from: u32, to: u32) -> Micros {
        self.delay(from, to) + self.rng.below(self.quality.jitter + 1)
    }

    /// After which times a question or an answer arrives: once, twice or never.
    pub fn datagram(&mut self, from: u32, to: u32) -> [Option<Micros>; 2] {
        let first = self.drawn_delay(from, to);
        let second = self.drawn_delay(from, to);
        let lost = self.rng.permille(self.quality.loss_permille);
        let twice = self.rng.permille(self.quality.repeat_permille);
        self.losses += u64::from(lost);
        self.repeats += u64::from(twice);
        [
            (!lost).then_some(first),
            (twice && !lost).then_some(first + second),
        ]
    }

    /// The same for the group, from random numbers of its own: it must not matter to the group what else goes on.
    pub fn group_datagram(&mut self, from: u32, to: u32) -> [Option<Micros>; 2] {
        let least = self.delay(from, to);
        let first = least + self.group_rng.below(self.quality.jitter + 1);
        let second = least + self.group_rng.below(self.quality.jitter + 1);
        let lost = self.group_rng.permille(self.quality.loss_permille);
        let twice = self.group_rng.permille(self.quality.repeat_permille);
        [
            (!lost).then_some(first),
            (twice && !lost).then_some(first + second),
        ]
    }

    /// How long it takes to connect and be greeted.
    pub fn connect_delay(&self, from: u32, to: u32) -> Micros {
        self.quality.connect_round_trips * (self.delay(from, to) + self.delay(to, from))
    }

    // Connections.

    /// A connection from a listener to an upstream.
    pub fn open(&mut self, listener: (u32, u32, LinkId), upstream: (u32, u32)) -> Key {
        let end = |host, life, name| End {
            host,
            life,
            name,
            open: true,
            coming: VecDeque::new(),
            expected: false,
            blocked: None,
            busy_until: 0,
            late_until: 0,
        };
        let connection = Connection {
            ends: [
                end(upstream.0, upstream.1, None),
                end(listener.0, listener.1, Some(listener.2)),
            ],
            feed: Default::default(),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.generations.push(0);
            (self.connections.len() - 1) as u32
        });
        self.connections[slot as usize] = Some(connection);
        Key(u64::from(self.generations[slot as usize]) << 32 | u64::from(slot))
    }

    fn slot(&self, key: Key) -> Option<usize> {
        let slot = (key.0 & u64::from(u32::MAX)) as usize;
        (u64::from(self.generations[slot]) == key.0 >> 32).then_some(slot)
    }

    /// The connection, if either end still has it.
    pub fn get(&self, key: Key) -> Option<&Connection> {
        self.connections[self.slot(key)?].as_ref()
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut Connection> {
        let slot = self.slot(key)?;
        self.connections[slot].as_mut()
    }

    /// Puts a packet on its way to the end `to`, after `extra`. Returns when an arrival must be posted, if none is.
    pub fn send(
        &mut self,
        now: Micros,
        key: Key,
        to: usize,
        extra: Micros,
        packet: Packet,
    ) -> Option<Micros> {
        let connection = self.get(key)?;
        let (from, host) = (connection.ends[1 - to].host, connection.ends[to].host);
        let mut delay = self.drawn_delay(from, host) + extra;
        if self.rng.permille(self.quality.loss_permille) {
            self.losses += 1;
            delay += self.rng.between(RETRANSMISSION.0, RETRANSMISSION.1);
            if self.rng.permille(self.quality.reset_permille) {
                self.resets += 1;
                return self.enqueue(now + delay, key, to, Packet::Closed);
            }
            let end = &mut self.get_mut(key)?.ends[to];
            end.late_until = end.late_until.max(now + delay);
        }
        self.enqueue(now + delay, key, to, packet)
    }

    fn enqueue(&mut self, at: Micros, key: Key, to: usize, packet: Packet) -> Option<Micros> {
        let end = &mut self.get_mut(key)?.ends[to];
        end.busy_until = end.busy_until.max(at);
        end.coming.push_back((end.busy_until, packet));
        self.to_expect(key, to)
    }

    /// When the next packet of a stream arrives, if an arrival must be posted for it.
    pub fn to_expect(&mut self, key: Key, to: usize) -> Option<Micros> {
        let end = &mut self.get_mut(key)?.ends[to];
        let &(at, _) = end.coming.front()?;
        if end.expected || end.blocked.is_some() {
            return None;
        }
        end.expected = true;
        Some(at)
    }

    /// The next packet that has arrived at an end by now.
    pub fn arrived(&mut self, now: Micros, key: Key, to: usize) -> Option<Packet> {
        let end = &mut self.get_mut(key)?.ends[to];
        let (at, _) = end.coming.front()?;
        if *at > now {
            return None;
        }
        end.coming.pop_front().map(|(_, packet)| packet)
    }

    /// Until when a stream is held up by what was lost or cut off, blocked ones for ever. What is merely on its way is not late.
    pub fn late_until(&self, key: Key, to: usize) -> Micros {
        self.get(key).map_or(0, |connection| {
            let end = &connection.ends[to];
            match end.blocked {
                Some(_) => Micros::MAX,
                None => end.late_until,
            }
        })
    }

    /// Unblocks the streams whose way is free again, and whose machine `is_there`. Returns their ends, with when what waited
    /// arrives.
    pub fn unblock(
        &mut self,
        now: Micros,
        is_there: impl Fn(u32) -> bool,
    ) -> Vec<(Key, usize, Micros)> {
        let mut found = Vec::new();
        for slot in 0..self.connections.len() {
            for to in [UPSTREAM, LISTENER] {
                let Some(connection) = &self.connections[slot] else {
                    continue;
                };
                let (from, host) = (connection.ends[1 - to].host, connection.ends[to].host);
                if connection.ends[to].blocked.is_none()
                    || self.is_cut(from, host)
                    || !is_there(host)
                {
                    continue;
                }
                let after = self.rng.below(RETRANSMISSION.1);
                let end = &mut self.connections[slot].as_mut().expect("it is there").ends[to];
                end.blocked = None;
                end.busy_until = end.busy_until.max(now + after);
                end.late_until = end.busy_until;
                if !end.coming.is_empty() {
                    end.expected = true;
                    let key = Key(u64::from(self.generations[slot]) << 32 | slot as u64);
                    found.push((key, to, now + after));
                }
            }
        }
        found
    }

    /// Forgets a connection that neither end has any more.
    pub fn forget_if_closed(&mut self, key: Key) {
        let Some(slot) = self.slot(key) else { return };
        let closed = self.connections[slot]
            .as_ref()
            .is_some_and(|connection| connection.ends.iter().all(|end| !end.open));
        if closed {
            self.connections[slot] = None;
            self.generations[slot] += 1;
            self.free.push(slot as u32);
        }
    }
}
