// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Busy CPU time of the whole machine. A process's own time would miss what the
//! kernel forwards in interrupts, and client, gateway and backends share one
//! machine anyway.

use std::fs;

use anyhow::{Context, Result};

/// CPU seconds since boot that were neither idle nor waiting for a disk, of all
/// processors together.
///
/// # Errors
///
/// When /proc/stat cannot be read.
pub fn busy_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    // SAFETY: sysconf has no preconditions.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    anyhow::ensure!(ticks_per_second > 0, "the kernel tells no clock tick");
    let ticks = busy_ticks(&text).context("/proc/stat has no line of all processors")?;
    Ok(ticks as f64 / ticks_per_second as f64)
}

/// user, nice, system, irq and softirq of the first line: proc(5). Guest time is
/// part of user time already; stolen time was spent by others.
fn busy_ticks(text: &str) -> Option<u64> {
    let fields = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let busy = [0, 1, 2, 5, 6];
    busy.into_iter().map(|index| ticks.get(index)).sum()
}

#[cfg(test)]
mod tests {
    use super::{busy_seconds, busy_ticks};

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let text = "cpu  100 20 30 4000 500 6 7 80 9 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(text), Some(100 + 20 + 30 + 6 + 7));
        assert_eq!(busy_ticks("cpu0 1 1 1 1\n"), None);
    }

    #[test]
    fn this_machine_has_been_busy() {
        assert!(busy_seconds().unwrap() > 0.0);
    }
}
