// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TLS termination: handshake and certificate choice.

use std::sync::{Arc, OnceLock};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    server::ProducesTickets,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use crate::model::{Certificate, TlsSettings};

pub mod handshake;
pub mod resolver;

/// Why TLS cannot be terminated as configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Nothing to show to clients.
    #[error("a server that terminates TLS needs at least one certificate")]
    NoCertificate,
    /// Both versions are off.
    #[error("a server that terminates TLS must allow TLS 1.2 or TLS 1.3")]
    NoVersion,
    /// A certificate that does not parse, or a key that does not belong to it.
    #[error("certificate {id} cannot be used: {source}")]
    Certificate {
        /// Which.
        id: String,
        /// Why.
        source: rustls::Error,
    },
    /// The first certificate of a chain that does not parse.
    #[error("a certificate cannot be parsed: {0}")]
    Parse(rustls::Error),
    /// The library refuses the combination.
    #[error("the tls settings are not usable: {0}")]
    Settings(rustls::Error),
}

/// Parses a key, and checks that it belongs to its certificate.
///
/// # Errors
/// [`TlsError::Certificate`].
pub fn certified_key(certificate: &Certificate) -> Result<Arc<CertifiedKey>, TlsError> {
    CertifiedKey::from_der(
        certificate.chain.clone(),
        certificate.key.clone_key(),
        &aws_lc_rs::default_provider(),
    )
    .map(Arc::new)
    .map_err(|source| TlsError::Certificate {
        id: certificate.id.to_string(),
        source,
    })
}

/// What rustls needs to terminate: the best of `certs` for each client (the
/// first one when none matches), the versions of `settings`, resumption by
/// stateless tickets, and `alpn` in order of preference (empty: none is
/// negotiated and clients that offer some are served all the same).
///
/// # Errors
/// [`TlsError`] when there is no certificate or version, or a certificate does
/// not parse.
pub fn server_config(
    certs: Vec<Arc<CertifiedKey>>,
    settings: &TlsSettings,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::with_capacity(2);
    if settings.allow_tls13 {
        versions.push(&TLS13);
    }
    if settings.allow_tls12 {
        versions.push(&TLS12);
    }
    if versions.is_empty() {
        return Err(TlsError::NoVersion);
    }
    let resolver = resolver::BySni::new(certs)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&versions)
        .map_err(TlsError::Settings)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    if let Some(ticketer) = ticketer() {
        config.ticketer = ticketer;
    }
    Ok(Arc::new(config))
}

/// One ticket key for the process (rotated by the library every six hours), so
/// that sessions survive a configuration change. rustls resumes a session only
/// under the server name it was made for. Chains that ask for client
/// certificates must not share it, or a session of another chain would stand in
/// for the certificate.
fn ticketer() -> Option<Arc<dyn ProducesTickets>> {
    static TICKETER: OnceLock<Option<Arc<dyn ProducesTickets>>> = OnceLock::new();
    TICKETER
        .get_or_init(|| match aws_lc_rs::Ticketer::new() {
            Ok(ticketer) => Some(ticketer),
            Err(error) => {
                tracing::warn!(%error, "no TLS session tickets: every handshake is a full one");
                None
            }
        })
        .clone()
}

#[cfg(test)]
pub(crate) mod tests;
