//! The command line as a whole: its commands, its log, and the runtime each command runs on.

use crate::Adjust;
use crate::bench;
use crate::commands::{
    del, get, listen, put, recover, roles, serve, status, steer, tree, watch, what_if, why,
};
use crate::failure::{Failure, Outcome};
use crate::up;
use clap::{Parser, Subcommand};
use std::future::Future;
use tracing_subscriber::EnvFilter;

/// Read when `--log-level` is not given.
const LOG_VARIABLE: &str = "EAVES_LOG";

/// What a server logs unless told otherwise. Where openraft tells of every attempt to reach a voter that is away, its warnings are left
/// out: replicating, heartbeats, votes. Those about snapshots, the log, or its own state pass.
const SERVER_LOG: &str = "info,openraft=warn,openraft::replication=error,openraft::replication::snapshot_transmitter=warn,\
    openraft::engine::handler::replication_handler=error,openraft::core::heartbeat=error,openraft::core::raft_core=error";

/// A replicated key-value server that speaks the etcd v3 API, with a tree of listeners that carries its log anywhere.
#[derive(Parser, Debug)]
#[command(
    name = "eaves",
    version,
    max_term_width = 110,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as `eaves_tree=debug`
    /// [default: $EAVES_LOG, else info for a server and warn for a command]
    #[arg(long, global = true, value_name = "LEVEL", display_order = 1000)]
    pub log_level: Option<String>,

    #[command(subcommand)]
    pub command: Command,
}

/// What `eaves` can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a group of voters and a tree of listeners on this machine, and show what happens
    Up(up::UpArgs),
    /// Run one voter of a group
    Serve(serve::ServeArgs),
    /// Run one listener
    Listen(listen::ListenArgs),
    /// Make a new group of what is left of one that is lost for good
    Recover(recover::RecoverArgs),
    /// Show the tree: who gets the log from whom, and how far behind each node is
    Tree(tree::TreeArgs),
    /// Show why a node hangs where it hangs: the candidates of its last choice, and what became of each
    Why(why::WhyArgs),
    /// Predict where the downstreams of a node would go if it went down
    WhatIf(what_if::WhatIfArgs),
    /// Kick a listener off its upstream, so that it chooses again
    Kick(steer::KickArgs),
    /// Give a listener another list of upstream servers
    #[command(subcommand)]
    Upstream(steer::UpstreamCommand),
    /// Pin a listener to an upstream
    Pin(steer::PinArgs),
    /// Have a listener never register with some nodes
    Avoid(steer::AvoidArgs),
    /// Have a node hand its listeners over and take no more
    Drain(steer::DrainArgs),
    /// Have a drained node take listeners again
    Undrain(steer::UndrainArgs),
    /// Show the state of each of --endpoints
    Status(status::StatusArgs),
    /// Make a listener a voter
    ///
    /// The listener catches up first, so that the group never waits for it; it keeps the listeners that it feeds, and no data is
    /// copied. Start it again with the command it was started with before: its data directory remembers what it is.
    Promote(roles::PromoteArgs),
    /// Make a voter a listener
    ///
    /// A leader hands leadership over first. Refused when the voters that remain would be no quorum. A voter that cannot be reached is
    /// removed; when it comes back it finds out, and listens.
    Demote(roles::DemoteArgs),
    /// Make a listener vote in place of a voter, dead or alive
    ///
    /// One change of the group: it never has fewer voters that live than before. The old voter becomes a listener, now or when it comes
    /// back.
    Replace(roles::ReplaceArgs),
    /// Make another voter lead
    ///
    /// Refused when it cannot be reached or is behind, since all writes wait for it.
    TransferLeader(roles::TransferLeaderArgs),
    /// Store a value under a key
    Put(put::PutArgs),
    /// Read a key or a range of keys
    Get(get::GetArgs),
    /// Delete a key or a range of keys and print how many there were
    Del(del::DelArgs),
    /// Print changes of a key or a range of keys as they happen
    Watch(watch::WatchArgs),
    /// Put load on a server, eaves or etcd, and measure it
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

impl Cli {
    /// Runs the command to its end, as `adjust` says.
    pub fn run(self, adjust: &dyn Adjust) -> Outcome {
        start_log(self.log_level.as_deref(), self.command.default_log_level())?;
        match self.command {
            Command::Up(args) => block_on(up::run(args)),
            Command::Serve(args) => serve::run(&args, adjust),
            Command::Listen(args) => listen::run(&args, adjust),
            Command::Recover(args) => recover::run(&args, adjust),
            Command::Tree(args) => block_on(tree::run(args)),
            Command::Why(args) => block_on(why::run(args)),
            Command::WhatIf(args) => block_on(what_if::run(args)),
            Command::Kick(args) => block_on(steer::kick(args)),
            Command::Upstream(command) => block_on(steer::upstream(command)),
            Command::Pin(args) => block_on(steer::pin(args)),
            Command::Avoid(args) => block_on(steer::avoid(args)),
            Command::Drain(args) => block_on(steer::drain(args)),
            Command::Undrain(args) => block_on(steer::undrain(args)),
            Command::Status(args) => block_on(status::run(args)),
            Command::Promote(args) => block_on(roles::promote(args)),
            Command::Demote(args) => block_on(roles::demote(args)),
            Command::Replace(args) => block_on(roles::replace(args)),
            Command::TransferLeader(args) => block_on(roles::transfer_leader(args)),
            Command::Put(args) => block_on(put::run(args)),
            Command::Get(args) => block_on(get::run(args)),
            Command::Del(args) => block_on(del::run(args)),
            Command::Watch(args) => block_on(watch::run(args)),
            Command::Bench(command) => block_on(bench::run(command)),
        }
    }
}

impl Command {
    fn default_log_level(&self) -> &'static str {
        match self {
            Command::Serve(_) | Command::Listen(_) => SERVER_LOG,
            _ => "warn",
        }
    }
}

/// Runs a client command on one thread: it waits for the network and little else.
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::failed(format!(
                "cannot start the runtime: {error}; are too many files open?"
            ))
        })?;
    runtime.block_on(command)
}

fn start_log(flag: Option<&str>, default: &str) -> Outcome {
    let variable = std::env::var(LOG_VARIABLE)
        .ok()
        .filter(|text| !text.is_empty());
    let (source, text) = match (flag, &variable) {
        (Some(text), _) => ("--log-level", text),
        (None, Some(text)) => ("$EAVES_LOG", text.as_str()),
        (None, None) => ("default", default),
    };
    let filter = EnvFilter::try_new(text).map_err(|error| {
        Failure::usage(format!(
            "{source}: {text:?} is no filter: {error}; write error, warn, info, debug or trace"
        ))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_of_a_server_is_one() {
        let filter = EnvFilter::try_new(SERVER_LOG).unwrap().to_string();
        for part in SERVER_LOG.split(',') {
            assert!(filter.contains(part), "{part} is not in {filter}");
        }
    }
}
