//! A listener's log that an upstream found to differ from its own (B12). That is remembered, across restarts too, until an upstream
//! finds the log to be its own after all: what the upstreams purge meanwhile can no longer be compared, and a snapshot in its place
//! would silently overwrite what an administrator has to look at.

use crate::dir::Dir;
use std::io;
use std::sync::Mutex;

/// Exists while the log differs, and says how.
const FILE: &str = "log-differs";

/// Whether the log was found to differ, and how.
pub(crate) struct Differing {
    dir: Dir,
    how: Mutex<Option<String>>,
}

impl Differing {
    /// What an earlier run found.
    pub fn open(dir: Dir) -> io::Result<Differing> {
        let found = dir.read(FILE)?;
        let how = found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Differing {
            dir,
            how: Mutex::new(how),
        })
    }

    /// An upstream says that the log differs. What was found first is kept.
    pub fn found(&self, how: &str) {
        let mut known = self.how.lock().unwrap();
        if known.is_none() {
            *known = Some(how.into());
            if let Err(error) = self.dir.write(FILE, how.as_bytes()) {
                tracing::error!("write {FILE} in {}: {error}", self.dir.path().display());
            }
        }
    }

    /// An upstream holds the log's last entry, as it is here.
    pub fn agrees(&self) {
        let mut known = self.how.lock().unwrap();
        if known.take().is_some()
            && let Err(error) = self.dir.remove(FILE)
        {
            tracing::error!("remove {FILE} in {}: {error}", self.dir.path().display());
        }
    }

    /// How the log was found to differ.
    pub fn how(&self) -> Option<String> {
        self.how.lock().unwrap().clone()
    }

    /// Whether a snapshot may take the log's place.
    pub fn check(&self) -> io::Result<()> {
        match self.how() {
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
    use eaves_log::sim::SimDisk;
    use std::sync::Arc;

    #[test]
    fn what_was_found_is_remembered_until_a_log_agrees() {
        let dir = Dir::new(Arc::new(SimDisk::new()), "/data");
        let differing = Differing::open(dir.clone()).unwrap();
        differing.check().unwrap();
        differing.found("at index 7");
        differing.found("at index 9");

        let again = Differing::open(dir.clone()).unwrap();
        let refusal = again.check().unwrap_err().to_string();
        assert!(refusal.contains("at index 7"), "{refusal}");
        again.agrees();
        again.check().unwrap();
        Differing::open(dir.clone()).unwrap().check().unwrap();
    }
}
