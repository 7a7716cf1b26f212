// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A throw-away certificate authority for tests.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, sign::CertifiedKey};

/// Issues certificates that its clients trust.
pub(crate) struct Ca {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) roots: RootCertStore,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a root");
        Self {
            issuer: rcgen::Issuer::new(params, key),
            roots,
        }
    }

    pub(crate) fn issue(
        &self,
        names: &[&str],
        algorithm: &'static rcgen::SignatureAlgorithm,
    ) -> Arc<CertifiedKey> {
        let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let params = rcgen::CertificateParams::new(names).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        CertifiedKey::from_der(
            vec![certificate.der().clone()],
            key,
            &aws_lc_rs::default_provider(),
        )
        .map(Arc::new)
        .expect("a certified key")
    }

    pub(crate) fn client(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth()
    }
}
