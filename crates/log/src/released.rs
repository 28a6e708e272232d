//! Giving back the space of segments that were let go.
//!
//! A flush takes only their names away, which is quick while somebody has the file open. The space comes back when nobody has: a system
//! call of tens of milliseconds for a segment of 64 MiB (its pages leave the page cache, its blocks the file), in which no entry could
//! become durable if the flush made it. So the log keeps the files open until somebody takes them and frees them step by step.

use crate::DiskFile;
use std::io;
use std::sync::Arc;

/// Bytes that one step frees: some milliseconds.
const STEP_BYTES: u64 = 2 << 20;

/// Files that have no name any more. Dropping it frees what is left of them in one go.
#[must_use = "dropping it frees the files at once, which may take long"]
pub struct Released {
    files: Vec<Arc<dyn DiskFile>>,
}

impl Released {
    pub(crate) fn new(files: Vec<Arc<dyn DiskFile>>) -> Released {
        Released { files }
    }

    /// Frees a step's bytes of one file; false when nothing is left. Blocks. A file that is still being read is left to who reads it, and
    /// so is one that cannot be made shorter, with the error.
    pub fn free_step(&mut self) -> io::Result<bool> {
        let Some(mut file) = self.files.pop() else {
            return Ok(false);
        };
        // The log has forgotten it, so whoever has it read it already, and nobody else ever will.
        if Arc::get_mut(&mut file).is_some() {
            let len = file.len()?;
            if len > STEP_BYTES {
                file.set_len(len - STEP_BYTES)?;
                self.files.push(file);
            }
        }
        Ok(!self.files.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;
    use crate::{Disk, RealDisk};
    use std::path::Path;

    const LEN: u64 = 2 * STEP_BYTES + 1;

    fn file(disk: &dyn Disk, path: &Path) -> Arc<dyn DiskFile> {
        let file = disk.create(path).unwrap();
        file.set_len(LEN).unwrap();
        disk.remove(path).unwrap();
        file
    }

    #[test]
    fn space_comes_back_step_by_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        std::fs::write(&path, []).unwrap();
        let look = std::fs::File::open(&path).unwrap();
        let mut released = Released::new(vec![{
            let file = RealDisk.open(&path).unwrap();
            file.set_len(LEN).unwrap();
            file
        }]);
        let len = || look.metadata().unwrap().len();
        for left in [LEN - STEP_BYTES, 1] {
            assert!(released.free_step().unwrap());
            assert_eq!(len(), left);
        }
        assert!(
            !released.free_step().unwrap(),
            "the rest goes with the file"
        );
        assert!(!released.free_step().unwrap(), "nothing is left");
    }

    #[test]
    fn a_file_that_is_being_read_is_left_as_it_is() {
        let disk = SimDisk::new();
        let read = file(&disk, Path::new("/read"));
        let mut released = Released::new(vec![read.clone(), file(&disk, Path::new("/alone"))]);
        while released.free_step().unwrap() {}
        assert_eq!(read.len().unwrap(), LEN);
    }
}
