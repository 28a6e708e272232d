//! The tables, in Markdown: what is to be reached and whether it was, and all that was measured of each figure.

use crate::figures::{Bound, Figure, Metric, Place, Target};
use crate::results::Results;
use crate::statistics::{Spread, median_interval, ratios, spread};

/// Where a document takes the table in.
const BEGIN: &str = "<!-- eaves-bench: begin, written by the program -->";
const END: &str = "<!-- eaves-bench: end -->";

/// Everything: the summary, then figure by figure. A figure without results is only in the summary.
pub fn document(figures: &[(&Figure, Option<Results>)]) -> String {
    let mut text = String::from(
        "# Measured\n\nWritten by `eaves-bench` of the raw data beside this file; what it means is in [../performance.md](../performance.md).\n\n",
    );
    text.push_str(&summary(figures));
    for (figure, results) in figures {
        if let Some(results) = results {
            text.push_str(&section(figure, results));
        }
    }
    text
}

/// One row for each thing that is to be reached.
pub fn summary(figures: &[(&Figure, Option<Results>)]) -> String {
    let mut text = String::from(
        "| figure | | measured: median (least to most) | to reach | reached |\n| --- | --- | --- | --- | --- |\n",
    );
    for (figure, results) in figures {
        for target in figure.targets {
            let found = results
                .as_ref()
                .and_then(|results| reached(target, results));
            let unit = match target.over {
                Some(_) => "",
                None => unit(figure, target.metric),
            };
            let quick = results.as_ref().is_some_and(|results| results.quick);
            let (measured, verdict) = match found {
                None => ("not measured".to_owned(), ""),
                // It shows that the program works, and no more.
                Some((spread, _)) if quick => (range(spread, unit), "quick run"),
                Some((spread, verdict)) => (range(spread, unit), verdict),
            };
            text.push_str(&format!(
                "| {} | {} | {measured} | {} | {verdict} |\n",
                figure.name,
                target.what,
                bound(target.bound, unit)
            ));
        }
    }
    text
}

/// What was measured and is not reached, in words. A quick run counts: it has fewer rounds, and no other bounds.
pub fn missed(figure: &Figure, results: &Results) -> Vec<String> {
    let missed = figure.targets.iter().filter_map(|target| {
        let (spread, _) = reached(target, results)?;
        let unit = match target.over {
            Some(_) => "",
            None => unit(figure, target.metric),
        };
        (!target.bound.holds(spread.median)).then(|| {
            format!(
                "{} is {}, and is to be {}",
                target.what,
                range(spread, unit),
                bound(target.bound, unit)
            )
        })
    });
    missed.collect()
}

/// `document` with the summary in the place that is marked for it; nothing if there is no such place.
pub fn include(document: &str, summary: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{summary}{END}{after}"))
}

/// What was measured of it, and whether the median is within the bound. That is certain if it holds, or does not, for all values that the
/// median may have.
fn reached(target: &Target, results: &Results) -> Option<(Spread, &'static str)> {
    let at = |place: &Place| results.by_round(place.case, place.side, target.metric);
    let of = at(&target.of);
    let values = match &target.over {
        None => of.into_iter().map(|(_, value)| value).collect(),
        Some(over) => ratios(&of, &at(over)),
    };
    let found = spread(values.iter().copied())?;
    let (low, high) = median_interval(values)?;
    let certain = target.bound.holds(low) == target.bound.holds(high);
    let verdict = match (target.bound.holds(found.median), certain) {
        (true, true) => "yes",
        (true, false) => "yes, not certain",
        (false, true) => "no",
        (false, false) => "no, not certain",
    };
    Some((found, verdict))
}

fn section(figure: &Figure, results: &Results) -> String {
    let quick = match results.quick {
        true => "**A quick run: it shows that the program works, and no more.** ",
        false => "",
    };
    let mut text = format!(
        "\n## {}\n\n{}\n\n{quick}{}.\n",
        figure.title,
        figure.about,
        results.circumstances.text()
    );
    for note in &results.notes {
        text.push_str(&format!("\n- {note}\n"));
    }
    if !figure.plotted.is_empty() {
        text.push_str(&format!("\n![{}]({}.svg)\n", figure.title, figure.name));
    }
    text.push_str(&table(figure, results));
    text.push_str(&format!(
        "\nAll of it: [{0}.json]({0}.json).\n",
        figure.name
    ));
    text
}

/// A row for each case and metric, a column for each side.
fn table(figure: &Figure, results: &Results) -> String {
    let sides = results.sides();
    let beside = figure
        .beside
        .filter(|beside| sides.len() > 1 && sides.contains(beside));
    let mut text = format!("\n| case | | {} |", sides.join(" | "));
    text.push_str(&beside.map_or(String::new(), |beside| {
        format!(" {} / {beside} |", sides[0])
    }));
    let columns = 2 + sides.len() + usize::from(beside.is_some());
    text.push_str(&format!("\n|{}\n", " --- |".repeat(columns)));
    for (case, _) in results.cases() {
        for metric in figure.metrics {
            let of = |side: &str| results.by_round(case, side, metric.name);
            let cell = |side: &&str| {
                let found = spread(of(side).into_iter().map(|(_, value)| value));
                found.map_or(String::new(), |found| range(found, metric.unit))
            };
            let cells: Vec<String> = sides.iter().map(cell).collect();
            if cells.iter().all(String::is_empty) {
                continue;
            }
            let ratio = beside.map(|beside| spread(ratios(&of(sides[0]), &of(beside))));
            let ratio = ratio.map(|found| found.map_or(String::new(), |found| range(found, "")));
            let cells: Vec<String> = cells.into_iter().chain(ratio).collect();
            text.push_str(&format!(
                "| {case} | {} | {} |\n",
                metric.title,
                cells.join(" | ")
            ));
        }
    }
    text
}

fn unit(figure: &Figure, metric: &str) -> &'static str {
    let found = figure.metrics.iter().find(|one| one.name == metric);
    found.map_or("", |metric: &Metric| metric.unit)
}

/// `12.3 us (11.9 to 14.0)`.
fn range(spread: Spread, unit: &str) -> String {
    let space = if unit.is_empty() { "" } else { " " };
    let median = number(spread.median);
    match spread.count {
        1 => format!("{median}{space}{unit}"),
        _ => format!(
            "{median}{space}{unit} ({} to {})",
            number(spread.least),
            number(spread.most)
        ),
    }
}

fn bound(bound: Bound, unit: &str) -> String {
    let space = if unit.is_empty() { "" } else { " " };
    match bound {
        Bound::AtMost(most) => format!("at most {}{space}{unit}", number(most)),
        Bound::AtLeast(least) => format!("at least {}{space}{unit}", number(least)),
    }
}

/// Three digits, or all that stand before the point.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        ..0.001 => return format!("{value:.1e}"),
        ..0.1 => 4,
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    match digits {
        0 => thousands(&text),
        _ => text,
    }
}

/// A whole number, with commas.
pub fn count(value: u64) -> String {
    thousands(&value.to_string())
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", digits),
    };
    let mut text = String::from(sign);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circumstances::Circumstances;
    use crate::figures;
    use crate::results::{Measurement, Values};

    fn results(quick: bool) -> Results {
        let measured = |side: &str, round, cpu| Measurement {
            case: "64 clients on 8 connections".into(),
            x: None,
            side: side.into(),
            round,
            values: Values::from([("server_cpu".into(), cpu)]),
        };
        Results {
            figure: "put".into(),
            quick,
            circumstances: Circumstances::default(),
            notes: vec!["a note".into()],
            measurements: vec![
                measured("eaves", 1, 30.0),
                measured("etcd", 1, 120.0),
                measured("eaves", 2, 40.0),
                measured("etcd", 2, 100.0),
                measured("eaves", 3, 25.0),
                measured("etcd", 3, 100.0),
            ],
        }
    }

    fn put() -> &'static Figure {
        figures::ALL.iter().find(|one| one.name == "put").unwrap()
    }

    #[test]
    fn the_summary_has_ratios_within_rounds_and_a_verdict() {
        let text = summary(&[(put(), Some(results(false)))]);
        assert!(
            text.contains(
                "over etcd's | 0.250 (0.250 to 0.400) | at most 0.333 | yes, not certain |"
            ),
            "{text}"
        );
        assert!(
            text.contains("| not measured | at least 2.50 |  |"),
            "{text}"
        );
        let missed = Target {
            bound: Bound::AtMost(0.2),
            ..figures::ALL[0].targets[0]
        };
        let (_, verdict) = reached(&missed, &results(false)).unwrap();
        assert_eq!(verdict, "no");
    }

    #[test]
    fn what_is_missed_is_said_with_the_bound() {
        assert!(super::missed(put(), &results(false)).is_empty());
        let mut worse = results(false);
        for one in worse
            .measurements
            .iter_mut()
            .filter(|one| one.side == "eaves")
        {
            one.values.insert("server_cpu".into(), 90.0);
        }
        let missed = super::missed(put(), &worse);
        assert_eq!(missed.len(), 1, "{missed:?}");
        assert!(
            missed[0].contains("64 clients") && missed[0].contains("at most 0.333"),
            "{missed:?}"
        );
    }

    #[test]
    fn a_quick_run_reaches_nothing() {
        let text = summary(&[(put(), Some(results(true)))]);
        assert!(
            text.contains("quick run") && !text.contains("yes"),
            "{text}"
        );
    }

    #[test]
    fn a_section_tells_sides_ratio_notes_and_where_the_data_is() {
        let text = document(&[(put(), Some(results(false)))]);
        for part in [
            "| case | | eaves | etcd | eaves / etcd |\n| --- | --- | --- | --- | --- |\n",
            "| 30.0 us (25.0 to 40.0) | 100 us (100 to 120) | 0.250 (0.250 to 0.400) |",
            "- a note",
            "(put.svg)",
            "(put.json)",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn the_summary_replaces_what_was_between_the_marks() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb");
        let once = include(&document, "new\n").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}\nnew\n{END}\nb"));
        assert_eq!(include(&once, "new\n").as_ref(), Some(&once));
        assert_eq!(include("no marks", "new\n"), None);
    }

    #[test]
    fn numbers_have_three_digits_or_more() {
        for (value, text) in [
            (0.0, "0"),
            (0.0123, "0.0123"),
            (0.3333, "0.333"),
            (2.5, "2.50"),
            (12.34, "12.3"),
            (999.6, "1,000"),
            (1_234_567.0, "1,234,567"),
            (-1_234.0, "-1,234"),
            (0.00002, "2.0e-5"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
