// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the kernel can forward a service, and if not, why not: pure.
//!
//! What the kernel does not forward is steered to the agent, which proxies it:
//! the operator gets the same service, only slower and ended by a restart.

use std::{collections::BTreeMap, net::IpAddr};

use crate::snapshot::{BackendTarget, Service};

/// Why a forwarded listener is proxied by the agent instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum NotInKernel {
    /// A packet cannot change its family.
    #[error("a backend is of the other address family")]
    OtherFamily,
    /// It starts with a header that the agent writes; only from there on may the
    /// kernel take it over.
    #[error("a backend expects a PROXY header, which the agent writes")]
    ProxyHeader,
    /// A link-local address says nothing without its link.
    #[error("a backend has a link-local address")]
    LinkLocalBackend,
    /// A loopback address is not reachable for forwarded packets.
    #[error("a backend is on a loopback address")]
    LoopbackBackend,
    /// A forwarded packet cannot be delivered to the node that forwards it.
    #[error("a backend is on this node's own address")]
    LocalBackend,
    /// Every entry of the service table is taken.
    #[error("the service table is full; raise max_services")]
    ServicesFull,
    /// Every entry of the backend table is taken.
    #[error("the backend table is full; raise max_backends")]
    BackendsFull,
    /// No room for another range of ports at its address.
    #[error("the table of port ranges is full; use fewer or wider ranges")]
    RangesFull,
    /// The prefixes of its source list do not fit.
    #[error("the source table is full; raise max_source_prefixes")]
    SourcesFull,
    /// The rings do not fit.
    #[error("the ring table is full; raise max_ring_chunks")]
    RingsFull,
}

/// Whether the kernel forwards `service` for connections to `address`, as far
/// as configuration tells; routes and table sizes may still rule it out.
///
/// # Errors
/// The reason why the agent proxies it.
pub fn kernel_serves(
    address: IpAddr,
    service: &Service,
    backends: &BTreeMap<u32, BackendTarget>,
) -> Result<(), NotInKernel> {
    if service.proxy_header {
        return Err(NotInKernel::ProxyHeader);
    }
    let is_ipv4 = address.to_canonical().is_ipv4();
    for (id, _) in service.members.iter() {
        // Every member has a target: both come from one compilation.
        let Some(target) = backends.get(id) else {
            continue;
        };
        let ip = target.address.ip().to_canonical();
        if ip.is_ipv4() != is_ipv4 {
            return Err(NotInKernel::OtherFamily);
        }
        if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Err(NotInKernel::LinkLocalBackend);
        }
        if ip.is_loopback() {
            return Err(NotInKernel::LoopbackBackend);
        }
    }
    Ok(())
}
