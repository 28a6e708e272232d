//! `eaves recover` dies before each of its operations on files. What it was made from is untouched, no node starts on what is not whole,
//! and the same command comes to its end, or says what is to be done first. The group that it makes then has all that was acknowledged.

use crate::points::{before_recovering, clear, set};
use crate::{Test, eaves};
use eaves_harness::Binary;
use eaves_harness::cluster::{Cluster, url};
use eaves_harness::process::free_ports;
use eaves_harness::recovery::{files, start_command};
use eaves_harness::writer::{Writes, Writing};
use futures_util::StreamExt;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

/// By name.
pub const TESTS: &[(&str, Test)] = &[("a_recovery_dies_before_each_of_its_operations", || {
    Box::pin(deaths())
})];

/// Writes before the group is lost.
const WRITES: usize = 60;

/// Small, as they are copied often.
const FLAGS: [&str; 2] = ["--log-segment-bytes", "1048576"];

/// Two of three voters have between them all that was acknowledged.
const FROM: [&str; 3] = ["l1", "v1", "v2"];

/// The voters of the new group.
const NEW: [&str; 2] = ["n1", "n2"];

/// Recoveries at the same time: most of the time a new group waits for its election.
const AT_ONCE: usize = 4;

/// Operations that must be among those before which it dies.
const MUST_OCCUR: [&str; 10] = [
    "create directory log",
    "sync recovering.tmp",
    "rename to recovering",
    "sync state.redb",
    "sync state.tmp",
    "rename to recovered",
    "sync identity.tmp",
    "rename to identity",
    "sync directory n2",
    "remove recovering",
];

/// What a command says that finds voters made already, and does not know of which group.
const ADVICE: &str = "remove all directories that it was to make and run it again";

async fn deaths() {
    let lost = Lost::make().await;
    let deaths: Vec<Death> = futures_util::stream::iter(0..)
        .map(|number| lost.dies_before(number))
        .buffered(AT_ONCE)
        .take_while(|death| std::future::ready(death.is_some()))
        .filter_map(std::future::ready)
        .collect()
        .await;
    for wanted in MUST_OCCUR {
        let occurs = deaths.iter().any(|death| death.before == wanted);
        assert!(occurs, "not before {wanted:?}: {deaths:?}");
    }
    let refused = deaths.iter().filter(|death| death.was_refused).count();
    assert!(
        (1..deaths.len()).contains(&refused),
        "{refused} of {}",
        deaths.len()
    );
    println!(
        "  {} deaths; after {refused} of them the directories were to be removed first",
        deaths.len()
    );
}

/// A death of `eaves recover`, after which all was well.
#[derive(Debug)]
struct Death {
    before: String,
    /// Whether the command had to be given a third time.
    was_refused: bool,
}

/// A group of which some directories are left.
struct Lost {
    dir: TempDir,
    writes: Writes,
}

impl Lost {
    async fn make() -> Lost {
        let dir = tempfile::tempdir().expect("make a directory");
        let mut cluster = Cluster::start(eaves(&dir.path().join("nobody")), 3, 1, &FLAGS).await;
        let writing = Writing::start(&cluster);
        writing.more(WRITES).await;
        // One that is killed may have nothing on disk yet.
        cluster.node_mut("l1").stop().await;
        writing.more(WRITES).await;
        let running = cluster.nodes_mut().iter_mut();
        running
            .filter(|node| node.is_running())
            .for_each(|node| node.kill());
        let writes = writing.stop().await;
        for name in FROM {
            copy(&cluster.node(name).data_dir, &dir.path().join(name));
        }
        Lost { dir, writes }
    }

    /// Has a recovery of its own die before operation `number`; none if it has not so many.
    async fn dies_before(&self, number: usize) -> Option<Death> {
        let mut attempt = Attempt::of(self);
        set(&attempt.file, &before_recovering(number));
        let output = attempt.recover().await;
        if clear(&attempt.file) {
            assert!(output.status.success(), "{number}: {}", complaint(&output));
            return None;
        }
        assert_eq!(output.status.signal(), Some(6), "{}", complaint(&output));
        let said = complaint(&output);
        let before = said.lines().last().expect("its last words").to_owned();
        attempt.assert_untouched(&before);
        attempt.nothing_starts_that_is_not_whole(&before).await;

        let mut output = attempt.recover().await;
        let was_refused = !output.status.success();
        if was_refused {
            let said = complaint(&output);
            assert!(said.contains(ADVICE), "{before}: {said}");
            attempt.remove_all();
            output = attempt.recover().await;
        }
        assert!(output.status.success(), "{before}: {}", complaint(&output));
        attempt.assert_untouched(&before);
        let made = String::from_utf8(output.stdout).expect("the output is text");
        attempt.new_group_has_everything(&made, &self.writes).await;
        println!("  recover before {number}: {before}");
        Some(Death {
            before,
            was_refused,
        })
    }
}

/// One recovery, from copies of its own.
struct Attempt {
    /// Of the new group, and the place for all directories.
    cluster: Cluster,
    binary: Binary,
    /// Names the point at which a process is to die.
    file: PathBuf,
    sources: Vec<(PathBuf, Vec<u8>)>,
    ports: Vec<u16>,
    _dir: TempDir,
}

impl Attempt {
    fn of(lost: &Lost) -> Attempt {
        let dir = tempfile::tempdir().expect("make a directory");
        let file = dir.path().join("point");
        let binary = eaves(&file);
        let cluster = Cluster::plan(binary.clone(), 0, 0, &[]);
        for name in FROM {
            copy(&lost.dir.path().join(name), &cluster.directory().join(name));
        }
        Attempt {
            sources: sources(cluster.directory()),
            cluster,
            binary,
            file,
            ports: free_ports(NEW.len()),
            _dir: dir,
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.cluster.directory().join(name)
    }

    /// Runs the command, always the same.
    async fn recover(&self) -> Output {
        let mut command = self.binary.command();
        command.args(["recover", "--yes"]).env_remove("EAVES_LOG");
        for name in FROM {
            command.arg("--from").arg(self.dir(name));
        }
        for (name, port) in NEW.iter().zip(&self.ports) {
            let voter = format!("{name}={},{}", url(*port), self.dir(name).display());
            command.args(["--voter", &voter]);
        }
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = run.await.expect("the command is run");
        output.expect("the binary starts")
    }

    fn assert_untouched(&self, before: &str) {
        let now = sources(self.cluster.directory());
        assert!(now == self.sources, "{before}: a source was changed");
    }

    /// A directory with a mark is no node's.
    async fn nothing_starts_that_is_not_whole(&mut self, before: &str) {
        for (name, port) in NEW.into_iter().zip(self.ports.clone()) {
            let dir = self.dir(name);
            if !dir.join("recovering").exists() {
                continue;
            }
            let (path, peers) = (dir.display().to_string(), url(port));
            let words = ["serve", "--name", name, "--data-dir", &path];
            let words = [&words[..], &["--listen-peer-urls", &peers]].concat();
            let premature = format!("{name}-premature");
            self.cluster.add(&premature, &words, dir, port);
            let node = self.cluster.node_mut(&premature);
            node.start();
            let status = node.server().wait().await;
            drop(node.taken());
            let line = node.last_line();
            assert_eq!(status.code(), Some(1), "{before}: {line}");
            assert!(line.contains("is not whole"), "{before}: {line}");
        }
    }

    fn remove_all(&self) {
        for name in NEW {
            // What the command did not come to make is not there.
            let _ = fs::remove_dir_all(self.dir(name));
        }
    }

    async fn new_group_has_everything(mut self, made: &str, writes: &Writes) {
        for (name, port) in NEW.into_iter().zip(self.ports.clone()) {
            let dir = self.dir(name);
            self.cluster
                .add(name, &start_command(made, name), dir, port);
            self.cluster.node_mut(name).start();
        }
        for name in NEW {
            self.cluster.node_mut(name).ready().await;
        }
        let content = self.cluster.converge().await;
        writes.assert_held(&content);
        let put = self.cluster.node(NEW[0]).put("after", "the end").await;
        assert_eq!(put.expect("a put"), content.revision + 1);
        for node in self.cluster.nodes() {
            node.assert_no_panic();
        }
    }
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The files of the directories that are recovered from.
fn sources(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let dirs = FROM.iter().map(|name| root.join(name));
    dirs.flat_map(|dir| files(&dir)).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("list a directory") {
        let from = entry.expect("list a directory").path();
        let to = to.join(from.file_name().expect("an entry has a name"));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(&from, to).expect("copy a file")),
        }
    }
}
