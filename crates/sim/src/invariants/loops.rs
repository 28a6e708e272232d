//! **loop-broken** (`B1`): a loop lives at most the sum of the delays around it and one heartbeat; what is lost, cut off or paused
//! on the way is added. In a quiet network none forms at all.

use super::Broken;
use crate::engine::Micros;
use crate::host::{Host, Power, host_of};
use crate::network::{LISTENER, Network, UPSTREAM};

/// Loops there are, and how long those lived that were.
#[derive(Default)]
pub struct Loops {
    live: Vec<Loop>,
    /// How long each loop lived.
    pub lives: Vec<Micros>,
    /// Nothing is wrong any more, and has not been for a while: no loop may form.
    pub quiet: bool,
}

/// Nodes each of which follows the next, the last the first.
#[derive(Debug)]
struct Loop {
    members: Vec<u32>,
    since: Micros,
    deadline: Micros,
}

/// Who feeds a host, if the session still stands at both ends. One that died without a word is given up by silence (`S13`), and
/// nothing goes round on it.
fn upstream_of(hosts: &[Host], network: &Network, listener: u32) -> Option<u32> {
    let host = &hosts[listener as usize];
    let session = host.node.as_ref()?.upstream()?;
    let connection = network.get(host.key_of(session.link)?)?;
    let above = &connection.ends[UPSTREAM];
    let stands = above.open && above.life == hosts[above.host as usize].life;
    stands.then(|| host_of(session.peer.id))
}

impl Loops {
    /// A listener follows somebody from now on.
    pub(super) fn follows(
        &mut self,
        now: Micros,
        number: u32,
        upstream: u32,
        hosts: &[Host],
        network: &Network,
    ) -> Result<(), Broken> {
        let mut members = vec![number];
        let mut at = upstream;
        while at != number {
            members.push(at);
            match upstream_of(hosts, network, at) {
                Some(above) if members.len() <= hosts.len() => at = above,
                _ => return Ok(()),
            }
        }
        if self.quiet {
            return Err((
                "loop-broken",
                format!("in a quiet network {} form a loop", names(&members)),
            ));
        }
        let deadline = now + bound(&members, hosts, network);
        self.live.push(Loop {
            members,
            since: now,
            deadline,
        });
        Ok(())
    }

    pub(super) fn look(
        &mut self,
        now: Micros,
        hosts: &[Host],
        network: &Network,
    ) -> Result<(), Broken> {
        if self.live.is_empty() {
            return Ok(());
        }
        let lives = &mut self.lives;
        self.live.retain(|found| {
            let stands = found.edges().all(|(listener, upstream)| {
                upstream_of(hosts, network, listener) == Some(upstream)
            });
            if !stands {
                lives.push(now - found.since);
            }
            stands
        });
        for found in self.live.iter_mut().filter(|found| now > found.deadline) {
            match found.held_up_until(now, hosts, network) {
                Some(until) => found.deadline = until + bound(&found.members, hosts, network),
                None => {
                    let what = format!(
                        "the loop {} is {} ms old",
                        names(&found.members),
                        (now - found.since) / 1000
                    );
                    return Err(("loop-broken", what));
                }
            }
        }
        Ok(())
    }
}

impl Loop {
    /// Who follows whom.
    fn edges(&self) -> impl Iterator<Item = (u32, u32)> {
        let next = self.members.iter().cycle().skip(1);
        self.members.iter().copied().zip(next.copied())
    }

    /// Until when something on the way is late through no fault of the protocol, at least; `None` if nothing is.
    fn held_up_until(&self, now: Micros, hosts: &[Host], network: &Network) -> Option<Micros> {
        let late = self.edges().filter_map(|(listener, upstream)| {
            let host = &hosts[listener as usize];
            if host.power == Power::Paused || network.is_cut(upstream, listener) {
                return Some(now);
            }
            let link = host.node.as_ref()?.upstream()?.link;
            match network.late_until(host.key_of(link)?, LISTENER) {
                Micros::MAX => Some(now),
                until => (until > now).then_some(until),
            }
        });
        late.max()
    }
}

/// The bound of `B1`: the delays around the loop, and one heartbeat.
fn bound(members: &[u32], hosts: &[Host], network: &Network) -> Micros {
    let next = members.iter().cycle().skip(1);
    let delays: Micros = members
        .iter()
        .zip(next)
        .map(|(&listener, &upstream)| network.delay_max(upstream, listener))
        .sum();
    delays + hosts[members[0] as usize].config.heartbeat.as_micros() as Micros
}

fn names(members: &[u32]) -> String {
    let names: Vec<String> = members
        .iter()
        .map(|member| format!("n{}", member + 1))
        .collect();
    names.join(" -> ")
}
