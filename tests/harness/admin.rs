// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent's admin endpoints, through a tiny HTTP client in its namespace.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::netns::Netns;

/// An answer: status and body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// Asks for `path` over one connection.
///
/// # Errors
///
/// When nothing listens, or the answer is not HTTP.
pub fn fetch(netns: &Netns, address: SocketAddr, path: &str) -> Result<Answer> {
    let raw = netns.run(|| -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw)?;
        Ok(raw)
    })?;
    parse(&String::from_utf8_lossy(&raw)).with_context(|| format!("http://{address}{path}"))
}

fn parse(raw: &str) -> Result<Answer> {
    let (head, body) = raw.split_once("\r\n\r\n").context("no end of head")?;
    let status = head
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status code")?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        unchunk(body)?
    } else {
        body.to_owned()
    };
    Ok(Answer { status, body })
}

/// RFC 9112 section 7.1, without trailers.
fn unchunk(mut body: &str) -> Result<String> {
    let mut text = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("no chunk size")?;
        let size = usize::from_str_radix(size.trim(), 16).context("bad chunk size")?;
        if size == 0 {
            return Ok(text);
        }
        let Some(chunk) = rest.get(..size) else {
            bail!("short chunk");
        };
        text.push_str(chunk);
        body = rest.get(size + 2..).context("no end of chunk")?;
    }
}

/// One reading of `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<(String, f64)>,
}

impl Metrics {
    /// Reads the Prometheus text format.
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                Some((series.to_owned(), value.parse().ok()?))
            })
            .collect();
        Self { samples }
    }

    /// The sum of all series of `name` that carry every label of `labels`
    /// (`("reason", "no_sni")`); 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|(series, _)| {
                let (found, tail) = series.split_once('{').unwrap_or((series, ""));
                found == name
                    && labels
                        .iter()
                        .all(|(key, value)| tail.contains(&format!("{key}=\"{value}\"")))
            })
            .map(|(_, value)| value)
            .sum()
    }
}

/// What `/status` says about one forwarded service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    /// Flows created.
    pub flows: u64,
    /// Flows refused.
    pub refused: u64,
    /// Packets towards backends.
    pub packets_in: u64,
    /// Packets towards clients.
    pub packets_out: u64,
}

/// Reads the counters of the forwarded listener `address:port` out of
/// `/status`; zero when the agent does not report it.
pub fn service_counters(status: &Value, listener: &str) -> ServiceCounters {
    let services = status.pointer("/datapath/report/services");
    let found = services
        .and_then(Value::as_array)
        .and_then(|all| all.iter().find(|one| one["destination"] == listener));
    let read = |key: &str| {
        found
            .and_then(|service| service["traffic"][key].as_u64())
            .unwrap_or_default()
    };
    ServiceCounters {
        flows: read("flows"),
        refused: read("refused"),
        packets_in: read("packets_in"),
        packets_out: read("packets_out"),
    }
}

const TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunked_answers_are_joined() {
        let answer = parse(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "abcde"));
    }

    #[test]
    fn metrics_sum_over_matching_labels() {
        let metrics = Metrics::parse(
            "# TYPE a counter\na_total{mode=\"x\",reason=\"p\"} 2\na_total{mode=\"y\",reason=\"p\"} 3\nb 1.5\n",
        );
        assert_eq!(metrics.sum("a_total", &[("reason", "p")]), 5.0);
        assert_eq!(metrics.sum("a_total", &[("mode", "x")]), 2.0);
        assert_eq!(metrics.sum("b", &[]), 1.5);
        assert_eq!(metrics.sum("c", &[]), 0.0);
    }
}
