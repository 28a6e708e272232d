//! What arrives at a node, and what becomes of it.

use super::*;

impl Net {
    /// Between whom a delivery goes, sender first.
    pub(super) fn ends(&self, delivery: &Delivery) -> Option<(u64, u64)> {
        match delivery {
            Delivery::Ask { from, to } | Delivery::AskFailed { from: to, to: from } => {
                Some((*from, *to))
            }
            Delivery::Answer { from, to, .. } | Delivery::Busy { from, to } => Some((*from, *to)),
            Delivery::Register { link, .. } => {
                Some((self.links[*link].from.0, self.links[*link].to.0))
            }
            Delivery::Message { link, up, .. } | Delivery::Closed { link, up } => {
                let (down_end, up_end) = (self.links[*link].from.0, self.links[*link].to.0);
                Some(if *up {
                    (down_end, up_end)
                } else {
                    (up_end, down_end)
                })
            }
            Delivery::Written { .. } | Delivery::LeaderBeat => None,
        }
    }

    pub(super) fn deliver(&mut self, delivery: Delivery) {
        if let Some((from, to)) = self.ends(&delivery)
            && self.is_cut(from, to)
        {
            self.held.push(delivery);
            return;
        }
        match delivery {
            Delivery::Ask { from, to } => self.deliver_ask(from, to),
            Delivery::Answer { from, to, answer } => {
                self.with(to, |node, now| {
                    node.handle_answer(now, &address(from), answer)
                });
            }
            Delivery::AskFailed { from, to } => {
                self.with(from, |node, now| node.handle_ask_failed(now, &address(to)));
            }
            Delivery::Busy { from, to } => {
                self.with(to, |node, now| {
                    node.handle_busy(now, &address(from), BUSY_RETRY_AFTER)
                });
            }
            Delivery::Register { link, register } => self.deliver_register(link, register),
            Delivery::Message { link, up, message } => self.deliver_message(link, up, message),
            Delivery::Closed { link, up } => self.deliver_closed(link, up),
            Delivery::Written {
                node,
                life,
                version,
                saved,
            } => {
                if self.hosts[&node].life == life {
                    self.hosts.get_mut(&node).unwrap().disk = saved;
                    self.with(node, |node, now| node.handle_persisted(now, version));
                }
            }
            Delivery::LeaderBeat => {
                for id in self.voters() {
                    if let Some(leader) = self.leader
                        && leader != id
                        && self.is_up(leader)
                        && !self.is_cut(leader, id)
                    {
                        self.with(id, |node, now| node.handle_leader_heard(now));
                    }
                }
                self.post(LEADER_BEAT, Delivery::LeaderBeat);
            }
        }
    }

    fn deliver_ask(&mut self, from: u64, to: u64) {
        let Some(host) = self.hosts.get(&to) else {
            return self.post(self.delay, Delivery::AskFailed { from, to });
        };
        if host.silent {
            return;
        }
        if self.now < host.busy_until {
            self.show(to, from, "busy".into());
            let delay = self.delay_between(from, to);
            return self.post(delay, Delivery::Busy { from: to, to: from });
        }
        let zone = self.hosts[&from].config.zone.clone();
        match self.with(to, |node, now| {
            node.handle_ask(now, NodeId(from), zone.as_ref())
        }) {
            Some(answer) => {
                self.show(to, from, show::answer(&answer));
                self.post(
                    self.delay_between(from, to),
                    Delivery::Answer {
                        from: to,
                        to: from,
                        answer,
                    },
                );
            }
            None => self.post(
                self.delay_between(from, to),
                Delivery::AskFailed { from, to },
            ),
        }
    }

    fn deliver_register(&mut self, link: usize, register: Register) {
        let (to, _) = self.links[link].to;
        let Some(host) = self.hosts.get_mut(&to) else {
            return self.close(link, false);
        };
        if host.silent || !self.links[link].to_open {
            return;
        }
        if host.node.is_none() {
            return self.close(link, false);
        }
        host.next_down += 1;
        let down = LinkId::Down(host.next_down);
        // A driver asks its log. Here logs agree as long as the chains do where the positions are equal.
        let differs = register.last_log.position == host.log.position
            && register.last_log.chain != host.log.chain;
        let verdict = if differs {
            LogVerdict::Differs { ours: host.log }
        } else {
            LogVerdict::Agrees
        };
        self.links[link].to.1 = Some(down);
        self.links[link].lives.1 = host.life;
        self.names.insert((to, down), link);
        self.with(to, |node, now| {
            node.handle_register(now, down, register, verdict)
        });
    }

    fn deliver_message(&mut self, link: usize, up: bool, message: Message) {
        let Some((id, name)) = self.receiver(link, up) else {
            return;
        };
        self.with(id, |node, now| {
            node.handle_session_message(now, name, message)
        });
    }

    fn deliver_closed(&mut self, link: usize, up: bool) {
        let Some((id, name)) = self.receiver(link, up) else {
            return;
        };
        let end = &mut self.links[link];
        *(if up {
            &mut end.to_open
        } else {
            &mut end.from_open
        }) = false;
        self.with(id, |node, now| node.handle_link_closed(now, name));
    }

    /// Who receives what goes up or down a connection, and what it calls the connection; nobody if its end is closed.
    fn receiver(&mut self, link: usize, up: bool) -> Option<(u64, LinkId)> {
        let Link {
            from,
            to,
            lives,
            from_open,
            to_open,
        } = &self.links[link];
        let (id, name, life, open) = if up {
            (to.0, to.1?, lives.1, *to_open)
        } else {
            (from.0, from.1, lives.0, *from_open)
        };
        let host = self.hosts.get(&id)?;
        if host.silent || !open {
            return None;
        }
        if host.node.is_none() || host.life != life {
            // A kernel that knows no such connection resets it.
            self.close(link, !up);
            return None;
        }
        Some((id, name))
    }
}
