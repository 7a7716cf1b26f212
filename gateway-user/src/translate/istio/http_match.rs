// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTPMatchRequest to conditions, and which conditions cover others.

use std::collections::BTreeMap;

use http::HeaderName;

use crate::{
    diagnostic::Reason,
    model::{HeaderMatch, HttpMatch, HttpRule, StringMatch},
    resource::{
        Place,
        istio::virtual_service::{HttpMatch as MatchShape, StringMatch as StringShape},
    },
    translate::Context,
};

/// A condition that cannot be represented; its finding has been made.
pub struct Unusable;

/// The conditions of one match that remain at run time; nothing when one of
/// them can never hold here.
pub fn condition(
    context: &mut Context<'_>,
    shape: &MatchShape,
    place: Place<'_>,
    secure: bool,
) -> Result<Option<HttpMatch>, Unusable> {
    if !shape.query_params.is_empty() {
        return Err(unsupported(
            context,
            place.key("queryParams"),
            "queryParams",
        ));
    }
    if shape.authority.is_some() {
        return Err(unsupported(context, place.key("authority"), "authority"));
    }
    let path = match &shape.uri {
        None => None,
        // Everything, as Istio itself treats it.
        Some(shape) if shape.regex.as_deref() == Some(".*") => None,
        Some(shape) => Some(string(context, shape, place.key("uri"), "uri")?),
    };
    let method = match &shape.method {
        None => None,
        Some(shape) => Some(string(context, shape, place.key("method"), "method")?),
    };
    if let Some(scheme) = &shape.scheme {
        let wanted = string(context, scheme, place.key("scheme"), "scheme")?;
        if !wanted.matches(if secure { "https" } else { "http" }) {
            return Ok(None);
        }
    }
    let mut headers = Vec::new();
    for (negated, key, map) in [
        (false, "headers", &shape.headers),
        (true, "withoutHeaders", &shape.without_headers),
    ] {
        header_conditions(context, map, negated, place.key(key), &mut headers)?;
    }
    Ok(Some(HttpMatch {
        path,
        ignore_path_case: shape.ignore_uri_case.unwrap_or(false),
        method,
        headers,
    }))
}

fn header_conditions(
    context: &mut Context<'_>,
    map: &BTreeMap<String, StringShape>,
    negated: bool,
    place: Place<'_>,
    headers: &mut Vec<HeaderMatch>,
) -> Result<(), Unusable> {
    for (name, shape) in map {
        let place = place.key(name);
        if name.starts_with('@') {
            return Err(unsupported(context, place, "matching JWT claims"));
        }
        let Ok(parsed) = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()) else {
            context.findings.error(
                place,
                Reason::InvalidValue,
                format!("{name:?} is not a header name"),
            );
            return Err(Unusable);
        };
        let presence = *shape == StringShape::default()
            || shape.regex.as_deref() == Some("*")
            || shape.prefix.as_deref() == Some("");
        let value = if presence {
            None
        } else {
            Some(string(context, shape, place, name)?)
        };
        headers.push(HeaderMatch {
            name: parsed,
            value,
            negated,
        });
    }
    Ok(())
}

fn unsupported(context: &mut Context<'_>, place: Place<'_>, what: &str) -> Unusable {
    context.findings.error(
        place,
        Reason::UnsupportedField,
        format!("{what} is not supported as a condition"),
    );
    Unusable
}

fn string(
    context: &mut Context<'_>,
    shape: &StringShape,
    place: Place<'_>,
    field: &str,
) -> Result<StringMatch, Unusable> {
    match shape {
        StringShape {
            exact: Some(exact),
            prefix: None,
            regex: None,
        } => Ok(StringMatch::Exact(exact.clone())),
        StringShape {
            exact: None,
            prefix: Some(prefix),
            regex: None,
        } if !prefix.is_empty() => Ok(StringMatch::Prefix(prefix.clone())),
        StringShape {
            exact: None,
            prefix: None,
            regex: Some(_),
        } => Err(unsupported(context, place.key("regex"), "regex")),
        _ => {
            context.findings.error(
                place,
                Reason::InvalidValue,
                format!("{field} needs exactly one of exact, prefix (not empty) and regex"),
            );
            Err(Unusable)
        }
    }
}

/// Whether a condition holds for every request with a path: what Istio moves
/// behind all other rules.
pub fn is_catch_all(condition: &HttpMatch) -> bool {
    let HttpMatch {
        path,
        ignore_path_case: _,
        method,
        headers,
    } = condition;
    method.is_none()
        && headers.is_empty()
        && match path {
            None => true,
            Some(StringMatch::Prefix(prefix)) => prefix == "/",
            Some(StringMatch::Exact(_)) => false,
        }
}

/// Whether every request that `later` matches is matched by `earlier`, as far
/// as it can be told one condition at a time.
pub fn covers_rule(earlier: &HttpRule, later: &HttpRule) -> bool {
    !later.matches.is_empty()
        && later
            .matches
            .iter()
            .all(|later| earlier.matches.iter().any(|earlier| covers(earlier, later)))
}

fn covers(earlier: &HttpMatch, later: &HttpMatch) -> bool {
    let path = match (&earlier.path, &later.path) {
        (None, _) => true,
        (Some(StringMatch::Prefix(prefix)), _) if prefix == "/" => true,
        (Some(_), None) => false,
        (Some(earlier_path), Some(later_path)) => {
            if later.ignore_path_case && !earlier.ignore_path_case {
                false
            } else if earlier.ignore_path_case {
                covers_string(&lower(earlier_path), &lower(later_path))
            } else {
                covers_string(earlier_path, later_path)
            }
        }
    };
    let method = match (&earlier.method, &later.method) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) => covers_string(earlier, later),
    };
    let headers = earlier.headers.iter().all(|earlier| {
        later.headers.iter().any(|later| {
            earlier.name == later.name
                && earlier.negated == later.negated
                && (earlier.value == later.value || (earlier.value.is_none() && !earlier.negated))
        })
    });
    path && method && headers
}

fn covers_string(earlier: &StringMatch, later: &StringMatch) -> bool {
    match (earlier, later) {
        (StringMatch::Exact(a), StringMatch::Exact(b)) => a == b,
        (StringMatch::Exact(_), StringMatch::Prefix(_)) => false,
        (StringMatch::Prefix(a), StringMatch::Exact(b) | StringMatch::Prefix(b)) => {
            b.starts_with(a.as_str())
        }
    }
}

fn lower(condition: &StringMatch) -> StringMatch {
    match condition {
        StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
        StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
    }
}
