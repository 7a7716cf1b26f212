// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections that have their client's address: the way back of their replies.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Datapath, change, netlink};
use crate::{
    datapath::{
        DatapathError, hook, interfaces,
        return_route::ReturnRoute,
        returning::Returning,
        tables::{Reach, client_endpoints},
    },
    snapshot::Snapshot,
};

/// Backends named in one message.
const NAMED: usize = 3;

/// What is kept for them.
#[derive(Debug, Default)]
pub(super) struct Clients {
    returning: Arc<Returning>,
    /// There have been any: those that are left need tc for as long as they live.
    are_wanted: bool,
    /// What was said of backends that do not see them.
    told: Option<String>,
}

impl Clients {
    /// Knows of no backend yet; `are_wanted` says whether an agent before had such
    /// connections, and perhaps has.
    pub(super) fn new(are_wanted: bool) -> Self {
        Self {
            are_wanted,
            ..Self::default()
        }
    }
}

impl Datapath {
    /// Which backends the threads may connect to from the addresses of clients;
    /// follows configuration and routes.
    pub fn returning(&self) -> Arc<Returning> {
        Arc::clone(&self.clients.returning)
    }

    /// Makes the way of replies for what `snapshot` adds, before connections are
    /// made by it.
    pub fn prepare(&mut self, snapshot: &Snapshot) {
        let mut endpoints = client_endpoints(snapshot);
        if endpoints.is_empty() {
            return;
        }
        if let Some(desired) = &self.desired {
            endpoints.extend(&desired.client_endpoints);
        }
        let pods: BTreeSet<u32> = self.attachments.pods().collect();
        match self.routes.reach(&mut self.netlink, &endpoints, &pods) {
            Ok(routes) => self.keep_clients(&endpoints, &routes),
            Err(error) => self.warn(netlink("look up routes to backends")(error).to_string()),
        }
    }

    /// What speaks against XDP on wires.
    pub(super) fn against_xdp(&self) -> Option<&'static str> {
        if self.clients.are_wanted {
            Some(hook::CLIENTS)
        } else {
            self.slow.any().then_some(hook::EGRESS)
        }
    }

    /// Lets connections to those of `endpoints` have their client's address whose
    /// replies come back here; says which others there are.
    pub(super) fn keep_clients(
        &mut self,
        endpoints: &BTreeSet<IpAddr>,
        routes: &HashMap<IpAddr, Reach>,
    ) {
        if endpoints.is_empty() {
            self.clients.returning.set(BTreeSet::new());
            self.tell_clients(None);
            return;
        }
        let are_new = !std::mem::replace(&mut self.clients.are_wanted, true);
        if are_new && self.attachments.any_at_xdp() {
            // `auto` leaves XDP for tc.
            match self.look_around() {
                Ok((_, failed)) => {
                    for (_, error) in failed {
                        self.warn(error.to_string());
                    }
                }
                Err(error) => self.warn(error.to_string()),
            }
        }
        let at_tc = self.attachments.at_tc();
        let mut kept = BTreeSet::new();
        let mut lost: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for ip in endpoints {
            let why = match routes.get(ip) {
                None => "no route",
                Some(Reach::Local) => "this node itself",
                Some(Reach::Out { next_hop, .. }) if !at_tc.contains(&next_hop.0) => {
                    "by an interface without a program at tc"
                }
                Some(Reach::Out { .. }) => {
                    kept.insert(*ip);
                    continue;
                }
            };
            lost.entry(why).or_default().push(*ip);
        }
        if let Err(error) = self.open_way(&kept) {
            self.clients.returning.set(BTreeSet::new());
            self.tell_clients(Some(format!(
                "clients do not keep their addresses: {error}; connections come from the node's"
            )));
            return;
        }
        self.clients.returning.set(kept);
        let text = lost.iter().map(|(why, ips)| {
            let named: Vec<String> = ips.iter().take(NAMED).map(ToString::to_string).collect();
            let more = match ips.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{}{more} ({why})", named.join(", "))
        });
        let text: Vec<String> = text.collect();
        self.tell_clients((!text.is_empty()).then(|| {
            format!(
                "clients do not keep their addresses towards {}: replies have to come back by a \
                 wire or pod interface at tc; connections come from the node's",
                text.join(", ")
            )
        }));
    }

    /// Rules and routes of the families in use, then the programs' mark.
    fn open_way(&mut self, backends: &BTreeSet<IpAddr>) -> Result<(), DatapathError> {
        let interfaces =
            interfaces::interfaces(&mut self.netlink).map_err(netlink("list the interfaces"))?;
        let loopback = interfaces.values().find(|interface| interface.loopback);
        let loopback = loopback.ok_or(std::io::ErrorKind::NotFound.into());
        let loopback = loopback
            .map_err(netlink("find a loopback interface"))?
            .index;
        let way = ReturnRoute {
            mark: self.config.client_mark,
            table: self.config.client_table,
        };
        for is_ipv6 in [false, true] {
            if backends.iter().any(|ip| ip.is_ipv6() == is_ipv6) {
                way.claim(&mut self.netlink, is_ipv6, loopback)?;
            }
        }
        self.reserve_handoff_ports();
        if self.state.settings.client_mark != way.mark {
            change("write", "the settings")?;
            let mut settings = self.state.settings;
            settings.client_mark = way.mark;
            self.maps.set_settings(settings)?;
            self.state.settings = settings;
        }
        Ok(())
    }

    fn tell_clients(&mut self, text: Option<String>) {
        if self.clients.told == text {
            return;
        }
        if let Some(before) = std::mem::replace(&mut self.clients.told, text.clone()) {
            self.warnings.remove(&before);
        }
        if let Some(text) = text {
            self.warn(text);
        }
    }
}
