// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The demo's table.

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// By which client, to what.
    pub done: String,
    /// What should come of it.
    pub expected: String,
    /// What did.
    pub seen: String,
    /// Which way of the gateway served it.
    pub path: &'static str,
    /// Counters that prove it.
    pub evidence: String,
    /// How it is judged.
    pub verdict: Verdict,
}

/// How a row is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As expected.
    Ok,
    /// Not as expected.
    Failed,
}

impl Row {
    /// Whether it fails the demo.
    pub fn is_failed(&self) -> bool {
        self.verdict == Verdict::Failed
    }

    fn cells(&self) -> [&str; COLUMNS] {
        let Self {
            done,
            expected,
            seen,
            path,
            evidence,
            verdict,
        } = self;
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Failed => "FAILED",
        };
        [done, expected, seen, path, evidence, verdict]
    }
}

/// Prints the table.
pub fn print(rows: &[Row]) {
    print!("\n{}\n", render(rows));
}

fn render(rows: &[Row]) -> String {
    let mut widths = HEADINGS.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.cells()) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(&HEADINGS, &widths);
    text.push_str(&widths.map(|width| "-".repeat(width)).join("  "));
    text.push('\n');
    for row in rows {
        text.push_str(&line(&row.cells(), &widths));
    }
    text
}

fn line(cells: &[&str; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(&format!("{cell:<width$}  "));
    }
    format!("{}\n", text.trim_end())
}

const COLUMNS: usize = 6;
const HEADINGS: [&str; COLUMNS] = ["done", "expected", "seen", "path", "evidence", ""];

#[cfg(test)]
mod tests {
    use super::{Row, Verdict, render};

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = Row {
            done: "a".to_owned(),
            expected: "something long".to_owned(),
            seen: "b".to_owned(),
            path: "kernel",
            evidence: "c".to_owned(),
            verdict: Verdict::Failed,
        };
        let text = render(&[row]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "done  expected        seen  path    evidence");
        assert_eq!(
            lines[2],
            "a     something long  b     kernel  c         FAILED"
        );
    }
}
