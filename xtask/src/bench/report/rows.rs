// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The figures of a scenario as rows of text, for the terminal and for the
//! Markdown report.

use crate::bench::sample::{Comparison, Figure, Outcome, Series, Unit};

/// A scenario's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// One word or some a column.
    pub headings: Vec<String>,
    /// As many cells a row, or a contender and the reason it was skipped.
    pub rows: Vec<Row>,
}

/// A row of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A contender's figures, its name first.
    Measured(Vec<String>),
    /// A contender, and why there are none.
    Skipped(String, String),
}

impl Rows {
    /// The table less its last column.
    pub fn without_last(mut self) -> Self {
        self.headings.pop();
        for row in &mut self.rows {
            if let Row::Measured(cells) = row {
                cells.pop();
            }
        }
        self
    }
}

/// The table of a comparison.
pub fn of_comparison(comparison: &Comparison) -> Rows {
    let unit = comparison.unit;
    let direct = comparison.series("direct").map(Series::cpu_per_work);
    let reference = reference(comparison);
    let fixed = is_at_a_fixed_rate(comparison);
    let mut headings = vec!["contender".to_owned()];
    if fixed {
        headings.extend(["p50 ms", "p99 ms", "p99.9 ms"].map(str::to_owned));
    }
    headings.push(format!("{} median (min-max)", rate_unit(unit)));
    if let (false, Some((name, _))) = (fixed, reference) {
        headings.push(format!("of {name}"));
    }
    headings.push(cpu_unit(unit).to_owned());
    headings.push("over direct".to_owned());
    headings.push("errors".to_owned());
    let row = |(name, outcome): &(String, Outcome)| {
        let series = match outcome {
            Outcome::Measured(series) => series,
            Outcome::Skipped(reason) => return Row::Skipped(name.clone(), reason.clone()),
        };
        let mut cells = vec![name.clone()];
        if fixed {
            cells.extend(percentiles(series));
        }
        cells.push(format!(
            "{} ({}-{})",
            rate(unit, series.median_rate()),
            rate(unit, series.min_rate()),
            rate(unit, series.max_rate())
        ));
        if let (false, Some((_, reference))) = (fixed, reference) {
            let ratio = series.median_rate() / reference.median_rate();
            cells.push(format!("{ratio:.2}"));
        }
        let own = series.cpu_per_work();
        cells.push(cpu(unit, own));
        cells.push(match direct {
            Some(direct) if name != "direct" => cpu(unit, own - direct),
            _ => "-".to_owned(),
        });
        cells.push(match series.errors() {
            0 => "0".to_owned(),
            errors => format!("{errors} (!)"),
        });
        Row::Measured(cells)
    };
    Rows {
        headings,
        rows: comparison.outcomes.iter().map(row).collect(),
    }
}

/// The table of the figures of one scenario.
pub fn of_figures<'a>(figures: impl Iterator<Item = &'a Figure>) -> Rows {
    let row = |figure: &Figure| {
        Row::Measured(vec![
            figure.name.clone(),
            number(figure.value),
            figure.unit.clone(),
            figure.note.clone(),
        ])
    };
    Rows {
        headings: ["figure", "value", "unit", "note"]
            .map(str::to_owned)
            .to_vec(),
        rows: figures.map(row).collect(),
    }
}

/// Whom the others are held against: nftables where it takes part, else the
/// peer with the highest rate. Nobody without a peer.
pub fn reference(comparison: &Comparison) -> Option<(&str, &Series)> {
    let measured = |wanted: &[&str]| {
        comparison
            .outcomes
            .iter()
            .filter(|(name, _)| wanted.contains(&name.as_str()))
            .filter_map(|(name, outcome)| Some((name.as_str(), outcome.series()?)))
            .filter(|(_, series)| !series.samples.is_empty())
            .max_by(|(_, a), (_, b)| a.median_rate().total_cmp(&b.median_rate()))
    };
    measured(&["nftables"]).or_else(|| measured(&["haproxy", "nginx", "envoy"]))
}

/// Whether latency at a fixed rate is what it is about.
pub fn is_at_a_fixed_rate(comparison: &Comparison) -> bool {
    comparison
        .outcomes
        .iter()
        .filter_map(|(_, outcome)| outcome.series())
        .any(|series| series.latency().is_some())
}

/// Whether a contender has errors, which make its figures doubtful.
pub fn has_errors(comparison: &Comparison) -> bool {
    comparison
        .outcomes
        .iter()
        .filter_map(|(_, outcome)| outcome.series())
        .any(|series| series.errors() > 0)
}

/// The unit of [`rate`].
pub fn rate_unit(unit: Unit) -> &'static str {
    match unit {
        Unit::BitsPerSecond => "Gbit/s",
        Unit::RequestsPerSecond => "requests/s",
        Unit::ConnectionsPerSecond => "connections/s",
    }
}

/// A rate in [`rate_unit`].
pub fn rate(unit: Unit, value: f64) -> String {
    match unit {
        Unit::BitsPerSecond => format!("{:.2}", value / 1e9),
        Unit::RequestsPerSecond | Unit::ConnectionsPerSecond => grouped(value),
    }
}

/// A value of any size, with the digits that say something.
pub fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => grouped(value),
        middle if middle >= 100.0 => format!("{value:.0}"),
        low if low >= 1.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

/// A value at an axis: without zeros that say nothing.
pub fn tick(value: f64) -> String {
    let text = number(value);
    match text.split_once('.') {
        Some((_, zeros)) if zeros.bytes().all(|it| it == b'0') => format!("{value:.0}"),
        _ => text,
    }
}

fn percentiles(series: &Series) -> [String; 3] {
    let Some(latency) = series.latency() else {
        return ["-", "-", "-"].map(str::to_owned);
    };
    [latency.p50, latency.p99, latency.p999].map(|seconds| format!("{:.2}", 1e3 * seconds))
}

/// The unit of [`cpu`].
pub fn cpu_unit(unit: Unit) -> &'static str {
    match unit {
        Unit::BitsPerSecond => "CPU-s/GB",
        Unit::RequestsPerSecond => "CPU-us/request",
        Unit::ConnectionsPerSecond => "CPU-us/connection",
    }
}

/// CPU seconds per byte, request or connection, in [`cpu_unit`].
pub fn cpu(unit: Unit, per_work: f64) -> String {
    match unit {
        Unit::BitsPerSecond => format!("{:.3}", 1e9 * per_work),
        Unit::RequestsPerSecond | Unit::ConnectionsPerSecond => format!("{:.1}", 1e6 * per_work),
    }
}

/// `12345.6` as `12,346`.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, grouped, number, of_comparison, reference, tick};
    use crate::bench::{report::sketch, sample::Outcome};

    #[test]
    fn figures_stand_beside_the_reference_and_direct() {
        let mut comparison = sketch::comparison(
            "l4-requests",
            &[
                ("direct", 40_000.0),
                ("nftables", 20_000.0),
                ("sluice", 10_000.0),
            ],
        );
        comparison
            .outcomes
            .push(("envoy".to_owned(), Outcome::Skipped("no binary".to_owned())));
        let table = of_comparison(&comparison);
        assert_eq!(
            table.headings,
            [
                "contender",
                "requests/s median (min-max)",
                "of nftables",
                "CPU-us/request",
                "over direct",
                "errors"
            ]
        );
        // 2 CPU seconds for 10 s of the rate.
        let row = |cells: &[&str]| Row::Measured(cells.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(
            table.rows[2],
            row(&[
                "sluice",
                "10,000 (9,000-11,000)",
                "0.50",
                "20.0",
                "15.0",
                "0"
            ])
        );
        assert_eq!(
            table.rows[0],
            row(&["direct", "40,000 (36,000-44,000)", "2.00", "5.0", "-", "0"])
        );
        assert_eq!(
            table.rows[3],
            Row::Skipped("envoy".to_owned(), "no binary".to_owned())
        );
    }

    #[test]
    fn without_nftables_the_best_peer_is_the_reference() {
        let comparison = sketch::comparison(
            "http-requests",
            &[
                ("direct", 9.0),
                ("haproxy", 2.0),
                ("nginx", 3.0),
                ("sluice", 4.0),
            ],
        );
        assert_eq!(reference(&comparison).unwrap().0, "nginx");
        let alone = sketch::comparison("http-requests", &[("direct", 9.0), ("sluice", 4.0)]);
        assert!(reference(&alone).is_none());
    }

    #[test]
    fn at_a_fixed_rate_percentiles_come_first() {
        let comparison = sketch::comparison("latency-l4", &[("direct", 9.0), ("nginx", 9.0)]);
        let table = of_comparison(&sketch::with_latency(comparison, [0.001, 0.002, 0.0305]));
        assert_eq!(table.headings[1..4], ["p50 ms", "p99 ms", "p99.9 ms"]);
        assert!(
            !table
                .headings
                .iter()
                .any(|heading| heading.starts_with("of "))
        );
        let Row::Measured(cells) = &table.rows[0] else {
            panic!("skipped");
        };
        assert_eq!(cells[1..4], ["1.00", "2.00", "30.50"]);
        assert_eq!(cells.len(), table.headings.len());
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(1_234_567.8), "1,234,568");
        assert_eq!(grouped(-1_000.0), "-1,000");
        assert_eq!(grouped(12.0), "12");
        assert_eq!(
            [0.0, 0.25, 7.04, 123.4, 10_000.0].map(number),
            ["0", "0.250", "7.0", "123", "10,000"]
        );
        assert_eq!([0.0, 2.5, 10.0, 100.0].map(tick), ["0", "2.5", "10", "100"]);
    }
}
