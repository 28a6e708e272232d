//! What was measured, as it is kept: one file of JSON for each figure, one measurement in each line of it.

use crate::circumstances::Circumstances;
use eaves_server::failure::{Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Values by the names of their metrics.
pub type Values = BTreeMap<String, f64>;

/// Values of these.
pub fn values<const N: usize>(pairs: [(&str, f64); N]) -> Values {
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

/// One side, measured once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was asked of it: `64 clients on 8 connections`.
    pub case: String,
    /// The case as a number, where cases are points of a curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
    /// Who was measured: `eaves`.
    pub side: String,
    /// Measurements of one round were taken one after the other.
    pub round: u32,
    /// What came out.
    pub values: Values,
}

/// A figure as it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The figure's name.
    pub figure: String,
    /// Short and few: to see whether it works, no figure to be told.
    pub quick: bool,
    /// Where and when.
    pub circumstances: Circumstances,
    /// What a reader should know: who was left out, for instance.
    pub notes: Vec<String>,
    /// All of it.
    pub measurements: Vec<Measurement>,
}

impl Results {
    /// What one side measured of one metric in one case, by round.
    pub fn by_round(&self, case: &str, side: &str, metric: &str) -> Vec<(u32, f64)> {
        self.measurements
            .iter()
            .filter(|one| one.case == case && one.side == side)
            .filter_map(|one| Some((one.round, *one.values.get(metric)?)))
            .collect()
    }

    /// All cases, in the order in which they were measured first.
    pub fn cases(&self) -> Vec<(&str, Option<f64>)> {
        in_order(self.measurements.iter().map(|one| (&*one.case, one.x)))
    }

    /// All sides, in the order in which they were measured first.
    pub fn sides(&self) -> Vec<&str> {
        in_order(self.measurements.iter().map(|one| &*one.side))
    }

    /// Where a figure's results are.
    pub fn path(directory: &Path, figure: &str) -> PathBuf {
        directory.join(format!("{figure}.json"))
    }

    /// Writes them to their file, which is made or replaced.
    pub fn write(&self, directory: &Path) -> Outcome {
        write_file(&Results::path(directory, &self.figure), &self.to_text())
    }

    /// Reads a figure's results; nothing if there are none.
    pub fn read(directory: &Path, figure: &str) -> Outcome<Option<Results>> {
        let path = Results::path(directory, figure);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::failed(format!(
                    "cannot read {}: {error}",
                    path.display()
                )));
            }
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::failed(format!(
                "{} has no results of a figure: {error}; remove it and measure again",
                path.display()
            ))
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!(
            "{{\n\"figure\": {},\n\"quick\": {},\n\"circumstances\": {},\n\"notes\": {},\n\"measurements\": [",
            json(&self.figure),
            self.quick,
            json(&self.circumstances),
            json(&self.notes)
        );
        for (number, one) in self.measurements.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let _ = write!(text, "{comma}\n{}", json(one));
        }
        text.push_str("\n]\n}\n");
        text
    }
}

/// Writes a whole file.
pub fn write_file(path: &Path, text: &str) -> Outcome {
    std::fs::write(path, text).map_err(|error| {
        Failure::failed(format!(
            "cannot write {}: {error}; free some space or choose another --out",
            path.display()
        ))
    })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and text can be JSON")
}

fn in_order<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let measurement = |round, x| Measurement {
            case: "one \"client\"".into(),
            x,
            side: "eaves".into(),
            round,
            values: Values::from([("throughput".into(), 1.0 / 3.0)]),
        };
        let results = Results {
            figure: "put".into(),
            quick: true,
            circumstances: Circumstances::default(),
            notes: vec!["etcd is left out".into()],
            measurements: vec![measurement(1, None), measurement(2, Some(0.1))],
        };
        results.write(directory.path()).unwrap();
        assert_eq!(
            Results::read(directory.path(), "put").unwrap(),
            Some(results)
        );
        assert_eq!(Results::read(directory.path(), "get").unwrap(), None);
        std::fs::write(directory.path().join("get.json"), "{}").unwrap();
        let error = Results::read(directory.path(), "get").unwrap_err();
        assert!(error.to_string().contains("get.json"), "{error}");
    }
}
