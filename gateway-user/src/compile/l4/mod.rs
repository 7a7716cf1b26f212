// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Forwarded listeners to services, backends and rings: pure.
//!
//! Ids are indices of kernel tables that outlive this process, so they are
//! kept from the previous snapshot, and an id that the previous snapshot still
//! names is never given to something else in the same step.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use crate::{
    compile::{
        maglev::{self, Seed},
        sources,
    },
    model::{
        ClusterId, FlowLimits, ListenAddress, Listener, ListenerKind, Model, SourcePrefix, Sources,
        TcpRoute, Transport,
    },
    snapshot::{BackendTarget, Cluster, ListenKey, Service, Snapshot},
};

#[cfg(test)]
mod tests;

/// The backends of a ring by their ids, with their shares.
type Members = Arc<[(u32, u32)]>;

/// A forwarded listener and what stands behind it.
struct Forwarded<'a> {
    route: &'a TcpRoute,
    /// Endpoints that take new flows, with their shares.
    shares: BTreeMap<SocketAddr, u32>,
    /// Endpoints that take no new flow. They keep their ids, for their flows go on,
    /// and count for the size of the ring: another size would move nearly
    /// every slot, although only theirs have to move.
    unused: BTreeSet<SocketAddr>,
    /// Whose flows are taken.
    sources: Sources,
    limits: FlowLimits,
    /// See [`Service::proxy_header`].
    proxy_header: bool,
}

/// The first port of a range. Endpoints on it are reached on the port the
/// client used, which their targets say by port 0.
#[derive(Clone, Copy)]
struct KeptPort(Option<u16>);

impl KeptPort {
    fn of(key: &ListenKey) -> Self {
        Self(key.is_range().then_some(key.port))
    }

    /// The address of a target.
    fn target(self, endpoint: SocketAddr) -> SocketAddr {
        let kept = self.0 == Some(endpoint.port());
        // IPv4-mapped addresses as what they stand for.
        SocketAddr::new(
            endpoint.ip().to_canonical(),
            if kept { 0 } else { endpoint.port() },
        )
    }
}

impl<'a> Forwarded<'a> {
    fn new(
        route: &'a TcpRoute,
        key: &ListenKey,
        sources: Sources,
        limits: FlowLimits,
        clusters: &BTreeMap<ClusterId, Arc<Cluster>>,
    ) -> Self {
        let kept = KeptPort::of(key);
        let shares = shares(route, kept, clusters);
        let of_route = || {
            let ids = route.destinations.iter().map(|to| &to.cluster);
            ids.filter_map(|id| clusters.get(id))
        };
        // Datagrams have none.
        let proxy_header = key.transport == Transport::Tcp
            && of_route().any(|cluster| cluster.proxy_protocol.is_some());
        let unused = of_route()
            .flat_map(|cluster| {
                let down = cluster.down.iter().map(|endpoint| endpoint.address);
                down.chain(cluster.leaving.iter().copied())
            })
            .map(|address| kept.target(address))
            .filter(|address| !shares.contains_key(address))
            .collect();
        Self {
            route,
            shares,
            unused,
            sources,
            limits,
            proxy_header,
        }
    }
}

/// The services of `model`, and every backend they name. `clusters` are those
/// of the new snapshot, `previous` is the one in force.
pub fn services(
    model: &Model,
    clusters: &BTreeMap<ClusterId, Arc<Cluster>>,
    previous: &Snapshot,
) -> (
    BTreeMap<ListenKey, Arc<Service>>,
    BTreeMap<u32, BackendTarget>,
) {
    let forwarded: BTreeMap<ListenKey, Forwarded<'_>> = model
        .listeners
        .iter()
        .filter_map(|listener| match &listener.kind {
            ListenerKind::Forward(route) | ListenerKind::ForwardUdp(route) => {
                let key = ListenKey {
                    address: listener.address,
                    port: listener.port,
                    last_port: listener.last_port,
                    transport: listener.transport(),
                };
                let sources = sources(listener, clusters);
                let limits = limits(listener, route, model);
                Some((key, Forwarded::new(route, &key, sources, limits, clusters)))
            }
            ListenerKind::Tls(_) | ListenerKind::PlainHttp(_) => None,
        })
        .collect();

    let backend_ids = backend_ids(&forwarded, previous);
    let service_ids = service_ids(forwarded.keys(), previous);
    let mut rings = Rings::of(previous);
    let mut lists = SourceLists::of(previous);

    let services = forwarded
        .iter()
        .map(|(key, forwarded)| {
            let Forwarded {
                route,
                shares,
                unused,
                sources,
                limits,
                proxy_header,
            } = forwarded;
            let target = |address: &SocketAddr| BackendTarget {
                address: *address,
                forwarding: route.forwarding,
            };
            let mut members: Vec<(u32, u32)> = shares
                .iter()
                .map(|(address, share)| (backend_ids[&target(address)], *share))
                .collect();
            members.sort_unstable();
            let (members, ring) = rings.ring(members, shares, unused.len(), |address| {
                backend_ids[&target(address)]
            });
            let mut standby: Vec<u32> = unused
                .iter()
                .map(|address| backend_ids[&target(address)])
                .collect();
            standby.sort_unstable();
            let service = Service {
                id: service_ids[key],
                hash_policy: route.hash_policy,
                forwarding: route.forwarding,
                idle_timeout: route.idle_timeout,
                members,
                standby: standby.into(),
                ring,
                sources: lists.list(sources),
                limits: *limits,
                proxy_header: *proxy_header,
            };
            let service = match previous.services.get(key) {
                Some(old) if **old == service => Arc::clone(old),
                _ => Arc::new(service),
            };
            (*key, service)
        })
        .collect();
    let backends = backend_ids
        .into_iter()
        .map(|(target, id)| (id, target))
        .collect();
    (services, backends)
}

/// The limits of a listener and of all that its route leads to.
fn limits(listener: &Listener, route: &TcpRoute, model: &Model) -> FlowLimits {
    let ids = route.destinations.iter().map(|to| &to.cluster);
    ids.filter_map(|id| model.clusters.get(id))
        .fold(listener.limits, |all, cluster| {
            all.strictest(cluster.limits)
        })
}

/// The endpoints of a route with their shares of its connections: the share of
/// their destination times their share within its cluster, scaled so that the
/// greatest is 2^31. An endpoint in two clusters gets the sum.
fn shares(
    route: &TcpRoute,
    kept: KeptPort,
    clusters: &BTreeMap<ClusterId, Arc<Cluster>>,
) -> BTreeMap<SocketAddr, u32> {
    let mut exact: BTreeMap<SocketAddr, u128> = BTreeMap::new();
    for destination in &route.destinations {
        let Some(cluster) = clusters.get(&destination.cluster) else {
            continue;
        };
        let total: u128 = cluster.endpoints.iter().map(|e| u128::from(e.weight)).sum();
        for endpoint in &cluster.endpoints {
            let address = kept.target(endpoint.address);
            // 64 fractional bits: two weights of 32 bits fit above them.
            let share = ((u128::from(destination.weight) * u128::from(endpoint.weight)) << 64)
                .checked_div(total)
                .unwrap_or_default();
            *exact.entry(address).or_default() += share;
        }
    }
    let Some(greatest) = exact.values().copied().max().filter(|max| *max > 0) else {
        return BTreeMap::new();
    };
    // Keeps the product below within 128 bits.
    let shift = 128u32.saturating_sub(greatest.leading_zeros() + 96);
    let greatest = greatest >> shift;
    exact
        .into_iter()
        .map(|(address, share)| {
            let scaled = (((share >> shift) << 31) / greatest) as u32;
            (address, scaled.max(1))
        })
        .collect()
}

/// Ids of all targets: first those the previous snapshot has for the same
/// target, then those it has for the same address in another forwarding mode
/// (an adopted kernel table only knows the resolved mode), then the lowest
/// that neither snapshot uses.
fn backend_ids(
    forwarded: &BTreeMap<ListenKey, Forwarded<'_>>,
    previous: &Snapshot,
) -> BTreeMap<BackendTarget, u32> {
    let wanted: BTreeSet<BackendTarget> = forwarded
        .values()
        .flat_map(|one| {
            one.shares
                .keys()
                .chain(&one.unused)
                .map(|address| BackendTarget {
                    address: *address,
                    forwarding: one.route.forwarding,
                })
        })
        .collect();
    let mut spare: HashMap<SocketAddr, Vec<u32>> = HashMap::new();
    let mut ids = BTreeMap::new();
    for (id, target) in previous.backends.iter().rev() {
        if !wanted.contains(target) || ids.insert(*target, *id).is_some() {
            spare.entry(target.address).or_default().push(*id);
        }
    }
    let mut unused = (1..).filter(|id| !previous.backends.contains_key(id));
    for target in wanted {
        ids.entry(target).or_insert_with(|| {
            spare
                .get_mut(&target.address)
                .and_then(Vec::pop)
                .or_else(|| unused.next())
                // 2^32 backends do not fit into memory.
                .unwrap_or_default()
        });
    }
    ids
}

/// Ids of all services, kept by listener. A listener for any address also
/// takes the id of one for a single address with its port and transport: an adopted kernel
/// table only knows single addresses, and of a range perhaps only parts.
fn service_ids<'a>(
    keys: impl Iterator<Item = &'a ListenKey> + Clone,
    previous: &Snapshot,
) -> BTreeMap<ListenKey, u32> {
    let mut ids: BTreeMap<ListenKey, u32> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for key in keys.clone() {
        if let Some(service) = previous.services.get(key)
            && taken.insert(service.id)
        {
            ids.insert(*key, service.id);
        }
    }
    let used: BTreeSet<u32> = previous
        .services
        .values()
        .map(|service| service.id)
        .collect();
    let mut unused = (0..).filter(|id| !used.contains(id));
    for key in keys {
        if ids.contains_key(key) {
            continue;
        }
        let adopted = previous
            .services
            .iter()
            .filter(|(old, _)| {
                key.address == ListenAddress::Any
                    && old.transport == key.transport
                    && old.is_range() == key.is_range()
                    && key.contains(old.port)
                    && key.contains(old.last_port)
            })
            .map(|(_, service)| service.id)
            .find(|id| !taken.contains(id));
        // 2^32 services do not fit into memory.
        let id = adopted.or_else(|| unused.next()).unwrap_or_default();
        taken.insert(id);
        ids.insert(*key, id);
    }
    ids
}

/// Rings made so far: services with equal members share one, and one that the
/// previous snapshot has is not computed again.
struct Rings(HashMap<(Members, u32), Arc<[u32]>>);

impl Rings {
    fn of(previous: &Snapshot) -> Self {
        let rings = previous.services.values();
        Self(
            rings
                .filter(|service| {
                    service.members.iter().all(|(id, _)| {
                        // An id keeps its address for as long as it is named.
                        previous.backends.contains_key(id)
                    })
                })
                .map(|service| {
                    let ring = Arc::clone(&service.ring);
                    ((Arc::clone(&service.members), ring.len() as u32), ring)
                })
                .collect(),
        )
    }

    /// The ring of `members`, of the size for them and `unused` others.
    fn ring(
        &mut self,
        members: Vec<(u32, u32)>,
        shares: &BTreeMap<SocketAddr, u32>,
        unused: usize,
        id: impl Fn(&SocketAddr) -> u32,
    ) -> (Members, Arc<[u32]>) {
        let size = match shares.len() {
            0 => 0,
            used => maglev::ring_size(used + unused),
        };
        let key = (Members::from(members), size);
        if let Some(((members, _), ring)) = self.0.get_key_value(&key) {
            return (Arc::clone(members), Arc::clone(ring));
        }
        let seeded: Vec<(u32, Seed, u32)> = shares
            .iter()
            .map(|(address, share)| (id(address), Seed::from(*address), *share))
            .collect();
        let ring: Arc<[u32]> = maglev::ring(&seeded, size).into();
        let members = Arc::clone(&key.0);
        self.0.insert(key, Arc::clone(&ring));
        (members, ring)
    }
}

/// Source lists made so far: services with equal ones share them.
struct SourceLists<'a> {
    /// Of the previous snapshot.
    before: HashSet<&'a Arc<[SourcePrefix]>>,
    made: HashMap<Sources, Arc<[SourcePrefix]>>,
}

impl<'a> SourceLists<'a> {
    fn of(previous: &'a Snapshot) -> Self {
        let services = previous.services.values();
        Self {
            before: services
                .filter_map(|service| service.sources.as_ref())
                .collect(),
            made: HashMap::new(),
        }
    }

    fn list(&mut self, sources: &Sources) -> Option<Arc<[SourcePrefix]>> {
        if let Some(list) = self.made.get(sources) {
            return Some(Arc::clone(list));
        }
        let list: Arc<[SourcePrefix]> = sources.prefixes()?.into();
        let list = self.before.get(&list).copied().cloned().unwrap_or(list);
        self.made.insert(sources.clone(), Arc::clone(&list));
        Some(list)
    }
}
