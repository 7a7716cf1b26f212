// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Annotations that say which client addresses may connect.
//!
//! They stand on a Gateway, for its servers, or on the Service or ServiceEntry
//! that defines a host. With `.PORT` behind its name an annotation is for that
//! port alone, and wins there. What is denied is denied whatever is allowed;
//! with a list of those allowed all others are denied. A list that cannot be
//! read keeps out whom it might have been meant for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    diagnostic::Reason,
    model::Sources,
    resource::{Meta, Object, Place, core, istio::Gateway},
    translate::{Context, Findings, annotations, istio::gateway::Bind},
};

const ALLOW: &str = "sluice.dev/allow-sources";
const DENY: &str = "sluice.dev/deny-sources";

/// Every annotation read here, as it is without a port.
pub const KEYS: &[&str] = &[ALLOW, DENY];

/// What one object says.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    all: Lists,
    ports: BTreeMap<u16, Lists>,
    /// Those of another field, which hold besides.
    besides: Sources,
}

/// What is said for a port or for all.
#[derive(Clone, Debug, Default)]
struct Lists {
    allowed: Option<Sources>,
    denied: Option<Sources>,
}

impl Settings {
    /// Reads the annotations of an object, with findings.
    pub fn read(meta: &Meta, findings: &mut Findings) -> Self {
        let read = |suffix: &str| Lists::read(meta, suffix, findings);
        let (all, ports) = annotations::by_port(meta, KEYS, read);
        Self {
            all,
            ports,
            besides: Sources::everyone(),
        }
    }

    /// The same for a Gateway, whose servers have the ports.
    pub fn of_gateway(gateway: &Object<Gateway>, findings: &mut Findings) -> Self {
        let known = gateway_ports(gateway);
        annotations::check_ports(KEYS, &gateway.meta, &known, findings);
        Self::read(&gateway.meta, findings)
    }

    /// The same for a Service, whose `loadBalancerSourceRanges` hold besides.
    pub fn of_service(service: &Object<core::Service>, findings: &mut Findings) -> Self {
        let mut settings = Self::read(&service.meta, findings);
        let ranges = &service.spec.load_balancer_source_ranges;
        // Kubernetes allows the field for no other type.
        if service.spec.kind.as_deref() == Some("LoadBalancer") && !ranges.is_empty() {
            let place = service.meta.spec().key("loadBalancerSourceRanges");
            let texts = ranges.iter().map(String::as_str);
            settings.besides = networks(texts, place, findings).0;
        }
        settings
    }

    /// Who may connect to a port.
    pub fn at(&self, port: u16) -> Sources {
        let own = self.ports.get(&port);
        let list = |of: fn(&Lists) -> &Option<Sources>| {
            own.and_then(|own| of(own).as_ref())
                .or_else(|| of(&self.all).as_ref())
        };
        let mut sources = self.besides.clone();
        if let Some(allowed) = list(|lists| &lists.allowed) {
            sources = sources.intersection(allowed);
        }
        if let Some(denied) = list(|lists| &lists.denied) {
            sources = sources.intersection(&denied.complement());
        }
        sources
    }
}

impl Lists {
    fn read(meta: &Meta, suffix: &str, findings: &mut Findings) -> Self {
        let mut list = |base: &str| {
            let key = format!("{base}{suffix}");
            let text = meta.annotations.get(&key)?;
            let entries = text.split(',').map(str::trim);
            let entries: Vec<&str> = entries.filter(|entry| !entry.is_empty()).collect();
            let place = meta.annotation(&key);
            if entries.is_empty() {
                findings.error(
                    place,
                    Reason::MissingField,
                    format!("{key} is empty; name networks such as 192.0.2.0/24, separated by commas, or remove it"),
                );
            }
            Some(networks(entries, place, findings))
        };
        Self {
            allowed: list(ALLOW).map(|(sources, _)| sources),
            denied: list(DENY).map(|(sources, complete)| {
                if complete {
                    sources
                } else {
                    Sources::everyone()
                }
            }),
        }
    }
}

/// Ports of a Gateway's servers.
pub fn gateway_ports(gateway: &Object<Gateway>) -> Vec<u16> {
    let servers = gateway.spec.servers.iter();
    let numbers = servers.filter_map(|server| server.port.as_ref()?.number);
    numbers
        .filter_map(|number| u16::try_from(number).ok())
        .collect()
}

/// The addresses of networks or single addresses; false when one cannot be read.
pub fn networks<'t>(
    texts: impl IntoIterator<Item = &'t str>,
    place: Place<'_>,
    findings: &mut Findings,
) -> (Sources, bool) {
    let mut complete = true;
    let mut networks: Vec<IpNet> = Vec::new();
    for text in texts {
        match network(text) {
            Some(network) => networks.push(network),
            None => {
                complete = false;
                findings.error(
                    place,
                    Reason::InvalidValue,
                    format!(
                        "{text:?} is neither an address nor a network such as 192.0.2.0/24 or 2001:db8::/32; until it is corrected, the sources it may stand for are refused"
                    ),
                );
            }
        }
    }
    (Sources::of(networks), complete)
}

fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    // IPv4 addresses in their IPv6 form are compared as what they are.
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => IpNet::new(v4.into(), v6.prefix_len() - 96).ok(),
            None => Some(network),
        },
        other => Some(other),
    }
}

/// Who may connect to the servers of an address and port: those that all of
/// their Gateways and policies take.
pub fn of_bind(context: &mut Context<'_>, bind: &Bind<'_>) -> Sources {
    let first = &bind.servers[0];
    let mut sources = first.sources.clone();
    for other in &bind.servers[1..] {
        if other.sources != first.sources && other.gateway.meta.id != first.gateway.meta.id {
            context.findings.warning(
                other.place,
                Reason::Conflict,
                format!(
                    "port {} is shared with the {}, which takes other sources; only those that both take are served: use the same {ALLOW} and {DENY}, or another port or bind",
                    bind.port,
                    first.label()
                ),
            );
        }
        sources = sources.intersection(&other.sources);
    }
    let namespaces: BTreeSet<&str> = bind
        .servers
        .iter()
        .map(|server| context.namespace(&server.gateway.meta.id.namespace))
        .collect();
    let ports = bind.port..=bind.last_port;
    sources.intersection(&context.authorization.sources(&namespaces, &ports))
}
