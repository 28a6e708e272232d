//! Checks of an etcd v3 server through the crate `etcd-client`, which most Rust programs use.
//!
//! Run by `run` as `eaves-interop ADDRESS ALL-ADDRESSES VOTER-NAMES [--against-etcd]`. Prints a line for each check, `ok NAME`
//! or `FAILED NAME: why`, and ends with 1 if one failed.

mod checks;
mod cluster;
mod keys;
mod watches;

use std::process::ExitCode;

use checks::Checks;
use etcd_client::{Client, DeleteOptions};

/// All keys of these checks begin with this.
const PREFIX: &str = "rust/";

/// What is to be tested, as the arguments name it.
pub struct Target {
    pub client: Client,
    /// The client addresses of all nodes, the voters' first.
    pub addresses: Vec<String>,
    pub voters: Vec<String>,
    /// Whether this is a real etcd, which has leases and more.
    pub etcd: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, addresses, voters, rest @ ..] = &arguments[..] else {
        eprintln!("usage: eaves-interop ADDRESS ALL-ADDRESSES VOTER-NAMES [--against-etcd]");
        return ExitCode::from(2);
    };
    let client = match Client::connect([endpoint], None).await {
        Ok(client) => client,
        Err(error) => {
            eprintln!("connect to {endpoint}: {error}");
            return ExitCode::from(2);
        }
    };
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    let mut target = Target {
        client,
        addresses: list(addresses),
        voters: list(voters),
        etcd: rest.iter().any(|argument| argument == "--against-etcd"),
    };
    let mut checks = Checks::default();
    checks.run("begin with no keys", begin(&mut target)).await;
    keys::run(&mut checks, &mut target).await;
    watches::run(&mut checks, &mut target).await;
    cluster::run(&mut checks, &mut target).await;
    // Last: a compaction ends what the others could read.
    keys::run_compactions(&mut checks, &mut target).await;
    watches::run_compacted(&mut checks, &mut target).await;
    ExitCode::from(u8::from(checks.failed > 0))
}

async fn begin(target: &mut Target) -> checks::Outcome {
    target
        .client
        .delete(PREFIX, Some(DeleteOptions::new().with_prefix()))
        .await?;
    Ok(())
}

/// A key of these checks.
pub fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}
