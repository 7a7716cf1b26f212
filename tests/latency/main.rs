// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client that sends each request when it is due, whatever has become of the
//! ones before it, and counts latency from then. `cargo xtask bench` runs it in
//! the client namespace and reads the one line of JSON it prints.
//!
//! h2load and wrk count from when a request was sent: while a gateway stalls,
//! they send nothing, and a stall of a second shows as one slow request a
//! connection, however many were due in it (coordinated omission).

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;

mod connection;
mod load;

use load::{Load, Outcome};

/// Sends HTTP/1.1 requests at a fixed rate.
#[derive(Parser)]
struct Options {
    /// Where the connections go
    #[arg(long)]
    address: SocketAddr,
    /// Host header, and server name with TLS
    #[arg(long)]
    host: String,
    /// Path of every request
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests a second, of all connections together
    #[arg(long)]
    rate: f64,
    /// How long requests are sent
    #[arg(long)]
    seconds: f64,
    /// Kept connections, which take turns
    #[arg(long)]
    connections: usize,
    /// Speak TLS and trust this authority (PEM)
    #[arg(long)]
    authority: Option<PathBuf>,
}

fn main() -> ExitCode {
    // `cargo bench` runs every benchmark with this and nothing else.
    if std::env::args().skip(1).eq(["--bench"]) {
        println!("latency: needs a server: cargo xtask bench --only latency");
        return ExitCode::SUCCESS;
    }
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latency: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let load = Load {
        address: options.address,
        host: options.host.clone(),
        path: options.path.clone(),
        rate: options.rate,
        length: Duration::try_from_secs_f64(options.seconds).context("--seconds")?,
        connections: options.connections,
        authority: options.authority.clone(),
    };
    let outcome = load.run()?;
    let summary = json!({
        "answered": outcome.answered,
        "errors": outcome.errors,
        "seconds": outcome.took.as_secs_f64(),
        "p50": seconds(&outcome, 0.5),
        "p99": seconds(&outcome, 0.99),
        "p999": seconds(&outcome, 0.999),
        "max": seconds(&outcome, 1.0),
    });
    writeln!(std::io::stdout(), "{summary}").context("print the summary")
}

fn seconds(outcome: &Outcome, share: f64) -> f64 {
    outcome.percentile(share).as_secs_f64()
}
