// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Servers of Gateways, checked and merged by address and port.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
};

use crate::{
    diagnostic::Reason,
    model::{FlowLimits, HostPattern, ListenAddress, Sources, TlsSettings, Transport},
    resource::{
        Object, Place,
        istio::{Gateway, gateway::Server as ServerShape},
    },
    translate::{
        Context, Findings,
        endpoints::{includes, port_number},
        flow_limits,
        hosts::ServerHost,
        istio::{
            port_ranges::{PORT_RANGES, PortRanges, Taken},
            server_tls::{only_redirect, tls_action},
        },
        list, sources,
    },
};

/// The servers of one address and port, in order of precedence.
pub struct Bind<'a> {
    pub address: ListenAddress,
    /// The first one of a range.
    pub port: u16,
    /// The last one of a range, else the same again.
    pub last_port: u16,
    pub family: Family,
    pub servers: Vec<Server<'a>>,
}

/// What can share an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Any number of servers, told apart by Host.
    Http,
    /// Any number of servers, told apart by server name.
    Tls,
    /// One server.
    Tcp,
    /// One server, beside those of TCP.
    Udp,
}

/// A server that has been checked.
pub struct Server<'a> {
    pub gateway: &'a Object<Gateway>,
    pub place: Place<'a>,
    pub hosts: Vec<ServerHost>,
    pub action: ServerAction,
    /// Who may connect, as its Gateway says.
    pub sources: Sources,
    /// Limits of its new flows, as its Gateway says.
    pub limits: FlowLimits,
}

/// What a server does with its connections.
pub enum ServerAction {
    /// Plain HTTP.
    Http {
        /// Answer 301 to https.
        https_redirect: bool,
    },
    /// TLS untouched.
    Passthrough,
    /// TLS ends here; raw bytes go on.
    TerminateTcp(TlsSettings),
    /// TLS ends here; requests go on.
    TerminateHttp(TlsSettings),
    /// Raw bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// Its hosts are held, and refused, because it cannot be served.
    Refuse,
}

impl Server<'_> {
    /// Its hosts without namespaces.
    pub fn patterns(&self) -> Vec<HostPattern> {
        let mut patterns: Vec<_> = self.hosts.iter().map(|host| host.pattern.clone()).collect();
        patterns.sort();
        patterns.dedup();
        patterns
    }

    fn family(&self) -> Family {
        match self.action {
            ServerAction::Http { .. } => Family::Http,
            ServerAction::Tcp => Family::Tcp,
            ServerAction::Udp => Family::Udp,
            _ => Family::Tls,
        }
    }

    /// Its first and last port. HTTP has pools by endpoint, and so no ranges.
    fn ports(&self, port: u16, ranges: &PortRanges, findings: &mut Findings) -> (u16, u16) {
        match (ranges.last(port), &self.action) {
            (None, _) => (port, port),
            (Some(_), ServerAction::Http { .. } | ServerAction::TerminateHttp(_)) => {
                findings.error(
                    self.gateway.meta.annotation(PORT_RANGES),
                    Reason::InvalidValue,
                    format!(
                        "{PORT_RANGES}: ranges are for servers of TCP, UDP and TLS; the one of HTTP at {} serves port {port} alone",
                        self.place.origin()
                    ),
                );
                (port, port)
            }
            (Some(last), _) => (port, last),
        }
    }

    /// What carries it.
    pub fn transport(&self) -> Transport {
        match self.action {
            ServerAction::Udp => Transport::Udp,
            _ => Transport::Tcp,
        }
    }

    /// How it is called in messages.
    pub fn label(&self) -> String {
        format!(
            "Gateway {} server at {}",
            self.gateway.meta.id,
            self.place.origin()
        )
    }
}

/// Whether the selector of `gateway` fits this agent.
pub fn selected(context: &Context<'_>, gateway: &Gateway) -> bool {
    includes(&context.options.labels, &gateway.selector)
}

/// Every server this agent serves, by address and port.
pub fn binds<'a>(context: &mut Context<'a>) -> Vec<Bind<'a>> {
    let mut binds = Binds::default();
    let resources = context.resources;
    for gateway in &resources.gateways {
        let place = gateway.meta.spec();
        if !selected(context, &gateway.spec) {
            let labels = list(
                context
                    .options
                    .labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}")),
            );
            context.findings.warning(
                place.key("selector"),
                Reason::MissingGateway,
                format!(
                    "Gateway {} does not select this agent, whose labels are {{{labels}}}; it is not served here",
                    gateway.meta.id
                ),
            );
            continue;
        }
        // Without what was meant as its selector it would be for every agent.
        let unknown = place.unknown_fields_here();
        if gateway.spec.selector.is_empty() && !unknown.is_empty() {
            context.findings.error(
                place,
                Reason::UnknownField,
                format!(
                    "Gateway {} has no selector but the unknown {}, and so would be for every agent; it is not served: correct or remove that field",
                    gateway.meta.id,
                    unknown.join(", ")
                ),
            );
            continue;
        }
        if gateway.spec.servers.is_empty() {
            context.findings.error(
                place,
                Reason::MissingField,
                format!("Gateway {} has no servers", gateway.meta.id),
            );
        }
        let ranges = PortRanges::read(gateway, &mut context.findings);
        let settings = sources::Settings::of_gateway(gateway, &mut context.findings);
        let limits = flow_limits::Settings::of_gateway(gateway, &mut context.findings);
        let mut names = BTreeSet::new();
        for (index, shape) in gateway.spec.servers.iter().enumerate() {
            let place = place.key("servers").index(index);
            if let Some(name) = shape.port.as_ref().and_then(|port| port.name.as_deref())
                && !names.insert(name)
            {
                context.findings.warning(
                    place.key("port").key("name"),
                    Reason::InvalidValue,
                    format!("the port name {name:?} is used twice in this Gateway; rename one"),
                );
            }
            let Some((address, port, mut server)) = server(context, gateway, shape, place) else {
                continue;
            };
            server.sources = settings.at(port);
            server.limits = limits.at(port);
            let ports = server.ports(port, &ranges, &mut context.findings);
            merge(context, &mut binds, address, ports, server);
        }
    }
    binds.all
}

/// Binds in the order they came.
#[derive(Default)]
struct Binds<'a> {
    all: Vec<Bind<'a>>,
    /// Positions in `all`.
    places: HashMap<(ListenAddress, u16, Transport), usize>,
    ranges: Taken,
}

/// Adds a server to those of its address and port, or says why it cannot be:
/// the first keeps what it has.
fn merge<'a>(
    context: &mut Context<'a>,
    binds: &mut Binds<'a>,
    address: ListenAddress,
    (port, last_port): (u16, u16),
    server: Server<'a>,
) {
    let family = server.family();
    let of = (address, server.transport());
    if let Some(why) = binds.ranges.refusal(of, (port, last_port)) {
        let message = format!(
            "{why}; this server of Gateway {} is not served",
            server.gateway.meta.id
        );
        context
            .findings
            .error(server.place, Reason::Conflict, message);
        return;
    }
    let bind = match binds.places.entry((address, port, server.transport())) {
        Entry::Occupied(place) => &mut binds.all[*place.get()],
        Entry::Vacant(free) => {
            free.insert(binds.all.len());
            binds.ranges.take(of, (port, last_port));
            binds.all.push(Bind {
                address,
                port,
                last_port,
                family,
                servers: vec![server],
            });
            return;
        }
    };
    let first = bind.servers[0].label();
    if bind.last_port != last_port {
        context.findings.error(
            server.place,
            Reason::Conflict,
            format!(
                "port {port} belongs to the {first} {}; this server of Gateway {} is not served: give both Gateways the same {PORT_RANGES}",
                if bind.last_port == port { "alone" } else { "with a range" },
                server.gateway.meta.id
            ),
        );
        return;
    }
    if bind.family != family || matches!(family, Family::Tcp | Family::Udp) {
        let protocol = |family| match family {
            Family::Http => "HTTP",
            Family::Tls => "TLS",
            Family::Tcp => "TCP",
            Family::Udp => "UDP",
        };
        context.findings.error(
            server.place,
            Reason::Conflict,
            format!(
                "port {port} already belongs to the {} {first}; this {} server of Gateway {} is not served: give it another port or bind",
                protocol(bind.family),
                protocol(family),
                server.gateway.meta.id
            ),
        );
        return;
    }
    if family == Family::Tls {
        let patterns = server.patterns();
        for other in &bind.servers {
            let taken = other.patterns();
            if let Some(host) = patterns.iter().find(|host| taken.contains(host)) {
                context.findings.error(
                    server.place.key("hosts"),
                    Reason::DuplicateHost,
                    format!(
                        "host {host} on port {port} already belongs to the {}; this server of Gateway {} is not served",
                        other.label(),
                        server.gateway.meta.id
                    ),
                );
                // Its other hosts must not fall to a wider server.
                let hosts = server
                    .hosts
                    .into_iter()
                    .filter(|host| !taken.contains(&host.pattern))
                    .collect();
                bind.servers.push(Server {
                    hosts,
                    action: ServerAction::Refuse,
                    ..server
                });
                return;
            }
        }
    }
    bind.servers.push(server);
}

fn server<'a>(
    context: &mut Context<'a>,
    gateway: &'a Object<Gateway>,
    shape: &'a ServerShape,
    place: Place<'a>,
) -> Option<(ListenAddress, u16, Server<'a>)> {
    let Some(port_shape) = &shape.port else {
        context.findings.error(
            place,
            Reason::MissingField,
            "a server needs a port with number, name and protocol; it is not served",
        );
        return None;
    };
    let port_place = place.key("port");
    if port_shape.target_port.is_some() {
        context
            .findings
            .not_acted_on(port_place.key("targetPort"), "targetPort");
    }
    if shape.default_endpoint.is_some() {
        context
            .findings
            .not_acted_on(place.key("defaultEndpoint"), "defaultEndpoint");
    }
    let address = match shape.bind.as_deref() {
        None | Some("") => ListenAddress::Any,
        Some(text) => match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => ListenAddress::Any,
            Ok(ip) => ListenAddress::Ip(ip.to_canonical()),
            Err(_) => {
                let (reason, advice) = if text.starts_with("unix:") {
                    (Reason::UnsupportedField, "unix sockets are not supported")
                } else {
                    (Reason::InvalidValue, "it must be an IP address")
                };
                context.findings.error(
                    place.key("bind"),
                    reason,
                    format!("bind {text:?}: {advice}; this server is not served"),
                );
                return None;
            }
        },
    };
    let port = port_number(
        port_shape.number,
        port_place.key("number"),
        &mut context.findings,
    )?;
    let hosts = server_hosts(context, gateway, shape, place)?;
    let action = action(context, gateway, shape, &hosts, place)?;
    Some((
        address,
        port,
        Server {
            gateway,
            place,
            hosts,
            action,
            sources: Sources::everyone(),
            limits: FlowLimits::default(),
        },
    ))
}

fn server_hosts(
    context: &mut Context<'_>,
    gateway: &Object<Gateway>,
    shape: &ServerShape,
    place: Place<'_>,
) -> Option<Vec<ServerHost>> {
    let mut hosts = Vec::new();
    for (index, host) in shape.hosts.iter().enumerate() {
        match ServerHost::parse(host, &gateway.meta.id.namespace) {
            Ok(host) => hosts.push(host),
            Err(error) => context.findings.error(
                place.key("hosts").index(index),
                Reason::InvalidValue,
                format!("host {host:?}: {error}; it is not served"),
            ),
        }
    }
    if shape.hosts.is_empty() {
        context.findings.error(
            place,
            Reason::MissingField,
            "a server needs hosts; use \"*\" for all",
        );
    }
    (!hosts.is_empty()).then_some(hosts)
}

fn action(
    context: &mut Context<'_>,
    gateway: &Object<Gateway>,
    shape: &ServerShape,
    hosts: &[ServerHost],
    place: Place<'_>,
) -> Option<ServerAction> {
    let protocol_place = place.key("port").key("protocol");
    let protocol = shape
        .port
        .as_ref()
        .and_then(|port| port.protocol.as_deref())
        .unwrap_or("")
        .to_ascii_uppercase();
    let tls_place = place.key("tls");
    match protocol.as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => {
            let https_redirect = match &shape.tls {
                None => false,
                Some(tls) if only_redirect(tls) => tls.https_redirect.unwrap_or(false),
                Some(_) => {
                    context.findings.error(
                        tls_place,
                        Reason::InvalidValue,
                        format!("a server of protocol {protocol} may only have tls.httpsRedirect; use protocol HTTPS to terminate TLS: it is not served"),
                    );
                    return None;
                }
            };
            Some(ServerAction::Http { https_redirect })
        }
        "TCP" | "MONGO" | "MYSQL" | "REDIS" | "UDP" => {
            let (action, problem) = if protocol == "UDP" {
                let problem = "a server of protocol UDP must not have tls: it is not served";
                (ServerAction::Udp, problem)
            } else {
                let problem = "a server of protocol TCP must not have tls; use protocol TLS: it is not served";
                (ServerAction::Tcp, problem)
            };
            if shape.tls.is_some() {
                context
                    .findings
                    .error(tls_place, Reason::InvalidValue, problem);
                return None;
            }
            Some(action)
        }
        "HTTPS" | "TLS" => {
            let Some(tls) = &shape.tls else {
                context.findings.error(
                    place,
                    Reason::MissingField,
                    format!("a server of protocol {protocol} needs tls; it is not served"),
                );
                return Some(ServerAction::Refuse);
            };
            Some(
                tls_action(context, gateway, tls, protocol == "HTTPS", hosts, tls_place)
                    .unwrap_or(ServerAction::Refuse),
            )
        }
        "" => {
            context.findings.error(
                place.key("port"),
                Reason::MissingField,
                "a port needs a protocol: HTTP, HTTPS, TLS, TCP or UDP; this server is not served",
            );
            None
        }
        other => {
            context.findings.error(
                protocol_place,
                Reason::InvalidValue,
                format!("protocol {other} is not one of HTTP, HTTPS, HTTP2, GRPC, TLS, TCP, UDP; this server is not served"),
            );
            None
        }
    }
}
