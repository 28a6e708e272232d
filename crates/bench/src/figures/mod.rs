//! The figures: each is a room of its own behind one small form.
//!
//! A figure says what it asks, which metrics its measurements have, what is to be reached and what is plotted; all else about it is in its
//! `run`, which measures and records.

mod bootstrap;
mod budget;
mod curves;
mod depth;
mod feeding;
mod get;
mod instructions;
mod listeners;
mod loads;
mod memory;
mod put;
mod redis;
mod restart;
mod steady;
mod threads;
mod watching;
mod widths;

use crate::context::{Context, Recorder};
use eaves_server::failure::Outcome;
use std::pin::Pin;

/// One question.
pub struct Figure {
    /// On the command line, and of its files.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// About how many minutes it takes with the default rounds, on two processors.
    pub minutes: u32,
    /// What is done and what is counted, in a few sentences.
    pub about: &'static str,
    /// What its measurements have, in the order of the table.
    pub metrics: &'static [Metric],
    /// The side that the first is compared with.
    pub beside: Option<&'static str>,
    /// What is to be reached.
    pub targets: &'static [Target],
    /// The metrics that are plotted.
    pub plotted: &'static [Plotted],
    /// Measures.
    pub run: for<'a> fn(&'a Context, &'a mut Recorder) -> Running<'a>,
}

/// A figure at work.
pub type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// One number of a measurement.
pub struct Metric {
    /// Its name in the raw data.
    pub name: &'static str,
    /// Its name in the table.
    pub title: &'static str,
    /// Its unit.
    pub unit: &'static str,
}

/// What is to be reached.
#[derive(Clone, Copy)]
pub struct Target {
    /// In words.
    pub what: &'static str,
    /// Which metric.
    pub metric: &'static str,
    /// Of which measurements.
    pub of: Place,
    /// As a ratio to these, in the same round.
    pub over: Option<Place>,
    /// The bound.
    pub bound: Bound,
}

/// A case and a side of a figure.
#[derive(Clone, Copy)]
pub struct Place {
    /// The case.
    pub case: &'static str,
    /// The side.
    pub side: &'static str,
}

/// What a median must be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
}

/// One panel of a figure's plot.
pub struct Plotted {
    /// Which metric.
    pub metric: &'static str,
    /// Each step up is a factor of ten.
    pub logarithmic: bool,
}

/// All figures, in the order in which they are measured.
pub const ALL: &[&Figure] = &[
    &put::FIGURE,
    &get::FIGURE,
    &redis::FIGURE,
    &budget::FIGURE,
    &listeners::FIGURE,
    &depth::FIGURE,
    &feeding::FIGURE,
    &bootstrap::FIGURE,
    &watching::FIGURE,
    &memory::FIGURE,
    &steady::FIGURE,
    &restart::FIGURE,
    &instructions::FIGURE,
    &curves::BY_CLIENTS,
    &curves::BY_VALUES,
    &curves::BY_KEYS,
    &widths::BY_LISTENERS,
    &widths::BY_DEPTH,
    &threads::FIGURE,
];

impl Bound {
    /// Whether a value is within it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
        }
    }
}

/// A ratio of two sides in one case.
const fn beside(
    what: &'static str,
    metric: &'static str,
    case: &'static str,
    [of, over]: [&'static str; 2],
    bound: Bound,
) -> Target {
    Target {
        what,
        metric,
        of: Place { case, side: of },
        over: Some(Place { case, side: over }),
        bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_figures_name_is_theirs() {
        for figure in ALL {
            let known = |name: &str| figure.metrics.iter().any(|metric| metric.name == name);
            for target in figure.targets {
                assert!(known(target.metric), "{}: {}", figure.name, target.what);
            }
            for plotted in figure.plotted {
                assert!(known(plotted.metric), "{}", figure.name);
            }
            let same = ALL.iter().filter(|other| other.name == figure.name);
            assert_eq!(same.count(), 1, "{}", figure.name);
        }
    }
}
