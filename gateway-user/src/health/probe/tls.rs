// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A complete TLS handshake. The certificate is not judged: a probe asks
//! whether the endpoint works, not who it is, and sends it nothing. It has no
//! certificate of its own: a server that insists on one passes with TLS 1.3,
//! where the handshake is complete before it can say so, and not with 1.2.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::health::probe::{Outcome, failure};

/// What all handshakes share.
///
/// # Errors
/// When the cryptography cannot be used.
pub fn client_config() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    // A resumed handshake would not ask for the certificate and key again.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Shakes hands, says goodbye.
///
/// # Errors
/// When the handshake does not complete.
pub async fn ask<IO>(
    io: IO,
    server_name: &str,
    ip: IpAddr,
    config: Arc<ClientConfig>,
) -> Result<(), Outcome>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // An address is not sent as a server name (RFC 6066 section 3).
    let name =
        ServerName::try_from(server_name.to_owned()).unwrap_or_else(|_| ServerName::from(ip));
    let mut stream = TlsConnector::from(config)
        .connect(name, io)
        .await
        .map_err(|error| failure(&error))?;
    // The endpoint has proved itself; whether it hears the goodbye is its own.
    let _ = stream.shutdown().await;
    Ok(())
}

/// Accepts every certificate whose key signed the handshake.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
