//! One process per data directory.

use crate::disk::{Disk, FileLock};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The name of the file that is locked. It stays when the lock is gone; only the lock on it means anything.
pub const LOCK_FILE: &str = "LOCK";

/// A lock on a directory, held until dropped or until the process ends, however it ends.
pub struct DirLock {
    _file: FileLock,
}

impl fmt::Debug for DirLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirLock")
    }
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Someone else has it.
    #[error("another process uses {}: stop it, or choose another data directory", .0.display())]
    Held(PathBuf),
    /// The lock file could not be made or locked.
    #[error("cannot lock {}: {source}", .dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DirLock {
    /// Locks `dir`, creating it if need be, durably. Never waits.
    pub fn acquire(disk: &dyn Disk, dir: &Path) -> Result<DirLock, LockError> {
        let locked = disk
            .create_dir_all(dir)
            .and_then(|()| disk.lock(&dir.join(LOCK_FILE)));
        match locked {
            Ok(file) => Ok(DirLock { _file: file }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(LockError::Held(dir.to_owned()))
            }
            Err(source) => Err(LockError::Io {
                dir: dir.to_owned(),
                source,
            }),
        }
    }
}
