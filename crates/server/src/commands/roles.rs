//! `eaves promote`, `demote`, `replace` and `transfer-leader`: change what a node is, asked at any node, and tell how far it is.
//!
//! Each may be repeated: what is done already is success, and what was interrupted goes on. So a command whose node went away goes on at
//! the next of `--endpoints`.

use crate::address::Address;
use crate::admin::proto::admin_client::AdminClient;
use crate::admin::proto::change_role_request::Change;
use crate::admin::proto::{ChangeRoleRequest, ReplaceVoter, TransferLeader};
use crate::client::{Client, call_failed};
use crate::endpoints::EndpointArgs;
use crate::failure::{Failure, Outcome};
use crate::print::Output;
use clap::Args;
use serde::Serialize;
use std::time::Duration;
use tonic::{Code, Status};

/// Makes a listener a voter.
#[derive(Args, Debug)]
pub struct PromoteArgs {
    /// The listener, by name or id
    #[arg(value_name = "LISTENER")]
    pub node: String,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// Makes a voter a listener.
#[derive(Args, Debug)]
pub struct DemoteArgs {
    /// The voter, by name or id
    #[arg(value_name = "VOTER")]
    pub node: String,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// Makes a listener vote in place of a voter, dead or alive.
#[derive(Args, Debug)]
pub struct ReplaceArgs {
    /// The voter that goes, by name or id
    #[arg(value_name = "VOTER")]
    pub old: String,

    /// The listener that comes, by name or id
    #[arg(value_name = "LISTENER")]
    pub new: String,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// Makes another voter lead.
#[derive(Args, Debug)]
pub struct TransferLeaderArgs {
    /// The voter, by name or id [default: the one that is least behind]
    #[arg(value_name = "VOTER")]
    pub to: Option<String>,

    #[command(flatten)]
    pub common: CommonArgs,
}

/// What all of them take.
#[derive(Args, Debug)]
pub struct CommonArgs {
    /// Print an object for each step: what is said of it, and whether it is the last
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// The JSON of one step.
#[derive(Serialize)]
struct Step<'a> {
    said: &'a str,
    done: bool,
}

/// Runs `promote`.
pub async fn promote(args: PromoteArgs) -> Outcome {
    let what = format!("promote {}", args.node);
    change(&what, Change::Promote(args.node), &args.common).await
}

/// Runs `demote`.
pub async fn demote(args: DemoteArgs) -> Outcome {
    let what = format!("demote {}", args.node);
    change(&what, Change::Demote(args.node), &args.common).await
}

/// Runs `replace`.
pub async fn replace(args: ReplaceArgs) -> Outcome {
    let what = format!("replace {} {}", args.old, args.new);
    let replace = ReplaceVoter {
        voter: args.old,
        listener: args.new,
    };
    change(&what, Change::Replace(replace), &args.common).await
}

/// Runs `transfer-leader`.
pub async fn transfer_leader(args: TransferLeaderArgs) -> Outcome {
    let to = args.to.unwrap_or_default();
    let change_wanted = Change::TransferLeader(TransferLeader { to });
    change("transfer leadership", change_wanted, &args.common).await
}

/// Asks the nodes in turn until one says how it ended.
async fn change(what: &str, change: Change, common: &CommonArgs) -> Outcome {
    let client = Client::new(&common.nodes)?;
    let timeout = common.nodes.timeout()?;
    let mut last = None;
    for address in client.addresses() {
        let request = ChangeRoleRequest {
            change: Some(change.clone()),
        };
        match ask(&client.only(address), request, timeout, common.json).await? {
            Ok(()) => return Ok(()),
            Err(Asked::Unreachable(failure)) => last = Some(last.unwrap_or(failure)),
            Err(Asked::Said(status)) if status.code() == Code::FailedPrecondition => {
                return Err(Failure::failed(format!("{what}: {}", status.message())));
            }
            Err(Asked::Said(status)) => last = Some(call_failed(what, address, &status)),
        }
    }
    Err(last.expect("there is an endpoint"))
}

/// Why a node did not say how it ended.
enum Asked {
    Unreachable(Failure),
    Said(Status),
}

/// Asks one node, and prints what it tells. The outer failure is that of printing.
async fn ask(
    client: &Client,
    request: ChangeRoleRequest,
    timeout: Duration,
    json: bool,
) -> Outcome<Result<(), Asked>> {
    let (_, channel): (Address, _) = match client.connect().await {
        Ok(connected) => connected,
        Err(failure) => return Ok(Err(Asked::Unreachable(failure))),
    };
    let silent =
        || Status::deadline_exceeded(format!("no sign of life for {} s", timeout.as_secs()));
    let mut admin = AdminClient::new(channel);
    let begun = tokio::time::timeout(timeout, admin.change_role(request)).await;
    let mut progress = match begun.unwrap_or_else(|_| Err(silent())) {
        Ok(progress) => progress.into_inner(),
        Err(status) => return Ok(Err(Asked::Said(status))),
    };
    let mut output = Output::new();
    loop {
        let next = tokio::time::timeout(timeout, progress.message()).await;
        let message = match next.unwrap_or_else(|_| Err(silent())) {
            Ok(Some(message)) => message,
            Ok(None) => {
                let status = Status::unavailable("the node did not say how it ended");
                return Ok(Err(Asked::Said(status)));
            }
            Err(status) => return Ok(Err(Asked::Said(status))),
        };
        for (said, done) in [(&message.line, false), (&message.done, true)] {
            if said.is_empty() {
                continue;
            }
            match json {
                true => output.json(&Step { said, done })?,
                false => output.line(said)?,
            }
            output.flush()?;
        }
        if !message.done.is_empty() {
            return Ok(Ok(()));
        }
    }
}
