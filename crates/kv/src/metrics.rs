//! The counters of node, log and store as Prometheus text, for `/metrics`.
//!
//! Inside the server counters are plain numbers; names, kinds and explanations are given here, at the edge.

use crate::services::replica::Replica;
use eaves::{ByReason, EdgeLag, Role};
use std::fmt::{Display, Write};
use std::time::Duration;

/// Renders every metric, in the Prometheus text format 0.0.4.
pub(crate) fn render(replica: &Replica) -> String {
    let mut page = Page::default();
    role_metrics(replica, &mut page);
    position_metrics(replica, &mut page);
    node_metrics(replica, &mut page);
    load_metrics(replica, &mut page);
    snapshot_metrics(replica, &mut page);
    edge_metrics(replica, &mut page);
    log_metrics(replica, &mut page);
    store_metrics(replica, &mut page);
    page.text
}

fn role_metrics(replica: &Replica, page: &mut Page) {
    let status = replica.status.borrow().clone();
    let is_leader = status.role == Role::Leader;
    let is_listener = status.role == Role::Listener;
    page.gauge(
        "has_leader",
        "1 when this node knows of a leader, else 0.",
        u64::from(status.leader.is_some()),
    );
    page.gauge(
        "is_leader",
        "1 when this node is the leader, else 0.",
        u64::from(is_leader),
    );
    page.gauge(
        "is_listener",
        "1 when this node is a listener, 0 when it is a voter.",
        u64::from(is_listener),
    );
    page.gauge(
        "raft_term",
        "The Raft term; a listener's is that of its last committed entry.",
        status.term,
    );
    if let Some(depth) = status.depth {
        page.gauge(
            "tree_depth",
            "Hops from a voter to this node, 0 for a voter; absent while detached.",
            depth,
        );
    }
}

fn position_metrics(replica: &Replica, page: &mut Page) {
    let positions = replica.node.positions();
    page.gauge(
        "committed_index",
        "The last log index known committed.",
        positions.committed,
    );
    page.gauge(
        "applied_index",
        "The last log index applied to the store.",
        positions.applied,
    );
    page.gauge(
        "last_index",
        "The last index in this node's log.",
        positions.last,
    );
}

fn node_metrics(replica: &Replica, page: &mut Page) {
    let counters = replica.node.counters();
    page.counter(
        "writes_total",
        "Commands proposed through this node.",
        counters.writes,
    );
    page.counter(
        "writes_forwarded_total",
        "Writes passed on towards the leader.",
        counters.writes_forwarded,
    );
    page.counter(
        "linearizable_reads_total",
        "Linearizable reads of this node's clients.",
        counters.reads,
    );
    page.counter(
        "bounded_reads_total",
        "Reads of this node's clients with a bound on staleness.",
        counters.bounded_reads,
    );
    page.counter(
        "read_index_sent_total",
        "Questions for a read index sent one hop up; all reads that wait share one.",
        counters.read_index_sent,
    );
    page.counter(
        "read_index_received_total",
        "Questions for a read index that came from below, or at the leader from other voters.",
        counters.read_index_received,
    );
    page.counter(
        "read_index_rounds_total",
        "Rounds among the voters by which this leader confirmed itself; each answers all questions that wait.",
        counters.read_index_rounds,
    );
    page.counter(
        "feed_bytes_total",
        "Bytes of log entries pushed to listeners; never grows on a leader.",
        counters.feed_bytes,
    );
    page.counter(
        "feed_entries_total",
        "Log entries pushed to listeners; never grows on a leader.",
        counters.feed_entries,
    );
    page.counter(
        "feed_cpu_seconds_total",
        "Processor time spent on feeding listeners, sampled; never grows on a leader.",
        seconds(counters.feed_cpu),
    );
    page.counters_by_reason(
        "upstream_moves_total",
        "Times this listener found a new upstream, by why it looked for one.",
        &counters.moves,
    );
    page.counter(
        "fed_again_total",
        "Times this listener was fed again after it had lost its upstream.",
        counters.fed_again,
    );
    page.counter(
        "unfed_microseconds_total",
        "Microseconds between losing an upstream and being fed again, all of them together.",
        counters.unfed_us,
    );
    page.gauge(
        "unfed_microseconds_max",
        "The longest of these.",
        counters.unfed_max_us,
    );
    page.gauge(
        "unfed_microseconds_last",
        "The last of these.",
        counters.unfed_last_us,
    );
    page.counters_by_reason(
        "listeners_left_total",
        "Listeners that this node let go, by why.",
        &counters.listeners_left,
    );
    page.counters_by_reason(
        "listeners_kicked_total",
        "Listeners that this node kicked off, by why.",
        &counters.kicks,
    );
    page.counters_by_reason(
        "listeners_refused_total",
        "Registrations that this node refused, by why.",
        &counters.refusals,
    );
}

fn load_metrics(replica: &Replica, page: &mut Page) {
    let clients = replica.clients.counts();
    let admission = replica.node.admission();
    page.gauge(
        "client_connections",
        "Open connections of clients.",
        clients.connections as u64,
    );
    page.gauge(
        "client_calls",
        "Calls of clients under way, watches not among them.",
        clients.calls as u64,
    );
    page.gauge(
        "client_watch_streams",
        "Open watch streams of clients.",
        clients.watch_streams as u64,
    );
    page.gauge(
        "client_request_bytes",
        "Bytes of clients' requests received and not answered, and of the longest request of each watch stream.",
        clients.request_bytes as u64,
    );
    page.gauge(
        "client_answer_bytes",
        "Bytes of answers and events made for clients that they have not taken.",
        clients.answer_bytes as u64,
    );
    page.counter(
        "client_connections_refused_total",
        "Connections of clients closed at once because there were too many.",
        clients.refused_connections,
    );
    page.counter(
        "client_connections_cut_total",
        "Connections closed because what their clients did not take filled the memory for it.",
        clients.cut_connections,
    );
    page.counter(
        "client_calls_refused_total",
        "Calls and watches of clients refused because too many, or too large ones, were under way.",
        clients.refused_calls,
    );
    page.gauge(
        "writes_unanswered",
        "Commands taken on, from clients and from nodes below, whose outcome is not known.",
        admission.commands as u64,
    );
    page.gauge(
        "writes_unanswered_bytes",
        "Their bytes.",
        admission.bytes as u64,
    );
    page.counter(
        "writes_refused_total",
        "Commands refused because too many, or too large ones, were under way.",
        admission.refused,
    );
}

fn snapshot_metrics(replica: &Replica, page: &mut Page) {
    let snapshots = replica.node.counters().snapshots;
    page.counter(
        "snapshots_made_total",
        "Snapshots read from the state to be sent, to one receiver or to many.",
        snapshots.made,
    );
    let served = [
        ("behind", snapshots.served_behind),
        ("new", snapshots.served_new),
    ];
    page.family(
        "snapshots_served_total",
        "counter",
        "Snapshots begun to be sent to listeners, by why they need one; never grows on a leader.",
        "reason",
        served.into_iter(),
    );
    page.counter(
        "snapshots_pushed_total",
        "Snapshots that this node, as leader, began to push to voters.",
        snapshots.pushed,
    );
    let received = [
        ("behind", snapshots.received_behind),
        ("new", snapshots.received_new),
        ("pushed", snapshots.received_pushed),
    ];
    page.family(
        "snapshots_received_total",
        "counter",
        "Snapshots received completely, by why this node needed one; pushed ones come from the leader.",
        "reason",
        received.into_iter(),
    );
    page.counter(
        "snapshot_served_bytes_total",
        "Bytes of snapshots sent to listeners; never grows on a leader.",
        snapshots.served_bytes,
    );
    page.counter(
        "snapshot_pushed_bytes_total",
        "Bytes of snapshots pushed to voters.",
        snapshots.pushed_bytes,
    );
    page.counter(
        "snapshot_received_bytes_total",
        "Bytes of snapshots received.",
        snapshots.received_bytes,
    );
    page.counter(
        "snapshot_resumed_bytes_total",
        "Bytes of snapshots that were here already and need not be sent again.",
        snapshots.resumed_bytes,
    );
    page.counter(
        "snapshot_damaged_chunks_total",
        "Chunks of snapshots that arrived damaged and were asked for again.",
        snapshots.damaged_chunks,
    );
}

fn edge_metrics(replica: &Replica, page: &mut Page) {
    if let Some(lag) = replica.node.upstream_lag() {
        page.gauge(
            "upstream_lag_entries",
            "Committed entries that this listener's upstream has and it has not; absent without an upstream, as the next two.",
            lag.entries,
        );
        page.gauge(
            "upstream_lag_bytes",
            "About how many bytes they have.",
            lag.bytes,
        );
        page.gauge(
            "upstream_lag_seconds",
            "For how long it has not had all that its upstream has.",
            seconds(lag.time),
        );
    }
    let lags = replica.node.downstream_lags();
    let mut lag = |name, help, value: fn(&EdgeLag) -> String| {
        let samples = lags.iter().map(|lag| (lag.peer.to_string(), value(lag)));
        page.family(name, "gauge", help, "downstream", samples);
    };
    lag(
        "downstream_lag_entries",
        "Committed entries that a listener fed by this node has not got yet, by the listener's id.",
        |lag| lag.entries.to_string(),
    );
    lag(
        "downstream_lag_bytes",
        "About how many bytes they have.",
        |lag| lag.bytes.to_string(),
    );
    lag(
        "downstream_lag_seconds",
        "How long the oldest of them has been known committed here.",
        |lag| seconds(lag.time),
    );
    let connections = replica.node.peer_connections().into_iter();
    page.family(
        "peer_connections",
        "gauge",
        "Open connections that other nodes made to this one, by what they are for.",
        "purpose",
        connections,
    );
}

fn log_metrics(replica: &Replica, page: &mut Page) {
    let log = replica.node.log_stats();
    page.counter(
        "log_flushes_total",
        "Flushes of the log to disk.",
        log.flushes,
    );
    page.counter(
        "log_flushed_bytes_total",
        "Bytes of log entries flushed, overhead included.",
        log.flushed_bytes,
    );
    page.counter(
        "log_flushed_entries_total",
        "Log entries flushed.",
        log.flushed_entries,
    );
    page.gauge(
        "log_waiting_bytes",
        "Bytes of log entries that wait for a flush.",
        log.waiting_bytes,
    );
    page.gauge(
        "log_cache_bytes",
        "Memory of the log's tail cache.",
        log.cache_bytes,
    );
    page.gauge("log_segments", "Segment files of the log.", log.segments);
    page.gauge(
        "log_disk_bytes",
        "Length of the log's segment files together.",
        log.disk_bytes,
    );
    let counters = replica.node.counters();
    page.counter(
        "state_commits_total",
        "Times that a piece of the applied state was made durable.",
        counters.state_commits,
    );
    page.counter(
        "state_commit_seconds_total",
        "How long that took together, waiting for the disk included.",
        seconds(counters.state_commit_time),
    );
}

fn store_metrics(replica: &Replica, page: &mut Page) {
    let store = &replica.store;
    let (watchers, behind) = store.watcher_counts();
    page.gauge(
        "store_revision",
        "The newest revision of the store.",
        unsigned(store.revision()),
    );
    page.gauge(
        "store_compact_revision",
        "The oldest revision that can still be read; 0 before any compaction.",
        unsigned(store.compact_revision()),
    );
    page.gauge(
        "store_keys",
        "Keys known, deleted ones that still have history included.",
        store.key_count() as u64,
    );
    page.gauge(
        "store_file_bytes",
        "Bytes of the state file.",
        store.db_size_bytes(),
    );
    page.gauge(
        "store_record_bytes",
        "Bytes of the records in the state file.",
        store.db_size_in_use_bytes(),
    );
    page.gauge(
        "watchers",
        "Watchers of this node's clients.",
        watchers as u64,
    );
    page.gauge(
        "watchers_behind",
        "Watchers that are catching up, or whose client does not read.",
        behind as u64,
    );
    page.gauge(
        "watch_queue_bytes",
        "Bytes of changes that wait in watchers' queues; a change that is in several counts once.",
        replica.store.queued_bytes() as u64,
    );
}

/// A revision as a metric; "none" is below zero inside the store.
fn unsigned(revision: i64) -> u64 {
    revision.max(0).unsigned_abs()
}

/// A time as Prometheus wants it, to the microsecond.
fn seconds(time: Duration) -> String {
    format!("{}.{:06}", time.as_secs(), time.subsec_micros())
}

#[derive(Default)]
struct Page {
    text: String,
}

// Writing to a string cannot fail.
impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.text, "eaves_{name} {value}");
    }

    /// Something that only grows until the process restarts; its name ends in `_total`.
    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        let _ = writeln!(self.text, "eaves_{name} {value}");
    }

    /// One counter for each reason that has occurred.
    fn counters_by_reason(&mut self, name: &str, help: &str, counts: &ByReason) {
        self.family(name, "counter", help, "reason", counts.iter());
    }

    /// One metric for each value of a label. Labels are names of our own or numbers, in which nothing needs escaping.
    fn family<L: Display, V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        samples: impl Iterator<Item = (L, V)>,
    ) {
        self.head(name, kind, help);
        for (of, value) in samples {
            let _ = writeln!(self.text, "eaves_{name}{{{label}=\"{of}\"}} {value}");
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.text,
            "# HELP eaves_{name} {help}\n# TYPE eaves_{name} {kind}"
        );
    }
}
