// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! IPv4, with options.

use core::mem::offset_of;

use gateway_common::{addr::Addr16, drop_reason::DropReason, flow::FlowKey};

use super::{PASS, tcp};
use crate::{
    context::Context,
    packet::{ETHERNET_LEN, IPV4_LEN, Ipv4, Packet, Ports, TCP_LEN},
    verdict::Verdict,
    word::{load_u16, load_u32},
};

/// `IPPROTO_TCP`.
const PROTOCOL_TCP: u8 = 6;
/// "More fragments" of the fragment field.
const MORE_FRAGMENTS: u16 = 0x2000;
/// Offset bits of the fragment field.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Parses the IPv4 header and what follows.
///
/// A header that contradicts the frame's length still yields a packet when its
/// ports can be read, so that it can be told apart from packets that are not
/// ours; `defect` then says that it must not be forwarded.
#[inline(always)]
pub fn parse<C: Context>(ctx: &C) -> Result<Packet, Verdict> {
    let ip = ctx.header::<Ipv4>(ETHERNET_LEN).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    let (version_ihl, tos, ttl, protocol, fragment_be, total_len_be, src, dst) = unsafe {
        (
            *ip.add(offset_of!(Ipv4, version_ihl)),
            *ip.add(offset_of!(Ipv4, tos)),
            *ip.add(offset_of!(Ipv4, ttl)),
            *ip.add(offset_of!(Ipv4, protocol)),
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
        || protocol != PROTOCOL_TCP
        // Only the first fragment carries ports.
        || fragment & FRAGMENT_OFFSET != 0
    {
        return Err(PASS);
    }
    let mut packet = Packet {
        key: FlowKey {
            src: Addr16::from_v4(src.to_ne_bytes()),
            dst: Addr16::from_v4(dst.to_ne_bytes()),
            src_port_be: 0,
            dst_port_be: 0,
            proto: PROTOCOL_TCP,
            _pad: [0; 3],
        },
        l4_offset: ETHERNET_LEN + ip_header_len,
        ip_len: u32::from(u16::from_be(total_len_be)),
        header_len: 0,
        tcp_flags: 0,
        ttl,
        tos,
        defect: None,
    };
    let available = ctx.frame_len().saturating_sub(ETHERNET_LEN as u32);
    if packet.ip_len == 0 && ctx.segment_len() != 0 {
        // A super-packet over 64 KiB has no length (Linux BIG TCP).
        packet.ip_len = available;
    }
    if ip_header_len != IPV4_LEN {
        ctx.make_linear(packet.l4_offset + TCP_LEN);
    }

    let ports = ctx.header::<Ports>(packet.l4_offset).ok_or(PASS)?;
    // SAFETY: as above.
    (packet.key.src_port_be, packet.key.dst_port_be) = unsafe {
        (
            load_u16::<{ offset_of!(Ports, src_be) }>(ports),
            load_u16::<{ offset_of!(Ports, dst_be) }>(ports),
        )
    };

    packet.defect = if fragment & MORE_FRAGMENTS != 0 {
        Some(DropReason::Fragment)
    } else if packet.ip_len > available || !tcp::parse(ctx, &mut packet, ip_header_len as u32) {
        Some(DropReason::Malformed)
    } else {
        None
    };
    Ok(packet)
}
