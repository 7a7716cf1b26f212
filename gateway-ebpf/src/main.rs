// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Entry points of the kernel programs.
//!
//! Forwarding is written once, over [`context::Context`], and compiled for XDP
//! and for tc. Each step is a small function that returns what the next one
//! needs or the [`verdict::Verdict`] that ends the packet's way here.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "see the module `atomic`")
)]
#![warn(missing_docs)]

/// The programs exist for a BPF target only; a host build of the workspace
/// gets this.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod acl;
#[cfg(target_arch = "bpf")]
mod aligned;
#[cfg(target_arch = "bpf")]
mod answer;
#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod encap;
#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod forward;
#[cfg(target_arch = "bpf")]
mod fragment;
#[cfg(target_arch = "bpf")]
mod guard;
#[cfg(target_arch = "bpf")]
mod handoff;
#[cfg(target_arch = "bpf")]
mod icmp;
#[cfg(target_arch = "bpf")]
mod limit;
#[cfg(target_arch = "bpf")]
mod log;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod mask;
#[cfg(target_arch = "bpf")]
mod options;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod parse;
#[cfg(target_arch = "bpf")]
mod port_range;
#[cfg(target_arch = "bpf")]
mod reply;
#[cfg(target_arch = "bpf")]
mod rewrite;
#[cfg(target_arch = "bpf")]
mod route;
#[cfg(target_arch = "bpf")]
mod select;
#[cfg(target_arch = "bpf")]
mod service;
#[cfg(target_arch = "bpf")]
mod sk_lookup;
#[cfg(target_arch = "bpf")]
mod syn_cookie;
#[cfg(target_arch = "bpf")]
mod verdict;
#[cfg(target_arch = "bpf")]
mod watch;
#[cfg(target_arch = "bpf")]
mod word;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        macros::{classifier, sk_lookup, xdp},
        programs::{SkLookupContext, TcContext, XdpContext},
    };

    use crate::{forward, sk_lookup, watch};

    /// Forwarding at XDP.
    #[xdp]
    pub fn xdp_ingress(ctx: XdpContext) -> u32 {
        forward::packet(&ctx)
    }

    /// Forwarding at tc (tcx).
    #[classifier]
    pub fn tc_ingress(ctx: TcContext) -> i32 {
        forward::packet(&ctx)
    }

    /// ICMP at XDP, called by the above.
    #[xdp]
    pub fn xdp_icmp(ctx: XdpContext) -> u32 {
        forward::icmp(&ctx)
    }

    /// ICMP at tc, called by the above.
    #[classifier]
    pub fn tc_icmp(ctx: TcContext) -> i32 {
        forward::icmp(&ctx)
    }

    /// First packets of flows at XDP, called by the above.
    #[xdp]
    pub fn xdp_new_flow(ctx: XdpContext) -> u32 {
        forward::new_flow(&ctx)
    }

    /// First packets of flows at tc, called by the above.
    #[classifier]
    pub fn tc_new_flow(ctx: TcContext) -> i32 {
        forward::new_flow(&ctx)
    }

    /// Limits of new flows at XDP, called before the above.
    #[xdp]
    pub fn xdp_guard(ctx: XdpContext) -> u32 {
        forward::guard(&ctx)
    }

    /// Limits of new flows at tc, called before the above.
    #[classifier]
    pub fn tc_guard(ctx: TcContext) -> i32 {
        forward::guard(&ctx)
    }

    /// Wrapping at XDP, called by the above.
    #[xdp]
    pub fn xdp_encap(ctx: XdpContext) -> u32 {
        forward::encap(&ctx)
    }

    /// Wrapping at tc, called by the above.
    #[classifier]
    pub fn tc_encap(ctx: TcContext) -> i32 {
        forward::encap(&ctx)
    }

    /// Errors of our own at XDP, called by the above.
    #[xdp]
    pub fn xdp_answer(ctx: XdpContext) -> u32 {
        forward::answer(&ctx)
    }

    /// Errors of our own at tc, called by the above.
    #[classifier]
    pub fn tc_answer(ctx: TcContext) -> i32 {
        forward::answer(&ctx)
    }

    /// What became of a packet, for a watcher, at XDP; called by all of the above.
    #[xdp]
    pub fn xdp_watch(ctx: XdpContext) -> u32 {
        watch::tell(&ctx)
    }

    /// What became of a packet, for a watcher, at tc; called by all of the above.
    #[classifier]
    pub fn tc_watch(ctx: TcContext) -> i32 {
        watch::tell(&ctx)
    }

    /// Packets of handed-off connections at XDP, called by the above.
    #[xdp]
    pub fn xdp_handoff(ctx: XdpContext) -> u32 {
        forward::handoff(&ctx)
    }

    /// Packets of handed-off connections at tc, called by the above.
    #[classifier]
    pub fn tc_handoff(ctx: TcContext) -> i32 {
        forward::handoff(&ctx)
    }

    /// Options of their packets at XDP, called by the above.
    #[xdp]
    pub fn xdp_options(ctx: XdpContext) -> u32 {
        forward::options(&ctx)
    }

    /// Options of their packets at tc, called by the above.
    #[classifier]
    pub fn tc_options(ctx: TcContext) -> i32 {
        forward::options(&ctx)
    }

    /// Replies to connections that have their client's address, called by the above.
    #[classifier]
    pub fn tc_reply(ctx: TcContext) -> i32 {
        forward::reply(&ctx)
    }

    /// Steering at socket look-up.
    #[sk_lookup]
    pub fn sk_steer(ctx: SkLookupContext) -> u32 {
        sk_lookup::steer(&ctx)
    }
}

/// A reachable panic is an endless loop, which the verifier refuses.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Helpers are for GPL-compatible programs only; this is a string the kernel
/// accepts as such.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
