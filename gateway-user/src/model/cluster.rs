// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clusters: named sets of upstream endpoints.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use crate::model::{FlowLimits, Health, ProxyProtocol, SourceAddress, Sources};

/// Names a cluster: host, port and subset of a destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(Arc<str>);

impl ClusterId {
    /// `host:port` or `host:port/subset`.
    pub fn new(host: &str, port: u16, subset: Option<&str>) -> Self {
        Self(match subset {
            Some(subset) => format!("{host}:{port}/{subset}").into(),
            None => format!("{host}:{port}").into(),
        })
    }

    /// The name as shown in output and metrics.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of endpoints that can stand for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub id: ClusterId,
    /// May be empty: requests are then answered 503, connections closed.
    pub endpoints: Vec<Endpoint>,
    /// Those that are there but not ready, or about to end. They take no new
    /// connection and keep those they have.
    pub leaving: Vec<Endpoint>,
    /// How one is chosen.
    pub load_balancing: LoadBalancing,
    /// Limit of one connection attempt.
    pub connect_timeout: Duration,
    /// The header that a connection to it begins with.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How its endpoints are probed; they are not when absent.
    pub health: Option<Health>,
    /// Clients for whom it is; connections and requests of others are refused.
    pub sources: Sources,
    /// Limits of the new flows of forwarded listeners that lead to it.
    pub limits: FlowLimits,
    /// Whose address relayed connections to it come from.
    pub source_address: SourceAddress,
}

/// One address of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Where.
    pub address: EndpointAddress,
    /// Port, host order, not 0.
    pub port: u16,
    /// Share, at least 1.
    pub weight: u32,
    /// Whether it is probed; otherwise it counts as up.
    pub probed: bool,
}

/// An endpoint's address as configured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    /// Known.
    Ip(IpAddr),
    /// To be resolved; every A and AAAA record is an endpoint.
    Dns(String),
}

/// How the agent chooses an endpoint (the kernel always uses the Maglev ring).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancing {
    /// Fewer active requests of two random endpoints.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
}

/// Default limit of a connection attempt (Istio's meshConfig.connectTimeout).
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
