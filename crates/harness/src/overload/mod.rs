//! Far more than a group can take: ten times the writes it sustains, thousands of watchers of which some never read, thousands of
//! connections, large values, a slow disk. What is promised then:
//!
//! - each node's memory stays below a bound that is known beforehand ([`memory_bound_bytes`]);
//! - every answer is a success, or says that there is no room or no time ([`Answers::unexpected`]);
//! - no acknowledged write is lost, and every watcher that reads hears of every change it watches, in order;
//! - the leader stays in office;
//! - when it is over, writes are taken as before.
//!
//! ```text
//!   calibrate              overload                        drain      recover
//!   closed loop, to learn  open loop, ten times that rate, open       closed loop again,
//!   what is sustainable    and large values                calls end  second by second
//! ```
//!
//! The load is an open loop: requests are sent when they are due, whatever became of those before, as by many clients that do not know
//! of one another; so a queue would grow without end if the group let it. The generator has limits of its own: beyond
//! [`MAX_UNDER_WAY`] calls it sends nothing and counts that.
//!
//! Nothing here asserts how long anything takes; rates are told, and are worth comparing within one run only.

mod load;
mod memory;
mod watchers;

pub use load::Answers;
pub use memory::memory_bound_bytes;

use crate::cluster::{Cluster, Content, Node};
use crate::process::eventually;
use load::{Load, Rates};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use watchers::Watchers;

/// Calls of the generator under way; those due beyond are not sent.
pub const MAX_UNDER_WAY: usize = 50_000;
/// Connections opened at the same time.
const OPENING: usize = 64;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long the sustainable rate is measured.
    pub calibrate: Duration,
    /// How long the overload lasts.
    pub overload: Duration,
    /// How long it is measured afterwards.
    pub recover: Duration,
    /// Clients of the closed loops.
    pub clients: usize,
    /// By what the sustainable rate is multiplied.
    pub factor: f64,
    /// Connections that write and watch, those of watchers that never read not among them.
    pub connections: usize,
    /// Watchers that read.
    pub watchers: usize,
    /// Watchers that never read, each on a connection of its own.
    pub lazy_watchers: usize,
    /// Bytes of an ordinary value.
    pub value_bytes: usize,
    /// Bytes of a large one.
    pub large_bytes: usize,
    /// Large values offered each second.
    pub large_per_second: f64,
    /// Changes each second that every watcher that reads wants to hear of.
    pub watched_per_second: f64,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// Writes per second that the group sustained.
    pub sustainable: f64,
    /// Writes per second that were sent during the overload.
    pub offered: f64,
    /// Writes per second that were acknowledged meanwhile.
    pub acknowledged: f64,
    /// Those that were due and not sent, because the generator had too many under way.
    pub unsent: u64,
    /// What came back, by gRPC code and text.
    pub answers: Answers,
    /// How long it took after the end until the last call was answered or given up.
    pub drained: Duration,
    /// Writes in each second afterwards.
    pub recovered: Vec<u64>,
    /// Of each node.
    pub nodes: Vec<NodeReport>,
    /// Changes that every watcher that reads was to hear of, and did.
    pub watched: u64,
}

/// What one node took.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Resident memory before the overload, at most, and a while after it.
    pub before_bytes: u64,
    /// The most it had.
    pub peak_bytes: u64,
    /// What it had when all was over.
    pub after_bytes: u64,
    /// What it must stay below.
    pub bound_bytes: u64,
    /// Its term before and after.
    pub terms: (u64, u64),
    /// Commands, and calls of clients, that it refused.
    pub refused: (u64, u64),
    /// Connections that it closed because their clients took nothing.
    pub cut: u64,
}

/// Puts the load of `plan` on a group that is ready, and checks what is promised but the memory's bound and the terms, which are
/// the caller's to judge in the report.
pub async fn run(cluster: &mut Cluster, plan: &Plan) -> Report {
    let channels = open(cluster.nodes(), plan.connections).await;
    let mut load = Load::new(channels.clone(), plan);
    let watchers = Watchers::start(cluster.nodes(), &channels, plan).await;
    println!("{} connections, {} watchers", channels.len(), plan.watchers);

    let sustainable = load.closed_loop(plan.calibrate).await.per_second();
    println!("{sustainable:.0} writes per second are sustainable");
    let before: Vec<NodeReport> = cluster.nodes_mut().iter_mut().map(NodeReport::of).collect();
    let Rates {
        sent,
        acknowledged,
        unsent,
    } = load.open_loop(sustainable * plan.factor, &watchers).await;
    let drained = load.drain().await;
    println!("drained after {} ms", drained.as_millis());
    let recovered = load.closed_loop(plan.recover).await.each_second;
    println!("then, writes second by second: {recovered:?}");

    let taken = async || cluster.nodes()[0].put("again", "").await.ok();
    eventually("writes are taken again", taken).await;
    let watched = watchers.all_heard().await;
    let mut nodes = Vec::new();
    let shares = cluster.nodes().len();
    for (node, before) in cluster.nodes_mut().iter_mut().zip(before) {
        nodes.push(before.ended(NodeReport::of(node), plan, shares));
    }
    check_held(cluster, &load).await;
    let seconds = plan.overload.as_secs_f64();
    Report {
        sustainable,
        offered: sent as f64 / seconds,
        acknowledged: acknowledged as f64 / seconds,
        unsent,
        answers: load.answers(),
        drained,
        recovered,
        nodes,
        watched,
    }
}

impl NodeReport {
    /// How a node is now.
    fn of(node: &mut Node) -> NodeReport {
        let (now_bytes, peak_bytes) = memory::resident_bytes(node.server().id());
        let term = node.metric("raft_term");
        NodeReport {
            name: node.name.clone(),
            before_bytes: now_bytes,
            peak_bytes,
            after_bytes: now_bytes,
            bound_bytes: 0,
            terms: (term, term),
            refused: (
                node.metric("writes_refused_total"),
                node.metric("client_calls_refused_total"),
            ),
            cut: node.metric("client_connections_cut_total"),
        }
    }

    /// Clients go to the nodes in turn, so each has one of `shares` parts of them.
    fn ended(self, after: NodeReport, plan: &Plan, shares: usize) -> NodeReport {
        let connections = (plan.connections + plan.lazy_watchers).div_ceil(shares);
        let watch_streams = (plan.watchers + plan.lazy_watchers).div_ceil(shares);
        NodeReport {
            before_bytes: self.before_bytes,
            terms: (self.terms.0, after.terms.0),
            bound_bytes: memory_bound_bytes(connections, watch_streams),
            ..after
        }
    }
}

/// Connections in turn to all nodes.
async fn open(nodes: &[Node], count: usize) -> Vec<Channel> {
    let mut channels = Vec::with_capacity(count);
    while channels.len() < count {
        let batch = channels.len()..count.min(channels.len() + OPENING);
        let opening: Vec<_> = batch
            .map(|number| connect(&nodes[number % nodes.len()]))
            .map(tokio::spawn)
            .collect();
        for channel in opening {
            channels.push(channel.await.expect("connecting does not panic"));
        }
    }
    channels
}

/// A connection of its own to a node.
fn connect(node: &Node) -> impl Future<Output = Channel> + Send + 'static {
    let url = format!("http://{}", node.address());
    async move {
        let endpoint = Endpoint::from_shared(url).expect("a loopback address is an endpoint");
        endpoint.connect().await.expect("the node listens")
    }
}

/// Waits until all nodes stand at the same revision, and looks for every acknowledged write in each.
async fn check_held(cluster: &Cluster, load: &Load) {
    let revisions = async || {
        let mut revisions = Vec::new();
        for node in cluster.nodes() {
            revisions.push(node.revision().await.ok()?);
        }
        let same = revisions.iter().all(|revision| *revision == revisions[0]);
        same.then(|| revisions[0])
    };
    let revision = eventually("all nodes stand at one revision", revisions).await;
    for node in cluster.nodes() {
        let content: Content = node.keys(revision).await;
        load.assert_held(&node.name, &content);
    }
}
