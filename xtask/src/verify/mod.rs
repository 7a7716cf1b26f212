// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask verify`: every kernel program into a kernel, and what that cost
//! its verifier against what is recorded.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use gateway_tests::skip;

use crate::{build, task::say};

mod judge;
mod table;

/// `cargo xtask verify`.
#[derive(clap::Args)]
#[command(after_help = "\
Loads every program of the object into the running kernel, which needs root, and
attaches none. The columns are instructions of the program, instructions the
verifier walked, states it remembered at once and bytes of stack, each with its
budget; tests/harness/budget.rs records those. The exit status is 1 when a
program does not load (the end of the verifier's log is shown), needs more than
its budget, or has none.

Examples:
  cargo xtask verify")]
pub struct Options {}

/// Runs the task.
pub fn run(options: &Options) -> Result<()> {
    let Options {} = options;
    let loader = build::example("verify", "dev")?;
    if !skip::is_root() {
        if skip::in_ci() {
            bail!("SKIPPED in CI: loading kernel programs needs root");
        }
        say("running kernel: SKIPPED: loading kernel programs needs root");
        return Ok(());
    }
    let output = Command::new(loader)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start the programs' loader")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let programs = judge::judge(text.lines()).context("on the running kernel")?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("read the kernel's release")?;
    table::print(&format!("{} (running)", release.trim()), &programs);
    let failed: Vec<&str> = programs
        .iter()
        .filter(|judged| !judged.faults.is_empty())
        .map(|judged| judged.program.as_str())
        .collect();
    if !failed.is_empty() {
        bail!(
            "not as recorded: {}: the reasons are above",
            failed.join(", ")
        );
    }
    Ok(())
}
