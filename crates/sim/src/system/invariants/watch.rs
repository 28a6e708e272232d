//! What nodes say of themselves, looked at again and again: who leads, how far each is, whom it feeds.

use super::Violation;
use crate::system::network::HostId;
use crate::system::process::Up;
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
pub struct Look<'a> {
    /// Which machine.
    pub host: HostId,
    /// Its name.
    pub name: &'static str,
    /// Which of its processes.
    pub run: u32,
    /// The node.
    pub up: &'a Up,
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
    pub fn look(&mut self, look: &Look<'_>) -> Result<(), Violation> {
        let status = look.up.node.status().borrow().clone();
        let positions = look.up.node.positions();
        let lags = look.up.node.downstream_lags().len();
        self.check_leader(look, &status, &positions)?;
        self.committed = self.committed.max(positions.committed);
        if lags > look.capacity as usize {
            let what = format!("{} feeds {lags} and may feed {}", look.name, look.capacity);
            return Err(Violation::new("capacity", what));
        }
        let before = self
            .seen
            .get(&look.host)
            .filter(|seen| seen.run == look.run);
        if let Some(before) = before {
            goes_on(look, before, &status, &positions)?;
        }
        let feeding_looks = match status.role == Role::Leader && lags > 0 {
            true => before.map_or(0, |before| before.feeding_looks) + 1,
            false => 0,
        };
        if feeding_looks > FEEDING_LOOKS {
            let what = format!(
                "{} leads in term {} and feeds {lags}",
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
        if before.is_none_or(|before| before.status != status) {
            tell(look, &status);
        }
        if status.role == Role::Listener && status.upstream.is_some() && !turned {
            self.check_listener(look, &positions)?;
        }
        let seen = Seen {
            run: look.run,
            status,
            positions,
            upstream,
            feeding_looks,
        };
        self.seen.insert(look.host, seen);
        Ok(())
    }

    /// election-safety and leader-completeness.
    fn check_leader(
        &mut self,
        look: &Look<'_>,
        status: &Status,
        positions: &Positions,
    ) -> Result<(), Violation> {
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
    fn check_listener(&self, look: &Look<'_>, positions: &Positions) -> Result<(), Violation> {
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
fn goes_on(
    look: &Look<'_>,
    before: &Seen,
    status: &Status,
    positions: &Positions,
) -> Result<(), Violation> {
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

fn tell(look: &Look<'_>, status: &Status) {
    let Status {
        role,
        term,
        leader,
        upstream,
        depth,
        ..
    } = status;
    trace::note(format_args!(
        "{} is {} in term {term}, leader {leader:?}, upstream {upstream:?}, depth {depth:?}",
        look.name,
        role.as_str()
    ));
}
