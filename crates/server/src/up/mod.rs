//! `eaves up`: a whole group with its tree of listeners on this machine, for a first look and for development.
//!
//! Every node is a child process of this executable with a data directory of its own; nothing is simulated. What is kept between two
//! starts is told in [`layout`] and [`directory`], how children live and end in [`child`] and [`fleet`], when they count as ready in
//! [`ready`], and what is shown of their lives in [`news`] and [`follow`].

mod child;
mod directory;
mod fleet;
mod follow;
mod layout;
mod news;
mod ports;
mod ready;

use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::print::Output;
use crate::tree_view::draw;
use clap::Args;
use directory::Directory;
use fleet::Fleet;
use layout::{Layout, Wanted};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long an answer of a child may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a group of voters and a tree of listeners on this machine, and shows what happens.
#[derive(Args, Debug)]
pub struct UpArgs {
    /// Voters: the group [default: 3]
    #[arg(long, value_name = "N")]
    pub voters: Option<u16>,

    /// Listeners: the tree [default: 6]
    #[arg(long, value_name = "N")]
    pub listeners: Option<u16>,

    /// How many listeners each node feeds [default: 2]
    #[arg(long, value_name = "N")]
    pub capacity: Option<u32>,

    /// The client port of v1, on 127.0.0.1; the next node in the order v1, v2, ..., l1, l2, ... has it 10 higher, and each
    /// listens for peers one port above its clients [default: 2379]
    #[arg(long, value_name = "PORT")]
    pub base_port: Option<u16>,

    /// Where everything is kept; starting again in the same directory goes on with the same data
    #[arg(long, value_name = "DIR", default_value = "./eaves-data")]
    pub data_dir: PathBuf,
}

/// Runs `up` until it is interrupted.
pub async fn run(args: UpArgs) -> Outcome {
    let mut interruptions = Interruptions::new()?;
    let wanted = Wanted {
        voters: args.voters,
        listeners: args.listeners,
        capacity: args.capacity,
        base_port: args.base_port,
    };
    let directory = Directory::open(&args.data_dir)?;
    let (layout, resumes) =
        directory.layout(&wanted, |layout| ports::check_free(&layout.nodes()))?;

    let mut output = Output::new();
    let verb = if resumes { "resuming" } else { "starting" };
    output.line(&format!(
        "{verb} {} voters and {} listeners in {}",
        layout.voters,
        layout.listeners,
        args.data_dir.display()
    ))?;
    output.flush()?;

    let mut fleet = Fleet::start(&layout, &directory)?;
    let result = tokio::select! {
        result = live(&layout, &directory, &mut fleet, &mut output) => result,
        () = interruptions.next() => say_stopping(&mut output),
    };
    let stopped = tokio::select! {
        stopped = fleet.stop() => stopped,
        // Impatience: dropping the fleet kills what is left of it.
        () = interruptions.next() => Err(Failure::failed("interrupted again: the nodes were killed; their logs bring back what they hold")),
    };
    result.and(stopped)
}

/// The nodes end their clients' calls and make their states durable first, which may take a moment.
fn say_stopping(output: &mut Output) -> Outcome {
    output.line("stopping; Ctrl-C again kills the nodes at once")?;
    output.flush()
}

/// Waits until all nodes are ready, shows them, and then what happens to them.
async fn live(
    layout: &Layout,
    directory: &Directory,
    fleet: &mut Fleet,
    output: &mut Output,
) -> Outcome {
    let nodes = layout.nodes();
    tokio::select! {
        ready = ready::wait(&nodes, directory) => ready?,
        ended = fleet.next_end() => return Err(ended.failure(directory)),
    }
    show(layout, output).await?;
    let mut news = follow::start(&nodes);
    loop {
        tokio::select! {
            line = news.recv() => match line {
                Some(line) => output.line(&line)?,
                None => return Ok(()),
            },
            ended = fleet.next_end() => {
                output.line(&ended.line(directory))?;
                if fleet.running() == 0 {
                    return Err(Failure::failed("all nodes have ended; their logs say why"));
                }
            }
        }
        output.flush()?;
    }
}

/// One line for each node, then the tree.
async fn show(layout: &Layout, output: &mut Output) -> Outcome {
    let nodes = layout.nodes();
    let client = Client::of(
        nodes.iter().map(|node| node.client.clone()).collect(),
        ANSWER_TIMEOUT,
    );
    let rows = ready::whole_tree(&client, &nodes).await?;
    for node in &nodes {
        let row = rows.iter().find(|row| row.name == node.name);
        let role = row.map_or("not in the tree yet", |row| row.role.name());
        output.line(&format!("{:<5} {role:<9} {}", node.name, node.client))?;
    }
    output.line("")?;
    for line in draw(&rows) {
        output.line(&line)?;
    }
    output.line("")?;
    output.line("all nodes are ready; Ctrl-C stops them; what happens from now on:")?;
    output.flush()
}

/// SIGINT and SIGTERM.
struct Interruptions {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruptions {
    fn new() -> Outcome<Interruptions> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::failed(format!(
                    "cannot listen for signals: {error}; are too many files open?"
                ))
            })
        };
        Ok(Interruptions {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
