// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What stands still during a run: the lab's kernel settings, certificates, and
//! the servers behind every contender.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use gateway_tests::{
    backend::iperf,
    lab::Lab,
    netns::Netns,
    pki::{Authority, Leaf},
    process::Process,
};

use super::{sample::Settings, scenario::Service};
use crate::task::{self, say};

/// The lab of a run and all that runs in it throughout.
pub struct Stage<'lab> {
    /// Where it runs.
    pub lab: &'lab Lab,
    /// Sluice's binary.
    pub agent: PathBuf,
    /// Where the Python wheels are.
    pub packages: PathBuf,
    /// How it runs.
    pub settings: Settings,
    /// Who signed the certificate.
    pub authority: Authority,
    /// Of [`HOST`], ECDSA P-256; of the backends and of who decrypts.
    pub certificate: Leaf,
    _processes: Vec<Process>,
}

impl<'lab> Stage<'lab> {
    /// Starts all backends and waits until each is ready.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a setting or a server does not come up.
    pub fn set(
        lab: &'lab Lab,
        agent: PathBuf,
        packages: PathBuf,
        settings: Settings,
    ) -> Result<Self> {
        let everyone = [&lab.client, &lab.gateway].into_iter().chain(&lab.backends);
        for netns in everyone {
            tune(netns)?;
        }
        say("making a certificate, starting three nginx and iperf3");
        let authority = Authority::new(lab.dir())?;
        let certificate = authority.issue(&[HOST])?;
        let mut processes = vec![iperf::start(lab, 0, iperf::PORT).context("start iperf3")?];
        for index in 0..lab.backends.len() {
            let process = web_server(lab, index, &certificate);
            processes.push(process.with_context(|| format!("start nginx {}", index + 1))?);
        }
        Ok(Self {
            lab,
            agent,
            packages,
            settings,
            authority,
            certificate,
            _processes: processes,
        })
    }

    /// The same run in another lab, in which nothing runs yet.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a setting.
    pub fn elsewhere<'other>(&self, lab: &'other Lab) -> Result<Stage<'other>> {
        for netns in [&lab.client, &lab.gateway].into_iter().chain(&lab.backends) {
            tune(netns)?;
        }
        let authority = Authority::new(lab.dir())?;
        Ok(Stage {
            lab,
            agent: self.agent.clone(),
            packages: self.packages.clone(),
            settings: self.settings.clone(),
            certificate: authority.issue(&[HOST])?,
            authority,
            _processes: Vec::new(),
        })
    }

    /// Where a peer listens in the gateway namespace: the address of its end of
    /// the client's link, which is local without further ado.
    pub fn bind(&self, service: Service) -> SocketAddr {
        SocketAddr::from((GATEWAY, service.port()))
    }

    /// Where contenders connect to for a service.
    pub fn backends(&self, service: Service) -> Vec<SocketAddr> {
        let count = match service {
            // iperf3 expects all its connections at one server.
            Service::L4Bulk => 1,
            _ => self.lab.backends.len(),
        };
        let address = |index| self.lab.backend_address(index);
        (0..count)
            .map(|index| (address(index), service.backend_port()).into())
            .collect()
    }

    /// A directory for a contender's files, empty.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn fresh_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.lab.dir().join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }
}

/// A file of config/bench with each `@NAME@` filled in.
///
/// # Errors
///
/// When the file cannot be read.
pub fn template(file: &str, values: &[(&str, &str)]) -> Result<String> {
    let path = task::root().join("config/bench").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(values.iter().fold(text, |text, (name, value)| {
        text.replace(&format!("@{name}@"), value)
    }))
}

/// Waits until something in the gateway namespace accepts on `address`, or the
/// process ends.
///
/// # Errors
///
/// When nothing does within 15 s, with the last words of the process.
pub fn accepts(netns: &Netns, process: &mut Process, address: SocketAddr) -> Result<()> {
    process.ready(&format!("accepts on {address}"), READY, |_| {
        netns.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    })
}

/// The same for all contenders: what a machine that serves this much has set,
/// and what keeps a load of one request a connection from running into limits
/// of the lab instead of the contender's.
fn tune(netns: &Netns) -> Result<()> {
    for (key, value) in [
        // 50,000 connections from one address within a minute.
        ("net.ipv4.ip_local_port_range", "10240 60999"),
        ("net.ipv4.tcp_tw_reuse", "1"),
        ("net.ipv4.tcp_max_tw_buckets", "262144"),
        // Timestamps without a random offset for each destination: a backend
        // that sees the client's own address still knows its port from another
        // contender, and would take a connection through this one for a
        // duplicate of that, which costs a second (RFC 7323 section 5).
        ("net.ipv4.tcp_timestamps", "2"),
        // 64 connections may arrive at once.
        ("net.core.somaxconn", "65535"),
        ("net.ipv4.tcp_max_syn_backlog", "65535"),
    ] {
        netns.sysctl(key, value)?;
    }
    // The machine's default may be BBR, whose pacing is made for real paths;
    // proxies would be measured with it and iperf3 without. A route's choice
    // stays in the lab, while what a namespace may choose is a setting of the
    // whole machine.
    for route in netns.ip("-4 route show")?.lines() {
        netns.ip(&format!("route change {route} congctl cubic"))?;
    }
    Ok(())
}

fn web_server(lab: &Lab, index: usize, leaf: &Leaf) -> Result<Process> {
    let netns = &lab.backends[index];
    let name = format!("web{}", index + 1);
    let home = lab.dir().join(&name);
    let www = home.join("www");
    fs::create_dir_all(&www)?;
    fs::write(www.join("100k"), body(100_000))?;
    fs::write(www.join("1m"), body(1 << 20))?;
    let address = lab.backend_address(index);
    let text = |path: &Path| path.display().to_string();
    let config = template(
        "backend.conf",
        &[
            ("HOME", &text(&home)),
            ("ADDRESS", &address.to_string()),
            ("CERTIFICATE", &text(&leaf.certificate)),
            ("KEY", &text(&leaf.key)),
            ("KILOBYTE", &body(1000)),
        ],
    )?;
    let file = home.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = netns.command("nginx");
    command.arg("-p").arg(&home).arg("-c").arg(&file);
    let mut process = lab.spawn(command, &name)?;
    accepts(netns, &mut process, (address, Service::Http.port()).into())?;
    Ok(process)
}

fn body(bytes: usize) -> String {
    "0123456789".chars().cycle().take(bytes).collect()
}

/// The name clients ask for, in server name and Host header.
pub const HOST: &str = "bench.example.com";
/// The gateway's end of the client's link.
const GATEWAY: [u8; 4] = [10, 98, 0, 1];
const READY: Duration = Duration::from_secs(15);
