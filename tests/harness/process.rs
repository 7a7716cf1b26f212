// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One long-running program of the lab: its log in a file, its end with ours.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait;

/// A started program; killed by its pid when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    keep: bool,
}

impl Process {
    /// Starts `command` with its output in `dir/NAME.log`. The kernel ends it
    /// when the thread that called this ends, so that a killed test run leaves
    /// nothing behind.
    ///
    /// # Errors
    ///
    /// When the program is missing or the log cannot be written.
    pub fn spawn(command: Command, name: &str, dir: &Path) -> Result<Self> {
        Self::start(command, name, dir, false, Stdio::null())
    }

    /// [`Process::spawn`], and what to write its input to.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn_with_input(
        command: Command,
        name: &str,
        dir: &Path,
    ) -> Result<(Self, ChildStdin)> {
        let mut process = Self::start(command, name, dir, false, Stdio::piped())?;
        let input = process.child.stdin.take().context("no input")?;
        Ok((process, input))
    }

    /// Starts `command` so that it can outlive this process (see
    /// [`Process::keep`]).
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn_detached(command: Command, name: &str, dir: &Path) -> Result<Self> {
        Self::start(command, name, dir, true, Stdio::null())
    }

    fn start(
        mut command: Command,
        name: &str,
        dir: &Path,
        detached: bool,
        input: Stdio,
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("write {}", log.display()))?;
        command.stdin(input).stdout(file.try_clone()?).stderr(file);
        // SAFETY: prctl and setsid are async-signal-safe and touch no memory
        // of ours.
        unsafe {
            command.pre_exec(move || {
                if detached {
                    libc::setsid();
                } else {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                }
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("start {name}: {:?}", command.get_program()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            keep: false,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("({}: {error})", self.log.display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The last lines of its log, for messages.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for a condition while the program runs.
    ///
    /// # Errors
    ///
    /// After `deadline`, or at once when the program ends; with its last words.
    pub fn ready(
        &mut self,
        what: &str,
        deadline: Duration,
        mut probe: impl FnMut(&mut Self) -> bool,
    ) -> Result<()> {
        let name = self.name.clone();
        let outcome = wait::until(&format!("{name}: {what}"), deadline, || {
            if probe(self) {
                return Ok(Some(None));
            }
            Ok(self.exit_status().map(Some))
        });
        match outcome {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!("{name} ended ({status}): {}", self.log_tail(5)),
            Err(error) => Err(error.context(self.log_tail(5))),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When the program has ended.
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        if let Some(status) = self.exit_status() {
            bail!("{} has ended: {status}", self.name);
        }
        let pid = i32::try_from(self.pid())?;
        // SAFETY: the child has not been reaped (checked above), so the pid is
        // still ours.
        let status = unsafe { libc::kill(pid, signal) };
        if status != 0 {
            return Err(std::io::Error::last_os_error())
                .with_context(|| format!("signal {signal} to {}", self.name));
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// After `deadline`, with its last words.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait::until(&format!("{name}: its end"), deadline, || {
            Ok(self.exit_status())
        })
        .with_context(|| self.log_tail(5))
    }

    /// Ends it at once and waits until it is gone.
    pub fn kill(&mut self) -> ExitStatus {
        // Failing means that it has ended already.
        let _ = self.child.kill();
        self.child.wait().unwrap_or(ExitStatus::from_raw(-1))
    }

    /// Leaves it running when the value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.keep {
            self.kill();
        }
    }
}
