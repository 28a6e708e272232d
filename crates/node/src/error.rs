//! What can go wrong, by what the caller does next.

/// Why a write did not give an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Nothing was proposed: try again, here or elsewhere.
    #[error("no leader: {0}")]
    NoLeader(String),
    /// It may or may not have been committed: find out before trying again.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The node falls behind: slow down and try again.
    #[error("too many requests")]
    Busy,
    /// The command is longer than [`crate::MAX_COMMAND_BYTES`]: make it smaller.
    #[error("command of {0} bytes is too large")]
    TooLarge(usize),
    /// This node is shutting down or broken: go to another.
    #[error("stopped: {0}")]
    Stopped(String),
}

/// Why a linearizable read could not be ordered. Nothing happened: try again, here or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, or the leader cannot reach a quorum.
    #[error("no leader: {0}")]
    NoLeader(String),
    /// The leader changed meanwhile.
    #[error("leader changed")]
    LeaderChanged,
    /// This node did not catch up in time.
    #[error("timed out waiting for {0}")]
    Timeout(String),
    /// This node is shutting down or broken: go to another.
    #[error("stopped: {0}")]
    Stopped(String),
}

/// Why a node did not start. Each names the thing and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory is in use, or cannot be.
    #[error(transparent)]
    Lock(#[from] eaves_log::LockError),
    /// The data directory belongs to somebody else, or its identity cannot be read.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    /// The log is damaged or incomplete.
    #[error(transparent)]
    Log(#[from] eaves_log::OpenError),
    /// The state machine is damaged or does not fit the log.
    #[error("open the state in {dir}: {cause}")]
    State {
        /// The data directory.
        dir: String,
        /// What is wrong and what to do.
        cause: String,
    },
    /// The peer address is taken, or not ours.
    #[error(
        "listen for peers on {address}: {cause}; choose another address or stop whoever has it"
    )]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Anything else.
    #[error("start the node: {0}")]
    Other(#[from] std::io::Error),
}

/// Why an administrator's order was not carried out, or may not have been. All orders are idempotent: giving one again does no harm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SteerError {
    /// The tree shows no such node, or more than one: correct the name.
    #[error("{0}")]
    Unknown(String),
    /// It makes no sense for that node and nothing was done; the text says what would.
    #[error("{0}")]
    Refused(String),
    /// The node did not answer; the order may have been carried out: try again.
    #[error("{0}")]
    Unreachable(String),
}
