// SPDX-License-Identifier: Apache-2.0 OR MIT
//! VirtualService: rules that send connections and requests to destinations.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::resource::Opaque;

/// `spec` of a VirtualService.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualService {
    /// Names it answers for.
    pub hosts: Vec<String>,
    /// `[namespace/]name`; empty means sidecars.
    pub gateways: Vec<String>,
    /// Rules for requests.
    pub http: Vec<HttpRoute>,
    /// Rules for TLS connections that are not terminated.
    pub tls: Vec<TlsRoute>,
    /// Rules for other connections.
    pub tcp: Vec<TcpRoute>,
    /// Namespaces that see it.
    pub export_to: Vec<String>,
}

/// One HTTP rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRoute {
    /// For people.
    pub name: Option<String>,
    /// Any of them.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatch>,
    /// Destinations.
    pub route: Vec<HttpDestination>,
    /// Or a redirect.
    pub redirect: Option<Redirect>,
    /// Or an answer.
    pub direct_response: Option<DirectResponse>,
    /// Or another VirtualService.
    pub delegate: Option<Opaque>,
    /// Change of path and host.
    pub rewrite: Option<Rewrite>,
    /// Limit of the whole exchange.
    pub timeout: Option<String>,
    /// Further attempts.
    pub retries: Option<Opaque>,
    /// Injected faults.
    pub fault: Option<Opaque>,
    /// Copy of the traffic.
    pub mirror: Option<Opaque>,
    /// Copies of the traffic.
    pub mirrors: Option<Opaque>,
    /// Share of the copy.
    pub mirror_percent: Option<Opaque>,
    /// Share of the copy.
    pub mirror_percentage: Option<Opaque>,
    /// Cross-origin policy.
    pub cors_policy: Option<Opaque>,
    /// Changes to headers.
    pub headers: Option<Headers>,
}

/// Conditions that hold together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatch {
    /// For people.
    pub name: Option<String>,
    /// Path.
    pub uri: Option<StringMatch>,
    /// http or https.
    pub scheme: Option<StringMatch>,
    /// Method.
    pub method: Option<StringMatch>,
    /// Host of the request.
    pub authority: Option<StringMatch>,
    /// Headers, by lower-case name.
    pub headers: BTreeMap<String, StringMatch>,
    /// Port of the server.
    pub port: Option<u32>,
    /// Labels of the workload.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways it narrows to.
    pub gateways: Vec<String>,
    /// Query parameters.
    pub query_params: BTreeMap<String, StringMatch>,
    /// Compare exact and prefix paths without case.
    pub ignore_uri_case: Option<bool>,
    /// Headers that must not match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Namespace of the workload.
    pub source_namespace: Option<String>,
    /// Name for statistics.
    pub stat_prefix: Option<String>,
}

/// At most one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StringMatch {
    /// All of it.
    pub exact: Option<String>,
    /// Its beginning.
    pub prefix: Option<String>,
    /// RE2, all of it.
    pub regex: Option<String>,
}

/// A destination and its share.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpDestination {
    /// Where.
    pub destination: Option<Destination>,
    /// Share.
    pub weight: Option<i64>,
    /// Changes to headers.
    pub headers: Option<Headers>,
}

/// A service, its port and its subset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Destination {
    /// Name of a Service or ServiceEntry.
    pub host: Option<String>,
    /// Of a DestinationRule.
    pub subset: Option<String>,
    /// Needed when the service has several.
    pub port: Option<PortSelector>,
}

/// `port: {number: 80}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortSelector {
    /// Number.
    pub number: Option<u32>,
}

/// Changes to the headers of both directions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Headers {
    /// Of the request.
    pub request: Option<HeaderOperations>,
    /// Of the response.
    pub response: Option<HeaderOperations>,
}

/// Changes to headers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderOperations {
    /// Replace.
    pub set: BTreeMap<String, String>,
    /// Append.
    pub add: BTreeMap<String, String>,
    /// Take away.
    pub remove: Vec<String>,
}

/// HTTPRedirect.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Redirect {
    /// The whole path.
    pub uri: Option<String>,
    /// Instead of the prefix that matched.
    pub prefix_rewrite: Option<String>,
    /// Host.
    pub authority: Option<String>,
    /// Port.
    pub port: Option<u32>,
    /// FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT.
    pub derive_port: Option<String>,
    /// http or https.
    pub scheme: Option<String>,
    /// 301 when absent.
    pub redirect_code: Option<u32>,
}

/// HTTPDirectResponse.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DirectResponse {
    /// Status.
    pub status: Option<u32>,
    /// Body.
    pub body: Option<Body>,
}

/// One of the two.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Body {
    /// As text.
    pub string: Option<String>,
    /// In base64.
    pub bytes: Option<String>,
}

/// HTTPRewrite.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rewrite {
    /// Path or prefix.
    pub uri: Option<String>,
    /// Host.
    pub authority: Option<String>,
    /// By expression.
    pub uri_regex_rewrite: Option<Opaque>,
}

/// One TLS rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsRoute {
    /// Any of them.
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatch>,
    /// Destinations.
    pub route: Vec<RouteDestination>,
}

/// Conditions that hold together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsMatch {
    /// Server names.
    pub sni_hosts: Vec<String>,
    /// No effect at a gateway.
    pub destination_subnets: Vec<String>,
    /// Port of the server.
    pub port: Option<u32>,
    /// Labels of the workload.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways it narrows to.
    pub gateways: Vec<String>,
    /// Namespace of the workload.
    pub source_namespace: Option<String>,
}

/// One TCP rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpRoute {
    /// Any of them.
    #[serde(rename = "match")]
    pub matches: Vec<L4Match>,
    /// Destinations.
    pub route: Vec<RouteDestination>,
}

/// Conditions that hold together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct L4Match {
    /// No effect at a gateway.
    pub destination_subnets: Vec<String>,
    /// Port of the server.
    pub port: Option<u32>,
    /// Hidden; no effect at a gateway.
    pub source_subnet: Option<String>,
    /// Labels of the workload.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways it narrows to.
    pub gateways: Vec<String>,
    /// Namespace of the workload.
    pub source_namespace: Option<String>,
}

/// A destination and its share.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteDestination {
    /// Where.
    pub destination: Option<Destination>,
    /// Share.
    pub weight: Option<i64>,
}
