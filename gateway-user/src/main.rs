// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `sluice`: parse the command line, hand over, turn the outcome into an exit
//! status.

use std::process::ExitCode;

use clap::Parser;
use gateway_user::{
    app,
    cli::{Cli, Command},
};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(options) => app::run::run(&options),
        Command::Check(options) => app::offline::check(&options),
        Command::Explain(options) => app::offline::explain(&options),
        Command::Status(options) => app::remote::status(&options),
        Command::Flows(options) => app::remote::flows(&options),
        Command::Trace(options) => app::trace::trace(&options),
        Command::Detach(options) => app::remote::detach(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}
