// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! The way out: the kernel's own routing table decides.

use core::mem;

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup,
    },
    helpers::bpf_fib_lookup as fib_lookup,
};
use gateway_common::{
    addr::Addr16,
    counters::VerdictCounter,
    drop_reason::DropReason,
    flow::FlowDirection,
    next_hop::{NEXT_HOP_NS, NEXT_HOPS as NEXT_HOPS_A_CPU, NextHop},
};

use crate::{
    aligned::Aligned,
    context::Context,
    flow::Flow,
    maps::{NEXT_HOPS, XDP_EGRESS},
    packet::Packet,
    verdict::Verdict,
    watch,
};

/// `AF_INET`.
const AF_INET: u8 = 2;
/// `AF_INET6`.
const AF_INET6: u8 = 10;
/// `-EINVAL`: the look-up has read nothing but its flags.
const UNKNOWN_FLAG: i64 = -22;

/// The next hop of a packet of `flow` that leaves with the header `to`. Valid
/// until the program ends. `now_ns` is the coarse monotonic time.
///
/// The kernel's answer is kept for [`NEXT_HOP_NS`]: asking is what a packet would
/// spend most of its time on. Packets of one flow that differ in what else can
/// choose a route (DSCP, flow label) take the same for as long.
#[inline(always)]
pub fn next_hop<C: Context>(
    ctx: &C,
    packet: &Packet,
    flow: &Flow,
    to: &Header,
    now_ns: u64,
) -> Result<&'static NextHop, Verdict> {
    let (slot, generation) = flow.place();
    let ifindex_in = ctx.ifindex();
    let way = flow.direction() | u32::from(C::IS_XDP) << 1;
    let index = (slot * 2 + flow.direction()) & (NEXT_HOPS_A_CPU - 1);
    let kept = NEXT_HOPS
        .get_ptr_mut(index)
        .ok_or(Verdict::Drop(DropReason::BadMapEntry))?;
    // SAFETY: the look-up returned it, not null, for this CPU alone; the
    // programs run with migration off and do not interrupt themselves.
    let kept = unsafe { &mut *kept };
    if kept.expires_ns <= now_ns
        || kept.slot != slot
        || kept.generation != generation
        || kept.ifindex_in != ifindex_in
        || kept.way != way
    {
        find(ctx, packet, to, kept)?;
        kept.expires_ns = now_ns + NEXT_HOP_NS;
        kept.slot = slot;
        kept.generation = generation;
        kept.ifindex_in = ifindex_in;
        kept.way = way;
        kept.watched = watch::mark(&packet.key, now_ns);
    } else if len(ctx, packet) + to.overhead > u32::from(kept.mtu) {
        return Err(Verdict::Drop(DropReason::PacketTooBig));
    }
    Ok(kept)
}

/// What the routing table is asked about: the outermost header of a packet as it
/// leaves.
pub struct Header<'a> {
    /// Source and destination address.
    pub addresses: [&'a Addr16; 2],
    /// IP protocol number, or the number of the first transport.
    pub proto: u8,
    /// Source and destination port, network order; 0 without.
    pub ports_be: [u16; 2],
    /// Bytes by which the packet is longer than it came.
    pub overhead: u32,
}

impl<'a> Header<'a> {
    /// That of a packet rewritten as `to` says.
    #[inline(always)]
    pub fn of(packet: &Packet, to: &'a FlowDirection) -> Self {
        Self {
            addresses: [&to.new_src, &to.new_dst],
            proto: packet.key.proto,
            ports_be: [to.new_src_port_be, to.new_dst_port_be],
            overhead: 0,
        }
    }
}

/// Bytes of the IP packet as it leaves. The kernel lets super-packets through
/// whatever their segments' length, and the sender would not be told.
#[inline(always)]
fn len<C: Context>(ctx: &C, packet: &Packet) -> u32 {
    match ctx.segment_len() {
        0 => packet.ip_len,
        segment => segment + packet.header_len,
    }
}

/// Asks the kernel for the next hop of a packet that leaves with the header `to`,
/// and writes it to `found`, but for what it was asked for.
#[inline(always)]
pub fn find<C: Context>(
    ctx: &C,
    packet: &Packet,
    to: &Header,
    found: &mut NextHop,
) -> Result<(), Verdict> {
    // SAFETY: integers and unions of integers only.
    let mut hop: Aligned<bpf_fib_lookup> = unsafe { mem::zeroed() };
    let hop = &mut hop.0;
    let result = ask(ctx, packet, to, hop);
    if result < 0 {
        return Err(Verdict::Drop(DropReason::HelperFailed));
    }
    match result as u32 {
        // The stack has more ways to send than XDP.
        BPF_FIB_LKUP_RET_SUCCESS if !is_reached(ctx, hop.ifindex) => {
            Err(Verdict::Pass(VerdictCounter::EgressMiss))
        }
        BPF_FIB_LKUP_RET_SUCCESS => {
            found.ifindex = hop.ifindex;
            // SAFETY: both members are the same integer.
            found.mtu = unsafe { hop.__bindgen_anon_1.mtu_result };
            found.family = hop.family;
            // SAFETY: both members are integers; the look-up filled the one of
            // its family, the other bytes are zero.
            found.addr_be = unsafe { hop.__bindgen_anon_4.ipv6_dst };
            found.dst_mac = hop.dmac;
            found.src_mac = hop.smac;
            Ok(())
        }
        // The stack's forwarding resolves the neighbour and sends the packet.
        BPF_FIB_LKUP_RET_NO_NEIGH => Err(Verdict::Pass(VerdictCounter::NeighbourMiss)),
        // The destination is this node (or there is no route, which the stack
        // answers): the rewritten packet is delivered from here on.
        BPF_FIB_LKUP_RET_NOT_FWDED => Err(Verdict::Pass(VerdictCounter::LocalDelivery)),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Verdict::Drop(DropReason::PacketTooBig)),
        // Among them: forwarding is switched off on the interface.
        _ => Err(Verdict::Drop(DropReason::NoRoute)),
    }
}

/// Whether a frame sent to an interface leaves by it. One that XDP redirects does
/// only where the driver has a way for it: a VLAN, a bridge and most devices of
/// pods have none, and lose it without a word. Back where it came from is another
/// way.
#[inline(always)]
fn is_reached<C: Context>(ctx: &C, ifindex: u32) -> bool {
    // SAFETY: only whether there is a value is asked.
    !C::IS_XDP || ifindex == ctx.ifindex() || unsafe { XDP_EGRESS.get(&ifindex) }.is_some()
}

/// How long a packet may be, bytes, that leaves with the header `to`.
#[inline(always)]
pub fn mtu<C: Context>(ctx: &C, packet: &Packet, to: &Header) -> Option<u16> {
    // SAFETY: integers and unions of integers only.
    let mut hop: Aligned<bpf_fib_lookup> = unsafe { mem::zeroed() };
    let hop = &mut hop.0;
    let result = ask(ctx, packet, to, hop);
    if result < 0 || result as u32 != BPF_FIB_LKUP_RET_FRAG_NEEDED {
        return None;
    }
    // SAFETY: both members are the same integer.
    Some(unsafe { hop.__bindgen_anon_1.mtu_result })
}

/// Asks the kernel; its answer is in `hop`.
#[inline(always)]
fn ask<C: Context>(ctx: &C, packet: &Packet, to: &Header, hop: &mut bpf_fib_lookup) -> i64 {
    let [src, dst] = to.addresses;
    hop.l4_protocol = to.proto;
    [hop.sport, hop.dport] = to.ports_be;
    // An IPv6 packet can be longer than that with its header.
    hop.__bindgen_anon_1.tot_len = (len(ctx, packet) + to.overhead).min(u32::from(u16::MAX)) as u16;
    hop.ifindex = ctx.ifindex();
    if packet.is_v6 {
        hop.family = AF_INET6;
        hop.__bindgen_anon_2.flowinfo = packet.flow_info;
        hop.__bindgen_anon_3.ipv6_src = words(src);
        hop.__bindgen_anon_4.ipv6_dst = words(dst);
    } else {
        hop.family = AF_INET;
        hop.__bindgen_anon_2.tos = packet.flow_info as u8;
        hop.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(src.v4());
        hop.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(dst.v4());
    }
    let flags = if C::IS_XDP {
        0
    } else {
        BPF_FIB_LOOKUP_SKIP_NEIGH
    };

    let result = look_up(ctx, hop, flags);
    if flags != 0 && result == UNKNOWN_FLAG {
        // Before Linux 6.3, BPF_FIB_LOOKUP_SKIP_NEIGH is not known. Without it
        // the stack sends what has no neighbour entry yet.
        return look_up(ctx, hop, 0);
    }
    result
}

#[inline(always)]
fn look_up<C: Context>(ctx: &C, hop: &mut bpf_fib_lookup, flags: u32) -> i64 {
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the pointer and the length are those of one value.
    unsafe { fib_lookup(ctx.as_ptr(), hop, size, flags) }
}

/// An address as four words in network order.
#[inline(always)]
fn words(addr: &Addr16) -> [u32; 4] {
    let bytes = &addr.bytes;
    let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}
