// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which VirtualServices serve which servers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    model::{HostPattern, Transport},
    resource::{Object, ObjectId, ResourceSet, istio::VirtualService},
    translate::{
        Context,
        endpoints::includes,
        hosts::{self, ServerHost},
        istio::gateway::Server,
    },
};

/// Every VirtualService by the Gateways it names, so that a server is compared
/// with those of its own Gateway only.
pub struct Candidates<'a> {
    /// In order of precedence.
    pub all: Vec<Candidate<'a>>,
    by_gateway: HashMap<ObjectId, Named>,
}

/// The VirtualServices that name one Gateway: positions in
/// [`Candidates::all`], in order of precedence.
#[derive(Default)]
struct Named {
    all: Vec<usize>,
    /// Those that may have rules for any port.
    any_port: Vec<usize>,
    /// Those with rules for some ports only, by each of them.
    by_port: HashMap<u32, Vec<usize>>,
}

/// What is the same of a VirtualService for every server.
pub struct Candidate<'a> {
    /// The object.
    pub object: &'a Object<VirtualService>,
    /// The Gateways it names.
    pub gateways: Vec<ObjectId>,
    route_hosts: Vec<HostPattern>,
    /// The ports that its rules are for, where each of them names some.
    pub only_ports: Option<BTreeSet<u32>>,
}

impl<'a> Candidates<'a> {
    /// Reads names and hosts of all of them.
    pub fn new(resources: &'a ResourceSet) -> Self {
        let all: Vec<_> = resources
            .virtual_services
            .iter()
            .map(|object| Candidate::new(object))
            .collect();
        let mut by_gateway: HashMap<ObjectId, Named> = HashMap::new();
        for (index, candidate) in all.iter().enumerate() {
            for gateway in &candidate.gateways {
                let named = by_gateway.entry(gateway.clone()).or_default();
                named.all.push(index);
                match &candidate.only_ports {
                    None => named.any_port.push(index),
                    Some(ports) => {
                        for port in ports {
                            named.by_port.entry(*port).or_default().push(index);
                        }
                    }
                }
            }
        }
        Self { all, by_gateway }
    }
}

impl<'a> Candidate<'a> {
    fn new(object: &'a Object<VirtualService>) -> Self {
        let own = &object.meta.id.namespace;
        let spec = &object.spec;
        let mut gateways: Vec<ObjectId> = spec
            .gateways
            .iter()
            .filter_map(|name| hosts::gateway(name, own))
            .collect();
        gateways.sort();
        gateways.dedup();
        let route_hosts = spec
            .hosts
            .iter()
            .flat_map(|host| hosts::route_hosts(host, own).unwrap_or_default())
            .collect();
        Self {
            object,
            gateways,
            route_hosts,
            only_ports: only_ports(object),
        }
    }
}

/// The ports of `tcp` rules that are for no other ones, where there are no other
/// rules. Rules about which something else is to be said are for any.
fn only_ports(object: &Object<VirtualService>) -> Option<BTreeSet<u32>> {
    let spec = &object.spec;
    let is_alone = spec.http.is_empty() && spec.tls.is_empty();
    if !is_alone || !object.meta.spec().key("tcp").unknown_fields().is_empty() {
        return None;
    }
    let mut ports = BTreeSet::new();
    for rule in &spec.tcp {
        if rule.matches.is_empty() {
            return None;
        }
        for condition in &rule.matches {
            if !condition.destination_subnets.is_empty() || condition.source_subnet.is_some() {
                return None;
            }
            ports.insert(condition.port?);
        }
    }
    (!ports.is_empty()).then_some(ports)
}

/// A VirtualService that serves a server.
pub struct Attached<'a> {
    /// Its place in the order of precedence.
    pub index: usize,
    /// The object.
    pub object: &'a Object<VirtualService>,
    /// Hosts that both answer for.
    pub names: Vec<HostPattern>,
    /// Hosts of the server that take VirtualServices of this namespace.
    pub server_hosts: Vec<HostPattern>,
    /// Hosts of the VirtualService.
    pub route_hosts: &'a [HostPattern],
}

/// The VirtualServices of a server, in order of precedence.
pub fn attached<'a>(context: &Context<'a>, server: &Server<'_>) -> Vec<Attached<'a>> {
    let named = context.candidates.by_gateway.get(&server.gateway.meta.id);
    named
        .map_or(&[][..], |named| &named.all)
        .iter()
        .filter_map(|index| attach(context, *index, server))
        .collect()
}

/// Those of [`attached`] whose `tcp` rules may be for `port`.
pub fn attached_at<'a>(context: &Context<'a>, server: &Server<'_>, port: u16) -> Vec<Attached<'a>> {
    let Some(named) = context.candidates.by_gateway.get(&server.gateway.meta.id) else {
        return Vec::new();
    };
    let of_port = named.by_port.get(&u32::from(port));
    let mut indexes: Vec<usize> = of_port
        .into_iter()
        .flatten()
        .chain(&named.any_port)
        .copied()
        .collect();
    indexes.sort_unstable();
    indexes
        .into_iter()
        .filter_map(|index| attach(context, index, server))
        .collect()
}

/// The VirtualService at `index` with a server of a Gateway that it names, when
/// it serves it.
pub fn attach<'a>(
    context: &Context<'a>,
    index: usize,
    server: &Server<'_>,
) -> Option<Attached<'a>> {
    let Candidate {
        object,
        route_hosts,
        ..
    } = &context.candidates.all[index];
    let own = &object.meta.id.namespace;
    let from = context.namespace(&server.gateway.meta.id.namespace);
    if !hosts::exported(&object.spec.export_to, own, from) {
        return None;
    }
    let of_namespace = |host: &&ServerHost| {
        let namespace = host.namespace.as_ref();
        namespace.is_none_or(|namespace| namespace == own)
    };
    let taken = || server.hosts.iter().filter(of_namespace);
    let names: Vec<HostPattern> = taken()
        .flat_map(|server| {
            let both = |route| server.pattern.intersect(route);
            route_hosts.iter().filter_map(both)
        })
        .collect();
    (!names.is_empty()).then(|| Attached {
        index,
        object,
        names: hosts::widest(names),
        server_hosts: taken().map(|host| host.pattern.clone()).collect(),
        route_hosts,
    })
}

/// For what a rule's match is judged: the conditions that are settled before
/// any connection comes.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The Gateway of the server.
    pub gateway: &'a ObjectId,
    /// The server's port.
    pub port: u16,
    /// What carries it.
    pub transport: Transport,
    /// Whether requests come over TLS.
    pub secure: bool,
}

/// The part of a match that [`Scope`] settles.
pub struct Narrowing<'a> {
    pub gateways: &'a [String],
    pub port: Option<u32>,
    pub source_labels: &'a BTreeMap<String, String>,
    pub source_namespace: Option<&'a str>,
}

impl Scope<'_> {
    /// Whether a match of a rule in `namespace` can hold here at all.
    pub fn admits(
        &self,
        context: &Context<'_>,
        narrowing: &Narrowing<'_>,
        namespace: &str,
    ) -> bool {
        let Narrowing {
            gateways,
            port,
            source_labels,
            source_namespace,
        } = narrowing;
        let own = context.namespace(&self.gateway.namespace);
        (gateways.is_empty()
            || gateways
                .iter()
                .any(|name| hosts::gateway(name, namespace).as_ref() == Some(self.gateway)))
            && port.is_none_or(|port| port == u32::from(self.port))
            && includes(&context.options.labels, source_labels)
            && source_namespace.is_none_or(|namespace| namespace == own)
    }
}
