// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The whole run in one table: a row a scenario, a column a contender.

use super::rows::{self, Row, Rows};
use crate::bench::sample::{Comparison, Run, Series};

/// Every comparison of the run. Absolute for direct; of the others the rate as a
/// share of direct's, and the CPU beyond direct's for each unit of work. At a
/// fixed rate, percentiles.
pub fn of_run(run: &Run) -> Rows {
    let mut contenders: Vec<&str> = Vec::new();
    for comparison in &run.comparisons {
        for (name, _) in &comparison.outcomes {
            if !contenders.contains(&name.as_str()) {
                contenders.push(name);
            }
        }
    }
    let row = |comparison: &Comparison| {
        let mut cells = vec![format!(
            "{} ({})",
            comparison.scenario,
            match rows::is_at_a_fixed_rate(comparison) {
                true => "p50 / p99, ms",
                false => rows::cpu_unit(comparison.unit),
            }
        )];
        cells.extend(contenders.iter().map(|name| cell(comparison, name)));
        Row::Measured(cells)
    };
    let mut headings = vec!["scenario".to_owned()];
    headings.extend(contenders.iter().map(|name| (*name).to_owned()));
    Rows {
        headings,
        rows: run.comparisons.iter().map(row).collect(),
    }
}

fn cell(comparison: &Comparison, name: &str) -> String {
    let measured = |name: &str| {
        let series = comparison.series(name)?;
        (!series.samples.is_empty()).then_some(series)
    };
    let Some(own) = measured(name) else {
        return "-".to_owned();
    };
    if let Some(latency) = own.latency() {
        return format!("{:.2} / {:.2}", 1e3 * latency.p50, 1e3 * latency.p99);
    }
    let unit = comparison.unit;
    let absolute = |series: &Series| {
        format!(
            "{} {}",
            rows::rate(unit, series.median_rate()),
            rows::rate_unit(unit)
        )
    };
    match measured("direct") {
        Some(direct) if name != "direct" => {
            let share = own.median_rate() / direct.median_rate();
            let over = own.cpu_per_work() - direct.cpu_per_work();
            format!("{share:.2}, +{}", rows::cpu(unit, over)).replace("+-", "-")
        }
        _ => absolute(own),
    }
}

#[cfg(test)]
mod tests {
    use super::of_run;
    use crate::bench::report::{rows::Row, sketch};

    #[test]
    fn shares_are_of_direct_and_percentiles_are_told() {
        let rates = [("direct", 40_000.0), ("sluice", 10_000.0)];
        let latency = sketch::comparison("latency-l4", &[("direct", 9.0)]);
        let run = sketch::run(vec![
            sketch::comparison("http-requests", &rates),
            sketch::with_latency(latency, [0.001, 0.002, 0.0305]),
        ]);
        let table = of_run(&run);
        assert_eq!(table.headings, ["scenario", "direct", "sluice"]);
        let row = |cells: &[&str]| Row::Measured(cells.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(
            table.rows[0],
            row(&[
                "http-requests (CPU-us/request)",
                "40,000 requests/s",
                "0.25, +15.0"
            ])
        );
        assert_eq!(
            table.rows[1],
            row(&["latency-l4 (p50 / p99, ms)", "1.00 / 2.00", "-"])
        );
    }
}
