// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent's own settings: `config/gateway.yaml`. Every key is optional; a
//! key this version does not know is an error with its line.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};

use crate::{
    conn::limits::ConnectionLimits,
    datapath::{AttachMode, DatapathConfig},
    http::HttpLimits,
    model::ForwardingMode,
};

mod client_address;
mod handoff;
mod health;
mod protection;
#[cfg(test)]
mod tests;

pub use client_address::ClientAddressSettings;
pub use handoff::{HandoffMode, HandoffSettings};
pub use health::{DefaultProbe, HealthSettings};
pub use protection::ProtectionSettings;

/// Settings as written, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bootstrap {
    /// What Gateway selectors match.
    pub labels: BTreeMap<String, String>,
    /// Namespace of the agent: where Secrets are looked up. Default: that of
    /// each Gateway.
    pub namespace: Option<String>,
    /// Interfaces that clients arrive on; globs. Default: those with a default
    /// route.
    pub wire_interfaces: Vec<String>,
    /// Interfaces that local backends hang on; globs, followed as they appear.
    pub pod_interfaces: Vec<String>,
    /// Addresses claimed as local. Default: none, and listeners without `bind`
    /// answer on every address of the node.
    pub vips: Vec<IpAddr>,
    /// Other nodes have the same VIPs: connections that came by them so far are
    /// taken over, where the mode of a service allows it.
    pub shared_vips: bool,
    /// How programs are attached.
    pub attach: AttachMode,
    /// How forwarded packets are rewritten unless a service says otherwise.
    pub forwarding: ForwardingMode,
    /// Where configuration comes from; `--config` adds to it.
    pub sources: Vec<SourceSettings>,
    /// Address of the admin endpoints.
    pub admin: SocketAddr,
    /// Directory for pinned programs and maps, on a bpf filesystem.
    pub bpffs: PathBuf,
    /// Worker threads; 0 takes one per available core.
    pub workers: usize,
    /// Source ports for SNAT; keep it outside `net.ipv4.ip_local_port_range`.
    #[serde(deserialize_with = "port_range")]
    pub snat_ports: RangeInclusive<u16>,
    /// Whether passthrough connections are handed to the kernel.
    pub handoff: HandoffSettings,
    /// Connections that have their client's address.
    pub client_address: ClientAddressSettings,
    /// Write one record per connection and request to the log.
    pub access_log: bool,
    /// Sizes.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Probes of endpoints.
    pub health: HealthSettings,
    /// Limits of new flows.
    pub protection: ProtectionSettings,
}

/// One source of configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    /// A file or a directory.
    pub file: PathBuf,
}

/// Sizes of tables and buffers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections in the agent at once, over all listeners.
    pub max_connections: usize,
    /// Bytes of a ClientHello, at most 65,536.
    pub max_client_hello: usize,
    /// Bytes of a request head.
    pub max_request_head: usize,
    /// Headers of a request.
    pub max_request_headers: usize,
    /// Flows the kernel tracks at once; memory is taken at the first start.
    pub max_flows: u32,
    /// Forwarded (address, port) pairs.
    pub max_services: u32,
    /// Backends of all services together.
    pub max_backends: u32,
    /// Prefixes in the source lists of all services together; equal lists count
    /// once.
    pub max_source_prefixes: u32,
    /// Chunks of 16 ring slots for all services together; 64 hold the ring of
    /// up to 10 endpoints.
    pub max_ring_chunks: u32,
}

/// Deadlines; `5s`, `250ms`, `1h`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For the whole ClientHello.
    #[serde(with = "humantime_serde")]
    pub client_hello: Duration,
    /// For the TLS handshake after it.
    #[serde(with = "humantime_serde")]
    pub tls_handshake: Duration,
    /// For a complete request head.
    #[serde(with = "humantime_serde")]
    pub request_head: Duration,
    /// Between requests of a kept connection.
    #[serde(with = "humantime_serde")]
    pub http_idle: Duration,
    /// For open connections to end after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Forwarded connections without a packet, unless their service sets a
    /// time: 2h4m or more (RFC 5382).
    #[serde(with = "humantime_serde")]
    pub tcp_flow: Duration,
    /// Forwarded UDP sessions without a packet, unless their service sets a
    /// time; with the default, 2 minutes while nothing was answered (RFC 4787).
    #[serde(with = "humantime_serde")]
    pub udp_flow: Duration,
    /// Between two questions to an endpoint that was removed and has forwarded
    /// connections: they are reset when it leaves three without an answer.
    #[serde(with = "humantime_serde")]
    pub removed_endpoint: Duration,
}

/// Why the bootstrap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Not readable.
    #[error(
        "{path}: cannot be read (name an existing file with --bootstrap, or leave it out for the defaults)"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what is expected; the position is in the message.
    #[error("{path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_yaml::Error,
    },
    /// A value out of range.
    #[error("{path}: {key}: {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
}

impl Default for Bootstrap {
    fn default() -> Self {
        let datapath = DatapathConfig::default();
        Self {
            labels: BTreeMap::from([("istio".into(), "ingressgateway".into())]),
            namespace: None,
            wire_interfaces: Vec::new(),
            pod_interfaces: datapath.pod_interfaces,
            vips: Vec::new(),
            shared_vips: false,
            attach: AttachMode::Auto,
            forwarding: ForwardingMode::Auto,
            sources: Vec::new(),
            admin: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15_000),
            bpffs: datapath.bpffs,
            workers: 0,
            snat_ports: datapath.snat_ports,
            handoff: HandoffSettings::default(),
            client_address: ClientAddressSettings::default(),
            access_log: true,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            health: HealthSettings::default(),
            protection: ProtectionSettings::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let datapath = DatapathConfig::default();
        let connections = ConnectionLimits::default();
        let http = HttpLimits::default();
        Self {
            max_connections: connections.max_connections,
            max_client_hello: connections.hello_max,
            max_request_head: http.max_head,
            max_request_headers: http.max_headers,
            max_flows: datapath.max_flows,
            max_services: datapath.max_services,
            max_backends: datapath.max_backends,
            max_source_prefixes: datapath.max_sources,
            max_ring_chunks: datapath.max_ring_chunks,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let connections = ConnectionLimits::default();
        let http = HttpLimits::default();
        let datapath = DatapathConfig::default();
        Self {
            client_hello: connections.hello_timeout,
            tls_handshake: connections.handshake_timeout,
            request_head: http.head_timeout,
            http_idle: http.idle_timeout,
            drain: Duration::from_secs(30),
            tcp_flow: datapath.tcp_idle,
            udp_flow: datapath.udp_idle,
            removed_endpoint: datapath.removed_endpoint,
        }
    }
}

impl Bootstrap {
    /// Reads a bootstrap file.
    ///
    /// # Errors
    /// When it cannot be read, has an unknown key, or a value out of range.
    pub fn read(path: &Path) -> Result<Self, BootstrapError> {
        let text = std::fs::read_to_string(path).map_err(|source| BootstrapError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses the text of a bootstrap file; `path` is for messages.
    ///
    /// # Errors
    /// When it has an unknown key or a value out of range.
    pub fn parse(text: &str, path: &Path) -> Result<Self, BootstrapError> {
        let parsed: Option<Self> =
            serde_yaml::from_str(text).map_err(|source| BootstrapError::Parse {
                path: path.to_owned(),
                source,
            })?;
        let bootstrap = parsed.unwrap_or_default();
        let problem = |key, problem| BootstrapError::Value {
            path: path.to_owned(),
            key,
            problem,
        };
        let Limits {
            max_client_hello,
            max_request_head,
            max_flows,
            max_connections,
            ..
        } = bootstrap.limits;
        if !(512..=65_536).contains(&max_client_hello) {
            return Err(problem(
                "limits.max_client_hello",
                "must be 512 to 65536 bytes",
            ));
        }
        if !(1_024..=1_048_576).contains(&max_request_head) {
            return Err(problem(
                "limits.max_request_head",
                "must be 1024 to 1048576 bytes",
            ));
        }
        if !(16..=4_194_304).contains(&max_flows) {
            return Err(problem("limits.max_flows", "must be 16 to 4194304"));
        }
        if !(64..=16_777_216).contains(&bootstrap.limits.max_ring_chunks) {
            return Err(problem("limits.max_ring_chunks", "must be 64 to 16777216"));
        }
        if !(1..=16_777_216).contains(&bootstrap.limits.max_source_prefixes) {
            return Err(problem(
                "limits.max_source_prefixes",
                "must be 1 to 16777216",
            ));
        }
        if max_connections == 0 {
            return Err(problem("limits.max_connections", "must be at least 1"));
        }
        if bootstrap
            .vips
            .iter()
            .any(|vip| vip.is_unspecified() || vip.is_multicast())
        {
            return Err(problem("vips", "must be unicast addresses"));
        }
        if bootstrap.workers > 256 {
            return Err(problem(
                "workers",
                "must be at most 256; 0 takes one per core",
            ));
        }
        let Timeouts {
            tcp_flow,
            udp_flow,
            removed_endpoint,
            ..
        } = bootstrap.timeouts;
        let flow_times = Duration::from_secs(1)..=Duration::from_hours(24 * 365);
        if !flow_times.contains(&tcp_flow) {
            return Err(problem("timeouts.tcp_flow", "must be 1s to 365d"));
        }
        if !flow_times.contains(&udp_flow) {
            return Err(problem("timeouts.udp_flow", "must be 1s to 365d"));
        }
        let questions = Duration::from_millis(500)..=Duration::from_hours(1);
        if !questions.contains(&removed_endpoint) {
            return Err(problem("timeouts.removed_endpoint", "must be 500ms to 1h"));
        }
        if let Some((key, text)) = bootstrap.handoff.problem(&bootstrap.snat_ports) {
            return Err(problem(key, text));
        }
        if let Some((key, text)) = bootstrap.client_address.problem() {
            return Err(problem(key, text));
        }
        if let Some((key, text)) = bootstrap.protection.problem() {
            return Err(problem(key, text));
        }
        if let Some((key, text)) = bootstrap.health.problem() {
            return Err(problem(key, text));
        }
        Ok(bootstrap)
    }

    /// Settings of the kernel data plane.
    pub fn datapath(&self) -> DatapathConfig {
        DatapathConfig {
            bpffs: self.bpffs.clone(),
            wire_interfaces: self.wire_interfaces.clone(),
            pod_interfaces: self.pod_interfaces.clone(),
            vips: self.vips.clone(),
            shared_vips: self.shared_vips,
            attach: self.attach,
            forwarding: self.forwarding,
            snat_ports: self.snat_ports.clone(),
            handoff_ports: self.handoff.ports.clone(),
            handoff_keepalive: self.handoff.keepalive,
            client_mark: self.client_address.mark,
            client_table: self.client_address.table,
            max_flows: self.limits.max_flows,
            max_services: self.limits.max_services,
            max_backends: self.limits.max_backends,
            max_sources: self.limits.max_source_prefixes,
            protection: self.protection.datapath(),
            max_ring_chunks: self.limits.max_ring_chunks,
            tcp_idle: self.timeouts.tcp_flow,
            udp_idle: self.timeouts.udp_flow,
            removed_endpoint: self.timeouts.removed_endpoint,
            ..DatapathConfig::default()
        }
    }

    /// Limits of connections.
    pub fn connections(&self) -> ConnectionLimits {
        ConnectionLimits {
            hello_timeout: self.timeouts.client_hello,
            hello_max: self.limits.max_client_hello,
            handshake_timeout: self.timeouts.tls_handshake,
            max_connections: self.limits.max_connections,
        }
    }

    /// Limits of HTTP.
    pub fn http(&self) -> HttpLimits {
        HttpLimits {
            head_timeout: self.timeouts.request_head,
            idle_timeout: self.timeouts.http_idle,
            max_head: self.limits.max_request_head,
            max_headers: self.limits.max_request_headers,
            ..HttpLimits::default()
        }
    }
}

/// `61000-65535`.
fn port_range<'de, D: Deserializer<'de>>(input: D) -> Result<RangeInclusive<u16>, D::Error> {
    let text = String::deserialize(input)?;
    let (low, high) = text.split_once('-').unwrap_or((&text, &text));
    let port = |text: &str| {
        text.trim()
            .parse::<u16>()
            .ok()
            .filter(|port| *port >= 1_024)
    };
    match (port(low), port(high)) {
        (Some(low), Some(high)) if low <= high => Ok(low..=high),
        _ => Err(de::Error::custom(
            "expected a port range of 1024 to 65535, such as 61000-65535",
        )),
    }
}
