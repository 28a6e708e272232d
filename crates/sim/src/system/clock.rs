//! Virtual time, which all machines share, and the clocks of their runtimes.
//!
//! Every runtime has a clock of its own, which stands still while the runtime does not run ([`tokio::time::pause`]). It begins when the
//! runtime is made; a [`Clock`] remembers when that was and so translates between the two.

use crate::engine::Micros;
use std::time::Duration;
use tokio::time::Instant;

/// tokio's timers go off at whole milliseconds, so everything here happens at whole milliseconds.
pub const TICK: Micros = 1_000;

/// The clock of one runtime, beside the time of the simulation.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Instant,
    base_at: Micros,
}

impl Clock {
    /// The clock of the runtime that this is called in, where it is `at` now.
    pub fn started_at(at: Micros) -> Clock {
        Clock {
            base: Instant::now(),
            base_at: at,
        }
    }

    /// What time it is. To be asked inside the runtime.
    pub fn now(&self) -> Micros {
        self.base_at + self.base.elapsed().as_micros() as Micros
    }

    /// A time of the simulation as this runtime knows it.
    pub fn instant(&self, at: Micros) -> Instant {
        self.base + Duration::from_micros(at.saturating_sub(self.base_at))
    }
}
