//! `eaves status`: one line for each endpoint. Works for etcd too, which leaves the columns empty that it knows nothing of.

use crate::address::Address;
use crate::admin::proto::admin_client::AdminClient;
use crate::admin::proto::{self, StatusRequest};
use crate::client::Client;
use crate::endpoints::EndpointArgs;
use crate::failure::{Failure, Outcome};
use crate::print::Output;
use crate::table::{Align, layout};
use crate::tree_view::{Role, Snapshot};
use clap::Args;
use eaves_kv::proto::etcdserverpb;
use eaves_kv::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use futures_util::future::join_all;
use serde::Serialize;
use tonic::Code;

/// Shows the state of each of --endpoints.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Print an array of objects, one for each endpoint
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub nodes: EndpointArgs,
}

/// One node's state. Where etcd and eaves tell the same, it is taken from the etcd API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct NodeStatus {
    endpoint: String,
    id: u64,
    name: Option<String>,
    role: Option<Role>,
    version: String,
    db_size_bytes: i64,
    leader: u64,
    term: u64,
    committed: u64,
    applied: u64,
    revision: i64,
    /// A snapshot on its way to the node.
    snapshot: Option<Snapshot>,
}

/// Runs `status`.
pub async fn run(args: StatusArgs) -> Outcome {
    let client = Client::new(&args.nodes)?;
    let answers = join_all(
        client
            .addresses()
            .iter()
            .map(|address| ask(&client, address)),
    )
    .await;
    let (found, failures): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let found: Vec<NodeStatus> = found.into_iter().flatten().collect();
    let mut failures: Vec<Failure> = failures.into_iter().filter_map(Result::err).collect();

    let mut output = Output::new();
    if args.json {
        output.json(&found)?;
    } else if !found.is_empty() {
        for line in table(&found) {
            output.line(&line)?;
        }
    }
    output.flush()?;

    let Some(last) = failures.pop() else {
        return Ok(());
    };
    for failure in failures {
        eprintln!("eaves: {failure}");
    }
    Err(last)
}

async fn ask(client: &Client, address: &Address) -> Outcome<NodeStatus> {
    let node = client.only(address);
    let request = || etcdserverpb::StatusRequest::default();
    let etcd = node.read("ask for the status", async |channel| {
        MaintenanceClient::new(channel).status(request()).await
    });
    let own = node.read("ask for the status", async |channel| {
        match AdminClient::new(channel).status(StatusRequest {}).await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            // A plain etcd.
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(status),
        }
    });
    Ok(combine(address, etcd.await?.into_inner(), own.await?))
}

fn combine(
    address: &Address,
    etcd: etcdserverpb::StatusResponse,
    own: Option<proto::StatusResponse>,
) -> NodeStatus {
    let header = etcd.header.unwrap_or_default();
    let etcd_role = match () {
        () if etcd.leader == 0 => None,
        () if etcd.leader == header.member_id => Some(Role::Leader),
        () if etcd.is_learner => None,
        () => Some(Role::Follower),
    };
    NodeStatus {
        endpoint: address.to_string(),
        id: header.member_id,
        role: own
            .as_ref()
            .map(|own| Role::from_proto(own.role()))
            .or(etcd_role),
        version: etcd.version,
        db_size_bytes: etcd.db_size,
        leader: etcd.leader,
        term: own.as_ref().map_or(etcd.raft_term, |own| own.term),
        committed: own.as_ref().map_or(etcd.raft_index, |own| own.committed),
        applied: own
            .as_ref()
            .map_or(etcd.raft_applied_index, |own| own.applied),
        revision: header.revision,
        snapshot: own
            .as_ref()
            .and_then(|own| own.snapshot)
            .map(Snapshot::from),
        name: own.map(|own| own.name),
    }
}

fn table(nodes: &[NodeStatus]) -> Vec<String> {
    let columns = [
        ("ENDPOINT", Align::Left),
        ("ID", Align::Right),
        ("NAME", Align::Left),
        ("ROLE", Align::Left),
        ("VERSION", Align::Left),
        ("DB SIZE", Align::Right),
        ("LEADER", Align::Right),
        ("TERM", Align::Right),
        ("COMMITTED", Align::Right),
        ("APPLIED", Align::Right),
        ("REVISION", Align::Right),
    ];
    let dash = || "-".to_string();
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            vec![
                node.endpoint.clone(),
                // In hexadecimal, as etcdctl prints ids.
                format!("{:x}", node.id),
                node.name
                    .clone()
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(dash),
                node.role.map_or_else(dash, |role| role.name().to_string()),
                node.version.clone(),
                size(node.db_size_bytes),
                if node.leader == 0 {
                    dash()
                } else {
                    format!("{:x}", node.leader)
                },
                node.term.to_string(),
                node.committed.to_string(),
                match node.snapshot {
                    Some(snapshot) => snapshot_cell(snapshot),
                    None => node.applied.to_string(),
                },
                node.revision.to_string(),
            ]
        })
        .collect();
    layout(&columns, &rows)
}

/// A size with one digit after the point, in the largest unit that leaves at least 1.
fn size(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// What stands where the applied position would.
fn snapshot_cell(snapshot: Snapshot) -> String {
    match (snapshot.installing, snapshot.total_bytes) {
        (true, _) => "installs".to_string(),
        (false, 0) => "snapshot 0%".to_string(),
        (false, total) => {
            let percent = u128::from(snapshot.received_bytes) * 100 / u128::from(total);
            format!("snapshot {percent}%")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcdserverpb::ResponseHeader;

    #[test]
    fn a_snapshot_on_its_way_stands_where_the_applied_position_would() {
        let cell = |received_bytes, total_bytes, installing| {
            let snapshot = Snapshot {
                received_bytes,
                total_bytes,
                installing,
            };
            snapshot_cell(snapshot)
        };
        assert_eq!(cell(0, 0, false), "snapshot 0%");
        assert_eq!(cell(439, 1000, false), "snapshot 43%");
        assert_eq!(cell(1000, 1000, true), "installs");
    }

    fn etcd(member_id: u64, leader: u64) -> etcdserverpb::StatusResponse {
        etcdserverpb::StatusResponse {
            header: Some(ResponseHeader {
                member_id,
                revision: 12,
                ..Default::default()
            }),
            version: "3.5.1".into(),
            db_size: 20 * 1024 * 1024,
            leader,
            raft_index: 30,
            raft_applied_index: 29,
            raft_term: 2,
            ..Default::default()
        }
    }

    #[test]
    fn a_plain_etcd_has_a_role_but_no_name() {
        let address = Address::new("127.0.0.1", 2379);
        let leader = combine(&address, etcd(0xa, 0xa), None);
        assert_eq!(
            (leader.role, leader.name.as_deref()),
            (Some(Role::Leader), None)
        );
        let follower = combine(&address, etcd(0xb, 0xa), None);
        assert_eq!(follower.role, Some(Role::Follower));
        assert_eq!(
            table(&[leader]),
            [
                "ENDPOINT        ID  NAME  ROLE    VERSION   DB SIZE  LEADER  TERM  COMMITTED  APPLIED  REVISION",
                "127.0.0.1:2379   a  -     leader  3.5.1    20.0 MiB       a     2         30       29        12",
            ]
        );
    }

    #[test]
    fn what_the_node_says_of_itself_wins() {
        let own = proto::StatusResponse {
            name: "l1".into(),
            role: proto::Role::Listener.into(),
            committed: 31,
            ..Default::default()
        };
        let node = combine(&Address::new("h", 1), etcd(0xb, 0xa), Some(own));
        assert_eq!(
            (node.role, node.committed, node.name.as_deref()),
            (Some(Role::Listener), 31, Some("l1"))
        );
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(
            (size(0), size(1023), size(1024), size(1536)),
            (
                "0 B".into(),
                "1023 B".into(),
                "1.0 KiB".into(),
                "1.5 KiB".into()
            )
        );
    }
}
