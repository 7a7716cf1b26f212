// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Entry points of the kernel programs.

#[cfg(not(target_arch = "bpf"))]
fn main() {}
