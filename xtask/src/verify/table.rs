// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of one kernel.

use std::fmt::Write;

use super::judge::{Judged, MEASURES};

/// Prints what a kernel said of each program.
pub fn print(kernel: &str, programs: &[Judged]) {
    print!("\n{}", render(kernel, programs));
    for judged in programs.iter().filter(|judged| !judged.log.is_empty()) {
        println!("\n  the verifier on {} (Linux {kernel}):", judged.program);
        for line in &judged.log {
            println!("    {line}");
        }
    }
}

fn render(kernel: &str, programs: &[Judged]) -> String {
    let mut rows = vec![{
        let mut heading = vec!["program".to_owned(), "size".to_owned()];
        heading.extend(
            MEASURES
                .iter()
                .flat_map(|name| [(*name).to_owned(), "of".to_owned()]),
        );
        heading
    }];
    for judged in programs {
        let mut row = vec![judged.program.clone()];
        if let Some(figures) = &judged.figures {
            row.push(grouped(figures.size));
            for (measured, allowed) in figures.against {
                row.push(grouped(measured));
                row.push(allowed.map_or_else(|| "-".to_owned(), grouped));
            }
        }
        row.resize(rows[0].len(), "-".to_owned());
        rows.push(row);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let verdicts = programs
        .iter()
        .map(|judged| match judged.faults.as_slice() {
            [] => "ok".to_owned(),
            faults => format!("FAILED: {}", faults.join("; ")),
        });
    let verdicts = std::iter::once(String::new()).chain(verdicts);
    let mut text = format!("  Linux {kernel}\n");
    for (row, verdict) in rows.iter().zip(verdicts) {
        let (name, width) = (&row[0], widths[0]);
        let mut line = format!("  {name:<width$}");
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            // Writing to a string does not fail.
            let _ = write!(line, "  {cell:>width$}");
        }
        text.push_str(format!("{line}  {verdict}").trim_end());
        text.push('\n');
    }
    text
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::verify::judge::{Figures, Judged};

    #[test]
    fn columns_line_up_and_faults_end_the_line() {
        let programs = [
            Judged {
                program: "a".to_owned(),
                figures: Some(Figures {
                    size: 1_477,
                    against: [(20_239, Some(40_000)), (664, Some(600)), (256, None)],
                }),
                faults: vec!["states 664 over 600".to_owned()],
                log: Vec::new(),
            },
            Judged {
                program: "long".to_owned(),
                figures: None,
                faults: Vec::new(),
                log: Vec::new(),
            },
        ];
        let expected = "  \
  Linux 6.1.0
  program   size  walked      of  states   of  stack  of
  a        1,477  20,239  40,000     664  600    256   -  FAILED: states 664 over 600
  long         -       -       -       -    -      -   -  ok
";
        assert_eq!(render("6.1.0", &programs), expected);
    }
}
