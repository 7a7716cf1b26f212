// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DestinationRule: subsets of a service and how its endpoints are used.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::resource::{Opaque, istio::virtual_service::PortSelector};

/// `spec` of a DestinationRule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DestinationRule {
    /// The service; may be a wildcard.
    pub host: Option<String>,
    /// For the whole service.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts.
    pub subsets: Vec<Subset>,
    /// Namespaces that see it.
    pub export_to: Vec<String>,
    /// Workloads it is for.
    pub workload_selector: Option<Opaque>,
}

/// A named part of a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    /// Name.
    pub name: Option<String>,
    /// Endpoints that have all of them.
    pub labels: BTreeMap<String, String>,
    /// Overrides, block by block.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// How endpoints are used.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// Choice of the endpoint.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits and timeouts.
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection.
    pub outlier_detection: Option<Opaque>,
    /// TLS to the endpoint.
    pub tls: Option<ClientTls>,
    /// Replace everything above for a port.
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// CONNECT tunnels.
    pub tunnel: Option<Opaque>,
    /// PROXY header to the endpoint.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Limit of retries.
    pub retry_budget: Option<Opaque>,
}

/// The header in front of a connection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyProtocol {
    /// V1 when absent.
    pub version: Option<String>,
}

/// For one port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortTrafficPolicy {
    /// The port.
    pub port: Option<PortSelector>,
    /// Choice of the endpoint.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits and timeouts.
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection.
    pub outlier_detection: Option<Opaque>,
    /// TLS to the endpoint.
    pub tls: Option<ClientTls>,
}

/// LoadBalancerSettings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// LEAST_REQUEST and others.
    pub simple: Option<String>,
    /// By a key.
    pub consistent_hash: Option<ConsistentHash>,
    /// By locality.
    pub locality_lb_setting: Option<Opaque>,
    /// By zone.
    pub zone_aware_lb_setting: Option<Opaque>,
    /// Slow start.
    pub warmup: Option<Opaque>,
    /// Slow start, older.
    pub warmup_duration_secs: Option<Opaque>,
}

/// ConsistentHashLB.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsistentHash {
    /// By a header.
    pub http_header_name: Option<Opaque>,
    /// By a cookie.
    pub http_cookie: Option<Opaque>,
    /// By the client's address.
    pub use_source_ip: Option<bool>,
    /// By a query parameter.
    pub http_query_parameter_name: Option<Opaque>,
    /// Algorithm.
    pub ring_hash: Option<Opaque>,
    /// Algorithm.
    pub maglev: Option<Opaque>,
    /// Algorithm, older.
    pub minimum_ring_size: Option<Opaque>,
}

/// ConnectionPoolSettings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionPool {
    /// Connections.
    pub tcp: Option<TcpSettings>,
    /// Requests.
    pub http: Option<Opaque>,
}

/// TCPSettings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpSettings {
    /// Limit.
    pub max_connections: Option<Opaque>,
    /// Limit of one attempt.
    pub connect_timeout: Option<String>,
    /// Keepalive.
    pub tcp_keepalive: Option<Opaque>,
    /// Limit of life.
    pub max_connection_duration: Option<Opaque>,
    /// Limit of silence.
    pub idle_timeout: Option<String>,
}

/// ClientTLSSettings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTls {
    /// DISABLE when absent.
    pub mode: Option<String>,
    /// Path.
    pub client_certificate: Option<Opaque>,
    /// Path.
    pub private_key: Option<Opaque>,
    /// Path.
    pub ca_certificates: Option<Opaque>,
    /// Path.
    pub ca_crl: Option<Opaque>,
    /// Secret.
    pub credential_name: Option<Opaque>,
    /// Names of the server.
    pub subject_alt_names: Option<Opaque>,
    /// Name sent.
    pub sni: Option<Opaque>,
    /// Accept any certificate.
    pub insecure_skip_verify: Option<Opaque>,
}
