//! `eaves bench moves`: hands leadership over again and again, and measures how soon the listeners that lose their upstream by it are fed
//! again.
//!
//! Each time the follower that feeds most listeners is made leader. It kicks them off (S10), and they go where it sends them (B2); the old
//! leader lives on as a follower. Every listener measures for itself, from the moment the kick arrives until the next upstream feeds it
//! from where it was; so nothing here depends on how often it is asked. Writes wait for every change: this is no command for a cluster
//! that is needed at the moment.

use super::report::time;
use crate::address::Address;
use crate::admin::proto::admin_client::AdminClient;
use crate::admin::proto::change_role_request::Change;
use crate::admin::proto::{ChangeRoleRequest, StatusRequest, StatusResponse, TransferLeader};
use crate::client::Client;
use crate::commands::tree;
use crate::endpoints::EndpointArgs;
use crate::failure::{Failure, Outcome};
use crate::histogram::Histogram;
use crate::print::Output;
use crate::tree_view::{Role, Row};
use clap::Args;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Between two changes: a listener that loses a place as soon as it has won it rests before it looks for another (B2), which is not what
/// is measured here.
const PAUSE: Duration = Duration::from_secs(4);
/// How often it is looked whether something has come true.
const POLL: Duration = Duration::from_millis(20);
/// Nothing takes this long in a cluster that works.
const PATIENCE: Duration = Duration::from_secs(30);
/// Changes that take a night are a slip of the finger.
const MAX_CHANGES: u32 = 10_000;

/// Flags of `bench moves`.
#[derive(Args, Debug)]
pub struct MovesArgs {
    /// How often leadership is handed over
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub changes: u32,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// Runs `bench moves`.
pub async fn run(args: MovesArgs) -> Outcome {
    if !(1..=MAX_CHANGES).contains(&args.changes) {
        return Err(Failure::usage(format!(
            "--changes: give 1 to {MAX_CHANGES}, not {}",
            args.changes
        )));
    }
    let client = Client::new(&args.nodes)?;
    let timeout = args.nodes.timeout()?;
    let mut output = Output::new();
    let mut unfed = Histogram::new();
    for number in 1..=args.changes {
        let handover = Handover::plan(&client, timeout).await?;
        let kicked = handover.make(&client, &mut unfed).await?;
        if !args.json {
            output.line(&format!(
                "{number}: {} leads, {kicked} kicked",
                handover.next
            ))?;
            output.flush()?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    print(&mut output, &unfed, &args)
}

/// A change of leader, and the listeners that it costs their upstream.
struct Handover {
    /// Who is to lead.
    next: String,
    /// The listeners it feeds, and how often each was fed again before.
    kicked: Vec<(Client, u64)>,
}

impl Handover {
    /// Waits until every listener has a place, and finds the follower that feeds most of them.
    async fn plan(client: &Client, timeout: Duration) -> Outcome<Handover> {
        let rows = whole_tree(client).await?;
        let below = |row: &Row| {
            rows.iter()
                .filter(|other| other.upstream == Some(row.id))
                .count()
        };
        let followers = rows.iter().filter(|row| row.role == Role::Follower);
        let Some(next) = followers
            .max_by_key(|row| below(row))
            .filter(|row| below(row) > 0)
        else {
            return Err(Failure::failed(
                "no follower feeds a listener, so nobody would be kicked; start some with `eaves listen`",
            ));
        };
        let mut kicked = Vec::new();
        for row in rows.iter().filter(|row| row.upstream == Some(next.id)) {
            let address = Address::parse_list("the address of a listener", &row.client_url)?;
            let listener = Client::of(address, timeout);
            let before = status(&listener).await?.fed_again;
            kicked.push((listener, before));
        }
        Ok(Handover {
            next: next.name.clone(),
            kicked,
        })
    }

    /// Hands leadership over and waits until all are fed again. Returns how many were kicked.
    async fn make(&self, client: &Client, unfed: &mut Histogram) -> Outcome<usize> {
        let to = TransferLeader {
            to: self.next.clone(),
        };
        let request = ChangeRoleRequest {
            change: Some(Change::TransferLeader(to)),
        };
        let call = async |channel| {
            let mut progress = AdminClient::new(channel)
                .change_role(request.clone())
                .await?;
            while progress.get_mut().message().await?.is_some() {}
            Ok(())
        };
        client.write("hand over leadership", call).await?;
        for (listener, before) in &self.kicked {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let status = status(listener).await?;
                if status.fed_again > *before {
                    unfed.record(Duration::from_micros(status.unfed_last_us));
                    break;
                }
                patient(deadline, &format!("{} is not fed again", status.name)).await?;
            }
        }
        Ok(self.kicked.len())
    }
}

/// The tree, once a leader and a place for every listener are in it.
async fn whole_tree(client: &Client) -> Outcome<Vec<Row>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rows = tree::rows(client).await?;
        let led = rows.iter().any(|row| row.role == Role::Leader);
        if led && rows.iter().all(|row| row.depth.is_some()) {
            return Ok(rows);
        }
        patient(
            deadline,
            "there is no leader, or a listener without a place",
        )
        .await?;
    }
}

async fn patient(deadline: Instant, what: &str) -> Outcome {
    if Instant::now() >= deadline {
        return Err(Failure::failed(format!(
            "{what} after {} s; look at `eaves tree`",
            PATIENCE.as_secs()
        )));
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}

async fn status(listener: &Client) -> Outcome<StatusResponse> {
    let call = async |channel| AdminClient::new(channel).status(StatusRequest {}).await;
    Ok(listener.read("ask a listener", call).await?.into_inner())
}

fn print(output: &mut Output, unfed: &Histogram, args: &MovesArgs) -> Outcome {
    if args.json {
        let milliseconds = |duration: Duration| duration.as_micros() as f64 / 1e3;
        output.json(&json!({
            "operation": "moves",
            "changes": args.changes,
            "moves": unfed.count(),
            "without_upstream_ms": {
                "p50": milliseconds(unfed.quantile(500)),
                "p90": milliseconds(unfed.quantile(900)),
                "p99": milliseconds(unfed.quantile(990)),
                "max": milliseconds(unfed.max()),
            },
        }))?;
    } else {
        output.line(&format!(
            "{} moves in {} changes of leader; without an upstream for p50 {}  p90 {}  p99 {}  max {}",
            unfed.count(),
            args.changes,
            time(unfed.quantile(500)),
            time(unfed.quantile(900)),
            time(unfed.quantile(990)),
            time(unfed.max())
        ))?;
    }
    output.flush()
}
