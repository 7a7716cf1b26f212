// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Entry points of the kernel programs.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// The programs exist for a BPF target only; a host build of the workspace
/// gets this.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod maps;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::{TC_ACT_OK, xdp_action},
        macros::{classifier, sk_lookup, xdp},
        programs::{SkLookupContext, TcContext, XdpContext},
    };

    /// Forwarding at XDP.
    #[xdp]
    pub fn xdp_ingress(_ctx: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    /// Forwarding at tc (tcx).
    #[classifier]
    pub fn tc_ingress(_ctx: TcContext) -> i32 {
        TC_ACT_OK
    }

    /// Steering at socket look-up.
    #[sk_lookup]
    pub fn sk_steer(_ctx: SkLookupContext) -> u32 {
        aya_ebpf::bindings::sk_action::SK_PASS
    }
}

/// A reachable panic is an endless loop, which the verifier refuses.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Helpers are for GPL-compatible programs only; this is the string the kernel
/// compares with.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
