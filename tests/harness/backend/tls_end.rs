// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TLS in front of a server that does not speak it from the first byte on, by
//! socat: one process a connection.

use std::net::SocketAddr;

use anyhow::Result;

use crate::{lab::Lab, netns::Netns, pki::Leaf, process::Process};

/// A running one.
#[derive(Debug)]
pub struct TlsEnd {
    process: Process,
    /// Connections that only looked whether it listens.
    before: usize,
}

impl TlsEnd {
    /// Starts one of `name` at the address of `encrypted`, with its
    /// certificate, that connects to `plain` for each connection.
    ///
    /// # Errors
    ///
    /// When socat is not installed or does not come up.
    pub fn start(
        lab: &Lab,
        netns: &Netns,
        name: &str,
        encrypted: (SocketAddr, &Leaf),
        plain: SocketAddr,
    ) -> Result<Self> {
        let (address, Leaf { certificate, key }) = encrypted;
        let mut command = netns.command("socat");
        command
            // Notices: it says what it accepts.
            .args(["-d", "-d"])
            .arg(format!(
                "OPENSSL-LISTEN:{},bind={},fork,reuseaddr,verify=0,cert={},key={}",
                address.port(),
                address.ip(),
                certificate.display(),
                key.display()
            ))
            .arg(format!("TCP:{plain}"));
        let mut process = lab.spawn(command, &format!("{name}-tls-{}", address.port()))?;
        super::listening(&mut process, netns, address)?;
        let before = accepted(&process);
        Ok(Self { process, before })
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        accepted(&self.process) - self.before
    }
}

fn accepted(process: &Process) -> usize {
    process.log().matches("accepting connection from").count()
}
