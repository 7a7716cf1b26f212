// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every answer the gateway makes by itself. Errors have an empty body, as
//! Envoy's at an Istio gateway: clients learn nothing of what stands behind.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{
    http::router::host_name,
    model::{DirectResponse, Redirect},
};

/// An answer of which only the status matters.
pub fn status(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// The same as bytes of HTTP/1.1 that end the connection, for a request that
/// never became one.
pub fn raw(status: StatusCode) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    format!(
        "HTTP/1.1 {} {reason}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        status.as_u16()
    )
    .into_bytes()
}

/// A configured answer.
pub fn direct(configured: &DirectResponse) -> Response<Bytes> {
    let mut response = Response::new(configured.body.clone());
    *response.status_mut() = configured.status;
    if !configured.body.is_empty() {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// What a redirect takes from the request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'r> {
    /// `http` or `https`.
    pub scheme: &'r str,
    /// As in `Host`.
    pub host: &'r str,
    /// Path and query.
    pub target: &'r str,
}

/// 301 to the same place over https.
pub fn https_redirect(asked: Asked<'_>) -> Response<Bytes> {
    redirect(
        &Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: Some("https".to_owned()),
            authority: None,
            port: None,
            path: None,
        },
        asked,
    )
}

/// A configured redirect.
pub fn redirect(configured: &Redirect, asked: Asked<'_>) -> Response<Bytes> {
    let location = HeaderValue::try_from(location(configured, asked));
    // Nothing a validated host and target can hold is refused here.
    let Ok(location) = location else {
        return status(StatusCode::BAD_REQUEST);
    };
    let mut response = status(configured.status);
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// The absolute URI of a redirect.
fn location(configured: &Redirect, asked: Asked<'_>) -> String {
    let scheme = configured.scheme.as_deref().unwrap_or(asked.scheme);
    let own_port = if scheme == "https" { 443 } else { 80 };
    let name = host_name(asked.host);
    // As Envoy: the port of the request stays when the host does, unless it
    // is the default one of either scheme.
    let port = match (&configured.authority, configured.port) {
        (_, Some(port)) => Some(port),
        (Some(_), None) => None,
        (None, None) => port(asked.host).filter(|port| !matches!(port, 80 | 443)),
    }
    .filter(|port| *port != own_port);
    let host = configured.authority.as_deref().unwrap_or(name);
    let (path, query) = asked
        .target
        .split_once('?')
        .map_or((asked.target, None), |(path, query)| (path, Some(query)));
    let (path, query) = match &configured.path {
        Some(path) if path.contains('?') => (path.as_str(), None),
        Some(path) => (path.as_str(), query),
        None => (path, query),
    };
    let mut location = format!("{scheme}://{host}");
    if let Some(port) = port {
        location.push_str(&format!(":{port}"));
    }
    if !path.starts_with('/') {
        location.push('/');
    }
    if path != "*" {
        location.push_str(path);
    }
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    location
}

/// The port a host was given with.
fn port(host: &str) -> Option<u16> {
    let after = match host.rfind(']') {
        Some(end) => &host[end + 1..],
        None => &host[host.find(':')?..],
    };
    after.strip_prefix(':')?.parse().ok()
}

#[cfg(test)]
mod tests;
