// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The virtual machine: started, listened to, ended.
//!
//! Without hardware support on purpose: it takes seconds, works wherever the
//! tests run, and machines inside machines often claim a support that they do
//! not have.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::setup::kernel::MACHINE;

/// Memory, MiB: all file systems are in it, and maps for 131,072 flows.
const MEMORY: &str = "1536";
/// Lines of the console that tell of a machine that did not get to its end.
const CONSOLE_TAIL: usize = 15;

/// What a machine did.
#[derive(Debug, Default)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// By job, in order.
    pub jobs: Vec<Done>,
}

/// One job.
#[derive(Debug)]
pub struct Done {
    /// Its name.
    pub name: String,
    /// What it printed.
    pub lines: Vec<String>,
    /// Its exit status; -1 when a signal ended it.
    pub status: i32,
}

/// Starts a machine with `kernel` and `image` (files) and waits until it has
/// switched itself off. `watch` gets every line as it comes.
///
/// # Errors
///
/// When it cannot start, is not done within `deadline`, or ends early; with the
/// end of its console, which `dir` keeps.
pub fn run(
    kernel: &Path,
    image: &Path,
    dir: &Path,
    deadline: Duration,
    watch: impl Fn(&str),
) -> Result<Report> {
    let console = dir.join("console.log");
    File::create(&console).with_context(|| format!("write {}", console.display()))?;
    let mut command = Command::new(MACHINE.0);
    command
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", "2", "-m", MEMORY])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", MACHINE.0))?;
    let outcome = listen(&mut child, deadline, watch);
    // Ended already, unless listening failed.
    let _ = child.kill();
    let _ = child.wait();
    outcome.with_context(|| {
        let text = fs::read(&console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(CONSOLE_TAIL)..];
        format!(
            "the virtual machine's console ends with:\n{}\n",
            tail.join("\n")
        )
    })
}

fn listen(child: &mut Child, deadline: Duration, watch: impl Fn(&str)) -> Result<Report> {
    let output = child.stdout.take().context("no output of the machine")?;
    let errors = child.stderr.take().context("no output of the machine")?;
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            // Nobody listens any more.
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let complaints = thread::spawn(move || std::io::read_to_string(errors).unwrap_or_default());
    let end = Instant::now() + deadline;
    let mut report = Reader::default();
    loop {
        match receive.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                watch(&line);
                if report.read(&line) {
                    return Ok(report.report);
                }
            }
            Err(RecvTimeoutError::Timeout) => bail!(
                "not done within {} s, {}",
                deadline.as_secs(),
                report.place()
            ),
            Err(RecvTimeoutError::Disconnected) => {
                let complaints = complaints.join().unwrap_or_default();
                bail!("ended early, {}; {}", report.place(), complaints.trim())
            }
        }
    }
}

/// Takes the frames of the machine's first process apart
/// (tests/guest/main.rs).
#[derive(Default)]
struct Reader {
    report: Report,
    open: Option<(String, Vec<String>)>,
}

impl Reader {
    /// True when that was the last line.
    fn read(&mut self, line: &str) -> bool {
        match line.split_once(' ') {
            Some(("@kernel", release)) => self.report.kernel = release.to_owned(),
            Some(("@begin", name)) => self.open = Some((name.to_owned(), Vec::new())),
            Some(("@end", rest)) => {
                let status = rest.rsplit(' ').next().and_then(|code| code.parse().ok());
                if let (Some((name, lines)), Some(status)) = (self.open.take(), status) {
                    self.report.jobs.push(Done {
                        name,
                        lines,
                        status,
                    });
                }
            }
            _ if line == "@off" => return true,
            _ => {
                if let Some((_, lines)) = &mut self.open {
                    lines.push(line.to_owned());
                }
            }
        }
        false
    }

    fn place(&self) -> String {
        match &self.open {
            Some((name, _)) => format!("in {name}"),
            None if self.report.kernel.is_empty() => "before its first process".to_owned(),
            None => "between two commands".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reader;

    #[test]
    fn output_is_taken_apart_by_job() {
        let mut reader = Reader::default();
        assert_eq!(reader.place(), "before its first process");
        for line in [
            "@kernel 6.1.0",
            "@begin a",
            "one",
            "",
            "@end a 0",
            "@begin b",
            "@end b 101",
        ] {
            assert!(!reader.read(line));
        }
        assert!(reader.read("@off"));
        let jobs = reader.report.jobs;
        assert_eq!(reader.report.kernel, "6.1.0");
        assert_eq!((jobs[0].name.as_str(), jobs[0].status), ("a", 0));
        assert_eq!(jobs[0].lines, ["one", ""]);
        assert_eq!((jobs[1].name.as_str(), jobs[1].status), ("b", 101));
    }
}
