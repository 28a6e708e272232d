//! What an administrator asks of a node (`B16`): to pin itself to an upstream, to avoid one, to drain. Kept on disk, so it
//! outlives a restart; asked for twice it changes nothing more.

use super::TreeNode;
use crate::ids::{NodeId, Peer};
use crate::message::{KickReason, Role};
use crate::output::{Event, Why};
use crate::steering::{AVOIDED_MAX, SteerError, Steering};
use crate::time::Instant;
use crate::timers::Timer;

impl TreeNode {
    /// Pins this node to an upstream, or to none. As a listener it then uses that upstream whenever it is reachable,
    /// attached, and accepts it; is not moved away from it by `B7` or `B8`; and while it is elsewhere, because it must be
    /// somewhere, it tries again at each improvement round. It tries at once when it is told to, and moves
    /// make-before-break if that is safe (`B1`).
    pub fn pin(&mut self, now: Instant, upstream: Option<Peer>) -> Result<(), SteerError> {
        if let Some(upstream) = &upstream {
            if upstream.id == self.config.id {
                return Err(SteerError::Itself(upstream.id));
            }
            if self.saved.steering.avoids(upstream.id) {
                return Err(SteerError::IsAvoided(upstream.id));
            }
        }
        if upstream != self.saved.steering.pin {
            self.saved.steering.pin = upstream;
            self.steered(now);
        }
        self.check();
        Ok(())
    }

    /// Has this node avoid another as its upstream, or no longer. It never registers there. If that is its present upstream
    /// it looks for another at once, and stays as long as there is none: [`Event::Stays`] says so.
    pub fn avoid(&mut self, now: Instant, upstream: NodeId, on: bool) -> Result<(), SteerError> {
        let avoided = &mut self.saved.steering.avoided;
        let is_avoided = avoided.contains(&upstream);
        if on && upstream == self.config.id {
            return Err(SteerError::Itself(upstream));
        }
        if on
            && self
                .saved
                .steering
                .pin
                .as_ref()
                .is_some_and(|pin| pin.id == upstream)
        {
            return Err(SteerError::IsPinned(upstream));
        }
        if on && !is_avoided && avoided.len() >= AVOIDED_MAX {
            return Err(SteerError::TooMany);
        }
        if on != is_avoided {
            match on {
                true => avoided.push(upstream),
                false => avoided.retain(|avoided| *avoided != upstream),
            }
            self.steered(now);
        }
        self.check();
        Ok(())
    }

    /// Hands all downstreams over, and accepts none. They are told at once, and leave as soon as they have found another
    /// place; who is left after [`Config::drain_patience`](crate::Config::drain_patience) is kicked.
    /// [`Event::Drained`] says when the last has left. How far it is: [`registered`](Self::registered).
    pub fn drain(&mut self, now: Instant) {
        if !self.saved.steering.draining {
            self.saved.steering.draining = true;
            self.persist();
            self.heartbeat_downstreams(now);
            self.report();
            if self.downstreams.is_empty() {
                self.event(Event::Drained);
            } else {
                self.timers
                    .set(Timer::Drain, now + self.config.drain_patience);
            }
        }
        self.check();
    }

    /// Accepts downstreams again.
    pub fn undrain(&mut self, now: Instant) {
        if self.saved.steering.draining {
            self.saved.steering.draining = false;
            self.timers.stop(Timer::Drain);
            self.persist();
            self.heartbeat_downstreams(now);
            self.report();
        }
        self.check();
    }

    /// What an administrator has asked of this node.
    pub fn steering(&self) -> &Steering {
        &self.saved.steering
    }

    /// Kicks those whom draining has left behind.
    pub(super) fn kick_undrained(&mut self) {
        self.kick_all(KickReason::Drain);
    }

    /// A pin or an avoidance changed: keep it, and see where that leaves us.
    fn steered(&mut self, now: Instant) {
        self.persist();
        let is_idle = self.session.is_none() && self.search.is_none() && self.new_list.is_none();
        if self.role == Role::Listener && is_idle && self.knows_servers() {
            self.begin_search(now, Why::Start);
        }
        self.wish = None;
        self.review(now);
        if self.wish.is_some() {
            // An administrator waits: look now, whatever the reason is.
            self.timers.set(Timer::Look, now);
        }
    }
}
