// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `sluice trace`: from the kernel's tables; a running agent adds what only it
//! knows.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::CommandFactory;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    app::{pipeline, remote},
    bootstrap::Bootstrap,
    cli,
    datapath::{
        self, DatapathError, Destination, TraceQuery, Watcher,
        report::{DecisionReport, WatchFilter},
    },
    status::{self, matching::AddressMatch},
};

/// How often a watch prints what has come.
const PRINT_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is kept going: well within what the kernel side allows.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// `sluice trace`: exit status 0 when the packet would be delivered, 1 when not.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn trace(options: &cli::Trace) -> anyhow::Result<ExitCode> {
    let bootstrap = pipeline::bootstrap(options.bootstrap.as_deref())?;
    if options.watch {
        return watch(options, &bootstrap);
    }
    let query = TraceQuery {
        from: endpoint("--from", options.from),
        to: Destination::new(endpoint("--to", options.to), options.proto.into()),
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

/// One endpoint, or the end with exit status 2.
fn endpoint(option: &str, wanted: Option<AddressMatch>) -> std::net::SocketAddr {
    wanted
        .and_then(|wanted| wanted.endpoint())
        .unwrap_or_else(|| {
            let text =
                format!("{option} takes ADDR:PORT (a prefix or a port alone only with --watch)");
            let error = clap::error::ErrorKind::ValueValidation;
            cli::Cli::command().error(error, text).exit()
        })
}

/// `sluice trace --watch`: until interrupted, or until as many lines are printed
/// as asked for.
fn watch(options: &cli::Trace, bootstrap: &Bootstrap) -> anyhow::Result<ExitCode> {
    let filter = WatchFilter {
        from: options.from.map(Into::into).unwrap_or_default(),
        to: options.to.map(Into::into).unwrap_or_default(),
        drops_only: options.drops_only,
        known_flows: options.all,
        per_second: options.rate,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut watcher = Watcher::start(&bootstrap.datapath(), &filter)?;
        let mut print = interval(PRINT_INTERVAL);
        let mut refresh = interval(REFRESH_INTERVAL);
        print.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut printer = Printer::new(options);
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            let goes_on = tokio::select! {
                _ = &mut interrupted => Ok(false),
                _ = refresh.tick() => watcher.refresh().map(|()| true),
                _ = print.tick() => printer.print(&mut watcher),
            };
            if !goes_on? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    })
}

/// Writes decisions to standard output.
struct Printer {
    output: cli::Output,
    /// Lines left to print; none is no limit.
    left: Option<u64>,
    left_out: u64,
}

impl Printer {
    fn new(options: &cli::Trace) -> Self {
        Self {
            output: options.output,
            left: (options.limit > 0).then_some(options.limit),
            left_out: 0,
        }
    }

    /// Prints what has come; false when nobody wants more.
    fn print(&mut self, watcher: &mut Watcher) -> Result<bool, DatapathError> {
        let decisions = watcher.decisions();
        let left_out = watcher.left_out()?;
        if left_out > self.left_out {
            eprintln!(
                "sluice: {} packets left out: more than --rate allows",
                left_out - self.left_out
            );
            self.left_out = left_out;
        }
        // An error here is a reader that has gone away.
        Ok(self.write(&decisions).unwrap_or(false))
    }

    fn write(&mut self, decisions: &[DecisionReport]) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        for decision in decisions {
            match self.output {
                cli::Output::Text => writeln!(out, "{}", status::trace::line(decision))?,
                cli::Output::Json => {
                    serde_json::to_writer(&mut out, decision)?;
                    writeln!(out)?;
                }
            }
            if let Some(left) = &mut self.left {
                *left -= 1;
                if *left == 0 {
                    return out.flush().map(|()| false);
                }
            }
        }
        out.flush().map(|()| true)
    }
}
