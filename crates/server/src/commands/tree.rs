//! `eaves tree`: the whole tree, as the first node that answers sees it.

use crate::admin::proto::admin_client::AdminClient;
use crate::admin::proto::{MissingNode, TreeRequest};
use crate::client::Client;
use crate::endpoints::EndpointArgs;
use crate::failure::Outcome;
use crate::print::Output;
use crate::tree_view::{Row, draw};
use clap::Args;
use std::io::IsTerminal;
use std::time::Duration;

/// How often `--watch` draws.
const REFRESH: Duration = Duration::from_secs(1);

/// ANSI: cursor home, clear to the end of the screen.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[J";

/// How many nodes that are missing in the picture are named.
const MISSING_SHOWN: usize = 20;

/// Shows who gets the log from whom, and how far behind each node is: LAG in entries, and AGE, how old its last word from a leader is.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  eaves tree\n  eaves tree --json | jq '.[] | select(.lag_entries > 1000) | .name'"
)]
pub struct TreeArgs {
    /// Draw again every second until interrupted
    #[arg(long)]
    pub watch: bool,

    /// Print an array of objects, one for each node
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// Runs `tree`.
pub async fn run(args: TreeArgs) -> Outcome {
    let client = Client::new(&args.nodes)?;
    let mut output = Output::new();
    if !args.watch {
        return print(&mut output, &picture(&client).await?, args.json);
    }
    let on_screen = !args.json && std::io::stdout().is_terminal();
    loop {
        let picture = picture(&client).await;
        if on_screen {
            output.text(CLEAR_SCREEN)?;
        }
        match picture {
            Ok(picture) => print(&mut output, &picture, args.json)?,
            // A node that is away may come back: keep looking.
            Err(failure) => eprintln!("eaves: {failure}"),
        }
        if !args.json && !on_screen {
            output.line("")?;
        }
        output.flush()?;
        tokio::time::sleep(REFRESH).await;
    }
}

/// The tree as the first node that answers sees it.
struct Picture {
    /// Ordered by id.
    rows: Vec<Row>,
    missing: Vec<MissingNode>,
}

/// The rows of the tree as the first node that answers sees it, ordered by id.
pub async fn rows(client: &Client) -> Outcome<Vec<Row>> {
    Ok(picture(client).await?.rows)
}

async fn picture(client: &Client) -> Outcome<Picture> {
    // The rest is for the answer itself.
    let timeout_ms = client.timeout().as_millis() * 3 / 4;
    let request = TreeRequest {
        timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
    };
    let call = async |channel| {
        let mut pages = AdminClient::new(channel).tree(request).await?.into_inner();
        let mut picture = Picture {
            rows: Vec::new(),
            missing: Vec::new(),
        };
        while let Some(page) = pages.message().await? {
            picture.rows.extend(page.nodes.into_iter().map(Row::from));
            picture.missing.extend(page.missing);
        }
        Ok(picture)
    };
    let mut picture = client.read("show the tree", call).await?;
    picture.rows.sort_by_key(|row| row.id);
    Ok(picture)
}

fn print(output: &mut Output, picture: &Picture, json: bool) -> Outcome {
    if json {
        output.json(&picture.rows)?;
    } else {
        for line in draw(&picture.rows) {
            output.line(&line)?;
        }
    }
    output.flush()?;
    // Not part of the output, so that a script that reads it need not tell them from nodes.
    for line in missing(&picture.missing) {
        eprintln!("eaves: {line}");
    }
    Ok(())
}

/// What the picture lacks, a line each.
fn missing(missing: &[MissingNode]) -> Vec<String> {
    let shown = missing.iter().take(MISSING_SHOWN);
    let mut lines: Vec<String> = shown
        .map(|node| {
            let name = match node.name.is_empty() {
                true => format!("node {}", node.id),
                false => node.name.clone(),
            };
            format!("not all is shown: {name} at {}: {}", node.address, node.why)
        })
        .collect();
    if missing.len() > MISSING_SHOWN {
        lines.push(format!(
            "not all is shown: the same of {} others",
            missing.len() - MISSING_SHOWN
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_up_to_a_bound() {
        let node = |id| MissingNode {
            id,
            name: if id == 1 { "v1".into() } else { String::new() },
            address: "h:1".into(),
            why: "did not answer".into(),
        };
        let lines = missing(&[node(1), node(2)]);
        assert_eq!(
            lines,
            [
                "not all is shown: v1 at h:1: did not answer",
                "not all is shown: node 2 at h:1: did not answer",
            ]
        );
        let many: Vec<MissingNode> = (0..100).map(node).collect();
        let lines = missing(&many);
        assert_eq!(lines.len(), MISSING_SHOWN + 1);
        assert!(lines[MISSING_SHOWN].ends_with("of 80 others"));
    }
}
