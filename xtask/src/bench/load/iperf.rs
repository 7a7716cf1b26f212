// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bulk data by iperf3. Cubic gives steadier figures on veth than BBR, and the
//! lab's namespaces use it for everybody (see `stage`).

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Target;
use crate::bench::sample::Sample;

/// Runs `streams` streams for `window`; the caller fills in the CPU time.
///
/// # Errors
///
/// When iperf3 fails or reports no figure.
pub fn measure(
    target: &Target<'_>,
    window: Duration,
    streams: u32,
    reverse: bool,
) -> Result<Sample> {
    // iperf3 takes whole seconds.
    let seconds = window.as_secs().max(1).to_string();
    let mut command = client(target, streams, reverse);
    command.args(["--time", &seconds]);
    run(&mut command)
}

/// Opens the path and fills caches: bytes instead of time, because iperf3 knows
/// no time below a second.
///
/// # Errors
///
/// When iperf3 fails.
pub fn warm_up(target: &Target<'_>, streams: u32, reverse: bool) -> Result<()> {
    let mut command = client(target, streams, reverse);
    command.args(["--bytes", WARM_UP_BYTES]);
    run(&mut command).map(drop)
}

fn client(target: &Target<'_>, streams: u32, reverse: bool) -> Command {
    let Target { stage, address, .. } = target;
    let mut command = stage.lab.client.command("iperf3");
    command
        .args(["--client", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .args(["--parallel", &streams.to_string()])
        .args(["--connect-timeout", "5000", "--json"]);
    if reverse {
        command.arg("--reverse");
    }
    command
}

fn run(command: &mut Command) -> Result<Sample> {
    let output = command.output().context("start iperf3")?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// What the receiver got, out of iperf3's JSON.
fn parse(text: &str) -> Result<Sample> {
    let report: Value = serde_json::from_str(text).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let received = |key: &str| {
        report
            .pointer(&format!("/end/sum_received/{key}"))
            .and_then(Value::as_f64)
            .with_context(|| format!("iperf3 reported no {key}"))
    };
    Ok(Sample {
        rate: received("bits_per_second")?,
        work: received("bytes")?,
        cpu_seconds: 0.0,
        errors: 0,
        latency: None,
    })
}

const WARM_UP_BYTES: &str = "256M";

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_receiver_counts() {
        let text = r#"{"end": {"sum_sent": {"bytes": 9, "bits_per_second": 90.0},
            "sum_received": {"bytes": 8, "bits_per_second": 80.0}}}"#;
        let sample = parse(text).unwrap();
        assert_eq!((sample.rate, sample.work), (80.0, 8.0));
    }

    #[test]
    fn errors_are_told() {
        let error = parse(r#"{"error": "unable to connect"}"#).unwrap_err();
        assert_eq!(error.to_string(), "iperf3: unable to connect");
        assert!(parse("").is_err());
    }
}
