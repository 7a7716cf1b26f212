// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `sluice trace`: from the kernel's tables; a running agent adds what only it
//! knows.

use std::process::ExitCode;

use crate::{
    app::{pipeline, remote},
    cli,
    datapath::{self, Destination, TraceQuery},
    status,
};

/// `sluice trace`: exit status 0 when the packet would be delivered, 1 when not.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn trace(options: &cli::Trace) -> anyhow::Result<ExitCode> {
    let bootstrap = pipeline::bootstrap(options.bootstrap.as_deref())?;
    let query = TraceQuery {
        from: options.from,
        to: Destination::new(options.to, options.proto.into()),
        interface: options.interface.clone(),
    };
    let mut report = datapath::trace(&bootstrap.datapath(), &query)?;
    // The tables say what happens, the agent where that was configured.
    if let Ok(body) = remote::ask(bootstrap.admin, "/status")
        && let Ok(status) = serde_json::from_slice(&body)
    {
        status::trace::add_agent(&mut report, &status);
    }
    match options.output {
        cli::Output::Text => print!("{}", status::trace::text(&report)),
        cli::Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(if report.delivered {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
