// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel programs and maps: load, pin, plan, apply, read.

#[cfg(feature = "ebpf")]
pub mod object;
