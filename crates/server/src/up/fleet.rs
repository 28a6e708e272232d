//! All children together: started with the flags their place asks for, watched, and stopped.

use super::child::{Child, last_line};
use super::directory::Directory;
use super::layout::{Kind, Layout, PlannedNode};
use crate::failure::{Failure, Outcome};
use std::path::Path;
use std::process::ExitStatus;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Told to all voters, so that no other group takes them for its own.
const CLUSTER_TOKEN: &str = "eaves-up";

/// The running children, each watched by a task.
pub struct Fleet {
    watchers: JoinSet<End>,
    stop: watch::Sender<bool>,
}

/// A child that ended.
#[derive(Debug)]
pub struct End {
    name: String,
    how: How,
}

#[derive(Debug)]
enum How {
    ByItself(Option<ExitStatus>),
    Stopped,
    Killed,
}

impl Fleet {
    /// Starts a child for each node of the layout.
    pub fn start(layout: &Layout, directory: &Directory) -> Outcome<Fleet> {
        let executable = std::env::current_exe().map_err(|error| {
            Failure::failed(format!(
                "cannot find this executable: {error}; start it by its full path"
            ))
        })?;
        let (stop, _) = watch::channel(false);
        let mut fleet = Fleet {
            watchers: JoinSet::new(),
            stop,
        };
        let nodes = layout.nodes();
        for node in &nodes {
            let arguments = arguments(
                node,
                &nodes,
                layout.capacity,
                &directory.of_node(&node.name),
            );
            let child = Child::start(&executable, &arguments, &directory.log_of(&node.name))?;
            fleet
                .watchers
                .spawn(watch_over(node.name.clone(), child, fleet.stop.subscribe()));
        }
        Ok(fleet)
    }

    /// How many children run.
    pub fn running(&self) -> usize {
        self.watchers.len()
    }

    /// Waits for the next child to end; for ever when none runs.
    pub async fn next_end(&mut self) -> End {
        match self.watchers.join_next().await {
            Some(end) => end.expect("the task that watches a child does not panic"),
            None => std::future::pending().await,
        }
    }

    /// Asks all children to stop and waits until they have.
    pub async fn stop(&mut self) -> Outcome {
        self.stop.send_replace(true);
        let mut killed = Vec::new();
        while self.running() > 0 {
            let end = self.next_end().await;
            if matches!(end.how, How::Killed) {
                killed.push(end.name);
            }
        }
        if killed.is_empty() {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{} did not stop when asked and had to be killed; the next start brings back what they hold",
            killed.join(", ")
        )))
    }
}

impl End {
    /// The end of a child that should have run, as the failure of the whole.
    pub fn failure(&self, directory: &Directory) -> Failure {
        Failure::failed(self.line(directory))
    }

    /// The same as a line of news.
    pub fn line(&self, directory: &Directory) -> String {
        let (name, log) = (&self.name, directory.log_of(&self.name));
        match &self.how {
            How::ByItself(Some(status)) if status.code().is_none() => {
                format!(
                    "{name} was killed ({status}); start `eaves up` anew to have it back; see {}",
                    log.display()
                )
            }
            How::ByItself(Some(status)) => {
                let said = last_line(&log).unwrap_or_else(|| "nothing".to_string());
                let said = said.trim_start_matches("eaves: ");
                format!(
                    "{name} ended ({status}) and said: {said}; see {}",
                    log.display()
                )
            }
            _ => format!("{name} stopped; see {}", log.display()),
        }
    }
}

async fn watch_over(name: String, mut child: Child, mut stop: watch::Receiver<bool>) -> End {
    let ended = tokio::select! {
        status = child.ended() => Some(status),
        // An error means that the fleet is gone, which means the same.
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let how = match ended {
        Some(status) => How::ByItself(status),
        None if child.stop().await => How::Killed,
        None => How::Stopped,
    };
    End { name, how }
}

/// The command line of one node.
fn arguments(
    node: &PlannedNode,
    nodes: &[PlannedNode],
    capacity: u32,
    data_dir: &Path,
) -> Vec<String> {
    let voters: Vec<&PlannedNode> = nodes
        .iter()
        .filter(|node| node.kind == Kind::Voter)
        .collect();
    let join = |part: &dyn Fn(&PlannedNode) -> String| {
        voters
            .iter()
            .map(|voter| part(voter))
            .collect::<Vec<_>>()
            .join(",")
    };
    let place = match node.kind {
        Kind::Voter => {
            let cluster = join(&|voter| format!("{}={}", voter.name, voter.peer.url()));
            vec![
                "serve".to_string(),
                "--initial-cluster".into(),
                cluster,
                "--initial-cluster-token".into(),
                CLUSTER_TOKEN.into(),
            ]
        }
        Kind::Listener => vec![
            "listen".to_string(),
            "--upstream".into(),
            join(&|voter| voter.peer.to_string()),
        ],
    };
    let own = [
        ("--name", node.name.clone()),
        ("--data-dir", data_dir.display().to_string()),
        ("--listen-client-urls", node.client.url()),
        ("--listen-peer-urls", node.peer.url()),
        ("--capacity", capacity.to_string()),
    ];
    let own = own
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_string(), value]);
    place
        .into_iter()
        .chain(own)
        .chain(["--stop-with-stdin".to_string()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::up::layout::Wanted;
    use clap::Parser;

    #[test]
    fn our_own_command_line_takes_the_arguments() {
        let layout = Layout::first(&Wanted {
            listeners: Some(1),
            ..Default::default()
        })
        .unwrap();
        let nodes = layout.nodes();
        let of = |number: usize| arguments(&nodes[number], &nodes, 2, Path::new("d/n"));
        for number in 0..nodes.len() {
            let words = std::iter::once("eaves".to_string()).chain(of(number));
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(
            of(0)[..3],
            [
                "serve",
                "--initial-cluster",
                "v1=http://127.0.0.1:2380,v2=http://127.0.0.1:2390,v3=http://127.0.0.1:2400"
            ]
        );
        assert_eq!(
            of(3)[..3],
            [
                "listen",
                "--upstream",
                "127.0.0.1:2380,127.0.0.1:2390,127.0.0.1:2400"
            ]
        );
    }
}
