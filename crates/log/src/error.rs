//! What can go wrong, typed by what the caller does next.

use crate::LogId;
use std::io;
use std::path::{Path, PathBuf};

/// A disk that refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action} {}: {message}", .path.display())]
pub struct DiskError {
    /// What was tried.
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// The sort of error.
    pub kind: io::ErrorKind,
    /// What the system said.
    pub message: String,
}

impl DiskError {
    /// For `map_err`: says what was tried on which file.
    pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
        move |error| DiskError {
            action,
            path: path.to_owned(),
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

/// A file of the log that is not what was written to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {offset}{}: {what}", .file.display(), .index.map_or(String::new(), |i| format!(" (entry {i})")))]
pub struct Damage {
    /// The damaged file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// The entry that should be there, if it is an entry.
    pub index: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Something that was durable is lost. Other members still have it, so this node must get it from them anew.
    #[error(
        "{0}; it was durable and may have been acknowledged: check the disk, then replace this node: remove it from the group, wipe its data directory and let it join anew"
    )]
    Damaged(Damage),
    /// Written by a newer version.
    #[error("{} has format version {found}, this program reads version {known}: run a newer version of it", .file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u32,
        /// The version this program knows.
        known: u32,
    },
    /// Entries that other durable state of this node is built on are missing.
    #[error("the log in {} ends at {}, but this node has applied entry {required}: acknowledged entries are missing: check the disk, then replace this node: remove it from the group, wipe its data directory and let it join anew", .dir.display(), .last.map_or("its beginning".to_string(), |id| id.to_string()))]
    Missing {
        /// The log's directory.
        dir: PathBuf,
        /// Its last entry.
        last: Option<LogId>,
        /// The entry that should be there.
        required: u64,
    },
}

/// An I/O error some time ago after which nobody knows what is on disk, so that the log takes no more writes. Restarting the process
/// reads back what is really there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "previous I/O error, the log takes no more writes: {0}; make sure that the disk works and has space, then restart the node"
)]
pub struct Poisoned(pub String);

/// Why a change was not queued. Nothing happened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// An entry does not follow the one before it.
    #[error("cannot append {got}: the next index is {expected}")]
    NotContiguous {
        /// The index that was due.
        expected: u64,
        /// What came.
        got: LogId,
    },
    /// An entry is of an older term than the one before it.
    #[error("cannot append {got} after {last}: terms never go back")]
    TermWentBack {
        /// The last entry.
        last: LogId,
        /// What came.
        got: LogId,
    },
    /// A cut or purge at a place where the log is not.
    #[error("cannot {action} {at}: the log has entries {first} to {}", .last.map_or("none".to_string(), |id| id.to_string()))]
    OutOfRange {
        /// What was asked.
        action: &'static str,
        /// Where.
        at: String,
        /// First index kept.
        first: u64,
        /// Last entry.
        last: Option<LogId>,
    },
    /// The entry at a cut could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Broken for good.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// Why entries could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// They are no longer here: get a snapshot.
    #[error("entries before {first} are gone")]
    Gone {
        /// The first index that can be read.
        first: u64,
    },
    /// They are not what was written: this node should not go on.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
