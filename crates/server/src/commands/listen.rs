//! `eaves listen`: runs one listener.

use crate::Adjust;
use crate::address::Address;
use crate::failure::{Failure, Outcome};
use crate::node_flags::{NodeArgs, NodeSettings};
use crate::node_process;
use crate::raft_flags::{RaftArgs, RaftSettings};
use clap::Args;
use eaves::StartAs;

/// Runs one listener.
#[derive(Args, Debug)]
pub struct ListenArgs {
    /// Peer addresses of nodes to get the log from, voters or listeners in any mix
    #[arg(long, value_name = "HOST:PORT,...")]
    pub upstream: String,

    #[command(flatten)]
    pub node: NodeArgs,

    #[command(flatten)]
    pub raft: RaftArgs,
}

/// Checked flags of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    pub node: NodeSettings,
    pub upstream: Vec<Address>,
    pub raft: RaftSettings,
}

/// Runs the listener until it is told to stop.
pub fn run(args: &ListenArgs, adjust: &dyn Adjust) -> Outcome {
    let settings = args.check()?;
    let upstreams = settings.upstream.iter().map(ToString::to_string).collect();
    node_process::run(&settings.node, StartAs::Listener { upstreams }, |config| {
        settings.raft.put_into(config);
        adjust.node(config);
    })
}

impl ListenArgs {
    fn check(&self) -> Outcome<ListenSettings> {
        let node = self.node.check()?;
        let mut upstream = Address::parse_list("--upstream", &self.upstream)?;
        upstream.retain(|address| *address != node.advertise_peers);
        if upstream.is_empty() {
            return Err(Failure::usage(
                "--upstream: it names only this node itself; give the peer address of another",
            ));
        }
        Ok(ListenSettings {
            node,
            upstream,
            raft: self.raft.check()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        listen: ListenArgs,
    }

    fn check(upstream: &str) -> Outcome<ListenSettings> {
        Wrapper::try_parse_from(["eaves", "--upstream", upstream])
            .expect("clap takes the flags")
            .listen
            .check()
    }

    #[test]
    fn a_listener_does_not_listen_to_itself() {
        let settings = check("127.0.0.1:2380,http://h:1").unwrap();
        assert_eq!(settings.upstream, [Address::new("h", 1)]);
        assert!(matches!(check("127.0.0.1:2380"), Err(Failure::Usage(_))));
        assert!(matches!(check(","), Err(Failure::Usage(_))));
    }
}
