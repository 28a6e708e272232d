//! `eaves kick`, `upstream set`, `pin`, `avoid`, `drain`, `undrain`: steering any node of the tree through any other.
//!
//! All of them may be repeated, so each goes on to the next endpoint when one does not answer.

use crate::address::Address;
use crate::admin::proto::admin_client::AdminClient;
use crate::admin::proto::{
    AvoidRequest, DrainRequest, KickRequest, PinRequest, SetUpstreamsRequest, SteerResponse,
    TreeNode, UndrainRequest,
};
use crate::client::{Client, call_failed};
use crate::endpoints::EndpointArgs;
use crate::failure::{Failure, Outcome};
use crate::print::Output;
use clap::{Args, Subcommand};
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Kicks a listener off its upstream. It looks for another place at once, and stays away from that upstream for some seconds.
#[derive(Args, Debug)]
#[command(after_help = "Example: eaves kick l3 --endpoints 127.0.0.1:2379")]
pub struct KickArgs {
    /// The listener: its name, or its id
    pub listener: String,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// The list of upstream servers of a listener.
#[derive(Subcommand, Debug)]
pub enum UpstreamCommand {
    /// Give a listener another list of upstream servers; it keeps it and chooses from it
    Set(UpstreamSetArgs),
}

/// Gives a listener another list of upstream servers. The list is on its disk when this ends, and survives restarts with the same
/// --upstream as before.
#[derive(Args, Debug)]
#[command(after_help = "Example: eaves upstream set l3 10.0.0.7:2380,10.0.1.7:2380")]
pub struct UpstreamSetArgs {
    /// The listener: its name, or its id
    pub listener: String,

    /// Peer addresses, voters or listeners in any mix
    #[arg(required = true, value_name = "HOST:PORT,...")]
    pub addresses: Vec<String>,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// Pins a listener to an upstream: it uses that whenever it can be reached, is attached and accepts it, and stays there. Kept across
/// restarts.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  eaves pin l3 v2\n  eaves pin l3 --clear")]
pub struct PinArgs {
    /// The listener: its name, or its id
    pub listener: String,

    /// The upstream: its name, or its id
    #[arg(required_unless_present = "clear", conflicts_with = "clear")]
    pub upstream: Option<String>,

    /// Let the listener choose by itself again
    #[arg(long)]
    pub clear: bool,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// Has a listener never register with some nodes, beside those that it avoids already. Kept across restarts. It leaves one that feeds it
/// as soon as another takes it.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  eaves avoid l3 v2 l7\n  eaves avoid l3 --clear v2\n  eaves avoid l3 --clear"
)]
pub struct AvoidArgs {
    /// The listener: its name, or its id
    pub listener: String,

    /// The nodes: names, or ids
    #[arg(required_unless_present = "clear", value_name = "NODE")]
    pub nodes: Vec<String>,

    /// Avoid these no more; without names, none at all
    #[arg(long)]
    pub clear: bool,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// Has a node hand its listeners over to others and take no more, and waits until none is left. Kept across restarts until `eaves undrain`.
/// Whoever has found no other place after some seconds is kicked.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  eaves drain l3\n  eaves drain v2 --no-wait")]
pub struct DrainArgs {
    /// The node: its name, or its id
    pub node: String,

    /// Do not wait until the listeners have gone
    #[arg(long)]
    pub no_wait: bool,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// Has a drained node take listeners again.
#[derive(Args, Debug)]
#[command(after_help = "Example: eaves undrain l3")]
pub struct UndrainArgs {
    /// The node: its name, or its id
    pub node: String,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// What all of them take.
#[derive(Args, Debug)]
pub struct CommonArgs {
    /// Print an object: the node's id and name, and what was done in words
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// Runs `kick`.
pub async fn kick(args: KickArgs) -> Outcome {
    let listener = named("LISTENER", &args.listener)?;
    let request = KickRequest { listener };
    let what = format!("kick {}", args.listener);
    steer(&args.common, &what, async |mut admin| {
        admin.kick(request.clone()).await
    })
    .await
}

/// Runs `upstream set`.
pub async fn upstream(command: UpstreamCommand) -> Outcome {
    let UpstreamCommand::Set(args) = command;
    let listener = named("LISTENER", &args.listener)?;
    let mut upstreams: Vec<String> = Vec::new();
    for address in Address::parse_list("HOST:PORT", &args.addresses.join(","))? {
        let address = address.to_string();
        if !upstreams.contains(&address) {
            upstreams.push(address);
        }
    }
    let request = SetUpstreamsRequest {
        listener,
        upstreams,
    };
    let what = format!("set the upstream list of {}", args.listener);
    steer(&args.common, &what, async |mut admin| {
        admin.set_upstreams(request.clone()).await
    })
    .await
}

/// Runs `pin`.
pub async fn pin(args: PinArgs) -> Outcome {
    let listener = named("LISTENER", &args.listener)?;
    let upstream = args.upstream.as_deref();
    let upstream = upstream.map(|name| named("UPSTREAM", name)).transpose()?;
    let request = PinRequest { listener, upstream };
    let what = format!("pin {}", args.listener);
    steer(&args.common, &what, async |mut admin| {
        admin.pin(request.clone()).await
    })
    .await
}

/// Runs `avoid`.
pub async fn avoid(args: AvoidArgs) -> Outcome {
    let listener = named("LISTENER", &args.listener)?;
    let nodes = args.nodes.iter().map(|name| named("NODE", name));
    let request = AvoidRequest {
        listener,
        nodes: nodes.collect::<Outcome<_>>()?,
        off: args.clear,
    };
    let what = format!("tell {} whom to avoid", args.listener);
    steer(&args.common, &what, async |mut admin| {
        admin.avoid(request.clone()).await
    })
    .await
}

/// Runs `undrain`.
pub async fn undrain(args: UndrainArgs) -> Outcome {
    let node = named("NODE", &args.node)?;
    let request = UndrainRequest { node };
    let what = format!("undrain {}", args.node);
    steer(&args.common, &what, async |mut admin| {
        admin.undrain(request.clone()).await
    })
    .await
}

/// Runs `drain`.
pub async fn drain(args: DrainArgs) -> Outcome {
    let node = named("NODE", &args.node)?;
    let client = Client::new(&args.common.nodes)?;
    let what = format!("drain {}", args.node);
    let mut output = Output::new();
    let (address, channel) = client.connect().await?;
    let failed = |status: &Status| call_failed(&what, &address, status);
    let mut admin = AdminClient::new(channel);
    let mut steps = admin
        .drain(DrainRequest { node })
        .await
        .map_err(|status| failed(&status))?
        .into_inner();
    loop {
        // How long listeners take to find places is not known, so there is no time limit.
        let step = match steps.message().await.map_err(|status| failed(&status))? {
            Some(step) => step,
            None => {
                return Err(failed(&Status::unavailable(
                    "the node no longer tells how far it is",
                )));
            }
        };
        let node = step.node.unwrap_or_default();
        let name = label(&node);
        let said = match step.left {
            0 => format!(
                "{name} is drained: it feeds nobody, and takes nobody until `eaves undrain {name}`"
            ),
            1 => format!("{name} hands its listeners over: 1 is left"),
            left => format!("{name} hands its listeners over: {left} are left"),
        };
        match args.common.json {
            true => output.json(&DrainStep {
                id: node.id,
                name: &node.name,
                left: step.left,
                warning: Some(step.warning.as_str()).filter(|text| !text.is_empty()),
            })?,
            false => {
                if !step.warning.is_empty() {
                    output.line(&format!("WARNING: {}", step.warning))?;
                }
                output.line(&said)?
            }
        }
        output.flush()?;
        if step.left == 0 || args.no_wait {
            return Ok(());
        }
    }
}

/// The JSON of one step of `drain`.
#[derive(Serialize)]
struct DrainStep<'a> {
    id: u64,
    name: &'a str,
    left: u32,
    /// Nobody else has room for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'a str>,
}

/// The JSON of the other commands.
#[derive(Serialize)]
struct Done<'a> {
    id: u64,
    name: &'a str,
    said: &'a str,
}

/// Gives one command and prints what came of it.
async fn steer(
    common: &CommonArgs,
    what: &str,
    call: impl AsyncFn(AdminClient<Channel>) -> Result<Response<SteerResponse>, Status>,
) -> Outcome {
    let client = Client::new(&common.nodes)?;
    let answer = client
        .read(what, async |channel| call(AdminClient::new(channel)).await)
        .await?
        .into_inner();
    let node = answer.node.unwrap_or_default();
    let mut output = Output::new();
    match common.json {
        true => output.json(&Done {
            id: node.id,
            name: &node.name,
            said: &answer.said,
        })?,
        false => output.line(&answer.said)?,
    }
    output.flush()
}

/// A node as a user names it.
pub fn named(argument: &str, text: &str) -> Outcome<String> {
    match text.trim() {
        "" => Err(Failure::usage(format!(
            "{argument} is empty; give the node's name or id: `eaves tree` shows them"
        ))),
        text => Ok(text.to_string()),
    }
}

/// What people call a node.
pub fn label(node: &TreeNode) -> String {
    match node.name.is_empty() {
        true => format!("node {}", node.id),
        false => node.name.clone(),
    }
}
