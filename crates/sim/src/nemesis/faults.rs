//! What can happen to a group, drawn from the seed. Doing it is the business of [`Rig`](super::rig::Rig).

use crate::rng::Rng;
use std::fmt;

/// Voters that a group keeps at least and has at most, as far as changes of role are drawn.
const VOTERS_MIN: usize = 3;
const VOTERS_MAX: usize = 5;

/// What the course of a run knows of its group when it draws.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub leader: Option<String>,
    pub voters: Vec<String>,
    pub listeners: Vec<String>,
    /// Listeners that are never promoted: what they have on disk may be taken away.
    pub expendable: Vec<String>,
    /// Whether processes can have clocks that are ahead.
    pub clocks: bool,
}

/// Something that goes wrong, or that an operator does, at the wrong time.
#[derive(Clone, Debug)]
pub enum Fault {
    /// SIGKILL; started again when the episode ends.
    Kill(Vec<String>),
    /// SIGKILL, and started again at once.
    Bounce(Vec<String>),
    /// SIGSTOP until the episode ends.
    Pause(Vec<String>),
    /// Two sides that cannot talk: connections break, or stay open and silent.
    Partition {
        sides: [Vec<String>; 2],
        silent: bool,
    },
    /// What goes from the first to the second is lost; the other way it is not.
    OneWay {
        from: Vec<String>,
        to: Vec<String>,
    },
    /// Two sides that reach each other only by one node, which reaches both.
    Bridge {
        sides: [Vec<String>; 2],
        by: String,
    },
    /// Links that are slow or narrow, stand still or break now and then.
    BadLinks {
        between: [Vec<String>; 2],
        how: Bad,
    },
    /// The small disk is full.
    FullDisk,
    /// Killed, and started with a monotonic clock that is ahead by so many seconds.
    Clock {
        node: String,
        ahead_seconds: u64,
    },
    /// Each node is stopped and started, one after the other.
    RollingRestart,
    Promote(String),
    Demote(String),
    Replace {
        old: String,
        new: String,
    },
    TransferLeader(String),
    /// A listener loses its disk, and comes back as a new one.
    Wipe(String),
    /// Another list of upstream servers.
    Upstreams {
        listener: String,
        from: Vec<String>,
    },
    Kick(String),
    Pin {
        listener: String,
        upstream: String,
    },
    Avoid {
        listener: String,
        upstream: String,
    },
    Drain(String),
}

/// See [`Fault::BadLinks`].
#[derive(Clone, Copy, Debug)]
pub enum Bad {
    Slow { delay_ms: u64 },
    Narrow { bytes_per_second: u32 },
    Stalling { every: u32, for_ms: u64 },
    Breaking { every: u32 },
}

impl Fault {
    /// The kind, for the summary.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill(nodes) if nodes.len() > 1 => "kill several",
            Fault::Kill(_) => "kill",
            Fault::Bounce(nodes) if nodes.len() > 1 => "kill and restart several",
            Fault::Bounce(_) => "kill and restart",
            Fault::Pause(_) => "pause",
            Fault::Partition { silent: false, .. } => "partition",
            Fault::Partition { silent: true, .. } => "silent partition",
            Fault::OneWay { .. } => "one-way partition",
            Fault::Bridge { .. } => "bridge",
            Fault::BadLinks { how, .. } => match how {
                Bad::Slow { .. } => "slow links",
                Bad::Narrow { .. } => "narrow links",
                Bad::Stalling { .. } => "stalling links",
                Bad::Breaking { .. } => "breaking links",
            },
            Fault::FullDisk => "full disk",
            Fault::Clock { .. } => "clock ahead",
            Fault::RollingRestart => "rolling restart",
            Fault::Promote(_) => "promote",
            Fault::Demote(_) => "demote",
            Fault::Replace { .. } => "replace",
            Fault::TransferLeader(_) => "transfer leader",
            Fault::Wipe(_) => "wipe listener",
            Fault::Upstreams { .. } => "set upstreams",
            Fault::Kick(_) => "kick",
            Fault::Pin { .. } => "pin",
            Fault::Avoid { .. } => "avoid",
            Fault::Drain(_) => "drain",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &[String]| names.join(" ");
        write!(f, "{}", self.kind())?;
        match self {
            Fault::Kill(nodes) | Fault::Bounce(nodes) | Fault::Pause(nodes) => {
                write!(f, " {}", names(nodes))
            }
            Fault::Partition {
                sides: [one, other],
                ..
            } => {
                write!(f, " {} | {}", names(one), names(other))
            }
            Fault::OneWay { from, to } => write!(f, " {} -/-> {}", names(from), names(to)),
            Fault::Bridge {
                sides: [one, other],
                by,
            } => {
                write!(f, " {} | {} by {by}", names(one), names(other))
            }
            Fault::BadLinks {
                between: [one, other],
                how,
            } => {
                write!(f, " {} ~ {} ({how:?})", names(one), names(other))
            }
            Fault::FullDisk | Fault::RollingRestart => Ok(()),
            Fault::Clock {
                node,
                ahead_seconds,
            } => write!(f, " {node} by {ahead_seconds} s"),
            Fault::Promote(node)
            | Fault::Demote(node)
            | Fault::TransferLeader(node)
            | Fault::Wipe(node)
            | Fault::Kick(node)
            | Fault::Drain(node) => write!(f, " {node}"),
            Fault::Replace { old, new } => write!(f, " {old} by {new}"),
            Fault::Upstreams { listener, from } => write!(f, " of {listener}: {}", names(from)),
            Fault::Pin { listener, upstream } | Fault::Avoid { listener, upstream } => {
                write!(f, " {listener}: {upstream}")
            }
        }
    }
}

impl Known {
    fn all(&self) -> Vec<String> {
        self.voters.iter().chain(&self.listeners).cloned().collect()
    }

    /// Listeners that may become voters.
    fn candidates(&self) -> Vec<String> {
        let candidates = self
            .listeners
            .iter()
            .filter(|name| !self.expendable.contains(name));
        candidates.cloned().collect()
    }
}

/// What happens in one episode: mostly one thing, now and then two or three at once.
pub fn draw(rng: &mut Rng, known: &Known) -> Vec<Fault> {
    let count = match rng.below(10) {
        0..5 => 1,
        5..9 => 2,
        _ => 3,
    };
    let mut faults: Vec<Fault> = Vec::new();
    while faults.len() < count {
        let Some(fault) = draw_one(rng, known) else {
            continue;
        };
        // Twice the same says nothing new, and two changes of role in one episode would be drawn for a group that is another by then.
        if !faults
            .iter()
            .any(|other| other.kind() == fault.kind() || (fault.is_role() && other.is_role()))
        {
            faults.push(fault);
        }
    }
    // Commands come last: whatever else there is happens while they run.
    faults.sort_by_key(|fault| fault.is_command());
    faults
}

impl Fault {
    fn is_role(&self) -> bool {
        matches!(
            self,
            Fault::Promote(_) | Fault::Demote(_) | Fault::Replace { .. } | Fault::TransferLeader(_)
        )
    }

    fn is_command(&self) -> bool {
        self.is_role()
            || matches!(
                self,
                Fault::Upstreams { .. }
                    | Fault::Kick(_)
                    | Fault::Pin { .. }
                    | Fault::Avoid { .. }
                    | Fault::Drain(_)
            )
    }
}

/// None when what was drawn makes no sense for this group.
fn draw_one(rng: &mut Rng, known: &Known) -> Option<Fault> {
    let all = known.all();
    let listener = |rng: &mut Rng| one(rng, &known.listeners);
    Some(match rng.below(100) {
        0..8 => Fault::Kill(vec![victim(rng, known)]),
        8..14 => Fault::Kill(some(rng, &all)),
        14..17 => Fault::Bounce(all),
        17..22 => Fault::Bounce(some(rng, &all)),
        22..27 => Fault::Pause(vec![victim(rng, known)]),
        27..30 => Fault::Pause(some(rng, &all)),
        30..40 => {
            let side = match rng.below(2) {
                0 => vec![victim(rng, known)],
                _ => some(rng, &all),
            };
            let silent = rng.below(2) == 0;
            Fault::Partition {
                sides: split(&all, side)?,
                silent,
            }
        }
        40..46 => {
            let [from, to] = split(&all, vec![victim(rng, known)])?;
            match rng.below(2) {
                0 => Fault::OneWay { from, to },
                _ => Fault::OneWay { from: to, to: from },
            }
        }
        46..50 => {
            let by = one(rng, &known.voters)?;
            let rest: Vec<String> = all.iter().filter(|name| **name != by).cloned().collect();
            Fault::Bridge {
                sides: split(&rest, some(rng, &rest))?,
                by,
            }
        }
        50..60 => {
            let side = some(rng, &all);
            Fault::BadLinks {
                between: [side, all],
                how: bad(rng),
            }
        }
        60..66 => Fault::FullDisk,
        66..70 if known.clocks => Fault::Clock {
            node: victim(rng, known),
            ahead_seconds: rng.scale(1, 1_000_000),
        },
        70..74 => Fault::RollingRestart,
        74..78 if known.voters.len() < VOTERS_MAX => Fault::Promote(one(rng, &known.candidates())?),
        78..82 if known.voters.len() > VOTERS_MIN => Fault::Demote(one(rng, &known.voters)?),
        82..86 => Fault::Replace {
            old: one(rng, &known.voters)?,
            new: one(rng, &known.candidates())?,
        },
        86..89 => Fault::TransferLeader(one(rng, &known.voters)?),
        89..92 => Fault::Wipe(one(rng, &known.expendable)?),
        92..94 => Fault::Upstreams {
            listener: listener(rng)?,
            from: some(rng, &all),
        },
        94..95 => Fault::Kick(listener(rng)?),
        95..97 => Fault::Pin {
            listener: listener(rng)?,
            upstream: one(rng, &all)?,
        },
        97..98 => Fault::Avoid {
            listener: listener(rng)?,
            upstream: one(rng, &all)?,
        },
        98..100 => Fault::Drain(one(rng, &all)?),
        _ => return None,
    })
}

fn one(rng: &mut Rng, names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| rng.pick(names).clone())
}

/// The leader as often as anybody else.
fn victim(rng: &mut Rng, known: &Known) -> String {
    match &known.leader {
        Some(leader) if rng.below(2) == 0 => leader.clone(),
        _ => rng.pick(&known.all()).clone(),
    }
}

/// At least one.
fn some(rng: &mut Rng, names: &[String]) -> Vec<String> {
    let odds = rng.between(200, 700);
    let mut some: Vec<String> = names
        .iter()
        .filter(|_| rng.permille(odds))
        .cloned()
        .collect();
    if some.is_empty() {
        some.extend(one(rng, names));
    }
    some
}

/// A side and the rest; none if that is nobody.
fn split(names: &[String], side: Vec<String>) -> Option<[Vec<String>; 2]> {
    let rest: Vec<String> = names
        .iter()
        .filter(|name| !side.contains(name))
        .cloned()
        .collect();
    (!rest.is_empty()).then_some([side, rest])
}

fn bad(rng: &mut Rng) -> Bad {
    match rng.below(4) {
        0 => Bad::Slow {
            delay_ms: rng.scale(5, 400),
        },
        1 => Bad::Narrow {
            bytes_per_second: rng.scale(8 << 10, 1 << 20) as u32,
        },
        2 => Bad::Stalling {
            every: rng.between(3, 30) as u32,
            for_ms: rng.scale(50, 2000),
        },
        _ => Bad::Breaking {
            every: rng.between(5, 100) as u32,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        Known {
            leader: Some("v1".into()),
            voters: names(&["v1", "v2", "v3", "v4"]),
            listeners: names(&["l1", "l2", "l3"]),
            expendable: names(&["l3"]),
            clocks: true,
        }
    }

    #[test]
    fn a_seed_draws_the_same_again_and_in_time_everything() {
        let drawn = |seed| {
            let mut rng = Rng::new(seed, 0);
            let episodes = (0..400).flat_map(|_| draw(&mut rng, &known()));
            episodes.map(|fault| fault.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let mut rng = Rng::new(3, 0);
        let episodes = (0..2000).flat_map(|_| draw(&mut rng, &known()));
        let kinds: std::collections::BTreeSet<&str> = episodes.map(|fault| fault.kind()).collect();
        assert_eq!(kinds.len(), 26, "{kinds:?}");
    }

    #[test]
    fn only_expendable_listeners_lose_their_disks_and_none_of_them_is_promoted() {
        let mut rng = Rng::new(5, 0);
        for fault in (0..2000).flat_map(|_| draw(&mut rng, &known())) {
            match fault {
                Fault::Wipe(node) => assert_eq!(node, "l3"),
                Fault::Promote(node) | Fault::Replace { new: node, .. } => assert_ne!(node, "l3"),
                _ => {}
            }
        }
    }
}
