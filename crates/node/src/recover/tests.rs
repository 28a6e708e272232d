//! Recoveries of directories made by hand, entry by entry: comparing, crashing between steps, refusing.

use super::{Agreement, RecoverError, Source, Survey};
use crate::applier::Applier;
use crate::config::Group;
use crate::dir::Dir;
use crate::identity::Identity;
use crate::member::{Member, Membership};
use crate::raft::VoteBytes;
use crate::small_state::{SmallMachine, SmallState};
use crate::state_machine::StateMachine;
use bytes::Bytes;
use eaves_log::{DirLock, Disk, Frame, Kind, Log, LogId, Options, RealDisk};
use prost::Message;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOST: u64 = 0xdead;

/// All commands, one after the other.
#[derive(Clone, Default)]
struct Text(String);

impl SmallState for Text {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        self.0.push_str(&String::from_utf8_lossy(command));
        Bytes::new()
    }

    fn to_bytes(&self) -> Bytes {
        self.0.clone().into()
    }

    fn from_bytes(bytes: &[u8]) -> io::Result<Text> {
        Ok(Text(String::from_utf8_lossy(bytes).into_owned()))
    }
}

fn machine(dir: &Path) -> io::Result<SmallMachine<Text>> {
    SmallMachine::open(&dir.join("text"))
}

fn open(dir: &Path) -> io::Result<Arc<dyn StateMachine>> {
    Ok(Arc::new(machine(dir)?))
}

fn flush(log: &Log) {
    while let Some(job) = log.next_flush() {
        log.flushed(job.run()).unwrap();
    }
}

/// The entry after the membership: `letter`s are commands, of the term that stands before them.
fn entries(text: &[(u64, &str)]) -> Vec<Frame> {
    let voters = (1..=3).map(|id| {
        let member = Member {
            id,
            name: format!("v{id}"),
            peer_address: format!("h{id}:1"),
            client_urls: Vec::new(),
        };
        (id, member)
    });
    let membership = Membership {
        configs: vec![(1..=3).collect()],
        members: voters.collect::<BTreeMap<_, _>>(),
    };
    let mut frames = vec![Frame::encode(
        LogId::new(1, 0),
        Kind::Membership,
        &membership.to_bytes(),
    )];
    for (term, letters) in text {
        for letter in letters.bytes() {
            let id = LogId::new(*term, frames.len() as u64);
            frames.push(Frame::encode(id, Kind::Normal, &[letter]));
        }
    }
    frames
}

/// A node's directory whose state is durable up to entry `applied`.
fn node(
    root: &Path,
    name: &str,
    voter: Option<u64>,
    text: &[(u64, &str)],
    applied: u64,
) -> PathBuf {
    let dir = root.join(name);
    fs::create_dir_all(&dir).unwrap();
    let identity = Identity {
        cluster_id: Some(LOST),
        node_id: voter.unwrap_or(99),
        is_voter: voter.is_some(),
        began_as_voter: voter.is_some(),
        keep_below: None,
        name: name.into(),
    };
    identity.save(&Dir::real(&dir)).unwrap();
    let (log, _) = Log::open(Arc::new(RealDisk), &dir.join("log"), Options::default()).unwrap();
    let frames = entries(text);
    log.append(&frames).unwrap();
    flush(&log);
    let applier = Applier::open(open(&dir).unwrap(), Dir::real(&dir)).unwrap();
    applier.apply(&frames[..=applied as usize]).unwrap();
    assert_eq!(applier.persist(applied).unwrap(), Some(applied));
    fs::write(dir.join("upstreams"), b"of the old node").unwrap();
    dir
}

fn source(dir: &Path) -> Source {
    Source::open(dir, open).unwrap_or_else(|error| panic!("{error}"))
}

fn survey(dirs: &[&PathBuf]) -> Result<Survey, RecoverError> {
    Survey::of(dirs.iter().map(|dir| source(dir)).collect())
}

fn agreements(survey: &Survey) -> Vec<Agreement> {
    survey.found().map(|(_, agreement)| agreement).collect()
}

fn new_group(names: &[&str]) -> Group {
    let founders: Vec<(String, String)> = names
        .iter()
        .map(|name| (name.to_string(), format!("{name}:2380")))
        .collect();
    Group::new("recovered", &founders)
}

/// Every file below `dir` with its content, the lock left out.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => waiting.push(path),
                false if path.ends_with(eaves_log::LOCK_FILE) => {}
                false => {
                    files.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
    }
    files
}

/// What a node that starts in `dir` finds: identity, last entry, text, voters.
fn found(dir: &Path) -> (Identity, LogId, String, Vec<String>) {
    let identity = Identity::load(&Dir::real(dir))
        .unwrap()
        .expect("it is whole");
    let (log, _) = Log::open(Arc::new(RealDisk), &dir.join("log"), Options::default()).unwrap();
    let machine = machine(dir).unwrap();
    let applied = Applier::open(Arc::new(machine.clone()), Dir::real(dir))
        .unwrap()
        .state();
    assert_eq!(
        applied.last,
        log.last_id(),
        "all of the log is applied, durably"
    );
    assert_eq!(applied.chain, log.last_chain());
    let vote = VoteBytes::decode(log.hard_state().unwrap()).unwrap();
    assert_eq!(
        (vote.term, vote.voted_for),
        (log.last_id().unwrap().term, identity.node_id)
    );
    let (_, membership) = applied.membership;
    let voters = membership
        .voters()
        .map(|voter| voter.name.clone())
        .collect();
    (
        identity,
        log.last_id().unwrap(),
        machine.read(|text| text.0.clone()),
        voters,
    )
}

#[test]
fn the_most_advanced_directory_is_chosen_and_the_others_are_compared_with_it() {
    let root = tempfile::tempdir().unwrap();
    let l1 = node(root.path(), "l1", None, &[(1, "abcd")], 2);
    let l2 = node(root.path(), "l2", None, &[(1, "abcd"), (3, "ef")], 6);
    // It led in term 2 and never knew that nobody followed.
    let v1 = node(root.path(), "v1", Some(1), &[(1, "abc"), (2, "uvwxyz")], 3);
    let survey = survey(&[&l1, &v1, &l2]).unwrap();
    assert_eq!(survey.chosen().name, "l2");
    assert_eq!((survey.chosen().term, survey.chosen().index), (3, 6));
    assert_eq!(
        agreements(&survey),
        [
            Agreement::Prefix { behind: 2 },
            Agreement::Differs { from: 4 },
            Agreement::Chosen
        ]
    );
    assert_eq!(survey.voters(), (1, 3));
}

#[test]
fn of_equals_a_listener_is_chosen_and_a_longer_voter_before_a_listener() {
    let root = tempfile::tempdir().unwrap();
    let v1 = node(root.path(), "v1", Some(1), &[(1, "ab")], 2);
    let l1 = node(root.path(), "l1", None, &[(1, "ab")], 2);
    let l2 = node(root.path(), "l2", None, &[(1, "ab")], 1);
    let equal = survey(&[&v1, &l1, &l2]).unwrap();
    assert_eq!(equal.chosen().name, "l1");
    drop(equal);
    let v2 = node(root.path(), "v2", Some(2), &[(1, "abc")], 2);
    let longer = survey(&[&l1, &v2]).unwrap();
    assert_eq!(longer.chosen().name, "v2");
    assert_eq!(agreements(&longer)[0], Agreement::Prefix { behind: 1 });
}

#[test]
fn listeners_that_contradict_each_other_and_other_clusters_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let l1 = node(root.path(), "l1", None, &[(1, "abcd")], 4);
    let l2 = node(root.path(), "l2", None, &[(1, "abXde")], 5);
    let error = survey(&[&l1, &l2]).err().expect("they contradict");
    assert!(
        matches!(&error, RecoverError::Diverged { from: 3, .. }),
        "{error}"
    );

    let l3 = node(root.path(), "l3", None, &[(1, "ab")], 1);
    let mut identity = Identity::load(&Dir::real(&l3)).unwrap().unwrap();
    identity.cluster_id = Some(LOST + 1);
    identity.save(&Dir::real(&l3)).unwrap();
    let error = survey(&[&l1, &l3]).err().expect("two clusters");
    assert!(
        matches!(&error, RecoverError::OtherCluster { .. }),
        "{error}"
    );
    let error = error.to_string();
    assert!(
        error.contains("000000000000dead") && error.contains("000000000000deae"),
        "{error}"
    );
}

#[test]
fn a_group_goes_on_from_the_end_of_the_log_in_a_higher_term_and_the_source_stays() {
    let root = tempfile::tempdir().unwrap();
    let v1 = node(root.path(), "v1", Some(1), &[(1, "abc"), (4, "d")], 1);
    let (log, _) = Log::open(Arc::new(RealDisk), &v1.join("log"), Options::default()).unwrap();
    let vote = VoteBytes {
        term: 7,
        voted_for: 2,
        committed: false,
    };
    log.save_hard_state(vote.encode_to_vec().into()).unwrap();
    flush(&log);
    drop(log);
    let before = content(&v1);
    let survey = survey(&[&v1]).unwrap();
    let group = new_group(&["n1", "n2", "n3"]);
    let dirs: Vec<PathBuf> = ["n1", "n2", "n3"].map(|name| root.path().join(name)).into();
    let first = survey.make(&group, &dirs, open).unwrap();
    assert_eq!(
        first,
        (8, 5),
        "after entry 4, above the term it had voted in"
    );
    drop(survey);
    assert_eq!(content(&v1), before);
    for (dir, founder) in dirs.iter().zip(&group.founders) {
        let (identity, last, text, voters) = found(dir);
        assert_eq!(identity.cluster_id, Some(group.cluster_id));
        assert_eq!(
            (identity.node_id, identity.name),
            (founder.id, founder.name.clone())
        );
        assert!(identity.is_voter);
        assert_eq!(last, LogId::new(8, 5));
        assert_eq!(text, "abcd");
        let names: std::collections::BTreeSet<_> = voters.into_iter().collect();
        assert_eq!(names, ["n1", "n2", "n3"].map(str::to_owned).into());
        assert!(
            !dir.join("upstreams").exists(),
            "that list was the old node's"
        );
    }
}

#[test]
fn a_crash_before_any_step_leaves_nothing_a_node_starts_with_and_the_same_command_ends_it() {
    let root = tempfile::tempdir().unwrap();
    let l1 = node(root.path(), "l1", None, &[(1, "abcd")], 2);
    let before = content(&l1);
    let group = new_group(&["n1", "n2"]);
    for crash_at in 0.. {
        let dirs: Vec<PathBuf> = ["n1", "n2"]
            .map(|name| root.path().join(format!("{name}-{crash_at}")))
            .into();
        let survey = survey(&[&l1]).unwrap();
        let mut step = 0;
        let mut last = "";
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let crashed = survey.make_stepwise(&disk, &group, &dirs, open, |name| {
            last = name;
            step += 1;
            match step > crash_at {
                true => Err(io::Error::other("the power failed")),
                false => Ok(()),
            }
        });
        if crashed.is_ok() {
            assert!(
                crash_at >= 2 * 7,
                "seven steps for each directory, not {crash_at}"
            );
            break;
        }
        for dir in &dirs {
            // The first is released before the second: each is whole then.
            match Identity::load(&Dir::real(dir)) {
                Ok(Some(_)) => assert_eq!(last, "release"),
                Ok(None) => assert!(!dir.exists() || content(dir).is_empty(), "{last}"),
                Err(error) => assert!(error.to_string().contains("is not whole"), "{error}"),
            }
        }
        if !dirs
            .iter()
            .any(|dir| matches!(Identity::load(&Dir::real(dir)), Ok(Some(_))))
        {
            survey.make(&group, &dirs, open).unwrap();
        } else {
            // What is whole is never overwritten; the other one's refusal says what to do.
            let refused = crate::recover::check_whole(&dirs[1]).unwrap_err();
            let advice = "remove all directories that it was to make and run it again";
            assert!(refused.to_string().contains(advice), "{refused}");
            survey.make(&group, &dirs, open).unwrap_err();
            dirs.iter().for_each(|dir| fs::remove_dir_all(dir).unwrap());
            survey.make(&group, &dirs, open).unwrap();
        }
        dirs.iter().for_each(|dir| assert_eq!(found(dir).2, "abcd"));
    }
    assert_eq!(content(&l1), before);
}

#[test]
fn directories_in_use_taken_or_damaged_are_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let l1 = node(root.path(), "l1", None, &[(1, "abcd")], 4);
    let refused = |dir: &Path| {
        let error = Source::open(dir, open).err().expect("it is refused");
        let error = error.to_string();
        assert!(error.contains(&dir.display().to_string()), "{error}");
        error
    };
    let nowhere = root.path().join("nowhere");
    assert!(refused(&nowhere).contains("there is no such directory"));
    assert!(!nowhere.exists());
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(refused(&empty).contains("holds no node's data"));

    // What a server is writing is not looked at: not even the identity.
    let lock = DirLock::acquire(&RealDisk, &l1).unwrap();
    let identity = fs::read(l1.join(crate::identity::FILE)).unwrap();
    fs::write(l1.join(crate::identity::FILE), b"half of it").unwrap();
    assert!(matches!(
        Source::open(&l1, open),
        Err(RecoverError::Lock(_))
    ));
    fs::write(l1.join(crate::identity::FILE), identity).unwrap();
    drop(lock);

    // A voter's, a listener's and anybody else's files in the way of the new directory.
    let survey = survey(&[&l1]).unwrap();
    for taken in [&l1, &{
        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("thesis.tex"), b"years of work").unwrap();
        other
    }] {
        let before = content(taken);
        let error = survey
            .make(&new_group(&["n1"]), std::slice::from_ref(taken), open)
            .unwrap_err()
            .to_string();
        assert!(error.contains("it is not empty"), "{error}");
        assert_eq!(&content(taken), &before);
    }
    drop(survey);

    let mut missing = entries(&[(1, "abcdefg")]);
    missing.truncate(7);
    let short = node(root.path(), "short", None, &[(1, "abcd")], 4);
    let applier = Applier::open(open(&short).unwrap(), Dir::real(&short)).unwrap();
    applier.apply(&missing[5..]).unwrap();
    applier.persist(6).unwrap();
    assert!(refused(&short).contains("entries are missing"));

    let text = l1.join("text");
    let mut bytes = fs::read(&text).unwrap();
    bytes[5] ^= 1;
    fs::write(&text, bytes).unwrap();
    assert!(refused(&l1).contains("is damaged"));

    let l2 = node(root.path(), "l2", None, &[(1, "abcd")], 4);
    let segment = fs::read_dir(l2.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "seg"))
        .unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(2).position(|two| two == b"h2").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let error = refused(&l2);
    assert!(
        error.contains("is damaged at byte") && error.contains("another node"),
        "{error}"
    );
}

#[test]
fn a_new_group_never_has_the_id_of_the_lost_one() {
    let root = tempfile::tempdir().unwrap();
    let l1 = node(root.path(), "l1", None, &[(1, "a")], 1);
    let group = Group {
        cluster_id: LOST,
        ..new_group(&["n1"])
    };
    let dirs = [root.path().join("n1")];
    let error = survey(&[&l1])
        .unwrap()
        .make(&group, &dirs, open)
        .unwrap_err();
    assert!(matches!(error, RecoverError::SameCluster(LOST)), "{error}");
    assert!(!dirs[0].exists());
}

#[test]
fn directories_that_are_inside_one_another_are_refused_and_nothing_is_changed() {
    let root = tempfile::tempdir().unwrap();
    let outer = root.path().join("outer");
    let l1 = node(&outer, "l1", None, &[(1, "abcd")], 2);
    let l2 = node(root.path(), "l2", None, &[(1, "abc")], 2);
    // Left from an attempt, it would be emptied.
    fs::write(outer.join("recovering"), b"").unwrap();
    std::os::unix::fs::symlink(&l1, root.path().join("link")).unwrap();
    let before = content(root.path());
    let n1 = root.path().join("n1");
    for dirs in [
        vec![l1.join("n1")],
        vec![l1.join("log/deep/n1")],
        vec![root.path().join("link/n1")],
        vec![root.path().join("n1/../outer/l1/n1")],
        vec![l2.join("n1")],
        vec![outer.clone()],
        vec![n1.clone(), n1.clone()],
        vec![n1.clone(), n1.join("n2")],
        vec![n1.join("n2"), n1.clone()],
    ] {
        let survey = survey(&[&l1, &l2]).unwrap();
        let group = new_group(&["n1", "n2"][..dirs.len()]);
        let refused = survey.make(&group, &dirs, open).unwrap_err().to_string();
        let is_told = refused.contains("one is inside the other") || refused.contains("`..`");
        assert!(is_told, "{dirs:?}: {refused}");
        assert_eq!(content(root.path()), before, "{dirs:?}");
    }
}
