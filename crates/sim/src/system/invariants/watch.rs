//! What nodes say of themselves, looked at again and again: who leads, how far each is, whom it feeds.

use super::Violation;
use crate::system::network::HostId;
use crate::system::trace;
use eaves::{Positions, Role, Status};
use std::collections::BTreeMap;

/// How many looks in a row a leader may be seen to feed somebody: it hears that it leads a moment before its tree does.
const FEEDING_LOOKS: u32 = 3;

/// What has been seen so far.
#[derive(Default)]
pub struct Watch {
    /// Who led in which term.
    leaders: BTreeMap<u64, HostId>,
    /// What each machine said last, while its process runs.
    seen: BTreeMap<HostId, Seen>,
    /// The highest committed index anybody ever knew.
    committed: u64,
    /// Elections won.
    pub elections: u64,
    /// Times that a listener got another upstream.
    pub moves: u64,
    /// Times that a node changed between voter and listener.
    pub turns: u64,
}

struct Seen {
    run: u32,
    status: Status,
    positions: Positions,
    upstream: Option<u64>,
    feeding_looks: u32,
}

/// One machine as it is now.
pub struct Look {
    /// Which machine.
    pub host: HostId,
    /// Its name.
    pub name: &'static str,
    /// Which of its processes.
    pub run: u32,
    /// What it says of itself.
    pub status: Status,
    /// How far it says that it is.
    pub positions: Positions,
    /// How many listeners it feeds.
    pub feeds: usize,
    /// How many listeners it may feed.
    pub capacity: u32,
    /// The highest index that anybody had applied before.
    pub applied: u64,
}

impl Watch {
    /// A process has ended.
    pub fn forget(&mut self, host: HostId) {
        self.seen.remove(&host);
    }

    /// What a machine knew last about who leads.
    pub fn status(&self, host: HostId) -> Option<&Status> {
        self.seen.get(&host).map(|seen| &seen.status)
    }

    /// The machine that led in the highest term seen.
    pub fn leader(&self) -> Option<HostId> {
        self.leaders.last_key_value().map(|(_, host)| *host)
    }

    /// Looks at one machine.
    pub fn look(&mut self, look: &Look) -> Result<(), Violation> {
        let Look {
            status,
            positions,
            feeds,
            ..
        } = look;
        self.check_leader(look)?;
        self.committed = self.committed.max(positions.committed);
        if *feeds > look.capacity as usize {
            let what = format!("{} feeds {feeds} and may feed {}", look.name, look.capacity);
            return Err(Violation::new("capacity", what));
        }
        let before = self
            .seen
            .get(&look.host)
            .filter(|seen| seen.run == look.run);
        if let Some(before) = before {
            goes_on(look, before)?;
        }
        let feeding_looks = match status.role == Role::Leader && *feeds > 0 {
            true => before.map_or(0, |before| before.feeding_looks) + 1,
            false => 0,
        };
        if feeding_looks > FEEDING_LOOKS {
            let what = format!(
                "{} leads in term {} and feeds {feeds}",
                look.name, status.term
            );
            return Err(Violation::new("leader-feeds-none", what));
        }
        let upstream = status
            .upstream
            .or(before.and_then(|before| before.upstream));
        let moved =
            before.is_some_and(|before| before.upstream.is_some() && before.upstream != upstream);
        let turned = before.is_some_and(|before| {
            (before.status.role == Role::Listener) != (status.role == Role::Listener)
        });
        self.moves += u64::from(moved);
        self.turns += u64::from(turned);
        if before.is_none_or(|before| before.status != *status) {
            tell(look);
        }
        if status.role == Role::Listener && status.upstream.is_some() && !turned {
            self.check_listener(look)?;
        }
        let seen = Seen {
            run: look.run,
            status: status.clone(),
            positions: *positions,
            upstream,
            feeding_looks,
        };
        self.seen.insert(look.host, seen);
        Ok(())
    }

    /// election-safety and leader-completeness.
    fn check_leader(&mut self, look: &Look) -> Result<(), Violation> {
        let (status, positions) = (&look.status, look.positions);
        if status.role != Role::Leader {
            return Ok(());
        }
        let is_latest = self.leaders.keys().all(|term| *term < status.term);
        let leader = *self.leaders.entry(status.term).or_insert(look.host);
        if leader != look.host {
            let what = format!(
                "machines {leader} and {} lead in term {}",
                look.host, status.term
            );
            return Err(Violation::new("election-safety", what));
        }
        if is_latest {
            self.elections += 1;
            // What was applied anywhere was committed, and no later leader was there to commit it.
            // A log as long with other entries is found when they are applied: a node does not tell the chain value of what it has not.
            if positions.last < look.applied {
                let what = format!(
                    "{} leads in term {} with a log up to {}; {} is committed",
                    look.name, status.term, positions.last, look.applied
                );
                return Err(Violation::new("leader-completeness", what));
            }
        }
        Ok(())
    }

    /// log-prefix: what it says contains nothing that nobody knows committed. That the entries are the same, [`super::applied`] sees.
    fn check_listener(&self, look: &Look) -> Result<(), Violation> {
        let positions = look.positions;
        if positions.last > self.committed {
            let what = format!(
                "the log of listener {} goes up to {}, and nothing beyond {} is committed",
                look.name, positions.last, self.committed
            );
            return Err(Violation::new("log-prefix", what));
        }
        Ok(())
    }
}

/// monotonic.
fn goes_on(look: &Look, before: &Seen) -> Result<(), Violation> {
    let (status, positions) = (&look.status, look.positions);
    let pairs = [
        (
            "committed position",
            before.positions.committed,
            positions.committed,
        ),
        (
            "applied position",
            before.positions.applied,
            positions.applied,
        ),
    ];
    for (what, earlier, now) in pairs {
        if now < earlier {
            let what = format!(
                "the {what} of {} went from {earlier} back to {now}",
                look.name
            );
            return Err(Violation::new("monotonic", what));
        }
    }
    let votes = before.status.role != Role::Listener && status.role != Role::Listener;
    if votes && status.term < before.status.term {
        let what = format!(
            "the term of {} went from {} back to {}",
            look.name, before.status.term, status.term
        );
        return Err(Violation::new("monotonic", what));
    }
    Ok(())
}

fn tell(look: &Look) {
    let Status {
        role,
        term,
        leader,
        upstream,
        depth,
        ..
    } = &look.status;
    trace::note(format_args!(
        "{} is {} in term {term}, leader {leader:?}, upstream {upstream:?}, depth {depth:?}",
        look.name,
        role.as_str()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that says this, one of five alike that may feed two each.
    fn says(host: HostId, role: Role, term: u64, committed: u64, last: u64) -> Look {
        Look {
            host,
            name: ["v0", "v1", "v2", "l3", "l4"][host],
            run: 1,
            status: Status {
                cluster_id: 1,
                node_id: host as u64,
                name: String::new(),
                role,
                term,
                leader: None,
                upstream: (role == Role::Listener).then_some(0),
                depth: None,
            },
            positions: Positions {
                committed,
                applied: committed,
                last,
                committed_term: term,
            },
            feeds: 0,
            capacity: 2,
            applied: 0,
        }
    }

    fn leads(host: HostId, term: u64) -> Look {
        says(host, Role::Leader, term, 5, 9)
    }

    fn feeding(feeds: usize, look: Look) -> Look {
        Look { feeds, ..look }
    }

    /// The first invariant that these looks, one after the other, break.
    fn broken(looks: impl IntoIterator<Item = Look>) -> Option<&'static str> {
        let mut watch = Watch::default();
        let mut violations = looks.into_iter().filter_map(|look| watch.look(&look).err());
        violations.next().map(|violation| violation.invariant)
    }

    #[test]
    fn two_leaders_of_one_term_are_noticed() {
        // One that does not know yet that it is no more, beside the next.
        assert_eq!(broken([leads(0, 3), leads(1, 4), leads(0, 3)]), None);
        assert_eq!(
            broken([leads(0, 3), leads(1, 4), leads(1, 3)]),
            Some("election-safety")
        );
    }

    #[test]
    fn a_leader_without_what_was_applied_is_noticed() {
        let applied = |applied, look| Look { applied, ..look };
        // Whom a later leader has overtaken need not have what that one commits.
        let overtaken = applied(20, leads(0, 3));
        assert_eq!(
            broken([leads(0, 3), leads(1, 4), overtaken, applied(9, leads(2, 5))]),
            None
        );
        assert_eq!(
            broken([leads(0, 3), applied(10, leads(1, 4))]),
            Some("leader-completeness")
        );
    }

    #[test]
    fn who_feeds_more_than_it_may_is_noticed() {
        let follower = || says(1, Role::Follower, 3, 5, 9);
        assert_eq!(broken([feeding(2, follower())]), None);
        assert_eq!(broken([feeding(3, follower())]), Some("capacity"));
    }

    #[test]
    fn a_leader_that_goes_on_feeding_is_noticed() {
        let looks = |feeds: &[usize]| -> Vec<Look> {
            let look = |feeds: &usize| feeding(*feeds, leads(0, 3));
            feeds.iter().map(look).collect()
        };
        assert_eq!(broken(looks(&[1, 1, 1, 0, 1, 1, 1])), None);
        assert_eq!(broken(looks(&[1, 1, 1, 1])), Some("leader-feeds-none"));
    }

    #[test]
    fn a_listener_beyond_what_is_committed_is_noticed() {
        let listens = |last| says(3, Role::Listener, 3, 4, last);
        assert_eq!(broken([leads(0, 3), listens(5)]), None);
        assert_eq!(broken([leads(0, 3), listens(6)]), Some("log-prefix"));
        // Who has just been a voter may have what was never committed, until it is fed.
        let follower = || says(3, Role::Follower, 3, 4, 6);
        assert_eq!(broken([leads(0, 3), follower(), listens(6)]), None);
    }

    #[test]
    fn who_goes_back_is_noticed() {
        let follower = |run, term, committed| Look {
            run,
            ..says(1, Role::Follower, term, committed, 9)
        };
        assert_eq!(
            broken([follower(1, 3, 5), follower(1, 4, 6), follower(2, 4, 2)]),
            None
        );
        for wrong in [follower(1, 3, 4), follower(1, 2, 5)] {
            assert_eq!(broken([follower(1, 3, 5), wrong]), Some("monotonic"));
        }
    }
}
