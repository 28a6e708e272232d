//! `eaves serve`: runs one voter.

use crate::Adjust;
use crate::address::{Address, parse_named_list};
use crate::failure::{Failure, Outcome};
use crate::node_flags::{NodeArgs, NodeSettings};
use crate::node_process;
use crate::raft_flags::{RaftArgs, RaftSettings};
use clap::{Args, ValueEnum};
use eaves::{Group, StartAs};
use std::path::Path;

/// Runs one voter of a group.
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub node: NodeArgs,

    /// All voters of a new group, this one included [default: this node alone]
    #[arg(long, value_name = "NAME=URL,...")]
    pub initial_cluster: Option<String>,

    /// new: make the group, or resume it from the data directory; existing: only resume it
    #[arg(long, value_name = "STATE", default_value = "new")]
    pub initial_cluster_state: ClusterState,

    /// Tells groups with the same members apart
    #[arg(long, value_name = "TOKEN", default_value = "eaves-cluster")]
    pub initial_cluster_token: String,

    #[command(flatten)]
    pub raft: RaftArgs,
}

/// `--initial-cluster-state`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

/// Checked flags of a voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeSettings {
    pub node: NodeSettings,
    /// All voters, this one included.
    pub initial_cluster: Vec<(String, Address)>,
    pub may_make_group: bool,
    pub token: String,
    pub raft: RaftSettings,
}

/// Runs the voter until it is told to stop.
pub fn run(args: &ServeArgs, adjust: &dyn Adjust) -> Outcome {
    let settings = args.check()?;
    if !settings.may_make_group {
        check_resumable(&settings.node.data_dir)?;
    }
    let founders: Vec<(String, String)> = settings
        .initial_cluster
        .iter()
        .map(|(name, address)| (name.clone(), address.to_string()))
        .collect();
    let group = Group::new(&settings.token, &founders);
    node_process::run(&settings.node, StartAs::Voter { group }, |config| {
        settings.raft.put_into(config);
        adjust.node(config);
    })
}

impl ServeArgs {
    fn check(&self) -> Outcome<ServeSettings> {
        let node = self.node.check()?;
        let initial_cluster = match &self.initial_cluster {
            Some(text) => parse_named_list("--initial-cluster", text)?,
            None => vec![(node.name.clone(), node.advertise_peers.clone())],
        };
        check_own_entry(&node, &initial_cluster)?;
        if self.initial_cluster_token.is_empty() {
            return Err(Failure::usage(
                "--initial-cluster-token: it is empty; give any word, the same to all voters",
            ));
        }
        Ok(ServeSettings {
            node,
            initial_cluster,
            may_make_group: self.initial_cluster_state == ClusterState::New,
            token: self.initial_cluster_token.clone(),
            raft: self.raft.check()?,
        })
    }
}

/// `--initial-cluster-state existing`: only a group that the data directory remembers is resumed.
fn check_resumable(data_dir: &Path) -> Outcome {
    let empty = std::fs::read_dir(data_dir).map_or(true, |mut entries| entries.next().is_none());
    if !empty {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "--initial-cluster-state existing: {} holds no group to resume; give the right --data-dir, or `new` to make a group",
        data_dir.display()
    )))
}

fn check_own_entry(node: &NodeSettings, initial_cluster: &[(String, Address)]) -> Outcome {
    let own = initial_cluster.iter().find(|(name, _)| *name == node.name);
    match own {
        None => Err(Failure::usage(format!(
            "--initial-cluster: this node, {:?}, is not in it; add {}={} or correct --name",
            node.name,
            node.name,
            node.advertise_peers.url()
        ))),
        Some((_, address)) if *address != node.advertise_peers => Err(Failure::usage(format!(
            "--initial-cluster: it says {}={}, but --initial-advertise-peer-urls says {}; make them the same",
            node.name,
            address.url(),
            node.advertise_peers.url()
        ))),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn check(flags: &[&str]) -> Outcome<ServeSettings> {
        let words = std::iter::once("eaves").chain(flags.iter().copied());
        Wrapper::try_parse_from(words)
            .expect("clap takes the flags")
            .serve
            .check()
    }

    #[test]
    fn a_node_without_a_cluster_is_a_group_of_its_own() {
        let settings = check(&["--name", "a"]).unwrap();
        assert_eq!(
            settings.initial_cluster,
            [("a".to_string(), Address::new("127.0.0.1", 2380))]
        );
        assert!(settings.may_make_group);
        assert!(
            !check(&["--initial-cluster-state", "existing"])
                .unwrap()
                .may_make_group
        );
    }

    #[test]
    fn a_node_must_be_in_its_cluster_under_its_own_address() {
        let error = check(&["--name", "a", "--initial-cluster", "b=http://h:1"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("add a=http://127.0.0.1:2380"), "{error}");
        let error = check(&["--name", "a", "--initial-cluster", "a=http://h:1"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("make them the same"), "{error}");
        assert!(
            check(&[
                "--name",
                "a",
                "--initial-cluster",
                "a=http://127.0.0.1:2380,b=http://h:1"
            ])
            .is_ok()
        );
    }

    #[test]
    fn impossible_times_and_counts_name_their_flag() {
        for (flags, flag) in [
            (["--heartbeat-interval", "0"], "--heartbeat-interval"),
            (["--heartbeat-interval", "300"], "--election-timeout"),
            (["--election-timeout", "60000"], "--election-timeout"),
            (["--snapshot-count", "0"], "--snapshot-count"),
            (["--initial-cluster-token", ""], "--initial-cluster-token"),
        ] {
            let error = check(&flags).unwrap_err();
            assert!(
                matches!(&error, Failure::Usage(text) if text.starts_with(flag)),
                "{error}"
            );
        }
    }
}
