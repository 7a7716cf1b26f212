// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AuthorizationPolicy: who may connect or send requests.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::resource::Opaque;

/// `spec` of an AuthorizationPolicy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// Workloads it is for; all of its namespace when absent.
    pub selector: Option<Selector>,
    /// The one object it is for.
    pub target_ref: Option<Opaque>,
    /// Objects it is for.
    pub target_refs: Vec<Opaque>,
    /// ALLOW when absent.
    pub action: Option<String>,
    /// Of action CUSTOM.
    pub provider: Option<Opaque>,
    /// Any of them; none matches nothing.
    pub rules: Vec<Rule>,
    /// It was written, but cannot be read.
    #[serde(skip)]
    pub unreadable: bool,
}

/// Labels of workloads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    /// All of them.
    pub match_labels: BTreeMap<String, String>,
}

/// One rule: any of `from`, any of `to`, all of `when`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// Where requests come from; anywhere when absent.
    pub from: Vec<From>,
    /// What they are for; anything when absent.
    pub to: Vec<To>,
    /// Conditions.
    pub when: Vec<Condition>,
}

/// One of `from`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct From {
    /// All of its fields hold.
    pub source: Source,
}

/// Where requests come from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Source {
    /// Networks.
    pub ip_blocks: Vec<String>,
    /// Networks.
    pub not_ip_blocks: Vec<String>,
    /// Networks.
    pub remote_ip_blocks: Vec<String>,
    /// Networks.
    pub not_remote_ip_blocks: Vec<String>,
    /// Needs client certificates of the mesh.
    pub principals: Option<Opaque>,
    /// The same.
    pub not_principals: Option<Opaque>,
    /// Needs tokens.
    pub request_principals: Option<Opaque>,
    /// The same.
    pub not_request_principals: Option<Opaque>,
    /// Needs client certificates of the mesh.
    pub namespaces: Option<Opaque>,
    /// The same.
    pub not_namespaces: Option<Opaque>,
    /// The same.
    pub service_accounts: Option<Opaque>,
    /// The same.
    pub not_service_accounts: Option<Opaque>,
    /// The same.
    pub trust_domains: Option<Opaque>,
    /// The same.
    pub not_trust_domains: Option<Opaque>,
}

/// One of `to`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct To {
    /// All of its fields hold.
    pub operation: Operation,
}

/// What requests are for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Operation {
    /// Ports of the listener.
    pub ports: Vec<String>,
    /// Ports of the listener.
    pub not_ports: Vec<String>,
    /// HTTP.
    pub hosts: Option<Opaque>,
    /// HTTP.
    pub not_hosts: Option<Opaque>,
    /// HTTP.
    pub methods: Option<Opaque>,
    /// HTTP.
    pub not_methods: Option<Opaque>,
    /// HTTP.
    pub paths: Option<Opaque>,
    /// HTTP.
    pub not_paths: Option<Opaque>,
}

/// One condition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// What is compared.
    pub key: String,
    /// Any of them.
    pub values: Vec<String>,
    /// None of them.
    pub not_values: Vec<String>,
}
