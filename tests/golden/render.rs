// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The model as text: stable, complete, and without a secret in it.

use std::fmt::Write as _;

use gateway_user::model::{
    Cluster, EndpointAddress, ForwardingMode, HashPolicy, HeaderEdits, HttpAction, HttpMatch,
    HttpRule, ListenerKind, LoadBalancing, Model, StringMatch, TcpRoute, TlsAction, TlsSettings,
    VirtualHost,
};

/// The whole model.
pub fn model(model: &Model) -> String {
    let mut text = Text::default();
    for listener in &model.listeners {
        let at = format!(
            "{}:{} @ {}",
            listener.address, listener.port, listener.origin
        );
        match &listener.kind {
            ListenerKind::Forward(route) => {
                text.line(format_args!("listener forward {at}"));
                text.inside(|text| tcp_route(text, route));
            }
            ListenerKind::PlainHttp(hosts) => {
                text.line(format_args!("listener plain-http {at}"));
                text.inside(|text| hosts.iter().for_each(|host| virtual_host(text, host)));
            }
            ListenerKind::Tls(chains) => {
                text.line(format_args!("listener tls {at}"));
                for chain in chains {
                    let names: Vec<String> = chain.names.iter().map(ToString::to_string).collect();
                    text.inside(|text| {
                        text.line(format_args!("chain {} @ {}", names.join(" "), chain.origin));
                        text.inside(|text| tls_action(text, &chain.action));
                    });
                }
            }
        }
    }
    for cluster in model.clusters.values() {
        cluster_lines(&mut text, cluster);
    }
    for certificate in model.certificates.values() {
        text.line(format_args!(
            "certificate {} chain={} not-after={}",
            certificate.id,
            certificate.chain.len(),
            certificate.not_after_s
        ));
    }
    text.0
}

/// Lines with an indentation.
#[derive(Default)]
struct Text(String, usize);

impl Text {
    fn line(&mut self, content: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{:width$}{content}", "", width = self.1 * 2).expect("memory");
    }

    fn inside(&mut self, write: impl FnOnce(&mut Self)) {
        self.1 += 1;
        write(self);
        self.1 -= 1;
    }
}

fn tls_action(text: &mut Text, action: &TlsAction) {
    match action {
        TlsAction::Passthrough(route) => {
            text.line(format_args!("passthrough"));
            text.inside(|text| tcp_route(text, route));
        }
        TlsAction::TerminateTcp { tls, route } => {
            text.line(format_args!("terminate-tcp {}", tls_settings(tls)));
            text.inside(|text| tcp_route(text, route));
        }
        TlsAction::TerminateHttp { tls, hosts } => {
            text.line(format_args!("terminate-http {}", tls_settings(tls)));
            text.inside(|text| hosts.iter().for_each(|host| virtual_host(text, host)));
        }
    }
}

fn tls_settings(tls: &TlsSettings) -> String {
    let mut words: Vec<String> = tls.certificates.iter().map(ToString::to_string).collect();
    for (offered, version) in [(tls.allow_tls12, "1.2"), (tls.allow_tls13, "1.3")] {
        if offered {
            words.push(version.to_owned());
        }
    }
    words.join(" ")
}

fn tcp_route(text: &mut Text, route: &TcpRoute) {
    let mut line = format!("route @ {}", route.origin);
    if let Some(idle) = route.idle_timeout {
        write!(line, " idle={idle:?}").expect("memory");
    }
    if route.hash_policy == HashPolicy::SourceAddress {
        line.push_str(" hash=source-address");
    }
    match route.forwarding {
        ForwardingMode::Auto => {}
        ForwardingMode::Dnat => line.push_str(" forwarding=dnat"),
        ForwardingMode::Snat => line.push_str(" forwarding=snat"),
    }
    text.line(format_args!("{line}"));
    text.inside(|text| {
        for destination in &route.destinations {
            text.line(format_args!(
                "to {} weight={}",
                destination.cluster, destination.weight
            ));
        }
    });
}

fn virtual_host(text: &mut Text, host: &VirtualHost) {
    let redirect = if host.https_redirect {
        " https-redirect"
    } else {
        ""
    };
    text.line(format_args!("host {}{redirect}", host.host));
    text.inside(|text| host.rules.iter().for_each(|rule| http_rule(text, rule)));
}

fn http_rule(text: &mut Text, rule: &HttpRule) {
    let name = rule
        .name
        .as_ref()
        .map(|name| format!(" {name:?}"))
        .unwrap_or_default();
    text.line(format_args!("rule{name} @ {}", rule.origin));
    text.inside(|text| {
        for condition in &rule.matches {
            http_match(text, condition);
        }
        header_edits(text, "request", &rule.request_headers);
        http_action(text, &rule.action);
        header_edits(text, "response", &rule.response_headers);
    });
}

fn http_match(text: &mut Text, condition: &HttpMatch) {
    let mut words = Vec::new();
    if let Some(path) = &condition.path {
        let case = if condition.ignore_path_case {
            " any-case"
        } else {
            ""
        };
        words.push(format!("path {}{case}", string_match(path)));
    }
    if let Some(method) = &condition.method {
        words.push(format!("method {}", string_match(method)));
    }
    for header in &condition.headers {
        let not = if header.negated { "not " } else { "" };
        let value = header
            .value
            .as_ref()
            .map_or("present".to_owned(), string_match);
        words.push(format!("{not}header {} {value}", header.name));
    }
    if words.is_empty() {
        words.push("everything".to_owned());
    }
    text.line(format_args!("match {}", words.join(", ")));
}

fn string_match(condition: &StringMatch) -> String {
    match condition {
        StringMatch::Exact(text) => format!("= {text:?}"),
        StringMatch::Prefix(text) => format!("^ {text:?}"),
    }
}

fn http_action(text: &mut Text, action: &HttpAction) {
    match action {
        HttpAction::Route {
            destinations,
            timeout,
            rewrite,
        } => {
            if let Some(timeout) = timeout {
                text.line(format_args!("timeout {timeout:?}"));
            }
            if let Some(path) = &rewrite.path {
                text.line(format_args!("rewrite path {path:?}"));
            }
            if let Some(authority) = &rewrite.authority {
                text.line(format_args!("rewrite authority {authority:?}"));
            }
            for destination in destinations {
                text.line(format_args!(
                    "to {} weight={}",
                    destination.cluster, destination.weight
                ));
                text.inside(|text| {
                    header_edits(text, "request", &destination.request_headers);
                    header_edits(text, "response", &destination.response_headers);
                });
            }
        }
        HttpAction::Redirect(redirect) => text.line(format_args!(
            "redirect {} scheme={} authority={} port={} path={}",
            redirect.status.as_u16(),
            redirect.scheme.as_deref().unwrap_or("-"),
            redirect.authority.as_deref().unwrap_or("-"),
            redirect
                .port
                .map_or("-".to_owned(), |port| port.to_string()),
            redirect.path.as_deref().unwrap_or("-"),
        )),
        HttpAction::Respond(response) => text.line(format_args!(
            "respond {} {:?}",
            response.status.as_u16(),
            response.body
        )),
    }
}

fn header_edits(text: &mut Text, direction: &str, edits: &HeaderEdits) {
    for (name, value) in &edits.set {
        text.line(format_args!("{direction} set {name}: {value:?}"));
    }
    for (name, value) in &edits.add {
        text.line(format_args!("{direction} add {name}: {value:?}"));
    }
    for name in &edits.remove {
        text.line(format_args!("{direction} remove {name}"));
    }
    if let Some(authority) = &edits.authority {
        text.line(format_args!("{direction} authority {authority:?}"));
    }
}

fn cluster_lines(text: &mut Text, cluster: &Cluster) {
    let algorithm = match cluster.load_balancing {
        LoadBalancing::LeastRequest => "least-request",
        LoadBalancing::RoundRobin => "round-robin",
        LoadBalancing::Random => "random",
    };
    text.line(format_args!(
        "cluster {} {algorithm} connect={:?}",
        cluster.id, cluster.connect_timeout
    ));
    text.inside(|text| {
        for endpoint in &cluster.endpoints {
            let address = match &endpoint.address {
                EndpointAddress::Ip(ip) => ip.to_string(),
                EndpointAddress::Dns(name) => format!("dns {name}"),
            };
            text.line(format_args!(
                "{address} port={} weight={}",
                endpoint.port, endpoint.weight
            ));
        }
    });
}
