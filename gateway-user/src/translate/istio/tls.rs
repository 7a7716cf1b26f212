// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TLS listeners: one chain for each set of server names.

use std::collections::HashMap;

use crate::{
    diagnostic::Reason,
    model::{
        FlowLimits, ForwardingMode, HandoffPolicy, HashPolicy, HostPattern, Listener, ListenerKind,
        Sources, TcpDestination, TcpRoute, TlsAction, TlsChain, Transport,
    },
    origin::Origin,
    resource::Place,
    translate::{
        Context, hosts,
        istio::{
            attach::{Attached, Narrowing, Scope, attached},
            gateway::{Bind, Server, ServerAction},
            http, tcp,
        },
    },
};

/// The listener of TLS servers. It stands even without a chain: connections
/// are then refused and counted.
pub fn listener(context: &mut Context<'_>, bind: &Bind<'_>) -> Option<Listener> {
    let mut chains = Chains::default();
    let mut held: Vec<(Vec<HostPattern>, Origin)> = Vec::new();
    for server in &bind.servers {
        let origin = server.place.origin();
        match &server.action {
            ServerAction::Passthrough => passthrough(context, bind.port, server, &mut chains),
            ServerAction::TerminateTcp(tls) => match tcp::owner(context, server, bind.port) {
                None => held.push((server.patterns(), origin)),
                Some(route) => {
                    let action = TlsAction::TerminateTcp {
                        tls: tls.clone(),
                        route,
                    };
                    chains.add(context, server.patterns(), action, server.place);
                }
            },
            ServerAction::TerminateHttp(tls) => {
                let hosts = http::virtual_hosts(context, &[server], bind.port, true);
                let action = TlsAction::TerminateHttp {
                    tls: tls.clone(),
                    hosts,
                };
                chains.add(context, server.patterns(), action, server.place);
            }
            _ => held.push((server.patterns(), origin)),
        }
    }
    // Names of a server that cannot be served must not fall to a wider one.
    for (names, origin) in held {
        chains.hold(context, names, bind.port, origin);
    }
    Some(Listener {
        address: bind.address,
        port: bind.port,
        last_port: bind.last_port,
        kind: ListenerKind::Tls(chains.all),
        origin: bind.servers[0].place.origin(),
        sources: Sources::everyone(),
        limits: FlowLimits::default(),
    })
}

/// Chains whose names are disjoint.
#[derive(Default)]
struct Chains {
    all: Vec<TlsChain>,
    /// Whose each name is: a position in `all`.
    owners: HashMap<HostPattern, usize>,
}

impl Chains {
    fn owner(&self, name: &HostPattern) -> Option<&TlsChain> {
        self.owners.get(name).map(|index| &self.all[*index])
    }

    fn push(&mut self, chain: TlsChain) {
        let index = self.all.len();
        let names = chain.names.iter().cloned();
        self.owners.extend(names.map(|name| (name, index)));
        self.all.push(chain);
    }

    /// Adds a chain for those of `names` that no earlier chain has.
    fn add(
        &mut self,
        context: &mut Context<'_>,
        names: Vec<HostPattern>,
        action: TlsAction,
        place: Place<'_>,
    ) {
        let mut free = Vec::new();
        for name in names {
            match self.owner(&name) {
                None => free.push(name),
                Some(first) => context.findings.error(
                    place,
                    Reason::DuplicateHost,
                    format!(
                        "server name {name} already belongs to {}; it is not served from here",
                        first.origin
                    ),
                ),
            }
        }
        if !free.is_empty() {
            self.push(TlsChain {
                names: free,
                action,
                origin: place.origin(),
            });
        }
    }

    /// Refuses those of `names` that a wider chain would otherwise take.
    fn hold(
        &mut self,
        context: &mut Context<'_>,
        names: Vec<HostPattern>,
        port: u16,
        origin: Origin,
    ) {
        let names: Vec<HostPattern> = names
            .into_iter()
            .filter(|name| {
                self.owner(name).is_none() && self.owners.keys().any(|wide| wide.covers(name))
            })
            .collect();
        if names.is_empty() {
            return;
        }
        let refusal = context.refusal(port, 1);
        self.push(TlsChain {
            names,
            action: TlsAction::Passthrough(TcpRoute {
                origin: origin.clone(),
                destinations: vec![TcpDestination {
                    cluster: refusal.cluster,
                    weight: 1,
                }],
                idle_timeout: None,
                hash_policy: HashPolicy::default(),
                forwarding: ForwardingMode::default(),
                handoff: HandoffPolicy::default(),
            }),
            origin,
        });
    }
}

/// Chains of a server that passes TLS through: one for each `tls` rule.
fn passthrough(context: &mut Context<'_>, port: u16, server: &Server<'_>, chains: &mut Chains) {
    let scope = Scope {
        gateway: &server.gateway.meta.id,
        port,
        transport: Transport::Tcp,
        secure: true,
    };
    let before = chains.all.len();
    for attached in attached(context, server) {
        let meta = &attached.object.meta;
        for (index, rule) in attached.object.spec.tls.iter().enumerate() {
            let place = meta.spec().key("tls").index(index);
            if tcp::refuses_unknown_conditions(context, place) {
                continue;
            }
            if rule.matches.is_empty() {
                context.findings.error(
                    place,
                    Reason::MissingField,
                    "a tls rule needs a match with sniHosts; it is dropped",
                );
            }
            let mut names = Vec::new();
            for (index, condition) in rule.matches.iter().enumerate() {
                let place = place.key("match").index(index);
                if !condition.destination_subnets.is_empty() {
                    context
                        .findings
                        .not_acted_on(place.key("destinationSubnets"), "destinationSubnets");
                }
                let admitted = scope.admits(
                    context,
                    &Narrowing {
                        gateways: &condition.gateways,
                        port: condition.port,
                        source_labels: &condition.source_labels,
                        source_namespace: condition.source_namespace.as_deref(),
                    },
                    &meta.id.namespace,
                );
                if condition.sni_hosts.is_empty() {
                    context.findings.error(
                        place,
                        Reason::MissingField,
                        "a match of a tls rule needs sniHosts; it is dropped",
                    );
                }
                if admitted {
                    names.extend(server_names(
                        context,
                        &attached,
                        &condition.sni_hosts,
                        place,
                    ));
                }
            }
            let names = hosts::widest(names);
            if names.is_empty() {
                continue;
            }
            let route = tcp::route(context, meta, &rule.route, place, scope, "tls");
            chains.add(context, names, TlsAction::Passthrough(route), place);
        }
    }
    if chains.all.len() == before {
        context.findings.warning(
            server.place,
            Reason::NoRoute,
            format!(
                "no tls rule of a VirtualService serves the {} (port {port}); connections are refused",
                server.label()
            ),
        );
    }
}

/// The server names of one match, as far as the server takes them. Istio takes
/// the names of the rule alone, which lets a rule serve hosts that its server
/// does not offer (istio#59229).
fn server_names(
    context: &mut Context<'_>,
    attached: &Attached<'_>,
    sni_hosts: &[String],
    place: Place<'_>,
) -> Vec<HostPattern> {
    let mut names = Vec::new();
    for (index, text) in sni_hosts.iter().enumerate() {
        let place = place.key("sniHosts").index(index);
        let wanted = match HostPattern::parse(text) {
            Ok(wanted) => wanted,
            Err(error) => {
                context.findings.error(
                    place,
                    Reason::InvalidValue,
                    format!("server name {text:?}: {error}; it is not served"),
                );
                continue;
            }
        };
        if !attached.route_hosts.iter().any(|host| host.covers(&wanted)) {
            context.findings.error(
                place,
                Reason::HostMismatch,
                format!(
                    "server name {wanted} is not among the hosts of VirtualService {}; it is not served",
                    attached.object.meta.id
                ),
            );
            continue;
        }
        names.extend(
            attached
                .server_hosts
                .iter()
                .filter_map(|host| host.intersect(&wanted)),
        );
    }
    names
}
