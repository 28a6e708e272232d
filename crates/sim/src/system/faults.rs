//! What goes wrong, and what administrators want meanwhile: drawn before the run, happening to whoever is there then.

use super::clock::TICK;
use super::network::HostId;
use crate::engine::{MILLISECOND, Micros, SECOND};
use crate::rng::Rng;

/// The shortest and the longest time that something stays wrong.
const LASTS: (Micros, Micros) = (50 * MILLISECOND, 12 * SECOND);

/// Something that happens at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Processes are killed; their machines go on.
    Kill {
        /// Whose.
        who: Vec<HostId>,
        /// Until they are started again.
        down: Micros,
        /// Whether the machines say so by a reset instead of an end of what was sent.
        resets: bool,
    },
    /// Machines lose power, and what was not flushed with it.
    PowerLoss {
        /// Which.
        who: Vec<HostId>,
        /// Until they are started again.
        down: Micros,
    },
    /// A machine loses power at one of the next operations of its disk.
    PowerLossWhileWriting {
        /// Which.
        who: HostId,
        /// So many operations are still done.
        after: u64,
        /// Until it is started again.
        down: Micros,
    },
    /// A process is told to stop, and started again.
    Restart {
        /// Which.
        who: HostId,
        /// Until it is started again.
        down: Micros,
    },
    /// A process stands still, as with SIGSTOP.
    Pause {
        /// Which.
        who: HostId,
        /// For how long.
        lasts: Micros,
    },
    /// Machines of different sides do not reach each other.
    Partition {
        /// The side of each machine.
        sides: Vec<u8>,
        /// What is sent from side 0 is lost, what is sent to it is not.
        one_way: bool,
        /// A machine that reaches both sides.
        bridge: Option<HostId>,
        /// For how long.
        lasts: Micros,
    },
    /// Everything from and to a machine takes longer.
    Slow {
        /// Which.
        who: HostId,
        /// How many times as long.
        times: u64,
        /// For how long.
        lasts: Micros,
    },
    /// The connections between machines break; 0 is between all, else of one to all others.
    Reset {
        /// Whose.
        who: Option<HostId>,
    },
    /// Flushes of a disk fail.
    FailSyncs {
        /// Whose.
        who: HostId,
        /// So many succeed before.
        after: u64,
        /// For how long.
        lasts: Micros,
    },
    /// Writes to a disk fail, half done.
    FailWrites {
        /// Whose.
        who: HostId,
        /// So many succeed before.
        after: u64,
        /// For how long.
        lasts: Micros,
    },
    /// A disk is full.
    FullDisk {
        /// Whose.
        who: HostId,
        /// Bytes that are still free.
        room: u64,
        /// For how long.
        lasts: Micros,
    },
    /// A listener loses its disk and starts again as a new one.
    Wipe {
        /// Which.
        who: HostId,
        /// Until it is started again.
        down: Micros,
    },
    /// An administrator asks a node for something.
    Order {
        /// Which node is asked.
        at: HostId,
        /// For what.
        order: Order,
    },
}

/// What administrators ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Make a listener a voter.
    Promote(HostId),
    /// Make a voter a listener.
    Demote(HostId),
    /// Make a listener a voter in place of another.
    Replace {
        /// Who goes.
        old: HostId,
        /// Who comes.
        new: HostId,
    },
    /// Let another voter lead.
    TransferLeader(Option<HostId>),
    /// Take a listener off its upstream.
    Kick(HostId),
    /// Pin a listener to an upstream, or not any more.
    Pin(HostId, Option<HostId>),
    /// Let a listener avoid a node, or not any more.
    Avoid(HostId, HostId, bool),
    /// Let a node hand its listeners over and take none, or take some again.
    Drain(HostId, bool),
}

/// The sorts of faults among which a run draws; each has only some of them.
const SORTS: u64 = 13;

/// Counted not when it is drawn or prepared, but when the power fails.
pub const POWER_LOSS_WHILE_WRITING: &str = "power loss while writing";

/// Everything that [`Fault::kind`] may be, but for orders.
pub const KINDS: [&str; 14] = [
    "kill",
    "power loss",
    POWER_LOSS_WHILE_WRITING,
    "restart",
    "pause",
    "partition",
    "partition in one direction",
    "partition with a bridge",
    "slow links",
    "connections broken",
    "failing flushes",
    "failing writes",
    "full disk",
    "wiped listener",
];

/// Everything that [`Order::kind`] may be.
pub const ORDERS: [&str; 8] = [
    "promote",
    "demote",
    "replace",
    "transfer leader",
    "kick",
    "pin",
    "avoid",
    "drain",
];

/// Draws what happens until `calm_at`.
pub fn draw(
    rng: &mut Rng,
    founders: usize,
    machines: usize,
    calm_at: Micros,
) -> Vec<(Micros, Fault)> {
    let kinds: Vec<u64> = (0..SORTS).filter(|_| rng.permille(450)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let count = rng.scale(1, 40);
    let draw = Draw { founders, machines };
    let mut faults: Vec<(Micros, Fault)> = (0..count)
        .map(|_| {
            let at = rng.between(2 * SECOND, calm_at) / TICK * TICK;
            let kind = *rng.pick(&kinds);
            (at, draw.fault(kind, rng))
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

struct Draw {
    founders: usize,
    machines: usize,
}

impl Draw {
    fn fault(&self, kind: u64, rng: &mut Rng) -> Fault {
        let who = self.anybody(rng);
        let lasts = lasts(rng);
        let down = lasts;
        match kind {
            0 => Fault::Kill {
                who: self.some(rng),
                down,
                resets: rng.permille(500),
            },
            1 => Fault::PowerLoss {
                who: self.some(rng),
                down,
            },
            2 => Fault::PowerLossWhileWriting {
                who,
                after: rng.below(40),
                down,
            },
            3 => Fault::Restart { who, down },
            4 => Fault::Pause { who, lasts },
            5 | 6 => self.partition(lasts, rng),
            7 => Fault::Slow {
                who,
                times: rng.scale(2, 100),
                lasts,
            },
            8 => Fault::Reset {
                who: rng.permille(700).then_some(who),
            },
            9 => self.disk(who, lasts, rng),
            10 if self.machines > self.founders => Fault::Wipe {
                who: self.founders + rng.below((self.machines - self.founders) as u64) as usize,
                down,
            },
            11 => Fault::Order {
                at: who,
                order: self.role(rng),
            },
            _ => Fault::Order {
                at: who,
                order: self.steer(rng),
            },
        }
    }

    fn anybody(&self, rng: &mut Rng) -> HostId {
        rng.below(self.machines as u64) as HostId
    }

    /// Mostly one, sometimes several, sometimes all.
    fn some(&self, rng: &mut Rng) -> Vec<HostId> {
        match rng.below(10) {
            0 => (0..self.machines).collect(),
            1 => (0..self.founders).collect(),
            2 | 3 => (0..self.machines).filter(|_| rng.permille(400)).collect(),
            _ => vec![self.anybody(rng)],
        }
    }

    fn partition(&self, lasts: Micros, rng: &mut Rng) -> Fault {
        let sides: Vec<u8> = match rng.below(3) {
            0 => {
                let alone = self.anybody(rng);
                (0..self.machines)
                    .map(|host| u8::from(host == alone))
                    .collect()
            }
            _ => (0..self.machines).map(|_| rng.below(2) as u8).collect(),
        };
        Fault::Partition {
            sides,
            one_way: rng.permille(300),
            bridge: rng.permille(300).then(|| self.anybody(rng)),
            lasts,
        }
    }

    fn disk(&self, who: HostId, lasts: Micros, rng: &mut Rng) -> Fault {
        // Nodes touch their disks a few times a second when little is written.
        let after = rng.scale(1, 30) - 1;
        let lasts = lasts.max(SECOND);
        match rng.below(3) {
            0 => Fault::FailSyncs { who, after, lasts },
            1 => Fault::FailWrites { who, after, lasts },
            _ => Fault::FullDisk {
                who,
                room: rng.scale(1, 64 << 10),
                lasts,
            },
        }
    }

    fn role(&self, rng: &mut Rng) -> Order {
        match rng.below(4) {
            0 => Order::Promote(self.anybody(rng)),
            1 => Order::Demote(self.anybody(rng)),
            2 => Order::Replace {
                old: self.anybody(rng),
                new: self.anybody(rng),
            },
            _ => Order::TransferLeader(rng.permille(500).then(|| self.anybody(rng))),
        }
    }

    fn steer(&self, rng: &mut Rng) -> Order {
        let (one, other) = (self.anybody(rng), self.anybody(rng));
        match rng.below(4) {
            0 => Order::Kick(one),
            1 => Order::Pin(one, rng.permille(600).then_some(other)),
            2 => Order::Avoid(one, other, rng.permille(600)),
            _ => Order::Drain(one, rng.permille(600)),
        }
    }
}

fn lasts(rng: &mut Rng) -> Micros {
    rng.scale(LASTS.0, LASTS.1) / TICK * TICK
}

impl Fault {
    /// The sort of fault, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "kill",
            Fault::PowerLoss { .. } => "power loss",
            Fault::PowerLossWhileWriting { .. } => POWER_LOSS_WHILE_WRITING,
            Fault::Restart { .. } => "restart",
            Fault::Pause { .. } => "pause",
            Fault::Partition { one_way: true, .. } => "partition in one direction",
            Fault::Partition {
                bridge: Some(_), ..
            } => "partition with a bridge",
            Fault::Partition { .. } => "partition",
            Fault::Slow { .. } => "slow links",
            Fault::Reset { .. } => "connections broken",
            Fault::FailSyncs { .. } => "failing flushes",
            Fault::FailWrites { .. } => "failing writes",
            Fault::FullDisk { .. } => "full disk",
            Fault::Wipe { .. } => "wiped listener",
            Fault::Order { order, .. } => order.kind(),
        }
    }
}

impl Order {
    /// The sort of order, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Order::Promote(_) => "promote",
            Order::Demote(_) => "demote",
            Order::Replace { .. } => "replace",
            Order::TransferLeader(_) => "transfer leader",
            Order::Kick(_) => "kick",
            Order::Pin(..) => "pin",
            Order::Avoid(..) => "avoid",
            Order::Drain(..) => "drain",
        }
    }
}
