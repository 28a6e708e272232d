//! What a figure is given: how long and how often to measure, the programs, and where to put what came out.

use crate::programs::Programs;
use crate::results::{Measurement, Results, Values};
use std::path::PathBuf;
use std::time::Duration;

/// How to measure.
pub struct Context {
    /// Short and few: to see whether it works.
    pub quick: bool,
    /// How often each side is measured in each case.
    pub rounds: u32,
    /// The same, of figures whose spread is small, or whose rounds are long.
    pub few_rounds: u32,
    /// Replaces a figure's own time for one measurement.
    pub time: Option<Duration>,
    /// Cases that do not contain this are left out.
    pub cases: Option<String>,
    /// What can be measured.
    pub programs: Programs,
    /// Below it the servers have their data.
    pub data: PathBuf,
}

impl Context {
    /// How long one measurement takes that takes `time` when it is not to be quick.
    pub fn time(&self, time: Duration) -> Duration {
        let quick = match self.quick {
            true => time / 8,
            false => time,
        };
        self.time.unwrap_or(quick)
    }

    /// How much of something there is: `full`, or `quick` of it when it is to be quick.
    pub fn amount<T>(&self, full: T, quick: T) -> T {
        match self.quick {
            true => quick,
            false => full,
        }
    }

    /// Whether the user wants this case.
    pub fn wants(&self, case: &str) -> bool {
        let part = self.cases.as_deref();
        part.is_none_or(|part| case.contains(part))
    }
}

/// Takes what a figure measures.
pub struct Recorder {
    /// What it has so far.
    pub results: Results,
}

impl Recorder {
    /// Keeps what one side gave in a case, and tells it on standard error.
    pub fn add(&mut self, case: &str, x: Option<f64>, side: &str, round: u32, values: Values) {
        let told: Vec<String> = values
            .iter()
            .map(|(name, value)| format!("{name} {}", crate::report::number(*value)))
            .collect();
        eprintln!("  {case}, round {round}, {side}: {}", told.join(", "));
        self.results.measurements.push(Measurement {
            case: case.to_owned(),
            x,
            side: side.to_owned(),
            round,
            values,
        });
    }

    /// Says something to the reader.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("  note: {text}");
        if !self.results.notes.contains(&text) {
            self.results.notes.push(text);
        }
    }
}
