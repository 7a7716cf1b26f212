// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask build`: the agent with its kernel programs inside.

use std::path::PathBuf;

use anyhow::Result;

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
