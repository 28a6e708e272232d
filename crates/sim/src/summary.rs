//! What happened how often, in one run and over many.

use crate::engine::Micros;
use eaves_tree::{Event, Message};
use std::collections::BTreeMap;
use std::fmt;

/// Counters of one run, or the sums of many.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Questions asked (`S7`).
    pub questions: u64,
    /// Registrations sent (`S9`).
    pub registrations: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Kicks sent.
    pub kicks: u64,
    /// Refusals sent.
    pub refusals: u64,
    /// Entries pushed to listeners.
    pub entries_fed: u64,
    /// Snapshots made for listeners.
    pub snapshots: u64,
    /// Listeners told that their log differs.
    pub mismatches: u64,
    /// Leaders elected.
    pub elections: u64,
    /// Listeners made voters.
    pub promotions: u64,
    /// Of these, those that a leader alone brings a snapshot, since it can no longer compare their log.
    pub promotions_by_snapshot: u64,
    /// Voters made listeners.
    pub demotions: u64,
    /// Upstreams found.
    pub moves: u64,
    /// Upstreams lost.
    pub losses: u64,
    /// All that nodes said for people to see.
    pub events: u64,
}

impl Counts {
    pub(crate) fn message(&mut self, message: &Message) {
        match message {
            Message::Heartbeat(_) => self.heartbeats += 1,
            Message::Kick(_) => self.kicks += 1,
            Message::Refuse(_) => self.refusals += 1,
            _ => {}
        }
    }

    pub(crate) fn event(&mut self, event: &Event) {
        self.events += 1;
        match event {
            Event::Moved { .. } => self.moves += 1,
            Event::Lost { .. } => self.losses += 1,
            _ => {}
        }
    }

    /// The counters with their names.
    fn named(&mut self) -> [(&'static str, &mut u64); 15] {
        [
            ("questions", &mut self.questions),
            ("registrations", &mut self.registrations),
            ("heartbeats", &mut self.heartbeats),
            ("kicks", &mut self.kicks),
            ("refusals", &mut self.refusals),
            ("entries fed", &mut self.entries_fed),
            ("snapshots", &mut self.snapshots),
            ("logs told to differ", &mut self.mismatches),
            ("elections", &mut self.elections),
            ("promotions", &mut self.promotions),
            (
                "of these over a log that was not comparable",
                &mut self.promotions_by_snapshot,
            ),
            ("demotions", &mut self.demotions),
            ("moves", &mut self.moves),
            ("upstreams lost", &mut self.losses),
            ("events", &mut self.events),
        ]
    }

    fn add(&mut self, mut other: Counts) {
        for ((_, sum), (_, more)) in self.named().into_iter().zip(other.named()) {
            *sum += *more;
        }
    }
}

/// What many runs have in common.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many runs.
    pub seeds: u64,
    /// How many things happened in them.
    pub happened: u64,
    /// How much time passed in them.
    pub simulated: Micros,
    /// Counters.
    pub counts: Counts,
    /// Faults of each kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Packets lost, sessions reset by it, messages that came twice.
    pub network: [u64; 3],
    /// Runs at whose end no listener could have a place smaller by the whole order, and nobody moved.
    pub steady: u64,
    /// How long each loop lived.
    pub loops: Vec<Micros>,
    /// How long each listener took to be fed again after the faults stopped.
    pub reattach: Vec<Micros>,
}

impl Summary {
    /// Adds what another run, or many, found.
    pub fn add(&mut self, other: Summary) {
        self.seeds += other.seeds;
        self.happened += other.happened;
        self.steady += other.steady;
        self.simulated += other.simulated;
        self.counts.add(other.counts);
        for (kind, times) in other.faults {
            *self.faults.entry(kind).or_default() += times;
        }
        for (sum, more) in self.network.iter_mut().zip(other.network) {
            *sum += more;
        }
        self.loops.extend(other.loops);
        self.reattach.extend(other.reattach);
    }
}

/// The values at the middle, at 99 of 100, and the largest.
fn spread(values: &[Micros]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = |permille: usize| sorted[(sorted.len() - 1) * permille / 1000] / 1000;
    match sorted.len() {
        0 => "none".into(),
        _ => format!(
            "p50 {} ms, p99 {} ms, max {} ms",
            at(500),
            at(990),
            at(1000)
        ),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated as f64 / 3.6e9;
        writeln!(
            f,
            "{} seeds, {} events, {hours:.1} simulated hours",
            self.seeds, self.happened
        )?;
        let list = |items: Vec<(&str, u64)>| {
            let items: Vec<String> = items
                .into_iter()
                .map(|(name, count)| format!("{count} {name}"))
                .collect();
            items.join(", ")
        };
        writeln!(
            f,
            "faults: {}",
            list(
                self.faults
                    .iter()
                    .map(|(kind, times)| (*kind, *times))
                    .collect()
            )
        )?;
        let [lost, reset, repeated] = self.network;
        writeln!(
            f,
            "network: {lost} packets lost, {reset} sessions reset by it, {repeated} messages came twice"
        )?;
        let mut counts = self.counts.clone();
        writeln!(
            f,
            "seen: {}",
            list(
                counts
                    .named()
                    .into_iter()
                    .map(|(name, count)| (name, *count))
                    .collect()
            )
        )?;
        writeln!(
            f,
            "loops: {}, life {}",
            self.loops.len(),
            spread(&self.loops)
        )?;
        writeln!(
            f,
            "steady by the whole order in the end: {} seeds",
            self.steady
        )?;
        write!(
            f,
            "reattach: {} listeners, {}",
            self.reattach.len(),
            spread(&self.reattach)
        )
    }
}
