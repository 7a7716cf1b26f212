// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clusters with what is known of their endpoints: addresses of names, and
//! which of them probes hold down.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    model::{self, ClusterId, EndpointAddress, Health, Model, ProbeTarget},
    snapshot::{Cluster, Endpoint, Snapshot},
};

/// Addresses of the names that endpoints are resolved from.
pub type DnsAnswers = BTreeMap<String, Vec<IpAddr>>;

/// What was observed of the world, beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Of the names that [`dns_names`] asks for.
    pub dns: DnsAnswers,
    /// Those of the targets that [`probe_targets`] asks for that are down.
    pub down: BTreeSet<ProbeTarget>,
}

/// Names of all endpoints that have to be resolved.
pub fn dns_names(model: &Model) -> BTreeSet<String> {
    let endpoints = model
        .clusters
        .values()
        .flat_map(|cluster| cluster.endpoints.iter().chain(&cluster.leaving));
    endpoints
        .filter_map(|endpoint| match &endpoint.address {
            EndpointAddress::Dns(name) => Some(name.clone()),
            EndpointAddress::Ip(_) => None,
        })
        .collect()
}

/// Everything that has to be probed.
pub fn probe_targets(model: &Model, dns: &DnsAnswers) -> BTreeSet<ProbeTarget> {
    let mut targets = BTreeSet::new();
    for cluster in model.clusters.values() {
        let Some(health) = &cluster.health else {
            continue;
        };
        for endpoint in cluster.endpoints.iter().filter(|one| one.probed) {
            targets.extend(addresses(endpoint, dns).map(|address| target(health, address)));
        }
    }
    targets
}

/// The clusters of `model`; those that did not change are those of `previous`.
pub(super) fn clusters(
    model: &Model,
    observed: &Observed,
    previous: &Snapshot,
) -> BTreeMap<ClusterId, Arc<Cluster>> {
    let compiled = model.clusters.iter().map(|(id, cluster)| {
        let cluster = compiled(cluster, observed);
        let kept = previous
            .clusters
            .get(id)
            .filter(|before| ***before == cluster);
        (
            id.clone(),
            kept.cloned().unwrap_or_else(|| Arc::new(cluster)),
        )
    });
    compiled.collect()
}

fn compiled(cluster: &model::Cluster, observed: &Observed) -> Cluster {
    let model::Cluster {
        id,
        endpoints: configured,
        leaving,
        load_balancing,
        connect_timeout,
        proxy_protocol,
        health,
        sources,
        limits: _,
        source_address,
    } = cluster;
    // A probed one comes first among equals, so that it is the one kept.
    let mut all: Vec<(SocketAddr, bool, u32)> = configured
        .iter()
        .flat_map(|endpoint| {
            addresses(endpoint, &observed.dns)
                .map(|address| (address, !endpoint.probed, endpoint.weight))
        })
        .collect();
    all.sort_unstable();
    all.dedup_by_key(|(address, ..)| *address);
    let is_down = |address: SocketAddr, unprobed: bool| {
        !unprobed
            && health
                .as_ref()
                .is_some_and(|health| observed.down.contains(&target(health, address)))
    };
    let (mut endpoints, mut down) = (Vec::with_capacity(all.len()), Vec::new());
    for &(address, unprobed, weight) in &all {
        let endpoint = Endpoint { address, weight };
        if is_down(address, unprobed) {
            down.push(endpoint);
        } else {
            endpoints.push(endpoint);
        }
    }
    // Whoever is wanted again in another entry is not leaving.
    let mut leaving: Vec<SocketAddr> = leaving
        .iter()
        .flat_map(|endpoint| addresses(endpoint, &observed.dns))
        .filter(|address| all.iter().all(|(known, ..)| known != address))
        .collect();
    leaving.sort_unstable();
    leaving.dedup();
    let panic = health
        .as_ref()
        .is_some_and(|health| health.panics(endpoints.len(), all.len()));
    if panic {
        endpoints.extend(&down);
        endpoints.sort_unstable();
    }
    Cluster {
        id: id.clone(),
        endpoints,
        down,
        leaving,
        panic,
        health: health.clone(),
        load_balancing: *load_balancing,
        connect_timeout: *connect_timeout,
        proxy_protocol: *proxy_protocol,
        sources: sources.clone(),
        source_address: *source_address,
    }
}

/// The addresses of an endpoint, as far as they are known.
fn addresses(
    endpoint: &model::Endpoint,
    dns: &DnsAnswers,
) -> impl Iterator<Item = SocketAddr> + use<> {
    let ips = match &endpoint.address {
        EndpointAddress::Ip(ip) => vec![*ip],
        EndpointAddress::Dns(name) => dns.get(name).cloned().unwrap_or_default(),
    };
    let port = endpoint.port;
    ips.into_iter().map(move |ip| SocketAddr::new(ip, port))
}

fn target(health: &Health, endpoint: SocketAddr) -> ProbeTarget {
    let probe = Arc::clone(&health.probe);
    let port = probe.port.unwrap_or(endpoint.port());
    ProbeTarget {
        address: SocketAddr::new(endpoint.ip(), port),
        probe,
    }
}
