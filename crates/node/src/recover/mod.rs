//! Coming back when the group is lost for good (B17): a new group from what a listener, or a voter, still has on disk.
//!
//! ```text
//! Source::open (each directory)  ->  Survey::of  ->  Survey::make
//! what it holds                      most advanced,    new directories,
//!                                    do they agree     one for each new voter
//! ```
//!
//! A listener's log is a prefix of what the group had committed (S5), so the longest one is the most that is known to be committed. A
//! voter's log may go on with entries of which nobody knows whether they were; Raft's own order, by term and then by index of the last
//! entry (dissertation 3.6.1), says which directory has more, for listeners and voters alike.
//!
//! The new group begins with a copy of the chosen directory and one entry more: the membership that says who votes now, in a term above
//! all that the directory knows of. Log, chain value, state and revisions go on from where they stood. What is new is the cluster's id,
//! so nodes of the lost group and nodes of the new one refuse each other (B12), whatever comes back from the dead.
//!
//! Safety:
//! - **A source is never changed.** It is locked, so that no server runs on it, opened on a [`FrozenDisk`](eaves_log::FrozenDisk), and
//!   copied.
//! - **A new directory counts only when it is whole.** Until then it has a file `recovering`, with which no node starts; what is there is
//!   thrown away when it is made again.
//! - **All new voters are copies of one source**, made in one go: two that were made of different sources would have different entries
//!   under one log id, which Raft cannot see.
//!
//! Caveats. Nobody can tell from a directory what it lacks: writes that the lost group acknowledged after the position found are lost, and
//! their number is not known. A group of one voter has no follower and feeds no listener (S1), and there is no way from there to a second
//! voter but making the group again; so make all voters at once when the new group is to have listeners.

mod copy;
mod make;
mod origin;
mod source;
mod survey;
#[cfg(test)]
mod tests;

pub use make::check_whole;
pub(crate) use make::check_whole_in;
pub(crate) use origin::Origin;
pub use source::{Source, Stand};
pub use survey::{Agreement, Survey};

/// Why a group cannot be made from what is there. No source was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Somebody else works on a directory.
    #[error(transparent)]
    Lock(#[from] eaves_log::LockError),
    /// A directory given to recover from is of no use.
    #[error("cannot recover from {dir}: {cause}")]
    Source {
        /// The directory.
        dir: String,
        /// What is wrong and what to do.
        cause: String,
    },
    /// Directories of different clusters.
    #[error(
        "{first} belongs to cluster {first_cluster:016x} and {second} to {second_cluster:016x}: give directories of one cluster only"
    )]
    OtherCluster {
        /// A directory.
        first: String,
        /// Its cluster.
        first_cluster: u64,
        /// Another.
        second: String,
        /// Its cluster.
        second_cluster: u64,
    },
    /// A listener's log is not a prefix of the most advanced one. One of the two is wrong, and nothing here tells which.
    #[error(
        "{dir} has other entries than {chosen} from entry {from} on, and a listener has committed ones only: one of the two is not what its group \
         wrote; find out which, and give only directories that you trust"
    )]
    Diverged {
        /// The listener's directory.
        dir: String,
        /// The most advanced directory.
        chosen: String,
        /// The first entry known to differ.
        from: u64,
    },
    /// The new group would have the id of the lost one.
    #[error(
        "the new group would have the id of the lost one, {0:016x}, and its nodes could not be told apart: give another --initial-cluster-token"
    )]
    SameCluster(u64),
    /// A new directory cannot be made.
    #[error("cannot make a voter in {dir}: {cause}")]
    Target {
        /// The directory.
        dir: String,
        /// What is wrong and what to do.
        cause: String,
    },
}
