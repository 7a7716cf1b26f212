// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An MQTT broker: 1883 in the clear, 8883 over TLS.

use std::{fs, net::Ipv4Addr};

use anyhow::Result;

use crate::{lab::Lab, pki::Leaf, process::Process};

/// Starts mosquitto on backend `index`, on all of the lab's address there.
///
/// # Errors
///
/// When it is not installed or does not come up.
pub fn start(lab: &Lab, index: usize, tls: Option<&Leaf>) -> Result<Process> {
    let address: Ipv4Addr = lab.backend_address(index);
    let mut config = format!(
        "persistence false\nallow_anonymous true\nuser root\nlog_dest stderr\n\
         listener {PLAIN} {address}\n"
    );
    if let Some(Leaf { certificate, key }) = tls {
        config.push_str(&format!(
            "listener {TLS} {address}\ncertfile {}\nkeyfile {}\n",
            certificate.display(),
            key.display()
        ));
    }
    let name = format!("mosquitto{}", index + 1);
    let file = lab.dir().join(format!("{name}.conf"));
    fs::write(&file, config)?;
    let netns = &lab.backends[index];
    let mut command = netns.command("mosquitto");
    command.arg("-c").arg(&file);
    let mut process = lab.spawn(command, &name)?;
    super::listening(&mut process, netns, address, PLAIN)?;
    Ok(process)
}

/// Port in the clear.
pub const PLAIN: u16 = 1883;
/// Port over TLS.
pub const TLS: u16 = 8883;
