//! What servers do beside answering while they are under load: seen from their metrics, slice by slice of the load's time, and held against
//! the longest put of each slice.
//!
//! The pages are read every [`SLICE`], so what is said of one is what went on between the reading before it began and the reading after it
//! ended: up to three slices. That something went on while a put took long does not make it the reason. It is one only if slices in which
//! it went on have such puts more often than slices in which it did not.

use crate::group::{get, sum_of};
use eaves_server::bench::SLICE;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Entries between two of Raft's snapshots: the servers' default.
const SNAPSHOT_COUNT: u64 = 10_000;
/// How long after a compaction its slices last: the rows are removed by and by.
pub const COMPACTING: Duration = Duration::from_secs(5);

/// What can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Applied state is made durable.
    StateCommit,
    /// A segment of the log is begun or removed.
    Segment,
    /// Raft makes its snapshot.
    RaftSnapshot,
    /// History is being given up.
    Compaction,
}

impl Cause {
    /// All of them, with what a table calls slices in which it goes on, and in which it does not.
    pub const ALL: [(Cause, &'static str, &'static str); 4] = [
        (Cause::StateCommit, "a state commit", "no state commit"),
        (
            Cause::Segment,
            "a change of segments",
            "no change of segments",
        ),
        (
            Cause::RaftSnapshot,
            "a snapshot of Raft's",
            "no snapshot of Raft's",
        ),
        (Cause::Compaction, "a compaction", "no compaction"),
    ];
}

/// Reads the pages of some servers until it is ended or dropped.
pub struct Watcher {
    reading: JoinHandle<()>,
    readings: Arc<Mutex<Vec<Reading>>>,
}

/// All the servers at one moment.
#[derive(Clone, Debug, PartialEq)]
struct Reading {
    at: Instant,
    servers: Vec<Counts>,
}

/// One server.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counts {
    state_commits: f64,
    segments: f64,
    snapshots: u64,
    compact_revision: f64,
}

/// What went on when.
pub struct Happenings {
    readings: Vec<Reading>,
}

impl Watcher {
    /// Begins; the servers are told by their ports for clients.
    pub fn start(ports: Vec<u16>) -> Watcher {
        let readings = std::sync::Arc::<std::sync::Mutex<Vec<Reading>>>::default();
        let theirs = readings.clone();
        let reading = tokio::spawn(async move {
            let mut due = tokio::time::interval(SLICE);
            due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                due.tick().await;
                if let Some(servers) = read(&ports).await {
                    let at = Instant::now();
                    let mut readings = theirs.lock().expect("nobody panics with it");
                    readings.push(Reading { at, servers });
                }
            }
        });
        Watcher { reading, readings }
    }

    /// Ends, and tells what was seen.
    pub fn end(self) -> Happenings {
        let readings = std::mem::take(&mut *self.readings.lock().expect("nobody panics with it"));
        Happenings { readings }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Nothing if a server does not answer.
async fn read(ports: &[u16]) -> Option<Vec<Counts>> {
    let mut servers = Vec::new();
    for port in ports {
        let page = get(*port, "/metrics").await;
        (!page.is_empty()).then(|| servers.push(Counts::of(&page)))?;
    }
    Some(servers)
}

impl Counts {
    fn of(page: &str) -> Counts {
        Counts {
            state_commits: sum_of(page, "eaves_state_commits_total"),
            segments: sum_of(page, "eaves_log_segments"),
            snapshots: sum_of(page, "eaves_applied_index") as u64 / SNAPSHOT_COUNT,
            compact_revision: sum_of(page, "eaves_store_compact_revision"),
        }
    }
}

impl Happenings {
    /// Whether it went on at any of the servers between two moments.
    pub fn includes(&self, cause: Cause, from: Instant, to: Instant) -> bool {
        let from = match cause {
            Cause::Compaction => from.checked_sub(COMPACTING).unwrap_or(from),
            _ => from,
        };
        let first = self.readings.partition_point(|one| one.at <= from);
        let last = self.readings.partition_point(|one| one.at < to);
        let span = &self.readings[first.saturating_sub(1)..(last + 1).min(self.readings.len())];
        let changes = |pair: &[Reading]| {
            let mut servers = pair[0].servers.iter().zip(&pair[1].servers);
            servers.any(|(before, after)| match cause {
                Cause::StateCommit => before.state_commits != after.state_commits,
                Cause::Segment => before.segments != after.segments,
                Cause::RaftSnapshot => before.snapshots != after.snapshots,
                Cause::Compaction => before.compact_revision != after.compact_revision,
            })
        };
        span.windows(2).any(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_between_two_readings_goes_on_in_all_slices_that_they_touch() {
        let began = Instant::now();
        let slices = |count: u32| began + count * SLICE;
        let page = |commits: u32, segments: u32, applied: u32, compacted: u32| {
            format!(
                "eaves_state_commits_total {commits}\neaves_log_segments {segments}\neaves_applied_index {applied}\n\
                 eaves_store_compact_revision {compacted}\n"
            )
        };
        let pages = [
            page(5, 2, 9_998, 0),
            page(5, 2, 9_999, 0),
            page(6, 2, 10_000, 0),
            page(6, 1, 10_001, 0),
            page(6, 1, 10_002, 7),
        ];
        let idle = Counts::of(&page(1, 1, 1, 0));
        let readings = (0..).zip(&pages).map(|(count, page)| Reading {
            at: slices(count),
            servers: vec![idle, Counts::of(page)],
        });
        let seen = Happenings {
            readings: readings.collect(),
        };
        let within = |cause| {
            let slices = (0..4).map(|slice| seen.includes(cause, slices(slice), slices(slice + 1)));
            slices.collect::<Vec<_>>()
        };
        assert_eq!(within(Cause::StateCommit), [false, true, false, false]);
        assert_eq!(within(Cause::RaftSnapshot), [false, true, false, false]);
        assert_eq!(within(Cause::Segment), [false, false, true, false]);
        assert_eq!(within(Cause::Compaction), [false, false, false, true]);
        // Between two readings it may have been at any time.
        let half = SLICE / 2;
        assert!(seen.includes(Cause::Segment, slices(1) + half, slices(2) + half));
        assert!(seen.includes(Cause::Segment, slices(2) + half, slices(3) + half));
        assert!(!seen.includes(Cause::Segment, slices(3) + half, slices(4)));
        let later = slices(4) + COMPACTING;
        assert!(seen.includes(Cause::Compaction, later - SLICE, later));
        assert!(!seen.includes(Cause::Compaction, later + 2 * SLICE, later + 3 * SLICE));
    }
}
