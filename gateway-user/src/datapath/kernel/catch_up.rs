// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From what is desired to the kernel's maps, routes considered.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::{Datapath, netlink};
use crate::datapath::{
    Applied, DatapathError, apply,
    neighbours::Place,
    plan, sysctl,
    tables::{Reach, Surroundings, tables},
};

impl Datapath {
    /// The kernel to what is desired.
    pub(super) fn catch_up(&mut self) -> Result<Applied, DatapathError> {
        let Some(desired) = &self.desired else {
            return Ok(Applied::default());
        };
        let targets = desired.backends.values();
        let addresses: BTreeSet<IpAddr> = targets
            .map(|target| target.address.ip().to_canonical())
            .collect();
        let clients = desired.client_endpoints.clone();
        let asked = addresses.union(&clients).copied().collect();
        let pods: BTreeSet<u32> = self.attachments.pods().collect();
        let routes: HashMap<_, _> = self
            .routes
            .reach(&mut self.netlink, &asked, &pods)
            .map_err(netlink("look up routes to backends"))?;
        let next_hops: BTreeSet<Place> = addresses
            .iter()
            .filter_map(|ip| match routes.get(ip)? {
                Reach::Out { next_hop, .. } => Some(*next_hop),
                Reach::Local => None,
            })
            .collect();
        let client_routes = clients
            .iter()
            .filter_map(|ip| Some((*ip, *routes.get(ip)?)))
            .collect();
        let around = Surroundings {
            addresses: self.addresses.clone(),
            routes,
            forwarding: self.config.forwarding,
            protection: self.config.protection.clone(),
            sockets: self.sockets,
            tcp_idle: self.config.tcp_idle,
            udp_idle: self.config.udp_idle,
            max_services: self.maps.max_services() as usize,
            max_backends: self.maps.max_backends(),
        };
        let mut wanted = tables(desired, &around);
        if !self.forwards_ipv6 && wanted.services.keys().any(|to| to.address.is_ipv6()) {
            // Not before it is needed: a node that is no IPv6 router stays none.
            self.forwards_ipv6 = true;
            for warning in sysctl::enable_ipv6_forwarding() {
                if self.warnings.insert(warning.clone()) {
                    tracing::warn!("{warning}");
                }
            }
        }
        let plan = plan::plan(&mut self.state, &wanted);
        apply::run(&mut self.maps, &mut self.state, &plan.ops)?;
        wanted.proxied.extend(plan.proxied);
        self.proxied = wanted.proxied;
        self.peers.set_present(desired);
        self.slow
            .set_next_hops(next_hops.iter().map(|(index, _)| *index).collect());
        self.keep_neighbours(next_hops);
        self.keep_clients(&clients, &client_routes);
        Ok(Applied {
            operations: plan.ops.len(),
            services: self.state.services.len(),
            backends: self.state.backends.len(),
            steered: self.state.steer.len(),
            proxied: self.proxied.clone(),
        })
    }
}
