// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which entries of the neighbour tables the datapath wants.

use std::{collections::BTreeSet, net::IpAddr};

use super::Datapath;
use crate::datapath::{
    neighbours::{self, Kind, Place},
    sysctl,
};

impl Datapath {
    /// Keeps next hops resolved, and VIPs answered for where clients ask. What
    /// the kernel refuses is a warning: packets go on without.
    pub(super) fn keep_neighbours(&mut self, mut next_hops: BTreeSet<Place>) {
        if !self.attachments.any_at_xdp() {
            // At tc every packet that is sent keeps them.
            next_hops.clear();
        }
        let vips = self.config.vips.iter().map(IpAddr::to_canonical);
        let vips: Vec<IpAddr> = vips.filter(IpAddr::is_ipv6).collect();
        let wires: Vec<(u32, String)> = self.attachments.wires().collect();
        let proxied = wires
            .iter()
            .flat_map(|(index, _)| vips.iter().map(|vip| (*index, *vip)))
            .collect();
        let mut warnings = Vec::new();
        if next_hops.len() > neighbours::MOST {
            warnings.push(format!(
                "{} next hops are not kept resolved, only {}: at XDP, one that moves is noticed late",
                next_hops.len(),
                neighbours::MOST
            ));
            next_hops = next_hops.into_iter().take(neighbours::MOST).collect();
        }
        if !vips.is_empty() {
            warnings.extend(
                wires
                    .iter()
                    .flat_map(|(_, name)| sysctl::enable_proxy(name)),
            );
        }
        for (kind, wanted) in [(Kind::Managed, next_hops), (Kind::Proxied, proxied)] {
            if self.neighbours.get(&kind) == Some(&wanted) {
                continue;
            }
            match neighbours::follow(&mut self.netlink, kind, &wanted) {
                Ok(()) => {
                    self.neighbours.insert(kind, wanted);
                }
                Err(error) => warnings.push(format!("{}: {error}", kind.problem())),
            }
        }
        for warning in warnings {
            self.warn(warning);
        }
    }
}
