//! How a sequence waits until every watch has what it must get by now, and compares.

use std::time::Duration;

use eaves_kv::proto::mvccpb::event::EventType;

use super::Run;
use super::streams::{Ended, Watch, last_revision};
use crate::watches::{RESPONSE_LIMIT, Stream, StreamLog, event_revision, sees};

/// How long the end of a sequence waits for events that should not come.
const EXTRAS_WAIT: Duration = Duration::from_millis(300);

impl Run {
    /// Waits until every watch of every node has what it must get by now, and compares.
    pub async fn settle(&mut self) {
        let current = self.revisions.current;
        for index in 0..self.nodes.len() {
            let witness = &mut self.witnesses[index];
            let seen = |log: &StreamLog| current == 1 || last_revision(log) >= current;
            if !witness.read_until(RESPONSE_LIMIT, seen).await {
                let (node, last) = (&self.nodes[index].name, last_revision(&witness.log));
                return self.differ_fatally(format!(
                    "{node} reported events up to {last}, not to {current}"
                ));
            }
        }
        for set in 0..self.streams.len() {
            for index in 0..self.nodes.len() {
                self.settle_stream(set, index).await;
            }
        }
        self.compare_streams();
    }

    async fn settle_stream(&mut self, set: usize, index: usize) {
        let due = self.due(set, index);
        let watches = &self.streams[set].watches;
        let compacted: Vec<bool> = watches
            .iter()
            .map(|watch| watch.ended_by == Some(Ended::Compaction))
            .collect();
        let has_all = |log: &StreamLog| {
            log.watches
                .iter()
                .zip(due.iter().zip(&compacted))
                .all(|(watch, (due, compacted))| {
                    watch.events.len() >= *due && (!compacted || watch.cancelled.is_some())
                })
        };
        let stream = &mut self.streams[set].streams[index];
        if !stream.read_until(RESPONSE_LIMIT, has_all).await {
            let got: Vec<(usize, bool)> = stream
                .log
                .watches
                .iter()
                .map(|watch| (watch.events.len(), watch.cancelled.is_some()))
                .collect();
            let node = &self.nodes[index].name;
            let wanted: Vec<_> = due.iter().zip(&compacted).collect();
            let creates: Vec<_> = self.streams[set]
                .watches
                .iter()
                .map(|watch| &watch.create)
                .collect();
            let what = format!(
                "{node}: (events, cancelled) of the watches {creates:?} are {got:?}, should be {wanted:?}"
            );
            self.differ_fatally(what);
        }
    }

    /// How many events each watch of a stream must get on a node, counted from what the reference's witness saw.
    fn due(&self, set: usize, index: usize) -> Vec<usize> {
        let events = self.witnesses[0]
            .log
            .watches
            .first()
            .map_or(&[][..], |watch| &watch.events);
        let due = |watch: &Watch| match watch.ended_by {
            // Ended watches were compared when they ended.
            Some(_) => 0,
            None => events
                .iter()
                .filter(|event| {
                    let dropped = !self.keeps_deletion[index]
                        && event.r#type() == EventType::Delete
                        && Some(event_revision(event)) == watch.stale_start;
                    sees(&watch.create, watch.start, event) && !dropped
                })
                .count(),
        };
        self.streams[set].watches.iter().map(due).collect()
    }

    pub fn compare_streams(&mut self) {
        let mut found = Vec::new();
        for set in &mut self.streams {
            let stale_starts: Vec<Option<i64>> =
                set.watches.iter().map(|watch| watch.stale_start).collect();
            let (reference, subjects) = set
                .streams
                .split_first_mut()
                .expect("the reference has a stream");
            for (node, subject) in self.nodes[1..].iter().zip(subjects) {
                if let Some(what) = subject.log.difference(&reference.log, &stale_starts) {
                    let creates: Vec<_> = set.watches.iter().map(|watch| &watch.create).collect();
                    found.push(format!(
                        "{}: {what}\n    among the watches {creates:?}",
                        node.name
                    ));
                }
            }
            if !reference.log.broken.is_empty() {
                found.push(format!(
                    "the reference broke a promise: {:?}",
                    reference.log.broken
                ));
            }
        }
        let (reference, subjects) = self
            .witnesses
            .split_first()
            .expect("the reference has a witness");
        for (node, subject) in self.nodes[1..].iter().zip(subjects) {
            if let Some(what) = subject.log.difference(&reference.log, &[]) {
                found.push(format!("{}, the watch of everything: {what}", node.name));
            }
        }
        for what in found {
            self.differ_fatally(what);
        }
    }

    /// Waits once more for events that should not come, and compares for the last time.
    pub async fn finish(&mut self) {
        if self.gave_up() {
            return;
        }
        self.settle().await;
        tokio::time::sleep(EXTRAS_WAIT).await;
        let open = self.streams.iter_mut().flat_map(|set| &mut set.streams);
        open.chain(&mut self.witnesses).for_each(Stream::drain);
        self.compare_streams();
        let open = self
            .streams
            .drain(..)
            .filter_map(|set| set.streams.into_iter().next());
        self.outcome.streams.extend(open.map(|stream| stream.log));
    }
}
