// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TLS handshakes by `openssl s_client`.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// What a handshake showed.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Subject of the server's certificate, if one came.
    pub subject: Option<String>,
    /// Negotiated application protocol, if any.
    pub alpn: Option<String>,
}

/// Shakes hands and closes. `name` absent sends no server name.
///
/// # Errors
///
/// When openssl is missing; a refused handshake is not an error.
pub fn handshake(
    netns: &Netns,
    address: Ipv4Addr,
    port: u16,
    name: Option<&str>,
    options: &[&str],
) -> Result<Handshake> {
    let mut command = netns.command("timeout");
    command
        .args(["10", "openssl", "s_client"])
        .args(["-connect", &format!("{address}:{port}")])
        .args(options);
    match name {
        Some(name) => command.args(["-servername", name]),
        None => command.arg("-noservername"),
    };
    let output = command.output().context("start openssl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let find = |prefix: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(prefix))
            .map(|rest| rest.trim().to_owned())
    };
    Ok(Handshake {
        subject: find("subject="),
        alpn: find("ALPN protocol:"),
    })
}
