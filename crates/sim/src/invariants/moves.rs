//! **no-flapping** (`B7`): in a quiet network a listener leaves an upstream for a better place only if that place is strictly
//! smaller in the order. So moves come to an end.

use super::Broken;
use super::liveness::{Order, rank};
use crate::engine::{Micros, SECOND};
use crate::host::{Host, host_of};
use eaves_tree::{Event, Why};

/// Where a node stands reaches others after a moment; a move is judged only if nobody has moved for this long.
const NEWS: Micros = SECOND;

/// When somebody moved last.
#[derive(Default)]
pub struct Moves {
    last_at: Micros,
}

impl Moves {
    /// A node has said something; `quiet` if nothing is wrong in the network.
    pub(super) fn event(
        &mut self,
        now: Micros,
        number: u32,
        event: &Event,
        quiet: bool,
        hosts: &[Host],
    ) -> Result<(), Broken> {
        let &Event::Moved { from, to, why } = event else {
            return Ok(());
        };
        let unsettled = now < self.last_at + NEWS;
        self.last_at = now;
        let (Some(from), Why::Better, true, false) = (from, why, quiet, unsettled) else {
            return Ok(());
        };
        let host = &hosts[number as usize];
        let place = |upstream| rank(host, &hosts[host_of(upstream) as usize], Order::Whole);
        match (place(from), place(to)) {
            (Some(old), Some(new)) if new >= old => {
                let what = format!(
                    "n{} moved from {from} to {to} for a better place, from {old:?} to {new:?}",
                    number + 1
                );
                Err(("no-flapping", what))
            }
            _ => Ok(()),
        }
    }
}
