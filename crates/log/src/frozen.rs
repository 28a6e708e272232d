//! A disk that is read and never changed: changes stay in memory and are forgotten.
//!
//! Opening a log repairs it: what a crash had torn off goes, what may not have been synced is written again. Somebody who only wants to
//! know what a directory holds, and must not touch it, opens it on a [`FrozenDisk`].
//!
//! Memory: the pages written, so little for a log that is opened and read.

use crate::disk::{Disk, DiskFile, FileLock, try_lock};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Changes are kept by pages of this size.
const PAGE_BYTES: u64 = 4096;

/// The file system as it was, with changes that only this value sees.
#[derive(Debug, Default)]
pub struct FrozenDisk {
    /// Names that mean something else here than on the disk; `None` is a removed one.
    names: Mutex<BTreeMap<PathBuf, Option<Arc<FrozenFile>>>>,
}

/// A file of which the first bytes may be those of a real one, and which never writes to it.
#[derive(Debug)]
pub struct FrozenFile {
    under: Option<File>,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    len: u64,
    /// Beyond this the real file does not count any more.
    under_len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl FrozenFile {
    /// The file at `path`, opened for reading only; `NotFound` if there is none.
    pub fn open(path: &Path) -> io::Result<FrozenFile> {
        let under = File::open(path)?;
        let len = under.metadata()?.len();
        Ok(FrozenFile::new(Some(under), len))
    }

    /// A file that is nowhere but in memory.
    pub fn empty() -> FrozenFile {
        FrozenFile::new(None, 0)
    }

    fn new(under: Option<File>, len: u64) -> FrozenFile {
        let now = Now {
            len,
            under_len: len,
            pages: BTreeMap::new(),
        };
        FrozenFile {
            under,
            now: Mutex::new(now),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now
            .lock()
            .expect("a thread died while it changed a frozen file")
    }

    /// What lies under the pages, with zeroes where nothing does.
    fn read_under(&self, now: &Now, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let there = now.under_len.saturating_sub(offset).min(buf.len() as u64) as usize;
        if let Some(under) = &self.under {
            under.read_exact_at(&mut buf[..there], offset)?;
        }
        buf[there..].fill(0);
        Ok(())
    }
}

impl DiskFile for FrozenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.now().len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let now = self.now();
        let len = now.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..len];
        self.read_under(&now, buf, offset)?;
        let end = offset + len as u64;
        for (number, page) in now.pages.range(offset / PAGE_BYTES..=end / PAGE_BYTES) {
            let start = number * PAGE_BYTES;
            let (from, to) = (offset.max(start), end.min(start + PAGE_BYTES));
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
            }
        }
        Ok(len)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut now = self.now();
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let number = at / PAGE_BYTES;
            let start = number * PAGE_BYTES;
            let to = end.min(start + PAGE_BYTES);
            if !now.pages.contains_key(&number) {
                let mut page = vec![0; PAGE_BYTES as usize].into_boxed_slice();
                self.read_under(&now, &mut page, start)?;
                now.pages.insert(number, page);
            }
            let page = now.pages.get_mut(&number).expect("it is there now");
            page[(at - start) as usize..(to - start) as usize]
                .copy_from_slice(&buf[(at - offset) as usize..(to - offset) as usize]);
            at = to;
        }
        now.len = now.len.max(end);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut now = self.now();
        now.len = now.len.max(len);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut now = self.now();
        if len < now.len {
            now.under_len = now.under_len.min(len);
            now.pages.split_off(&len.div_ceil(PAGE_BYTES));
            let last = len / PAGE_BYTES;
            if let Some(page) = now.pages.get_mut(&last) {
                page[(len - last * PAGE_BYTES) as usize..].fill(0);
            }
        }
        now.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

impl FrozenDisk {
    /// The file system as it is now. Whoever else changes it meanwhile is seen, or half seen: keep others away.
    pub fn new() -> FrozenDisk {
        FrozenDisk::default()
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Option<Arc<FrozenFile>>>> {
        self.names
            .lock()
            .expect("a thread died while it changed a frozen disk")
    }
}

impl Disk for FrozenDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let changed = self.names();
        let mut names = Vec::new();
        match std::fs::read_dir(dir) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry?;
                    if !changed.contains_key(&entry.path()) {
                        names.extend(entry.file_name().into_string().ok());
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let here = |path: &&PathBuf| path.parent() == Some(dir);
        let added = changed.iter().filter(|(_, file)| file.is_some());
        names.extend(
            added
                .map(|(path, _)| path)
                .filter(here)
                .filter_map(|path| path.file_name()?.to_str().map(str::to_owned)),
        );
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(FrozenFile::empty());
        self.names().insert(path.to_owned(), Some(file.clone()));
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut names = self.names();
        let file = match names.get(path) {
            Some(Some(file)) => file.clone(),
            Some(None) => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let file = Arc::new(FrozenFile::open(path)?);
                names.insert(path.to_owned(), Some(file.clone()));
                file
            }
        };
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.open(from)?;
        let mut names = self.names();
        let file = names.insert(from.to_owned(), None).flatten();
        names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.names().insert(path.to_owned(), None);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Locks the real file, which keeps out whoever would change the directory; where there is none there is nobody to keep out.
    fn lock(&self, path: &Path) -> io::Result<FileLock> {
        match File::open(path) {
            Ok(file) => try_lock(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(())),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One change of a file.
    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Allocate(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        let bytes = prop::collection::vec(any::<u8>(), 1..6000);
        prop_oneof![
            (0..20_000u64, bytes).prop_map(|(offset, bytes)| Change::Write(offset, bytes)),
            (0..20_000u64).prop_map(Change::SetLen),
            (0..20_000u64).prop_map(Change::Allocate),
        ]
    }

    proptest! {
        #[test]
        fn a_frozen_file_reads_like_a_changed_one_and_the_real_one_stays(
            before in prop::collection::vec(any::<u8>(), 0..15_000),
            changes in prop::collection::vec(change(), 0..8),
            offset in 0..25_000u64,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            std::fs::write(&path, &before).unwrap();
            let file = FrozenFile::open(&path).unwrap();
            let mut model = before.clone();
            for change in changes {
                match change {
                    Change::Write(offset, bytes) => {
                        file.write_all_at(&bytes, offset).unwrap();
                        let end = offset as usize + bytes.len();
                        model.resize(model.len().max(end), 0);
                        model[offset as usize..end].copy_from_slice(&bytes);
                    }
                    Change::SetLen(len) => {
                        file.set_len(len).unwrap();
                        model.resize(len as usize, 0);
                    }
                    Change::Allocate(len) => {
                        file.allocate(len).unwrap();
                        model.resize(model.len().max(len as usize), 0);
                    }
                }
            }
            let mut read = vec![0; 30_000];
            let len = file.read_at(&mut read, offset).unwrap();
            prop_assert_eq!(&read[..len], model.get(offset as usize..).unwrap_or_default());
            prop_assert_eq!(std::fs::read(&path).unwrap(), before);
        }
    }

    #[test]
    fn names_change_only_here() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a"), b"a").unwrap();
        std::fs::write(at("b"), b"b").unwrap();
        let disk = FrozenDisk::new();
        disk.create(&at("new")).unwrap();
        disk.rename(&at("a"), &at("c")).unwrap();
        disk.remove(&at("b")).unwrap();
        let mut names = disk.list(dir.path()).unwrap();
        names.sort();
        assert_eq!(names, ["c", "new"]);
        assert!(disk.open(&at("a")).is_err() && disk.open(&at("b")).is_err());
        let mut byte = [0];
        disk.open(&at("c")).unwrap().read_at(&mut byte, 0).unwrap();
        assert_eq!(&byte, b"a");
        let mut real: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        real.sort();
        assert_eq!(real, ["a", "b"]);
    }
}
