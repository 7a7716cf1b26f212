// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP listeners and chains: virtual hosts with their rules in order.
//!
//! Istio's order: rules of all VirtualServices of a host one after the other,
//! oldest first, then those that match everything. No sorting by length: the
//! first that matches is taken.

use std::collections::BTreeMap;

use crate::{
    diagnostic::Reason,
    model::{
        FlowLimits, HostPattern, HttpMatch, HttpRule, Listener, ListenerKind, Sources, StringMatch,
        Transport, VirtualHost,
    },
    resource::istio::virtual_service::HttpRoute,
    translate::{
        Context,
        istio::{
            attach::{Attached, Narrowing, Scope, attached},
            gateway::{Bind, Server, ServerAction},
            http_action, http_match,
            tcp::refuses_unknown_conditions,
        },
    },
};

/// The listener of plain HTTP servers: one table for all of them.
pub fn listener(context: &mut Context<'_>, bind: &Bind<'_>) -> Listener {
    let servers: Vec<&Server<'_>> = bind.servers.iter().collect();
    let hosts = virtual_hosts(context, &servers, bind.port, false);
    Listener {
        address: bind.address,
        port: bind.port,
        last_port: bind.last_port,
        kind: ListenerKind::PlainHttp(hosts),
        origin: bind.servers[0].place.origin(),
        sources: Sources::everyone(),
        limits: FlowLimits::default(),
    }
}

/// Rules by host of servers that share one table.
pub fn virtual_hosts(
    context: &mut Context<'_>,
    servers: &[&Server<'_>],
    port: u16,
    secure: bool,
) -> Vec<VirtualHost> {
    let mut table: BTreeMap<HostPattern, Entry> = BTreeMap::new();
    for server in servers {
        let redirects = matches!(
            server.action,
            ServerAction::Http {
                https_redirect: true
            }
        );
        if redirects {
            for host in server.patterns() {
                table.entry(host).or_default().https_redirect = true;
            }
        }
        let scope = Scope {
            gateway: &server.gateway.meta.id,
            port,
            transport: Transport::Tcp,
            secure,
        };
        let mut served = false;
        for attached in attached(context, server) {
            let pieces = pieces(context, &attached, scope);
            served |= !pieces.is_empty();
            for name in &attached.names {
                let entry = table.entry(name.clone()).or_default();
                entry.https_redirect |= redirects;
                for piece in &pieces {
                    entry.add(piece);
                }
            }
        }
        if !served && !redirects {
            context.findings.warning(
                server.place,
                Reason::NoRoute,
                format!(
                    "no http rule of a VirtualService serves the {} (port {port}); every request gets 404",
                    server.label()
                ),
            );
        }
    }
    table
        .into_iter()
        .map(|(host, entry)| VirtualHost {
            rules: ordered(context, &host, entry.pieces),
            host,
            https_redirect: entry.https_redirect,
        })
        .collect()
}

/// What is known of one host so far.
#[derive(Default)]
struct Entry {
    https_redirect: bool,
    pieces: Vec<Piece>,
}

/// A rule, or the part of it that matches everything.
#[derive(Clone)]
struct Piece {
    /// VirtualService, rule and part: what orders and identifies it.
    order: (usize, usize, bool),
    /// Conditions by their position in the rule.
    matches: BTreeMap<usize, HttpMatch>,
    /// Everything but the conditions.
    rule: HttpRule,
}

impl Piece {
    fn is_catch_all(&self) -> bool {
        self.order.2
    }
}

impl Entry {
    /// Two servers of one table can bring the same rule, each with the
    /// conditions that hold for its Gateway.
    fn add(&mut self, piece: &Piece) {
        match self
            .pieces
            .iter_mut()
            .find(|known| known.order == piece.order)
        {
            Some(known) => known
                .matches
                .extend(piece.matches.iter().map(|(i, m)| (*i, m.clone()))),
            None => self.pieces.push(piece.clone()),
        }
    }
}

/// The rules of one host in the order in which they are tried.
fn ordered(context: &mut Context<'_>, host: &HostPattern, mut pieces: Vec<Piece>) -> Vec<HttpRule> {
    pieces.sort_by_key(|piece| (piece.is_catch_all(), piece.order));
    let mut rules: Vec<HttpRule> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let rule = HttpRule {
            matches: piece.matches.into_values().collect(),
            ..piece.rule
        };
        let shadow = rules
            .iter()
            .find(|earlier| http_match::covers_rule(earlier, &rule));
        if let Some(earlier) = shadow {
            context.findings.0.push(crate::diagnostic::Diagnostic::warning(
                &rule.origin,
                Reason::Shadowed,
                format!(
                    "this rule is never reached for host {host}: the rule at {} matches first; put the narrower one before it",
                    earlier.origin
                ),
            ));
        }
        rules.push(rule);
    }
    rules
}

/// The rules of one VirtualService for one server. Nothing after a rule that
/// matches everything.
fn pieces(context: &mut Context<'_>, attached: &Attached<'_>, scope: Scope<'_>) -> Vec<Piece> {
    let meta = &attached.object.meta;
    let mut pieces = Vec::new();
    let mut catch_all: Option<crate::origin::Origin> = None;
    for (index, route) in attached.object.spec.http.iter().enumerate() {
        let place = meta.spec().key("http").index(index);
        if let Some(first) = &catch_all {
            context.findings.warning(
                place,
                Reason::Shadowed,
                format!("this rule is never reached: the rule at {first} matches everything; put it last"),
            );
            continue;
        }
        let Some(conditions) = conditions(context, attached, route, index, scope) else {
            continue;
        };
        let (action, request_headers, response_headers) =
            http_action::action(context, meta, route, place, scope);
        let rule = HttpRule {
            origin: place.origin(),
            name: route.name.clone(),
            matches: Vec::new(),
            action,
            request_headers,
            response_headers,
        };
        let mut narrow = BTreeMap::new();
        let mut wide = None;
        for (position, condition) in conditions {
            if http_match::is_catch_all(&condition) {
                wide = Some((position, condition));
                break;
            }
            narrow.insert(position, condition);
        }
        if !narrow.is_empty() {
            pieces.push(Piece {
                order: (attached.index, index, false),
                matches: narrow,
                rule: rule.clone(),
            });
        }
        if let Some(wide) = wide {
            pieces.push(Piece {
                order: (attached.index, index, true),
                matches: BTreeMap::from([wide]),
                rule,
            });
            catch_all = Some(place.origin());
        }
    }
    pieces
}

/// Conditions of a rule that can hold at this server, with their positions.
/// Nothing when none can, or when one cannot be represented: the rule is then
/// dropped, because it must not match more than it says.
fn conditions(
    context: &mut Context<'_>,
    attached: &Attached<'_>,
    route: &HttpRoute,
    index: usize,
    scope: Scope<'_>,
) -> Option<Vec<(usize, HttpMatch)>> {
    let meta = &attached.object.meta;
    let place = meta.spec().key("http").index(index);
    if refuses_unknown_conditions(context, place) {
        return None;
    }
    if route.matches.is_empty() {
        // Istio reads no match as the prefix /, and a rewrite replaces it.
        return Some(vec![(
            0,
            HttpMatch {
                path: Some(StringMatch::Prefix("/".to_owned())),
                ..HttpMatch::default()
            },
        )]);
    }
    let mut conditions = Vec::new();
    for (position, shape) in route.matches.iter().enumerate() {
        let place = place.key("match").index(position);
        let narrowing = Narrowing {
            gateways: &shape.gateways,
            port: shape.port,
            source_labels: &shape.source_labels,
            source_namespace: shape.source_namespace.as_deref(),
        };
        let admitted = scope.admits(context, &narrowing, &meta.id.namespace);
        match http_match::condition(context, shape, place, scope.secure) {
            Err(http_match::Unusable) => {
                context.findings.error(
                    place,
                    Reason::UnsupportedField,
                    "this rule is dropped, because it would match more without the condition that cannot be used",
                );
                return None;
            }
            Ok(None) => {}
            Ok(Some(condition)) => {
                if admitted {
                    conditions.push((position, condition));
                }
            }
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}
