//! Making the new group's directories (B17).
//!
//! ```text
//! for each voter   lock it, write `recovering`, copy the source
//!                  open the copy: bring the state to the log's end, append the new membership, save a vote, make all durable
//! for each voter   write `recovered` and the identity
//! for each voter   remove `recovering`
//! ```
//!
//! A crash before the last step leaves directories with which no node starts and which are made anew by the same command.

use super::copy::{clear, copy_dir};
use super::source::{apply_rest, open_log};
use super::{Origin, RecoverError, Survey};
use crate::applier::Applier;
use crate::config::{Founder, Group};
use crate::dir::Dir;
use crate::identity::{Identity, IdentityError};
use crate::keeper::UNPERSISTED_MAX_BYTES;
use crate::member::{Member, Membership};
use crate::raft::VoteBytes;
use crate::state_machine::StateMachine;
use bytes::Bytes;
use eaves_log::{Chain, DirLock, Disk, Frame, Kind, Log, LogId, RealDisk};
use prost::Message;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Says that a directory is not whole.
pub(super) const UNFINISHED: &str = "recovering";

/// The name of that file before it is whole itself.
const UNFINISHED_NEW: &str = "recovering.tmp";

/// Refuses a directory whose making was interrupted. [`crate::Node::start`] does, too; who opens a state machine before that asks first,
/// since its files may be there in part.
pub fn check_whole(dir: &Path) -> Result<(), IdentityError> {
    check_whole_in(&Dir::real(dir))
}

pub(crate) fn check_whole_in(dir: &Dir) -> Result<(), IdentityError> {
    match dir.has(UNFINISHED) {
        Ok(true) => Err(IdentityError::Unfinished {
            dir: dir.path().display().to_string(),
        }),
        Ok(false) => Ok(()),
        Err(cause) => Err(IdentityError::Io {
            file: dir.path().join(UNFINISHED).display().to_string(),
            cause,
        }),
    }
}

impl Survey {
    /// Makes a directory for each founder of `group`, in the same order, from the chosen source; returns the new group's first entry,
    /// its membership, as (term, index). A directory must be empty, absent, or left from an attempt that was interrupted.
    ///
    /// `open` opens, or begins, the state machine of a directory. Blocks. Needs as much space as the source takes, for each directory.
    ///
    /// # Panics
    ///
    /// If there are not as many directories as founders.
    pub fn make(
        &self,
        group: &Group,
        dirs: &[PathBuf],
        open: impl Fn(&Path) -> io::Result<Arc<dyn StateMachine>>,
    ) -> Result<(u64, u64), RecoverError> {
        self.make_on(Arc::new(RealDisk), group, dirs, open)
    }

    /// [`Survey::make`], on another disk than the machine's: that of `open`, too. The directories are looked at past it.
    ///
    /// # Panics
    ///
    /// If there are not as many directories as founders.
    pub fn make_on(
        &self,
        disk: Arc<dyn Disk>,
        group: &Group,
        dirs: &[PathBuf],
        open: impl Fn(&Path) -> io::Result<Arc<dyn StateMachine>>,
    ) -> Result<(u64, u64), RecoverError> {
        self.make_stepwise(&disk, group, dirs, open, |_| Ok(()))
    }

    /// [`Survey::make_on`], asking `before` at every step, whose error is a crash there.
    pub(super) fn make_stepwise(
        &self,
        disk: &Arc<dyn Disk>,
        group: &Group,
        dirs: &[PathBuf],
        open: impl Fn(&Path) -> io::Result<Arc<dyn StateMachine>>,
        mut before: impl FnMut(&'static str) -> io::Result<()>,
    ) -> Result<(u64, u64), RecoverError> {
        self.check(group, dirs)?;
        let first = self.first_entry(group);
        let mut locks = Vec::new();
        let targets: Vec<Dir> = (dirs.iter())
            .map(|dir| Dir::new(disk.clone(), dir))
            .collect();
        for (dir, founder) in targets.iter().zip(&group.founders) {
            let filled = self.fill(disk, dir, founder.id, &first, &open, &mut before);
            locks.push(filled.map_err(at(dir.path()))?);
        }
        for (dir, founder) in targets.iter().zip(&group.founders) {
            self.name(dir, group.cluster_id, founder, &mut before)
                .map_err(at(dir.path()))?;
        }
        for dir in &targets {
            let mut release = || -> io::Result<()> {
                before("release")?;
                dir.remove(UNFINISHED)
            };
            release().map_err(at(dir.path()))?;
        }
        let LogId { term, index } = first.id();
        Ok((term, index))
    }

    /// Copies the source to `dir`, with `first` at the end of its log and state; gives the directory's lock.
    fn fill(
        &self,
        disk: &Arc<dyn Disk>,
        dir: &Dir,
        node_id: u64,
        first: &Frame,
        open: &impl Fn(&Path) -> io::Result<Arc<dyn StateMachine>>,
        before: &mut impl FnMut(&'static str) -> io::Result<()>,
    ) -> io::Result<DirLock> {
        before("lock")?;
        // Durably: what is made here must not be gone with its directory after a power failure.
        dir.make()?;
        let lock = DirLock::acquire(&**disk, dir.path()).map_err(io::Error::other)?;
        // Somebody else may have made something here until now.
        check_free(dir.path())?;
        before("mark")?;
        dir.write(UNFINISHED, b"this directory is not whole\n")?;
        before("copy")?;
        clear(&**disk, dir.path())?;
        copy_dir(&**disk, &self.chosen().dir, dir.path())?;
        before("begin")?;
        let vote = VoteBytes {
            term: first.id().term,
            voted_for: node_id,
            committed: false,
        };
        let machine = open(dir.path())?;
        begin(disk, dir, machine, self.chosen().chain(), first, vote)?;
        Ok(lock)
    }

    /// Says in a filled directory whose it is, and where it comes from.
    fn name(
        &self,
        dir: &Dir,
        cluster_id: u64,
        founder: &Founder,
        before: &mut impl FnMut(&'static str) -> io::Result<()>,
    ) -> io::Result<()> {
        before("note")?;
        let origin = Origin {
            cluster_id: self.chosen().cluster_id,
            last: self.chosen().last(),
        };
        origin.save(dir)?;
        before("identify")?;
        let identity = Identity {
            cluster_id: Some(cluster_id),
            node_id: founder.id,
            is_voter: true,
            began_as_voter: true,
            keep_below: None,
            name: founder.name.clone(),
        };
        identity.save(dir).map_err(io::Error::other)
    }

    /// Refuses what [`Survey::make`] would refuse before it makes anything.
    ///
    /// # Panics
    ///
    /// If there are not as many directories as founders.
    pub fn check(&self, group: &Group, dirs: &[PathBuf]) -> Result<(), RecoverError> {
        assert_eq!(
            group.founders.len(),
            dirs.len(),
            "a directory for each voter"
        );
        if group.cluster_id == self.chosen().cluster_id {
            return Err(RecoverError::SameCluster(group.cluster_id));
        }
        dirs.iter()
            .try_for_each(|dir| check_free(dir).map_err(at(dir)))?;
        let sources = self.found().map(|(stand, _)| stand.dir.as_path());
        check_apart(sources, dirs)
    }

    /// The entry that makes the founders the voters, in a term of its own, above all that the source knows of.
    fn first_entry(&self, group: &Group) -> Frame {
        let members = group.founders.iter().map(|founder| {
            let member = Member {
                id: founder.id,
                name: founder.name.clone(),
                peer_address: founder.peer_address.clone(),
                client_urls: Vec::new(),
            };
            (founder.id, member)
        });
        let membership = Membership {
            configs: vec![group.founders.iter().map(|founder| founder.id).collect()],
            members: members.collect(),
        };
        let chosen = self.chosen();
        let id = LogId::new(chosen.term_known + 1, chosen.index + 1);
        Frame::encode(id, Kind::Membership, &membership.to_bytes())
    }
}

/// Says in which directory it went wrong.
fn at(dir: &Path) -> impl FnOnce(io::Error) -> RecoverError {
    let dir = dir.display().to_string();
    |error| RecoverError::Target {
        dir,
        cause: error.to_string(),
    }
}

/// Takes over a copied directory: its log and its state end with `first` when this returns, durably.
fn begin(
    disk: &Arc<dyn Disk>,
    dir: &Dir,
    machine: Arc<dyn StateMachine>,
    chain: Chain,
    first: &Frame,
    vote: VoteBytes,
) -> io::Result<()> {
    let applier = Applier::open(machine, dir.clone())?;
    let log = open_log(disk.clone(), dir.path(), &applier).map_err(io::Error::other)?;
    flush(&log)?;
    applier.log_follows()?;
    if log.last_chain() != chain {
        return Err(io::Error::other(
            "the copy is not what was copied; check the disk",
        ));
    }
    log.append(std::slice::from_ref(first))
        .map_err(io::Error::other)?;
    log.save_hard_state(Bytes::from(vote.encode_to_vec()))
        .map_err(io::Error::other)?;
    flush(&log)?;
    let end = first.id().index;
    apply_rest(&log, &applier, |applier| {
        match applier.unpersisted_bytes() > UNPERSISTED_MAX_BYTES {
            true => persist_all(applier, end),
            false => Ok(()),
        }
    })?;
    persist_all(&applier, end)?;
    match applier.persist(end)? == Some(end) {
        true => Ok(()),
        false => Err(io::Error::other(
            "the state machine does not make its state durable",
        )),
    }
}

/// Makes durable what is applied up to index `end`, piece by piece, until the state machine gets no further.
fn persist_all(applier: &Applier, end: u64) -> io::Result<()> {
    let mut before = None;
    loop {
        let durable = applier.persist(end)?;
        if durable == before || durable == Some(end) {
            return Ok(());
        }
        before = durable;
    }
}

fn flush(log: &Log) -> io::Result<()> {
    while let Some(job) = log.next_flush() {
        log.flushed(job.run()).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Whether a voter may be made in `dir`.
fn check_free(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // That is all that an attempt leaves which ended before the directory was marked.
    let unmarked = [eaves_log::LOCK_FILE, UNFINISHED_NEW];
    let mut others = entries.filter(|entry| {
        let name = entry.as_ref().map(fs::DirEntry::file_name);
        name.map_or(true, |name| unmarked.iter().all(|other| name != *other))
    });
    if others.next().is_none() || dir.join(UNFINISHED).exists() {
        return Ok(());
    }
    // Whole: the attempt that made it was interrupted when it released the others, or when it was to say how to start the voters.
    let advice = match Origin::load(&Dir::real(dir)) {
        Some(_) => {
            "it holds a voter that `eaves recover` has made. If that was interrupted, and no voter has been started: remove all directories \
             that it was to make and run it again. Otherwise give a directory that is empty or does not exist"
        }
        None => "it is not empty; give a directory that is empty or does not exist",
    };
    Err(io::Error::other(advice))
}

/// Refuses directories of which one is, or is inside, another: a copy would be copied into itself, and what is left of an interrupted
/// attempt would be removed with a source in it.
fn check_apart<'d>(
    sources: impl Iterator<Item = &'d Path>,
    dirs: &'d [PathBuf],
) -> Result<(), RecoverError> {
    let mut others = Vec::new();
    for source in sources {
        others.push((source, resolve(source).map_err(at(source))?));
    }
    for dir in dirs {
        let place = resolve(dir).map_err(at(dir))?;
        let overlaps =
            |(_, other): &&(&Path, PathBuf)| place.starts_with(other) || other.starts_with(&place);
        if let Some((other, _)) = others.iter().find(overlaps) {
            let text = format!(
                "it and {} are the same directory, or one is inside the other; give one that is apart from all others",
                other.display()
            );
            return Err(at(dir)(io::Error::other(text)));
        }
        others.push((dir, place));
    }
    Ok(())
}

/// Where `dir` is, or would be, without symbolic links.
fn resolve(dir: &Path) -> io::Result<PathBuf> {
    match dir.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let dir = std::path::absolute(dir)?;
    match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => Ok(resolve(parent)?.join(name)),
        _ => Err(io::Error::other(
            "its path goes back by `..` from a directory that does not exist; give it without",
        )),
    }
}
