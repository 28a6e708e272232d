//! The plots: one SVG for each figure, a panel for each metric plotted.
//!
//! Where cases are numbers they are points of curves over a logarithmic axis, otherwise groups of bars. A thin line goes from the least to
//! the most of the rounds. Written by hand: what is needed are lines, rectangles and text, and crates for plots bring fonts, colours and
//! a coordinate system of their own.

use crate::figures::{Figure, Plotted};
use crate::report::{count, number};
use crate::results::Results;
use crate::statistics::{Spread, spread};
use std::fmt::Write;

const PANEL_WIDTH: f64 = 480.0;
const PANEL_HEIGHT: f64 = 320.0;
/// Room for labels left of, right of, above and below what is drawn in a panel.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 15.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 70.0;
/// Up to here the numbers of cases are steps of the same size.
const FEW_STEPS: f64 = 10.0;
/// Panels beside each other.
const COLUMNS: usize = 2;
/// Told apart by those who see few colours, too: Okabe and Ito, "Color Universal Design", 2008.
const COLOURS: [&str; 6] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9",
];

/// The whole picture; nothing if the figure plots nothing.
pub fn svg(figure: &Figure, results: &Results) -> Option<String> {
    let panels: Vec<Panel> = figure
        .plotted
        .iter()
        .filter_map(|plotted| Panel::of(figure, plotted, results))
        .collect();
    if panels.is_empty() {
        return None;
    }
    let columns = panels.len().min(COLUMNS);
    let width = PANEL_WIDTH * columns as f64;
    let height = PANEL_HEIGHT * panels.len().div_ceil(columns) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>{}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
        escape(figure.title)
    );
    for (place, panel) in panels.iter().enumerate() {
        let x = PANEL_WIDTH * (place % columns) as f64;
        let y = PANEL_HEIGHT * (place / columns) as f64;
        let _ = write!(
            svg,
            "<g transform=\"translate({x},{y})\">\n{}</g>\n",
            panel.draw()
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// One metric of all sides and cases.
struct Panel<'a> {
    title: String,
    cases: Vec<(&'a str, Option<f64>)>,
    sides: Vec<(&'a str, Vec<Option<Spread>>)>,
    value: Scale,
    /// Of the cases, where they are numbers.
    across: Option<Scale>,
}

impl<'a> Panel<'a> {
    fn of(figure: &Figure, plotted: &Plotted, results: &'a Results) -> Option<Panel<'a>> {
        let metric = figure
            .metrics
            .iter()
            .find(|one| one.name == plotted.metric)?;
        let unit = match metric.unit {
            "" => String::new(),
            unit => format!(", {unit}"),
        };
        let measured = |case: &str, side: &str| {
            let values = results.by_round(case, side, metric.name);
            spread(values.into_iter().map(|(_, value)| value))
        };
        let mut cases = results.cases();
        cases.retain(|(case, _)| {
            let mut sides = results.sides().into_iter();
            sides.any(|side| measured(case, side).is_some())
        });
        let of_side = |side: &'a str| -> (&'a str, Vec<Option<Spread>>) {
            (
                side,
                cases.iter().map(|(case, _)| measured(case, side)).collect(),
            )
        };
        let sides: Vec<_> = results.sides().into_iter().map(of_side).collect();
        let spreads = sides.iter().flat_map(|(_, spreads)| spreads).flatten();
        let ends: Vec<f64> = spreads.flat_map(|one| [one.least, one.most]).collect();
        let numbers: Option<Vec<f64>> = cases.iter().map(|(_, x)| *x).collect();
        Some(Panel {
            title: format!("{}{unit}", metric.title),
            value: Scale::over(&ends, plotted.logarithmic)?,
            across: numbers.and_then(|numbers| Scale::across(&numbers)),
            cases,
            sides,
        })
    }

    fn draw(&self) -> String {
        let mut text = format!(
            "<text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{}</text>\n",
            escape(&self.title)
        );
        text.push_str(&self.legend());
        for tick in self.value.ticks() {
            let y = self.y(tick);
            let _ = writeln!(
                text,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                PANEL_WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                number(tick)
            );
        }
        match &self.across {
            Some(across) => self.draw_curves(across, &mut text),
            None => self.draw_bars(&mut text),
        }
        text
    }

    fn legend(&self) -> String {
        let mut text = String::new();
        let mut x = LEFT;
        for (number, (side, _)) in self.sides.iter().enumerate() {
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"26\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"35\">{}</text>",
                colour(number),
                x + 14.0,
                escape(side)
            );
            x += 30.0 + 6.5 * side.len() as f64;
        }
        text
    }

    fn draw_bars(&self, text: &mut String) {
        let group = (PANEL_WIDTH - LEFT - RIGHT) / self.cases.len() as f64;
        let bar = group * 0.8 / self.sides.len() as f64;
        let bottom = PANEL_HEIGHT - BOTTOM;
        for (place, (case, _)) in self.cases.iter().enumerate() {
            let left = LEFT + group * (place as f64 + 0.1);
            for (number, (_, spreads)) in self.sides.iter().enumerate() {
                let Some(spread) = spreads[place] else {
                    continue;
                };
                let (x, y) = (left + bar * number as f64, self.y(spread.median));
                let _ = writeln!(
                    text,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                    bar * 0.95,
                    bottom - y,
                    colour(number)
                );
                self.draw_spread(x + bar * 0.475, spread, text);
            }
            label(left + group * 0.4, &lines_of(case, group), text);
        }
    }

    fn draw_curves(&self, across: &Scale, text: &mut String) {
        let width = PANEL_WIDTH - LEFT - RIGHT - 20.0;
        let at = |x: f64| LEFT + 10.0 + width * across.place(x);
        let cases = || self.cases.iter().filter_map(|(_, x)| *x);
        for x in cases() {
            label(at(x), &[count(x as u64)], text);
        }
        for (number, (_, spreads)) in self.sides.iter().enumerate() {
            let points: Vec<(f64, Spread)> = cases()
                .zip(spreads)
                .filter_map(|(x, spread)| Some((at(x), (*spread)?)))
                .collect();
            let path: Vec<String> = points
                .iter()
                .map(|(x, spread)| format!("{x:.1},{:.1}", self.y(spread.median)))
                .collect();
            let _ = writeln!(
                text,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
                path.join(" "),
                colour(number)
            );
            for (x, spread) in points {
                let _ = writeln!(
                    text,
                    "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{}\"/>",
                    self.y(spread.median),
                    colour(number)
                );
                self.draw_spread(x, spread, text);
            }
        }
    }

    fn draw_spread(&self, x: f64, spread: Spread, text: &mut String) {
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#333333\"/>",
            self.y(spread.least),
            self.y(spread.most)
        );
    }

    fn y(&self, value: f64) -> f64 {
        let height = PANEL_HEIGHT - TOP - BOTTOM;
        TOP + height * (1.0 - self.value.place(value))
    }
}

/// From values to places between 0 and 1.
#[derive(Debug, PartialEq)]
struct Scale {
    least: f64,
    most: f64,
    logarithmic: bool,
}

impl Scale {
    /// One that has room for all of these: from zero to a round number, or from one power of ten to another. Nothing can be shown without
    /// a positive value.
    fn over(values: &[f64], logarithmic: bool) -> Option<Scale> {
        let positive = values.iter().copied().filter(|value| *value > 0.0);
        let most = positive.clone().fold(0.0, f64::max);
        let least = positive.fold(f64::INFINITY, f64::min);
        if most <= 0.0 || !most.is_finite() {
            return None;
        }
        Some(match logarithmic {
            true => Scale {
                least: 10f64.powf(least.log10().floor()),
                // A single power of ten needs some width.
                most: 10f64.powf(most.log10().ceil().max(least.log10().floor() + 1.0)),
                logarithmic,
            },
            false => Scale {
                least: 0.0,
                most: step(most) * (most / step(most)).ceil(),
                logarithmic,
            },
        })
    }

    /// One for the numbers of cases: by factors of ten, but for few steps. None at all is a factor of ten below the least.
    fn across(numbers: &[f64]) -> Option<Scale> {
        let most = numbers.iter().copied().fold(0.0, f64::max);
        let mut scale = Scale::over(numbers, most > FEW_STEPS)?;
        if scale.logarithmic && numbers.contains(&0.0) {
            scale.least /= 10.0;
        }
        Some(scale)
    }

    fn place(&self, value: f64) -> f64 {
        let place = match self.logarithmic {
            true => (value.max(self.least) / self.least).log10() / (self.most / self.least).log10(),
            false => value / self.most,
        };
        place.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.logarithmic {
            true => {
                let decades = (self.most / self.least).log10().round() as i32;
                (0..=decades).map(|n| self.least * 10f64.powi(n)).collect()
            }
            false => {
                let step = step(self.most);
                (0..=(self.most / step).round() as i32)
                    .map(|n| step * f64::from(n))
                    .collect()
            }
        }
    }
}

/// A round number of which a few make `most`.
fn step(most: f64) -> f64 {
    let power = 10f64.powf((most / 2.0).log10().floor());
    let rough = most / 5.0 / power;
    let factor = [0.5, 1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| rough <= *factor);
    power * factor.unwrap_or(10.0)
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

fn label(x: f64, lines: &[String], text: &mut String) {
    for (line, words) in lines.iter().enumerate() {
        let _ = writeln!(
            text,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\">{}</text>",
            PANEL_HEIGHT - BOTTOM + 16.0 + 13.0 * line as f64,
            escape(words)
        );
    }
}

/// A label in lines that are about as wide as there is room.
fn lines_of(label: &str, width: f64) -> Vec<String> {
    let fitting = (width / 6.6).max(4.0) as usize;
    let mut lines: Vec<String> = Vec::new();
    for word in label.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < fitting => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circumstances::Circumstances;
    use crate::figures;
    use crate::results::{Measurement, Values};

    fn results(numbers: bool) -> Results {
        let measurements = [
            ("a < b", "eaves", 10.0),
            ("a < b", "etcd", 40.0),
            ("c", "eaves", 20.0),
        ];
        let measurements = measurements.map(|(case, side, value)| Measurement {
            case: case.into(),
            x: numbers.then_some(if case == "c" { 100.0 } else { 1.0 }),
            side: side.into(),
            round: 1,
            values: Values::from([("throughput".into(), value)]),
        });
        Results {
            figure: "put".into(),
            quick: false,
            circumstances: Circumstances::default(),
            notes: Vec::new(),
            measurements: measurements.into(),
        }
    }

    #[test]
    fn cases_are_bars_or_points_and_text_is_escaped() {
        let bars = svg(figures::ALL[0], &results(false)).unwrap();
        // The ground, two squares in the legend, three bars.
        assert_eq!(bars.matches("<rect").count(), 6, "{bars}");
        assert!(bars.contains("&lt;") && !bars.contains("a < b"), "{bars}");
        let curves = svg(figures::ALL[0], &results(true)).unwrap();
        assert_eq!(
            (
                curves.matches("<polyline").count(),
                curves.matches("<circle").count()
            ),
            (2, 3),
            "{curves}"
        );
    }

    #[test]
    fn none_has_a_place_of_its_own_before_one() {
        let scale = Scale::across(&[0.0, 1.0, 10.0, 100.0]).unwrap();
        assert_eq!(scale.place(0.0), 0.0);
        assert!(scale.place(1.0) > 0.3 && scale.place(10.0) > scale.place(1.0));
        let steps = Scale::across(&[0.0, 1.0, 2.0, 4.0]).unwrap();
        assert_eq!(steps.place(2.0), 2.0 * steps.place(1.0));
    }

    #[test]
    fn nothing_measured_is_no_picture() {
        let mut empty = results(false);
        empty.measurements.clear();
        assert_eq!(svg(figures::ALL[0], &empty), None);
    }

    #[test]
    fn a_scale_has_room_for_all_and_ends_at_round_numbers() {
        let linear = Scale::over(&[3.0, 47.0], false).unwrap();
        assert_eq!((linear.least, linear.most), (0.0, 50.0));
        assert_eq!(linear.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        let logarithmic = Scale::over(&[3.0, 470.0], true).unwrap();
        assert_eq!(logarithmic.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(logarithmic.place(1.0), 0.0);
        assert_eq!(logarithmic.place(1000.0), 1.0);
        assert_eq!(Scale::over(&[0.0], true), None);
        assert_eq!(Scale::over(&[], false), None);
        for most in [0.013, 0.99, 1.0, 7.7, 12_345.0] {
            let scale = Scale::over(&[most], false).unwrap();
            assert!(scale.most >= most && scale.ticks().len() <= 12, "{scale:?}");
        }
    }
}
