// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HAProxy as a contender.

use anyhow::Result;

use super::{
    Start,
    peer::{self, Files},
};
use crate::bench::{scenario::Service, stage::Stage};

/// Starts HAProxy for `service`.
///
/// # Errors
///
/// When it does not come up.
pub fn start<'lab>(stage: &'lab Stage<'lab>, service: Service) -> Result<Start<'lab>> {
    let files = Files::write(stage, "haproxy.cfg")?;
    files.add_routes("haproxy-routes.map", "", |prefix| {
        format!("{prefix} http-backends\n")
    })?;
    let mut command = stage.lab.gateway.command("haproxy");
    // One process in the foreground, without a master above it.
    command.arg("-db").arg("-f").arg(&files.configuration);
    peer::start(stage, service, command, "haproxy")
}
