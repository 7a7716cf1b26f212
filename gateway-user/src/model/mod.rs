// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the gateway serves, after validation: listeners, routes, clusters and
//! certificates. No word of Istio or the Gateway API below this line.
//!
//! Invariants: at most one [`Listener`] per (address, port) and transport, and
//! ranges of ports of one address and transport are disjoint; every
//! [`ClusterId`] named by a route has an entry in [`Model::clusters`] (empty
//! when its endpoints are unknown); rules stand in the order in which they are
//! tried; hosts of a listener's chains are disjoint.

use std::collections::BTreeMap;

pub mod certificate;
pub mod cluster;
pub mod flow_limits;
pub mod handoff;
pub mod health;
pub mod hostname;
pub mod http_route;
pub mod listener;
pub mod proxy_protocol;
pub mod source_address;
pub mod sources;
pub mod tcp_route;

pub use certificate::{Certificate, CertificateId};
pub use cluster::{Cluster, ClusterId, Endpoint, EndpointAddress, LoadBalancing};
pub use flow_limits::{FlowLimits, SynCookies};
pub use handoff::HandoffPolicy;
pub use health::{Health, HealthDefaults, HttpProbe, Probe, ProbeProtocol, ProbeTarget};
pub use hostname::HostPattern;
pub use http_route::{
    DirectResponse, HeaderEdits, HeaderMatch, HttpAction, HttpDestination, HttpMatch, HttpRule,
    PathRewrite, Redirect, StringMatch, VirtualHost,
};
pub use listener::{
    ListenAddress, Listener, ListenerKind, TlsAction, TlsChain, TlsSettings, Transport,
};
pub use proxy_protocol::ProxyProtocol;
pub use source_address::SourceAddress;
pub use sources::{SourcePrefix, Sources};
pub use tcp_route::{ForwardingMode, HashPolicy, TcpDestination, TcpRoute};

/// Everything the gateway serves.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// One entry per (address, port).
    pub listeners: Vec<Listener>,
    /// Every cluster a route names.
    pub clusters: BTreeMap<ClusterId, Cluster>,
    /// Every certificate a listener names.
    pub certificates: BTreeMap<CertificateId, Certificate>,
}
