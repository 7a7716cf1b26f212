// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Gateway: the ports and hosts a gateway serves.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::resource::Opaque;

/// `spec` of a Gateway.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Gateway {
    /// Labels of the gateways meant; absent or empty means all.
    pub selector: BTreeMap<String, String>,
    /// Ports.
    pub servers: Vec<Server>,
}

/// One port and what is served on it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Server {
    /// Port.
    pub port: Option<Port>,
    /// Address; every one when absent.
    pub bind: Option<String>,
    /// `[namespace/]host`.
    pub hosts: Vec<String>,
    /// How TLS is handled.
    pub tls: Option<ServerTls>,
    /// Never implemented by anyone.
    pub default_endpoint: Option<Opaque>,
    /// Name for statistics.
    pub name: Option<String>,
}

/// Port of a server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// Number.
    pub number: Option<u32>,
    /// HTTP, HTTPS, GRPC, HTTP2, TCP, TLS and others.
    pub protocol: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Deprecated and refused by Istio.
    pub target_port: Option<Opaque>,
}

/// ServerTLSSettings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServerTls {
    /// Answer 301 on a plain HTTP server.
    pub https_redirect: Option<bool>,
    /// PASSTHROUGH when absent.
    pub mode: Option<String>,
    /// Path.
    pub server_certificate: Option<String>,
    /// Path.
    pub private_key: Option<String>,
    /// Path.
    pub ca_certificates: Option<String>,
    /// Path.
    pub ca_crl: Option<String>,
    /// Pairs of paths.
    pub tls_certificates: Vec<TlsCertificate>,
    /// Secret.
    pub credential_name: Option<String>,
    /// Secrets.
    pub credential_names: Vec<String>,
    /// Secret with a CA.
    pub ca_cert_credential_name: Option<String>,
    /// Client names.
    pub subject_alt_names: Vec<String>,
    /// Client keys.
    pub verify_certificate_spki: Vec<String>,
    /// Client certificates.
    pub verify_certificate_hash: Vec<String>,
    /// Accept any client certificate.
    pub insecure_skip_verify: Option<bool>,
    /// TLSV1_2 when absent.
    pub min_protocol_version: Option<String>,
    /// TLSV1_3 when absent.
    pub max_protocol_version: Option<String>,
    /// OpenSSL names.
    pub cipher_suites: Vec<String>,
    /// Curves.
    pub ecdh_curves: Vec<String>,
}

/// A pair of files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsCertificate {
    /// Path.
    pub server_certificate: Option<String>,
    /// Path.
    pub private_key: Option<String>,
    /// Path.
    pub ca_certificates: Option<String>,
}
