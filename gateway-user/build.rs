// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds the kernel programs and leaves the object where
//! `datapath::object` embeds it.
//!
//! Kernel programs need a compiler that takes unstable features, a `core` for
//! the BPF target, and `bpf-linker`. Two toolchains have all of it:
//! - rustup's `nightly` with the component `rust-src`, which builds `core`;
//! - Debian's `rustc` with a ready-made `core`
//!   (`rustc-web`, `libstd-rust-web-dev-bpf`), driven by any cargo.
//!
//! Without the feature `ebpf` this does nothing.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// Where Debian's `rustc` is, also when rustup's shadows it in `PATH`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Separator of `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\u{1f}";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_EBPF").is_none() {
        return ExitCode::SUCCESS;
    }
    match build_object() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build_object() -> Result<(), String> {
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("..");
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };

    for input in [
        "Cargo.toml",
        "Cargo.lock",
        "gateway-ebpf/Cargo.toml",
        "gateway-ebpf/src",
        "gateway-common/Cargo.toml",
        "gateway-common/src",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }

    let linker = find_linker().ok_or_else(|| missing("bpf-linker"))?;
    println!("cargo::rerun-if-changed={}", linker.display());
    let mut cargo = find_cargo(target)
        .ok_or_else(|| missing("a compiler with `core` for BPF (nightly with rust-src)"))?;

    // Not `target/`: the outer cargo holds that directory's lock.
    let target_dir = out_dir.join("ebpf");
    let status = cargo
        .args([
            "build",
            "--package",
            "gateway-ebpf",
            "--bin",
            "gateway-ebpf",
        ])
        .args(["--profile", "bpf", "--target", target])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(&workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&linker)?)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("cannot start cargo for the kernel programs: {error}"))?;
    if !status.success() {
        return Err(
            "building the kernel programs (gateway-ebpf) failed, the compiler's messages are below"
                .to_owned(),
        );
    }

    let built = target_dir.join(target).join("bpf/gateway-ebpf");
    let object = out_dir.join("sluice-ebpf");
    fs::copy(&built, &object).map_err(|error| {
        format!(
            "cannot copy {} to {}: {error}",
            built.display(),
            object.display()
        )
    })?;
    Ok(())
}

/// One line that says what is missing and what to do.
fn missing(what: &str) -> String {
    format!(
        "{what} not found: run `cargo xtask setup`, \
         or build a userspace-only agent with `--no-default-features`"
    )
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("build script variable {name}: {error}"))
}

/// `bpf-linker` in `PATH`, or where `cargo install` puts it.
fn find_linker() -> Option<PathBuf> {
    let cargo_bin = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin)
        .map(|dir| dir.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
}

/// A cargo set up with a compiler that can build for `target`.
fn find_cargo(target: &str) -> Option<Command> {
    nightly_cargo().or_else(|| debian_cargo(target))
}

fn nightly_cargo() -> Option<Command> {
    let rustup = |program: &str| {
        let mut command = clean(Command::new("rustup"));
        command.args(["run", "nightly", program]);
        command
    };
    let sysroot = sysroot(rustup("rustc"))?;
    if !sysroot
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .is_file()
    {
        return None;
    }
    let mut cargo = rustup("cargo");
    cargo.args(["-Z", "build-std=core"]);
    Some(cargo)
}

fn debian_cargo(target: &str) -> Option<Command> {
    let sysroot = sysroot(clean(Command::new(DEBIAN_RUSTC)))?;
    if !sysroot
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .is_dir()
    {
        return None;
    }
    let mut cargo = clean(Command::new(
        env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
    ));
    cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    Some(cargo)
}

fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let output = rustc
        .args(["--print", "sysroot"])
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Removes what the outer cargo set for its own target: its compiler, wrappers
/// (clippy is one), flags and profile would be taken for the kernel programs.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let keep = ["CARGO_HOME", "CARGO_MAKEFLAGS", "RUSTUP_HOME"].contains(&name)
            || [
                "CARGO_NET_",
                "CARGO_HTTP_",
                "CARGO_REGISTR",
                "CARGO_SOURCE_",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        let inherited = name.starts_with("CARGO")
            || name.starts_with("RUST")
            || ["TARGET", "HOST", "OUT_DIR", "PROFILE", "OPT_LEVEL", "DEBUG"].contains(&name);
        if inherited && !keep {
            command.env_remove(name);
        }
    }
    command
}

fn rust_flags(linker: &Path) -> Result<OsString, String> {
    // What aya-ebpf selects the layout of the host's registers by.
    let arch = match variable("CARGO_CFG_TARGET_ARCH")?.as_str() {
        arch if arch.starts_with("riscv64") => "riscv64".to_owned(),
        arch => arch.to_owned(),
    };
    let mut flags = OsString::from("-Clinker=");
    flags.push(linker);
    for flag in [
        // Atomics with a result and 32-bit compares: in every kernel since 5.12.
        "-Ctarget-cpu=v3",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // LLVM's in-order expansion of copies knows alignments up to 8 only and
        // crashes on the flow slots' 64.
        "-Clink-arg=--disable-expand-memcpy-in-order",
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
    ] {
        flags.push(FLAG_SEPARATOR);
        flags.push(flag);
    }
    Ok(flags)
}
