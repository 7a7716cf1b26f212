// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! TCP and UDP: ports, flags, and whether the lengths agree.

use core::mem::offset_of;

use gateway_common::{
    drop_reason::DropReason,
    flow::{PROTOCOL_TCP, PROTOCOL_UDP},
};

use super::PASS;
use crate::{
    context::Context,
    fragment::{self, Fragment},
    packet::{Packet, Ports, TCP_LEN, Tcp, UDP_LEN, Udp},
    verdict::Verdict,
    word::load_u16,
};

/// Whether this is a protocol with ports that can be forwarded.
#[inline(always)]
pub fn is_ours(protocol: u8) -> bool {
    protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP
}

/// Completes `packet` from its transport header, which follows IP headers of
/// `ip_header_len` bytes in a frame that holds `available` bytes of the packet.
///
/// Lengths that contradict each other still yield a packet when its ports can
/// be read, so that it can be told apart from packets that are not ours;
/// `defect` then says that it must not be forwarded.
#[inline(always)]
pub fn parse<C: Context>(
    ctx: &C,
    packet: &mut Packet,
    ip_header_len: u32,
    available: u32,
) -> Result<(), Verdict> {
    if packet.fragment == Fragment::Later {
        if packet.ip_len > available || ip_header_len > packet.ip_len {
            packet.defect = Some(DropReason::Malformed);
        }
        return fragment::recall(packet);
    }
    let ports = ctx.header::<Ports>(packet.l4_offset).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    (packet.key.src_port_be, packet.key.dst_port_be) = unsafe {
        (
            load_u16::<{ offset_of!(Ports, src_be) }>(ports),
            load_u16::<{ offset_of!(Ports, dst_be) }>(ports),
        )
    };
    if packet.defect.is_none()
        && (packet.ip_len > available || !lengths_agree(ctx, packet, ip_header_len))
    {
        packet.defect = Some(DropReason::Malformed);
    }
    Ok(())
}

#[inline(always)]
fn lengths_agree<C: Context>(ctx: &C, packet: &mut Packet, ip_header_len: u32) -> bool {
    if packet.key.proto == PROTOCOL_TCP {
        tcp(ctx, packet, ip_header_len)
    } else {
        udp(ctx, packet, ip_header_len)
    }
}

#[inline(always)]
fn tcp<C: Context>(ctx: &C, packet: &mut Packet, ip_header_len: u32) -> bool {
    let Some(tcp) = ctx.header::<Tcp>(packet.l4_offset) else {
        return false;
    };
    // SAFETY: `header` has compared its end with the end of the data.
    let (data_offset, flags) = unsafe {
        (
            *tcp.add(offset_of!(Tcp, data_offset)),
            *tcp.add(offset_of!(Tcp, flags)),
        )
    };
    let tcp_header_len = u32::from(data_offset >> 4) * 4;
    packet.header_len = ip_header_len + tcp_header_len;
    packet.tcp_flags = u32::from(flags);
    tcp_header_len >= TCP_LEN as u32 && packet.header_len <= packet.ip_len
}

#[inline(always)]
fn udp<C: Context>(ctx: &C, packet: &mut Packet, ip_header_len: u32) -> bool {
    let Some(udp) = ctx.header::<Udp>(packet.l4_offset) else {
        return false;
    };
    // SAFETY: as above.
    let len_be = unsafe { load_u16::<{ offset_of!(Udp, len_be) }>(udp) };
    let len = u32::from(u16::from_be(len_be));
    packet.header_len = ip_header_len + UDP_LEN as u32;
    // More may follow in the IP packet (RFC 9868); less only in others of its
    // fragments.
    len >= UDP_LEN as u32
        && (ip_header_len + len <= packet.ip_len
            || packet.fragment == Fragment::First && packet.header_len <= packet.ip_len)
}
