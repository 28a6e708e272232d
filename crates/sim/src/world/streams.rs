//! What arrives on connections, what never does, and how they end.

use super::{Event, World};
use crate::host::{Power, host_of};
use crate::network::{DEAD_PEER_TIMEOUT, Key, LISTENER, Packet, UPSTREAM};
use eaves_tree::{LinkId, LogVerdict, Message, Register};

impl World {
    /// Puts a packet on its way to an end of a connection.
    pub(super) fn send_packet(&mut self, key: Key, to: usize, extra: u64, packet: Packet) {
        let now = self.queue.now();
        if let Some(at) = self.network.send(now, key, to, extra, packet) {
            self.queue.post_at(at, Event::Arrive { key, to });
        }
    }

    pub(super) fn on_arrival(&mut self, key: Key, to: usize) {
        let now = self.queue.now();
        let Some(connection) = self.network.get_mut(key) else {
            return;
        };
        connection.ends[to].expected = false;
        let (from, host) = (connection.ends[1 - to].host, connection.ends[to].host);
        let (open, life) = (connection.ends[to].open, connection.ends[to].life);
        if self.network.is_cut(from, host) || self.host(host).power == Power::Silent {
            let end = &mut self.network.get_mut(key).expect("it was there").ends[to];
            end.blocked = Some(now);
            self.queue
                .post(DEAD_PEER_TIMEOUT, Event::Unacknowledged { key, to });
            return;
        }
        // A first packet finds whatever process runs there now.
        let is_first = to == UPSTREAM
            && self
                .network
                .get(key)
                .is_some_and(|connection| connection.ends[to].name.is_none());
        let alive = open
            && self.hosts[host as usize].node.is_some()
            && (is_first || self.host(host).life == life);
        if !alive {
            return self.reset(key, to);
        }
        if self.host(host).power == Power::Paused {
            self.host(host).inbox.push(Event::Arrive { key, to });
            self.network.get_mut(key).expect("it was there").ends[to].expected = true;
            return;
        }
        while let Some(packet) = self.network.arrived(now, key, to) {
            self.deliver(key, to, host, packet);
        }
        if let Some(at) = self.network.to_expect(key, to) {
            self.queue.post_at(at, Event::Arrive { key, to });
        }
    }

    fn deliver(&mut self, key: Key, to: usize, host: u32, packet: Packet) {
        let Some(end) = self.network.get(key).map(|connection| &connection.ends[to]) else {
            return;
        };
        // What still comes on a connection that this side has closed is nobody's.
        if !end.open {
            return;
        }
        if let Packet::Register(register) = packet {
            return self.deliver_register(key, host, *register);
        }
        let Some(link) = end.name else { return };
        if !matches!(packet, Packet::Closed) {
            let heard = &mut self.host(host).heard;
            if !heard.contains(&link) {
                heard.push(link);
            }
        }
        match packet {
            Packet::Register(_) => unreachable!("dealt with above"),
            Packet::Session(message) => {
                if matches!(message, Message::Accept(_) | Message::Refuse(_)) {
                    self.ledger.message(host);
                }
                self.trace
                    .fold(self.queue.now(), host, [10, key.0, to as u64]);
                self.report(host, |node, now| {
                    node.handle_session_message(now, link, message)
                });
            }
            Packet::Closed => {
                self.network.get_mut(key).expect("it was there").ends[to].open = false;
                self.forget_link(host, link, key);
                self.link_closed(host, link);
            }
            Packet::FeedFrom(end) => self.on_feed_from(key, host, end),
            Packet::NeedSnapshot => self.fetch_snapshot(key, host),
            Packet::Mismatch => self.on_mismatch(host, link),
            Packet::FeedStart => self.on_feed_start(host),
            Packet::Entries(first, entries) => self.on_entries(key, host, link, first, &entries),
            Packet::Position(index) => self.on_position(key, host, index),
        }
    }

    fn deliver_register(&mut self, key: Key, host: u32, register: Register) {
        let link = LinkId::Down(key.0);
        let life = self.host(host).life;
        let connection = self.network.get_mut(key).expect("a packet came on it");
        connection.ends[UPSTREAM].name = Some(link);
        connection.ends[UPSTREAM].life = life;
        self.host(host).links.push((link, key));
        let verdict = self.verdict(host, register.last_log);
        self.trace
            .fold(self.queue.now(), host, [11, key.0, register.listener.id.0]);
        let listener = host_of(register.listener.id);
        let differs = matches!(verdict, LogVerdict::Differs { .. });
        self.report(host, |node, now| {
            node.handle_register(now, link, register, verdict)
        });
        self.checks.registered(
            self.queue.now(),
            (host, link),
            listener,
            differs,
            &self.hosts,
        );
    }

    fn link_closed(&mut self, host: u32, link: LinkId) {
        self.trace.note(
            self.queue.now(),
            host,
            [12, u64::from(matches!(link, LinkId::Up(_))), 0],
            || format!("sees {link} closed"),
        );
        self.report(host, |node, now| node.handle_link_closed(now, link));
    }

    pub(super) fn on_link_closed(&mut self, host: u32, life: u32, link: LinkId) {
        if !self.is_gone(host, life) {
            self.link_closed(host, link);
        }
    }

    /// The sender of what waits before this end has had no sign of life: its kernel ends the connection.
    pub(super) fn on_unacknowledged(&mut self, key: Key, to: usize) {
        let now = self.queue.now();
        let Some(connection) = self.network.get_mut(key) else {
            return;
        };
        if connection.ends[to]
            .blocked
            .is_none_or(|since| since + DEAD_PEER_TIMEOUT > now)
        {
            return;
        }
        connection.ends[to].coming.clear();
        let sender = &mut connection.ends[1 - to];
        if !sender.open {
            return;
        }
        sender.open = false;
        let (host, life) = (sender.host, sender.life);
        let name = sender.name.expect("who sends knows the connection");
        self.forget_link(host, name, key);
        self.dispatch(Event::LinkClosed {
            host,
            life,
            link: name,
        });
    }

    /// What arrived found no process that knows the connection: the other end is told so.
    fn reset(&mut self, key: Key, to: usize) {
        let connection = self.network.get_mut(key).expect("something arrived on it");
        connection.ends[to].open = false;
        connection.ends[to].coming.clear();
        if connection.ends[1 - to].open {
            self.send_packet(key, 1 - to, 0, Packet::Closed);
        }
        self.network.forget_if_closed(key);
    }

    /// A process closes its end, after what it has sent.
    pub(super) fn close_link(&mut self, host: u32, link: LinkId) {
        let Some(key) = self.host(host).key_of(link) else {
            return;
        };
        let to = match link {
            LinkId::Up(_) => UPSTREAM,
            LinkId::Down(_) => LISTENER,
        };
        self.close_end(key, 1 - to);
        self.forget_link(host, link, key);
    }

    /// Closes an end of a connection and lets the other know.
    pub(super) fn close_end(&mut self, key: Key, end: usize) {
        let Some(connection) = self.network.get_mut(key) else {
            return;
        };
        if !connection.ends[end].open {
            return;
        }
        connection.ends[end].open = false;
        if connection.ends[1 - end].open {
            self.send_packet(key, 1 - end, 0, Packet::Closed);
        }
    }

    fn forget_link(&mut self, host: u32, link: LinkId, key: Key) {
        self.host(host).links.retain(|known| known.0 != link);
        self.network.forget_if_closed(key);
    }

    /// Streams that waited behind a cut, or before a dead machine, go on.
    pub(crate) fn release_streams(&mut self) {
        let (now, hosts) = (self.queue.now(), &self.hosts);
        let is_there = |host: u32| hosts[host as usize].power != Power::Silent;
        for (key, to, at) in self.network.unblock(now, is_there) {
            self.queue.post_at(at, Event::Arrive { key, to });
        }
    }
}
