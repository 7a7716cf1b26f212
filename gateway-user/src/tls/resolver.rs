// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which of a server's certificates a client is shown.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::tls::TlsError;

/// Chooses by server name (a certificate that names it, before one with a
/// matching wildcard, before the first of all) and, among equals, the first
/// whose key can sign what the client verifies.
#[derive(Debug)]
pub struct BySni {
    certs: Vec<Arc<CertifiedKey>>,
    /// Lower-case names to indices into `certs`, in order.
    exact: HashMap<String, Vec<usize>>,
    /// The same for `*.example.com`, by what follows the star's label.
    wildcard: HashMap<String, Vec<usize>>,
}

impl BySni {
    /// Indexes the names of `certs`.
    ///
    /// # Errors
    /// When there is none, or one does not parse.
    pub fn new(certs: Vec<Arc<CertifiedKey>>) -> Result<Self, TlsError> {
        if certs.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let mut exact: HashMap<String, Vec<usize>> = HashMap::new();
        let mut wildcard: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, cert) in certs.iter().enumerate() {
            let leaf = cert.end_entity_cert().map_err(TlsError::Parse)?;
            for name in dns_names(leaf)? {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_default().push(index),
                    None => exact.entry(name).or_default().push(index),
                }
            }
        }
        Ok(Self {
            certs,
            exact,
            wildcard,
        })
    }

    fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let named = name.as_deref().and_then(|name| self.exact.get(name));
        // A wildcard of a certificate stands for exactly one label (RFC 6125
        // section 6.4.3).
        let parent = name.as_deref().and_then(|name| name.split_once('.'));
        let wild = parent.and_then(|(_, parent)| self.wildcard.get(parent));
        let all: Vec<usize> = (0..self.certs.len()).collect();
        [named, wild, Some(&all)]
            .into_iter()
            .flatten()
            .find_map(|indices| {
                indices
                    .iter()
                    .filter_map(|&index| self.certs.get(index))
                    .find(|cert| cert.key.choose_scheme(schemes).is_some())
            })
            // No key fits: the handshake then fails with the right alert.
            .or_else(|| self.certs.first())
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
            .cloned()
    }
}

/// The DNS names of the subject alternative name extension, lower case.
fn dns_names(der: &[u8]) -> Result<Vec<String>, TlsError> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    let bad = || TlsError::Parse(rustls::CertificateError::BadEncoding.into());
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| bad())?;
    let names = certificate.subject_alternative_name().map_err(|_| bad())?;
    Ok(names
        .map(|extension| {
            extension
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                })
                .collect()
        })
        .unwrap_or_default())
}
