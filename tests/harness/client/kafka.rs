// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kafka by kcat.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ChildStdin, Command},
};

use anyhow::{Context, Result};

use crate::{
    backend::kafka::{TOPIC, client_library_dir},
    lab::Lab,
    netns::run,
    process::Process,
};

/// Produces every line of `file` as one message.
///
/// # Errors
///
/// When kcat is missing or not every message is delivered.
pub fn produce(lab: &Lab, packages: &Path, broker: &str, file: &Path) -> Result<()> {
    let mut command = kcat(lab, packages, broker)?;
    command.args(["-P", "-t", TOPIC, "-p", "0", "-l"]).arg(file);
    run(&mut command).context("produce").map(drop)
}

/// Consumes the topic from its beginning to its end into a file.
///
/// # Errors
///
/// When kcat is missing or the broker fails.
pub fn consume(lab: &Lab, packages: &Path, broker: &str) -> Result<PathBuf> {
    let mut command = kcat(lab, packages, broker)?;
    command.args(["-C", "-t", TOPIC, "-p", "0", "-o", "beginning", "-e", "-q"]);
    let text = run(&mut command).context("consume")?;
    let file = lab.dir().join("consumed");
    fs::write(&file, text)?;
    Ok(file)
}

/// What the broker says about itself: its brokers and topics, as kcat prints
/// them. With an authority the connection is TLS.
///
/// # Errors
///
/// When kcat is missing or the broker cannot be reached.
pub fn metadata(
    lab: &Lab,
    packages: &Path,
    broker: &str,
    authority: Option<&Path>,
) -> Result<String> {
    let mut command = kcat(lab, packages, broker)?;
    command.arg("-L");
    if let Some(authority) = authority {
        encrypt(&mut command, authority);
    }
    run(&mut command).context("ask for metadata")
}

/// A producer over TLS that sends every line of its input as one message, as it
/// comes; it ends well when all are delivered.
///
/// # Errors
///
/// When kcat is missing.
pub fn producer(
    lab: &Lab,
    packages: &Path,
    broker: &str,
    authority: &Path,
) -> Result<(Process, ChildStdin)> {
    let mut command = kcat(lab, packages, broker)?;
    command.args(["-P", "-t", TOPIC, "-p", "0"]);
    encrypt(&mut command, authority);
    Process::spawn_with_input(command, "kafka-producer", lab.dir())
}

/// A consumer over TLS that prints every message of the topic as it comes, and
/// does not end.
///
/// # Errors
///
/// When kcat is missing.
pub fn consumer(lab: &Lab, packages: &Path, broker: &str, authority: &Path) -> Result<Process> {
    let mut command = kcat(lab, packages, broker)?;
    command.args(["-C", "-t", TOPIC, "-p", "0", "-o", "beginning", "-q", "-u"]);
    encrypt(&mut command, authority);
    lab.spawn(command, "kafka-consumer")
}

fn encrypt(command: &mut Command, authority: &Path) {
    command
        .args(["-X", "security.protocol=ssl", "-X"])
        .arg(format!("ssl.ca.location={}", authority.display()));
}

/// SHA-256 of a file, by openssl.
///
/// # Errors
///
/// When the file cannot be read.
pub fn checksum(file: &Path) -> Result<String> {
    let text = run(Command::new("openssl")
        .args(["dgst", "-sha256", "-r"])
        .arg(file))?;
    let sum = text.split_whitespace().next().context("no checksum")?;
    Ok(sum.to_owned())
}

fn kcat(lab: &Lab, packages: &Path, broker: &str) -> Result<Command> {
    let host = broker.split_once(':').map_or(broker, |(host, _)| host);
    let mut command = lab.client_with_hosts("kcat", &[host])?;
    command
        .env("LD_LIBRARY_PATH", client_library_dir(packages)?)
        .args(["-b", broker, "-X", "broker.address.family=v4"])
        .args(["-X", "message.timeout.ms=20000", "-m", "20"]);
    Ok(command)
}
