// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Set-up, build, demo, benchmark, tests and repository rules.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod demo;
mod lint;
mod setup;
mod task;
mod test;
mod tidy;
mod verify;

/// Sluice's tasks.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building, tests and the demo need
    Setup(setup::Options),
    /// Build the agent with its kernel programs
    Build(build::Options),
    /// Run the tests: unit, golden, bpf, netns, bench
    Test(test::Options),
    /// Check formatting and lints
    Lint,
    /// Check the rules of this repository
    Tidy,
    /// Load every kernel program, and hold its cost against the budget
    Verify(verify::Options),
    /// Show the whole path with real brokers and clients
    Demo(demo::Options),
    /// Measure Sluice side by side with its peers
    Bench(bench::Options),
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask setup             say what is missing, then install it
  cargo xtask build --release   target/release/sluice
  cargo xtask test unit golden  what runs without root
  cargo xtask verify            do the kernel programs load, at what cost
  cargo xtask demo --keep       leave the lab up to look around
  cargo xtask bench --only l4   the scenarios whose names begin so";

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Setup(options) => setup::run(&options),
        Task::Build(options) => build::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Lint => lint::run(),
        Task::Tidy => tidy::run(),
        Task::Verify(options) => verify::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
