//! What must hold of all nodes together, at every moment.

pub mod applied;
pub mod watch;

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant, by its name in `docs/simulator.md`.
    pub invariant: &'static str,
    /// What was seen instead.
    pub what: String,
}

impl Violation {
    /// `what` contradicts `invariant`.
    pub fn new(invariant: &'static str, what: impl Into<String>) -> Violation {
        Violation {
            invariant,
            what: what.into(),
        }
    }
}
