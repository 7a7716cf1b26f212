// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP/2 requests over TLS by h2load.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Target;
use crate::bench::sample::Sample;

/// Runs h2load for `window`; the caller fills in the CPU time.
///
/// # Errors
///
/// When h2load fails or no request is answered.
pub fn measure(target: &Target<'_>, window: Duration) -> Result<Sample> {
    let output = target
        .command("h2load")?
        .args(["--threads", "1"])
        .args(["--clients", "16"])
        .args(["--max-concurrent-streams", "32"])
        .args(["--duration", &format!("{}ms", window.as_millis())])
        // h2load has no time limit for one request; this ends a dead connection.
        .args(["--connection-inactivity-timeout", "5s"])
        .arg(target.url("/"))
        .output()
        .context("start h2load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("h2load: {}: {}", output.status, stderr.trim());
    }
    parse(&text)
}

/// Out of h2load's report. Answers with a status of 400 or more and requests
/// that a closed connection took along are errors, not work.
fn parse(text: &str) -> Result<Sample> {
    let protocol = after(text, "Application protocol: ").unwrap_or("unknown");
    let finished = after(text, "finished in ").context("h2load printed no summary")?;
    let all_rate = finished
        .split(", ")
        .find_map(|part| part.strip_suffix(" req/s")?.parse::<f64>().ok())
        .context("h2load printed no rate")?;
    let requests = after(text, "requests: ").context("h2load counted no requests")?;
    let count = |what: &str| {
        requests
            .split(", ")
            .find_map(|part| part.strip_suffix(what)?.trim_end().parse::<u64>().ok())
            .with_context(|| format!("h2load counted no requests {what}"))
    };
    let (done, succeeded, failed) = (count("done")?, count("succeeded")?, count("failed")?);
    if succeeded == 0 {
        bail!("h2load got no answer, and {failed} errors");
    }
    if protocol != "h2" {
        bail!("h2load was to speak h2 and spoke {protocol}");
    }
    // Exact: a round has far fewer requests than 2^53.
    let (done, work) = (done as f64, succeeded as f64);
    Ok(Sample {
        rate: all_rate * work / done,
        work,
        cpu_seconds: 0.0,
        errors: failed,
        latency: None,
    })
}

/// The rest of the line that begins with `label`.
fn after<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(label))
}

#[cfg(test)]
mod tests {
    use super::parse;

    /// As h2load 1.52 prints it.
    const TEXT: &str = "\
starting benchmark...
spawning thread #0: 16 total client(s). Timing-based test with 0s of warm-up time and 0.5s of main duration for measurements.
Main benchmark duration is started for thread #0.
TLS Protocol: TLSv1.3
Cipher: TLS_AES_256_GCM_SHA384
Server Temp Key: X25519 253 bits
Application protocol: h2
Main benchmark duration is over for thread #0. Stopping all clients.
Stopped all clients for thread #0

finished in 504.29ms, 51294.00 req/s, 52.93MB/s
requests: 25647 total, 26159 started, 25647 done, 25647 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 25647 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 26.46MB (27750534) total, 1.57MB (1641408) headers (space savings 36.63%), 24.46MB (25647000) data
                     min         max         mean         sd        +/- sd
time for request:      696us     54.09ms      9.29ms      7.01ms    92.33%
time for connect:     4.41ms     17.80ms     11.26ms      4.62ms    56.25%
time to 1st byte:    62.48ms     71.94ms     69.66ms      2.87ms    87.50%
req/s           :    2372.21     4543.20     3197.82      981.46    62.50%
";

    #[test]
    fn the_report_is_read() {
        let sample = parse(TEXT).unwrap();
        assert_eq!(
            (sample.rate, sample.work, sample.errors),
            (51294.0, 25647.0, 0)
        );
    }

    #[test]
    fn failed_requests_are_errors_and_no_work() {
        let line = "requests: 400 total, 400 started, 400 done, 100 succeeded, 300 failed, 0 errored, 0 timeout";
        let mut text = TEXT.replace("51294.00 req/s", "800.00 req/s");
        let from = text.find("requests: ").unwrap();
        let to = from + text[from..].find('\n').unwrap();
        text.replace_range(from..to, line);
        let sample = parse(&text).unwrap();
        assert_eq!(
            (sample.rate, sample.work, sample.errors),
            (200.0, 100.0, 300)
        );
    }

    #[test]
    fn no_answer_and_another_protocol_are_errors() {
        let none = TEXT.replace("25647 succeeded, 0 failed", "0 succeeded, 25647 failed");
        assert_eq!(
            parse(&none).unwrap_err().to_string(),
            "h2load got no answer, and 25647 errors"
        );
        let old = TEXT.replace("protocol: h2", "protocol: http/1.1");
        assert!(parse(&old).is_err());
        assert!(parse("").is_err());
    }
}
