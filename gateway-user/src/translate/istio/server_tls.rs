// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ServerTLSSettings: what is done with TLS, with which certificates and
//! versions.

use crate::{
    diagnostic::Reason,
    model::{CertificateId, TlsSettings},
    resource::{
        Object, Place,
        istio::{Gateway, gateway::ServerTls},
    },
    translate::{Context, hosts::ServerHost, istio::gateway::ServerAction},
};

/// Whether nothing but `httpsRedirect` is set.
pub fn only_redirect(tls: &ServerTls) -> bool {
    tls.mode.is_none() && !has_certificate(tls)
}

fn has_certificate(tls: &ServerTls) -> bool {
    tls.server_certificate.is_some()
        || tls.private_key.is_some()
        || tls.credential_name.is_some()
        || !tls.credential_names.is_empty()
        || !tls.tls_certificates.is_empty()
}

/// What a server with `tls` does; nothing, after a finding, when it cannot be
/// served.
pub fn tls_action(
    context: &mut Context<'_>,
    gateway: &Object<Gateway>,
    tls: &ServerTls,
    is_http: bool,
    hosts: &[ServerHost],
    place: Place<'_>,
) -> Option<ServerAction> {
    if tls.https_redirect == Some(true) {
        context.findings.warning(
            place.key("httpsRedirect"),
            Reason::InvalidValue,
            "httpsRedirect has no effect on a TLS port; set it on the HTTP server",
        );
    }
    match tls.mode.as_deref().unwrap_or("PASSTHROUGH") {
        "PASSTHROUGH" => {
            if has_certificate(tls) {
                context.findings.warning(
                    place,
                    Reason::InvalidValue,
                    "with mode PASSTHROUGH (the default) the certificate is not used; set mode: SIMPLE to terminate TLS",
                );
            }
            Some(ServerAction::Passthrough)
        }
        "SIMPLE" => {
            client_settings(context, tls, place);
            let certificates = certificates(context, gateway, tls, place);
            let versions = versions(context, tls, place);
            let (certificates, (allow_tls12, allow_tls13)) = (certificates?, versions?);
            let patterns: Vec<_> = hosts.iter().map(|host| host.pattern.clone()).collect();
            context.check_names(&certificates, &patterns, place);
            let settings = TlsSettings {
                certificates,
                allow_tls12,
                allow_tls13,
            };
            Some(if is_http {
                ServerAction::TerminateHttp(settings)
            } else {
                ServerAction::TerminateTcp(settings)
            })
        }
        mode @ ("MUTUAL" | "OPTIONAL_MUTUAL" | "ISTIO_MUTUAL" | "AUTO_PASSTHROUGH") => {
            context.findings.error(
                place.key("mode"),
                Reason::UnsupportedField,
                format!("mode {mode} is not supported; use SIMPLE or PASSTHROUGH: this server is not served"),
            );
            None
        }
        other => {
            context.findings.error(
                place.key("mode"),
                Reason::InvalidValue,
                format!(
                    "mode {other:?} is not one of SIMPLE, PASSTHROUGH; this server is not served"
                ),
            );
            None
        }
    }
}

/// SIMPLE asks clients for no certificate, so that what is to be checked of
/// one is never looked at.
fn client_settings(context: &mut Context<'_>, tls: &ServerTls, place: Place<'_>) {
    for (key, given) in [
        ("caCertificates", tls.ca_certificates.is_some()),
        ("caCrl", tls.ca_crl.is_some()),
        (
            "caCertCredentialName",
            tls.ca_cert_credential_name.is_some(),
        ),
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        (
            "verifyCertificateSpki",
            !tls.verify_certificate_spki.is_empty(),
        ),
        (
            "verifyCertificateHash",
            !tls.verify_certificate_hash.is_empty(),
        ),
        (
            "insecureSkipVerify",
            tls.insecure_skip_verify.unwrap_or(false),
        ),
    ] {
        if given {
            context.findings.warning(
                place.key(key),
                Reason::InvalidValue,
                format!("{key} has no effect with mode SIMPLE, which asks clients for no certificate; remove it"),
            );
        }
    }
}

fn certificates(
    context: &mut Context<'_>,
    gateway: &Object<Gateway>,
    tls: &ServerTls,
    place: Place<'_>,
) -> Option<Vec<CertificateId>> {
    let sources = [
        tls.server_certificate.is_some() || tls.private_key.is_some(),
        tls.credential_name.is_some(),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    match sources.iter().filter(|given| **given).count() {
        1 => {}
        0 => {
            context.findings.error(
                place,
                Reason::MissingCertificate,
                "mode SIMPLE needs a certificate: credentialName, or serverCertificate and privateKey; this server is not served",
            );
            return None;
        }
        _ => {
            context.findings.error(
                place,
                Reason::InvalidValue,
                "give the certificate in one way only: credentialName, credentialNames, tlsCertificates or serverCertificate; this server is not served",
            );
            return None;
        }
    }
    let namespace = &gateway.meta.id.namespace;
    let found: Vec<Option<CertificateId>> = if let Some(name) = &tls.credential_name {
        vec![context.secret_certificate(name, namespace, place.key("credentialName"))]
    } else if !tls.credential_names.is_empty() {
        let place = place.key("credentialNames");
        tls.credential_names
            .iter()
            .enumerate()
            .map(|(index, name)| context.secret_certificate(name, namespace, place.index(index)))
            .collect()
    } else if !tls.tls_certificates.is_empty() {
        let place = place.key("tlsCertificates");
        tls.tls_certificates
            .iter()
            .enumerate()
            .map(|(index, pair)| {
                context.file_certificate(
                    pair.server_certificate.as_deref(),
                    pair.private_key.as_deref(),
                    place.index(index),
                )
            })
            .collect()
    } else {
        vec![context.file_certificate(
            tls.server_certificate.as_deref(),
            tls.private_key.as_deref(),
            place.key("serverCertificate"),
        )]
    };
    // One of several that can be used is enough to serve.
    let found: Vec<CertificateId> = found.into_iter().flatten().collect();
    (!found.is_empty()).then_some(found)
}

/// Whether TLS 1.2 and TLS 1.3 are offered.
fn versions(context: &mut Context<'_>, tls: &ServerTls, place: Place<'_>) -> Option<(bool, bool)> {
    if !tls.cipher_suites.is_empty() {
        context
            .findings
            .not_acted_on(place.key("cipherSuites"), "cipherSuites");
    }
    if !tls.ecdh_curves.is_empty() {
        context
            .findings
            .not_acted_on(place.key("ecdhCurves"), "ecdhCurves");
    }
    let parse = |text: Option<&str>, default: u32| match text {
        None | Some("TLS_AUTO") => Some(default),
        Some("TLSV1_0") => Some(10),
        Some("TLSV1_1") => Some(11),
        Some("TLSV1_2") => Some(12),
        Some("TLSV1_3") => Some(13),
        Some(_) => None,
    };
    let min = parse(tls.min_protocol_version.as_deref(), 12);
    let max = parse(tls.max_protocol_version.as_deref(), 13);
    for (key, version) in [("minProtocolVersion", min), ("maxProtocolVersion", max)] {
        if version.is_none() {
            context.findings.error(
                place.key(key),
                Reason::InvalidValue,
                format!("{key} must be TLS_AUTO, TLSV1_2 or TLSV1_3; this server is not served"),
            );
        }
    }
    let (min, max) = (min?, max?);
    if min < 12 {
        context.findings.warning(
            place.key("minProtocolVersion"),
            Reason::UnsupportedField,
            "TLS below 1.2 is not offered; the minimum is TLSV1_2",
        );
    }
    let min = min.max(12);
    if max < min {
        context.findings.error(
            place.key("maxProtocolVersion"),
            Reason::InvalidValue,
            "no TLS version is left between minProtocolVersion and maxProtocolVersion, and none below 1.2 is offered; this server is not served",
        );
        return None;
    }
    Some((min <= 12, max >= 13))
}
