//! A small virtual network: several `TreeNode`s, a clock, connections that are ordered and reliable while they live, and
//! disks. It does what a driver does and nothing else, and writes down what it sees in arrow notation.
//!
//! Time only moves in [`Net::run`]. A message takes one constant delay per pair of nodes, so order on a connection is kept.
//! Between nodes that are cut off from each other everything is held, as TCP would, until they are healed.

mod arrive;
mod perform;
mod show;

use eaves_tree::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a write to disk takes.
const DISK: Duration = Duration::from_millis(1);
/// How often a follower hears its leader.
const LEADER_BEAT: Duration = Duration::from_millis(250);
/// The cluster all nodes belong to, unless a test says otherwise.
pub const CLUSTER: ClusterId = ClusterId(0xea7e5);

/// The address of a node: its name.
pub fn address(node: u64) -> Address {
    Address::from(format!("n{node}").as_str())
}

/// The node at an address.
pub fn node_at(address: &Address) -> u64 {
    address.as_str()[1..]
        .parse()
        .expect("addresses in tests are names")
}

/// One machine: the node that runs on it, if any, and its disk.
struct Host {
    config: Config,
    node: Option<TreeNode>,
    voter: bool,
    /// Answers no question before this.
    busy_until: Instant,
    /// It vanished without a word: its kernel closes nothing and refuses nothing.
    silent: bool,
    /// What is on disk.
    disk: Saved,
    /// Writes wait for `release`.
    disk_held: bool,
    writes_waiting: Vec<(u64, Saved)>,
    /// Where its log ends.
    log: LogEnd,
    /// How often it was started; messages to an earlier life are dropped.
    life: u64,
    next_down: u64,
    /// Its entry in the network's timers.
    timer: Option<Instant>,
    last_shown: BTreeMap<usize, (Path, bool, bool)>,
    /// How many heartbeats it has sent.
    heartbeats: u64,
}

/// A feed connection.
struct Link {
    from: (u64, LinkId),
    to: (u64, Option<LinkId>),
    lives: (u64, u64),
    from_open: bool,
    to_open: bool,
}

/// Something on its way.
enum Delivery {
    Ask {
        from: u64,
        to: u64,
    },
    Answer {
        from: u64,
        to: u64,
        answer: Answer,
    },
    AskFailed {
        from: u64,
        to: u64,
    },
    Busy {
        from: u64,
        to: u64,
    },
    Register {
        link: usize,
        register: Register,
    },
    Message {
        link: usize,
        up: bool,
        message: Message,
    },
    Closed {
        link: usize,
        up: bool,
    },
    Written {
        node: u64,
        life: u64,
        version: u64,
        saved: Saved,
    },
    LeaderBeat,
}

/// The network.
pub struct Net {
    pub now: Instant,
    hosts: BTreeMap<u64, Host>,
    links: Vec<Link>,
    /// Which connection a node means by a name; the latest, since a restarted node counts anew.
    names: BTreeMap<(u64, LinkId), usize>,
    /// When each node wants to be called.
    timers: BTreeSet<(Instant, u64)>,
    on_the_way: BTreeMap<(Instant, u64), Delivery>,
    sent: u64,
    cut: BTreeSet<(u64, u64)>,
    held: Vec<Delivery>,
    leader: Option<u64>,
    delay: Duration,
    uneven: bool,
    /// Delays of single pairs that differ.
    delays: BTreeMap<(u64, u64), Duration>,
    /// Who feeds whom, as the outputs have it.
    feeding: BTreeSet<(u64, u64)>,
    /// Who takes entries from whom, as the outputs have it.
    following: BTreeMap<u64, u64>,
    pub trace: Vec<String>,
    pub asked: u64,
}

impl Net {
    /// An empty network with one constant delay in each direction; if `uneven`, a different one for each pair.
    pub fn new(delay: Duration, uneven: bool) -> Net {
        let mut net = Net {
            now: Instant(0),
            hosts: BTreeMap::new(),
            links: Vec::new(),
            names: BTreeMap::new(),
            timers: BTreeSet::new(),
            on_the_way: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            held: Vec::new(),
            leader: None,
            delay,
            uneven,
            delays: BTreeMap::new(),
            feeding: BTreeSet::new(),
            following: BTreeMap::new(),
            trace: Vec::new(),
            asked: 0,
        };
        net.post(Duration::ZERO, Delivery::LeaderBeat);
        net
    }

    // Building and faults.

    pub fn config(id: u64) -> Config {
        Config::new(NodeId(id), address(id), CLUSTER)
    }

    pub fn add_voter(&mut self, config: Config) {
        self.add(config, true, Saved::default());
    }

    pub fn add_listener(&mut self, config: Config, saved: Saved) {
        self.add(config, false, saved);
    }

    fn add(&mut self, config: Config, voter: bool, disk: Saved) {
        let id = config.id.0;
        let host = Host {
            config,
            node: None,
            voter,
            busy_until: Instant(0),
            silent: false,
            disk,
            disk_held: false,
            writes_waiting: Vec::new(),
            log: LogEnd::default(),
            life: 0,
            next_down: 0,
            timer: None,
            last_shown: BTreeMap::new(),
            heartbeats: 0,
        };
        assert!(self.hosts.insert(id, host).is_none(), "n{id} exists");
        self.start(id);
    }

    /// Starts a node from its disk.
    pub fn start(&mut self, id: u64) {
        let now = self.now;
        let host = self.hosts.get_mut(&id).unwrap();
        host.life += 1;
        host.silent = false;
        host.writes_waiting.clear();
        let seed = id * 1000 + host.life;
        let node = match host.voter {
            true => TreeNode::voter(host.config.clone(), host.disk.clone(), seed),
            false => {
                let log = match host.log == LogEnd::default() {
                    true => OwnLog::Empty,
                    false => OwnLog::Uncompared,
                };
                TreeNode::listener(now, host.config.clone(), host.disk.clone(), log, seed)
            }
        };
        host.node = Some(node);
        self.drain(id);
        if self.hosts[&id].voter {
            self.tell_voters();
        }
    }

    /// The process dies; the kernel closes its connections.
    pub fn kill(&mut self, id: u64) {
        self.stop(id);
        for link in 0..self.links.len() {
            if self.links[link].from.0 == id && self.links[link].from_open {
                self.close(link, true);
            }
            if self.links[link].to.0 == id && self.links[link].to_open {
                self.close(link, false);
            }
        }
    }

    /// The machine dies: nobody is told.
    pub fn vanish(&mut self, id: u64) {
        self.stop(id);
        self.hosts.get_mut(&id).unwrap().silent = true;
    }

    fn stop(&mut self, id: u64) {
        self.hosts.get_mut(&id).unwrap().node = None;
        self.set_timer(id);
        self.feeding.retain(|(upstream, _)| *upstream != id);
        self.following.remove(&id);
    }

    /// Sets the delay between two nodes.
    pub fn set_delay(&mut self, a: u64, b: u64, delay: Duration) {
        self.delays.insert((a.min(b), a.max(b)), delay);
    }

    /// Cuts two nodes off from each other.
    pub fn cut(&mut self, a: u64, b: u64) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// Heals all cuts; what was held arrives now.
    pub fn heal(&mut self) {
        self.cut.clear();
        for delivery in std::mem::take(&mut self.held) {
            let delay = self
                .ends(&delivery)
                .map_or(self.delay, |(from, to)| self.delay_between(from, to));
            self.post(delay, delivery);
        }
    }

    /// Makes a node leader, or nobody.
    pub fn set_leader(&mut self, leader: Option<u64>) {
        self.leader = leader;
        self.tell_voters();
    }

    fn tell_voters(&mut self) {
        let voters: Vec<u64> = self.voters();
        for &id in &voters {
            let heard = |other: u64| {
                let leads_or_led = self.leader == Some(id) || self.leader == Some(other);
                (leads_or_led && self.is_up(other) && !self.is_cut(id, other))
                    .then(|| Duration::from_millis(10 + other))
            };
            let state = VoterState {
                leader: self.leader.map(NodeId),
                voters: voters
                    .iter()
                    .map(|&other| Voter {
                        peer: peer(other),
                        heard: heard(other),
                    })
                    .collect(),
            };
            self.with(id, |node, now| node.handle_voter_state(now, state));
        }
    }

    pub fn set_list(&mut self, id: u64, list: &[u64]) {
        let list = list.iter().map(|&id| address(id)).collect();
        self.with(id, |node, now| node.handle_upstream_list(now, list));
    }

    pub fn hold_disk(&mut self, id: u64) {
        self.hosts.get_mut(&id).unwrap().disk_held = true;
    }

    pub fn release_disk(&mut self, id: u64) {
        let host = self.hosts.get_mut(&id).unwrap();
        host.disk_held = false;
        let life = host.life;
        for (version, saved) in std::mem::take(&mut host.writes_waiting) {
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

    pub fn promote(&mut self, id: u64) {
        self.hosts.get_mut(&id).unwrap().voter = true;
        self.with(id, |node, now| node.become_voter(now));
        self.tell_voters();
    }

    pub fn demote(&mut self, id: u64, list: &[u64]) {
        let saved = Saved {
            upstreams: list.iter().map(|&id| address(id)).collect(),
            ..Saved::default()
        };
        let host = self.hosts.get_mut(&id).unwrap();
        host.voter = false;
        host.disk = saved.clone();
        self.with(id, |node, now| node.become_listener(now, saved));
        self.tell_voters();
    }

    /// Makes a node too busy for questions.
    pub fn set_busy(&mut self, id: u64, duration: Duration) {
        self.hosts.get_mut(&id).unwrap().busy_until = self.now + duration;
    }

    pub fn pin(&mut self, id: u64, upstream: Option<u64>) -> Result<(), SteerError> {
        self.with(id, |node, now| node.pin(now, upstream.map(peer)))
            .expect("it runs")
    }

    pub fn avoid(&mut self, id: u64, upstream: u64, on: bool) -> Result<(), SteerError> {
        self.with(id, |node, now| node.avoid(now, NodeId(upstream), on))
            .expect("it runs")
    }

    pub fn set_draining(&mut self, id: u64, on: bool) {
        self.with(id, |node, now| match on {
            true => node.drain(now),
            false => node.undrain(now),
        });
    }

    pub fn set_log(&mut self, id: u64, log: LogEnd) {
        self.hosts.get_mut(&id).unwrap().log = log;
        self.with(id, |node, _| node.handle_committed(log.position));
    }

    /// A listener's upstream finds its log to be a prefix of its own.
    pub fn compare_log(&mut self, id: u64) {
        self.with(id, |node, _| node.handle_log_compared());
    }

    /// Opens a connection to a node and sends it a registration as it is.
    pub fn register_raw(&mut self, to: u64, register: Register) {
        let from = register.listener.id.0;
        let life = self.hosts[&to].life;
        self.links.push(Link {
            from: (from, LinkId::Up(1_000_000 + self.links.len() as u64)),
            to: (to, None),
            lives: (0, life),
            from_open: true,
            to_open: true,
        });
        let link = self.links.len() - 1;
        self.show(from, to, show::register(&register));
        self.post(
            self.delay_between(from, to),
            Delivery::Register { link, register },
        );
    }

    /// Does something with a node that runs, then what the node asks for.
    pub fn with<T>(&mut self, id: u64, act: impl FnOnce(&mut TreeNode, Instant) -> T) -> Option<T> {
        let now = self.now;
        let node = self.hosts.get_mut(&id)?.node.as_mut()?;
        let result = act(node, now);
        self.drain(id);
        Some(result)
    }

    // Looking.

    pub fn node(&self, id: u64) -> Option<&TreeNode> {
        self.hosts.get(&id)?.node.as_ref()
    }

    /// How many heartbeats a node has sent since this was last asked.
    pub fn take_heartbeats(&mut self, id: u64) -> u64 {
        std::mem::take(&mut self.hosts.get_mut(&id).unwrap().heartbeats)
    }

    pub fn ids(&self) -> Vec<u64> {
        self.hosts.keys().copied().collect()
    }

    pub fn voters(&self) -> Vec<u64> {
        self.hosts
            .iter()
            .filter(|(_, host)| host.voter)
            .map(|(&id, _)| id)
            .collect()
    }

    pub fn is_up(&self, id: u64) -> bool {
        self.hosts[&id].node.is_some()
    }

    pub fn feeding(&self) -> &BTreeSet<(u64, u64)> {
        &self.feeding
    }

    pub fn following(&self) -> &BTreeMap<u64, u64> {
        &self.following
    }

    /// The tree as text, and below it who is detached.
    pub fn tree(&self) -> Vec<String> {
        show::tree(self)
    }

    // Time.

    /// Lets time pass and everything happen that falls due.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let timer = self.timers.first().copied();
            let message = self.on_the_way.keys().next().copied();
            let next = [timer.map(|(at, _)| at), message.map(|(at, _)| at)]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            match message.filter(|(at, _)| *at <= self.now) {
                Some(key) => {
                    let delivery = self.on_the_way.remove(&key).unwrap();
                    self.deliver(delivery);
                }
                None => {
                    let (_, id) = timer.unwrap();
                    self.with(id, |node, now| node.handle_timeout(now));
                }
            }
        }
        self.now = end;
    }

    fn post(&mut self, delay: Duration, delivery: Delivery) {
        self.sent += 1;
        self.on_the_way
            .insert((self.now + delay, self.sent), delivery);
    }

    fn delay_between(&self, a: u64, b: u64) -> Duration {
        if let Some(delay) = self.delays.get(&(a.min(b), a.max(b))) {
            return *delay;
        }
        let extra = if self.uneven {
            (a.min(b) * 7 + a.max(b) * 13) % 11
        } else {
            0
        };
        self.delay + Duration::from_millis(extra)
    }

    fn is_cut(&self, a: u64, b: u64) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn show(&mut self, from: u64, to: u64, what: String) {
        let at = show::time(self.now);
        self.trace.push(format!("{at} n{from} → n{to} {what}"));
    }

    fn note(&mut self, id: u64, what: String) {
        let at = show::time(self.now);
        self.trace.push(format!("{at} n{id} {what}"));
    }
}

pub fn peer(id: u64) -> Peer {
    Peer {
        id: NodeId(id),
        address: address(id),
    }
}
