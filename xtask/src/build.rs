// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask build`: the agent with its kernel programs inside.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    setup::{self, Scope},
    task::{self, say},
};

/// `cargo xtask build`.
#[derive(clap::Args)]
#[command(after_help = "\
Without an option the lab profile is built: release code that links fast, as
the demo and the tests run it.

Examples:
  cargo xtask build
  cargo xtask build --release
  cargo xtask build --userspace   needs no BPF toolchain")]
pub struct Options {
    /// Build for production
    #[arg(long)]
    release: bool,
    /// Leave the kernel programs out
    #[arg(long)]
    userspace: bool,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<()> {
    let Options { release, userspace } = options;
    let profile = if *release { "release" } else { "lab" };
    let program = build(profile, !userspace)?;
    say(&format!("built {}", program.display()));
    Ok(())
}

/// Builds the agent as the lab runs it; its path.
pub fn for_lab(ebpf: bool) -> Result<PathBuf> {
    build("lab", ebpf)
}

/// Builds the agent as it ships; its path.
pub fn for_release() -> Result<PathBuf> {
    build("release", true)
}

fn build(profile: &str, ebpf: bool) -> Result<PathBuf> {
    let mut command = task::cargo();
    command.args(["build", "--package", "gateway-user", "--profile", profile]);
    if ebpf {
        setup::ensure(Scope::Build)?;
    } else {
        command.arg("--no-default-features");
    }
    say(&format!(
        "building the agent (profile {profile}{})",
        if ebpf {
            ""
        } else {
            ", without kernel programs"
        }
    ));
    task::run(&mut command, "fix what the compiler says above")?;
    Ok(task::target_dir().join(profile).join("sluice"))
}

/// Builds a program of the tests package that the benchmark runs; its path. It
/// is an `[[example]]`: cargo builds `[[bench]]` and `[[test]]` targets so that
/// panics unwind, which would compile all that the agent is made of once more.
///
/// # Errors
///
/// When it does not compile, or cargo names no program.
pub fn example(name: &str, profile: &str) -> Result<PathBuf> {
    setup::ensure(Scope::Build)?;
    say(&format!("building {name} (profile {profile})"));
    let mut command = task::cargo();
    command
        .args(["build", "--package", "gateway-tests", "--example", name])
        .args(["--profile", profile]);
    executable(command, name)
}

/// Builds a test target of the tests package, and does not run it; its path.
///
/// # Errors
///
/// As [`example`].
pub fn test_program(name: &str) -> Result<PathBuf> {
    setup::ensure(Scope::Build)?;
    say(&format!("building the tests {name}"));
    let mut command = task::cargo();
    command.args([
        "test",
        "--no-run",
        "--package",
        "gateway-tests",
        "--test",
        name,
    ]);
    executable(command, name)
}

/// Runs a build of one target; the program that came of it.
fn executable(mut command: Command, name: &str) -> Result<PathBuf> {
    command
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("start cargo")?;
    if !output.status.success() {
        bail!("cargo could not build {name}: fix what the compiler says above");
    }
    // Its name has a hash in it, which only cargo knows.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built {name} but named no program"))
}
