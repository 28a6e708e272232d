//! The counters of node, log and store as Prometheus text, for `/metrics`.
//!
//! Inside the server counters are plain numbers; names, kinds and explanations are given here, at the edge.

use crate::services::replica::Replica;
use eaves::Role;
use std::fmt::Write;

/// Renders every metric, in the Prometheus text format 0.0.4.
pub(crate) fn render(replica: &Replica) -> String {
    let mut page = Page::default();
    role_metrics(replica, &mut page);
    position_metrics(replica, &mut page);
    node_metrics(replica, &mut page);
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
        status.leader.is_some().into(),
    );
    page.gauge(
        "is_leader",
        "1 when this node is the leader, else 0.",
        is_leader.into(),
    );
    page.gauge(
        "is_listener",
        "1 when this node is a listener, 0 when it is a voter.",
        is_listener.into(),
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
            depth.into(),
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
        "Bytes of log entries pushed to listeners.",
        counters.feed_bytes,
    );
    page.counter(
        "feed_entries_total",
        "Log entries pushed to listeners.",
        counters.feed_entries,
    );
    page.counter(
        "snapshots_served_total",
        "Snapshots sent to listeners.",
        counters.snapshots.served(),
    );
    page.counter(
        "snapshots_received_total",
        "Snapshots received.",
        counters.snapshots.received(),
    );
    page.counter(
        "upstream_moves_total",
        "Times this listener found a new upstream.",
        counters.moves,
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
    page.counter(
        "listeners_left_total",
        "Listeners that left this node or were kicked.",
        counters.listeners_left,
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
}

/// A revision as a metric; "none" is below zero inside the store.
fn unsigned(revision: i64) -> u64 {
    revision.max(0).unsigned_abs()
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.metric(name, "gauge", help, value);
    }

    /// Something that only grows until the process restarts; its name ends in `_total`.
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.metric(name, "counter", help, value);
    }

    fn metric(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        // Writing to a string cannot fail.
        let _ = write!(
            self.text,
            "# HELP eaves_{name} {help}\n# TYPE eaves_{name} {kind}\neaves_{name} {value}\n"
        );
    }
}
