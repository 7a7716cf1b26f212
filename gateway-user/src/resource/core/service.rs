// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Service v1.

use serde::Deserialize;

use crate::resource::{Opaque, meta::NumberOrName};

/// `spec` of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Service {
    /// Ports.
    pub ports: Vec<Port>,
    /// ClusterIP when absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The name an ExternalName service stands for.
    pub external_name: Option<String>,
    /// Pods; used by Kubernetes to make EndpointSlices.
    pub selector: Option<Opaque>,
    /// Address.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<Opaque>,
    /// Addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Opaque>,
    /// Addresses.
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Opaque>,
    /// Address.
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<Opaque>,
    /// Known, not used.
    pub allocate_load_balancer_node_ports: Option<Opaque>,
    /// Known, not used.
    pub external_traffic_policy: Option<Opaque>,
    /// Known, not used.
    pub health_check_node_port: Option<Opaque>,
    /// Known, not used.
    pub internal_traffic_policy: Option<Opaque>,
    /// Known, not used.
    pub ip_families: Option<Opaque>,
    /// Known, not used.
    pub ip_family_policy: Option<Opaque>,
    /// Known, not used.
    pub load_balancer_class: Option<Opaque>,
    /// Networks that may connect; all when empty.
    pub load_balancer_source_ranges: Vec<String>,
    /// Shown in the EndpointSlices as ready endpoints.
    pub publish_not_ready_addresses: Option<Opaque>,
    /// Known, not used.
    pub session_affinity: Option<Opaque>,
    /// Known, not used.
    pub session_affinity_config: Option<Opaque>,
    /// Known, not used.
    pub traffic_distribution: Option<Opaque>,
}

/// Port of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// Name; needed when there are several.
    pub name: Option<String>,
    /// Number.
    pub port: Option<u32>,
    /// TCP when absent.
    pub protocol: Option<String>,
    /// Port of the endpoints; EndpointSlices carry the resolved one.
    pub target_port: Option<NumberOrName>,
    /// Known, not used.
    pub app_protocol: Option<Opaque>,
    /// Known, not used.
    pub node_port: Option<Opaque>,
}
