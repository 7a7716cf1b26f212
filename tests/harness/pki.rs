// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A throw-away certificate authority, by the openssl command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::netns::run;

/// An authority that lives in a lab's directory.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, both PEM files.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes a new authority in `dir/pki`.
    ///
    /// # Errors
    ///
    /// When openssl is missing or fails.
    pub fn new(dir: &Path) -> Result<Self> {
        let dir = dir.join("pki");
        fs::create_dir_all(&dir)?;
        let authority = Self { dir };
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=Sluice lab"])
            .arg("-keyout")
            .arg(authority.dir.join("ca.key"))
            .arg("-out")
            .arg(authority.certificate()))?;
        Ok(authority)
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Issues a certificate for `names`; the first one names its files.
    ///
    /// # Errors
    ///
    /// When openssl fails.
    pub fn issue(&self, names: &[&str]) -> Result<Leaf> {
        let stem = names
            .first()
            .context("a certificate needs a name")?
            .replace('*', "wildcard");
        let file = |extension: &str| self.dir.join(format!("{stem}.{extension}"));
        let sans: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
        fs::write(file("ext"), format!("subjectAltName={}\n", sans.join(",")))?;
        run(Command::new("openssl")
            .args(["req", "-newkey", "ec", "-nodes"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", &format!("/CN={}", names[0])])
            .arg("-keyout")
            .arg(file("key"))
            .arg("-out")
            .arg(file("csr")))?;
        run(Command::new("openssl")
            .args(["x509", "-req", "-days", "2", "-CAcreateserial"])
            .arg("-in")
            .arg(file("csr"))
            .arg("-CA")
            .arg(self.certificate())
            .arg("-CAkey")
            .arg(self.dir.join("ca.key"))
            .arg("-extfile")
            .arg(file("ext"))
            .arg("-out")
            .arg(file("crt")))?;
        Ok(Leaf {
            certificate: file("crt"),
            key: file("key"),
        })
    }
}

impl Leaf {
    /// The pair as a Secret resource.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub fn secret(&self, name: &str, namespace: &str) -> Result<String> {
        Ok(format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             type: kubernetes.io/tls\ndata:\n  tls.crt: {}\n  tls.key: {}\n",
            base64(&fs::read(&self.certificate)?),
            base64(&fs::read(&self.key)?),
        ))
    }
}

/// RFC 4648 section 4, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain(std::iter::repeat(&0))
            .take(3)
            .fold(0_usize, |word, byte| word << 8 | usize::from(*byte));
        for index in 0..4 {
            if index <= chunk.len() {
                text.push(char::from(ALPHABET[word >> (18 - 6 * index) & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_pads_as_rfc_4648_says() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
