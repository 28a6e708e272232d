//! The flags that voters and listeners share, named like etcd's where they mean the same, and what they mean once checked.
//!
//! Two stages: clap parses [`NodeArgs`], and [`NodeArgs::check`], a pure function, makes [`NodeSettings`] of them, with every default
//! filled in and every contradiction refused.

use crate::address::Address;
use crate::client_flags::ClientArgs;
use crate::failure::{Failure, Outcome};
use clap::Args;
use eaves_kv::ClientLimits;
use std::path::PathBuf;

/// etcd's default ports.
const DEFAULT_CLIENT_URL: &str = "http://127.0.0.1:2379";
const DEFAULT_PEER_URL: &str = "http://127.0.0.1:2380";
/// How many listeners a node feeds unless told otherwise.
const DEFAULT_CAPACITY: u32 = 32;
/// Names are shown in tables and carried by messages.
const MAX_NAME_BYTES: usize = 128;
/// The smallest segment that keeps the cost of a new file small, and the largest that retention can still work by.
pub const SEGMENT_MIN_BYTES: u64 = 1 << 20;
const SEGMENT_MAX_BYTES: u64 = 1 << 30;
/// The library's defaults.
const DEFAULT_SEGMENT_BYTES: u64 = 32 << 20;
const DEFAULT_RETENTION_BYTES: u64 = 256 << 20;
const DEFAULT_SNAPSHOT_RATE: u64 = 100 << 20;
/// Threads beyond this are a slip of the finger.
const MAX_RUNTIME_THREADS: usize = 256;

/// Flags of `eaves serve` and `eaves listen`.
#[derive(Args, Debug, Clone)]
pub struct NodeArgs {
    /// A name for people to know the node by
    #[arg(long, default_value = "default")]
    pub name: String,

    /// Where the node keeps its data [default: NAME.eaves]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where to listen for clients
    #[arg(long, value_name = "URL,...", default_value = DEFAULT_CLIENT_URL)]
    pub listen_client_urls: String,

    /// Where clients reach this node [default: --listen-client-urls]
    #[arg(long, value_name = "URL,...")]
    pub advertise_client_urls: Option<String>,

    /// Where to listen for other nodes
    #[arg(long, value_name = "URL", default_value = DEFAULT_PEER_URL)]
    pub listen_peer_urls: String,

    /// Where other nodes reach this node [default: --listen-peer-urls]
    #[arg(long, value_name = "URL", alias = "advertise-peer-urls")]
    pub initial_advertise_peer_urls: Option<String>,

    /// How many listeners this node feeds; 0: none
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CAPACITY)]
    pub capacity: u32,

    /// Where this node stands; listeners prefer upstreams of their own zone
    #[arg(long, default_value = "")]
    pub zone: String,

    /// Threads that serve clients and peers; 0: only the main one, best up to a few cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub runtime_threads: usize,

    /// Size of one file of the log, reserved when it is made
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_SEGMENT_BYTES)]
    pub log_segment_bytes: u64,

    /// How much log is kept for nodes that are behind; whoever is further behind needs a snapshot
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_RETENTION_BYTES)]
    pub log_retention_bytes: u64,

    /// Bytes per second that this node sends of snapshots, to all receivers together; 0: no bound
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_SNAPSHOT_RATE)]
    pub snapshot_rate: u64,

    #[command(flatten)]
    pub clients: ClientArgs,

    /// End when standard input does (how `eaves up` keeps its nodes)
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,

    /// Write no more than this to the disk (how tests make it slow)
    #[arg(long, hide = true, value_name = "BYTES")]
    pub test_disk_bytes_per_second: Option<std::num::NonZeroU64>,
}

/// Checked flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    pub name: String,
    pub data_dir: PathBuf,
    pub listen_clients: Vec<Address>,
    pub advertise_clients: Vec<Address>,
    pub listen_peers: Address,
    pub advertise_peers: Address,
    pub capacity: u32,
    pub zone: String,
    pub runtime_threads: usize,
    pub log_segment_bytes: u64,
    pub log_retention_bytes: u64,
    pub snapshot_rate: u64,
    pub client_limits: ClientLimits,
    pub stop_with_stdin: bool,
    pub test_disk_bytes_per_second: Option<std::num::NonZeroU64>,
}

impl NodeArgs {
    /// Fills in defaults and refuses what cannot be.
    pub fn check(&self) -> Outcome<NodeSettings> {
        check_label("--name", &self.name)?;
        check_label("--zone", &self.zone)?;
        if self.name.is_empty() {
            return Err(Failure::usage("--name: it is empty; give the node a name"));
        }
        if self.runtime_threads > MAX_RUNTIME_THREADS {
            return Err(Failure::usage(format!(
                "--runtime-threads: give at most {MAX_RUNTIME_THREADS}"
            )));
        }
        check_log(self.log_segment_bytes, self.log_retention_bytes)?;
        let listen_clients = Address::parse_list("--listen-client-urls", &self.listen_client_urls)?;
        let listen_peers = one("--listen-peer-urls", &self.listen_peer_urls)?;
        let advertise_clients = match &self.advertise_client_urls {
            Some(text) => Address::parse_list("--advertise-client-urls", text)?,
            None => listen_clients.clone(),
        };
        let advertise_peers = match &self.initial_advertise_peer_urls {
            Some(text) => one("--initial-advertise-peer-urls", text)?,
            None => listen_peers.clone(),
        };
        for address in &advertise_clients {
            check_reachable("--advertise-client-urls", address)?;
        }
        check_reachable("--initial-advertise-peer-urls", &advertise_peers)?;
        if listen_clients.contains(&listen_peers) {
            return Err(Failure::usage(format!(
                "--listen-peer-urls: {listen_peers} is where clients are listened for; give another port"
            )));
        }
        Ok(NodeSettings {
            name: self.name.clone(),
            data_dir: self
                .data_dir
                .clone()
                .unwrap_or_else(|| PathBuf::from(format!("{}.eaves", self.name))),
            listen_clients,
            advertise_clients,
            listen_peers,
            advertise_peers,
            capacity: self.capacity,
            zone: self.zone.clone(),
            runtime_threads: self.runtime_threads,
            log_segment_bytes: self.log_segment_bytes,
            log_retention_bytes: self.log_retention_bytes,
            snapshot_rate: self.snapshot_rate,
            client_limits: self.clients.check()?,
            stop_with_stdin: self.stop_with_stdin,
            test_disk_bytes_per_second: self.test_disk_bytes_per_second,
        })
    }
}

fn one(flag: &str, text: &str) -> Outcome<Address> {
    let mut addresses = Address::parse_list(flag, text)?;
    if addresses.len() > 1 {
        return Err(Failure::usage(format!(
            "{flag}: eaves takes one address here; leave out all but {}",
            addresses[0]
        )));
    }
    Ok(addresses.remove(0))
}

/// Nobody can connect to "all addresses of this machine".
pub fn check_reachable(flag: &str, address: &Address) -> Outcome {
    match address.host() {
        "0.0.0.0" | "[::]" => Err(Failure::usage(format!(
            "{flag}: {address} is an address to listen on, not to connect to; give {flag} http://HOST:{} with a host others can reach",
            address.port()
        ))),
        _ => Ok(()),
    }
}

fn check_log(segment_bytes: u64, retention_bytes: u64) -> Outcome {
    if !(SEGMENT_MIN_BYTES..=SEGMENT_MAX_BYTES).contains(&segment_bytes) {
        return Err(Failure::usage(format!(
            "--log-segment-bytes: give {SEGMENT_MIN_BYTES} to {SEGMENT_MAX_BYTES}, not {segment_bytes}"
        )));
    }
    if retention_bytes < segment_bytes {
        return Err(Failure::usage(format!(
            "--log-retention-bytes: {retention_bytes} is less than one file of the log; give at least {segment_bytes} or lower --log-segment-bytes"
        )));
    }
    Ok(())
}

/// Names stand in tables and in lists with separators.
pub fn check_label(flag: &str, text: &str) -> Outcome {
    if text.len() > MAX_NAME_BYTES {
        return Err(Failure::usage(format!(
            "{flag}: it is longer than {MAX_NAME_BYTES} bytes; give a shorter one"
        )));
    }
    if text.contains(|character: char| {
        character.is_control() || character == '/' || character == ',' || character == '='
    }) {
        return Err(Failure::usage(format!(
            "{flag}: {text:?} has a control character or one of / , =; leave it out"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        node: NodeArgs,
    }

    fn check(flags: &[&str]) -> Outcome<NodeSettings> {
        let words = std::iter::once("eaves").chain(flags.iter().copied());
        Wrapper::try_parse_from(words)
            .expect("clap takes the flags")
            .node
            .check()
    }

    #[test]
    fn defaults_follow_from_one_another() {
        let settings =
            check(&["--name", "a", "--listen-client-urls", "http://10.0.0.1:1"]).unwrap();
        assert_eq!(settings.data_dir, PathBuf::from("a.eaves"));
        assert_eq!(settings.advertise_clients, [Address::new("10.0.0.1", 1)]);
        assert_eq!(settings.advertise_peers, Address::new("127.0.0.1", 2380));
        assert_eq!(settings.snapshot_rate, 100 << 20);
        assert_eq!(check(&["--snapshot-rate", "0"]).unwrap().snapshot_rate, 0);
    }

    #[test]
    fn both_names_of_the_peer_address_mean_the_same() {
        for flag in ["--initial-advertise-peer-urls", "--advertise-peer-urls"] {
            let settings = check(&[flag, "http://h:5"]).unwrap();
            assert_eq!(settings.advertise_peers, Address::new("h", 5));
        }
    }

    #[test]
    fn contradictions_name_their_flag() {
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        for (flags, flag) in [
            (vec!["--name", ""], "--name"),
            (vec!["--name", "a/b"], "--name"),
            (vec!["--name", &long], "--name"),
            (vec!["--zone", "a=b"], "--zone"),
            (
                vec!["--listen-client-urls", "https://h:1"],
                "--listen-client-urls",
            ),
            (
                vec!["--listen-client-urls", "http://0.0.0.0:2379"],
                "--advertise-client-urls",
            ),
            (
                vec!["--listen-peer-urls", "http://[::]:2380"],
                "--initial-advertise-peer-urls",
            ),
            (
                vec!["--listen-peer-urls", "http://a:1,http://b:1"],
                "--listen-peer-urls",
            ),
            (
                vec!["--listen-peer-urls", "http://127.0.0.1:2379"],
                "--listen-peer-urls",
            ),
            (vec!["--runtime-threads", "1000"], "--runtime-threads"),
            (vec!["--log-segment-bytes", "1000"], "--log-segment-bytes"),
            (
                vec!["--log-retention-bytes", "1048576"],
                "--log-retention-bytes",
            ),
        ] {
            let error = check(&flags).unwrap_err();
            assert!(
                matches!(&error, Failure::Usage(text) if text.starts_with(flag)),
                "{error}"
            );
        }
    }
}
