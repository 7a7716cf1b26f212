// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What stands behind the gateway in the demo: brokers, web servers, iperf3,
//! certificates, and the configuration with its Secrets.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use gateway_tests::{
    backend::{iperf, kafka, mosquitto, nginx},
    gateway::Gateway,
    lab::Lab,
    pki::{Authority, Leaf},
    process::Process,
};

use crate::task::{self, say};

/// Everything that runs besides the agent.
pub struct Stage<'lab> {
    /// Where it runs.
    pub lab: &'lab Lab,
    /// Who signed the certificates.
    pub authority: Authority,
    /// Where the Python wheels are.
    pub packages: PathBuf,
    secrets: Vec<(&'static str, Leaf)>,
    processes: Vec<Process>,
}

impl<'lab> Stage<'lab> {
    /// Starts all backends and waits until each is ready.
    pub fn set(lab: &'lab Lab, packages: &Path) -> Result<Self> {
        say("making certificates");
        let authority = Authority::new(lab.dir())?;
        let mqtt = authority.issue(&[MQTT, LOCAL])?;
        let raw = authority.issue(&[RAW])?;
        let secrets = vec![
            ("shop-cert", authority.issue(&[SHOP])?),
            ("blog-cert", authority.issue(&[BLOG])?),
        ];
        say("starting mosquitto, the Kafka broker, three nginx, iperf3");
        let advertised = format!("{}:{}", kafka_name(lab), lab.port(kafka::PORT));
        let processes = vec![
            mosquitto::start(lab, 0, Some(&mqtt)).context("start mosquitto")?,
            kafka::start(lab, 1, &advertised, packages).context("start the Kafka broker")?,
            nginx::start(lab, 0, None).context("start nginx 1")?,
            nginx::start(lab, 1, None).context("start nginx 2")?,
            nginx::start(lab, 2, Some(&raw)).context("start nginx 3")?,
            iperf::start(lab, 0, iperf::PORT).context("start iperf3")?,
        ];
        Ok(Self {
            lab,
            authority,
            packages: packages.to_owned(),
            secrets,
            processes,
        })
    }

    /// Copies config/examples/demo to where the agent reads it and adds the
    /// Secrets.
    pub fn configure(&self, gateway: &Gateway<'_>) -> Result<()> {
        let source = task::root().join("config/examples/demo");
        let entries =
            fs::read_dir(&source).with_context(|| format!("list {}", source.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            gateway.write(&name, &fs::read_to_string(&path)?)?;
        }
        let secrets = self
            .secrets
            .iter()
            .map(|(name, leaf)| leaf.secret(name, "demo"))
            .collect::<Result<String>>()?;
        gateway.write("secrets.yaml", &secrets)
    }

    /// Leaves everything running and notes what has to be ended later.
    pub fn keep(&mut self, gateway: &mut Gateway<'_>) -> Result<()> {
        let mut pids = vec![gateway.process()?.pid()];
        gateway.keep();
        for process in &mut self.processes {
            pids.push(process.pid());
            process.keep();
        }
        super::kept::note(self.lab.dir(), &pids)
    }
}

/// The name of the MQTT broker: on loopback the only name that every resolver
/// knows.
pub fn mqtt_name(lab: &Lab) -> &'static str {
    if lab.is_loopback() { LOCAL } else { MQTT }
}

/// The name the Kafka broker advertises.
pub fn kafka_name(lab: &Lab) -> &'static str {
    if lab.is_loopback() {
        LOCAL
    } else {
        "kafka.example.com"
    }
}

/// Terminated, over HTTP and HTTPS.
pub const SHOP: &str = "shop.example.com";
/// Terminated, HTTPS only.
pub const BLOG: &str = "blog.example.com";
/// Passed through.
pub const RAW: &str = "raw.example.com";
const MQTT: &str = "mqtt.example.com";
const LOCAL: &str = "localhost";
