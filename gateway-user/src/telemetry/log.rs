// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Set-up of the log.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Starts the log on standard error: level info, changed by `SLUICE_LOG` in the
/// syntax of tracing's `EnvFilter` (`debug`, `gateway_user::conn=trace`).
/// `access_log` turns the records of connections and requests on.
pub fn start(format: LogFormat, access_log: bool) {
    let mut filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("SLUICE_LOG")
        .from_env_lossy();
    if !access_log && let Ok(directive) = "access=off".parse() {
        filter = filter.add_directive(directive);
    }
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    // A second start (tests in one process) keeps the first log.
    let _ = tracing_subscriber::registry()
        .with(layer)
        .with(filter)
        .try_init();
}
