// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! IPv6, with extension headers.

use core::mem::offset_of;

use gateway_common::addr::Addr16;

use super::{PASS, icmp, transport};
use crate::{
    context::Context,
    fragment::Fragment,
    maps::SETTINGS,
    mask::masked,
    packet::{ETHERNET_LEN, IPV6_LEN, Ipv6, PROTOCOL_ICMPV6, Packet, TCP_LEN},
    verdict::Verdict,
    word::{load_u16, load_u32, load_u64},
};

/// Headers between IPv6 and the transport that are walked. RFC 8200 section 4.1
/// knows five in front of TCP, one of which may come twice; more pass.
const MAX_EXTENSIONS: usize = 6;
/// Bytes of all of them together; longer chains pass.
const MAX_EXTENSION_BYTES: usize = 0xff;

/// Hop-by-hop options (RFC 8200 section 4.3).
const HOP_BY_HOP: u8 = 0;
/// Routing (section 4.4).
const ROUTING: u8 = 43;
/// Fragment (section 4.5).
const FRAGMENT: u8 = 44;
/// Destination options (section 4.6).
const DESTINATION_OPTIONS: u8 = 60;

/// What every extension header that is walked starts with; none is shorter.
#[repr(C, packed)]
struct Extension {
    /// Number of the header that follows.
    next_header: u8,
    /// Length in units of 8 bytes, without the first 8. Reserved in a fragment
    /// header.
    len: u8,
    /// Fragment: offset in units of 8 bytes, two zero bits, "more fragments".
    /// Routing: its type, and how many stops are left.
    offset_or_routing_be: u16,
    /// Fragment: identification.
    id_be: u32,
}

/// Parses the IPv6 header and what follows.
#[inline(always)]
pub fn parse<C: Context>(ctx: &C, packet: &mut Packet) -> Result<(), Verdict> {
    let ip = ctx.header::<Ipv6>(ETHERNET_LEN).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    let (first_be, payload_len_be, next_header, ttl, src, dst) = unsafe {
        (
            load_u32::<{ offset_of!(Ipv6, version_class_label_be) }>(ip),
            load_u16::<{ offset_of!(Ipv6, payload_len_be) }>(ip),
            *ip.add(offset_of!(Ipv6, next_header)),
            *ip.add(offset_of!(Ipv6, hop_limit)),
            [
                load_u64::<{ offset_of!(Ipv6, src) }>(ip),
                load_u64::<{ offset_of!(Ipv6, src) + 8 }>(ip),
            ],
            [
                load_u64::<{ offset_of!(Ipv6, dst) }>(ip),
                load_u64::<{ offset_of!(Ipv6, dst) + 8 }>(ip),
            ],
        )
    };
    let first = u32::from_be(first_be);
    if first >> 28 != 6 || is_mapped(&src) || is_mapped(&dst) {
        return Err(PASS);
    }
    packet.key.src = address(src);
    packet.key.dst = address(dst);
    packet.key.proto = next_header;
    packet.l4_offset = ETHERNET_LEN + IPV6_LEN;
    packet.ip_len = IPV6_LEN as u32 + u32::from(u16::from_be(payload_len_be));
    packet.flow_info = (first & 0x0fff_ffff).to_be();
    packet.ttl = ttl;
    packet.is_v6 = true;
    if !transport::is_ours(next_header) && next_header != PROTOCOL_ICMPV6 {
        walk(ctx, packet)?;
    }
    let available = ctx.frame_len().saturating_sub(ETHERNET_LEN as u32);
    if payload_len_be == 0 && ctx.segment_len() != 0 {
        // A super-packet over 64 KiB has no length (Linux BIG TCP).
        packet.ip_len = available;
    }
    if packet.key.proto == PROTOCOL_ICMPV6 {
        return icmp(packet, available);
    }
    let ip_header_len = (packet.l4_offset - ETHERNET_LEN) as u32;
    transport::parse(ctx, packet, ip_header_len, available)
}

/// Parses the header at `offset`, quoted in an ICMPv6 error: see
/// [`super::quoted`]. Quoted extension headers are not walked.
#[inline(always)]
pub fn quoted<C: Context>(ctx: &C, packet: &mut Packet, offset: usize) -> Result<(), Verdict> {
    let reach = offset + IPV6_LEN + TCP_LEN;
    ctx.make_linear(reach.min(ctx.frame_len() as usize));
    let ip = ctx.header::<Ipv6>(offset).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    let (version, next_header, src, dst) = unsafe {
        (
            *ip >> 4,
            *ip.add(offset_of!(Ipv6, next_header)),
            [
                load_u64::<{ offset_of!(Ipv6, src) }>(ip),
                load_u64::<{ offset_of!(Ipv6, src) + 8 }>(ip),
            ],
            [
                load_u64::<{ offset_of!(Ipv6, dst) }>(ip),
                load_u64::<{ offset_of!(Ipv6, dst) + 8 }>(ip),
            ],
        )
    };
    if version != 6 || !transport::is_ours(next_header) || is_mapped(&src) || is_mapped(&dst) {
        return Err(PASS);
    }
    packet.key.src = address(dst);
    packet.key.dst = address(src);
    packet.key.proto = next_header;
    packet.l4_offset = offset + IPV6_LEN;
    Ok(())
}

/// Follows the chain of extension headers to TCP or UDP.
#[inline(always)]
fn walk<C: Context>(ctx: &C, packet: &mut Packet) -> Result<(), Verdict> {
    let start = ETHERNET_LEN + IPV6_LEN;
    let reach = start + MAX_EXTENSION_BYTES + TCP_LEN;
    ctx.make_linear(reach.min(ctx.frame_len() as usize));
    let mut next_header = packet.key.proto;
    let mut length = 0;
    for position in 0..=MAX_EXTENSIONS {
        if transport::is_ours(next_header) {
            packet.key.proto = next_header;
            return end(packet, start, length);
        }
        if position == MAX_EXTENSIONS {
            break;
        }
        let header = ctx.header::<Extension>(start + length).ok_or(PASS)?;
        // SAFETY: `header` has compared its end with the end of the data.
        let (following, len, detail) = unsafe {
            (
                *header.add(offset_of!(Extension, next_header)),
                *header.add(offset_of!(Extension, len)),
                load_u16::<{ offset_of!(Extension, offset_or_routing_be) }>(header),
            )
        };
        let detail = u16::from_be(detail);
        length += match next_header {
            HOP_BY_HOP if position == 0 => (usize::from(len) + 1) * 8,
            DESTINATION_OPTIONS => (usize::from(len) + 1) * 8,
            // With stops left, this node is one of them, and the stack's affair.
            ROUTING if detail & 0xff == 0 => (usize::from(len) + 1) * 8,
            FRAGMENT => {
                // SAFETY: as above.
                packet.fragment_id_be =
                    unsafe { load_u32::<{ offset_of!(Extension, id_be) }>(header) };
                if detail & 0xfff8 != 0 {
                    packet.fragment = Fragment::Later;
                } else if detail & 1 != 0 {
                    // The one and only fragment is a whole packet (RFC 6946).
                    packet.fragment = Fragment::First;
                }
                8
            }
            // Among them authentication, which covers what would be rewritten.
            _ => return Err(PASS),
        };
        if length > MAX_EXTENSION_BYTES {
            return Err(PASS);
        }
        if packet.fragment == Fragment::Later {
            return end(packet, start, length);
        }
        next_header = following;
    }
    Err(PASS)
}

/// Notes where the extension headers end, `length` bytes behind `start`.
#[inline(always)]
fn end(packet: &mut Packet, start: usize, length: usize) -> Result<(), Verdict> {
    // The verifier would check all that follows once for each number of headers;
    // a zero that it does not know to be one merges these ways.
    let zero = SETTINGS.get(0).ok_or(PASS)?.limits._pad as usize;
    packet.l4_offset = start + masked::<{ MAX_EXTENSION_BYTES as u32 }>(length ^ zero);
    Ok(())
}

/// Whether an IPv4 address is written as this one. It never stands on a wire
/// (RFC 4942 section 2.2); taken as it is, it would reach IPv4's flows.
#[inline(always)]
fn is_mapped(halves: &[u64; 2]) -> bool {
    halves[0] == 0 && u64::from_be(halves[1]) >> 32 == 0xffff
}

#[inline(always)]
fn address(halves: [u64; 2]) -> Addr16 {
    let mut bytes = [0; 16];
    let (chunks, _) = bytes.as_chunks_mut::<8>();
    for (chunk, half) in chunks.iter_mut().zip(halves) {
        *chunk = half.to_ne_bytes();
    }
    Addr16 { bytes }
}
