// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask lint`: formatting, and clippy over both feature sets.

use anyhow::Result;

use crate::{
    setup::{self, Scope},
    task::{self, say},
};

/// Runs the task.
pub fn run() -> Result<()> {
    setup::ensure(Scope::Build)?;
    say("cargo fmt --check");
    task::run(
        task::cargo().args(["fmt", "--all", "--check"]),
        "run `cargo fmt --all`",
    )?;
    for arguments in CLIPPY {
        say(&format!("cargo clippy {}", arguments.join(" ")));
        task::run(
            task::cargo().arg("clippy").args(*arguments).args([
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]),
            "fix what clippy says above",
        )?;
    }
    say("lint: clean");
    Ok(())
}

/// The kernel programs are linted when the build script compiles them.
const CLIPPY: &[&[&str]] = &[
    &["--workspace", "--exclude", "gateway-ebpf"],
    &["--package", "gateway-user", "--no-default-features"],
];
