//! One machine: its process, if it runs, its disk, its log.

use crate::engine::Micros;
use crate::log::{Log, VoterSet};
use crate::network::Key;
use crate::raft::Raft;
use crate::rng::{Rng, mix};
use crate::world::Event;
use eaves_tree::{
    Address, ClusterId, Config, Instant, LinkId, LogPosition, NodeId, Peer, Saved, TreeNode,
};

/// The cluster that all nodes belong to.
pub const CLUSTER: ClusterId = ClusterId(0xea7e5);

/// Whether and how a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Its process runs.
    Running,
    /// Its process is stopped for a while (SIGSTOP); its kernel goes on.
    Paused,
    /// Its process is gone; its kernel refuses and resets connections.
    Dead,
    /// The machine is gone: nobody says anything.
    Silent,
}

/// What a node is, says its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A member of the group, or about to become one.
    Voter,
    /// A listener.
    Listener,
}

/// What survives a crash, beside the durable part of the log.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What the node is.
    pub part: Part,
    /// The listener's servers (`S6`, `B5`).
    pub saved: Saved,
    /// The last term.
    pub term: u64,
    /// The vote in it.
    pub vote: Option<u32>,
    /// An upstream has found its log to differ, and nobody has said otherwise since (`B12`).
    pub differs: bool,
}

/// One machine.
pub struct Host {
    /// What its node is told once.
    pub config: Config,
    /// How it runs.
    pub power: Power,
    /// Its disk.
    pub disk: Disk,
    /// Its protocol state, while its process runs.
    pub node: Option<TreeNode>,
    /// Its part in the group, if it has one.
    pub raft: Option<Raft>,
    /// Its log.
    pub log: Log,
    /// Up to where it knows the log committed. It has applied everything up to there.
    pub committed: LogPosition,
    /// How often it was started.
    pub life: u32,
    /// When its process started; its clock begins there.
    pub started_at: Micros,
    /// When the event that calls its timers is posted for.
    pub timer_at: Micros,
    /// The same for its part in the group.
    pub raft_timer_at: Micros,
    /// When it has worked off the questions that wait at it.
    pub free_at: Micros,
    /// What came while it was paused.
    pub(crate) inbox: Vec<Event>,
    /// Its connections.
    pub links: Vec<(LinkId, Key)>,
    /// The one it takes entries from.
    pub following: Option<LinkId>,
    /// Connections on which something came since the protocol was last told.
    pub heard: Vec<LinkId>,
    /// A listener's flush is due.
    pub flush_posted: bool,
    /// The list that its protocol state used when it was last looked at.
    pub list_in_use: Vec<Address>,
    /// Its log was made to differ from the group's, on purpose.
    pub diverged: bool,
    /// It did when the node registered last: a snapshot may have taken the log's place by the time the answer comes.
    pub registered_diverged: bool,
    /// Who leads and who votes, as its protocol state was last told.
    pub told: Option<(Option<u32>, VoterSet)>,
    /// Random numbers of its own.
    pub rng: Rng,
}

impl Host {
    /// A machine that has not been started yet.
    pub fn new(seed: u64, number: u32, config: Config, part: Part, log: Log) -> Host {
        Host {
            config,
            power: Power::Dead,
            disk: Disk {
                part,
                saved: Saved::default(),
                term: 0,
                vote: None,
                differs: false,
            },
            node: None,
            raft: None,
            log,
            committed: LogPosition::default(),
            life: 0,
            started_at: 0,
            timer_at: Micros::MAX,
            raft_timer_at: Micros::MAX,
            free_at: 0,
            inbox: Vec::new(),
            links: Vec::new(),
            following: None,
            heard: Vec::new(),
            flush_posted: false,
            list_in_use: Vec::new(),
            diverged: false,
            registered_diverged: false,
            told: None,
            rng: Rng::new(mix(seed), 1000 + u64::from(number)),
        }
    }

    /// Its clock at a point of the simulation's time.
    pub fn clock(&self, now: Micros) -> Instant {
        Instant(now - self.started_at)
    }

    /// Whether its process runs and is not paused.
    pub fn is_running(&self) -> bool {
        self.power == Power::Running
    }

    /// Whether it belongs to the group, or is about to.
    pub fn is_voter(&self) -> bool {
        self.disk.part == Part::Voter
    }

    /// A snapshot has taken its log's place.
    pub(crate) fn log_was_replaced(&mut self) {
        self.diverged = false;
        self.disk.differs = false;
    }

    /// What it calls a connection.
    pub fn key_of(&self, link: LinkId) -> Option<Key> {
        match link {
            LinkId::Down(number) => Some(Key(number)),
            LinkId::Up(_) => self
                .links
                .iter()
                .find(|known| known.0 == link)
                .map(|known| known.1),
        }
    }
}

/// The id of a host.
pub fn id(host: u32) -> NodeId {
    NodeId(u64::from(host) + 1)
}

/// The host with an id.
pub fn host_of(id: NodeId) -> u32 {
    (id.0 - 1) as u32
}

/// The address of a host.
pub fn address(host: u32) -> Address {
    Address::from(format!("n{}", host + 1).as_str())
}

/// The host at an address.
pub fn host_at(address: &Address) -> u32 {
    let number: u32 = address.as_str()[1..]
        .parse()
        .expect("addresses here are names");
    number - 1
}

/// A host as others name it.
pub fn peer(host: u32) -> Peer {
    Peer {
        id: id(host),
        address: address(host),
    }
}
