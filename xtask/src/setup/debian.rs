// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian and Ubuntu packages: brokers, web server, clients, network tools, and
//! the peers of the benchmark.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::Missing;
use crate::task::{self, find_program, say};

/// A program the lab runs and the package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("mosquitto_sub", "mosquitto-clients"),
    ("kcat", "kcat"),
    ("nginx", "nginx"),
    ("iperf3", "iperf3"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("socat", "socat"),
    ("python3", "python3"),
];

/// What the benchmark runs besides: load tools and peers.
const BENCH_PROGRAMS: &[(&str, &str)] = &[
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("haproxy", "haproxy"),
];
/// nginx as a TCP proxy is a module that nginx loads, not a program.
const STREAM_MODULE: (&str, &str) = (
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "libnginx-mod-stream",
);

/// Packages of the benchmark whose programs are not there.
pub fn missing_for_bench() -> Option<Missing> {
    let mut packages = without_program(BENCH_PROGRAMS);
    let (module, package) = STREAM_MODULE;
    if !Path::new(module).exists() {
        packages.push(package);
    }
    wanted(packages)
}

/// Packages that tests alone use and that are not there.
pub fn missing_for_tests() -> Option<Missing> {
    // Its programs are not in PATH.
    let is_there = gateway_tests::backend::postgres::installed().is_some();
    wanted(if is_there { vec![] } else { vec!["postgresql"] })
}

/// Packages whose programs are not there.
pub fn missing() -> Option<Missing> {
    let mut packages = without_program(PROGRAMS);
    if !super::python::is_complete() && !super::python::has_pip() {
        packages.push("python3-pip");
    }
    wanted(packages)
}

fn without_program(programs: &[(&str, &'static str)]) -> Vec<&'static str> {
    programs
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect()
}

fn wanted(packages: Vec<&'static str>) -> Option<Missing> {
    if packages.is_empty() {
        return None;
    }
    let list = packages.join(" ");
    Some(Missing {
        what: format!("packages {list}"),
        plan: format!("apt-get install {list}, without starting their services"),
        install: Box::new(move || install(&packages)),
    })
}

/// Whether the package lists of this machine offer `package`.
pub fn is_offered(package: &str) -> bool {
    task::output(Command::new("apt-cache").args(["policy", package])).is_some_and(|text| {
        text.lines().any(|line| {
            line.trim()
                .strip_prefix("Candidate:")
                .is_some_and(|candidate| candidate.trim() != "(none)")
        })
    })
}

/// Whether packages can be installed at all.
pub fn can_install() -> bool {
    find_program("apt-get").is_some() && elevation().is_ok()
}

/// Reads the package lists anew.
pub fn update() -> Result<()> {
    say("apt-get update");
    elevated("apt-get -q update").and_then(|mut command| {
        task::run(
            &mut command,
            "check the network and /etc/apt, then run setup again",
        )
    })
}

/// Installs packages; reads the package lists first when they lack one. The
/// packages' services are not started: a policy-rc.d that says no stands there
/// while apt-get works, unless the machine has one of its own.
pub fn install(packages: &[&str]) -> Result<()> {
    if find_program("apt-get").is_none() {
        bail!(
            "no apt-get here: install {} by this system's own means, then run setup again",
            packages.join(" ")
        );
    }
    if !packages.iter().all(|package| is_offered(package)) {
        update()?;
    }
    let attempt = |packages: &[&str]| -> Result<()> {
        let script = format!(
            "set -e; policy=/usr/sbin/policy-rc.d; \
             if [ ! -e $policy ]; then trap 'rm -f $policy' EXIT; \
             printf '#!/bin/sh\\nexit 101\\n' > $policy; chmod 755 $policy; fi; \
             DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install {}",
            packages.join(" ")
        );
        task::run(
            &mut elevated(&script)?,
            "read apt-get's message above, then run setup again",
        )
    };
    attempt(packages).or_else(|_| {
        // The lists name versions that the mirror no longer has.
        update()?;
        attempt(packages)
    })
}

fn elevated(script: &str) -> Result<Command> {
    let mut command = match elevation()? {
        None => Command::new("sh"),
        Some(sudo) => {
            let mut command = Command::new(sudo);
            command.args(["-n", "sh"]);
            command
        }
    };
    command.args(["-c", script]);
    Ok(command)
}

/// How to become root: nothing, or sudo without a question.
fn elevation() -> Result<Option<&'static str>> {
    if gateway_tests::skip::is_root() {
        return Ok(None);
    }
    task::output(Command::new("sudo").args(["-n", "true"]))
        .map(|_| Some("sudo"))
        .context("packages need root, and sudo asks for a password: run `sudo -v` first, or setup as root")
}
