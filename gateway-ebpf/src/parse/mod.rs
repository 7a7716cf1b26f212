// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! From a frame to a [`Packet`]. Whatever is neither TCP or UDP with ports in
//! reach nor ICMP is not ours and passes.

mod ipv4;
mod ipv6;
mod transport;

use core::mem::offset_of;

use gateway_common::{counters::VerdictCounter, drop_reason::DropReason};

use crate::{
    context::Context,
    fragment::Fragment,
    packet::{ETHERNET_LEN, Ethernet, IPV4_LEN, IPV6_LEN, Packet, Ports, TCP_LEN},
    verdict::Verdict,
    word::load_u16,
};

/// Not ours: left to the stack.
pub const PASS: Verdict = Verdict::Pass(VerdictCounter::Passed);

/// `ETH_P_IP`.
const ETHER_TYPE_IPV4: u16 = 0x0800;
/// `ETH_P_IPV6`.
const ETHER_TYPE_IPV6: u16 = 0x86dd;

/// Completes an ICMP packet, of which a frame holds `available` bytes.
#[inline(always)]
fn icmp(packet: &mut Packet, available: u32) -> Result<(), Verdict> {
    // A fragment may end within what is quoted, and its sum is that of all.
    if packet.fragment != Fragment::Whole {
        return Err(PASS);
    }
    if packet.ip_len > available {
        packet.defect = Some(DropReason::Malformed);
    }
    Ok(())
}

/// Parses the packet that an ICMP error quotes at `offset`: the key of `packet`
/// becomes that of an answer to it, its transport the quoted one. Only what is
/// there for sure is looked at, the first eight bytes of the transport.
#[inline(always)]
pub fn quoted<C: Context>(ctx: &C, packet: &mut Packet, offset: usize) -> Result<(), Verdict> {
    if packet.is_v6 {
        ipv6::quoted(ctx, packet, offset)?;
    } else {
        ipv4::quoted(ctx, packet, offset)?;
    }
    // What follows the packet in its frame is padding.
    let end = ETHERNET_LEN + packet.ip_len as usize;
    if packet.l4_offset + size_of::<Ports>() > end {
        return Err(PASS);
    }
    let ports = ctx.header::<Ports>(packet.l4_offset).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    (packet.key.dst_port_be, packet.key.src_port_be) = unsafe {
        (
            load_u16::<{ offset_of!(Ports, src_be) }>(ports),
            load_u16::<{ offset_of!(Ports, dst_be) }>(ports),
        )
    };
    Ok(())
}

/// Parses a frame into `packet`, which is empty. Frames with a VLAN tag pass, as do those sent to somebody
/// else or to everybody.
#[inline(always)]
pub fn frame<C: Context>(ctx: &C, packet: &mut Packet) -> Result<(), Verdict> {
    ctx.make_linear(ETHERNET_LEN + IPV4_LEN + TCP_LEN);
    let ethernet = ctx.header::<Ethernet>(0).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    let (ether_type_be, dst) = unsafe {
        (
            load_u16::<{ offset_of!(Ethernet, ether_type_be) }>(ethernet),
            *ethernet,
        )
    };
    if !ctx.is_for_host(dst) {
        return Err(PASS);
    }
    if ether_type_be == ETHER_TYPE_IPV4.to_be() {
        ipv4::parse(ctx, packet)
    } else if ether_type_be == ETHER_TYPE_IPV6.to_be() {
        ctx.make_linear(ETHERNET_LEN + IPV6_LEN + TCP_LEN);
        ipv6::parse(ctx, packet)
    } else {
        Err(PASS)
    }
}
