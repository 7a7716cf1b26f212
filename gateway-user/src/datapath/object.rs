// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel programs, embedded: the agent is one file.

/// The BPF object that `build.rs` made of gateway-ebpf, aligned as an ELF file
/// wants it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-ebpf"));
