//! The data directory of `eaves up`: who may use it, the layout kept in it, and where each node keeps its own things.

use super::layout::{Layout, Wanted};
use crate::failure::{Failure, Outcome};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The layout, under this name.
const LAYOUT_FILE: &str = "eaves-up.json";
/// Locked while an `eaves up` runs here.
const LOCK_FILE: &str = "eaves-up.lock";
/// What a child wrote to its standard error.
const LOG_FILE: &str = "log.txt";

/// A data directory that only we use, as long as this value lives.
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is not there, and locks it. A directory with things in it that `eaves up` did not put there is refused.
    pub fn open(path: &Path) -> Outcome<Directory> {
        let cannot = |what: &str, error: io::Error| {
            Failure::failed(format!(
                "cannot {what} {}: {error}; give another --data-dir",
                path.display()
            ))
        };
        fs::create_dir_all(path).map_err(|error| cannot("make", error))?;
        let foreign = !path.join(LAYOUT_FILE).exists()
            && fs::read_dir(path)
                .map_err(|error| cannot("read", error))?
                .any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOCK_FILE));
        if foreign {
            return Err(Failure::failed(format!(
                "{} holds something that `eaves up` did not make; give an empty --data-dir",
                path.display()
            )));
        }
        let lock = File::create(path.join(LOCK_FILE)).map_err(|error| cannot("write to", error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Directory {
                path: path.to_path_buf(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(Failure::failed(format!(
                "another `eaves up` runs on {}; stop it, or give another --data-dir",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(cannot("lock", error)),
        }
    }

    /// The layout to run: the kept one changed as far as it may be, or a first one; kept from now on. Also says whether one was kept.
    pub fn layout(
        &self,
        wanted: &Wanted,
        usable: impl FnOnce(&Layout) -> Outcome<()>,
    ) -> Outcome<(Layout, bool)> {
        let file = self.path.join(LAYOUT_FILE);
        let cannot = |what: &str, error: io::Error| {
            Failure::failed(format!(
                "cannot {what} {}: {error}; give another --data-dir",
                file.display()
            ))
        };
        let kept = match fs::read_to_string(&file) {
            Ok(text) => Some(Layout::from_json(&file.display().to_string(), &text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(cannot("read", error)),
        };
        let resumes = kept.is_some();
        let layout = match kept {
            Some(kept) => kept.resumed(wanted)?,
            None => Layout::first(wanted)?,
        };
        // Before anything is kept: who takes the advice of an error must not meet what the failed start left.
        usable(&layout)?;
        // Written beside and renamed, so that a crash leaves the old layout or the new one.
        let beside = file.with_extension("json.new");
        fs::write(&beside, layout.to_json())
            .and_then(|()| File::open(&beside)?.sync_all())
            .and_then(|()| fs::rename(&beside, &file))
            .map_err(|error| cannot("write", error))?;
        Ok((layout, resumes))
    }

    /// The directory of one node.
    pub fn of_node(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The log of one node's process.
    pub fn log_of(&self, name: &str) -> PathBuf {
        self.of_node(name).join(LOG_FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_resumes_the_first() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("data");
        let wanted = Wanted {
            listeners: Some(1),
            ..Default::default()
        };
        let directory = Directory::open(&path).unwrap();
        let (layout, resumes) = directory.layout(&wanted, |_| Ok(())).unwrap();
        assert!(!resumes);
        drop(directory);
        let again = Directory::open(&path)
            .unwrap()
            .layout(&Wanted::default(), |_| Ok(()))
            .unwrap();
        assert_eq!(again, (layout, true));
    }

    #[test]
    fn a_layout_that_cannot_be_used_is_not_kept() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("data");
        let directory = Directory::open(&path).unwrap();
        let taken = |_: &Layout| Err(Failure::failed("port 1 is taken"));
        assert!(directory.layout(&Wanted::default(), taken).is_err());
        let (_, resumes) = directory.layout(&Wanted::default(), |_| Ok(())).unwrap();
        assert!(!resumes, "the failed start left a layout behind");
    }

    #[test]
    fn two_at_once_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let _first = Directory::open(place.path()).unwrap();
        let error = Directory::open(place.path()).err().unwrap().to_string();
        assert!(error.contains("another `eaves up`"), "{error}");
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_refused_and_left_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("notes"), "mine").unwrap();
        let error = Directory::open(place.path()).err().unwrap().to_string();
        assert!(
            error.contains("did not make") && error.contains("--data-dir"),
            "{error}"
        );
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
