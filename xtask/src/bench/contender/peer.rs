// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the three peers have in common: one configuration that serves
//! everything, each service on a port of its own, and how such a peer starts
//! and ends.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use gateway_tests::{lab::Lab, process::Process, wait};

use super::{Running, Start};
use crate::bench::{
    scenario::{ROUTES, Service, route_prefix},
    stage::{self, HOST, Stage},
};

/// A peer's files, written for one start.
pub struct Files {
    dir: PathBuf,
    /// Its configuration, filled in.
    pub configuration: PathBuf,
}

impl Files {
    /// Fills in `file` of config/bench.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written.
    pub fn write(stage: &Stage<'_>, file: &str) -> Result<Self> {
        let dir = stage.fresh_dir("peer")?;
        let text = stage::template(file, &[])?;
        let files = Self {
            configuration: dir.join(file),
            dir,
        };
        let filled = values(stage, &files.dir)
            .iter()
            .fold(text, |text, (name, value)| {
                text.replace(&format!("@{name}@"), value)
            });
        files.add(file, &filled)?;
        Ok(files)
    }

    /// Adds a file with a line for each route.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn add_routes(&self, name: &str, head: &str, line: impl Fn(&str) -> String) -> Result<()> {
        let lines = (0..ROUTES).map(|index| line(&route_prefix(index)));
        let text: String = std::iter::once(head.to_owned()).chain(lines).collect();
        self.add(name, &text)
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn add(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// Starts a peer and waits until it serves.
///
/// # Errors
///
/// When it does not come up, with its last words.
pub fn start<'lab>(
    stage: &'lab Stage<'lab>,
    service: Service,
    command: Command,
    name: &str,
) -> Result<Start<'lab>> {
    let lab = stage.lab;
    let address = |service| SocketAddr::from((stage.bind(service).ip(), port(service)));
    let target = address(service);
    // A probe on the port of iperf3 would pass through to it and count as a
    // client; the peer opens all ports at once.
    let probe = match service {
        Service::L4Bulk => address(Service::L4Http),
        _ => target,
    };
    let mut process = lab.spawn(command, name)?;
    stage::accepts(&lab.gateway, &mut process, probe)?;
    let peer = Peer {
        lab,
        process,
        probe,
    };
    Ok(Start::Running(Running::new(target, peer)))
}

/// A peer that runs.
struct Peer<'lab> {
    lab: &'lab Lab,
    process: Process,
    probe: SocketAddr,
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        let Self {
            lab,
            process,
            probe,
        } = self;
        process.kill();
        // What the killed process had started ends a moment later, and must not
        // take connections that are meant for the next contender.
        let gone = wait::until_true("the peer's port is closed", CLOSED, || {
            lab.gateway
                .run(|| TcpStream::connect_timeout(probe, CLOSED).is_err())
        });
        if let Err(error) = gone {
            eprintln!("bench: {error:#}");
        }
    }
}

/// Each service has a port of its own, so that one configuration serves all.
fn port(service: Service) -> u16 {
    match service {
        Service::L4Bulk => 5201,
        Service::L4Http => 8001,
        Service::Sni => 8002,
        Service::Https | Service::H2 => 8003,
        Service::Http => 8004,
        Service::HttpRoutes => 8005,
    }
}

/// What stands for the words between at signs.
fn values(stage: &Stage<'_>, dir: &Path) -> Vec<(String, String)> {
    let text = |path: &Path| path.display().to_string();
    let mut values = vec![
        ("DIRECTORY".to_owned(), text(dir)),
        ("SNI_NAME".to_owned(), HOST.to_owned()),
        (
            "CERTIFICATE".to_owned(),
            text(&stage.certificate.certificate),
        ),
        ("KEY".to_owned(), text(&stage.certificate.key)),
        (
            "ADDRESS".to_owned(),
            stage.bind(Service::Http).ip().to_string(),
        ),
    ];
    for (name, service) in [
        ("BULK_PORT", Service::L4Bulk),
        ("L4_PORT", Service::L4Http),
        ("SNI_PORT", Service::Sni),
        ("HTTPS_PORT", Service::Https),
        ("HTTP_PORT", Service::Http),
        ("ROUTES_PORT", Service::HttpRoutes),
    ] {
        values.push((name.to_owned(), port(service).to_string()));
    }
    for (name, service) in [
        ("BACKEND_BULK_PORT", Service::L4Bulk),
        ("BACKEND_HTTP_PORT", Service::Http),
        ("BACKEND_TLS_PORT", Service::Sni),
    ] {
        values.push((name.to_owned(), service.backend_port().to_string()));
    }
    for (index, backend) in stage.backends(Service::Http).iter().enumerate() {
        values.push((format!("BACKEND{}", index + 1), backend.ip().to_string()));
    }
    values
}

const CLOSED: Duration = Duration::from_secs(5);
