//! A listener's log that an upstream found to differ from its own (B12). That is remembered, across restarts too, until an upstream
//! finds the log to be its own after all: what the upstreams purge meanwhile can no longer be compared, and a snapshot in its place
//! would silently overwrite what an administrator has to look at.

use crate::identity::write_durably;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Exists while the log differs, and says how.
const FILE: &str = "log-differs";

/// Whether the log was found to differ, and how.
pub(crate) struct Differing {
    file: PathBuf,
    how: Mutex<Option<String>>,
}

impl Differing {
    /// What an earlier run found.
    pub fn open(data_dir: &Path) -> io::Result<Differing> {
        let file = data_dir.join(FILE);
        let how = match std::fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Differing {
            file,
            how: Mutex::new(how),
        })
    }

    /// An upstream says that the log differs. What was found first is kept.
    pub fn found(&self, how: &str) {
        let mut known = self.how.lock().unwrap();
        if known.is_none() {
            *known = Some(how.into());
            if let Err(error) = write_durably(&self.file, how.as_bytes()) {
                tracing::error!("write {}: {error}", self.file.display());
            }
        }
    }

    /// An upstream holds the log's last entry, as it is here.
    pub fn agrees(&self) {
        let mut known = self.how.lock().unwrap();
        if known.take().is_some()
            && let Err(error) = std::fs::remove_file(&self.file)
        {
            tracing::error!("remove {}: {error}", self.file.display());
        }
    }

    /// Whether a snapshot may take the log's place.
    pub fn check(&self) -> io::Result<()> {
        match &*self.how.lock().unwrap() {
            None => Ok(()),
            Some(how) => Err(io::Error::other(format!(
                "keep the log and take no snapshot over it, since it was found to differ ({how}): an administrator must look; if \
                 nothing here is wanted, remove the data directory and let the listener join anew"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_remembered_until_a_log_agrees() {
        let dir = tempfile::tempdir().unwrap();
        let differing = Differing::open(dir.path()).unwrap();
        differing.check().unwrap();
        differing.found("at index 7");
        differing.found("at index 9");

        let again = Differing::open(dir.path()).unwrap();
        let refusal = again.check().unwrap_err().to_string();
        assert!(refusal.contains("at index 7"), "{refusal}");
        again.agrees();
        again.check().unwrap();
        Differing::open(dir.path()).unwrap().check().unwrap();
    }
}
