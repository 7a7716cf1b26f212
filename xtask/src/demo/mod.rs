// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask demo`.

use anyhow::{Result, bail};

/// `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Options {
    /// Leave the lab up and say how to look around
    #[arg(long)]
    keep: bool,
    /// Run on loopback in userspace mode, as without root
    #[arg(long)]
    userspace: bool,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<()> {
    let Options { keep, userspace } = options;
    bail!("the demo is not here yet (keep {keep}, userspace {userspace})")
}
