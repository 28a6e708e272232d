//! Changes of role at each of whose points a process dies.

use crate::points::{after_step, before_operation, clear, set};
use crate::{Test, eaves};
use eaves::Step;
use eaves_harness::Binary;
use eaves_harness::cluster::{Cluster, leader_of};
use eaves_harness::process::eventually;
use eaves_harness::writer::Writing;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// By name.
pub const TESTS: &[(&str, Test)] = &[
    ("a_process_dies_at_each_step_of_a_replacement", || {
        Box::pin(replacements())
    }),
    (
        "a_process_dies_at_each_step_of_a_promotion_and_a_demotion",
        || Box::pin(promotions_and_demotions()),
    ),
];

/// Writes that must be acknowledged between two things that are done.
const WRITES_BETWEEN: usize = 5;

/// Steps of a promotion.
const PROMOTION: [Step; 9] = [
    Step::PositionTaken,
    Step::UpstreamLeft,
    Step::LogFlushed,
    Step::VoterPersisted,
    Step::RaftOpened,
    Step::Prepared,
    Step::LearnerAdded,
    Step::CaughtUp,
    Step::VotersChanged,
];

/// Steps of the demotion of a leader.
const DEMOTION: [Step; 9] = [
    Step::SuccessorFound,
    Step::LeadershipMoved,
    Step::VotersChanged,
    Step::Dismissed,
    Step::RaftStopped,
    Step::ListenerPersisted,
    Step::TailCut,
    Step::Listening,
    Step::Retired,
];

/// What a node does to its files when it changes its role.
const OPERATIONS: [&str; 3] = [
    "write identity.tmp",
    "sync identity.tmp",
    "rename to identity",
];

type Names = BTreeSet<String>;

struct Group {
    cluster: Cluster,
    writing: Writing,
    binary: Binary,
    /// Names the point at which a process is to die.
    file: PathBuf,
    deaths: u32,
    _dir: TempDir,
}

async fn replacements() {
    let mut group = Group::start().await;
    for step in Step::ALL {
        group
            .die_once(|_| after_step(step), Group::replacement)
            .await;
    }
    group.end(Step::ALL.len() as u32).await;
}

async fn promotions_and_demotions() {
    let mut group = Group::start().await;
    for (up, down) in PROMOTION.into_iter().zip(DEMOTION) {
        group.die_once(|_| after_step(up), Group::promotion).await;
        group.die_once(|_| after_step(down), Group::demotion).await;
    }
    for operation in OPERATIONS {
        let point = |change: &Change| before_operation(&change.mover, operation);
        group.die_once(point, Group::promotion).await;
        group.die_once(point, Group::demotion).await;
    }
    let deaths = PROMOTION.len() + DEMOTION.len() + 2 * OPERATIONS.len();
    group.end(deaths as u32).await;
}

/// A change of role: its words, and who votes afterwards.
struct Change {
    words: Vec<String>,
    asked: String,
    /// The one that comes, or the only one that goes.
    mover: String,
    before: Names,
    after: Names,
}

impl Group {
    async fn start() -> Group {
        let dir = tempfile::tempdir().expect("make a directory");
        let file = dir.path().join("point");
        let binary = eaves(&file);
        let cluster = Cluster::start(binary.clone(), 3, 1, &[]).await;
        let writing = Writing::start(&cluster);
        writing.more(WRITES_BETWEEN).await;
        Group {
            cluster,
            writing,
            binary,
            file,
            deaths: 0,
            _dir: dir,
        }
    }

    /// The leader goes, and the listener comes in its place.
    async fn replacement(&self) -> Change {
        let rows = self.whole().await;
        let (old, new) = (leader(&rows), listener_of(&rows));
        let mut after = voters(&rows);
        after.remove(&old);
        after.insert(new.clone());
        change(&rows, &["replace", &old, &new], after)
    }

    async fn promotion(&self) -> Change {
        let rows = self.whole().await;
        let new = listener_of(&rows);
        let mut after = voters(&rows);
        after.insert(new.clone());
        change(&rows, &["promote", &new], after)
    }

    async fn demotion(&self) -> Change {
        let rows = self.whole().await;
        let old = leader(&rows);
        let mut after = voters(&rows);
        after.remove(&old);
        change(&rows, &["demote", &old], after)
    }

    /// Has a change made, and a process die at a point of it.
    async fn die_once(
        &mut self,
        point: impl Fn(&Change) -> String,
        change: impl AsyncFn(&Group) -> Change,
    ) {
        loop {
            let change = change(self).await;
            let point = point(&change);
            // A leader may have changed between the look and the command: then it does not take all steps.
            if self.dies(&point, &change).await {
                return println!("  {} {point}", change.words.join(" "));
            }
        }
    }

    async fn dies(&mut self, point: &str, change: &Change) -> bool {
        set(&self.file, point);
        let command = tokio::task::spawn_blocking(self.command(change));
        let died = eventually(&format!("{point}: somebody dies"), async || {
            let nodes = self.cluster.nodes_mut().iter_mut();
            for node in nodes {
                if let Some(status) = node.server().ended() {
                    assert_eq!(status.signal(), Some(6), "{point}: {}", node.printed());
                    return Some(Some(node.name.clone()));
                }
            }
            // Nobody came by.
            (command.is_finished() && clear(&self.file)).then_some(None)
        })
        .await;
        if let Some(name) = &died {
            self.deaths += 1;
            let node = self.cluster.node_mut(name);
            drop(node.taken());
            node.start();
            node.ready().await;
        }
        let _ = command.await.expect("the command is run");
        self.writing.more(WRITES_BETWEEN).await;
        let sides = [&change.before, &change.after];
        self.whole_with(&format!("{point}: the voters of before or of after"), sides)
            .await;
        // What was asked for comes to its end when it is asked for again.
        eventually(&format!("{point}: the command ends"), async || {
            self.command(change)().then_some(())
        })
        .await;
        self.whole_with(&format!("{point}: the voters of after"), [&change.after])
            .await;
        self.writing.more(WRITES_BETWEEN).await;
        died.is_some()
    }

    /// Runs the command of a change; whether it succeeded.
    fn command(&self, change: &Change) -> impl FnOnce() -> bool + Send + 'static {
        let mut command = self.binary.command();
        let address = self.cluster.node(&change.asked).address();
        command.args(&change.words).args(["--endpoints", &address]);
        move || {
            command
                .output()
                .expect("the binary starts")
                .status
                .success()
        }
    }

    /// The tree, once everybody is in its place.
    async fn whole(&self) -> Vec<Value> {
        self.cluster.whole_tree("v1").await
    }

    /// The tree, once it has one of these sets of voters. A learner, and one that votes no more, look like followers until they have
    /// found out that they are to listen.
    async fn whole_with<const N: usize>(&self, what: &str, wanted: [&Names; N]) {
        let is_whole =
            |rows: &[Value]| self.cluster.is_whole(rows) && wanted.contains(&&voters(rows));
        self.cluster.tree_where("v1", what, is_whole).await;
    }

    /// Nothing was lost.
    async fn end(self, deaths: u32) {
        assert_eq!(self.deaths, deaths, "a death at each point");
        let writes = self.writing.stop().await;
        writes.assert_held(&self.cluster.converge().await);
        for node in self.cluster.nodes() {
            node.assert_no_panic();
        }
    }
}

/// Asked of a voter that takes no part.
fn change(rows: &[Value], words: &[&str], after: Names) -> Change {
    let before = voters(rows);
    let asked = before
        .iter()
        .find(|name| !words.contains(&name.as_str()) && **name != leader(rows))
        .expect("three vote");
    Change {
        words: words.iter().map(|word| word.to_string()).collect(),
        asked: asked.clone(),
        mover: words[words.len() - 1].to_string(),
        before: before.clone(),
        after,
    }
}

fn leader(rows: &[Value]) -> String {
    leader_of(rows).expect("a whole tree has a leader")
}

fn listener_of(rows: &[Value]) -> String {
    let listener = rows.iter().find(|row| row["role"] == "listener");
    name(listener.expect("one listens"))
}

fn voters(rows: &[Value]) -> Names {
    let voters = rows.iter().filter(|row| row["role"] != "listener");
    voters.map(name).collect()
}

fn name(row: &Value) -> String {
    row["name"].as_str().expect("a row has a name").to_owned()
}
