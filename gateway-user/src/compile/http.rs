// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Virtual hosts into a table by host.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{self, ClusterId, HostPattern, HttpAction},
    snapshot::{Cluster, HttpTable, VirtualHost},
};

/// Indexes virtual hosts. The model keeps hosts unique; should one come twice,
/// the first stays.
pub(super) fn table(
    hosts: &[model::VirtualHost],
    clusters: &BTreeMap<ClusterId, Arc<Cluster>>,
) -> HttpTable {
    let mut table = HttpTable::default();
    for host in hosts {
        for rule in &host.rules {
            if let HttpAction::Route { destinations, .. } = &rule.action {
                for destination in destinations {
                    let id = &destination.cluster;
                    if !table.clusters.contains_key(id) {
                        table
                            .clusters
                            .insert(id.clone(), super::cluster(clusters, id));
                    }
                }
            }
        }
        let compiled = Arc::new(VirtualHost {
            host: host.host.to_string(),
            rules: host.rules.iter().cloned().map(Arc::new).collect(),
            https_redirect: host.https_redirect,
        });
        match &host.host {
            HostPattern::Exact(name) => {
                table.exact.entry(name.clone()).or_insert(compiled);
            }
            HostPattern::Suffix(suffix) => {
                table.suffixes.entry(suffix.clone()).or_insert(compiled);
            }
            HostPattern::Any => {
                table.any.get_or_insert(compiled);
            }
        }
    }
    table
}
