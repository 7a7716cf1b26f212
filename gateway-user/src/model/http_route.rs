// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP virtual hosts, rules and what they do.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::{
    model::{ClusterId, HostPattern},
    origin::Origin,
};

/// The rules for one host of one listener or chain.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    /// The host; unique within its table.
    pub host: HostPattern,
    /// Tried in this order; the first that matches is taken.
    pub rules: Vec<HttpRule>,
    /// Answer 301 to https whatever the rules say.
    pub https_redirect: bool,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct HttpRule {
    /// Its position.
    pub origin: Origin,
    /// Its name, when it has one.
    pub name: Option<String>,
    /// Any of them; empty matches everything.
    pub matches: Vec<HttpMatch>,
    /// What is done.
    pub action: HttpAction,
    /// Before the request goes on.
    pub request_headers: HeaderEdits,
    /// Before the response goes back.
    pub response_headers: HeaderEdits,
}

/// Conditions that hold together; an absent one holds.
#[derive(Clone, Debug, Default)]
pub struct HttpMatch {
    /// Path without the query.
    pub path: Option<StringMatch>,
    /// Compare exact and prefix paths without regard to ASCII case.
    pub ignore_path_case: bool,
    /// Method, as a string: prefix matches are legal.
    pub method: Option<StringMatch>,
    /// All of them.
    pub headers: Vec<HeaderMatch>,
}

/// A condition on one header.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: HeaderName,
    /// None: present, with any value.
    pub value: Option<StringMatch>,
    /// The condition must not hold.
    pub negated: bool,
}

/// How a string is compared. Prefixes are of characters, not path segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// All of it.
    Exact(String),
    /// Its beginning.
    Prefix(String),
}

impl StringMatch {
    /// Whether `text` satisfies the condition.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
        }
    }

    /// The same without regard to ASCII case.
    pub fn matches_ignoring_case(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text.eq_ignore_ascii_case(exact),
            Self::Prefix(prefix) => text
                .as_bytes()
                .get(..prefix.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes())),
        }
    }
}

/// What a rule does.
#[derive(Clone, Debug)]
pub enum HttpAction {
    /// Send the request on.
    Route {
        /// In proportion to weight; never empty, weights at least 1.
        destinations: Vec<HttpDestination>,
        /// From the first byte of the request to the last of the response;
        /// none by default. Answered 504.
        timeout: Option<Duration>,
        /// Change of path and host.
        rewrite: PathRewrite,
    },
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with a fixed response.
    Respond(DirectResponse),
}

/// One destination of a rule.
#[derive(Clone, Debug)]
pub struct HttpDestination {
    /// The cluster.
    pub cluster: ClusterId,
    /// Share, at least 1.
    pub weight: u32,
    /// After the rule's own.
    pub request_headers: HeaderEdits,
    /// Before the rule's own.
    pub response_headers: HeaderEdits,
}

/// Changes to headers: set, then add, then remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replace.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Append.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Take away.
    pub remove: Vec<HeaderName>,
    /// Replace the host the upstream sees (`set` of `host` or `:authority`).
    pub authority: Option<HeaderValue>,
}

/// Change of the request before it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathRewrite {
    /// Replaces the matched prefix, or the whole path of an exact match.
    pub path: Option<String>,
    /// Replaces the host.
    pub authority: Option<HeaderValue>,
}

/// A redirect; absent parts are those of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host, without port.
    pub authority: Option<String>,
    /// Port; left out of Location where it is the scheme's own.
    pub port: Option<u16>,
    /// The whole path.
    pub path: Option<String>,
}

/// A response of the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// May be empty.
    pub body: bytes::Bytes,
}
