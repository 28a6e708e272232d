//! A group of voters and the listeners below it, each a process.

use crate::Binary;
use crate::process::{Server, eventually, free_ports, page};
use crate::zones::{Gate, Zones};
use bytes::Bytes;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use eaves_kv::proto::etcdserverpb::{PutRequest, RangeRequest};
use eaves_kv::proto::mvccpb::KeyValue;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A client gives up on a write after this time; its outcome is unknown then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Keys of a large store read at once.
const KEYS_AT_ONCE: i64 = 10_000;

/// Voters `v1`, `v2`, ... and listeners `l1`, `l2`, ...; each is started and ended by its name.
pub struct Cluster {
    binary: Binary,
    nodes: Vec<Node>,
    directory: TempDir,
}

/// One node, running or not.
pub struct Node {
    /// `v1` for instance.
    pub name: String,
    /// Empty if there are none.
    pub zone: String,
    /// Where it listens for clients.
    pub client_port: u16,
    /// Where it listens for other nodes.
    pub peer_port: u16,
    /// Where it says that other nodes reach it: by its proxy, if it has one.
    pub reach_port: u16,
    /// Its data directory.
    pub data_dir: PathBuf,
    binary: Binary,
    arguments: Vec<String>,
    log: PathBuf,
    server: Option<Server>,
    channel: Channel,
}

/// What is there, and at which revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// The revision.
    pub revision: i64,
    /// All keys, in their order.
    pub pairs: Vec<KeyValue>,
}

impl Cluster {
    /// Starts `voters` and `listeners` with `flags` and waits until all of them are ready.
    pub async fn start(binary: Binary, voters: usize, listeners: usize, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::plan(binary, voters, listeners, flags);
        cluster.start_all().await;
        cluster
    }

    /// A cluster of which no process runs yet. All take `flags`.
    pub fn plan(binary: Binary, voters: usize, listeners: usize, flags: &[&str]) -> Cluster {
        Cluster::plan_in_zones(binary, voters, listeners, flags, &[]).0
    }

    /// The same, its nodes in turn in these zones, with the means to cut them off.
    pub fn plan_in_zones(
        binary: Binary,
        voters: usize,
        listeners: usize,
        flags: &[&str],
        zones: &[&str],
    ) -> (Cluster, Zones) {
        let directory = tempfile::tempdir().expect("make a directory");
        Cluster::plan_at(directory, binary, voters, listeners, flags, zones)
    }

    /// The same, in a directory that the caller has made.
    pub fn plan_at(
        directory: TempDir,
        binary: Binary,
        voters: usize,
        listeners: usize,
        flags: &[&str],
        zones: &[&str],
    ) -> (Cluster, Zones) {
        let names: Vec<String> = (1..=voters)
            .map(|number| format!("v{number}"))
            .chain((1..=listeners).map(|number| format!("l{number}")))
            .collect();
        let ports = free_ports(3 * names.len());
        let peer_ports = &ports[names.len()..2 * names.len()];
        // Where a node says that it is reached: in a zone, by its proxy.
        let reach_ports = match zones {
            [] => peer_ports,
            _ => &ports[2 * names.len()..],
        };
        let zone = |i: usize| match zones {
            [] => "",
            _ => zones[if i < voters { i } else { i - voters } % zones.len()],
        };
        let join = |separator: &str, part: &dyn Fn(usize) -> String| {
            let parts: Vec<String> = (0..voters).map(part).collect();
            parts.join(separator)
        };
        let cluster = join(",", &|i| format!("{}={}", names[i], url(reach_ports[i])));
        let upstream = join(",", &|i| format!("127.0.0.1:{}", reach_ports[i]));
        let nodes = names.iter().enumerate().map(|(i, name)| {
            let data_dir = directory.path().join(name);
            let place = match i < voters {
                true => ["serve", "--initial-cluster", &cluster],
                false => ["listen", "--upstream", &upstream],
            };
            let own = [
                ("--name", name.clone()),
                ("--data-dir", data_dir.display().to_string()),
                ("--listen-client-urls", url(ports[i])),
                ("--listen-peer-urls", url(peer_ports[i])),
                ("--initial-advertise-peer-urls", url(reach_ports[i])),
                ("--zone", zone(i).to_owned()),
            ];
            let own = own.iter().flat_map(|(flag, value)| [*flag, value]);
            let words = place.into_iter().chain(own).chain(flags.iter().copied());
            let arguments = words.map(str::to_owned).collect();
            let log = directory.path().join(format!("{name}.log"));
            let node = Node::new(
                &binary,
                name,
                arguments,
                data_dir,
                log,
                ports[i],
                peer_ports[i],
            );
            Node {
                reach_port: reach_ports[i],
                zone: zone(i).to_owned(),
                ..node
            }
        });
        let nodes: Vec<Node> = nodes.collect();
        let gates = match zones {
            [] => Vec::new(),
            _ => nodes.iter().zip(reach_ports).map(Node::gate).collect(),
        };
        let zones = Zones::open(gates);
        (
            Cluster {
                binary,
                nodes,
                directory,
            },
            zones,
        )
    }

    /// Starts all nodes and waits until all of them are ready.
    pub async fn start_all(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
        for node in &mut self.nodes {
            node.ready().await;
        }
    }

    /// Adds a node that is run by `arguments`, which name its directory and its peer port; it gets a client port.
    pub fn add(&mut self, name: &str, arguments: &[&str], data_dir: PathBuf, peer_port: u16) {
        let port = free_ports(1)[0];
        let client = ["--listen-client-urls".to_owned(), url(port)];
        let arguments = arguments.iter().map(|word| word.to_string());
        let log = self.directory.path().join(format!("{name}.log"));
        self.nodes.push(Node::new(
            &self.binary,
            name,
            arguments.chain(client).collect(),
            data_dir,
            log,
            port,
            peer_port,
        ));
    }

    /// Where directories and logs of its nodes are: in the command line of each.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves data and logs where they are.
    pub fn keep(&mut self) {
        self.directory.disable_cleanup(true);
    }

    /// All nodes, voters first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All nodes, voters first.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> &Node {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| node.name == name).expect("a known name")
    }

    /// The node of this name.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        let mut nodes = self.nodes.iter_mut();
        nodes.find(|node| node.name == name).expect("a known name")
    }

    /// The rows of `eaves tree --json`, as the node `asked` tells them.
    pub fn tree(&self, asked: &str) -> Vec<Value> {
        let text = self
            .binary
            .run(&self.node(asked).address(), &["tree", "--json"]);
        serde_json::from_str(&text).expect("the output is JSON")
    }

    /// Waits until `asked` shows a tree of which `wanted` holds.
    pub async fn tree_where(
        &self,
        asked: &str,
        what: &str,
        wanted: impl Fn(&[Value]) -> bool,
    ) -> Vec<Value> {
        let seen = async || Some(self.tree(asked)).filter(|rows| wanted(rows));
        eventually(what, seen).await
    }

    /// Waits until `asked` shows the whole tree, as `is_whole` has it.
    pub async fn whole_tree(&self, asked: &str) -> Vec<Value> {
        let what = format!("{asked} shows the whole tree");
        self.tree_where(asked, &what, |rows| self.is_whole(rows))
            .await
    }

    /// Whether these rows are all running nodes, a leader among them and every listener in its place.
    pub fn is_whole(&self, rows: &[Value]) -> bool {
        let running = self.nodes.iter().filter(|node| node.is_running()).count();
        rows.len() == running
            && leader_of(rows).is_some()
            && rows.iter().all(|row| row["depth"].is_u64())
    }

    /// Waits until all running nodes stand at one revision, and checks that they hold the same there.
    pub async fn converge(&self) -> Content {
        let nodes: Vec<&Node> = self.nodes.iter().filter(|node| node.is_running()).collect();
        let same = async || {
            let mut revisions = Vec::new();
            for node in &nodes {
                revisions.push(node.revision().await.ok()?);
            }
            let first = revisions[0];
            revisions
                .iter()
                .all(|revision| *revision == first)
                .then_some(first)
        };
        let revision = eventually("all nodes stand at one revision", same).await;
        let content = nodes[0].content(revision).await;
        for node in &nodes[1..] {
            let other = node.content(revision).await;
            assert!(
                other == content,
                "{} differs from {} at revision {revision}: {} keys and {}",
                node.name,
                nodes[0].name,
                other.pairs.len(),
                content.pairs.len(),
            );
        }
        content
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.server = None;
        }
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!(
                "data and logs are kept in {}",
                self.directory.path().display()
            );
        }
    }
}

impl Node {
    fn new(
        binary: &Binary,
        name: &str,
        arguments: Vec<String>,
        data_dir: PathBuf,
        log: PathBuf,
        client_port: u16,
        peer_port: u16,
    ) -> Node {
        Node {
            binary: binary.clone(),
            name: name.to_owned(),
            zone: String::new(),
            client_port,
            peer_port,
            reach_port: peer_port,
            arguments,
            log,
            server: None,
            channel: Endpoint::from_shared(url(client_port))
                .expect("a loopback address is an endpoint")
                .connect_lazy(),
            data_dir,
        }
    }

    /// Starts its process.
    pub fn start(&mut self) {
        self.start_as(self.command());
    }

    /// The command that runs it.
    pub fn command(&self) -> Command {
        let mut command = self.binary.command();
        command.args(&self.arguments);
        command
    }

    /// Starts its process by a command of the caller's making.
    pub fn start_as(&mut self, command: Command) {
        assert!(self.server.is_none(), "{} runs", self.name);
        self.server = Some(Server::start(&self.name, command, &self.log));
    }

    /// Waits until it answers a linearizable read: it has a place, and it has caught up with what was committed.
    pub async fn ready(&mut self) {
        let what = format!("{} answers a linearizable read", self.name);
        let mut kv = self.kv();
        let server = self.server.as_mut().expect("its process runs");
        eventually(&what, async || {
            server.assert_running();
            let read = kv.range(RangeRequest {
                key: "ready".into(),
                ..Default::default()
            });
            read.await.ok()
        })
        .await;
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.taken().kill();
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(&mut self) {
        self.taken().stop().await;
    }

    /// Its process, which is no longer the node's.
    pub fn taken(&mut self) -> Server {
        self.server.take().expect("its process runs")
    }

    /// Whether a process was started and not ended by us.
    pub fn is_running(&self) -> bool {
        self.server.is_some()
    }

    /// Its process.
    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("its process runs")
    }

    /// All that its processes have printed.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last line of it.
    pub fn last_line(&self) -> String {
        let printed = self.printed();
        printed.lines().last().unwrap_or_default().to_owned()
    }

    /// Fails the test if a process of it has panicked.
    pub fn assert_no_panic(&self) {
        let printed = self.printed();
        assert!(!printed.contains("panicked"), "{printed}");
    }

    fn gate((node, proxy): (&Node, &u16)) -> Gate {
        Gate {
            name: node.name.clone(),
            zone: node.zone.clone(),
            proxy: (Ipv4Addr::LOCALHOST, *proxy).into(),
            node: (Ipv4Addr::LOCALHOST, node.peer_port).into(),
        }
    }

    /// Where clients reach it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// Where other nodes reach it.
    pub fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.peer_port)
    }

    /// The way to it, connected when used and again when lost.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A client of it.
    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel()).max_decoding_message_size(usize::MAX)
    }

    /// Puts, and gives the revision.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<i64, Status> {
        put(self.kv(), key, value).await
    }

    /// The revision that it stands at by itself.
    pub async fn revision(&self) -> Result<i64, Status> {
        revision(self.kv(), true).await
    }

    /// All that it holds by itself at `revision`.
    pub async fn content(&self, revision: i64) -> Content {
        let mut kv = self.kv();
        let answer = kv.range(RangeRequest {
            key: [0].to_vec().into(),
            range_end: [0].to_vec().into(),
            revision,
            serializable: true,
            ..Default::default()
        });
        let pairs = answer.await.expect("a serializable read").into_inner().kvs;
        Content { revision, pairs }
    }

    /// The same without the values, read a piece at a time.
    pub async fn keys(&self, revision: i64) -> Content {
        let mut pairs: Vec<KeyValue> = Vec::new();
        loop {
            let from = match pairs.last() {
                Some(last) => [&last.key[..], &[0]].concat(),
                None => vec![0],
            };
            let mut kv = self.kv();
            let answer = kv.range(RangeRequest {
                key: from.into(),
                range_end: [0].to_vec().into(),
                revision,
                limit: KEYS_AT_ONCE,
                keys_only: true,
                serializable: true,
                ..Default::default()
            });
            let answer = answer.await.expect("a serializable read").into_inner();
            pairs.extend(answer.kvs);
            if !answer.more {
                return Content { revision, pairs };
            }
        }
    }

    /// One of its metrics.
    pub fn metric(&self, name: &str) -> u64 {
        let page = page(self.client_port, "/metrics").expect("the page of metrics");
        assert!(
            page.contains(&format!("# TYPE eaves_{name} ")),
            "no metric {name} in {page}"
        );
        let samples = page
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("eaves_{name}")))
            .filter(|rest| rest.starts_with([' ', '{']))
            .filter_map(|rest| rest.rsplit_once(' '));
        samples
            .map(|(_, value)| value.parse::<u64>().expect("a whole number"))
            .sum()
    }
}

/// Puts, and gives the revision; a write that takes too long is an error, since its outcome is unknown.
pub async fn put(
    mut kv: KvClient<Channel>,
    key: impl Into<Bytes>,
    value: impl Into<Bytes>,
) -> Result<i64, Status> {
    let request = PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    };
    let answer = tokio::time::timeout(WRITE_TIMEOUT, kv.put(request))
        .await
        .map_err(|_| Status::deadline_exceeded("the test waits no longer"))??;
    let header = answer.into_inner().header;
    Ok(header.expect("an answer has a header").revision)
}

/// The revision of a node's own state, or of the group's for a linearizable read.
pub async fn revision(mut kv: KvClient<Channel>, serializable: bool) -> Result<i64, Status> {
    let answer = kv.range(RangeRequest {
        key: "a".into(),
        serializable,
        ..Default::default()
    });
    let header = answer.await?.into_inner().header;
    Ok(header.expect("an answer has a header").revision)
}

/// The name of the leader, if the rows of a tree show one.
pub fn leader_of(rows: &[Value]) -> Option<String> {
    let leader = rows.iter().find(|row| row["role"] == "leader")?;
    leader["name"].as_str().map(str::to_owned)
}

/// The largest depth that the rows of a tree show.
pub fn depth_of(rows: &[Value]) -> u64 {
    let depths = rows.iter().filter_map(|row| row["depth"].as_u64());
    depths.max().unwrap_or(0)
}

/// A loopback address as a URL.
pub fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
