// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A web server whose every page says which server it is and what the request
//! looked like when it arrived.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};

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
    let encrypted = encrypted.map_or_else(String::new, |(address, leaf)| {
        let Leaf { certificate, key } = leaf;
        format!(
            "listen {address} ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; ssl_certificate_key {};",
            certificate.display(),
            key.display()
        )
    });
    let listen = format!("listen {plain};\n    {encrypted}");
    run(lab, netns, id, plain, &listen)
}

/// Starts nginx anywhere, whose connections all begin with a PROXY header: one
/// port in the clear and one over TLS. Pages name what the header says.
///
/// # Errors
///
/// When it is not installed or does not come up.
pub fn serve_behind_header(
    lab: &Lab,
    netns: &Netns,
    id: &str,
    plain: SocketAddr,
    (encrypted, leaf): (SocketAddr, &Leaf),
) -> Result<Process> {
    let Leaf { certificate, key } = leaf;
    let listen = format!(
        "listen {plain} proxy_protocol;\n    listen {encrypted} ssl proxy_protocol; \
         ssl_certificate {}; ssl_certificate_key {};",
        certificate.display(),
        key.display()
    );
    run(lab, netns, id, plain, &listen)
}

fn run(lab: &Lab, netns: &Netns, id: &str, ready: SocketAddr, listen: &str) -> Result<Process> {
    let name = format!("nginx-{id}");
    let dir = lab.dir().join(&name);
    fs::create_dir_all(dir.join("files"))?;
    let home = dir.display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {home}/{kind};\n"))
        .collect();
    // One process: killing it leaves no worker behind.
    let config = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {home}/pid;\nerror_log stderr;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{temp}  access_log off;\n  keepalive_requests 100000;\n\
         \x20 log_format sessions \"$connection $ssl_protocol $ssl_session_reused $status\";\n\
         \x20 limit_req_zone $connection zone=paced:1m rate=4r/s;\n\
         \x20 server {{\n\
         \x20   {listen}\n\
         \x20   location /files/ {{\n      alias {home}/files/;\n\
         \x20     limit_req zone=paced burst=1000;\n\
         \x20     access_log {home}/sessions.log sessions;\n    }}\n\
         \x20   location / {{\n      default_type text/plain;\n\
         \x20     return 200 \"id={id}\\nhost=$host\\nmethod=$request_method\\nuri=$request_uri\\n\
         xff=$http_x_forwarded_for\\nproto=$http_x_forwarded_proto\\n\
         request_id=$http_x_request_id\\ndemo=$http_x_demo\\nscheme=$scheme\\n\
         peer=$remote_addr\\nclient=$proxy_protocol_addr:$proxy_protocol_port\\n\
         reached=$proxy_protocol_server_addr:$proxy_protocol_server_port\\n\";\n\
         \x20   }}\n  }}\n}}\n",
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = netns.command("nginx");
    command.arg("-p").arg(&dir).arg("-c").arg(&file);
    let mut process = lab.spawn(command, &name)?;
    super::listening(&mut process, netns, ready)?;
    Ok(process)
}

/// Where the server `id` has what it serves below `/files/`: four times a second
/// on a connection, however fast it is asked.
pub fn files_dir(lab: &Lab, id: &str) -> PathBuf {
    lab.dir().join(format!("nginx-{id}")).join("files")
}

/// One request below `/files/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The server's number of the connection.
    pub connection: u64,
    /// `TLSv1.2`, `TLSv1.3`, or `-`.
    pub tls: String,
    /// The TLS session was one from before.
    pub is_resumed: bool,
    /// Status code.
    pub status: u16,
}

/// Every request below `/files/` of the server `id`, in order.
///
/// # Errors
///
/// When there was none.
pub fn served(lab: &Lab, id: &str) -> Result<Vec<Served>> {
    let file = lab.dir().join(format!("nginx-{id}")).join("sessions.log");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        Some(Served {
            connection: words.next()?.parse().ok()?,
            tls: words.next()?.to_owned(),
            is_resumed: words.next()? == "r",
            status: words.next()?.parse().ok()?,
        })
    };
    text.lines()
        .map(|line| parse(line).with_context(|| format!("{}: {line:?}", file.display())))
        .collect()
}

/// Port in the clear.
pub const HTTP: u16 = 8080;
/// Port over TLS.
pub const HTTPS: u16 = 8443;
