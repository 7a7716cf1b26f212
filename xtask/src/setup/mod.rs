// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask setup`: finds what is there, says what is missing and how it
//! will be installed, installs it. A second run finds everything and does
//! nothing.

use anyhow::{Result, bail};

use crate::task::say;

mod debian;
pub mod kernel;
mod python;
pub mod toolchain;

pub use python::{envoy, packages_dir};

/// `cargo xtask setup`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask setup --check   only say what is missing
  cargo xtask setup build     only what `cargo build` needs")]
pub struct Options {
    /// What to prepare for
    #[arg(value_enum, default_value_t = Scope::All)]
    scope: Scope,
    /// Change nothing; exit status 1 when something is missing
    #[arg(long)]
    check: bool,
}

/// What is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scope {
    /// Building the agent with its kernel programs
    Build,
    /// Brokers and clients of the tests and the demo
    Lab,
    /// The lab, and servers that tests alone use
    Tests,
    /// What the benchmark needs besides the lab: load tools and peers
    Bench,
    /// A virtual machine with an older kernel, for verify
    Kernels,
    /// Building, the lab, and the lint tools
    All,
}

/// Something that is missing.
pub struct Missing {
    /// What.
    pub what: String,
    /// How it gets here.
    pub plan: String,
    /// Does it.
    pub install: Box<dyn FnOnce() -> Result<()>>,
}

/// Runs the task.
pub fn run(options: &Options) -> Result<()> {
    let Options { scope, check } = options;
    if *check {
        let missing = find(*scope)?;
        for Missing { what, plan, .. } in &missing {
            println!("missing: {what} (setup would: {plan})");
        }
        if !missing.is_empty() {
            bail!(
                "{} things are missing: run `cargo xtask setup`",
                missing.len()
            );
        }
    } else {
        ensure(*scope)?;
    }
    if let Some(toolchain) = toolchain::find() {
        say(&format!("BPF toolchain: {toolchain}"));
    }
    say("everything is in place");
    Ok(())
}

/// Installs what is missing; silent when nothing is.
pub fn ensure(scope: Scope) -> Result<()> {
    install(|| find(scope))
}

/// Installs what a virtual machine with this kernel lacks.
///
/// # Errors
///
/// When it cannot be had here.
pub fn ensure_kernel(version: &str) -> Result<()> {
    install(|| Ok(kernel::missing(version)))
}

fn install(find: impl Fn() -> Result<Vec<Missing>>) -> Result<()> {
    let missing = find()?;
    for Missing { what, plan, .. } in &missing {
        say(&format!("missing: {what}; will {plan}"));
    }
    for Missing { what, install, .. } in missing {
        say(&format!("installing {what}"));
        install()?;
    }
    // Installing one thing can show that another is needed (pip).
    for Missing { what, install, .. } in find()? {
        say(&format!("installing {what}"));
        install()?;
    }
    if let Some(Missing { what, plan, .. }) = find()?.into_iter().next() {
        bail!(
            "{what} is still missing after the attempt to {plan}: do that by hand and look at what it prints"
        );
    }
    Ok(())
}

fn find(scope: Scope) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    if matches!(scope, Scope::Build | Scope::All) {
        missing.extend(toolchain::missing()?);
    }
    if scope == Scope::Kernels {
        missing.extend(kernel::missing(kernel::OLDEST));
        return Ok(missing);
    }
    if scope != Scope::Build {
        missing.extend(debian::missing());
        missing.extend(python::missing());
    }
    if matches!(scope, Scope::Tests | Scope::All) {
        missing.extend(debian::missing_for_tests());
    }
    if scope == Scope::Bench {
        missing.extend(debian::missing_for_bench());
        missing.extend(python::missing_for_bench());
    }
    if scope == Scope::All {
        missing.extend(toolchain::missing_components());
    }
    Ok(missing)
}
