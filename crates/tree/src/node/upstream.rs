//! A node as an upstream: it answers questions, takes listeners on, heartbeats them, and lets them go (`S7`, `S9` to `S12`,
//! `B16`).
//! A leader is one too, as far as it answers and refuses (`S1`); it keeps nothing about who asks (`S2`).

use super::TreeNode;
use crate::config::PROTOCOL_VERSION;
use crate::downstreams::Downstream;
use crate::ids::{LinkId, NodeId, Peer, Zone};
use crate::message::{
    Accept, Alternative, Answer, HeartbeatAck, Kick, KickReason, LogVerdict, Message, Place,
    Refuse, RefuseReason, Register, Role,
};
use crate::mutation::Mutation;
use crate::output::{Event, Left, Output};
use crate::time::Instant;
use crate::timers::Timer;
use alloc::vec::Vec;

impl TreeNode {
    /// A node in `zone` asks (`S7`). Answered at once, whatever this node is.
    pub fn handle_ask(&mut self, now: Instant, from: NodeId, zone: Option<&Zone>) -> Answer {
        let registered = self.downstreams.kept_from(from, self.committed);
        Answer {
            role: self.role,
            attached: self.is_attached(),
            stale: self.is_stale(now),
            age: self.age(now),
            draining: self.saved.steering.draining,
            uncompared: !self.may_feed(),
            path: self.path.clone(),
            zone: self.config.zone.clone(),
            capacity: self.config.capacity,
            registered,
            free: self.free_places(),
            committed: self.committed,
            alternatives: self.alternatives(from, zone, registered >= self.config.capacity),
        }
    }

    /// A listener asks to be fed, on a connection this side has numbered `link` (`S9`). `log` is what this node's own log
    /// says about the listener's (`B12`).
    pub fn handle_register(
        &mut self,
        now: Instant,
        link: LinkId,
        register: Register,
        log: LogVerdict,
    ) {
        assert!(
            matches!(link, LinkId::Down(_)),
            "a registration came on {link}, which this node opened"
        );
        if self.downstreams.get_mut(link).is_some() {
            self.let_go(link, Left::Misbehaved);
        } else if let Some(reason) = self.reason_to_refuse(&register, log) {
            self.refuse(link, &register, reason);
        } else {
            self.accept(now, link, register);
        }
        self.check();
    }

    /// Kicks a downstream off (`S12`). Returns whether it was registered.
    pub fn kick(&mut self, _now: Instant, listener: NodeId) -> bool {
        let link = self.downstreams.link_of(listener);
        if let Some(link) = link {
            self.kick_link(link, KickReason::Admin);
        }
        self.check();
        link.is_some()
    }

    pub(super) fn handle_downstream_message(
        &mut self,
        now: Instant,
        link: LinkId,
        message: Message,
    ) {
        match message {
            Message::HeartbeatAck(ack) => self.handle_ack(now, link, ack),
            Message::Leave(reason) => self.let_go(link, Left::Said(reason)),
            Message::Accept(_) | Message::Refuse(_) | Message::Heartbeat(_) | Message::Kick(_) => {
                self.let_go(link, Left::Misbehaved)
            }
        }
    }

    pub(super) fn downstream_link_closed(&mut self, link: LinkId) {
        if self.downstreams.get_mut(link).is_some() {
            self.let_go(link, Left::Closed);
        }
    }

    /// Heartbeats every downstream (`S11`). Without allocating, once the output queue has grown.
    ///
    /// A listener relays its upstream's heartbeat at once, so that what the root says is as fresh at depth ten as at depth
    /// one (`B8`). Its own timer is only there for an upstream that falls silent, and waits half an interval longer.
    pub(super) fn heartbeat_downstreams(&mut self, now: Instant) {
        if self.downstreams.is_empty() {
            self.timers.stop(Timer::Heartbeat);
            return;
        }
        let state = self.state(now);
        for downstream in self.downstreams.iter() {
            self.outputs.push_back(Output::Send {
                link: downstream.link,
                message: Message::Heartbeat(state.clone()),
            });
        }
        self.set_heartbeat_timer(now);
    }

    /// Kicks all downstreams that have been silent for the timeout (`S11`).
    pub(super) fn kick_silent(&mut self, now: Instant) {
        while let Some(link) = self.downstreams.first_silent(now, self.config.timeout) {
            self.kick_link(link, KickReason::Silent);
        }
        if let Some(at) = self.downstreams.next_silent(self.config.timeout) {
            self.timers.set(Timer::Reap, at);
        }
    }

    /// From now on those who have waited to be compared for long enough make room for who need not wait (`B11`). Their places
    /// count as free.
    pub(super) fn end_patience(&mut self, now: Instant) {
        let patience = self.config.compare_patience;
        self.downstreams.note_overdue(now, patience);
        if let Some(at) = self.downstreams.next_overdue(patience) {
            self.timers.set(Timer::Patience, at);
        }
        self.report_if_moved();
    }

    /// Kicks all downstreams off (`S10`).
    pub(super) fn kick_all(&mut self, reason: KickReason) {
        while let Some(link) = self.downstreams.first_link() {
            self.kick_link(link, reason);
        }
        assert!(
            self.downstreams.is_empty(),
            "a downstream survived its kick"
        );
    }

    fn kick_link(&mut self, link: LinkId, reason: KickReason) {
        let Some(downstream) = self.downstreams.get_mut(link) else {
            return;
        };
        let (listener, zone) = (downstream.peer.id, downstream.zone.clone());
        // B2: when all are kicked, no downstream is an alternative.
        let alternatives = match reason {
            KickReason::Leader => self.voters_for(listener),
            KickReason::Silent | KickReason::Admin | KickReason::Drain | KickReason::Uncompared => {
                self.alternatives(listener, zone.as_ref(), true)
            }
        };
        self.send(
            link,
            Message::Kick(Kick {
                reason,
                alternatives,
            }),
        );
        self.let_go(link, Left::Kicked(reason));
    }

    /// What speaks against taking a listener on (`S9`, `S10`, `B1`, `B11`, `B12`). Identity first: a stranger learns nothing more.
    fn reason_to_refuse(&self, register: &Register, log: LogVerdict) -> Option<RefuseReason> {
        let listener = register.listener.id;
        if register.protocol != PROTOCOL_VERSION {
            return Some(RefuseReason::Protocol {
                ours: PROTOCOL_VERSION,
            });
        }
        if register.cluster != self.config.cluster {
            return Some(RefuseReason::Cluster {
                ours: self.config.cluster,
            });
        }
        // Before its own log is compared it compares nobody's.
        if !self.may_feed() {
            return Some(RefuseReason::Uncompared);
        }
        if let LogVerdict::Differs { ours } = log
            && !self.config.lacks(Mutation::B12)
        {
            return Some(RefuseReason::Log { ours });
        }
        if self.role == Role::Leader {
            return Some(RefuseReason::Leader);
        }
        if self.path.contains(listener) && !self.config.lacks(Mutation::B1) {
            return Some(RefuseReason::Loop);
        }
        if !self.is_attached() {
            return Some(RefuseReason::Detached);
        }
        if self.path.is_full() {
            return Some(RefuseReason::TooDeep);
        }
        if self.saved.steering.draining {
            return Some(RefuseReason::Draining);
        }
        let taken = match self.would_wait(register) {
            true => self.downstreams.taken_by_others_than(listener),
            false => self.downstreams.kept_from(listener, self.committed),
        };
        if taken >= self.config.capacity && !self.config.lacks(Mutation::S9) {
            return Some(RefuseReason::Full);
        }
        None
    }

    /// Whether a listener would have to wait until this node has come as far as the log it started with (`B11`).
    fn would_wait(&self, register: &Register) -> bool {
        register.uncompared && register.last_log.position.index > self.committed.index
    }

    fn refuse(&mut self, link: LinkId, register: &Register, reason: RefuseReason) {
        let alternatives = match reason {
            RefuseReason::Protocol { .. } | RefuseReason::Cluster { .. } => Vec::new(),
            _ => self.alternatives(
                register.listener.id,
                register.zone.as_ref(),
                reason == RefuseReason::Full,
            ),
        };
        self.send(
            link,
            Message::Refuse(Refuse {
                reason,
                alternatives,
            }),
        );
        self.output(Output::Close { link });
    }

    /// Takes a listener on. An older session of the same listener ends: it is the listener's ghost (`S9`). If all slots are taken,
    /// one that has waited too long makes room (`B11`).
    fn accept(&mut self, now: Instant, link: LinkId, register: Register) {
        let waits = self.would_wait(&register);
        let listener = register.listener;
        if let Some(ghost) = self.downstreams.link_of(listener.id) {
            self.let_go(ghost, Left::Replaced);
        }
        if self.downstreams.is_full()
            && let Some(waiting) = self.downstreams.first_to_yield(self.committed)
        {
            self.kick_link(waiting, KickReason::Uncompared);
        }
        let siblings = self.downstreams.siblings(listener.id);
        self.downstreams.insert(Downstream {
            peer: listener.clone(),
            link,
            zone: register.zone,
            since: now,
            heard: now,
            committed: register.last_log.position,
            free: register.free,
            waits_for: waits.then_some(register.last_log.position.index),
            overdue: false,
        });
        let ancestors = self
            .session
            .as_ref()
            .map_or(Vec::new(), |session| session.ancestors.clone());
        let mut voters = self.voters.clone();
        if self.role == Role::Follower {
            voters.insert(0, self.peer());
        }
        self.send(
            link,
            Message::Accept(Accept {
                heartbeat: self.state(now),
                zone: self.config.zone.clone(),
                voters,
                ancestors,
                siblings,
            }),
        );
        self.output(Output::StartFeeding {
            link,
            listener: listener.clone(),
            from: register.last_log.position,
        });
        self.event(Event::Joined {
            listener: listener.id,
        });
        self.report_if_moved();
        if !self.timers.is_set(Timer::Heartbeat) {
            self.set_heartbeat_timer(now);
        }
        if !self.timers.is_set(Timer::Reap) {
            self.timers.set(Timer::Reap, now + self.config.timeout);
        }
        let may_yield = waits && !self.config.lacks(Mutation::B11Yielding);
        if may_yield && !self.timers.is_set(Timer::Patience) {
            let until = now + self.config.compare_patience;
            self.timers.set(Timer::Patience, until);
        }
    }

    fn set_heartbeat_timer(&mut self, now: Instant) {
        let relays = self.session.is_some();
        let after = if relays {
            self.config.heartbeat * 3 / 2
        } else {
            self.config.heartbeat
        };
        self.timers.set(Timer::Heartbeat, now + after);
    }

    fn handle_ack(&mut self, now: Instant, link: LinkId, ack: HeartbeatAck) {
        let Some(downstream) = self.downstreams.get_mut(link) else {
            self.output(Output::Close { link });
            return;
        };
        downstream.heard = now;
        downstream.committed = ack.committed;
        downstream.free = ack.free;
        self.report_if_moved();
    }

    /// Ends a session with a downstream, if there is one on this connection, and the connection in any case.
    fn let_go(&mut self, link: LinkId, why: Left) {
        if let Some(downstream) = self.downstreams.remove(link) {
            self.output(Output::StopFeeding { link });
            self.event(Event::Left {
                listener: downstream.peer.id,
                why,
            });
            if self.saved.steering.draining && self.downstreams.is_empty() {
                self.timers.stop(Timer::Drain);
                self.event(Event::Drained);
            }
            self.report_if_moved();
        }
        self.output(Output::Close { link });
    }

    /// Who to try instead (`B2`): all voters, then up to two downstreams. The downstreams of a detached node are as detached
    /// as itself and help nobody.
    fn alternatives(
        &mut self,
        asker: NodeId,
        zone: Option<&Zone>,
        giving_out: bool,
    ) -> Vec<Alternative> {
        let mut alternatives = self.voters_for(asker);
        if self.is_attached() {
            alternatives.append(
                &mut self
                    .downstreams
                    .name(asker, zone, giving_out, &mut self.rng),
            );
        }
        alternatives
    }

    fn voters_for(&self, asker: NodeId) -> Vec<Alternative> {
        let leader = self.leader();
        let place = |voter: &Peer| {
            if Some(voter.id) == leader {
                Place::Leader
            } else {
                Place::Voter
            }
        };
        let others = self.voters.iter().filter(|voter| voter.id != asker);
        others
            .map(|voter| Alternative {
                peer: voter.clone(),
                place: place(voter),
            })
            .collect()
    }
}
