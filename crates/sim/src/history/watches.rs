//! What a watch tells, across all its connections: every change of its keys once, in the order of revisions.

use super::ledger::Ledger;
use super::{History, Report, Rule, WatchEvent, WatchMessage, WatchStream};
use std::collections::BTreeSet;

pub fn check(history: &History, ledger: &Ledger, report: &mut Report) {
    for stream in &history.watches {
        check_resumptions(stream, report);
        check_order(stream, report);
        check_gaps(stream, ledger, report);
    }
}

/// Whether a watch has told of everything that became of `key` up to `revision`.
pub fn covers(history: &History, key: &str, revision: i64) -> bool {
    let mut streams = history.watches.iter();
    // Revision 1 is an empty store.
    streams.any(|one| one.watches(key) && one.start_revision <= 2 && one.reached() >= revision)
}

impl WatchStream {
    fn watches(&self, key: &str) -> bool {
        let ends_after = |until: &String| key < until.as_str();
        self.from.as_str() <= key && self.until.as_ref().is_none_or(ends_after)
    }

    fn messages(&self) -> impl Iterator<Item = &WatchMessage> {
        self.pieces.iter().flat_map(|piece| &piece.messages)
    }

    fn events(&self) -> impl Iterator<Item = &WatchEvent> {
        self.messages().flat_map(|message| match message {
            WatchMessage::Events(events) => events.as_slice(),
            WatchMessage::Progress(_) => &[],
        })
    }

    /// Up to where it claims to have told of everything.
    fn reached(&self) -> i64 {
        let reached = self.messages().map(WatchMessage::reaches);
        reached.max().unwrap_or(self.start_revision - 1)
    }
}

impl WatchMessage {
    fn reaches(&self) -> i64 {
        match self {
            WatchMessage::Events(events) => {
                events.iter().map(|one| one.revision).max().unwrap_or(0)
            }
            WatchMessage::Progress(revision) => *revision,
        }
    }
}

/// Each connection was begun where the one before it had ended: else the recorder is wrong, and no node.
fn check_resumptions(stream: &WatchStream, report: &mut Report) {
    let mut next = stream.start_revision;
    for piece in &stream.pieces {
        if piece.start_revision != next {
            let what = format!(
                "the watch of client {} went on at revision {} instead of {next}",
                stream.client, piece.start_revision
            );
            report.add(Rule::WellFormed, what);
        }
        let reached = piece.messages.iter().map(WatchMessage::reaches);
        next = next.max(reached.max().unwrap_or(0) + 1);
    }
}

fn check_order(stream: &WatchStream, report: &mut Report) {
    let mut reached = stream.start_revision - 1;
    let mut seen = BTreeSet::new();
    for piece in &stream.pieces {
        let whose = || format!("the watch of client {} at {}", stream.client, piece.node);
        for message in &piece.messages {
            let mut latest = reached;
            for event in events_of(message) {
                let (key, revision) = (&event.key, event.revision);
                let told = || format!("{} told of {key} at revision {revision}", whose());
                if !stream.watches(key) {
                    report.add(
                        Rule::WellFormed,
                        format!("{}, which it does not watch", told()),
                    );
                } else if !seen.insert((revision, key)) {
                    report.add(Rule::WatchHasNoDuplicate, format!("{} twice", told()));
                } else if revision == reached && revision >= stream.start_revision {
                    let what = format!("{} apart from other changes of it", told());
                    report.add(Rule::WatchIsAtomic, what);
                } else if revision < latest || revision <= reached {
                    report.add(Rule::WatchIsInOrder, format!("{} after {latest}", told()));
                }
                latest = latest.max(revision);
            }
            reached = reached.max(message.reaches());
        }
    }
}

fn events_of(message: &WatchMessage) -> &[WatchEvent] {
    match message {
        WatchMessage::Events(events) => events,
        WatchMessage::Progress(_) => &[],
    }
}

fn check_gaps(stream: &WatchStream, ledger: &Ledger, report: &mut Report) {
    let reached = stream.reached();
    let whose = format!("the watch of client {}", stream.client);
    if reached < stream.must_reach {
        let what = format!("{whose} ends at {reached} and not at {}", stream.must_reach);
        report.add(Rule::WatchHasNoGap, what);
    }
    let told: BTreeSet<(i64, &str)> = stream
        .events()
        .map(|one| (one.revision, one.key.as_str()))
        .collect();
    for (revision, key) in ledger.changes(stream.start_revision, reached) {
        if stream.watches(key) && !told.contains(&(revision, key)) {
            let what = format!("{whose} did not tell of {key} at revision {revision}");
            report.add(Rule::WatchHasNoGap, what);
        }
    }
}
