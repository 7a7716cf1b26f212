// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The way out: the kernel's own routing table decides.

use core::mem;

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
    },
    helpers::bpf_fib_lookup as fib_lookup,
};
use gateway_common::{
    addr::Addr16, counters::VerdictCounter, drop_reason::DropReason, flow::FlowDirection,
};

use crate::{aligned::Aligned, context::Context, packet::Packet, verdict::Verdict};

/// `AF_INET`.
const AF_INET: u8 = 2;
/// `AF_INET6`.
const AF_INET6: u8 = 10;

/// Sends the rewritten packet to the next hop of its new destination.
#[inline(always)]
pub fn send<C: Context>(ctx: &C, packet: &Packet, to: &FlowDirection) -> Result<Verdict, Verdict> {
    // SAFETY: integers and unions of integers only.
    let mut hop: Aligned<bpf_fib_lookup> = unsafe { mem::zeroed() };
    let hop = &mut hop.0;
    hop.l4_protocol = packet.key.proto;
    hop.sport = to.new_src_port_be;
    hop.dport = to.new_dst_port_be;
    hop.__bindgen_anon_1.tot_len = C::fib_len(packet.ip_len);
    hop.ifindex = ctx.ifindex();
    if packet.is_v6 {
        hop.family = AF_INET6;
        hop.__bindgen_anon_2.flowinfo = packet.flow_info;
        hop.__bindgen_anon_3.ipv6_src = words(&to.new_src);
        hop.__bindgen_anon_4.ipv6_dst = words(&to.new_dst);
    } else {
        hop.family = AF_INET;
        hop.__bindgen_anon_2.tos = packet.flow_info as u8;
        hop.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(to.new_src.v4());
        hop.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(to.new_dst.v4());
    }

    // SAFETY: the pointer and the length are those of a local value.
    let result = unsafe {
        fib_lookup(
            ctx.as_ptr(),
            hop,
            size_of::<bpf_fib_lookup>() as i32,
            C::FIB_FLAGS,
        )
    };
    if result < 0 {
        return Err(Verdict::Drop(DropReason::HelperFailed));
    }
    match result as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => {
            // The kernel lets super-packets through whatever their segments'
            // length, and the sender is not told.
            let segment_len = ctx.segment_len();
            // SAFETY: both members are the same integer.
            let mtu = unsafe { hop.__bindgen_anon_1.mtu_result };
            if segment_len != 0 && segment_len + packet.header_len > u32::from(mtu) {
                return Err(Verdict::Drop(DropReason::PacketTooBig));
            }
            ctx.send(hop)
        }
        // The stack's forwarding resolves the neighbour and sends the packet.
        BPF_FIB_LKUP_RET_NO_NEIGH => Ok(Verdict::Pass(VerdictCounter::NeighbourMiss)),
        // The destination is this node (or there is no route, which the stack
        // answers): the rewritten packet is delivered from here on.
        BPF_FIB_LKUP_RET_NOT_FWDED => Ok(Verdict::Pass(VerdictCounter::LocalDelivery)),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Verdict::Drop(DropReason::PacketTooBig)),
        // Among them: forwarding is switched off on the interface.
        _ => Err(Verdict::Drop(DropReason::NoRoute)),
    }
}

/// An address as four words in network order.
#[inline(always)]
fn words(addr: &Addr16) -> [u32; 4] {
    let bytes = &addr.bytes;
    let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}
