// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Certificates and keys from Secrets and files: parsed, and known to belong
//! together before anything is served with them.

use std::{path::PathBuf, sync::Arc};

use base64::Engine as _;
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use crate::{
    diagnostic::Reason,
    model::{Certificate, CertificateId, HostPattern},
    resource::{Object, ObjectId, Place, core::Secret},
    translate::Context,
};

impl Context<'_> {
    /// The certificate in the Secret that a Gateway in `namespace` calls
    /// `name`. A finding at `place` when there is none that can be used.
    pub fn secret_certificate(
        &mut self,
        name: &str,
        namespace: &str,
        place: Place<'_>,
    ) -> Option<CertificateId> {
        let own = self.namespace(namespace).to_owned();
        let wanted = match secret_id(name, &own) {
            Ok(id) => id,
            Err(message) => {
                self.findings
                    .error(place, Reason::UnsupportedField, message);
                return None;
            }
        };
        let id = CertificateId(format!("secret/{}/{}", wanted.namespace, wanted.name).into());
        if self.certificates.contains_key(&id) {
            return Some(id);
        }
        let Some(secret) = self
            .resources
            .secrets
            .iter()
            .find(|secret| secret.meta.id == wanted)
            .cloned()
        else {
            self.findings.error(
                place,
                Reason::MissingCertificate,
                format!("there is no Secret {wanted}; without another certificate this server is not served"),
            );
            return None;
        };
        match pair(&secret) {
            Ok((certificate, key)) => self.certificate(id, &certificate, &key, place),
            Err(message) => {
                let message = format!("Secret {wanted} at {}: {message}", secret.meta.origin);
                self.unusable(id, Reason::InvalidCertificate, &message, place)
            }
        }
    }

    /// The certificate in a pair of files.
    pub fn file_certificate(
        &mut self,
        certificate: Option<&str>,
        key: Option<&str>,
        place: Place<'_>,
    ) -> Option<CertificateId> {
        let (Some(certificate), Some(key)) = (certificate, key) else {
            self.findings.error(
                place,
                Reason::MissingField,
                "serverCertificate and privateKey go together; give both",
            );
            return None;
        };
        let origin = place.origin();
        // By path, because files of several directories can share a name.
        let path = origin.beside(certificate);
        let id = CertificateId(format!("file/{}", path.display()).into());
        if self.certificates.contains_key(&id) {
            return Some(id);
        }
        let pair = self
            .file(path, certificate)
            .and_then(|certificate| Ok((certificate, self.file(origin.beside(key), key)?)));
        match pair {
            Ok((certificate, key)) => self.certificate(id, &certificate, &key, place),
            Err(message) => self.unusable(id, Reason::MissingCertificate, &message, place),
        }
    }

    fn file(&self, path: PathBuf, name: &str) -> Result<Arc<[u8]>, String> {
        match self.resources.files.get(&path) {
            Some(Ok(contents)) => Ok(Arc::clone(&contents.0)),
            Some(Err(error)) => Err(format!("{name} cannot be read: {error}")),
            None => Err(format!("{name} is not there")),
        }
    }

    /// A finding, and the last good version when there is one: a pair that is
    /// replaced file by file does not match for a moment.
    fn unusable(
        &mut self,
        id: CertificateId,
        reason: Reason,
        message: &str,
        place: Place<'_>,
    ) -> Option<CertificateId> {
        let last_good = self.options.last_good.get(&id).cloned();
        let consequence = match &last_good {
            Some(_) => "its last good version stays in use",
            None => "without another certificate this server is not served",
        };
        self.findings
            .error(place, reason, format!("{message}; {consequence}"));
        let certificate = last_good?;
        self.certificates.insert(id.clone(), certificate);
        Some(id)
    }

    fn certificate(
        &mut self,
        id: CertificateId,
        certificate_pem: &[u8],
        key_pem: &[u8],
        place: Place<'_>,
    ) -> Option<CertificateId> {
        match parse(&id, certificate_pem, key_pem) {
            Err(message) => {
                let message = format!("{id}: {message}");
                self.unusable(id, Reason::InvalidCertificate, &message, place)
            }
            Ok((certificate, not_before_s)) => {
                if let Some(now_s) = self.options.now_s {
                    if certificate.not_after_s < now_s {
                        self.findings.warning(
                            place,
                            Reason::InvalidCertificate,
                            format!("{id} has expired; clients will refuse it: renew it"),
                        );
                    } else if not_before_s > now_s {
                        self.findings.warning(
                            place,
                            Reason::InvalidCertificate,
                            format!(
                                "{id} is not valid yet; clients will refuse it: check the clock"
                            ),
                        );
                    }
                }
                self.certificates.insert(id.clone(), certificate);
                Some(id)
            }
        }
    }

    /// Warns of exact hosts that none of the certificates is for.
    pub fn check_names(
        &mut self,
        certificates: &[CertificateId],
        hosts: &[HostPattern],
        place: Place<'_>,
    ) {
        let names: Vec<String> = certificates
            .iter()
            .filter_map(|id| self.certificates.get(id))
            .flat_map(|certificate| names(certificate.chain.first()))
            .collect();
        if names.is_empty() {
            return;
        }
        for host in hosts {
            let HostPattern::Exact(host) = host else {
                continue;
            };
            if !names.iter().any(|name| covers(name, host)) {
                self.findings.warning(
                    place,
                    Reason::InvalidCertificate,
                    format!(
                        "the certificate is for {}, not for {host}; clients will refuse it",
                        names.join(", ")
                    ),
                );
            }
        }
    }
}

/// `name`, `kubernetes://name` and `kubernetes://own/name`.
fn secret_id(name: &str, own: &str) -> Result<ObjectId, String> {
    let rest = match name.split_once("://") {
        None => name,
        Some(("kubernetes" | "kubernetes-gateway", rest)) => rest,
        Some((scheme, _)) => {
            return Err(format!(
                "credentials of {scheme}:// are not supported; name a Secret"
            ));
        }
    };
    let (namespace, name) = rest.split_once('/').unwrap_or((own, rest));
    if namespace != own {
        return Err(format!(
            "a Secret of namespace {namespace} must not be read from namespace {own}; move it"
        ));
    }
    Ok(ObjectId {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// Certificate and key of a Secret: `cert` and `key`, else `tls.crt` and
/// `tls.key`, as Istio reads them. The type of the Secret is not checked.
fn pair(secret: &Object<Secret>) -> Result<(Vec<u8>, Vec<u8>), String> {
    for (certificate, key) in [("cert", "key"), ("tls.crt", "tls.key")] {
        match (value(secret, certificate)?, value(secret, key)?) {
            (Some(certificate), Some(key)) => return Ok((certificate, key)),
            (Some(_), None) => return Err(format!("{certificate} without {key}; add it")),
            (None, Some(_)) => return Err(format!("{key} without {certificate}; add it")),
            (None, None) => {}
        }
    }
    Err("it has neither tls.crt and tls.key nor cert and key".to_owned())
}

fn value(secret: &Object<Secret>, key: &str) -> Result<Option<Vec<u8>>, String> {
    let value = match (secret.spec.string_data.get(key), secret.spec.data.get(key)) {
        (Some(text), _) => text.0.clone().into_bytes(),
        (None, Some(encoded)) => {
            let compact: String = encoded.0.split_whitespace().collect();
            base64::engine::general_purpose::STANDARD
                .decode(compact)
                .map_err(|_| format!("{key} is not base64; use stringData for plain text"))?
        }
        (None, None) => return Ok(None),
    };
    if value.is_empty() {
        return Err(format!("{key} is empty"));
    }
    Ok(Some(value))
}

/// The parsed pair and the begin of its validity.
fn parse(
    id: &CertificateId,
    certificate_pem: &[u8],
    key_pem: &[u8],
) -> Result<(Certificate, i64), String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is not PEM: {error}"))?;
    let Some(leaf) = chain.first() else {
        return Err("there is no certificate in it".to_owned());
    };
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| format!("the key is not PEM: {error}"))?;
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| format!("the certificate cannot be parsed: {error}"))?;
    let not_before_s = leaf.validity().not_before.timestamp();
    let not_after_s = leaf.validity().not_after.timestamp();
    let signer = aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|error| format!("the key cannot be used: {error}"))?;
    CertifiedKey::new(chain.clone(), signer)
        .keys_match()
        .map_err(|_| "the key does not belong to the first certificate".to_owned())?;
    Ok((
        Certificate {
            id: id.clone(),
            chain,
            key: Arc::new(key),
            not_after_s,
        },
        not_before_s,
    ))
}

/// DNS names of a leaf; none when it cannot be told.
fn names(leaf: Option<&CertificateDer<'_>>) -> Vec<String> {
    let Some(Ok((_, leaf))) = leaf.map(|der| x509_parser::parse_x509_certificate(der)) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = leaf.subject_alternative_name() else {
        return Vec::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// RFC 9525 section 6.3: a wildcard stands for exactly one label.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
        None => name == host,
    }
}

#[cfg(test)]
mod tests {
    use super::{covers, secret_id};

    #[test]
    fn forms_of_a_credential_name() {
        for (text, expected) in [
            ("a", Some("own/a")),
            ("kubernetes://a", Some("own/a")),
            ("kubernetes://own/a", Some("own/a")),
            ("kubernetes-gateway://own/a", Some("own/a")),
            ("kubernetes://other/a", None),
            ("configmap://own/a", None),
        ] {
            let id = secret_id(text, "own").ok().map(|id| id.to_string());
            assert_eq!(id.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_wildcard_certificate_is_for_one_label() {
        assert!(covers("*.a.example", "b.a.example"));
        assert!(!covers("*.a.example", "c.b.a.example") && !covers("*.a.example", "a.example"));
    }
}
