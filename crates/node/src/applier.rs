//! The one way into the state machine: whoever knows an entry committed, Raft or the tree, applies it through here.
//!
//! Invariants, asserted:
//! - `applied-once`: an index at or below the applied one is never applied again.
//! - `monotonic`: the applied index never goes back, except that installing a snapshot replaces the state by a later one.
//!
use crate::dir::Dir;
use crate::member::Membership;
use crate::position::Applied;
use crate::state_machine::{Command, SnapshotSink, SnapshotSource, StateMachine};
use bytes::Bytes;
use eaves_log::{Frame, Kind, LogId};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Why a received state was not installed.
#[derive(Debug)]
pub(crate) enum InstallError {
    /// The state is the old one, and the node goes on with it.
    Refused(io::Error),
    /// Which of the two states a restart finds is open. The node must stop; the marker is there, so that the next start takes whatever
    /// it finds.
    Broken(io::Error),
}

impl From<InstallError> for io::Error {
    fn from(error: InstallError) -> io::Error {
        match error {
            InstallError::Refused(error) | InstallError::Broken(error) => error,
        }
    }
}

/// A file that exists between installing a snapshot and resetting the log.
const MARKER: &str = "snapshot-installed";

/// A state machine and where it stands. One per node, kept across changes of role.
pub(crate) struct Applier {
    machine: Arc<dyn StateMachine>,
    /// The lock orders applying; it is held while the state machine works.
    state: Mutex<Applied>,
    applied: watch::Sender<Option<LogId>>,
    membership: watch::Sender<Membership>,
    /// Where [`MARKER`] is.
    dir: Dir,
}

impl Applier {
    /// Takes over a state machine at its durable position.
    pub fn open(machine: Arc<dyn StateMachine>, dir: Dir) -> io::Result<Arc<Applier>> {
        let state = match machine.position() {
            Some(position) => Applied::from_position(&position).map_err(io::Error::other)?,
            None => Applied::default(),
        };
        Ok(Arc::new(Applier {
            applied: watch::Sender::new(state.last),
            membership: watch::Sender::new(state.membership.1.clone()),
            state: Mutex::new(state),
            dir,
            machine,
        }))
    }

    /// Where the state machine stands.
    pub fn state(&self) -> Applied {
        self.state.lock().unwrap().clone()
    }

    /// The last entry applied, as it moves.
    pub fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    /// The membership applied last, as it changes.
    pub fn membership(&self) -> watch::Receiver<Membership> {
        self.membership.subscribe()
    }

    /// Applies committed entries in log order; one answer each, empty for entries that are not commands.
    pub fn apply(&self, frames: &[Frame]) -> io::Result<Vec<Bytes>> {
        let Some(last) = frames.last().map(Frame::id) else {
            return Ok(Vec::new());
        };
        let mut state = self.state.lock().unwrap();
        let mut next = state.clone();
        let mut commands = Vec::with_capacity(frames.len());
        for frame in frames {
            assert!(
                next.last < Some(frame.id()),
                "applied-once: {} comes after {:?}",
                frame.id(),
                next.last
            );
            next.last = Some(frame.id());
            next.chain = next.chain.next(frame);
            match frame.kind() {
                Kind::Blank => {}
                Kind::Normal => commands.push(Command {
                    index: frame.id().index,
                    data: frame.payload(),
                }),
                Kind::Membership => {
                    let membership =
                        Membership::from_bytes(&frame.payload()).map_err(io::Error::other)?;
                    next.membership = (Some(frame.id()), membership);
                }
            }
        }
        let answers = self
            .machine
            .apply(&commands, last.index, next.to_position())?;
        assert_eq!(
            answers.len(),
            commands.len(),
            "the state machine answers every command"
        );
        *state = next;
        self.publish(&state);
        Ok(spread(frames, answers))
    }

    /// Makes a piece of the applied state durable, no further than the log is: `durable_index` is the last index on disk. Returns the
    /// index that the durable state now stands at.
    pub fn persist(&self, durable_index: u64) -> io::Result<Option<u64>> {
        self.machine.persist(durable_index)
    }

    /// Whether [`Applier::persist`] has something to do though nothing was applied since.
    pub fn has_upkeep(&self) -> bool {
        self.machine.has_upkeep()
    }

    /// About how much is applied but not durable.
    pub fn unpersisted_bytes(&self) -> usize {
        self.machine.unpersisted_bytes()
    }

    /// A copy of the durable state and where it stands; `None` while there is none.
    pub fn snapshot(&self) -> io::Result<Option<(Applied, Box<dyn SnapshotSource>)>> {
        let source = self.machine.snapshot()?;
        if source.position().0.is_empty() {
            return Ok(None);
        }
        Ok(Some((
            Applied::from_position(&source.position()).map_err(io::Error::other)?,
            source,
        )))
    }

    /// Opens a place to receive another node's state.
    pub fn receive(&self) -> io::Result<Box<dyn SnapshotSink>> {
        self.machine.install()
    }

    /// Replaces the state by a received one that stands at `at`, which must be later.
    pub fn install(&self, sink: Box<dyn SnapshotSink>, at: Applied) -> Result<(), InstallError> {
        let mut state = self.state.lock().unwrap();
        if at.last <= state.last {
            return Err(InstallError::Refused(io::Error::other(format!(
                "refuse a snapshot at {:?}: this node already stands at {:?}",
                at.last, state.last
            ))));
        }
        // Until the log follows, the state is ahead of it; the marker tells a restart that this is no lost log.
        self.dir
            .write(MARKER, b"a snapshot was installed; the log follows\n")
            .map_err(InstallError::Refused)?;
        if let Err(error) = sink.finish(at.to_position()) {
            if error.kind() != io::ErrorKind::InvalidData {
                return Err(InstallError::Broken(error));
            }
            self.log_follows().map_err(InstallError::Broken)?;
            return Err(InstallError::Refused(error));
        }
        *state = at;
        self.publish(&state);
        Ok(())
    }

    /// The log was reset to where the installed state stands.
    pub fn log_follows(&self) -> io::Result<()> {
        self.dir.remove(MARKER)
    }

    /// Whether a snapshot was installed and the log may not have followed.
    pub fn is_ahead_of_log(&self) -> io::Result<bool> {
        self.dir.has(MARKER)
    }

    fn publish(&self, state: &Applied) {
        let (_, membership) = &state.membership;
        self.membership.send_if_modified(|known| {
            let changed = known != membership;
            if changed {
                known.clone_from(membership);
            }
            changed
        });
        self.applied.send_replace(state.last);
    }
}

/// Puts the answers of the commands back to the entries they belong to.
fn spread(frames: &[Frame], answers: Vec<Bytes>) -> Vec<Bytes> {
    let mut answers = answers.into_iter();
    frames
        .iter()
        .map(|frame| match frame.kind() {
            Kind::Normal => answers.next().expect("one answer for each command"),
            Kind::Blank | Kind::Membership => Bytes::new(),
        })
        .collect()
}
