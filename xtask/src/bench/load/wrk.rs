// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP/1.1 requests by wrk, over kept connections or each over a new one, in
//! the clear or over TLS.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Target;
use crate::{
    bench::{
        sample::{Sample, Unit},
        scenario::ROUTES,
    },
    task,
};

/// What wrk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    path: &'static str,
    /// Size of the body when bytes are what counts.
    bulk: bool,
    connections: u32,
    /// One request a connection.
    new_each: bool,
    /// All routes in turn instead of `path`.
    routes: bool,
}

impl Requests {
    /// 1 kB over 64 kept connections.
    pub const KEPT: Self = Self {
        path: "/",
        bulk: false,
        connections: 64,
        new_each: false,
        routes: false,
    };
    /// 1 kB, each over a new connection, 64 at once.
    pub const NEW: Self = Self {
        new_each: true,
        ..Self::KEPT
    };
    /// 1 MiB over 16 kept connections; the figure is bytes.
    pub const MEBIBYTE: Self = Self {
        path: "/1m",
        bulk: true,
        connections: 16,
        ..Self::KEPT
    };
    /// 100 kB over 64 kept connections.
    pub const HUNDRED_KB: Self = Self {
        path: "/100k",
        ..Self::KEPT
    };
    /// 1 kB over 64 kept connections, the routes in turn.
    pub const ROUTES: Self = Self {
        routes: true,
        ..Self::KEPT
    };

    /// What its rate counts.
    pub fn unit(self) -> Unit {
        if self.bulk {
            Unit::BitsPerSecond
        } else if self.new_each {
            Unit::ConnectionsPerSecond
        } else {
            Unit::RequestsPerSecond
        }
    }
}

/// Runs wrk for `window`; the caller fills in the CPU time.
///
/// # Errors
///
/// When wrk fails or no request is answered.
pub fn measure(target: &Target<'_>, window: Duration, requests: Requests) -> Result<Sample> {
    let output = command(target, window, requests)?
        .output()
        .context("start wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("wrk: {}: {}", output.status, stderr.trim());
    }
    parse(&text, requests)
}

/// The same load for a moment: wrk knows no time below a second, so it is ended.
///
/// # Errors
///
/// When wrk cannot start.
pub fn warm_up(target: &Target<'_>, moment: Duration, requests: Requests) -> Result<()> {
    let mut child = command(target, Duration::from_secs(10), requests)?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start wrk")?;
    thread::sleep(moment);
    // Failing means that it has ended already, which measuring will tell.
    let _ = child.kill();
    child.wait().context("wait for wrk")?;
    Ok(())
}

fn command(target: &Target<'_>, window: Duration, requests: Requests) -> Result<Command> {
    let Requests {
        path,
        connections,
        new_each,
        routes,
        ..
    } = requests;
    let script = task::root().join("config/bench/wrk.lua");
    let mut command = target.command("wrk")?;
    command
        .args(["--threads", "1"])
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", window.as_secs().max(1))])
        .args(["--timeout", "2s"])
        .arg("--script")
        .arg(script);
    if new_each {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(target.url(path));
    if routes {
        command.args(["--", &ROUTES.to_string()]);
    }
    Ok(command)
}

/// The last line of the output, which config/bench/wrk.lua prints.
fn parse(text: &str, requests: Requests) -> Result<Sample> {
    let line = text
        .lines()
        .rev()
        .find(|line| line.starts_with('{'))
        .context("wrk printed no summary")?;
    let summary: Value = serde_json::from_str(line).context("the summary of wrk is no JSON")?;
    let number = |key: &str| {
        summary[key]
            .as_f64()
            .with_context(|| format!("the summary of wrk has no {key}"))
    };
    let errors = summary["errors"].as_u64().unwrap_or_default();
    let (done, seconds) = (number("requests")?, number("microseconds")? / 1e6);
    if done < 1.0 {
        bail!("wrk got no answer, and {errors} errors");
    }
    let (work, rate) = if requests.bulk {
        let bytes = number("bytes")?;
        (bytes, 8.0 * bytes / seconds)
    } else {
        (done, done / seconds)
    };
    Ok(Sample {
        rate,
        work,
        cpu_seconds: 0.0,
        errors,
        latency: None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Requests, parse};

    const TEXT: &str = "Running 1s test\n  1000 requests in 2.00s\n\
        {\"requests\": 1000, \"bytes\": 5000000, \"microseconds\": 2000000, \"errors\": 3}\n";

    #[test]
    fn requests_and_bytes_are_counted() {
        let sample = parse(TEXT, Requests::KEPT).unwrap();
        assert_eq!(
            (sample.rate, sample.work, sample.errors),
            (500.0, 1000.0, 3)
        );
        let sample = parse(TEXT, Requests::MEBIBYTE).unwrap();
        assert_eq!((sample.rate, sample.work), (20e6, 5e6));
    }

    #[test]
    fn no_answer_is_an_error() {
        let text = TEXT.replace("\"requests\": 1000", "\"requests\": 0");
        assert!(parse(&text, Requests::KEPT).is_err());
        assert!(parse("unable to connect", Requests::KEPT).is_err());
    }
}
