//! `eaves tree`: the whole tree, as the first node that answers sees it.

use crate::admin::proto::TreeRequest;
use crate::admin::proto::admin_client::AdminClient;
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

/// Shows who gets the log from whom, and how far behind each node is.
#[derive(Args, Debug)]
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
        return print(&mut output, &rows(&client).await?, args.json);
    }
    let on_screen = !args.json && std::io::stdout().is_terminal();
    loop {
        let rows = rows(&client).await;
        if on_screen {
            output.text(CLEAR_SCREEN)?;
        }
        match rows {
            Ok(rows) => print(&mut output, &rows, args.json)?,
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

/// The tree as the first node that answers sees it, ordered by id.
pub async fn rows(client: &Client) -> Outcome<Vec<Row>> {
    let call = async |channel| AdminClient::new(channel).tree(TreeRequest::default()).await;
    let answer = client.read("show the tree", call).await?.into_inner();
    let mut rows: Vec<Row> = answer.nodes.into_iter().map(Row::from).collect();
    rows.sort_by_key(|row| row.id);
    Ok(rows)
}

fn print(output: &mut Output, rows: &[Row], json: bool) -> Outcome {
    if json {
        output.json(&rows)?;
    } else {
        for line in draw(rows) {
            output.line(&line)?;
        }
    }
    output.flush()
}
