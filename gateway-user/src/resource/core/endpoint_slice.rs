// SPDX-License-Identifier: Apache-2.0 OR MIT
//! EndpointSlice, discovery.k8s.io/v1.

use serde::Deserialize;

use crate::resource::Opaque;

/// An EndpointSlice; it has no `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Known by now.
    pub api_version: Option<Opaque>,
    /// Known by now.
    pub kind: Option<Opaque>,
    /// Read before the rest.
    pub metadata: Option<Opaque>,
    /// IPv4, IPv6 or FQDN.
    pub address_type: Option<String>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Ports, the same for every endpoint.
    pub ports: Vec<Port>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Addresses of the same endpoint.
    pub addresses: Vec<String>,
    /// State.
    pub conditions: Conditions,
    /// Known, not used.
    pub hostname: Option<Opaque>,
    /// Known, not used.
    pub target_ref: Option<Opaque>,
    /// Known, not used.
    pub deprecated_topology: Option<Opaque>,
    /// Known, not used.
    pub node_name: Option<Opaque>,
    /// Known, not used.
    pub zone: Option<Opaque>,
    /// Known, not used.
    pub hints: Option<Opaque>,
}

/// State of an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Conditions {
    /// Absent means true.
    pub ready: Option<bool>,
    /// Absent means the same as ready.
    pub serving: Option<bool>,
    /// Absent means false.
    pub terminating: Option<bool>,
}

/// A port of every endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// The Service port's name; absent and empty are the same.
    pub name: Option<String>,
    /// Number.
    pub port: Option<u32>,
    /// TCP when absent.
    pub protocol: Option<String>,
    /// Known, not used.
    pub app_protocol: Option<Opaque>,
}
