// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What builds the kernel programs: a compiler with a `core` for BPF, and
//! bpf-linker. gateway-user's build script looks for the same two compilers.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use super::{Missing, debian};
use crate::task::{self, find_program};

/// A compiler that can build for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// rustup's nightly with the sources of `core`.
    Nightly,
    /// Debian's packages with a ready-made `core`.
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup nightly with rust-src",
            Self::Debian => "Debian's rustc-web with libstd-rust-web-dev-bpf",
        })
    }
}

/// The compiler that is there, if any.
pub fn find() -> Option<Toolchain> {
    let nightly = task::output(
        Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]),
    );
    if let Some(sysroot) = nightly
        && Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
    {
        return Some(Toolchain::Nightly);
    }
    (Path::new("/usr/bin/rustc").exists()
        && Path::new("/usr/lib/rustlib/bpfel-unknown-none").is_dir())
    .then_some(Toolchain::Debian)
}

/// The compiler and the linker, when they are not there.
pub fn missing() -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    if find().is_none() {
        missing.push(compiler());
    }
    if !has_linker() {
        let version = LINKER_VERSION;
        missing.push(Missing {
            what: format!("bpf-linker {version}"),
            plan: format!("cargo install bpf-linker --version {version} --locked (minutes)"),
            install: Box::new(move || {
                task::run(
                    task::cargo()
                        .args(["install", "bpf-linker", "--locked", "--force", "--version"])
                        .arg(version)
                        .env_remove("CARGO_TARGET_DIR"),
                    "check that crates.io can be reached and a C compiler is installed, then run setup again",
                )
            }),
        });
    }
    if find_program("cc").is_none() {
        // Also what aws-lc-rs is compiled with.
        missing.insert(
            0,
            Missing {
                what: "a C compiler".to_owned(),
                plan: "apt-get install build-essential cmake".to_owned(),
                install: Box::new(|| debian::install(&["build-essential", "cmake"])),
            },
        );
    }
    Ok(missing)
}

/// rustfmt and clippy, when they are not there.
pub fn missing_components() -> Option<Missing> {
    let has = |tool: &str| task::output(task::cargo().args([tool, "--version"])).is_some();
    if has("fmt") && has("clippy") {
        return None;
    }
    Some(Missing {
        what: "rustfmt and clippy".to_owned(),
        plan: "rustup component add rustfmt clippy".to_owned(),
        install: Box::new(|| {
            task::run(
                Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]),
                "install them by the means this Rust was installed with",
            )
        }),
    })
}

/// Debian's packages are preferred where they exist: they need no nightly.
fn compiler() -> Missing {
    let packages = ["rustc-web", "libstd-rust-web-dev-bpf"];
    let offered = |packages: [&str; 2]| packages.iter().all(|package| debian::is_offered(package));
    Missing {
        what: "a Rust compiler for BPF".to_owned(),
        plan: "install Debian's rustc-web and libstd-rust-web-dev-bpf where apt has them, \
               else rustup's nightly with rust-src"
            .to_owned(),
        install: Box::new(move || {
            if debian::can_install() {
                // A fresh machine's lists are empty, which says nothing.
                if !offered(packages) {
                    debian::update()?;
                }
                if offered(packages) {
                    return debian::install(&packages);
                }
            }
            if find_program("rustup").is_none() {
                bail!(
                    "neither Debian's rustc-web nor rustup is to be had: install rustup (https://rustup.rs), then run setup again"
                );
            }
            task::run(
                Command::new("rustup").args([
                    "toolchain",
                    "install",
                    "nightly",
                    "--profile",
                    "minimal",
                    "--component",
                    "rust-src",
                ]),
                "check that rustup can download, or build without kernel programs: cargo build --no-default-features",
            )
        }),
    }
}

/// In PATH, or where `cargo install` puts it.
fn has_linker() -> bool {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let installed = home.map(|home| home.join("bin/bpf-linker"));
    let Some(program) = find_program("bpf-linker").or(installed) else {
        return false;
    };
    task::output(Command::new(program).arg("--version"))
        .is_some_and(|text| text.split_whitespace().any(|word| word == LINKER_VERSION))
}

/// The newest that loads the LLVM of rustup's own toolchain; later ones want a
/// system LLVM.
const LINKER_VERSION: &str = "0.10.3";
