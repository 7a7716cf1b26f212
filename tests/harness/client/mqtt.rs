// SPDX-License-Identifier: Apache-2.0 OR MIT
//! MQTT by mosquitto_sub and mosquitto_pub.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use crate::{lab::Lab, netns::run, process::Process};

/// Where a broker is reached, as clients see it.
#[derive(Clone, Debug)]
pub struct Broker<'a> {
    /// A name (resolved to the VIP) or an address.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// TLS with this authority; the host is sent as the server name.
    pub authority: Option<&'a Path>,
}

/// A session that subscribes to a topic and writes what it gets to its log.
#[derive(Debug)]
pub struct Subscriber {
    process: Process,
}

impl Subscriber {
    /// Subscribes and waits for the broker's acknowledgement. `name` is the
    /// client id and names the log.
    ///
    /// # Errors
    ///
    /// When the broker does not acknowledge in time.
    pub fn start(lab: &Lab, broker: &Broker<'_>, name: &str, topic: &str) -> Result<Self> {
        let mut subscriber = Self::begin(lab, broker, name, topic)?;
        subscriber.acknowledged()?;
        Ok(subscriber)
    }

    /// [`Subscriber::start`] without the wait: for many at once.
    ///
    /// # Errors
    ///
    /// When the program is missing.
    pub fn begin(lab: &Lab, broker: &Broker<'_>, name: &str, topic: &str) -> Result<Self> {
        // It writes to a file, and would keep lines back until it ends.
        let mut command = client(lab, &["stdbuf", "-oL", "mosquitto_sub"], broker)?;
        command
            .args(["-i", name, "-t", topic, "-q", "1", "-d"])
            .args(["-F", "message %t %p", "-k", "5"]);
        let process = lab.spawn(command, name)?;
        Ok(Self { process })
    }

    /// Waits for the broker's acknowledgement.
    ///
    /// # Errors
    ///
    /// When it does not come in time.
    pub fn acknowledged(&mut self) -> Result<()> {
        self.process.ready("subscribed", DEADLINE, |process| {
            process.log().contains("Subscribed (mid")
        })
    }

    /// Payloads so far.
    pub fn messages(&self) -> Vec<String> {
        self.process
            .log()
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix("message ")?;
                rest.split_once(' ').map(|(_, payload)| payload.to_owned())
            })
            .collect()
    }

    /// Waits until `count` payloads have come.
    ///
    /// # Errors
    ///
    /// When they do not come in time, or the session ends.
    pub fn wait_for(&mut self, count: usize) -> Result<Vec<String>> {
        let prefix = "message ";
        self.process
            .ready(&format!("{count} messages"), DEADLINE, |process| {
                let log = process.log();
                log.lines().filter(|line| line.starts_with(prefix)).count() >= count
            })?;
        Ok(self.messages())
    }

    /// Whether the session never had to connect again.
    pub fn is_unbroken(&mut self) -> bool {
        self.process.exit_status().is_none()
            && self.process.log().matches("sending CONNECT").count() == 1
    }
}

/// Publishes one message and waits for its acknowledgement.
///
/// # Errors
///
/// When the broker cannot be reached or does not acknowledge.
pub fn publish(lab: &Lab, broker: &Broker<'_>, topic: &str, payload: &str) -> Result<()> {
    let mut command = client(lab, &["mosquitto_pub"], broker)?;
    command.args(["-t", topic, "-m", payload, "-q", "1"]);
    run(&mut command).context("publish").map(drop)
}

fn client(lab: &Lab, program: &[&str], broker: &Broker<'_>) -> Result<Command> {
    let Broker {
        host,
        port,
        authority,
    } = broker;
    let (first, rest) = program.split_first().context("no program")?;
    let mut command = lab.client_with_hosts(first, &[host])?;
    command
        .args(rest)
        .args(["-h", host, "-p", &port.to_string()]);
    if let Some(authority) = authority {
        command.arg("--cafile").arg(authority);
    }
    Ok(command)
}

const DEADLINE: Duration = Duration::from_secs(10);
