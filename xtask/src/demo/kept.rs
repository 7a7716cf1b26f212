// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A lab that `--keep` left: how to look around in it, and how it is removed.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, bail};
use gateway_tests::{lab, wait};

use super::NAME;
use crate::task::say;

/// Writes down the processes of the lab: id and start time, because an id
/// alone may be another process by the time it is used.
pub fn note(dir: &Path, pids: &[u32]) -> Result<()> {
    let lines: String = pids
        .iter()
        .filter_map(|pid| Some(format!("{pid} {}\n", start_time(*pid)?)))
        .collect();
    fs::write(dir.join(PIDS), lines)?;
    Ok(())
}

/// Ends the processes of a kept lab and removes it.
pub fn remove() -> Result<()> {
    let dir = lab::directory(NAME);
    if !dir.exists() {
        say("no lab is kept");
        return Ok(());
    }
    let pids = alive(&dir);
    say(&format!("ending {} processes of the kept lab", pids.len()));
    for pid in &pids {
        if let Ok(pid) = i32::try_from(*pid) {
            // SAFETY: kill has no memory effects; `alive` matched the start
            // time, so this is the process that was noted.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
            }
        }
    }
    wait::until_true("the end of the processes", Duration::from_secs(5), || {
        alive(&dir).is_empty()
    })?;
    lab::remove(NAME);
    say("removed the lab");
    Ok(())
}

/// Removes a lab whose processes have all ended.
pub fn remove_dead() -> Result<()> {
    let dir = lab::directory(NAME);
    if !alive(&dir).is_empty() {
        bail!("a kept lab is up: take it down with `cargo xtask demo --remove`");
    }
    lab::remove(NAME);
    Ok(())
}

/// Says what to do in the lab.
pub fn explain(kept: &lab::Lab, agent: &Path) {
    let (vip, dir) = (kept.vip(), kept.dir().display());
    let agent = agent.display();
    println!(
        "
The lab is still up. Commands run inside with `nsenter --net=/run/netns/{NAME}-client`
(or -gateway, -backend1, -backend2, -backend3), not with `ip netns exec`.

  ask the agent:    nsenter --net=/run/netns/{NAME}-gateway {agent} status
  its counters:     nsenter --net=/run/netns/{NAME}-gateway curl -s 127.0.0.1:15000/metrics
  as a client:      nsenter --net=/run/netns/{NAME}-client curl --resolve shop.example.com:80:{vip} http://shop.example.com/
                    nsenter --net=/run/netns/{NAME}-client mosquitto_sub -h {vip} -t '#' -v
  explain a route:  {agent} explain {dir}/config --port 443 --sni shop.example.com --host shop.example.com
  edit and watch:   {dir}/config/*.yaml, {dir}/sluice.log
  pinned maps:      ls {dir}/bpf/sluice
  take it down:     cargo xtask demo --remove"
    );
}

fn alive(dir: &Path) -> Vec<u32> {
    let text = fs::read_to_string(dir.join(PIDS)).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (pid, started) = line.split_once(' ')?;
            let pid = pid.parse().ok()?;
            (start_time(pid)? == started).then_some(pid)
        })
        .collect()
}

/// Field 22 of /proc/PID/stat; none when the process has ended.
fn start_time(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold blanks and parentheses.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

const PIDS: &str = "pids";

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_a_start_time() {
        let started = super::start_time(std::process::id());
        assert!(started.is_some_and(|ticks| ticks.parse::<u64>().is_ok()));
        assert_eq!(super::start_time(u32::MAX), None);
    }
}
