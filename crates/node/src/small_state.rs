//! For states that fit in memory and in one file: a whole [`StateMachine`] from three functions.
//!
//! The state is kept as a value, written whole to its file when the node asks for durability, and copied whole as a snapshot. That is
//! all that a counter, a lock table or a small configuration needs; a state of more than some megabytes deserves a machine of its own.

use crate::dir::Dir;
use crate::state_machine::{Command, Position, SnapshotSink, SnapshotSource, StateMachine};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use eaves_log::{Disk, RealDisk};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// A small deterministic state.
pub trait SmallState: Clone + Default + Send + 'static {
    /// Applies one committed command and answers it. Must do the same on every node, whatever the bytes.
    fn apply(&mut self, command: &[u8]) -> Bytes;

    /// The whole state as bytes.
    fn to_bytes(&self) -> Bytes;

    /// Reads what [`SmallState::to_bytes`] wrote. The bytes may come from another node: what they do not say is an error, of any kind,
    /// and the node keeps the state that it has.
    fn from_bytes(bytes: &[u8]) -> io::Result<Self>;
}

/// A [`SmallState`] that is replicated. Cheap to clone; all clones are the same.
pub struct SmallMachine<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    applied: Mutex<Stand<S>>,
    durable: Mutex<Stand<S>>,
    /// Applied some time ago, to be durable once the log is.
    candidate: Mutex<Option<Stand<S>>>,
    dir: Dir,
    name: String,
}

/// A state and where in the log it stands.
#[derive(Clone, Default)]
struct Stand<S> {
    state: S,
    index: u64,
    position: Position,
}

impl<S: SmallState> SmallMachine<S> {
    /// Opens the state in `file`, or begins with the default where there is none.
    pub fn open(file: &Path) -> io::Result<SmallMachine<S>> {
        SmallMachine::open_on(Arc::new(RealDisk), file)
    }

    /// [`SmallMachine::open`] on another disk: that of [`Config::disk`](crate::Config::disk).
    pub fn open_on(disk: Arc<dyn Disk>, file: &Path) -> io::Result<SmallMachine<S>> {
        let damaged = |cause: String| {
            let text = format!(
                "state file {} is damaged: {cause}; restore it or let the node join anew",
                file.display()
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let parent = file.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = Dir::new(disk, parent.unwrap_or(Path::new(".")));
        let name = file.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| io::Error::other("give the state file a name in Unicode"))?;
        dir.settle()?;
        let stand = match dir.read(name)? {
            Some(bytes) => {
                Stand::<S>::from_bytes(bytes).map_err(|error| damaged(error.to_string()))?
            }
            None => Stand::default(),
        };
        let inner = Inner {
            applied: Mutex::new(stand.clone()),
            durable: Mutex::new(stand),
            candidate: Mutex::new(None),
            name: name.to_string(),
            dir,
        };
        Ok(SmallMachine {
            inner: Arc::new(inner),
        })
    }

    /// Looks at the applied state.
    pub fn read<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(&self.applied().state)
    }

    fn applied(&self) -> MutexGuard<'_, Stand<S>> {
        self.inner.applied.lock().unwrap()
    }

    fn durable(&self) -> MutexGuard<'_, Stand<S>> {
        self.inner.durable.lock().unwrap()
    }

    fn store(&self, stand: Stand<S>) -> io::Result<()> {
        self.inner.dir.write(&self.inner.name, &stand.to_bytes())?;
        *self.durable() = stand;
        Ok(())
    }
}

impl<S> Clone for SmallMachine<S> {
    fn clone(&self) -> Self {
        SmallMachine {
            inner: self.inner.clone(),
        }
    }
}

impl<S: SmallState> StateMachine for SmallMachine<S> {
    fn position(&self) -> Option<Position> {
        Some(self.durable().position.clone()).filter(|position| !position.0.is_empty())
    }

    fn apply(
        &self,
        commands: &[Command],
        index: u64,
        position: Position,
    ) -> io::Result<Vec<Bytes>> {
        let mut stand = self.applied();
        (stand.index, stand.position) = (index, position);
        Ok(commands
            .iter()
            .map(|command| stand.state.apply(&command.data))
            .collect())
    }

    fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        let applied = self.applied().clone();
        // Under steady writes the applied state is always ahead of the durable log; what was applied a moment ago is not.
        let mut candidate = self.inner.candidate.lock().unwrap();
        let stand = if applied.index <= durable_index {
            Some(applied.clone())
        } else {
            candidate.take()
        };
        match stand {
            Some(stand) if stand.index > durable_index => *candidate = Some(stand),
            Some(stand)
                if stand.position.0.is_empty() || stand.position == self.durable().position => {}
            Some(stand) => self.store(stand)?,
            None => *candidate = Some(applied),
        }
        drop(candidate);
        let durable = self.durable();
        Ok((!durable.position.0.is_empty()).then_some(durable.index))
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        let stand = self.durable().clone();
        Ok(Box::new(Outgoing {
            bytes: stand.to_bytes(),
            position: stand.position,
        }))
    }

    fn install(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Incoming {
            machine: self.clone(),
            bytes: BytesMut::new(),
        }))
    }
}

impl<S: SmallState> Stand<S> {
    /// Checksum, index, position with its length, state.
    fn to_bytes(&self) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u64(self.index);
        body.put_u32(self.position.0.len() as u32);
        body.put_slice(&self.position.0);
        body.put_slice(&self.state.to_bytes());
        [&crc32c::crc32c(&body).to_be_bytes()[..], &body]
            .concat()
            .into()
    }

    fn from_bytes(mut bytes: Bytes) -> io::Result<Stand<S>> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "wrong length or checksum");
        if bytes.len() < 16 || bytes.get_u32() != crc32c::crc32c(&bytes) {
            return Err(broken());
        }
        let (index, length) = (bytes.get_u64(), bytes.get_u32() as usize);
        if length > bytes.len() {
            return Err(broken());
        }
        let position = Position(bytes.split_to(length));
        Ok(Stand {
            state: S::from_bytes(&bytes)?,
            index,
            position,
        })
    }
}

struct Outgoing {
    bytes: Bytes,
    position: Position,
}

impl SnapshotSource for Outgoing {
    fn position(&self) -> Position {
        self.position.clone()
    }

    fn size_hint_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn next_chunk(&mut self, max_bytes: usize) -> io::Result<Option<Bytes>> {
        let length = self.bytes.len().min(max_bytes);
        Ok((length > 0).then(|| self.bytes.split_to(length)))
    }
}

struct Incoming<S> {
    machine: SmallMachine<S>,
    bytes: BytesMut,
}

impl<S: SmallState> SnapshotSink for Incoming<S> {
    fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        self.bytes.put_slice(&chunk);
        Ok(())
    }

    fn finish(self: Box<Self>, position: Position) -> io::Result<()> {
        let refused = |error: io::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let stand = Stand {
            position,
            ..Stand::from_bytes(self.bytes.freeze()).map_err(refused)?
        };
        self.machine.store(stand.clone())?;
        *self.machine.applied() = stand;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves_log::sim::SimDisk;

    impl SmallState for Vec<u8> {
        fn apply(&mut self, command: &[u8]) -> Bytes {
            self.extend_from_slice(command);
            Bytes::from(self.len().to_string())
        }

        fn to_bytes(&self) -> Bytes {
            Bytes::copy_from_slice(self)
        }

        fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
            Ok(bytes.to_vec())
        }
    }

    /// Applies one command at `index` and makes it durable.
    fn write(machine: &SmallMachine<Vec<u8>>, index: u64) -> io::Result<Option<u64>> {
        let command = Command {
            index,
            data: Bytes::from("a"),
        };
        let position = Position(Bytes::from(index.to_string()));
        machine.apply(&[command], index, position)?;
        machine.persist(index)
    }

    #[test]
    fn what_a_start_finds_is_still_there_after_a_power_failure() {
        for seed in 0..32 {
            let disk = SimDisk::new();
            let open = || {
                let (disk, file) = (Arc::new(disk.clone()), Path::new("/data/state"));
                SmallMachine::<Vec<u8>>::open_on(disk, file).unwrap()
            };
            let killed = open();
            write(&killed, 1).unwrap();
            // The file has its name, which is not durable.
            disk.fail_syncs_after(1);
            write(&killed, 2).unwrap_err();
            disk.heal();
            let found = open().position();
            disk.crash(seed);
            assert_eq!(open().position(), found, "seed {seed}");
        }
    }

    #[test]
    fn what_is_durable_comes_back_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state");
        let machine = SmallMachine::<Vec<u8>>::open(&file).unwrap();
        assert_eq!(machine.persist(9).unwrap(), None, "nothing was applied");
        for (index, data) in [(4, "ab"), (5, "c")] {
            let command = Command {
                index,
                data: Bytes::from(data),
            };
            machine
                .apply(&[command], index, Position(Bytes::from(index.to_string())))
                .unwrap();
            machine.persist(4).unwrap();
        }
        let again = SmallMachine::<Vec<u8>>::open(&file).unwrap();
        assert_eq!(
            again.read(Vec::clone),
            b"ab",
            "5 was not durable in the log"
        );
        assert_eq!(again.position(), Some(Position(Bytes::from("4"))));
        let whole = std::fs::read(&file).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            let error = SmallMachine::<Vec<u8>>::open(&file)
                .err()
                .expect("a cut file is refused");
            assert!(
                error.to_string().contains(&file.display().to_string()),
                "{error}"
            );
        }
    }
}
