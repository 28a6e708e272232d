//! One directory of the lost group, read and never changed.

use super::RecoverError;
use crate::applier::Applier;
use crate::dir::Dir;
use crate::identity::{self, Identity};
use crate::member::Member;
use crate::opening::check_prefix;
use crate::position::Applied;
use crate::state_machine::StateMachine;
use eaves_log::{Base, Chain, DirLock, Disk, FrozenDisk, Log, LogId, OpenError, Options, RealDisk};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes of entries applied at once.
const APPLY_BYTES: usize = 1 << 20;

/// A directory to recover from. It stays locked while this lives, so that no server starts on it meanwhile.
pub struct Source {
    pub(super) stand: Stand,
    pub(super) log: Log,
    _lock: DirLock,
}

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// The directory.
    pub dir: PathBuf,
    /// Its node's name.
    pub name: String,
    /// Its node's id.
    pub node_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// Whether it is a voter's, whose last entries may not be committed. All of a listener's are (S5).
    pub is_voter: bool,
    /// Term of its last entry.
    pub term: u64,
    /// Index of its last entry.
    pub index: u64,
    /// The log's chain value up to there (B12).
    pub chain: u64,
    /// The index of the first entry that is still in the log.
    pub log_first: u64,
    /// The group's voters, as of the last entry.
    pub voters: Vec<Member>,
    /// When a file of the log was last written, as the file system says; a copy may have the time of copying.
    pub written: Option<SystemTime>,
    /// The highest term the node knew of, which may be later than its last entry's.
    pub(super) term_known: u64,
}

impl Source {
    /// Locks `dir` and reads all of it: identity, log and state, which must fit each other.
    ///
    /// `open` opens the state machine that belongs to it, without changing anything on disk. It is brought to the end of the log in
    /// memory; a clone that the caller keeps can be asked what it holds there.
    pub fn open(
        dir: &Path,
        open: impl FnOnce(&Path) -> io::Result<Arc<dyn StateMachine>>,
    ) -> Result<Source, RecoverError> {
        let useless = |cause: String| RecoverError::Source {
            dir: dir.display().to_string(),
            cause,
        };
        let nothing = || useless("it holds no node's data; give the --data-dir of a node".into());
        let empty = || useless("its log is empty; give the directory of another node".into());
        // Before the lock, which would make the directory.
        if !dir.is_dir() {
            return Err(useless(
                "there is no such directory; give the --data-dir of a node".into(),
            ));
        }
        // Neither is a lock left where no node was, or where one was not made to its end.
        if !dir.join(identity::FILE).exists() {
            Identity::load(&Dir::real(dir)).map_err(|error| useless(error.to_string()))?;
            return Err(nothing());
        }
        let lock = DirLock::acquire(&RealDisk, dir)?;
        // Only now: a server that had the lock may have written it until then.
        let identity = Identity::load(&Dir::real(dir))
            .map_err(|error| useless(error.to_string()))?
            .ok_or_else(nothing)?;
        let machine = open(dir).map_err(|error| useless(error.to_string()))?;
        let applier =
            Applier::open(machine, Dir::real(dir)).map_err(|error| useless(error.to_string()))?;
        let log = open_log(Arc::new(FrozenDisk::new()), dir, &applier).map_err(useless)?;
        apply_rest(&log, &applier, |_| Ok(())).map_err(|error| useless(error.to_string()))?;
        let Applied {
            last: Some(last),
            chain,
            membership: (_, membership),
        } = applier.state()
        else {
            return Err(empty());
        };
        let stand = Stand {
            dir: dir.to_owned(),
            name: identity.name,
            node_id: identity.node_id,
            cluster_id: identity.cluster_id.ok_or_else(empty)?,
            // One that was on its way from voter to listener still has a voter's log.
            is_voter: identity.is_voter || identity.keep_below.is_some(),
            term: last.term,
            index: last.index,
            chain: chain.0,
            log_first: log.first_index(),
            voters: membership.voters().cloned().collect(),
            written: last_written(&dir.join("log")),
            term_known: last
                .term
                .max(voted_term(&log).map_err(|error| useless(error.to_string()))?),
        };
        Ok(Source {
            stand,
            log,
            _lock: lock,
        })
    }

    /// What it holds.
    pub fn stand(&self) -> &Stand {
        &self.stand
    }
}

impl Stand {
    pub(super) fn last(&self) -> LogId {
        LogId::new(self.term, self.index)
    }

    pub(super) fn chain(&self) -> Chain {
        Chain(self.chain)
    }
}

/// Opens the log in `dir` and makes sure that it and the state fit each other. The text of an error says what is wrong.
pub(super) fn open_log(disk: Arc<dyn Disk>, dir: &Path, applier: &Applier) -> Result<Log, String> {
    // What its own texts advise, to join the group anew, is of no use without a group.
    let broken = |error: OpenError| match error {
        OpenError::Damaged(damage) => format!("{damage}; give the directory of another node"),
        other => other.to_string(),
    };
    let (log, _) = Log::open(disk, &dir.join("log"), Options::default()).map_err(broken)?;
    let applied = applier.state();
    if applied.last > log.last_id() {
        if !applier
            .is_ahead_of_log()
            .map_err(|error| error.to_string())?
        {
            let required = applied.index().unwrap_or(0);
            log.require_at_least(required).map_err(|_| {
                format!(
                    "its state has applied entry {required}, and its log ends at {}: entries are missing; give the directory of another node",
                    log.last_id().map_or("its beginning".into(), |id| id.to_string())
                )
            })?;
        }
        // A snapshot was installed, and a crash came before the log followed.
        let base = Base {
            last: applied.last,
            chain: applied.chain,
        };
        log.reset(base).map_err(|error| error.to_string())?;
    }
    check_prefix(dir, &log, &applied).map_err(|error| error.to_string())?;
    if applied.next_index() < log.first_index() {
        return Err(format!(
            "its state ends before entry {}, and its log begins at {} only: bring back the state file that belongs to this log, or give the \
             directory of another node",
            applied.next_index(),
            log.first_index()
        ));
    }
    Ok(log)
}

/// Applies all of the log that is not applied yet; calls `between` now and then.
pub(super) fn apply_rest(
    log: &Log,
    applier: &Applier,
    between: impl Fn(&Applier) -> io::Result<()>,
) -> io::Result<()> {
    let Some(last) = log.last_id() else {
        return Ok(());
    };
    loop {
        let next = applier.state().next_index();
        let frames = log
            .read(next, last.index, APPLY_BYTES)
            .map_err(io::Error::other)?;
        if frames.is_empty() {
            return Ok(());
        }
        applier.apply(&frames)?;
        between(applier)?;
    }
}

/// The highest term in which the node took part, as its Raft vote says; 0 for a listener that never had one.
fn voted_term(log: &Log) -> io::Result<u64> {
    use prost::Message;
    let vote = log.hard_state().unwrap_or_default();
    let vote = crate::raft::VoteBytes::decode(vote)
        .map_err(|error| io::Error::other(format!("its Raft vote cannot be read: {error}")))?;
    Ok(vote.term)
}

fn last_written(log_dir: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(log_dir).ok()?;
    entries
        .filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok())
        .max()
}
