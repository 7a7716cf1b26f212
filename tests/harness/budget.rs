// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each kernel program may cost the verifier: the one place that says so.
//! `cargo xtask verify` holds every kernel it runs against it, the test target
//! `bpf` the running one.
//!
//! The numbers are ceilings over all those kernels, a quarter or so above what
//! was needed last; raise one in the commit that needs more. What the kernel
//! allows at all: 1,000,000 instructions walked, 512 bytes of stack along one
//! chain of calls (BPF_COMPLEXITY_LIMIT_INSNS, MAX_BPF_STACK).

/// The ceilings of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Its name in the object.
    pub program: &'static str,
    /// Instructions the verifier walks, each as often as it does.
    pub walked: u64,
    /// States it remembers at once.
    pub peak_states: u64,
    /// Bytes of stack of the program and the deepest of its functions, each in
    /// steps of 32.
    pub stack: u64,
}

/// Sorted by name, a line for every program of the object.
pub const BUDGETS: [Budget; 20] = [
    budget("sk_steer", 3_600, 120, 450),
    budget("tc_answer", 90_000, 1_500, 512),
    budget("tc_encap", 60_000, 1_500, 512),
    budget("tc_guard", 115_000, 2_000, 512),
    budget("tc_handoff", 150_000, 2_000, 512),
    budget("tc_icmp", 90_000, 1_000, 512),
    budget("tc_ingress", 65_000, 1_600, 400),
    budget("tc_new_flow", 160_000, 2_500, 512),
    budget("tc_options", 33_000, 250, 512),
    budget("tc_reply", 60_000, 1_000, 512),
    budget("tc_watch", 46_000, 1_500, 512),
    budget("xdp_answer", 70_000, 1_500, 512),
    budget("xdp_encap", 60_000, 1_500, 512),
    budget("xdp_guard", 115_000, 2_000, 512),
    budget("xdp_handoff", 175_000, 2_000, 512),
    budget("xdp_icmp", 90_000, 1_000, 512),
    budget("xdp_ingress", 62_000, 1_600, 400),
    budget("xdp_new_flow", 160_000, 2_500, 512),
    budget("xdp_options", 33_000, 250, 512),
    budget("xdp_watch", 46_000, 1_500, 512),
];

const fn budget(program: &'static str, walked: u64, peak_states: u64, stack: u64) -> Budget {
    Budget {
        program,
        walked,
        peak_states,
        stack,
    }
}

/// The budget of a program, if one is recorded.
pub fn of(program: &str) -> Option<&'static Budget> {
    BUDGETS.iter().find(|budget| budget.program == program)
}
