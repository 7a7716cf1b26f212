// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The machine of a run: kernel, processor, and the version of every program
//! that takes part.

use std::{collections::BTreeMap, fs, process::Command, thread};

use crate::{
    bench::{sample::Machine, stage::Stage},
    setup,
    task::{self, find_program},
};

/// Describes this machine. What it does not tell is `unknown`.
pub fn machine(stage: &Stage<'_>) -> Machine {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    Machine {
        kernel: or_unknown(read("/proc/sys/kernel/osrelease").trim()),
        cpu: or_unknown(field(&read("/proc/cpuinfo"), "model name").unwrap_or_default()),
        cores: thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: memory_bytes(&read("/proc/meminfo")),
        versions: versions(stage),
    }
}

fn versions(stage: &Stage<'_>) -> BTreeMap<String, String> {
    let agent = stage.agent.to_string_lossy();
    let envoy = setup::envoy();
    let mut versions = BTreeMap::new();
    for (name, program, option) in [
        ("iperf3", "iperf3", "--version"),
        ("wrk", "wrk", "--version"),
        ("h2load", "h2load", "--version"),
        ("nftables", "nft", "--version"),
        ("haproxy", "haproxy", "-v"),
        ("nginx", "nginx", "-v"),
        ("envoy", &*envoy.to_string_lossy(), "--version"),
        ("sluice", &*agent, "--version"),
    ] {
        versions.insert(name.to_owned(), version(program, option));
    }
    let describe = Command::new("git")
        .current_dir(task::root())
        .args(["describe", "--always", "--dirty"])
        .output();
    if let Ok(output) = describe
        && output.status.success()
        && let Some(own) = versions.get_mut("sluice")
    {
        let commit = String::from_utf8_lossy(&output.stdout);
        own.push_str(&format!(", commit {}", commit.trim()));
    }
    versions
}

/// What a program says of itself.
fn version(program: &str, option: &str) -> String {
    let path = find_program(program).unwrap_or_else(|| program.into());
    let Ok(output) = Command::new(path).arg(option).output() else {
        return "not there".to_owned();
    };
    // wrk says it with a usage and fails, nginx to its error output.
    let both = [output.stdout, output.stderr].concat();
    or_unknown(&shortened(&String::from_utf8_lossy(&both)))
}

/// The first words, from where a number is: `HAProxy version 2.6.12-1 2023/...`.
/// Envoy's is a path of its own: `path  version: COMMIT/1.40.0/Clean/...`.
fn shortened(text: &str) -> String {
    let line = text
        .lines()
        .find(|line| line.contains(|it: char| it.is_ascii_digit()))
        .unwrap_or_default();
    if let Some((_, version)) = line.split_once("version: ") {
        let parts = version.split('/');
        let found = parts.into_iter().find(|part| is_version(part));
        return found.unwrap_or(version).to_owned();
    }
    let words = line.split([' ', '/']);
    let found = words.into_iter().find(|word| is_version(word));
    found.unwrap_or(line).to_owned()
}

/// Whether it is like `v1.0.6` or `debian/4.1.0-3` without what is before the
/// slash.
fn is_version(word: &str) -> bool {
    let word = word.strip_prefix('v').unwrap_or(word);
    word.starts_with(|it: char| it.is_ascii_digit()) && word.contains('.')
}

/// The value of `name : value`.
fn field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

fn memory_bytes(text: &str) -> u64 {
    let kibibytes = field(text, "MemTotal").and_then(|value| value.split(' ').next());
    1024 * kibibytes.and_then(|it| it.parse().ok()).unwrap_or(0)
}

fn or_unknown(text: &str) -> String {
    if text.is_empty() { "unknown" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::{field, memory_bytes, shortened};

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        for (text, version) in [
            ("iperf 3.12 (cJSON 1.7.15)\nLinux x", "3.12"),
            (
                "wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012",
                "4.1.0-3+b2",
            ),
            ("h2load nghttp2/1.52.0", "1.52.0"),
            ("nftables v1.0.6 (Lester Gooch #5)", "v1.0.6"),
            (
                "HAProxy version 2.6.12-1+deb12u2 2025/04/16 - https://haproxy.org/",
                "2.6.12-1+deb12u2",
            ),
            ("nginx version: nginx/1.22.1", "1.22.1"),
            (
                "\n/a/envoy  version: f46ac/1.40.0/Clean/RELEASE/BoringSSL\n\n",
                "1.40.0",
            ),
            ("sluice 0.1.0", "0.1.0"),
            ("nothing", ""),
        ] {
            assert_eq!(shortened(text), version, "{text}");
        }
    }

    #[test]
    fn fields_are_read() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2.0GHz"));
        assert_eq!(memory_bytes("MemTotal:        2 kB\n"), 2048);
        assert_eq!(memory_bytes(""), 0);
    }
}
