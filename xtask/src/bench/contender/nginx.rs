// SPDX-License-Identifier: Apache-2.0 OR MIT
//! nginx as a contender.

use anyhow::Result;

use super::{
    Start,
    peer::{self, Files},
};
use crate::bench::{scenario::Service, stage::Stage};

/// Starts nginx for `service`.
///
/// # Errors
///
/// When it does not come up.
pub fn start<'lab>(stage: &'lab Stage<'lab>, service: Service) -> Result<Start<'lab>> {
    let files = Files::write(stage, "nginx.conf")?;
    files.add_routes("nginx-routes.conf", "", |prefix| {
        format!("location {prefix} {{ proxy_pass http://backends; }}\n")
    })?;
    // A master and its workers in a process namespace of their own: all end
    // with the master, also when it is killed.
    let mut command = stage.lab.gateway.command("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "nginx", "-p"])
        .arg(files.dir())
        .arg("-c")
        .arg(&files.configuration);
    peer::start(stage, service, command, "nginx")
}
