// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What happens to header fields on their way through.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::model::HeaderEdits;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Longest request id of a client that is kept.
const MAX_REQUEST_ID: usize = 128;

/// Takes away what belongs to one connection only: the fields `Connection`
/// names, itself, and those of RFC 9110 section 7.6.1. `Trailer` stays: it
/// describes the message.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            // Framing and routing are not the sender's to take away.
            .filter(|name| name != header::CONTENT_LENGTH && name != header::HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        header::TE,
        header::TRANSFER_ENCODING,
        // An upgrade is not taken up, which RFC 9110 section 7.8 allows: the
        // request goes on as the plain one that it is as well.
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Whether the sender takes trailers.
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Adds what the upstream shall know of the client. The id of the request is
/// returned.
///
/// As Istio at the edge (no trusted proxies): `x-forwarded-for` is continued
/// with the peer, `x-forwarded-proto` is ours alone, a client certificate
/// claimed by the client is dropped. A request id of the client is kept when it
/// is 1 to 128 visible characters, so that callers can follow their own;
/// anything else is replaced.
pub fn announce_client(headers: &mut HeaderMap, peer: IpAddr, scheme: &'static str) -> HeaderValue {
    let peer = peer.to_canonical();
    let mut forwarded = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        forwarded.extend_from_slice(value.as_bytes());
        forwarded.extend_from_slice(b", ");
    }
    forwarded.extend_from_slice(peer.to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&forwarded) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    headers.remove(X_FORWARDED_CLIENT_CERT);
    let kept = headers.get(X_REQUEST_ID).filter(|id| {
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    let id = match kept {
        Some(id) => id.clone(),
        None => request_id(),
    };
    headers.insert(X_REQUEST_ID, id.clone());
    id
}

/// A new random id (UUID version 4).
fn request_id() -> HeaderValue {
    let mut text = uuid::Uuid::encode_buffer();
    let id = uuid::Uuid::new_v4();
    let text = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
}

/// HTTP/2 may split cookies over fields, HTTP/1.1 may not (RFC 9113 section
/// 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let joined = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b"; "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

/// Applies edits: set, add, remove. Fields that frame the message are not
/// theirs; the authority is applied by the caller.
pub fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for (name, value) in edits.set.iter().filter(|(name, _)| is_editable(name)) {
        headers.insert(name, value.clone());
    }
    for (name, value) in edits.add.iter().filter(|(name, _)| is_editable(name)) {
        headers.append(name, value.clone());
    }
    for name in edits.remove.iter().filter(|name| is_editable(name)) {
        headers.remove(name);
    }
}

/// Whether configuration may change the field.
fn is_editable(name: &HeaderName) -> bool {
    ![
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests;
