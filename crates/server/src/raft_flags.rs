//! The flags about Raft. A listener takes them too: it may be promoted.

use crate::failure::{Failure, Outcome};
use clap::Args;
use eaves::Config;
use std::time::Duration;

/// The library's defaults, in milliseconds; etcd's are 100 and 1000.
const DEFAULT_HEARTBEAT_MS: u64 = 100;
const DEFAULT_ELECTION_MS: u64 = 500;
/// As in etcd: an election needs several heartbeats' time, and nobody waits longer than this.
pub const HEARTBEATS_PER_ELECTION: u64 = 5;
const MAX_ELECTION_MS: u64 = 50_000;
/// Entries between two snapshots, the default of etcd 3.6.
const DEFAULT_SNAPSHOT_COUNT: u64 = 10_000;

/// Flags of a voter, and of a listener for the day on which it is promoted; the same in the whole group.
#[derive(Args, Debug, Clone)]
pub struct RaftArgs {
    /// Milliseconds between a leader's heartbeats; at least twice the round trip between voters
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_HEARTBEAT_MS)]
    pub heartbeat_interval: u64,

    /// Milliseconds without a leader before a voter asks for votes; at least five heartbeats
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_ELECTION_MS)]
    pub election_timeout: u64,

    /// Log entries between two snapshots
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SNAPSHOT_COUNT)]
    pub snapshot_count: u64,
}

/// Checked flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftSettings {
    heartbeat: Duration,
    election: Duration,
    snapshot_count: u64,
}

impl RaftArgs {
    /// Refuses times and counts that cannot be.
    pub fn check(&self) -> Outcome<RaftSettings> {
        check_times(self.heartbeat_interval, self.election_timeout)?;
        if self.snapshot_count == 0 {
            return Err(Failure::usage(
                "--snapshot-count: 0 leaves no entry between snapshots; give at least 1",
            ));
        }
        Ok(RaftSettings {
            heartbeat: Duration::from_millis(self.heartbeat_interval),
            election: Duration::from_millis(self.election_timeout),
            snapshot_count: self.snapshot_count,
        })
    }
}

impl RaftSettings {
    /// Sets them.
    pub fn put_into(self, config: &mut Config) {
        config.raft.heartbeat_interval = self.heartbeat;
        config.raft.election_timeout = self.election;
        config.snapshot_entries = self.snapshot_count;
    }
}

fn check_times(heartbeat_ms: u64, election_ms: u64) -> Outcome {
    if heartbeat_ms == 0 {
        return Err(Failure::usage(
            "--heartbeat-interval: 0 never rests; give at least 1",
        ));
    }
    if election_ms > MAX_ELECTION_MS {
        return Err(Failure::usage(format!(
            "--election-timeout: {election_ms} ms is too long to wait for a leader; give at most {MAX_ELECTION_MS}"
        )));
    }
    let longest_ms = MAX_ELECTION_MS / HEARTBEATS_PER_ELECTION;
    if heartbeat_ms > longest_ms {
        return Err(Failure::usage(format!(
            "--heartbeat-interval: {heartbeat_ms} ms is too long to notice a lost leader; give at most {longest_ms}"
        )));
    }
    if election_ms < heartbeat_ms * HEARTBEATS_PER_ELECTION {
        let shortest_ms = heartbeat_ms * HEARTBEATS_PER_ELECTION;
        let or_lower = match election_ms / HEARTBEATS_PER_ELECTION {
            0 => String::new(),
            fitting_ms => format!(", or --heartbeat-interval at most {fitting_ms}"),
        };
        return Err(Failure::usage(format!(
            "--election-timeout: {election_ms} ms is less than {HEARTBEATS_PER_ELECTION} heartbeats of {heartbeat_ms} ms; give at least {shortest_ms}{or_lower}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(heartbeat_ms: u64, election_ms: u64) -> String {
        check_times(heartbeat_ms, election_ms)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn times_that_do_not_fit_each_other_are_refused_with_ones_that_do() {
        check_times(DEFAULT_HEARTBEAT_MS, DEFAULT_ELECTION_MS).unwrap();
        check_times(100, 1000).unwrap();
        check_times(10_000, 50_000).unwrap();
        let text = refusal(300, 500);
        assert!(text.starts_with("--election-timeout: 500 ms"), "{text}");
        assert!(text.contains("at least 1500"), "{text}");
        assert!(text.contains("--heartbeat-interval at most 100"), "{text}");
        check_times(300, 1500).unwrap();
        check_times(100, 500).unwrap();
    }

    /// What a refusal advises is never refused itself.
    #[test]
    fn times_too_long_for_any_group_are_refused() {
        let text = refusal(100, 50_001);
        assert!(text.contains("at most 50000"), "{text}");
        let text = refusal(u64::MAX, 50_000);
        assert!(text.starts_with("--heartbeat-interval"), "{text}");
        assert!(text.contains("at most 10000"), "{text}");
        assert!(refusal(0, 500).contains("at least 1"));
        assert!(refusal(1, 4).ends_with("give at least 5"));
    }
}
