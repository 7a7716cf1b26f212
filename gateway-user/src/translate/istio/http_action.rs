// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an HTTP rule does: destinations, redirects, fixed answers, and the
//! changes to headers.

use base64::Engine as _;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::{
    diagnostic::Reason,
    model::{DirectResponse, HeaderEdits, HttpAction, HttpDestination, PathRewrite, Redirect},
    resource::{
        Meta, Place,
        istio::virtual_service::{
            DirectResponse as ResponseShape, HeaderOperations, Headers, HttpRoute,
            Redirect as RedirectShape, Rewrite,
        },
    },
    translate::{
        Context, duration,
        endpoints::port_number,
        istio::{attach::Scope, destination::shares},
    },
};

/// An action that cannot be taken; its finding has been made.
struct Unusable;

/// The action of a rule and its header edits for requests and responses.
///
/// A rule without a usable action answers 500: its requests must not fall to a
/// later rule that was never meant for them.
pub fn action(
    context: &mut Context<'_>,
    meta: &Meta,
    route: &HttpRoute,
    place: Place<'_>,
    scope: Scope<'_>,
) -> (HttpAction, HeaderEdits, HeaderEdits) {
    for (key, given) in [
        ("retries", route.retries.is_some()),
        ("fault", route.fault.is_some()),
        ("mirror", route.mirror.is_some()),
        ("mirrors", route.mirrors.is_some()),
        ("mirrorPercent", route.mirror_percent.is_some()),
        ("mirrorPercentage", route.mirror_percentage.is_some()),
        ("corsPolicy", route.cors_policy.is_some()),
    ] {
        if given {
            context.findings.not_acted_on(place.key(key), key);
        }
    }
    let edits = header_edits(context, route.headers.as_ref(), place.key("headers"));
    let action = main_action(context, meta, route, place, scope);
    match (action, edits) {
        (Ok(action), Ok((request, response))) => (action, request, response),
        _ => (
            HttpAction::Respond(DirectResponse {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                body: bytes::Bytes::new(),
            }),
            HeaderEdits::default(),
            HeaderEdits::default(),
        ),
    }
}

fn main_action(
    context: &mut Context<'_>,
    meta: &Meta,
    route: &HttpRoute,
    place: Place<'_>,
    scope: Scope<'_>,
) -> Result<HttpAction, Unusable> {
    if route.delegate.is_some() {
        return Err(refuse(
            context,
            place.key("delegate"),
            Reason::UnsupportedField,
            "delegate is not supported; write the rules here",
        ));
    }
    match (
        route.route.is_empty(),
        &route.redirect,
        &route.direct_response,
    ) {
        (false, None, None) => destinations(context, meta, route, place, scope),
        (true, Some(shape), None) => {
            redirect(context, shape, place.key("redirect"), scope).map(HttpAction::Redirect)
        }
        (true, None, Some(shape)) => {
            respond(context, shape, place.key("directResponse")).map(HttpAction::Respond)
        }
        (true, None, None) => Err(refuse(
            context,
            place,
            Reason::MissingField,
            "a rule needs one of route, redirect and directResponse",
        )),
        _ => Err(refuse(
            context,
            place,
            Reason::InvalidValue,
            "route, redirect and directResponse exclude each other; keep one",
        )),
    }
}

fn refuse(
    context: &mut Context<'_>,
    place: Place<'_>,
    reason: Reason,
    message: impl std::fmt::Display,
) -> Unusable {
    context.findings.error(
        place,
        reason,
        format!("{message}: requests of this rule get 500"),
    );
    Unusable
}

fn destinations(
    context: &mut Context<'_>,
    meta: &Meta,
    route: &HttpRoute,
    place: Place<'_>,
    scope: Scope<'_>,
) -> Result<HttpAction, Unusable> {
    let weights: Vec<Option<i64>> = route.route.iter().map(|d| d.weight).collect();
    let shares = shares(&weights)
        .map_err(|error| refuse(context, place.key("route"), Reason::InvalidValue, error))?;
    let mut destinations = Vec::new();
    for (index, (shape, share)) in route.route.iter().zip(shares).enumerate() {
        if share == 0 {
            continue;
        }
        let place = place.key("route").index(index);
        let (request_headers, response_headers) =
            header_edits(context, shape.headers.as_ref(), place.key("headers"))?;
        let resolved = context
            .resolve(
                shape.destination.as_ref(),
                share,
                place.key("destination"),
                meta,
                scope,
            )
            .unwrap_or_else(|| context.refusal(scope.port, share));
        destinations.push(HttpDestination {
            cluster: resolved.cluster,
            weight: resolved.weight,
            request_headers,
            response_headers,
        });
    }
    let timeout = match route.timeout.as_deref() {
        None => None,
        Some(text) => {
            let timeout = duration::parse(text).map_err(|error| {
                refuse(context, place.key("timeout"), Reason::InvalidValue, error)
            })?;
            // Zero turns the limit off.
            Some(timeout).filter(|timeout| !timeout.is_zero())
        }
    };
    let rewrite = match &route.rewrite {
        None => PathRewrite::default(),
        Some(shape) => rewrite(context, shape, place.key("rewrite"))?,
    };
    Ok(HttpAction::Route {
        destinations,
        timeout,
        rewrite,
    })
}

fn rewrite(
    context: &mut Context<'_>,
    shape: &Rewrite,
    place: Place<'_>,
) -> Result<PathRewrite, Unusable> {
    if shape.uri_regex_rewrite.is_some() {
        return Err(refuse(
            context,
            place.key("uriRegexRewrite"),
            Reason::UnsupportedField,
            "uriRegexRewrite is not supported; use uri",
        ));
    }
    let path = match shape.uri.as_deref().filter(|uri| !uri.is_empty()) {
        None => None,
        Some(uri) => Some(checked_path(context, uri, place.key("uri"))?),
    };
    let authority = match shape.authority.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(host_value(context, text, place.key("authority"))?),
    };
    Ok(PathRewrite { path, authority })
}

/// A path that starts with a slash and that HTTP can carry.
fn checked_path(
    context: &mut Context<'_>,
    path: &str,
    place: Place<'_>,
) -> Result<String, Unusable> {
    if path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok() {
        Ok(path.to_owned())
    } else {
        Err(refuse(
            context,
            place,
            Reason::InvalidValue,
            format!("{path:?} is not a path that starts with /"),
        ))
    }
}

fn redirect(
    context: &mut Context<'_>,
    shape: &RedirectShape,
    place: Place<'_>,
    scope: Scope<'_>,
) -> Result<Redirect, Unusable> {
    if shape.prefix_rewrite.is_some() {
        return Err(refuse(
            context,
            place.key("prefixRewrite"),
            Reason::UnsupportedField,
            "prefixRewrite is not supported; use uri",
        ));
    }
    let code = shape.redirect_code.unwrap_or(301);
    let status = match code {
        301 | 302 | 303 | 307 | 308 => u16::try_from(code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok()),
        _ => None,
    };
    let Some(status) = status else {
        return Err(refuse(
            context,
            place.key("redirectCode"),
            Reason::InvalidValue,
            format!("redirectCode {code} is not one of 301, 302, 303, 307, 308"),
        ));
    };
    let scheme = match shape.scheme.as_deref().map(str::to_ascii_lowercase) {
        None => None,
        Some(scheme) if scheme == "http" || scheme == "https" => Some(scheme),
        Some(scheme) => {
            return Err(refuse(
                context,
                place.key("scheme"),
                Reason::InvalidValue,
                format!("scheme {scheme:?} is not http or https"),
            ));
        }
    };
    let path = match shape.uri.as_deref().filter(|uri| !uri.is_empty()) {
        None => None,
        Some(uri) => Some(checked_path(context, uri, place.key("uri"))?),
    };
    let mut port = match shape.port {
        None => None,
        Some(_) => Some(
            port_number(shape.port, place.key("port"), &mut context.findings).ok_or(Unusable)?,
        ),
    };
    match shape.derive_port.as_deref() {
        None | Some("FROM_REQUEST_PORT") => {}
        Some("FROM_PROTOCOL_DEFAULT") => {
            let https = scheme
                .as_ref()
                .map_or(scope.secure, |scheme| scheme == "https");
            port = port.or(Some(if https { 443 } else { 80 }));
        }
        Some(other) => {
            return Err(refuse(
                context,
                place.key("derivePort"),
                Reason::InvalidValue,
                format!("derivePort {other:?} is not FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT"),
            ));
        }
    }
    let mut authority = None;
    if let Some(text) = shape.authority.as_deref().filter(|text| !text.is_empty()) {
        let Ok(parsed) = text.parse::<http::uri::Authority>() else {
            return Err(refuse(
                context,
                place.key("authority"),
                Reason::InvalidValue,
                format!("authority {text:?} is not a host"),
            ));
        };
        authority = Some(parsed.host().to_owned());
        port = port.or(parsed.port_u16());
    }
    Ok(Redirect {
        status,
        scheme,
        authority,
        port,
        path,
    })
}

fn respond(
    context: &mut Context<'_>,
    shape: &ResponseShape,
    place: Place<'_>,
) -> Result<DirectResponse, Unusable> {
    let status = shape
        .status
        .filter(|status| (200..=599).contains(status))
        .and_then(|status| u16::try_from(status).ok())
        .and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = status else {
        return Err(refuse(
            context,
            place.key("status"),
            Reason::InvalidValue,
            "directResponse needs a status from 200 to 599",
        ));
    };
    let body = match &shape.body {
        None => bytes::Bytes::new(),
        Some(body) => match (&body.string, &body.bytes) {
            (Some(text), None) => bytes::Bytes::from(text.clone()),
            (None, Some(encoded)) => {
                match base64::engine::general_purpose::STANDARD.decode(encoded) {
                    Ok(bytes) => bytes.into(),
                    Err(_) => {
                        return Err(refuse(
                            context,
                            place.key("body").key("bytes"),
                            Reason::InvalidValue,
                            "the body is not base64; use string for plain text",
                        ));
                    }
                }
            }
            (None, None) => bytes::Bytes::new(),
            (Some(_), Some(_)) => {
                return Err(refuse(
                    context,
                    place.key("body"),
                    Reason::InvalidValue,
                    "string and bytes exclude each other",
                ));
            }
        },
    };
    Ok(DirectResponse { status, body })
}

/// Edits of requests and of responses.
fn header_edits(
    context: &mut Context<'_>,
    shape: Option<&Headers>,
    place: Place<'_>,
) -> Result<(HeaderEdits, HeaderEdits), Unusable> {
    let Some(shape) = shape else {
        return Ok(Default::default());
    };
    let request = edits(context, shape.request.as_ref(), place.key("request"))?;
    let response = edits(context, shape.response.as_ref(), place.key("response"))?;
    if response.authority.is_some() {
        return Err(refuse(
            context,
            place.key("response").key("set"),
            Reason::InvalidValue,
            "a response has no host; remove it",
        ));
    }
    Ok((request, response))
}

fn edits(
    context: &mut Context<'_>,
    shape: Option<&HeaderOperations>,
    place: Place<'_>,
) -> Result<HeaderEdits, Unusable> {
    let mut edits = HeaderEdits::default();
    let Some(shape) = shape else {
        return Ok(edits);
    };
    for (name, text) in &shape.set {
        let place = place.key("set").key(name);
        if matches!(name.to_ascii_lowercase().as_str(), "host" | ":authority") {
            edits.authority = Some(host_value(context, text, place)?);
        } else {
            let value = header_value(context, text, place)?;
            edits.set.push((header_name(context, name, place)?, value));
        }
    }
    for (name, text) in &shape.add {
        let place = place.key("add").key(name);
        let value = header_value(context, text, place)?;
        edits.add.push((header_name(context, name, place)?, value));
    }
    for (index, name) in shape.remove.iter().enumerate() {
        let place = place.key("remove").index(index);
        edits.remove.push(header_name(context, name, place)?);
    }
    Ok(edits)
}

fn header_name(
    context: &mut Context<'_>,
    name: &str,
    place: Place<'_>,
) -> Result<HeaderName, Unusable> {
    let lower = name.to_ascii_lowercase();
    if lower == "host" || lower.starts_with(':') {
        return Err(refuse(
            context,
            place,
            Reason::InvalidValue,
            format!("{name} can only be set, and only host or :authority of a request"),
        ));
    }
    HeaderName::from_bytes(lower.as_bytes()).map_err(|_| {
        refuse(
            context,
            place,
            Reason::InvalidValue,
            format!("{name:?} is not a header name"),
        )
    })
}

/// `host` or `host:port`, as it stands in a request.
fn host_value(
    context: &mut Context<'_>,
    text: &str,
    place: Place<'_>,
) -> Result<HeaderValue, Unusable> {
    let is_host = text
        .parse::<http::uri::Authority>()
        .is_ok_and(|parsed| !parsed.as_str().contains('@'));
    match HeaderValue::from_str(text) {
        Ok(value) if is_host => Ok(value),
        _ => Err(refuse(
            context,
            place,
            Reason::InvalidValue,
            format!("{text:?} is not a host"),
        )),
    }
}

fn header_value(
    context: &mut Context<'_>,
    text: &str,
    place: Place<'_>,
) -> Result<HeaderValue, Unusable> {
    // Envoy replaces %VARIABLES%; %% stands for one %.
    let plain = text.replace("%%", "%");
    if text.replace("%%", "").contains('%') {
        context.findings.warning(
            place,
            Reason::UnsupportedField,
            format!("{text:?} is sent as it is: variables between % are not replaced"),
        );
    }
    HeaderValue::from_str(&plain).map_err(|_| {
        refuse(
            context,
            place,
            Reason::InvalidValue,
            format!("{text:?} cannot be a header's value"),
        )
    })
}
