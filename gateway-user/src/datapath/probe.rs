// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether this process may use eBPF here, and what is missing if not.

use std::{ffi::CStr, fs, path::Path};

use aya::{programs::ProgramType, sys::is_program_supported};

use crate::datapath::DatapathConfig;

// Numbers of linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// The oldest kernel whose verifier is known to take the programs, because
/// `cargo xtask verify` asks it.
const KERNEL: (u32, u32) = (6, 1);

/// What is missing for the kernel datapath, in plain words; empty when nothing
/// is.
pub fn probe(config: &DatapathConfig) -> Vec<String> {
    let mut missing = Vec::new();
    match kernel_version() {
        Some(version) if version < KERNEL => missing.push(format!(
            "Linux {}.{} is too old: the kernel programs need {}.{}",
            version.0, version.1, KERNEL.0, KERNEL.1
        )),
        _ => {}
    }
    missing.extend(capabilities());
    if !missing.is_empty() {
        // Without them every further answer would be no.
        return missing;
    }
    for (kind, name) in [
        (ProgramType::SchedClassifier, "tc programs"),
        (ProgramType::Xdp, "XDP programs"),
        (ProgramType::SkLookup, "sk_lookup programs"),
    ] {
        match is_program_supported(kind) {
            Ok(true) => {}
            Ok(false) => missing.push(format!("{name} in this kernel")),
            Err(error) => missing.push(format!("bpf(2) for {name}: {error}")),
        }
    }
    if !filesystem_known() {
        missing.push("the file system bpf in this kernel".to_owned());
    }
    let parent = config.bpffs.ancestors().find(|path| path.exists());
    if !parent.is_some_and(Path::is_dir) {
        missing.push(format!("a place for {}", config.bpffs.display()));
    }
    missing
}

/// Capabilities that this process lacks for work with programs and maps, in
/// plain words.
pub fn capabilities() -> Vec<String> {
    let capabilities = effective_capabilities();
    let has = |capability: u32| capabilities & (1 << capability) != 0;
    let mut missing = Vec::new();
    if !has(CAP_NET_ADMIN) {
        missing.push("the capability CAP_NET_ADMIN (run as root)".to_owned());
    }
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("the capability CAP_BPF (run as root)".to_owned());
    }
    missing
}

fn kernel_version() -> Option<(u32, u32)> {
    let mut name = std::mem::MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: `name` has room for the answer.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: uname succeeded, so it has filled `name`.
    let name = unsafe { name.assume_init() };
    // SAFETY: the kernel ends the release with a null byte within the array.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    let mut numbers = release.to_str().ok()?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default()
}

fn filesystem_known() -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known
        .lines()
        .any(|line| line.split_whitespace().last() == Some("bpf"))
}
