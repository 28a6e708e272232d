//! Rules that can be switched off one at a time, to prove that a test would notice if one were broken.
//!
//! Only with the feature `mutations`, which nothing but a simulator turns on. Without it [`Config::lacks`] is constant, and no
//! branch is left of the questions asked to it. With a rule switched off this crate does not assert the invariant which that
//! rule upholds: it is the test that must find the violation, not the crate.

use crate::config::Config;

/// A rule that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// `S9`: the upstream does not count its downstreams when one registers. Breaks **capacity**.
    S9,
    /// `S10`: a voter that becomes leader keeps its downstreams. Breaks **leader-feeds-none**.
    S10,
    /// `B1`: a node takes on whoever is in its own path, and nobody leaves a loop. Breaks **loop-broken**.
    B1,
    /// `B3`: who hangs below a detached head does not wait for it. The subtree falls apart.
    B3,
    /// `B7`: a listener moves to a place that is only as good as its own. It moves for ever.
    B7,
    /// `B8`: stale nodes rank like all others when a place is chosen. A cut-off follower attracts.
    B8,
    /// `B11`: a listener takes others on before its own log has been compared. Breaks **log-prefix**.
    B11,
    /// `B11`: who waits to be compared keeps its place, whoever needs it. Breaks **reattach**.
    B11Yielding,
    /// `B12`: the end of the listener's log is not compared. Breaks **log-prefix**.
    B12,
}

impl Config {
    /// Whether this node lacks the rule.
    #[cfg(feature = "mutations")]
    pub(crate) fn lacks(&self, rule: Mutation) -> bool {
        self.mutation == Some(rule)
    }

    /// Whether this node lacks the rule: never.
    #[cfg(not(feature = "mutations"))]
    pub(crate) const fn lacks(&self, _rule: Mutation) -> bool {
        false
    }
}
