// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Certificates and keys, parsed.

use std::{fmt, sync::Arc};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Names a certificate: `secret/<namespace>/<name>` or `file/<path>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateId(pub Arc<str>);

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A chain and its key, known to belong together.
#[derive(Clone)]
pub struct Certificate {
    /// Its name.
    pub id: CertificateId,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Shared, because key material is not copied.
    pub key: Arc<PrivateKeyDer<'static>>,
    /// End of validity, seconds since the Unix epoch.
    pub not_after_s: i64,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("id", &self.id)
            .field("chain_len", &self.chain.len())
            .field("not_after_s", &self.not_after_s)
            .finish_non_exhaustive()
    }
}
