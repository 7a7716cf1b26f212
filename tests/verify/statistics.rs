// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The verifier's statistics (`BPF_LOG_STATS`), as text:
//!
//! ```text
//! verification time 52339 usec
//! stack depth 360+0+24
//! processed 61027 insns (limit 1000000) max_states_per_insn 42 total_states 2503 peak_states 911 mark_read 61
//! ```
//!
//! `print_verification_stats` in kernel/bpf/verifier.c, Linux 5.2 and later.

/// What is kept of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Instructions walked, each as often as it was.
    pub instructions: u64,
    /// States remembered at once, which is memory.
    pub peak_states: u64,
    /// Bytes of stack of the program and the deepest of its functions, which
    /// call no other, as older kernels count: in steps of 32, of which a
    /// function takes one at least (`check_max_stack_depth`).
    pub stack: u64,
}

impl Statistics {
    /// Finds them at the end of a log.
    pub fn read(log: &str) -> Option<Self> {
        let line = |start: &str| log.lines().rev().find_map(|line| line.strip_prefix(start));
        let mut words = line("processed ")?.split_whitespace();
        let instructions = words.next()?.parse().ok()?;
        words.find(|word| *word == "peak_states")?;
        let peak_states = words.next()?.parse().ok()?;
        let mut depths = Vec::new();
        for depth in line("stack depth ")?.trim().split('+') {
            depths.push(depth.parse::<u64>().ok()?.max(1).next_multiple_of(32));
        }
        let (program, functions) = depths.split_first()?;
        let stack = program + functions.iter().max().unwrap_or(&0);
        Some(Self {
            instructions,
            peak_states,
            stack,
        })
    }
}
