// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent under test: the real binary in the gateway namespace.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    admin::{self, Metrics, ServiceCounters},
    lab::Lab,
    process::Process,
    wait,
};

/// An agent with its bootstrap and its configuration directory.
#[derive(Debug)]
pub struct Gateway<'lab> {
    lab: &'lab Lab,
    binary: PathBuf,
    process: Option<Process>,
    datapath: Datapath,
}

/// Value of `--datapath`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// Kernel programs, or fail.
    Ebpf,
    /// Proxying.
    Userspace,
}

impl<'lab> Gateway<'lab> {
    /// An agent that has not been started. `bootstrap` is appended to the
    /// settings that fit the lab.
    ///
    /// # Errors
    ///
    /// When the agent has not been built, or files cannot be written.
    pub fn new(lab: &'lab Lab, datapath: Datapath, bootstrap: &str) -> Result<Self> {
        Self::with_binary(lab, binary()?, datapath, bootstrap)
    }

    /// [`Gateway::new`] with the agent at `binary`.
    ///
    /// # Errors
    ///
    /// When files cannot be written.
    pub fn with_binary(
        lab: &'lab Lab,
        binary: PathBuf,
        datapath: Datapath,
        bootstrap: &str,
    ) -> Result<Self> {
        let gateway = Self {
            lab,
            binary,
            process: None,
            datapath,
        };
        fs::create_dir_all(gateway.config_dir())?;
        let network = if lab.is_loopback() {
            String::new()
        } else {
            format!(
                "wire_interfaces: [wire]\npod_interfaces: [\"pod*\"]\nvips: [{}]\n",
                lab.vip()
            )
        };
        fs::write(
            gateway.bootstrap_file(),
            format!(
                "labels: {{istio: ingressgateway}}\n{network}admin: {}\nbpffs: {}\n{bootstrap}",
                gateway.admin(),
                lab.bpffs().join("sluice").display(),
            ),
        )?;
        Ok(gateway)
    }

    /// The directory the agent watches.
    pub fn config_dir(&self) -> PathBuf {
        self.lab.dir().join("config")
    }

    /// The agent's own settings.
    pub fn bootstrap_file(&self) -> PathBuf {
        self.lab.dir().join("gateway.yaml")
    }

    /// Where it answers admin questions, in the gateway namespace.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT))
    }

    /// Replaces one configuration file at once, as an editor that renames does.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, file: &str, yaml: &str) -> Result<()> {
        let staged = self.lab.dir().join(format!("{file}.new"));
        fs::write(&staged, self.lab.localise(yaml))?;
        fs::rename(&staged, self.config_dir().join(file))?;
        Ok(())
    }

    /// Starts the agent and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready in time, with the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.start_within(READY_DEADLINE)
    }

    /// [`Gateway::start`] for a configuration that takes longer to load.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready within `deadline`, with the end of its log.
    pub fn start_within(&mut self, deadline: Duration) -> Result<()> {
        let mut command = self.lab.gateway.command(&self.binary.to_string_lossy());
        command
            .arg("run")
            .arg("--bootstrap")
            .arg(self.bootstrap_file())
            .arg("--config")
            .arg(self.config_dir())
            .args([
                "--datapath",
                match self.datapath {
                    Datapath::Ebpf => "ebpf",
                    Datapath::Userspace => "userspace",
                },
            ]);
        let mut process = self.lab.spawn(command, "sluice")?;
        let (gateway, admin) = (&self.lab.gateway, self.admin());
        process.ready("/readyz answers 200", deadline, |_| {
            admin::fetch(gateway, admin, "/readyz").is_ok_and(|answer| answer.status == 200)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts another build of the agent from now on.
    pub fn replace_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// The running process.
    ///
    /// # Errors
    ///
    /// When it is not running.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent is not running")
    }

    /// The running process, which goes on by itself: the next start is of another
    /// one beside it.
    ///
    /// # Errors
    ///
    /// When it is not running.
    pub fn part(&mut self) -> Result<Process> {
        self.process.take().context("the agent is not running")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    ///
    /// When it does not end in time or not with success.
    pub fn terminate(&mut self, deadline: Duration) -> Result<()> {
        let mut process = self.process.take().context("the agent is not running")?;
        process.signal(libc::SIGTERM)?;
        let status = process.wait(deadline)?;
        if !status.success() {
            bail!("the agent ended with {status}: {}", process.log_tail(5));
        }
        Ok(())
    }

    /// Runs another subcommand of the agent's binary in the gateway namespace.
    ///
    /// # Errors
    ///
    /// When it cannot start; its exit status is the caller's to judge.
    pub fn sluice(&self, args: &[&str]) -> Result<Output> {
        self.lab
            .gateway
            .command(&self.binary.to_string_lossy())
            .args(args)
            .output()
            .with_context(|| format!("start sluice {args:?}"))
    }

    /// `sluice detach`.
    ///
    /// # Errors
    ///
    /// When it fails, with what it printed.
    pub fn detach(&self) -> Result<()> {
        let bootstrap = self.bootstrap_file();
        let output = self.sluice(&["detach", "--bootstrap", &bootstrap.to_string_lossy()])?;
        if !output.status.success() {
            bail!(
                "sluice detach: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// `/status` as JSON.
    ///
    /// # Errors
    ///
    /// When the agent does not answer with JSON.
    pub fn status(&self) -> Result<Value> {
        let answer = admin::fetch(&self.lab.gateway, self.admin(), "/status")?;
        serde_json::from_str(&answer.body)
            .with_context(|| format!("/status answered {}: {}", answer.status, answer.body))
    }

    /// `/metrics`, parsed.
    ///
    /// # Errors
    ///
    /// When the agent does not answer.
    pub fn metrics(&self) -> Result<Metrics> {
        let answer = admin::fetch(&self.lab.gateway, self.admin(), "/metrics")?;
        if answer.status != 200 {
            bail!("/metrics answered {}", answer.status);
        }
        Ok(Metrics::parse(&answer.body))
    }

    /// The generation in force.
    ///
    /// # Errors
    ///
    /// When the agent does not answer.
    pub fn generation(&self) -> Result<u64> {
        self.status()?["generation"]
            .as_u64()
            .context("/status without generation")
    }

    /// Kernel counters of the forwarded listener on a port of the VIP.
    ///
    /// # Errors
    ///
    /// When the agent does not answer.
    pub fn service(&self, port: u16) -> Result<ServiceCounters> {
        Ok(admin::service_counters(
            &self.status()?,
            &self.listener(port),
        ))
    }

    /// Counters of a forwarded destination by its name in reports.
    ///
    /// # Errors
    ///
    /// When the agent does not answer.
    pub fn service_at(&self, destination: &str) -> Result<ServiceCounters> {
        Ok(admin::service_counters(&self.status()?, destination))
    }

    /// How reports name a port of the VIP.
    pub fn listener(&self, port: u16) -> String {
        format!("{}:{}", self.lab.vip(), self.lab.port(port))
    }

    /// Connections that ended in `mode` for `reason`; an empty word matches all.
    ///
    /// # Errors
    ///
    /// When the agent does not answer.
    pub fn closed(&self, mode: &str, reason: &str) -> Result<u64> {
        Ok(closed(&self.status()?, mode, reason))
    }

    /// Writes a file and waits until a newer generation is in force.
    ///
    /// # Errors
    ///
    /// When none comes within 10 s.
    pub fn reload(&self, file: &str, yaml: &str) -> Result<u64> {
        let before = self.generation()?;
        self.write(file, yaml)?;
        wait::until(
            &format!("a generation after {before}"),
            Duration::from_secs(10),
            || Ok(Some(self.generation()?).filter(|now| *now > before)),
        )
    }

    /// Leaves the agent running when the value is dropped.
    pub fn keep(&mut self) {
        if let Some(process) = &mut self.process {
            process.keep();
        }
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(process) = &self.process
        {
            eprintln!("the end of the agent's log:\n{}", process.log_tail(40));
        }
    }
}

/// Connections of a `/status` answer that ended in `mode` for `reason`; an
/// empty word matches all.
pub fn closed(status: &Value, mode: &str, reason: &str) -> u64 {
    let Some(rows) = status
        .pointer("/connections/closed")
        .and_then(Value::as_array)
    else {
        return 0;
    };
    rows.iter()
        .filter(|row| mode.is_empty() || row["mode"] == mode)
        .filter(|row| reason.is_empty() || row["reason"] == reason)
        .filter_map(|row| row["count"].as_u64())
        .sum()
}

/// The agent's binary: `SLUICE_BIN`, else the lab profile's build beside the
/// running program.
///
/// # Errors
///
/// When there is none, with the command that builds it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLUICE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find this program")?;
    own.ancestors()
        .map(|dir| dir.join("lab").join("sluice"))
        .find(|path| path.is_file())
        .context("no agent built: run `cargo xtask build`, or set SLUICE_BIN")
}

/// Resident memory of a process, bytes.
///
/// # Errors
///
/// When the process has ended.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS line")?;
    let kib: u64 = line
        .split_whitespace()
        .next()
        .context("no VmRSS value")?
        .parse()?;
    Ok(kib * 1024)
}

const ADMIN_PORT: u16 = 15_000;
const READY_DEADLINE: Duration = Duration::from_secs(15);
