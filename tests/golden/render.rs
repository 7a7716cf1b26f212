// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The model as text that stays the same from run to run.
//!
//! Every struct is taken apart completely, so that a new field of the model
//! does not build until it is shown here. What has its default value is left
//! out; a key is never shown.

use std::{collections::BTreeMap, fmt::Display, net::IpAddr, time::Duration};

use gateway_user::model::{
    Certificate, CertificateId, Cluster, ClusterId, DirectResponse, Endpoint, EndpointAddress,
    FlowLimits, ForwardingMode, HashPolicy, HeaderEdits, HeaderMatch, HttpAction, HttpDestination,
    HttpMatch, HttpRule, ListenAddress, Listener, ListenerKind, LoadBalancing, Model, PathRewrite,
    Redirect, SourceAddress, Sources, StringMatch, TcpDestination, TcpRoute, TlsAction, TlsChain,
    TlsSettings, VirtualHost, cluster::DEFAULT_CONNECT_TIMEOUT,
};

/// The whole model: listeners, then clusters, then certificates.
pub fn model(model: &Model) -> String {
    let Model {
        listeners,
        clusters,
        certificates,
    } = model;
    let mut text = Text::default();
    for one in listeners {
        listener(&mut text, one);
    }
    for (id, one) in clusters {
        cluster(&mut text, id, one);
    }
    certificate_lines(&mut text, certificates);
    text.0
}

/// Indented lines.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, depth: usize, line: impl AsRef<str>) {
        self.0.push_str(&"  ".repeat(depth));
        self.0.push_str(line.as_ref().trim_end());
        self.0.push('\n');
    }
}

fn listener(text: &mut Text, listener: &Listener) {
    let Listener {
        address,
        port,
        last_port,
        kind,
        origin,
        sources: from,
        limits,
    } = listener;
    let address = match address {
        ListenAddress::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        other => other.to_string(),
    };
    let port = if port == last_port {
        port.to_string()
    } else {
        format!("{port}-{last_port}")
    };
    match kind {
        ListenerKind::Forward(route) => {
            text.line(0, format!("listener {address}:{port} forward ({origin})"));
            tcp_route(text, 1, route);
        }
        ListenerKind::ForwardUdp(route) => {
            text.line(
                0,
                format!("listener {address}:{port}/udp forward ({origin})"),
            );
            tcp_route(text, 1, route);
        }
        ListenerKind::Tls(chains) => {
            text.line(0, format!("listener {address}:{port} tls ({origin})"));
            for one in chains {
                chain(text, one);
            }
        }
        ListenerKind::PlainHttp(hosts) => {
            text.line(0, format!("listener {address}:{port} http ({origin})"));
            virtual_hosts(text, 1, hosts);
        }
    }
    sources(text, from);
    flow_limits(text, limits);
}

fn flow_limits(text: &mut Text, limits: &FlowLimits) {
    if *limits != FlowLimits::default() {
        text.line(1, format!("limits {limits}"));
    }
}

fn sources(text: &mut Text, sources: &Sources) {
    if !sources.is_everyone() {
        text.line(1, format!("from {sources}"));
    }
}

fn chain(text: &mut Text, chain: &TlsChain) {
    let TlsChain {
        names,
        action,
        origin,
    } = chain;
    let names = joined(names);
    match action {
        TlsAction::Passthrough(route) => {
            text.line(1, format!("chain {names}: passthrough ({origin})"));
            tcp_route(text, 2, route);
        }
        TlsAction::TerminateTcp { tls, route } => {
            text.line(1, format!("chain {names}: terminate-tcp ({origin})"));
            tls_settings(text, tls);
            tcp_route(text, 2, route);
        }
        TlsAction::TerminateHttp { tls, hosts } => {
            text.line(1, format!("chain {names}: terminate-http ({origin})"));
            tls_settings(text, tls);
            virtual_hosts(text, 2, hosts);
        }
    }
}

fn tls_settings(text: &mut Text, settings: &TlsSettings) {
    let TlsSettings {
        certificates,
        allow_tls12,
        allow_tls13,
    } = settings;
    let versions: Vec<&str> = [(*allow_tls12, "1.2"), (*allow_tls13, "1.3")]
        .into_iter()
        .filter_map(|(allowed, name)| allowed.then_some(name))
        .collect();
    text.line(
        2,
        format!(
            "tls {} with {}",
            versions.join(" and "),
            joined(certificates)
        ),
    );
}

fn tcp_route(text: &mut Text, depth: usize, route: &TcpRoute) {
    let TcpRoute {
        origin,
        destinations,
        idle_timeout,
        hash_policy,
        forwarding,
        handoff,
    } = route;
    let mut line = format!("route ({origin})");
    if let Some(idle) = idle_timeout {
        line.push_str(&format!(" idle timeout {}", duration(*idle)));
    }
    line.push_str(match hash_policy {
        HashPolicy::FiveTuple => "",
        HashPolicy::SourceAddress => " by source address",
    });
    line.push_str(match forwarding {
        ForwardingMode::Auto => "",
        ForwardingMode::Dnat => " dnat",
        ForwardingMode::Snat => " snat",
        ForwardingMode::Dsr => " dsr",
    });
    if !handoff.is_empty() {
        line.push_str(&format!(" handoff {handoff}"));
    }
    text.line(depth, line);
    for TcpDestination { cluster, weight } in destinations {
        text.line(depth + 1, format!("to {cluster} weight {weight}"));
    }
}

fn virtual_hosts(text: &mut Text, depth: usize, hosts: &[VirtualHost]) {
    for VirtualHost {
        host,
        rules,
        https_redirect,
    } in hosts
    {
        let redirect = if *https_redirect {
            " redirects to https"
        } else {
            ""
        };
        text.line(depth, format!("host {host}{redirect}"));
        for one in rules {
            rule(text, depth + 1, one);
        }
    }
}

fn rule(text: &mut Text, depth: usize, rule: &HttpRule) {
    let HttpRule {
        origin,
        name,
        matches,
        action,
        request_headers,
        response_headers,
    } = rule;
    let name = name
        .as_ref()
        .map_or_else(String::new, |name| format!(" {name:?}"));
    text.line(depth, format!("rule{name} ({origin})"));
    let depth = depth + 1;
    for condition in matches {
        text.line(depth, format!("match {}", condition_text(condition)));
    }
    edits(text, depth, "request", request_headers);
    edits(text, depth, "response", response_headers);
    match action {
        HttpAction::Route {
            destinations,
            timeout,
            rewrite,
        } => {
            let PathRewrite { path, authority } = rewrite;
            let mut line = "route".to_owned();
            if let Some(timeout) = timeout {
                line.push_str(&format!(" timeout {}", duration(*timeout)));
            }
            if let Some(path) = path {
                line.push_str(&format!(" rewrite path {path:?}"));
            }
            if let Some(authority) = authority {
                line.push_str(&format!(" rewrite host {authority:?}"));
            }
            text.line(depth, line);
            for destination in destinations {
                http_destination(text, depth + 1, destination);
            }
        }
        HttpAction::Redirect(redirect) => text.line(depth, redirect_text(redirect)),
        HttpAction::Respond(DirectResponse { status, body }) => text.line(
            depth,
            format!(
                "respond {} {:?}",
                status.as_u16(),
                String::from_utf8_lossy(body)
            ),
        ),
    }
}

fn http_destination(text: &mut Text, depth: usize, destination: &HttpDestination) {
    let HttpDestination {
        cluster,
        weight,
        request_headers,
        response_headers,
    } = destination;
    text.line(depth, format!("to {cluster} weight {weight}"));
    edits(text, depth + 1, "request", request_headers);
    edits(text, depth + 1, "response", response_headers);
}

fn condition_text(condition: &HttpMatch) -> String {
    let HttpMatch {
        path,
        ignore_path_case,
        method,
        headers,
    } = condition;
    let mut parts = Vec::new();
    if let Some(path) = path {
        let case = if *ignore_path_case {
            " in any case"
        } else {
            ""
        };
        parts.push(format!("path {}{case}", string_text(path)));
    }
    if let Some(method) = method {
        parts.push(format!("method {}", string_text(method)));
    }
    for HeaderMatch {
        name,
        value,
        negated,
    } in headers
    {
        let not = if *negated { "not " } else { "" };
        let value = value
            .as_ref()
            .map_or_else(|| "present".to_owned(), string_text);
        parts.push(format!("{not}header {name} {value}"));
    }
    if parts.is_empty() {
        parts.push("everything".to_owned());
    }
    parts.join(", ")
}

fn string_text(condition: &StringMatch) -> String {
    match condition {
        StringMatch::Exact(text) => format!("= {text:?}"),
        StringMatch::Prefix(text) => format!("^ {text:?}"),
    }
}

fn edits(text: &mut Text, depth: usize, direction: &str, edits: &HeaderEdits) {
    let HeaderEdits {
        set,
        add,
        remove,
        authority,
    } = edits;
    for (name, value) in set {
        text.line(depth, format!("{direction} set {name}: {value:?}"));
    }
    for (name, value) in add {
        text.line(depth, format!("{direction} add {name}: {value:?}"));
    }
    for name in remove {
        text.line(depth, format!("{direction} remove {name}"));
    }
    if let Some(authority) = authority {
        text.line(depth, format!("{direction} host {authority:?}"));
    }
}

fn redirect_text(redirect: &Redirect) -> String {
    let Redirect {
        status,
        scheme,
        authority,
        port,
        path,
    } = redirect;
    let mut line = format!("redirect {}", status.as_u16());
    if let Some(scheme) = scheme {
        line.push_str(&format!(" scheme {scheme}"));
    }
    if let Some(authority) = authority {
        line.push_str(&format!(" host {authority}"));
    }
    if let Some(port) = port {
        line.push_str(&format!(" port {port}"));
    }
    if let Some(path) = path {
        line.push_str(&format!(" path {path:?}"));
    }
    line
}

fn cluster(text: &mut Text, key: &ClusterId, cluster: &Cluster) {
    let Cluster {
        id,
        endpoints,
        leaving,
        load_balancing,
        connect_timeout,
        proxy_protocol,
        health,
        sources: from,
        limits,
        source_address,
    } = cluster;
    assert_eq!(key, id, "a cluster stands under another's name");
    let mut line = format!("cluster {id}");
    line.push_str(match load_balancing {
        LoadBalancing::LeastRequest => "",
        LoadBalancing::RoundRobin => " round robin",
        LoadBalancing::Random => " random",
    });
    if *connect_timeout != DEFAULT_CONNECT_TIMEOUT {
        line.push_str(&format!(" connect timeout {}", duration(*connect_timeout)));
    }
    if let Some(version) = proxy_protocol {
        line.push_str(&format!(" PROXY header {version}"));
    }
    text.line(0, line);
    if let Some(health) = health {
        text.line(1, format!("health {health}"));
    }
    sources(text, from);
    flow_limits(text, limits);
    if *source_address != SourceAddress::default() {
        text.line(1, format!("source address {}", source_address.name()));
    }
    if endpoints.is_empty() {
        text.line(1, "no endpoint");
    }
    let taking = endpoints.iter().map(|endpoint| (endpoint, ""));
    let leaving = leaving.iter().map(|endpoint| (endpoint, " leaving"));
    for (endpoint, leaving) in taking.chain(leaving) {
        let Endpoint {
            address,
            port,
            weight,
            probed,
        } = endpoint;
        let mark = if *probed { " probed" } else { leaving };
        let address = match address {
            EndpointAddress::Ip(ip) if ip.is_ipv6() => format!("[{ip}]"),
            EndpointAddress::Ip(ip) => ip.to_string(),
            EndpointAddress::Dns(name) => format!("dns {name}"),
        };
        text.line(1, format!("{address}:{port} weight {weight}{mark}"));
    }
}

fn certificate_lines(text: &mut Text, certificates: &BTreeMap<CertificateId, Certificate>) {
    for (key, certificate) in certificates {
        let Certificate {
            id,
            chain: _,
            key: _,
            not_after_s,
        } = certificate;
        assert_eq!(key, id, "a certificate stands under another's name");
        text.line(0, format!("certificate {id} until {not_after_s}"));
    }
}

fn duration(duration: Duration) -> String {
    format!("{duration:?}")
}

fn joined<T: Display>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
