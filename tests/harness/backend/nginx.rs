// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A web server whose every page says which backend served it and what the
//! request looked like when it arrived.

use std::fs;

use anyhow::Result;

use crate::{lab::Lab, pki::Leaf, process::Process};

/// Starts nginx on backend `index`: 8080 in the clear, 8443 with `tls`.
///
/// # Errors
///
/// When it is not installed or does not come up.
pub fn start(lab: &Lab, index: usize, tls: Option<&Leaf>) -> Result<Process> {
    let address = lab.backend_address(index);
    let dir = lab.dir().join(format!("nginx{}", index + 1));
    fs::create_dir_all(&dir)?;
    let home = dir.display();
    let encrypted = tls.map_or_else(String::new, |Leaf { certificate, key }| {
        format!(
            "listen {address}:{HTTPS} ssl; ssl_certificate {}; ssl_certificate_key {};",
            certificate.display(),
            key.display()
        )
    });
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {home}/{kind};\n"))
        .collect();
    // One process: killing it leaves no worker behind.
    let config = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {home}/pid;\nerror_log stderr;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{temp}  access_log off;\n  keepalive_requests 100000;\n  server {{\n\
         \x20   listen {address}:{HTTP};\n    {encrypted}\n\
         \x20   location / {{\n      default_type text/plain;\n\
         \x20     return 200 \"id=backend{}\\nhost=$host\\nmethod=$request_method\\nuri=$request_uri\\n\
         xff=$http_x_forwarded_for\\nproto=$http_x_forwarded_proto\\n\
         request_id=$http_x_request_id\\ndemo=$http_x_demo\\nscheme=$scheme\\n\";\n\
         \x20   }}\n  }}\n}}\n",
        index + 1
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config)?;
    let netns = &lab.backends[index];
    let mut command = netns.command("nginx");
    command.arg("-p").arg(&dir).arg("-c").arg(&file);
    let mut process = lab.spawn(command, &format!("nginx{}", index + 1))?;
    super::listening(&mut process, netns, address, HTTP)?;
    Ok(process)
}

/// Port in the clear.
pub const HTTP: u16 = 8080;
/// Port over TLS.
pub const HTTPS: u16 = 8443;
