//! What the network is at a moment: machines, links, connections with what is under way on them. Knows nothing of futures but wakers.

use super::{DEAD_PEER_TIMEOUT, UNDER_WAY_BYTES};
use crate::engine::{MILLISECOND, Micros};
use crate::rng::Rng;
use crate::system::clock::TICK;
use bytes::{Buf, Bytes};
use std::collections::{BTreeMap, VecDeque};

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

/// Which machine: a position in the list of them.
pub type HostId = usize;

/// When something arrives that nobody can say of when it does.
pub(super) const HELD: Micros = Micros::MAX;

/// How often what is only a matter of time is looked at.
const LOOK: Micros = 100 * MILLISECOND;

/// The longest time that nobody accepts a connection.
const LATE_ACCEPT: Micros = 3_000 * MILLISECOND;

/// What a network is like before anything goes wrong in it.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The shortest time from one machine to another.
    pub window: Micros,
    /// How much longer than that a link takes, at most; each has its own length.
    pub spread: Micros,
    /// How much longer again a single packet takes, at most.
    pub jitter: Micros,
    /// Bytes per second on a link.
    pub bytes_per_second: u64,
    /// Writes in a thousand of which only a part is taken at once.
    pub short_writes_permille: u64,
    /// Connections in a thousand that nobody accepts for a while.
    pub late_accepts_permille: u64,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both sides are told at once, by a reset.
    Reset,
    /// The process is gone and its machine says so: what it sent still arrives.
    Closed,
    /// The machine is gone and says nothing.
    Silent,
}

/// The network. Clones of the `Arc` are the same.
pub struct Net {
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) shape: Shape,
    pub(super) now: Micros,
    next_look: Micros,
    hosts: Vec<Host>,
    links: BTreeMap<(HostId, HostId), Link>,
    pub(super) listening: BTreeMap<String, Place>,
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    /// Connections that ended before their time: resets, timeouts.
    pub(super) broken: u64,
}

struct Host {
    name: String,
    /// Whether the machine has power.
    is_up: bool,
    /// Counts the processes: what belongs to an earlier one is dead.
    life: u32,
}

struct Link {
    latency: Micros,
    /// How much longer everything takes.
    slowed: u64,
    is_cut: bool,
    busy_until: Micros,
}

/// Who listens at an address.
pub(super) struct Place {
    pub(super) host: HostId,
    pub(super) life: u32,
    pub(super) arriving: VecDeque<(Micros, u64)>,
    pub(super) waker: Option<Waker>,
}

/// One connection; side 0 opened it.
pub(super) struct Conn {
    hosts: [HostId; 2],
    /// What each side has written.
    pipes: [Pipe; 2],
    /// Sides that are told that the connection is broken.
    reset: [bool; 2],
    /// Sides whose process is gone.
    dead: [bool; 2],
    /// Halves that a side has let go of.
    let_go: [u8; 2],
    /// Since when nothing gets through.
    stuck_since: Option<Micros>,
    is_silent: bool,
}

#[derive(Default)]
pub(super) struct Pipe {
    under_way: VecDeque<(Micros, Bytes)>,
    bytes: usize,
    last_at: Micros,
    /// When the end arrives, if the writer has ended it.
    end_at: Option<Micros>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a reader finds.
pub(super) enum Readable {
    Bytes(usize),
    End,
    Reset,
    /// Nothing yet; the next thing comes at this time, if that is known.
    Nothing(Option<Micros>),
}

/// What a writer finds.
pub(super) enum Writable {
    Taken(usize),
    Broken,
    Full,
}

impl Net {
    /// A network of machines with these names, all up.
    pub fn new(names: &[&str], shape: Shape, mut rng: Rng) -> Arc<Net> {
        let mut links = BTreeMap::new();
        for from in 0..names.len() {
            for to in 0..names.len() {
                let latency = shape.window + TICK * rng.below(shape.spread / TICK + 1);
                let link = Link {
                    latency,
                    slowed: 1,
                    is_cut: false,
                    busy_until: 0,
                };
                links.insert((from, to), link);
            }
        }
        let host = |name: &&str| Host {
            name: name.to_string(),
            is_up: true,
            life: 0,
        };
        Arc::new(Net {
            state: Mutex::new(State {
                rng,
                shape,
                now: 0,
                next_look: 0,
                hosts: names.iter().map(host).collect(),
                links,
                listening: BTreeMap::new(),
                conns: BTreeMap::new(),
                next_conn: 0,
                broken: 0,
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("a thread panicked while it used the network")
    }

    /// A process begins on a machine, which has power from now on. Returns which of its processes it is.
    pub fn start(&self, host: HostId) -> u32 {
        let state = &mut *self.lock();
        state.hosts[host].is_up = true;
        state.hosts[host].life += 1;
        state.hosts[host].life
    }

    /// The process of a machine ends, and with it all its connections, in this way.
    pub fn stop(&self, host: HostId, how: Cut) {
        let state = &mut *self.lock();
        state.hosts[host].life += 1;
        if how == Cut::Silent {
            state.hosts[host].is_up = false;
        }
        state.listening.retain(|_, place| place.host != host);
        let conns: Vec<u64> = state.conns_of(host).collect();
        for conn in conns {
            state.end_side(conn, host, how);
        }
    }

    /// Cuts or mends the link in one direction.
    pub fn set_cut(&self, from: HostId, to: HostId, cut: bool) {
        let state = &mut *self.lock();
        let link = state.link(from, to);
        if std::mem::replace(&mut link.is_cut, cut) && !cut {
            state.send_again(from, to);
        }
    }

    /// Whether the link in this direction is cut.
    pub fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.lock().link(from, to).is_cut
    }

    /// Makes everything on the link in one direction take so many times as long.
    pub fn set_slowed(&self, from: HostId, to: HostId, times: u64) {
        self.lock().link(from, to).slowed = times.max(1);
    }

    /// Breaks the connections between two machines. What was under way may arrive in part. Returns how many there were.
    pub fn reset(&self, one: HostId, other: HostId) -> usize {
        let state = &mut *self.lock();
        let between = |conn: &Conn| conn.hosts == [one, other] || conn.hosts == [other, one];
        let conns: Vec<u64> = state
            .conns
            .iter()
            .filter(|(_, conn)| between(conn))
            .map(|(id, _)| *id)
            .collect();
        for conn in &conns {
            state.break_conn(*conn);
        }
        conns.len()
    }

    /// It is `now`. What is a matter of time happens.
    pub fn tick(&self, now: Micros) {
        let state = &mut *self.lock();
        state.now = now;
        if now >= state.next_look {
            state.next_look = now + LOOK;
            state.look();
        }
    }

    /// Connections that broke or timed out so far.
    pub fn broken(&self) -> u64 {
        self.lock().broken
    }
}

impl State {
    fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        self.links
            .get_mut(&(from, to))
            .expect("there is a link between any two machines")
    }

    /// The machine that an address names.
    pub(super) fn host_of(&self, address: &str) -> Option<HostId> {
        let (name, _) = address.rsplit_once(':')?;
        self.hosts.iter().position(|host| host.name == name)
    }

    pub(super) fn is_up(&self, host: HostId) -> bool {
        self.hosts[host].is_up
    }

    pub(super) fn is_alive(&self, host: HostId, life: u32) -> bool {
        self.hosts[host].life == life
    }

    /// When a small packet sent `now` arrives; [`HELD`] if the link is cut.
    pub(super) fn packet(&mut self, from: HostId, to: HostId, now: Micros) -> Micros {
        self.arrival(from, to, now, 0)
    }

    fn arrival(&mut self, from: HostId, to: HostId, now: Micros, bytes: usize) -> Micros {
        let jitter = TICK * self.rng.below(self.shape.jitter / TICK + 1);
        let rate = self.shape.bytes_per_second;
        let link = self.link(from, to);
        if link.is_cut {
            return HELD;
        }
        let sending = bytes as u64 * 1_000_000 * link.slowed / rate;
        link.busy_until = link.busy_until.max(now) + sending;
        let at = link.busy_until + (link.latency + jitter) * link.slowed;
        at.next_multiple_of(TICK)
    }

    /// When a connection that arrives `now` is there to be accepted.
    pub(super) fn acceptable(&mut self, now: Micros) -> Micros {
        let mut at = now + self.shape.window;
        if self.rng.permille(self.shape.late_accepts_permille) {
            at += TICK * self.rng.below(LATE_ACCEPT / TICK);
        }
        at
    }

    fn conns_of(&self, host: HostId) -> impl Iterator<Item = u64> {
        let conns = self.conns.iter();
        conns
            .filter(move |(_, conn)| conn.hosts.contains(&host))
            .map(|(id, _)| *id)
    }

    /// A connection from one machine to another.
    pub(super) fn connect(&mut self, from: HostId, to: HostId) -> u64 {
        let id = self.next_conn;
        self.next_conn += 1;
        let conn = Conn {
            hosts: [from, to],
            pipes: Default::default(),
            reset: [false; 2],
            dead: [false; 2],
            let_go: [0; 2],
            stuck_since: None,
            is_silent: false,
        };
        self.conns.insert(id, conn);
        id
    }

    pub(super) fn read(
        &mut self,
        id: u64,
        side: usize,
        now: Micros,
        buffer: &mut [u8],
        waker: &Waker,
    ) -> Readable {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.dead[side]) else {
            return Readable::Reset;
        };
        let pipe = &mut conn.pipes[1 - side];
        let next = pipe.under_way.front().map(|(at, _)| *at).or(pipe.end_at);
        match next {
            Some(at) if at <= now => {}
            _ if conn.reset[side] => return Readable::Reset,
            _ => {
                pipe.reader = Some(waker.clone());
                return Readable::Nothing(next.filter(|at| *at != HELD));
            }
        }
        let Some((_, front)) = pipe.under_way.front_mut() else {
            return match conn.reset[side] {
                true => Readable::Reset,
                false => Readable::End,
            };
        };
        let count = front.len().min(buffer.len());
        front.copy_to_slice(&mut buffer[..count]);
        pipe.bytes -= count;
        if front.is_empty() {
            pipe.under_way.pop_front();
        }
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Readable::Bytes(count)
    }

    pub(super) fn write(
        &mut self,
        id: u64,
        side: usize,
        now: Micros,
        bytes: &[u8],
        waker: &Waker,
    ) -> Writable {
        let short = self.rng.permille(self.shape.short_writes_permille);
        let Some(conn) = self.conns.get_mut(&id) else {
            return Writable::Broken;
        };
        let pipe = &mut conn.pipes[side];
        if conn.reset[side] || conn.dead[side] || pipe.end_at.is_some() {
            return Writable::Broken;
        }
        // The other side has closed its socket: the first bytes that arrive there are answered by a reset.
        if conn.let_go[1 - side] == 2 {
            self.break_conn(id);
            return Writable::Broken;
        }
        let room = UNDER_WAY_BYTES.saturating_sub(pipe.bytes);
        if room == 0 {
            pipe.writer = Some(waker.clone());
            return Writable::Full;
        }
        let mut count = bytes.len().min(room);
        if short {
            count = 1 + self.rng.below(count as u64) as usize;
        }
        let [from, to] = conn_ends(&self.conns[&id], side);
        let silent = self.conns[&id].is_silent;
        let at = match silent {
            true => HELD,
            false => self.arrival(from, to, now, count),
        };
        let pipe = &mut self.conn(id).pipes[side];
        pipe.last_at = pipe.last_at.max(at);
        pipe.bytes += count;
        let bytes = Bytes::copy_from_slice(&bytes[..count]);
        pipe.under_way.push_back((pipe.last_at, bytes));
        wake(&mut pipe.reader);
        Writable::Taken(count)
    }

    fn conn(&mut self, id: u64) -> &mut Conn {
        self.conns.get_mut(&id).expect("the connection is there")
    }

    /// One side writes no more.
    pub(super) fn end_writing(&mut self, id: u64, side: usize, now: Micros) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        if conn.dead[side] || conn.reset[side] || conn.pipes[side].end_at.is_some() {
            return;
        }
        let [from, to] = conn_ends(conn, side);
        let at = self.packet(from, to, now);
        let pipe = &mut self.conn(id).pipes[side];
        pipe.last_at = pipe.last_at.max(at);
        pipe.end_at = Some(pipe.last_at);
        wake(&mut pipe.reader);
    }

    /// One side lets go of a half. A connection of which nobody holds anything is forgotten.
    pub(super) fn let_go(&mut self, id: u64, side: usize, is_writer: bool, now: Micros) {
        if is_writer {
            self.end_writing(id, side, now);
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.let_go[side] += 1;
        if (0..2).all(|side| conn.dead[side] || conn.let_go[side] == 2) {
            self.conns.remove(&id);
        }
    }

    /// The process on one side is gone.
    fn end_side(&mut self, id: u64, host: HostId, how: Cut) {
        let conn = &self.conns[&id];
        let side = usize::from(conn.hosts[0] != host);
        match how {
            Cut::Closed => self.end_writing(id, side, self.now),
            Cut::Silent => self.conn(id).is_silent = true,
            Cut::Reset => self.break_conn(id),
        }
        let conn = self.conn(id);
        conn.dead[side] = true;
        conn.let_go[side] = 2;
        if conn.dead[1 - side] {
            self.conns.remove(&id);
        }
    }

    /// Both sides find the connection broken, after a part of what was under way.
    fn break_conn(&mut self, id: u64) {
        self.broken += 1;
        let now = self.now;
        let mut kept = [0, 0];
        for (side, kept) in kept.iter_mut().enumerate() {
            *kept = self.rng.below(self.conns[&id].pipes[side].bytes as u64 + 1) as usize;
        }
        let conn = self.conn(id);
        conn.reset = [true; 2];
        for (pipe, kept) in conn.pipes.iter_mut().zip(kept) {
            pipe.cut_at(kept, now);
        }
    }

    /// A link works again: what waited is sent now.
    fn send_again(&mut self, from: HostId, to: HostId) {
        let now = self.now;
        let conns: Vec<u64> = self.conns_of(from).collect();
        for id in conns {
            for side in 0..2 {
                if conn_ends(&self.conns[&id], side) == [from, to] && !self.conns[&id].is_silent {
                    let at = self.packet(from, to, now);
                    self.conn(id).pipes[side].release(at);
                }
            }
        }
    }

    /// Ends what has been stuck for too long, and connections to machines that have come back and know nothing of them.
    fn look(&mut self) {
        let now = self.now;
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for id in ids {
            let [one, other] = self.conns[&id].hosts;
            let is_back = {
                let conn = &self.conns[&id];
                conn.is_silent && (0..2).all(|side| self.hosts[conn.hosts[side]].is_up)
            };
            let is_stuck = self.conns[&id].is_silent
                || self.link(one, other).is_cut
                || self.link(other, one).is_cut;
            let conn = self.conn(id);
            conn.stuck_since = match is_stuck {
                true => conn.stuck_since.or(Some(now)),
                false => None,
            };
            let timed_out = conn
                .stuck_since
                .is_some_and(|since| now >= since + DEAD_PEER_TIMEOUT);
            if (is_back || timed_out) && conn.reset != [true; 2] {
                self.break_conn(id);
            }
        }
    }
}

impl Pipe {
    /// Keeps the first `keep` bytes, which arrive now, and ends after them.
    fn cut_at(&mut self, mut keep: usize, now: Micros) {
        let mut kept = VecDeque::new();
        for (_, mut bytes) in self.under_way.drain(..) {
            bytes.truncate(keep);
            keep -= bytes.len();
            if !bytes.is_empty() {
                kept.push_back((now, bytes));
            }
        }
        self.bytes = kept.iter().map(|(_, bytes)| bytes.len()).sum();
        self.under_way = kept;
        self.end_at = Some(now);
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// What is held arrives at this time.
    fn release(&mut self, at: Micros) {
        if at == HELD {
            return;
        }
        let before = self.under_way.iter().map(|(at, _)| *at);
        let latest = before.filter(|at| *at != HELD).max().unwrap_or(0).max(at);
        for (arrives, _) in &mut self.under_way {
            if *arrives == HELD {
                *arrives = latest;
            }
        }
        if self.end_at == Some(HELD) {
            self.end_at = Some(latest);
        }
        if self.last_at == HELD {
            self.last_at = latest;
        }
        wake(&mut self.reader);
    }
}

/// From which machine to which a side writes.
fn conn_ends(conn: &Conn, side: usize) -> [HostId; 2] {
    [conn.hosts[side], conn.hosts[1 - side]]
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
