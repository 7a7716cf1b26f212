// SPDX-License-Identifier: Apache-2.0 OR MIT
//! WorkloadEntry: one endpoint, alone or within a ServiceEntry.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::resource::Opaque;

/// `spec` of a WorkloadEntry, and an item of `endpoints` of a ServiceEntry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadEntry {
    /// Address or name.
    pub address: Option<String>,
    /// Ports by name.
    pub ports: BTreeMap<String, u32>,
    /// Labels, for subsets and selectors.
    pub labels: BTreeMap<String, String>,
    /// Network.
    pub network: Option<Opaque>,
    /// `region/zone/subzone`.
    pub locality: Option<Opaque>,
    /// Share; 0 and absent mean 1.
    pub weight: Option<u32>,
    /// Identity.
    pub service_account: Option<Opaque>,
}
