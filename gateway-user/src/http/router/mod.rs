// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which rule serves a request: pure, and the same for live traffic and for
//! `explain`.

use std::sync::Arc;

use http::HeaderMap;

use crate::{
    http::path::normalise,
    model::{HeaderMatch, HttpMatch, HttpRule},
    snapshot::{HttpTable, VirtualHost},
};

/// What rules look at. The path is without its query; [`find`] normalises it.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'r> {
    /// Method, as sent.
    pub method: &'r str,
    /// Path without the query.
    pub path: &'r str,
    /// Header fields.
    pub headers: &'r HeaderMap,
}

/// What a table says about a request.
#[derive(Clone, Debug)]
pub enum RouteMatch {
    /// The first rule that matches, which of its matches held (none when it
    /// has none and so takes everything), and the virtual host.
    Rule(Arc<HttpRule>, Option<usize>, Arc<VirtualHost>),
    /// Answered with 301 to https.
    Redirect301(Arc<VirtualHost>),
    /// The virtual host has no rule for it: 404.
    NoRoute(Arc<VirtualHost>),
    /// No virtual host: 404.
    NoHost,
}

/// Finds the rule for a request to `host` (as in `Host` or `:authority`).
pub fn find(table: &HttpTable, host: &str, request: &RequestHead<'_>) -> RouteMatch {
    let Some(virtual_host) = virtual_host(table, host) else {
        return RouteMatch::NoHost;
    };
    if virtual_host.https_redirect {
        return RouteMatch::Redirect301(Arc::clone(virtual_host));
    }
    let path = normalise(request.path);
    let request = RequestHead {
        path: &path,
        ..*request
    };
    for rule in &virtual_host.rules {
        if rule.matches.is_empty() {
            return RouteMatch::Rule(Arc::clone(rule), None, Arc::clone(virtual_host));
        }
        if let Some(index) = rule.matches.iter().position(|m| holds(m, &request)) {
            return RouteMatch::Rule(Arc::clone(rule), Some(index), Arc::clone(virtual_host));
        }
    }
    RouteMatch::NoRoute(Arc::clone(virtual_host))
}

/// The virtual host of `host`: exact, then the longest suffix, then any.
pub fn virtual_host<'t>(table: &'t HttpTable, host: &str) -> Option<&'t Arc<VirtualHost>> {
    let name = host_name(host);
    let lower;
    let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
        lower = name.to_ascii_lowercase();
        lower.as_str()
    } else {
        name
    };
    if let Some(found) = table.exact.get(name) {
        return Some(found);
    }
    if !table.suffixes.is_empty() {
        // Suffixes start with a dot, so that each dot of the name (but a
        // leading one: a wildcard stands for at least one label) is a
        // candidate, the longest first.
        for (at, _) in name.match_indices('.').filter(|(at, _)| *at > 0) {
            if let Some(found) = table.suffixes.get(&name[at..]) {
                return Some(found);
            }
        }
    }
    table.any.as_ref()
}

/// A host without its port and its trailing dot.
pub fn host_name(host: &str) -> &str {
    let name = match host.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(end) => &host[..end + 2],
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether all conditions hold.
fn holds(conditions: &HttpMatch, request: &RequestHead<'_>) -> bool {
    conditions.path.as_ref().is_none_or(|path| {
        if conditions.ignore_path_case {
            path.matches_ignoring_case(request.path)
        } else {
            path.matches(request.path)
        }
    }) && conditions
        .method
        .as_ref()
        .is_none_or(|method| method.matches(request.method))
        && conditions
            .headers
            .iter()
            .all(|header| header_holds(header, request.headers))
}

/// Whether one condition on a header holds. Several fields of one name count
/// as one, joined by commas (RFC 9110 section 5.3).
fn header_holds(condition: &HeaderMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&condition.name).iter();
    let held = match (&condition.value, values.next()) {
        (None, first) => first.is_some(),
        // An absent header is an empty one to a negated condition only, so
        // that `withoutHeaders: {a: {exact: ""}}` reads as in Istio.
        (Some(value), None) => condition.negated && value.matches(""),
        (Some(value), Some(first)) => match values.next() {
            None => first.to_str().is_ok_and(|text| value.matches(text)),
            Some(second) => {
                let mut joined = first.as_bytes().to_vec();
                for next in std::iter::once(second).chain(values) {
                    joined.push(b',');
                    joined.extend_from_slice(next.as_bytes());
                }
                std::str::from_utf8(&joined).is_ok_and(|text| value.matches(text))
            }
        },
    };
    held != condition.negated
}

#[cfg(test)]
mod tests;
