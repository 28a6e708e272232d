//! Files of one directory, copied to another, durably.

use super::make::UNFINISHED;
use crate::saved;
use eaves_log::Disk;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Bytes copied at once.
const PIECE_BYTES: usize = 1 << 20;

/// What belongs to the node whose directory it was.
const OWN: [&str; 5] = [
    eaves_log::LOCK_FILE,
    crate::identity::FILE,
    saved::FILE,
    super::origin::FILE,
    crate::snapshot::DIR_NAME,
];

/// Empties a marked directory of what an interrupted attempt left. The mark and the lock stay.
pub(super) fn clear(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    remove_all(disk, dir, &[UNFINISHED, eaves_log::LOCK_FILE])
}

fn remove_all(disk: &dyn Disk, dir: &Path, keep: &[&str]) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if keep.iter().any(|kept| entry.file_name() == *kept) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => {
                remove_all(disk, &entry.path(), &[])?;
                fs::remove_dir(entry.path())?;
            }
            false => disk.remove(&entry.path())?,
        }
    }
    Ok(())
}

/// Copies files and directories, without those that belong to the node whose directory `from` is.
/// A source is locked, so nobody changes it meanwhile.
pub(super) fn copy_dir(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    copy_all(disk, from, to, &OWN)
}

fn copy_all(disk: &dyn Disk, from: &Path, to: &Path, leave: &[&str]) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if leave.iter().any(|left| entry.file_name() == *left) {
            continue;
        }
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => {
                disk.create_dir_all(&target)?;
                copy_all(disk, &entry.path(), &target, &[])?;
            }
            false => copy_file(disk, &entry.path(), &target)?,
        }
    }
    disk.sync_dir(to)
}

fn copy_file(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let to = disk.create(to)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut copied = 0;
    loop {
        match from.read(&mut piece) {
            Ok(0) => return to.sync_data(),
            Ok(read) => {
                to.write_all_at(&piece[..read], copied)?;
                copied += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
