// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory and CPU of all processes in a network namespace: of a contender,
//! however many processes it is made of.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, bail};
use gateway_tests::netns::{NETNS_DIR, Netns};

/// What processes take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    /// How many there are.
    pub processes: usize,
    /// Resident memory, bytes; pages shared among them count in each.
    pub resident: u64,
    /// Proportional share, bytes: a page shared by two counts half in each.
    pub proportional: u64,
    /// Resident memory with no file behind it, bytes.
    pub anonymous: u64,
    /// CPU time so far, seconds; the kernel counts it in hundredths.
    pub cpu_seconds: f64,
}

impl Footprint {
    /// The sum over the processes whose network namespace is `netns`.
    ///
    /// # Errors
    ///
    /// When there is none, or one ends meanwhile.
    pub fn of(netns: &Netns) -> Result<Self> {
        let path = Path::new(NETNS_DIR).join(netns.name());
        let inode = fs::metadata(&path)
            .with_context(|| format!("look at {}", path.display()))?
            .ino();
        let mut sum = Self::default();
        for entry in fs::read_dir("/proc").context("list /proc")? {
            let dir = entry.context("list /proc")?.path();
            // Threads of the kernel and processes that end have none.
            let own = fs::metadata(dir.join("ns/net")).map(|file| file.ino());
            if own.is_ok_and(|own| own == inode) {
                sum.add(&dir)
                    .with_context(|| format!("read {}", dir.display()))?;
            }
        }
        if sum.processes == 0 {
            bail!("no process runs in {}", netns.name());
        }
        Ok(sum)
    }

    fn add(&mut self, dir: &Path) -> Result<()> {
        let memory = fs::read_to_string(dir.join("smaps_rollup"))?;
        let bytes = |field: &str| -> Result<u64> {
            let mut lines = memory.lines();
            let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            let value = value.with_context(|| format!("smaps_rollup without {field}"))?;
            let kib: u64 = value.trim().trim_end_matches(" kB").parse()?;
            Ok(kib * 1024)
        };
        self.processes += 1;
        self.resident += bytes("Rss")?;
        self.proportional += bytes("Pss")?;
        self.anonymous += bytes("Anonymous")?;
        let stat = fs::read_to_string(dir.join("stat"))?;
        self.cpu_seconds += cpu_seconds(&stat).context("stat without CPU times")?;
        Ok(())
    }
}

/// User and system time of a line of /proc/PID/stat (proc_pid_stat(5)).
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // USER_HZ is 100 on every architecture this runs on.
    Some((user + system) as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::cpu_seconds;

    #[test]
    fn cpu_time_is_found_behind_an_odd_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 99 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a) S"), None);
    }
}
