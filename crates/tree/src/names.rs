//! Short names of reasons, for those who count by them. Stable: dashboards and alerts have them in their queries.

use crate::message::{KickReason, LeaveReason, RefuseReason};
use crate::output::{Left, Why};

impl Why {
    /// Its name among the reasons for which listeners move.
    pub fn name(self) -> &'static str {
        match self {
            Why::Start => "start",
            Why::Demoted => "demoted",
            Why::NewList => "new_list",
            Why::Kicked(KickReason::Leader) => "kicked_leader",
            Why::Kicked(KickReason::Silent) => "kicked_silent",
            Why::Kicked(KickReason::Admin) => "kicked_admin",
            Why::Kicked(KickReason::Drain) => "kicked_drain",
            Why::Kicked(KickReason::Uncompared) => "kicked_uncompared",
            Why::Closed => "closed",
            Why::Misbehaved => "misbehaved",
            Why::Silent => "silent",
            Why::Loop => "loop",
            Why::TooDeep => "too_deep",
            Why::HeadDetached => "head_detached",
            Why::Stale => "stale",
            Why::Better => "better",
            Why::Pinned => "pinned",
            Why::Avoids => "avoids",
            Why::Draining => "draining",
        }
    }
}

impl KickReason {
    /// Its name among the reasons for kicks.
    pub fn name(self) -> &'static str {
        match self {
            KickReason::Leader => "leader",
            KickReason::Silent => "silent",
            KickReason::Admin => "admin",
            KickReason::Drain => "drain",
            KickReason::Uncompared => "uncompared",
        }
    }
}

impl LeaveReason {
    /// Its name among the reasons for which listeners are let go.
    pub fn name(self) -> &'static str {
        match self {
            LeaveReason::Moved => "moved",
            LeaveReason::Loop => "loop",
            LeaveReason::TooDeep => "too_deep",
            LeaveReason::Detached => "detached",
            LeaveReason::NewList => "new_list",
            LeaveReason::BecameVoter => "became_voter",
            LeaveReason::UnknownSession => "unknown_session",
            LeaveReason::NotBetter => "not_better",
        }
    }
}

impl Left {
    /// Its name among the reasons for which listeners are let go.
    pub fn name(self) -> &'static str {
        match self {
            Left::Kicked(_) => "kicked",
            Left::Said(reason) => reason.name(),
            Left::Closed => "closed",
            Left::Replaced => "replaced",
            Left::Misbehaved => "misbehaved",
        }
    }
}

impl RefuseReason {
    /// Its name among the reasons for refusals.
    pub fn name(self) -> &'static str {
        match self {
            RefuseReason::Leader => "leader",
            RefuseReason::Full => "full",
            RefuseReason::Detached => "detached",
            RefuseReason::Loop => "loop",
            RefuseReason::TooDeep => "too_deep",
            RefuseReason::Draining => "draining",
            RefuseReason::Uncompared => "uncompared",
            RefuseReason::Cluster { .. } => "cluster",
            RefuseReason::Protocol { .. } => "protocol",
            RefuseReason::Log { .. } => "log",
        }
    }
}
