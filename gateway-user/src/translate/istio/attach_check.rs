// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Findings about VirtualServices that serve nothing, or less than they say.

use std::collections::HashMap;

use crate::{
    diagnostic::Reason,
    model::HostPattern,
    resource::{Object, ObjectId, istio::VirtualService},
    translate::{
        Context, hosts,
        istio::{
            attach::{Attached, attach},
            gateway::{Bind, Server, ServerAction, selected},
        },
        list,
    },
};

/// Compares every VirtualService with the servers of its gateways.
pub fn check(context: &mut Context<'_>, binds: &[Bind<'_>]) {
    let resources = context.resources;
    let gateways: HashMap<&ObjectId, bool> = resources
        .gateways
        .iter()
        .rev()
        .map(|gateway| (&gateway.meta.id, selected(context, &gateway.spec)))
        .collect();
    let mut by_gateway: HashMap<&ObjectId, Vec<&Server<'_>>> = HashMap::new();
    let mut by_port: HashMap<(&ObjectId, u32), Vec<&Server<'_>>> = HashMap::new();
    for bind in binds {
        for server in &bind.servers {
            let gateway = &server.gateway.meta.id;
            by_gateway.entry(gateway).or_default().push(server);
            let place = (gateway, u32::from(bind.port));
            by_port.entry(place).or_default().push(server);
        }
    }
    for (index, candidate) in context.candidates.all.iter().enumerate() {
        let object = candidate.object;
        check_shape(context, object);
        if !check_gateways(context, object, &gateways) {
            continue;
        }
        let of_ports: Vec<&Server<'_>> = candidate
            .only_ports
            .iter()
            .flatten()
            .flat_map(|port| candidate.gateways.iter().map(|gateway| (gateway, *port)))
            .filter_map(|place| by_port.get(&place))
            .flatten()
            .copied()
            .collect();
        let of_gateways = candidate
            .gateways
            .iter()
            .filter_map(|gateway| by_gateway.get(gateway))
            .flatten();
        let (mut servers, mut all) = serving(context, index, of_ports.iter());
        if servers.is_empty() {
            (servers, all) = serving(context, index, of_gateways);
        }
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
        check_hosts(context, object, &all);
        let passes = |server: &Server<'_>| {
            matches!(
                server.action,
                ServerAction::Passthrough | ServerAction::Refuse
            )
        };
        let passing: Vec<&Attached<'_>> = servers
            .iter()
            .zip(&all)
            .filter(|(server, _)| passes(server))
            .map(|(_, attached)| attached)
            .collect();
        check_server_names(context, object, &passing);
    }
}

/// Those of `servers` that the VirtualService at `index` serves.
fn serving<'s, 'g: 's, 'a>(
    context: &Context<'a>,
    index: usize,
    servers: impl Iterator<Item = &'s &'s Server<'g>>,
) -> (Vec<&'s Server<'g>>, Vec<Attached<'a>>) {
    servers
        .filter_map(|server| Some((*server, attach(context, index, server)?)))
        .unzip()
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

/// Whether one of its gateways is served by this agent. `gateways` says of each
/// that there is whether this agent serves it.
fn check_gateways(
    context: &mut Context<'_>,
    object: &Object<VirtualService>,
    gateways: &HashMap<&ObjectId, bool>,
) -> bool {
    let place = object.meta.spec().key("gateways");
    let mut served = false;
    let mut named = 0;
    for (index, name) in object.spec.gateways.iter().enumerate() {
        let Some(id) = hosts::gateway(name, &object.meta.id.namespace) else {
            continue;
        };
        named += 1;
        match gateways.get(&id) {
            Some(selected) => served |= selected,
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
    servers: &[&Attached<'_>],
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
        ServerAction::Tcp | ServerAction::Udp | ServerAction::TerminateTcp(_) => Some("tcp"),
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
            ServerAction::Udp => "is UDP",
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
