// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels that `verify` starts in a virtual machine: Debian's packages,
//! unpacked in the target directory and installed nowhere, and the program that
//! plays the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{Missing, debian};
use crate::task::{self, find_program, say};

/// The oldest kernel that Sluice supports, as Debian 12 has it.
pub const OLDEST: &str = "6.1";

/// The machine; software alone, where there is no hardware to help.
pub const MACHINE: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    /// What boots.
    pub image: PathBuf,
    /// Its modules, in directories.
    pub modules: PathBuf,
}

/// The kernel of this version (`6.1`), if it is there.
pub fn find(version: &str) -> Option<Kernel> {
    let dir = dir(version);
    let image = entry(&dir.join("boot"), "vmlinuz-")?;
    let modules = entry(&dir.join("lib/modules"), "")?;
    Some(Kernel { image, modules })
}

/// What a virtual machine with this kernel lacks.
pub fn missing(version: &str) -> Vec<Missing> {
    let mut missing = Vec::new();
    let (program, package) = MACHINE;
    if find_program(program).is_none() {
        missing.push(Missing {
            what: format!("package {package}"),
            plan: format!("apt-get install {package}"),
            install: Box::new(|| debian::install(&[MACHINE.1])),
        });
    }
    if find(version).is_none() {
        let version = version.to_owned();
        missing.push(Missing {
            what: format!("a Linux {version} to start"),
            plan: format!(
                "apt-get download linux-image-{version}.*-cloud-amd64 and unpack it into {}",
                dir(&version).display()
            ),
            install: Box::new(move || fetch(&version)),
        });
    }
    missing
}

fn dir(version: &str) -> PathBuf {
    task::target_dir().join("kernels").join(version)
}

/// The one entry of a directory whose name starts with `prefix`.
fn entry(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .next()
}

fn fetch(version: &str) -> Result<()> {
    for program in ["apt-get", "dpkg-deb"] {
        if find_program(program).is_none() {
            bail!("no {program} here: the kernel comes as a package of Debian");
        }
    }
    let package = match newest(version) {
        Some(package) => package,
        None => {
            debian::update()?;
            newest(version).with_context(|| {
                format!("apt offers no linux-image-{version}.*-cloud-amd64 (Debian 12 has 6.1)")
            })?
        }
    };
    let dir = dir(version);
    // What an earlier attempt left could be half a kernel.
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    let staged = dir.with_extension("part");
    if staged.exists() {
        fs::remove_dir_all(&staged).with_context(|| format!("remove {}", staged.display()))?;
    }
    fs::create_dir_all(&staged).with_context(|| format!("create {}", staged.display()))?;
    say(&format!("apt-get download {package}"));
    let download = || {
        task::run(
            Command::new("apt-get")
                // As this user: apt's own may not write here.
                .args(["-q", "-o", "APT::Sandbox::User=root", "download", &package])
                .current_dir(&staged),
            "read apt-get's message above",
        )
    };
    download().or_else(|_| {
        // The lists can be older than the mirror.
        debian::update()?;
        download()
    })?;
    let archive = entry(&staged, &package).context("apt-get downloaded nothing")?;
    task::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(&staged),
        "look at the space left on this disk",
    )?;
    fs::remove_file(&archive)?;
    fs::rename(&staged, &dir).with_context(|| format!("make {}", dir.display()))
}

/// The newest package of that version that apt offers.
fn newest(version: &str) -> Option<String> {
    let pattern = format!(
        "^linux-image-{}[.].*-cloud-amd64$",
        version.replace('.', "[.]")
    );
    let names = task::output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    names
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .max_by_key(|name| numbers(name))
        .map(str::to_owned)
}

/// The numbers in a name, for comparing releases.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn releases_compare_by_number() {
        let old = numbers("linux-image-6.1.0-9-cloud-amd64");
        let new = numbers("linux-image-6.1.0-56-cloud-amd64");
        assert!(old < new);
        assert_eq!(new, [6, 1, 0, 56, 64]);
    }
}
