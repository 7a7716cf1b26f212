// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules for whole connections: raw TCP, and TLS that ends here. Istio has no
//! block of its own for UDP; `tcp` rules serve it as well.

use crate::{
    diagnostic::Reason,
    model::{
        FlowLimits, ForwardingMode, HashPolicy, Listener, ListenerKind, Sources, TcpDestination,
        TcpRoute, Transport,
    },
    resource::{Meta, Place, istio::virtual_service::RouteDestination},
    translate::{
        Context, handoff,
        istio::{
            attach::{Narrowing, Scope, attached_at},
            destination::{FORWARDING, Resolved, shares},
            gateway::{Bind, Server},
        },
        list,
    },
};

/// The listener of a TCP or UDP server; none without a rule for it.
pub fn listener(context: &mut Context<'_>, bind: &Bind<'_>) -> Option<Listener> {
    let server = &bind.servers[0];
    let route = owner(context, server, bind.port)?;
    if server.transport() == Transport::Tcp {
        warn_of_the_kernels(context, &route, server);
    }
    Some(Listener {
        address: bind.address,
        port: bind.port,
        last_port: bind.last_port,
        kind: match server.transport() {
            Transport::Tcp => ListenerKind::Forward(route),
            Transport::Udp => ListenerKind::ForwardUdp(route),
        },
        origin: server.place.origin(),
        sources: Sources::everyone(),
        limits: FlowLimits::default(),
    })
}

/// The one `tcp` rule that takes every connection of a server: the first that
/// fits, of the first VirtualService that has one.
pub fn owner(context: &mut Context<'_>, server: &Server<'_>, port: u16) -> Option<TcpRoute> {
    let scope = Scope {
        gateway: &server.gateway.meta.id,
        port,
        transport: server.transport(),
        secure: false,
    };
    let mut found: Option<TcpRoute> = None;
    for attached in attached_at(context, server, port) {
        let meta = &attached.object.meta;
        for (index, rule) in attached.object.spec.tcp.iter().enumerate() {
            let place = meta.spec().key("tcp").index(index);
            if refuses_unknown_conditions(context, place) {
                continue;
            }
            let mut fits = rule.matches.is_empty();
            for (index, condition) in rule.matches.iter().enumerate() {
                let place = place.key("match").index(index);
                if !condition.destination_subnets.is_empty() || condition.source_subnet.is_some() {
                    context.findings.error(
                        place,
                        Reason::UnsupportedField,
                        "matching by subnet is not supported; this match is dropped, because without its subnets it would take more",
                    );
                    continue;
                }
                fits |= scope.admits(
                    context,
                    &Narrowing {
                        gateways: &condition.gateways,
                        port: condition.port,
                        source_labels: &condition.source_labels,
                        source_namespace: condition.source_namespace.as_deref(),
                    },
                    &meta.id.namespace,
                );
            }
            if !fits {
                continue;
            }
            match &found {
                None => {
                    found = Some(route(context, meta, &rule.route, place, scope, "tcp"));
                }
                Some(first) => context.findings.warning(
                    place,
                    Reason::Shadowed,
                    format!(
                        "this tcp rule of VirtualService {} is never reached: the rule at {} takes every connection of port {port}",
                        meta.id, first.origin
                    ),
                ),
            }
        }
    }
    if found.is_none() {
        context.findings.warning(
            server.place,
            Reason::NoRoute,
            format!(
                "no tcp rule of a VirtualService serves the {} (port {port}); connections are refused",
                server.label()
            ),
        );
    }
    found
}

/// Whether a rule has conditions this gateway does not know: without them it
/// would take connections it was not meant for.
pub fn refuses_unknown_conditions(context: &mut Context<'_>, place: Place<'_>) -> bool {
    let mut unknown = place.key("match").unknown_fields();
    unknown.extend(
        place
            .unknown_fields_here()
            .into_iter()
            .filter(|key| is_nearly_match(key)),
    );
    if unknown.is_empty() {
        return false;
    }
    context.findings.error(
        place.key("match"),
        Reason::UnknownField,
        format!(
            "this rule is dropped, because without its unknown condition {} it would match more; correct or remove it",
            unknown.join(", ")
        ),
    );
    true
}

/// Whether `key` was meant to be `match`: in another case, with its letters in
/// another order, with one missing, or with more at the end.
fn is_nearly_match(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let letters = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    let wanted = letters("match");
    let found = letters(&key);
    let without = |index: usize| {
        let mut fewer = wanted.clone();
        fewer.remove(index);
        fewer
    };
    key.starts_with("match")
        || found == wanted
        || (0..wanted.len()).any(|index| found == without(index))
}

/// What is wrapped keeps its port, which so is the backend's as well.
fn warn_of_other_ports(context: &mut Context<'_>, found: &[Resolved], port: u16, place: Place<'_>) {
    let other = found.iter().find_map(|found| {
        let cluster = context.clusters.get(&found.cluster)?;
        let mut ports = cluster.endpoints.iter().map(|endpoint| endpoint.port);
        Some((cluster.id.to_string(), ports.find(|other| *other != port)?))
    });
    if let Some((cluster, other)) = other {
        context.findings.warning(
            place,
            Reason::InvalidValue,
            format!(
                "dsr leaves the port of packets as it is: endpoints of {cluster} get port {port} and not {other}, which serves probes and the agent alone"
            ),
        );
    }
}

/// A route whose connections begin with a PROXY header is the agent's: what is
/// for the kernel has no effect on it.
fn warn_of_the_kernels(context: &mut Context<'_>, route: &TcpRoute, server: &Server<'_>) {
    let Some(cluster) = context.header_of(route).map(ToString::to_string) else {
        return;
    };
    let mut named = Vec::new();
    if route.forwarding != ForwardingMode::Auto {
        named.push(FORWARDING);
    }
    let ids = route.destinations.iter().map(|to| &to.cluster);
    let mut clusters = ids.filter_map(|id| context.clusters.get(id));
    if clusters.any(|cluster| cluster.limits != FlowLimits::default()) {
        named.push("limits of new flows");
    }
    if !named.is_empty() {
        context.findings.warning(
            server.place,
            Reason::UnsupportedField,
            format!(
                "no effect on the {}: {}; connections to {cluster} begin with a PROXY header and are relayed by the agent",
                server.label(),
                list(named)
            ),
        );
    }
}

/// Destinations of a rule. Where none can be used, connections are refused
/// rather than left to another rule.
pub fn route(
    context: &mut Context<'_>,
    meta: &Meta,
    destinations: &[RouteDestination],
    place: Place<'_>,
    scope: Scope<'_>,
    protocol: &str,
) -> TcpRoute {
    let weights: Vec<Option<i64>> = destinations.iter().map(|d| d.weight).collect();
    let mut resolved: Vec<Resolved> = Vec::new();
    if destinations.is_empty() {
        context.findings.error(
            place,
            Reason::MissingField,
            format!(
                "a {protocol} rule needs a route with a destination; its connections are refused"
            ),
        );
    } else {
        match shares(&weights) {
            Err(error) => context.findings.error(
                place.key("route"),
                Reason::InvalidValue,
                format!("{error}; connections of this rule are refused"),
            ),
            Ok(shares) => {
                for (index, (destination, share)) in destinations.iter().zip(shares).enumerate() {
                    if share == 0 {
                        continue;
                    }
                    let place = place.key("route").index(index).key("destination");
                    let found = context
                        .resolve(destination.destination.as_ref(), share, place, meta, scope)
                        .unwrap_or_else(|| context.refusal(scope.port, share));
                    resolved.push(found);
                }
            }
        }
    }
    if resolved.is_empty() {
        resolved.push(context.refusal(scope.port, 1));
    }
    let first = resolved[0].policy.clone();
    let forwarding = context
        .forwarding(meta)
        .or_else(|| resolved.iter().find_map(|found| found.forwarding))
        .unwrap_or(ForwardingMode::Auto);
    let handoff = resolved.iter().fold(
        handoff::at(meta, scope.port, &mut context.findings),
        |policy, found| policy.or(found.handoff),
    );
    if forwarding == ForwardingMode::Dsr && protocol == "tcp" {
        warn_of_other_ports(context, &resolved, scope.port, place);
    }
    TcpRoute {
        origin: place.origin(),
        destinations: resolved
            .into_iter()
            .map(|found| TcpDestination {
                cluster: found.cluster,
                weight: found.weight,
            })
            .collect(),
        idle_timeout: first.idle_timeout,
        hash_policy: if first.by_source {
            HashPolicy::SourceAddress
        } else {
            HashPolicy::FiveTuple
        },
        forwarding,
        handoff,
    }
}
