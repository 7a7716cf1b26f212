// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An iperf3 server.

use anyhow::Result;

use crate::{lab::Lab, process::Process};

/// Starts an iperf3 server on `port` of backend `index`.
///
/// # Errors
///
/// When it is not installed or does not come up.
pub fn start(lab: &Lab, index: usize, port: u16) -> Result<Process> {
    let address = lab.backend_address(index);
    let mut command = lab.backends[index].command("iperf3");
    command
        .args(["--server", "--forceflush", "--bind", &address.to_string()])
        .args(["--port", &port.to_string()]);
    let name = format!("iperf{}-{port}", index + 1);
    let mut process = lab.spawn(command, &name)?;
    // Its one slot is for a test: a probe that connects would disturb it.
    process.ready("listens", super::READY, |process| {
        process.log().contains("Server listening")
    })?;
    Ok(process)
}

/// The usual port.
pub const PORT: u16 = 5201;
