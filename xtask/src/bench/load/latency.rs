// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests at a fixed rate: how long each takes from when it was due. The
//! client is this repository's own (`tests/latency`), because the packaged ones
//! count from when a request was sent and so leave out the wait that a stall of
//! the gateway causes.

use std::{path::Path, sync::OnceLock, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Target;
use crate::{
    bench::{
        sample::{Latency, Sample},
        stage::HOST,
    },
    build,
};

/// Sends `rate` requests a second for `window`; the caller fills in the CPU
/// time.
///
/// # Errors
///
/// When the tool fails or reports no figure.
pub fn measure(target: &Target<'_>, window: Duration, rate: f64) -> Result<Sample> {
    let stage = target.stage;
    let client = client(&stage.settings.profile)?;
    let mut command = target.command(&client.to_string_lossy())?;
    command
        .args(["--address", &target.address.to_string()])
        .args(["--host", HOST])
        .args(["--rate", &rate.to_string()])
        .args(["--seconds", &window.as_secs_f64().to_string()])
        .args(["--connections", CONNECTIONS]);
    if target.service.is_tls() {
        command
            .arg("--authority")
            .arg(stage.authority.certificate());
    }
    let output = command.output().context("start the latency client")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, stderr.trim());
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// The client's program, built when first asked for, which is for a warm-up.
fn client(profile: &str) -> Result<&'static Path> {
    static CLIENT: OnceLock<std::path::PathBuf> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    let built = build::example("latency", profile)?;
    Ok(CLIENT.get_or_init(|| built))
}

fn parse(text: &str) -> Result<Sample> {
    let summary: Value =
        serde_json::from_str(text.trim()).context("the latency client printed no JSON")?;
    let number = |key: &str| {
        summary[key]
            .as_f64()
            .with_context(|| format!("the latency client tells no {key}"))
    };
    let (answered, errors) = (number("answered")?, number("errors")?);
    if answered < 1.0 {
        bail!("no request was answered, and there were {errors} errors");
    }
    Ok(Sample {
        rate: answered / number("seconds")?,
        work: answered,
        cpu_seconds: 0.0,
        errors: errors as u64,
        latency: Some(Latency {
            p50: number("p50")?,
            p99: number("p99")?,
            p999: number("p999")?,
        }),
    })
}

/// As many as the scenarios have whose rate is halved.
const CONNECTIONS: &str = "64";

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_summary_is_read() {
        let text = "{\"answered\": 300, \"errors\": 2, \"seconds\": 3.0, \"p50\": 0.001, \
            \"p99\": 0.002, \"p999\": 0.003, \"max\": 0.004}\n";
        let sample = parse(text).unwrap();
        assert_eq!((sample.rate, sample.work, sample.errors), (100.0, 300.0, 2));
        assert_eq!(sample.latency.unwrap().p999, 0.003);
        assert!(parse(&text.replace("300", "0")).is_err());
        assert!(parse("usage").is_err());
    }
}
