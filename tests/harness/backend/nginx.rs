// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A web server whose every page says which server it is and what the request
//! looked like when it arrived.

use std::{fs, net::SocketAddr};

use anyhow::Result;

use crate::{lab::Lab, netns::Netns, pki::Leaf, process::Process};

/// Starts nginx as `backendN` on backend `index`: 8080 in the clear, 8443 with
/// `tls`.
///
/// # Errors
///
/// When it is not installed or does not come up.
pub fn start(lab: &Lab, index: usize, tls: Option<&Leaf>) -> Result<Process> {
    let address = |port| SocketAddr::from((lab.backend_address(index), port));
    let encrypted = tls.map(|leaf| (address(HTTPS), leaf));
    let id = format!("backend{}", index + 1);
    serve(lab, &lab.backends[index], &id, address(HTTP), encrypted)
}

/// Starts nginx anywhere; its pages say `id=ID`.
///
/// # Errors
///
/// When it is not installed or does not come up.
pub fn serve(
    lab: &Lab,
    netns: &Netns,
    id: &str,
    plain: SocketAddr,
    encrypted: Option<(SocketAddr, &Leaf)>,
) -> Result<Process> {
    let name = format!("nginx-{id}");
    let dir = lab.dir().join(&name);
    fs::create_dir_all(&dir)?;
    let home = dir.display();
    let encrypted = encrypted.map_or_else(String::new, |(address, leaf)| {
        let Leaf { certificate, key } = leaf;
        format!(
            "listen {address} ssl; ssl_certificate {}; ssl_certificate_key {};",
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
         \x20   listen {plain};\n    {encrypted}\n\
         \x20   location / {{\n      default_type text/plain;\n\
         \x20     return 200 \"id={id}\\nhost=$host\\nmethod=$request_method\\nuri=$request_uri\\n\
         xff=$http_x_forwarded_for\\nproto=$http_x_forwarded_proto\\n\
         request_id=$http_x_request_id\\ndemo=$http_x_demo\\nscheme=$scheme\\n\";\n\
         \x20   }}\n  }}\n}}\n",
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = netns.command("nginx");
    command.arg("-p").arg(&dir).arg("-c").arg(&file);
    let mut process = lab.spawn(command, &name)?;
    super::listening(&mut process, netns, plain)?;
    Ok(process)
}

/// Port in the clear.
pub const HTTP: u16 = 8080;
/// Port over TLS.
pub const HTTPS: u16 = 8443;
