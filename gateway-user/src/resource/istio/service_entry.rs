// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ServiceEntry: a service that Kubernetes does not know.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::resource::{Opaque, istio::WorkloadEntry};

/// `spec` of a ServiceEntry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntry {
    /// Names.
    pub hosts: Vec<String>,
    /// Virtual addresses.
    pub addresses: Option<Opaque>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// MESH_EXTERNAL or MESH_INTERNAL.
    pub location: Option<String>,
    /// NONE when absent.
    pub resolution: Option<String>,
    /// Endpoints.
    pub endpoints: Vec<WorkloadEntry>,
    /// Or the WorkloadEntries with these labels.
    pub workload_selector: Option<WorkloadSelector>,
    /// Namespaces that see it.
    pub export_to: Vec<String>,
    /// Names of the server certificate.
    pub subject_alt_names: Option<Opaque>,
}

/// Port of a ServiceEntry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// Number.
    pub number: Option<u32>,
    /// Protocol.
    pub protocol: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Port of the endpoints.
    pub target_port: Option<u32>,
}

/// Labels of WorkloadEntries in the same namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// All of them.
    pub labels: BTreeMap<String, String>,
}
