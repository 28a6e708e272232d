//! What a node asks of the network, its disk and its clock.

use super::*;

impl Net {
    pub(super) fn drain(&mut self, id: u64) {
        while let Some(output) = self
            .hosts
            .get_mut(&id)
            .unwrap()
            .node
            .as_mut()
            .and_then(TreeNode::poll_output)
        {
            self.perform(id, output);
        }
        self.set_timer(id);
    }

    /// Takes note of when a node wants to be called.
    pub(super) fn set_timer(&mut self, id: u64) {
        let host = self.hosts.get_mut(&id).unwrap();
        let timer = host.node.as_ref().and_then(TreeNode::poll_timeout);
        if let Some(old) = std::mem::replace(&mut host.timer, timer) {
            self.timers.remove(&(old, id));
        }
        self.timers.extend(timer.map(|at| (at, id)));
    }

    fn perform(&mut self, id: u64, output: Output) {
        match output {
            Output::Ask { to } => {
                let to = node_at(&to);
                self.asked += 1;
                self.show(id, to, "ask".into());
                self.post(self.delay_between(id, to), Delivery::Ask { from: id, to });
            }
            Output::Connect { to, link } => self.connect(id, node_at(&to), link),
            Output::Send { link, message } => self.send(id, link, message),
            Output::Close { link } => {
                if let Some(link) = self.find(id, link) {
                    let up = self.links[link].from.0 == id;
                    self.close(link, up);
                }
            }
            Output::StartFeeding { listener, from, .. } => {
                self.note(id, format!("feeds {listener} from {from}"));
                assert!(
                    self.feeding.insert((id, listener.id.0)),
                    "n{id} feeds {listener} twice"
                );
            }
            Output::StopFeeding { link } => {
                let listener = self.links[self.names[&(id, link)]].from.0;
                self.note(id, format!("feeds n{listener} no more"));
                assert!(
                    self.feeding.remove(&(id, listener)),
                    "n{id} did not feed n{listener}"
                );
            }
            Output::StartFollowing {
                upstream,
                committed,
                ..
            } => {
                self.note(id, format!("follows {upstream}, which is at {committed}"));
                assert!(
                    self.following.insert(id, upstream.id.0).is_none(),
                    "n{id} follows two"
                );
            }
            Output::StopFollowing { .. } => {
                let upstream = self
                    .following
                    .remove(&id)
                    .expect("it is told to follow no more only while it follows");
                self.note(id, format!("follows n{upstream} no more"));
            }
            Output::Persist { version, saved } => self.persist(id, version, saved),
            Output::Event(event) => self.note(id, format!("{event}")),
        }
    }

    fn persist(&mut self, id: u64, version: u64, saved: Saved) {
        self.note(id, show::saved(&saved));
        let host = self.hosts.get_mut(&id).unwrap();
        if host.disk_held {
            host.writes_waiting.push((version, saved));
        } else {
            let life = host.life;
            self.post(
                DISK,
                Delivery::Written {
                    node: id,
                    life,
                    version,
                    saved,
                },
            );
        }
    }

    fn connect(&mut self, id: u64, to: u64, name: LinkId) {
        let host = &self.hosts[&id];
        let register = host.node.as_ref().unwrap().register(host.log);
        let lives = (host.life, self.hosts.get(&to).map_or(0, |host| host.life));
        self.show(id, to, show::register(&register));
        self.links.push(Link {
            from: (id, name),
            to: (to, None),
            lives,
            from_open: true,
            to_open: true,
        });
        let link = self.links.len() - 1;
        self.names.insert((id, name), link);
        self.post(
            self.delay_between(id, to),
            Delivery::Register { link, register },
        );
    }

    fn send(&mut self, id: u64, name: LinkId, message: Message) {
        let Some(link) = self.find(id, name) else {
            return;
        };
        let up = matches!(name, LinkId::Up(_));
        let to = if up {
            self.links[link].to.0
        } else {
            self.links[link].from.0
        };
        if matches!(message, Message::Heartbeat(_)) {
            self.hosts.get_mut(&id).unwrap().heartbeats += 1;
        }
        if self.is_news(id, link, &message) {
            self.show(id, to, show::message(&message));
        }
        self.post(
            self.delay_between(id, to),
            Delivery::Message { link, up, message },
        );
    }

    /// Whether a message is worth a line: heartbeats that repeat themselves are not.
    fn is_news(&mut self, id: u64, link: usize, message: &Message) -> bool {
        let shown = match message {
            Message::HeartbeatAck(_) => return false,
            Message::Accept(Accept { heartbeat, .. }) | Message::Heartbeat(heartbeat) => (
                heartbeat.path.clone(),
                heartbeat.attached,
                heartbeat.draining,
            ),
            Message::Refuse(_) | Message::Kick(_) | Message::Leave(_) => return true,
        };
        let last_shown = &mut self.hosts.get_mut(&id).unwrap().last_shown;
        last_shown.insert(link, shown.clone()) != Some(shown)
            || matches!(message, Message::Accept(_))
    }

    fn find(&self, id: u64, name: LinkId) -> Option<usize> {
        let link = *self.names.get(&(id, name))?;
        let Link {
            from,
            lives,
            from_open,
            to_open,
            ..
        } = &self.links[link];
        let (life, open) = if *from == (id, name) {
            (lives.0, *from_open)
        } else {
            (lives.1, *to_open)
        };
        (open && life == self.hosts[&id].life).then_some(link)
    }

    /// Closes one end of a connection, the lower one if `up`, and lets the other end know.
    pub(super) fn close(&mut self, link: usize, up: bool) {
        let ends = &mut self.links[link];
        *(if up {
            &mut ends.from_open
        } else {
            &mut ends.to_open
        }) = false;
        let delay = self.delay_between(self.links[link].from.0, self.links[link].to.0);
        self.post(delay, Delivery::Closed { link, up });
    }
}
