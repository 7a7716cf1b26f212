// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask verify`: every kernel program into this and an older kernel, and
//! what that cost their verifiers against what is recorded.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use gateway_tests::skip;

use crate::{build, setup::kernel, task::say};

mod guest;
mod judge;
mod table;

use judge::Judged;

/// `cargo xtask verify`.
#[derive(clap::Args)]
#[command(after_help = "\
Loads every program of the object, attaching none. The columns are instructions
of the program, instructions the verifier walked, states it remembered at once
and bytes of stack, each with its budget; tests/harness/budget.rs records those.
On another kernel than the running one, a selection of the tests runs as well,
with the agent.

`running` needs root. A version, such as 6.1, is the newest cloud kernel of it
that apt offers (Debian 12 has 6.1); it is unpacked into the target directory
and started in qemu without hardware support, which needs no root. What cannot
be had is SKIPPED; with CI=true that is a failure.

The exit status is 1 when a program does not load (the end of the verifier's log
is shown), needs more than its budget or has none, or a test fails.

Examples:
  cargo xtask verify
  cargo xtask verify running          the quick half
  cargo xtask verify 6.1 --load-only  no tests: half a minute
  cargo xtask verify 6.12             Debian 12 with backports")]
pub struct Options {
    /// The kernels: `running`, or a version
    #[arg(value_name = "KERNEL", default_values = [RUNNING, kernel::OLDEST], value_parser = parse)]
    kernels: Vec<String>,
    /// Run no tests on kernels other than the running one
    #[arg(long)]
    load_only: bool,
}

/// The kernel of this machine.
const RUNNING: &str = "running";

fn parse(text: &str) -> Result<String, String> {
    let is_version = text.split('.').count() == 2
        && text
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    if text == RUNNING || is_version {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "neither {RUNNING} nor a version such as {}",
            kernel::OLDEST
        ))
    }
}

/// Runs the task.
pub fn run(options: &Options) -> Result<()> {
    let Options { kernels, load_only } = options;
    let loader = build::example("verify", "dev")?;
    let mut faults = Vec::new();
    for kernel in kernels {
        let found = if kernel == RUNNING {
            running(&loader)
        } else {
            other(kernel, &loader, *load_only)
        };
        faults.extend(found.with_context(|| format!("kernel {kernel}"))?);
    }
    if !faults.is_empty() {
        bail!(
            "not as recorded: {}: the reasons are above",
            faults.join(", ")
        );
    }
    Ok(())
}

/// What failed on the running kernel.
fn running(loader: &Path) -> Result<Vec<String>> {
    if !skip::is_root() {
        return skipped("the running kernel", "loading kernel programs needs root");
    }
    let output = Command::new(loader)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start the programs' loader")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let programs = judge::judge(text.lines())?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("read the kernel's release")?;
    let release = release.trim();
    table::print(&format!("{release} (running)"), &programs);
    Ok(failed(release, &programs))
}

/// What failed on another kernel.
fn other(version: &str, loader: &Path, only_load: bool) -> Result<Vec<String>> {
    if let Err(error) = guest::prepare(version) {
        return skipped(&format!("Linux {version}"), &format!("{error:#}"));
    }
    let guest::Outcome {
        kernel,
        programs,
        passed,
        faults,
        took,
    } = guest::run(version, loader, only_load)?;
    table::print(&kernel, &programs);
    let tests = if only_load {
        String::new()
    } else {
        format!("{passed} tests passed, ")
    };
    println!("  {tests}{:.0} s in the machine", took.as_secs_f64());
    let mut all = failed(&kernel, &programs);
    all.extend(
        faults
            .into_iter()
            .map(|fault| format!("{fault} on {kernel}")),
    );
    Ok(all)
}

fn failed(kernel: &str, programs: &[Judged]) -> Vec<String> {
    programs
        .iter()
        .filter(|judged| !judged.faults.is_empty())
        .map(|judged| format!("{} on {kernel}", judged.program))
        .collect()
}

fn skipped(what: &str, why: &str) -> Result<Vec<String>> {
    if skip::in_ci() {
        bail!("SKIPPED in CI: {why}");
    }
    say(&format!("{what}: SKIPPED: {why}"));
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn kernels_are_running_or_a_version() {
        assert!(parse("running").is_ok());
        assert!(parse("6.1").is_ok());
        for bad in ["6", "6.1.2", "6.", "six.one", "../6.1", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
