// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rates by iperf3.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{netns::Netns, skip};

/// Runs one stream for `seconds` and returns what the receiver got, bit/s.
///
/// Sender and receiver get a core each. Left alone, the scheduler puts them on
/// one core for some streams, where the rate falls to a half or a third and the
/// receiver wakes for every segment: that, not the path, is then what two
/// streams differ by. Cubic gives steadier figures on veth than BBR; without
/// root it may not be chosen, and the machine's default is used.
///
/// # Errors
///
/// When iperf3 is missing or reports an error.
pub fn rate(netns: &Netns, address: Ipv4Addr, port: u16, seconds: u32) -> Result<f64> {
    let mut command = netns.command("iperf3");
    if skip::is_root() {
        command.args(["--congestion", "cubic"]);
    }
    if let Some((sender, receiver)) = two_cores() {
        command.args(["--affinity", &format!("{sender},{receiver}")]);
    }
    let output = command
        .args([
            "--client",
            &address.to_string(),
            "--port",
            &port.to_string(),
        ])
        .args(["--time", &seconds.to_string(), "--json"])
        .args(["--connect-timeout", "5000"])
        .output()
        .context("start iperf3")?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// The first two cores this process may run on.
fn two_cores() -> Option<(usize, usize)> {
    // SAFETY: all-zero is a valid cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the set, which lives across the call.
    let status = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if status != 0 {
        return None;
    }
    let limit = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: every index is below CPU_SETSIZE.
    let mut cores = (0..limit).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) });
    Some((cores.next()?, cores.next()?))
}

/// Bits per second at the receiver, out of iperf3's JSON.
///
/// # Errors
///
/// When the text is not such a report, or reports an error.
pub fn parse(text: &str) -> Result<f64> {
    let report: Value = serde_json::from_str(text).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    report
        .pointer("/end/sum_received/bits_per_second")
        .and_then(Value::as_f64)
        .context("iperf3 reported no rate")
}
