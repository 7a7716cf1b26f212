// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An MQTT broker: 1883 in the clear, 8883 over TLS.

use std::{fs, net::SocketAddr};

use anyhow::Result;

use crate::{lab::Lab, netns::Netns, pki::Leaf, process::Process};

/// Starts mosquitto on its usual ports of backend `index`.
///
/// # Errors
///
/// When it is not installed or does not come up.
pub fn start(lab: &Lab, index: usize, tls: Option<&Leaf>) -> Result<Process> {
    let address = |port| SocketAddr::from((lab.backend_address(index), port));
    let encrypted = tls.map(|leaf| (address(TLS), leaf));
    serve(lab, &lab.backends[index], address(PLAIN), encrypted)
}

/// Starts mosquitto anywhere.
///
/// # Errors
///
/// When it is not installed or does not come up.
pub fn serve(
    lab: &Lab,
    netns: &Netns,
    plain: SocketAddr,
    encrypted: Option<(SocketAddr, &Leaf)>,
) -> Result<Process> {
    let mut config = format!(
        "persistence false\nallow_anonymous true\nuser root\nlog_dest stderr\n\
         listener {} {}\n",
        plain.port(),
        plain.ip()
    );
    if let Some((address, Leaf { certificate, key })) = encrypted {
        config.push_str(&format!(
            "listener {} {}\ncertfile {}\nkeyfile {}\n",
            address.port(),
            address.ip(),
            certificate.display(),
            key.display()
        ));
    }
    let name = format!("mosquitto-{}", plain.port());
    let file = lab.dir().join(format!("{name}.conf"));
    fs::write(&file, config)?;
    let mut command = netns.command("mosquitto");
    command.arg("-c").arg(&file);
    let mut process = lab.spawn(command, &name)?;
    super::listening(&mut process, netns, plain)?;
    Ok(process)
}

/// Sessions that a broker has accepted so far.
pub fn sessions(broker: &Process) -> usize {
    broker.log().matches("New client connected").count()
}

/// Port in the clear.
pub const PLAIN: u16 = 1883;
/// Port over TLS.
pub const TLS: u16 = 8883;
