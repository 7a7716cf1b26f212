// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which VirtualServices serve which servers, and findings about those that
//! serve none.

use std::collections::BTreeMap;

use crate::{
    diagnostic::Reason,
    model::HostPattern,
    resource::{Object, ObjectId, istio::VirtualService},
    translate::{
        Context,
        endpoints::includes,
        hosts,
        istio::gateway::{Bind, Server, ServerAction, selected},
        list,
    },
};

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
    pub route_hosts: Vec<HostPattern>,
}

/// The VirtualServices of a server, in order of precedence.
pub fn attached<'a>(context: &Context<'a>, server: &Server<'_>) -> Vec<Attached<'a>> {
    let resources = context.resources;
    resources
        .virtual_services
        .iter()
        .enumerate()
        .filter_map(|(index, object)| attach(context, index, object, server))
        .collect()
}

fn attach<'a>(
    context: &Context<'_>,
    index: usize,
    object: &'a Object<VirtualService>,
    server: &Server<'_>,
) -> Option<Attached<'a>> {
    let own = &object.meta.id.namespace;
    let gateway = &server.gateway.meta.id;
    let lists_gateway = object
        .spec
        .gateways
        .iter()
        .any(|name| hosts::gateway(name, own).as_ref() == Some(gateway));
    let from = context.namespace(&gateway.namespace);
    if !lists_gateway || !hosts::exported(&object.spec.export_to, own, from) {
        return None;
    }
    let route_hosts: Vec<HostPattern> = object
        .spec
        .hosts
        .iter()
        .flat_map(|host| hosts::route_hosts(host, own).unwrap_or_default())
        .collect();
    let server_hosts: Vec<HostPattern> = server
        .hosts
        .iter()
        .filter(|host| {
            host.namespace
                .as_ref()
                .is_none_or(|namespace| namespace == own)
        })
        .map(|host| host.pattern.clone())
        .collect();
    let names: Vec<HostPattern> = server_hosts
        .iter()
        .flat_map(|server| {
            route_hosts
                .iter()
                .filter_map(|route| server.intersect(route))
        })
        .collect();
    (!names.is_empty()).then(|| Attached {
        index,
        object,
        names: hosts::widest(names),
        server_hosts,
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

/// Findings about VirtualServices that serve nothing, or less than they say.
pub fn check(context: &mut Context<'_>, binds: &[Bind<'_>]) {
    let resources = context.resources;
    for (index, object) in resources.virtual_services.iter().enumerate() {
        check_shape(context, object);
        if !check_gateways(context, object) {
            continue;
        }
        let servers: Vec<&Server<'_>> = binds
            .iter()
            .flat_map(|bind| &bind.servers)
            .filter(|server| attach(context, index, object, server).is_some())
            .collect();
        if servers.is_empty() {
            if !object.spec.hosts.is_empty() {
                context.findings.warning(
                    object.meta.spec().key("hosts"),
                    Reason::HostMismatch,
                    format!(
                        "VirtualService {} serves nothing: no server of its gateways takes {} from namespace {}; compare hosts and exportTo",
                        object.meta.id,
                        list(&object.spec.hosts),
                        object.meta.id.namespace
                    ),
                );
            }
            continue;
        }
        check_blocks(context, object, &servers);
        let attach = |server: &&Server<'_>| attach(context, index, object, server);
        let all: Vec<Attached<'_>> = servers.iter().filter_map(attach).collect();
        let passing: Vec<Attached<'_>> = servers
            .iter()
            .filter(|server| {
                matches!(
                    server.action,
                    ServerAction::Passthrough | ServerAction::Refuse
                )
            })
            .filter_map(attach)
            .collect();
        check_hosts(context, object, &all);
        check_server_names(context, object, &passing);
    }
}

fn check_shape(context: &mut Context<'_>, object: &Object<VirtualService>) {
    let place = object.meta.spec();
    let spec = &object.spec;
    if spec.hosts.is_empty() {
        context.findings.error(
            place,
            Reason::MissingField,
            format!(
                "VirtualService {} has no hosts; without them it could only be a delegate, which is not supported",
                object.meta.id
            ),
        );
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        if let Err(error) = hosts::route_hosts(host, &object.meta.id.namespace) {
            context.findings.error(
                place.key("hosts").index(index),
                Reason::InvalidValue,
                format!("host {host:?}: {error}; it is not served"),
            );
        }
    }
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        context.findings.error(
            place,
            Reason::MissingField,
            format!(
                "VirtualService {} has no rules; give it http, tls or tcp",
                object.meta.id
            ),
        );
    }
}

/// Whether one of its gateways is served by this agent.
fn check_gateways(context: &mut Context<'_>, object: &Object<VirtualService>) -> bool {
    let place = object.meta.spec().key("gateways");
    let resources = context.resources;
    let mut served = false;
    let mut named = 0;
    for (index, name) in object.spec.gateways.iter().enumerate() {
        let Some(id) = hosts::gateway(name, &object.meta.id.namespace) else {
            continue;
        };
        named += 1;
        match resources
            .gateways
            .iter()
            .find(|gateway| gateway.meta.id == id)
        {
            Some(gateway) => served |= selected(context, &gateway.spec),
            None => context.findings.warning(
                place.index(index),
                Reason::MissingGateway,
                format!("there is no Gateway {id}; correct the name or write namespace/name"),
            ),
        }
    }
    if named == 0 {
        context.findings.warning(
            place,
            Reason::MissingGateway,
            format!(
                "VirtualService {} names no gateway and so is for sidecars only; list one under gateways",
                object.meta.id
            ),
        );
    }
    served
}

/// Hosts that no server takes, beside others that are taken.
fn check_hosts(
    context: &mut Context<'_>,
    object: &Object<VirtualService>,
    servers: &[Attached<'_>],
) {
    // They can be meant for sidecars.
    if object.spec.gateways.iter().any(|name| name == "mesh") {
        return;
    }
    let place = object.meta.spec().key("hosts");
    for (index, text) in object.spec.hosts.iter().enumerate() {
        let Ok(patterns) = hosts::route_hosts(text, &object.meta.id.namespace) else {
            continue;
        };
        let is_taken = servers
            .iter()
            .flat_map(|server| &server.server_hosts)
            .any(|host| patterns.iter().any(|own| host.intersect(own).is_some()));
        if !is_taken {
            context.findings.warning(
                place.index(index),
                Reason::HostMismatch,
                format!(
                    "no server of VirtualService {} takes host {text} from its namespace; it is not served",
                    object.meta.id
                ),
            );
        }
    }
}

/// Server names of `tls` rules that no server of the VirtualService takes.
fn check_server_names(
    context: &mut Context<'_>,
    object: &Object<VirtualService>,
    servers: &[Attached<'_>],
) {
    let Some(first) = servers.first() else {
        return;
    };
    let rules = object.meta.spec().key("tls");
    for (index, rule) in object.spec.tls.iter().enumerate() {
        let matches = rules.index(index).key("match");
        for (index, condition) in rule.matches.iter().enumerate() {
            let names = matches.index(index).key("sniHosts");
            for (index, text) in condition.sni_hosts.iter().enumerate() {
                let Ok(name) = HostPattern::parse(text) else {
                    continue;
                };
                let is_own = first.route_hosts.iter().any(|host| host.covers(&name));
                let is_taken = servers
                    .iter()
                    .flat_map(|server| &server.server_hosts)
                    .any(|host| host.intersect(&name).is_some());
                if is_own && !is_taken {
                    context.findings.warning(
                        names.index(index),
                        Reason::HostMismatch,
                        format!(
                            "server name {name} is not among the hosts of any server that passes TLS through for VirtualService {}; it is not served",
                            object.meta.id
                        ),
                    );
                }
            }
        }
    }
}

/// Rules of a kind that none of its servers reads.
fn check_blocks(
    context: &mut Context<'_>,
    object: &Object<VirtualService>,
    servers: &[&Server<'_>],
) {
    let reads = |server: &Server<'_>| match server.action {
        ServerAction::Http { .. } | ServerAction::TerminateHttp(_) => Some("http"),
        ServerAction::Passthrough => Some("tls"),
        ServerAction::Tcp | ServerAction::TerminateTcp(_) => Some("tcp"),
        ServerAction::Refuse => None,
    };
    let read: Vec<&str> = servers.iter().filter_map(|server| reads(server)).collect();
    // What a server that cannot be served would have read is not known.
    if read.len() < servers.len() {
        return;
    }
    let spec = &object.spec;
    for (block, given) in [
        ("http", !spec.http.is_empty()),
        ("tls", !spec.tls.is_empty()),
        ("tcp", !spec.tcp.is_empty()),
    ] {
        if !given || read.contains(&block) {
            continue;
        }
        let server = servers[0];
        let does = match server.action {
            ServerAction::Http { .. } => "is plain HTTP",
            ServerAction::TerminateHttp(_) => "terminates TLS and reads HTTP",
            ServerAction::TerminateTcp(_) => "terminates TLS",
            ServerAction::Passthrough => "passes TLS through",
            ServerAction::Tcp => "is plain TCP",
            ServerAction::Refuse => "is not served",
        };
        context.findings.warning(
            object.meta.spec().key(block),
            Reason::InvalidValue,
            format!(
                "{block} rules of VirtualService {} have no effect: the {} {does}; use {} rules",
                object.meta.id,
                server.label(),
                reads(server).unwrap_or(read[0])
            ),
        );
    }
}
