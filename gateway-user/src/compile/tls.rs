// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TLS configurations, one for every distinct set of certificates, versions
//! and protocols. An unchanged one is taken over from the previous snapshot,
//! so that clients can resume their sessions after a reload.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use rustls::ServerConfig;

use crate::{
    diagnostic::{Diagnostic, Reason},
    model::{Certificate, CertificateId, TlsSettings},
    origin::Origin,
    snapshot::{Snapshot, TlsConfigKey},
    tls,
};

/// What is offered in ALPN.
#[derive(Clone, Copy)]
pub(super) enum Alpn {
    /// Nothing: raw protocols must not be answered `h2`.
    None,
    /// `h2` and `http/1.1`.
    Http,
}

/// Why a chain cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    /// The model names a certificate it does not hold.
    #[error("certificate {0} is not there")]
    Missing(CertificateId),
    /// Versions or certificates rustls refuses.
    #[error(transparent)]
    Settings(#[from] tls::TlsError),
}

impl ConfigError {
    /// The finding for the operator.
    pub(super) fn diagnostic(&self, origin: &Origin) -> Diagnostic {
        let reason = match self {
            Self::Missing(_) => Reason::MissingCertificate,
            Self::Settings(_) => Reason::InvalidCertificate,
        };
        Diagnostic::error(origin, reason, format!("{self}; this server is not served"))
    }
}

/// Builds configurations and remembers those in use.
pub(super) struct Configs<'a> {
    certificates: &'a BTreeMap<CertificateId, Certificate>,
    previous: &'a HashMap<TlsConfigKey, Arc<ServerConfig>>,
    used: HashMap<TlsConfigKey, Arc<ServerConfig>>,
}

impl<'a> Configs<'a> {
    pub(super) fn new(
        certificates: &'a BTreeMap<CertificateId, Certificate>,
        previous: &'a Snapshot,
    ) -> Self {
        Self {
            certificates,
            previous: &previous.tls_configs,
            used: HashMap::new(),
        }
    }

    /// The configuration for `settings`.
    pub(super) fn config(
        &mut self,
        settings: &TlsSettings,
        alpn: Alpn,
    ) -> Result<Arc<ServerConfig>, ConfigError> {
        let certificates = settings
            .certificates
            .iter()
            .map(|id| {
                self.certificates
                    .get(id)
                    .ok_or_else(|| ConfigError::Missing(id.clone()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let alpn: &[&[u8]] = match alpn {
            Alpn::None => &[],
            Alpn::Http => &[b"h2", b"http/1.1"],
        };
        let key = TlsConfigKey {
            chains: certificates
                .iter()
                .map(|certificate| certificate.chain.clone())
                .collect(),
            allow_tls12: settings.allow_tls12,
            allow_tls13: settings.allow_tls13,
            alpn: alpn.iter().map(|protocol| protocol.to_vec()).collect(),
        };
        if let Some(config) = self.used.get(&key).or_else(|| self.previous.get(&key)) {
            let config = Arc::clone(config);
            self.used.insert(key, Arc::clone(&config));
            return Ok(config);
        }
        let keys = certificates
            .into_iter()
            .map(tls::certified_key)
            .collect::<Result<Vec<_>, _>>()?;
        let config = tls::server_config(keys, settings, alpn)?;
        self.used.insert(key, Arc::clone(&config));
        Ok(config)
    }

    /// The configurations of this snapshot.
    pub(super) fn into_used(self) -> HashMap<TlsConfigKey, Arc<ServerConfig>> {
        self.used
    }
}
