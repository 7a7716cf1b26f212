// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run leaves behind: a table on the terminal, `bench.json`, a chart a
//! scenario, and a Markdown report.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::sample::Run;

mod chart;
mod json;
mod machine;
mod markdown;
mod rows;
#[cfg(test)]
pub mod sketch;
mod summary;
mod table;

pub use machine::machine;
pub use rows::number;

/// Prints the table and writes all files of a run into `output`.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write(run: &Run, output: &Path) -> Result<()> {
    fs::create_dir_all(output).with_context(|| format!("create {}", output.display()))?;
    print!("{}", table::render(run));
    let file = |name: &str, text: &str| {
        let path = output.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    // First what the others could be made from again.
    file("bench.json", &json::render(run)?)?;
    for chart in chart::all(run) {
        file(&chart.file(), &chart.render()?)?;
    }
    file("report.md", &markdown::render(run))
}
