// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table on the terminal.

use std::fmt::Write as _;

use super::rows::{self, Row, Rows};
use crate::bench::{marks, sample::Run};

/// All scenarios, then the marks.
pub fn render(run: &Run) -> String {
    let mut text = String::new();
    for comparison in &run.comparisons {
        text.push_str(&format!("\n{}", comparison.scenario));
        if rows::has_errors(comparison) {
            text.push_str("  (! there were errors: doubtful)");
        }
        text.push('\n');
        add(&mut text, &rows::of_comparison(comparison));
    }
    for scenario in scenarios_of_figures(run) {
        text.push_str(&format!("\n{scenario}\n"));
        let figures = run.figures.iter().filter(|it| it.scenario == scenario);
        // Notes are sentences: the report has room for them.
        add(&mut text, &rows::of_figures(figures).without_last());
    }
    if !run.skipped.is_empty() {
        text.push('\n');
    }
    for (scenario, reason) in &run.skipped {
        text.push_str(&format!("{scenario}  {}\n", skipped(reason)));
    }
    text.push_str("\nmarks\n");
    let marks: Vec<_> = marks::judge(run)
        .into_iter()
        .map(|(mark, verdict)| (format!("{}: {}", mark.scenario, mark.text), verdict.text()))
        .collect();
    let width = marks.iter().map(|(what, _)| what.len()).max();
    let width = width.unwrap_or_default();
    for (what, verdict) in marks {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {what:<width$}  {verdict}");
    }
    text.push('\n');
    text
}

/// Scenarios with figures, in the order they ran.
pub fn scenarios_of_figures(run: &Run) -> Vec<&str> {
    let mut names: Vec<&str> = run.figures.iter().map(|it| it.scenario.as_str()).collect();
    names.dedup();
    names
}

/// A reason as it is printed: one that failed says so itself.
pub fn skipped(reason: &str) -> String {
    if reason.starts_with("FAILED") {
        reason.to_owned()
    } else {
        format!("SKIPPED: {reason}")
    }
}

/// The first column to the left, numbers to the right.
fn add(text: &mut String, table: &Rows) {
    let Rows { headings, rows } = table;
    let mut widths: Vec<usize> = headings.iter().map(|it| it.chars().count()).collect();
    for row in rows {
        let cells = match row {
            Row::Measured(cells) => cells.as_slice(),
            Row::Skipped(name, _) => std::slice::from_ref(name),
        };
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    add_line(text, headings, &widths);
    for row in rows {
        match row {
            Row::Measured(cells) => add_line(text, cells, &widths),
            Row::Skipped(name, reason) => {
                let width = widths.first().copied().unwrap_or_default();
                // Writing to a String cannot fail.
                let _ = writeln!(text, "  {name:<width$}  {}", skipped(reason));
            }
        }
    }
}

fn add_line(text: &mut String, cells: &[String], widths: &[usize]) {
    let mut line = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let cell = match index {
            0 => format!("  {cell:<width$}"),
            _ => format!("  {cell:>width$}"),
        };
        line.push_str(&cell);
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::bench::{
        report::sketch,
        sample::{Figure, Outcome},
    };

    #[test]
    fn a_run_is_a_table_a_scenario() {
        let mut comparison = sketch::comparison("l4-bulk", &[("direct", 20e9), ("haproxy", 5e9)]);
        comparison.outcomes.push((
            "sluice".to_owned(),
            Outcome::Skipped("FAILED: no agent".to_owned()),
        ));
        if let Outcome::Measured(series) = &mut comparison.outcomes[1].1 {
            series.samples[0].errors = 3;
        }
        let mut run = sketch::run(vec![comparison]);
        run.figures.push(Figure {
            scenario: "packet".to_owned(),
            name: "tc: hit".to_owned(),
            value: 87.0,
            unit: "ns".to_owned(),
            note: "fresh packets".to_owned(),
        });
        run.skipped.push(("idle".to_owned(), "no files".to_owned()));
        let text = render(&run);
        let expected = "
l4-bulk  (! there were errors: doubtful)
  contender  Gbit/s median (min-max)  of haproxy  CPU-s/GB  over direct  errors
  direct         20.00 (18.00-22.00)        4.00     0.010            -       0
  haproxy           5.00 (4.50-5.50)        1.00     0.040        0.030   3 (!)
  sluice     FAILED: no agent

packet
  figure   value  unit
  tc: hit   87.0    ns

idle  SKIPPED: no files

marks
";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("packet: 100 ns for a hit of IPv4 TCP  "));
    }
}
