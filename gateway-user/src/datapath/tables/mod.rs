// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel tables that a snapshot asks for, given what the node looks like:
//! pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use gateway_common::{
    addr::Addr16,
    backend::{Backend, FORWARD_DNAT, FORWARD_DSR, FORWARD_SNAT, NO_BACKEND},
    guard::Guard,
    limits::MAX_PORT_RANGE_KEYS,
    port_range::MAX_PORT_RANGES,
    service::{HASH_FIVE_TUPLE, HASH_SOURCE_ADDRESS},
    steer::SteerValue,
    tcp_state::ESTABLISHED_TIMEOUT_S,
    udp_state::TWO_WAY_TIMEOUT_S,
};

use crate::{
    datapath::{
        Destination, Protection, ranges,
        report::Proxied,
        serves::{NotInKernel, kernel_serves},
    },
    model::{ForwardingMode, HashPolicy, ListenAddress, SourceAddress, SourcePrefix, Transport},
    snapshot::{BackendTarget, ListenKey, Service, Snapshot},
};

mod guard;
#[cfg(test)]
mod tests;

/// The parts of a snapshot the kernel needs, kept to follow the node when its
/// addresses and routes change.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Of the snapshot.
    pub generation: u32,
    /// Every listener.
    pub listeners: Vec<ListenKey>,
    /// Those to forward.
    pub services: BTreeMap<ListenKey, Arc<Service>>,
    /// Their backends.
    pub backends: BTreeMap<u32, BackendTarget>,
    /// Where connections of the agent go, that may be handed off: addresses of the
    /// endpoints of every cluster, in use or not.
    pub endpoints: BTreeSet<IpAddr>,
    /// Those of them that are to see the addresses of clients.
    pub client_endpoints: BTreeSet<IpAddr>,
}

/// The endpoints that are to see the addresses of clients, and take connections.
pub fn client_endpoints(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let clusters = snapshot.clusters.values();
    clusters
        .filter(|cluster| cluster.source_address == SourceAddress::Client)
        .flat_map(|cluster| cluster.endpoints.iter().chain(&cluster.down))
        .map(|endpoint| endpoint.address.ip().to_canonical())
        .collect()
}

impl From<&Snapshot> for Desired {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            // Only compared for equality, and shown: it may wrap.
            generation: snapshot.generation as u32,
            listeners: snapshot.listeners.keys().copied().collect(),
            services: snapshot.services.clone(),
            backends: snapshot.backends.clone(),
            endpoints: snapshot
                .clusters
                .values()
                .flat_map(|cluster| {
                    let known = cluster.endpoints.iter().chain(&cluster.down);
                    known.map(|one| &one.address).chain(&cluster.leaving)
                })
                .map(|address| address.ip().to_canonical())
                .collect(),
            client_endpoints: client_endpoints(snapshot),
        }
    }
}

/// What the node looks like.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// What a listener for any address stands for: the VIPs, else the node's
    /// own addresses that are not loopback.
    pub addresses: BTreeSet<IpAddr>,
    /// How each backend address is reached.
    pub routes: HashMap<IpAddr, Reach>,
    /// What `auto` stands for; `auto` itself decides by the route.
    pub forwarding: ForwardingMode,
    /// Limits of new flows.
    pub protection: Protection,
    /// Listening sockets of the agent.
    pub sockets: u32,
    /// Idle timeout of connections whose service sets none; zero for the
    /// default.
    pub tcp_idle: Duration,
    /// The same for UDP.
    pub udp_idle: Duration,
    /// Entries of the service map.
    pub max_services: usize,
    /// Entries of the backend map.
    pub max_backends: u32,
}

/// How a backend is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is this node.
    Local,
    /// Out through an interface.
    Out {
        /// Whether that is a pod interface, where replies come back.
        pod: bool,
        /// The node's address towards it.
        source: IpAddr,
        /// Interface and address of the next hop.
        next_hop: (u32, IpAddr),
    },
}

/// What the maps should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// Of the snapshot.
    pub generation: u32,
    /// By destination.
    pub services: BTreeMap<Destination, Entry>,
    /// By id.
    pub backends: BTreeMap<u32, Backend>,
    /// By listener; [`ListenAddress::Any`] is one entry.
    pub steer: BTreeMap<ListenKey, SteerValue>,
    /// Forwarded destinations left to the agent.
    pub proxied: Vec<Proxied>,
}

/// A forwarded destination, its ring not yet placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Index of its statistics.
    pub service_id: u32,
    /// Backend ids by slot.
    pub ring: Arc<[u32]>,
    /// `HASH_*`.
    pub hash_policy: u32,
    /// Seconds; 0 for the default.
    pub established_timeout_s: u32,
    /// Which sources may open flows; all when absent.
    pub sources: Option<Arc<[SourcePrefix]>>,
    /// What limits new flows.
    pub guard: Guard,
}

/// The tables for `desired` on a node with these surroundings.
pub fn tables(desired: &Desired, around: &Surroundings) -> Tables {
    let mut tables = Tables {
        generation: desired.generation,
        ..Tables::default()
    };
    let steer = SteerValue {
        socket_base: 0,
        socket_count: around.sockets,
    };
    tables.steer = desired
        .listeners
        .iter()
        // The agent has no socket for datagrams.
        .filter(|key| key.transport == Transport::Tcp)
        .map(|key| (*key, steer))
        .collect();

    let listeners: BTreeSet<ListenKey> = desired.listeners.iter().copied().collect();
    let mut used: BTreeSet<u32> = BTreeSet::new();
    // What ranges leave out are the single ports that are not forwarded.
    let services = desired.services.iter();
    let (of_ranges, of_ports): (Vec<_>, Vec<_>) = services.partition(|(key, _)| key.is_range());
    for (key, service) in of_ports.into_iter().chain(of_ranges) {
        for destination in destinations(key, &listeners, &tables, around) {
            let verdict = kernel_serves(destination.ip(), service, &desired.backends)
                .and_then(|()| fits(&tables, service, desired, around))
                .and_then(|()| range_fits(&tables, &destination));
            if let Err(reason) = verdict {
                tables.proxied.push(Proxied {
                    destination,
                    reason,
                });
                continue;
            }
            used.extend(service.members.iter().map(|(id, _)| *id));
            let standby = service.standby.iter().copied();
            used.extend(standby.filter(|id| *id < around.max_backends));
            let entry = Entry {
                service_id: service.id,
                ring: Arc::clone(&service.ring),
                hash_policy: match service.hash_policy {
                    HashPolicy::FiveTuple => HASH_FIVE_TUPLE,
                    HashPolicy::SourceAddress => HASH_SOURCE_ADDRESS,
                },
                established_timeout_s: idle_s(service.idle_timeout, key.transport, around),
                sources: service.sources.clone(),
                guard: guard::guard(service.limits, key.transport, &around.protection),
            };
            tables.services.insert(destination, entry);
        }
    }
    tables.backends = used
        .into_iter()
        .filter_map(|id| Some((id, backend(desired.backends.get(&id)?, around))))
        .collect();
    tables
}

/// Where the kernel is to forward what `key` listens for.
fn destinations(
    key: &ListenKey,
    listeners: &BTreeSet<ListenKey>,
    tables: &Tables,
    around: &Surroundings,
) -> Vec<Destination> {
    let at = |ip: IpAddr| {
        if key.is_range() {
            return ranges::at(ip, key, listeners, |one| tables.services.contains_key(one));
        }
        vec![Destination {
            address: SocketAddr::new(ip.to_canonical(), key.port),
            last_port: key.port,
            transport: key.transport,
        }]
    };
    match key.address {
        ListenAddress::Ip(ip) => at(ip),
        // An address that has a listener of its own on this port keeps it.
        ListenAddress::Any => around
            .addresses
            .iter()
            .filter(|ip| {
                !listeners.contains(&ListenKey {
                    address: ListenAddress::Ip(**ip),
                    ..*key
                })
            })
            .flat_map(|ip| at(*ip))
            .collect(),
    }
}

/// Whether the index of ranges has room for another one.
fn range_fits(tables: &Tables, destination: &Destination) -> Result<(), NotInKernel> {
    if !destination.is_range() {
        return Ok(());
    }
    let with_it = tables.services.keys().chain([destination]);
    let index = ranges::index(with_it, tables.steer.keys());
    if index.len() > MAX_PORT_RANGE_KEYS as usize
        || index.values().any(|ranges| ranges.len() > MAX_PORT_RANGES)
    {
        return Err(NotInKernel::RangesFull);
    }
    Ok(())
}

/// Seconds that flows of a service may be idle; 0 for the default.
fn idle_s(own: Option<Duration>, transport: Transport, around: &Surroundings) -> u32 {
    let (node, default_s) = match transport {
        Transport::Tcp => (around.tcp_idle, ESTABLISHED_TIMEOUT_S),
        Transport::Udp => (around.udp_idle, TWO_WAY_TIMEOUT_S),
    };
    let is_default = node.is_zero() || node == Duration::from_secs(default_s.into());
    match own.or((!is_default).then_some(node)) {
        Some(timeout) => timeout.as_secs().clamp(1, u64::from(u32::MAX)) as u32,
        None => 0,
    }
}

/// What only this node knows: sizes and routes.
fn fits(
    tables: &Tables,
    service: &Service,
    desired: &Desired,
    around: &Surroundings,
) -> Result<(), NotInKernel> {
    // The id indexes the statistics map, which is as large as the table.
    if tables.services.len() >= around.max_services || service.id as usize >= around.max_services {
        return Err(NotInKernel::ServicesFull);
    }
    for (id, _) in service.members.iter() {
        if *id >= around.max_backends {
            return Err(NotInKernel::BackendsFull);
        }
        let ip = desired
            .backends
            .get(id)
            .map(|target| target.address.ip().to_canonical());
        if ip.and_then(|ip| around.routes.get(&ip)) == Some(&Reach::Local) {
            return Err(NotInKernel::LocalBackend);
        }
    }
    Ok(())
}

/// The kernel's entry. A backend without a route is left unusable, so that
/// flows to it are counted as refused until there is one.
fn backend(target: &BackendTarget, around: &Surroundings) -> Backend {
    let ip = target.address.ip().to_canonical();
    let mut backend = Backend {
        addr: ip.into(),
        snat_addr: Addr16::ANY,
        port_be: target.address.port().to_be(),
        _pad: 0,
        forwarding: 0,
    };
    let Some(Reach::Out { pod, source, .. }) = around.routes.get(&ip) else {
        return backend;
    };
    let mode = match target.forwarding {
        ForwardingMode::Auto => around.forwarding,
        mode => mode,
    };
    backend.forwarding = match mode {
        ForwardingMode::Dnat => FORWARD_DNAT,
        ForwardingMode::Snat => FORWARD_SNAT,
        ForwardingMode::Dsr => FORWARD_DSR,
        ForwardingMode::Auto if *pod => FORWARD_DNAT,
        ForwardingMode::Auto => FORWARD_SNAT,
    };
    // In every mode: a client whose reply tuple is taken, or who is the backend
    // itself, can only be served with another source; and it wraps for dsr.
    backend.snat_addr = (*source).into();
    backend
}

/// The backend ids in a ring.
pub fn ids_of(ring: &[u32]) -> BTreeSet<u32> {
    ring.iter()
        .copied()
        .filter(|id| *id != NO_BACKEND)
        .collect()
}
