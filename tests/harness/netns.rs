// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One network namespace: made, entered, removed.
//!
//! Commands enter it with setns(2) and nothing else. `ip netns exec` would also
//! give each command a mount namespace of its own, and a bpffs mounted or
//! pinned in there would vanish with the command.

use std::{
    fs::File,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};

/// A network namespace, or the one this process is in.
#[derive(Debug)]
pub struct Netns {
    name: String,
    /// Absent for the namespace of this process.
    fd: Option<OwnedFd>,
    owned: bool,
}

impl Netns {
    /// The namespace this process is in.
    pub fn host() -> Self {
        Self {
            name: "host".to_owned(),
            fd: None,
            owned: false,
        }
    }

    /// Makes a namespace with its loopback up; it is removed with the value.
    ///
    /// # Errors
    ///
    /// Without root, or when the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let mut netns = Self::open(name)?;
        netns.owned = true;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// An existing named namespace.
    ///
    /// # Errors
    ///
    /// When there is none of this name.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(NETNS_DIR).join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            fd: Some(file.into()),
            owned: false,
        })
    }

    /// Its name under /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        if let Some(fd) = &self.fd {
            let fd = fd.as_raw_fd();
            // SAFETY: setns is async-signal-safe, and the closure touches
            // nothing but the descriptor, which fork copies into the child.
            unsafe {
                command.pre_exec(move || match libc::setns(fd, libc::CLONE_NEWNET) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                });
            }
        }
        command
    }

    /// Runs `work` on a thread inside. Sockets made there stay there whoever
    /// uses them afterwards.
    ///
    /// # Panics
    ///
    /// When the namespace cannot be entered, or `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(fd) = &self.fd else { return work() };
        let fd = fd.as_raw_fd();
        let entered = thread::scope(|scope| {
            scope
                .spawn(move || {
                    // SAFETY: `fd` is an open namespace descriptor for as long
                    // as `self` lives, which is longer than this scope; only
                    // this thread changes its namespace.
                    let status = unsafe { libc::setns(fd, libc::CLONE_NEWNET) };
                    assert_eq!(status, 0, "setns: {}", std::io::Error::last_os_error());
                    work()
                })
                .join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip ARGS` inside and returns what it printed.
    ///
    /// # Errors
    ///
    /// When ip fails, with its message.
    pub fn ip(&self, args: &str) -> Result<String> {
        run(self.command("ip").args(args.split_whitespace()))
    }

    /// Sets one kernel parameter of this namespace.
    ///
    /// # Errors
    ///
    /// When the kernel has no such parameter or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| std::fs::write(&path, value))
            .with_context(|| format!("set {key}={value} in {}", self.name))
    }

    /// Leaves the namespace in place when the value is dropped.
    pub fn keep(&mut self) {
        self.owned = false;
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name]))
        {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
///
/// When it cannot start or fails, with the last line of its error output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.trim().lines().last().unwrap_or_default().to_owned();
        bail!("{command:?}: {}: {last}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where `ip netns` keeps its names.
pub const NETNS_DIR: &str = "/run/netns";
