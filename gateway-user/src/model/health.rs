// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Health: how endpoints are probed, and when probes are not believed.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use crate::model::ProxyProtocol;

/// How the endpoints of a cluster are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// How each of them is probed.
    pub probe: Arc<Probe>,
    /// With less than this share of the endpoints up, in percent, all of them
    /// are used: then the probe is more likely to be wrong than so many
    /// endpoints (Envoy's panic threshold). 0 never does.
    pub panic_percent: u8,
}

/// How one endpoint is probed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probe {
    /// What is asked.
    pub protocol: ProbeProtocol,
    /// Port that is asked, host order; that of the endpoint when absent.
    pub port: Option<u16>,
    /// The header that it begins with.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Within what time an endpoint that refuses is noticed.
    pub interval: Duration,
    /// Limit of one probe, at most the interval.
    pub timeout: Duration,
    /// Failures in a row that take an endpoint down, at least 1.
    pub unhealthy_threshold: u32,
    /// Successes in a row that bring it back, at least 1.
    pub healthy_threshold: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeProtocol {
    /// Whether a connection is accepted.
    Tcp,
    /// Whether GET is answered with a wanted status.
    Http(HttpProbe),
    /// Whether a TLS handshake completes, whatever the certificate.
    Tls {
        /// Server name sent; none when empty.
        server_name: String,
    },
    /// Whether CONNECT is answered by CONNACK.
    Mqtt,
    /// Whether ApiVersions is answered.
    Kafka,
}

/// A probe by HTTP/1.1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpProbe {
    /// Path with query, begins with a slash.
    pub path: String,
    /// Value of `Host`.
    pub host: String,
    /// First status that passes.
    pub status_from: u16,
    /// Last status that passes.
    pub status_to: u16,
}

/// An address and how it is probed. Clusters that agree on both share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeTarget {
    /// Where probes go.
    pub address: SocketAddr,
    /// How.
    pub probe: Arc<Probe>,
}

/// Settings for clusters that say nothing themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthDefaults {
    /// Whether endpoints that nobody vouches for are probed by TCP.
    pub probe_tcp: bool,
    /// See [`Probe::interval`].
    pub interval: Duration,
    /// See [`Probe::timeout`].
    pub timeout: Duration,
    /// See [`Probe::unhealthy_threshold`].
    pub unhealthy_threshold: u32,
    /// See [`Probe::healthy_threshold`].
    pub healthy_threshold: u32,
    /// See [`Health::panic_percent`].
    pub panic_percent: u8,
}

/// What an interval may be: shorter ones load the endpoint, not the answer.
pub const INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
/// What a timeout may be.
pub const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
/// What a threshold may be.
pub const THRESHOLDS: RangeInclusive<u32> = 1..=100;
/// What a panic share may be.
pub const PERCENTS: RangeInclusive<u8> = 0..=100;

impl Default for HealthDefaults {
    fn default() -> Self {
        Self {
            probe_tcp: false,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 2,
            healthy_threshold: 2,
            panic_percent: 25,
        }
    }
}

impl Health {
    /// Whether `up` of `all` endpoints are so few that all of them are used.
    pub fn panics(&self, up: usize, all: usize) -> bool {
        up * 100 < usize::from(self.panic_percent) * all
    }
}

impl ProbeProtocol {
    /// The word used in annotations, output and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Tls { .. } => "tls",
            Self::Mqtt => "mqtt",
            Self::Kafka => "kafka",
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            port,
            proxy_protocol,
            interval,
            timeout,
            unhealthy_threshold,
            healthy_threshold,
        } = self;
        f.write_str(protocol.as_str())?;
        match protocol {
            ProbeProtocol::Http(http) => write!(
                f,
                " {} of {} for {}-{}",
                http.path, http.host, http.status_from, http.status_to
            )?,
            ProbeProtocol::Tls { server_name } if !server_name.is_empty() => {
                write!(f, " {server_name}")?;
            }
            _ => {}
        }
        if let Some(port) = port {
            write!(f, " port {port}")?;
        }
        if let Some(version) = proxy_protocol {
            write!(f, " with a PROXY header {version}")?;
        }
        write!(
            f,
            " every {interval:?}, timeout {timeout:?}, down after {unhealthy_threshold}, up after {healthy_threshold}"
        )
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            probe,
            panic_percent,
        } = self;
        write!(f, "{probe}, panic below {panic_percent} %")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Health, HealthDefaults, Probe, ProbeProtocol};

    #[test]
    fn all_are_used_only_below_the_panic_share() {
        let defaults = HealthDefaults::default();
        let health = |panic_percent| Health {
            probe: Arc::new(Probe {
                protocol: ProbeProtocol::Tcp,
                port: None,
                proxy_protocol: None,
                interval: defaults.interval,
                timeout: defaults.timeout,
                unhealthy_threshold: 1,
                healthy_threshold: 1,
            }),
            panic_percent,
        };
        for (percent, up, all, panics) in [
            (25, 1, 4, false),
            (25, 1, 5, true),
            (25, 0, 1, true),
            (50, 1, 2, false),
            (50, 1, 3, true),
            (100, 2, 3, true),
            (100, 3, 3, false),
            (0, 0, 3, false),
            (25, 0, 0, false),
        ] {
            assert_eq!(
                health(percent).panics(up, all),
                panics,
                "{percent} {up}/{all}"
            );
        }
    }
}
