// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The first process of the virtual machine that `cargo xtask verify` starts:
//! mounts what the programs want, loads the modules, runs the commands of
//! `/etc/jobs` one after the other, and switches the machine off.
//!
//! What the commands print goes to the second serial port, framed:
//!
//! ```text
//! @kernel 6.1.0-56-cloud-amd64
//! @begin verify
//! ...
//! @end verify 0
//! @off
//! ```
//!
//! A line of `/etc/jobs` is a name, a tab, and the command's words with tabs between
//! them; leading words with an equals sign are its environment.

use std::{
    ffi::CStr,
    fs::{self, File},
    io::{self, Write},
    os::fd::AsRawFd,
    process::{Command, ExitStatus, Stdio},
};

const PORT: &str = "/dev/ttyS1";

/// Source and type, target.
const MOUNTS: [(&CStr, &CStr); 7] = [
    (c"proc", c"/proc"),
    (c"sysfs", c"/sys"),
    (c"devtmpfs", c"/dev"),
    (c"tmpfs", c"/run"),
    (c"tmpfs", c"/tmp"),
    (c"bpf", c"/sys/fs/bpf"),
    (c"devpts", c"/dev/pts"),
];

fn main() {
    let outcome = run();
    if let Err(error) = &outcome {
        // The console, which the task shows when the machine ends like this.
        eprintln!("guest: {error}");
    }
    // SAFETY: no pointers; as the first process of the machine it ends that.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
}

fn run() -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::other(
            "runs as the first process of a machine only",
        ));
    }
    for (kind, target) in MOUNTS {
        fs::create_dir_all(target.to_string_lossy().as_ref())?;
        // SAFETY: the pointers are strings that outlive the call, or null.
        let status = unsafe {
            libc::mount(
                kind.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                0,
                std::ptr::null(),
            )
        };
        if status != 0 {
            let error = io::Error::last_os_error();
            return Err(io::Error::other(format!("mount {target:?}: {error}")));
        }
    }
    for module in fs::read_to_string("/etc/modules")?.lines() {
        load(module)?;
    }
    let mut port = File::options().write(true).open(PORT)?;
    raw(&port)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    writeln!(port, "@kernel {}", release.trim())?;
    for line in fs::read_to_string("/etc/jobs")?.lines() {
        let Some((name, words)) = line.split_once('\t') else {
            continue;
        };
        writeln!(port, "@begin {name}")?;
        match job(words, &port) {
            Ok(status) => writeln!(port, "\n@end {name} {}", status.code().unwrap_or(-1))?,
            Err(error) => writeln!(port, "\n{words}: {error}\n@end {name} -1")?,
        }
    }
    writeln!(port, "@off")?;
    port.flush()?;
    // SAFETY: the descriptor is open for as long as the call lasts.
    unsafe { libc::tcdrain(port.as_raw_fd()) };
    Ok(())
}

/// Bytes as they are: no line discipline between here and the task.
fn raw(port: &File) -> io::Result<()> {
    let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the descriptor is open, and there is room for the answer.
    if unsafe { libc::tcgetattr(port.as_raw_fd(), settings.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcgetattr succeeded, so it has filled them.
    let mut settings = unsafe { settings.assume_init() };
    // SAFETY: the pointer is to initialised settings that are only ours.
    unsafe { libc::cfmakeraw(&raw mut settings) };
    // SAFETY: as above, for reading.
    match unsafe { libc::tcsetattr(port.as_raw_fd(), libc::TCSANOW, &raw const settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn load(path: &str) -> io::Result<()> {
    let module = File::open(path)?;
    // SAFETY: the descriptor is open and the string terminated, both for as
    // long as the call lasts.
    let status =
        unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
    let error = io::Error::last_os_error();
    if status == 0 || error.raw_os_error() == Some(libc::EEXIST) {
        return Ok(());
    }
    Err(io::Error::other(format!("load {path}: {error}")))
}

fn job(words: &str, port: &File) -> io::Result<ExitStatus> {
    let mut words = words.split('\t').peekable();
    let mut environment = Vec::new();
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        environment.push((name, value));
        words.next();
    }
    let program = words.next().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(words)
        .env_clear()
        .env("PATH", "/bin")
        .env("HOME", "/tmp")
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(port.try_clone()?)
        .stderr(port.try_clone()?)
        .status()
}
