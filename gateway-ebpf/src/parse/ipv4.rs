// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! IPv4, with options.

use core::mem::offset_of;

use gateway_common::addr::Addr16;

use super::{PASS, icmp, transport};
use crate::{
    context::Context,
    fragment::Fragment,
    packet::{ETHERNET_LEN, IPV4_LEN, Ipv4, PROTOCOL_ICMP, Packet, TCP_LEN},
    verdict::Verdict,
    word::{load_u16, load_u32},
};

/// "More fragments" of the fragment field.
const MORE_FRAGMENTS: u16 = 0x2000;
/// Offset bits of the fragment field.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Parses the IPv4 header and what follows.
#[inline(always)]
pub fn parse<C: Context>(ctx: &C, packet: &mut Packet) -> Result<(), Verdict> {
    let ip = ctx.header::<Ipv4>(ETHERNET_LEN).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    let (version_ihl, tos, ttl, protocol, id_be, fragment_be, total_len_be, src, dst) = unsafe {
        (
            *ip.add(offset_of!(Ipv4, version_ihl)),
            *ip.add(offset_of!(Ipv4, tos)),
            *ip.add(offset_of!(Ipv4, ttl)),
            *ip.add(offset_of!(Ipv4, protocol)),
            load_u16::<{ offset_of!(Ipv4, id_be) }>(ip),
            load_u16::<{ offset_of!(Ipv4, fragment_be) }>(ip),
            load_u16::<{ offset_of!(Ipv4, total_len_be) }>(ip),
            load_u32::<{ offset_of!(Ipv4, src_be) }>(ip),
            load_u32::<{ offset_of!(Ipv4, dst_be) }>(ip),
        )
    };
    let ip_header_len = usize::from(version_ihl & 0x0f) * 4;
    let fragment = u16::from_be(fragment_be);
    if version_ihl >> 4 != 4
        || ip_header_len < IPV4_LEN
        || !(transport::is_ours(protocol) || protocol == PROTOCOL_ICMP)
    {
        return Err(PASS);
    }
    packet.key.src = Addr16::from_v4(src.to_ne_bytes());
    packet.key.dst = Addr16::from_v4(dst.to_ne_bytes());
    packet.key.proto = protocol;
    packet.l4_offset = ETHERNET_LEN + ip_header_len;
    packet.ip_len = u32::from(u16::from_be(total_len_be));
    packet.flow_info = u32::from(tos);
    packet.ttl = ttl;
    if fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0 {
        packet.fragment_id_be = u32::from(id_be);
        packet.fragment = if fragment & FRAGMENT_OFFSET == 0 {
            Fragment::First
        } else {
            Fragment::Later
        };
    }
    let available = ctx.frame_len().saturating_sub(ETHERNET_LEN as u32);
    if packet.ip_len == 0 && ctx.segment_len() != 0 {
        // A super-packet over 64 KiB has no length (Linux BIG TCP).
        packet.ip_len = available;
    }
    if ip_header_len != IPV4_LEN {
        ctx.make_linear(packet.l4_offset + TCP_LEN);
    }
    if protocol == PROTOCOL_ICMP {
        return icmp(packet, available);
    }
    transport::parse(ctx, packet, ip_header_len as u32, available)
}

/// Parses the header at `offset`, quoted in an ICMP error: see [`super::quoted`].
#[inline(always)]
pub fn quoted<C: Context>(ctx: &C, packet: &mut Packet, offset: usize) -> Result<(), Verdict> {
    // With options, and 20 bytes of the transport, where TCP's checksum is.
    let reach = offset + 60 + TCP_LEN;
    ctx.make_linear(reach.min(ctx.frame_len() as usize));
    let ip = ctx.header::<Ipv4>(offset).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    let (version_ihl, protocol, fragment_be, src, dst) = unsafe {
        (
            *ip.add(offset_of!(Ipv4, version_ihl)),
            *ip.add(offset_of!(Ipv4, protocol)),
            load_u16::<{ offset_of!(Ipv4, fragment_be) }>(ip),
            load_u32::<{ offset_of!(Ipv4, src_be) }>(ip),
            load_u32::<{ offset_of!(Ipv4, dst_be) }>(ip),
        )
    };
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4
        || header_len < IPV4_LEN
        || !transport::is_ours(protocol)
        || u16::from_be(fragment_be) & FRAGMENT_OFFSET != 0
    {
        return Err(PASS);
    }
    packet.key.src = Addr16::from_v4(dst.to_ne_bytes());
    packet.key.dst = Addr16::from_v4(src.to_ne_bytes());
    packet.key.proto = protocol;
    packet.l4_offset = offset + header_len;
    Ok(())
}
