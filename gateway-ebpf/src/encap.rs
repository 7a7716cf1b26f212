// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Wrapping for backends that answer the client themselves: IPv4 in IPv4
//! (RFC 2003) or IPv6 in IPv6 (RFC 2473). The packet inside is as it came, one
//! hop older.

use core::mem::offset_of;

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use gateway_common::{
    addr::Addr16,
    checksum::fold,
    flow::{DIR_TO_BACKEND, FlowDirection, KIND_DSR, PROTOCOL_TCP},
};

use crate::{
    context::Context,
    flow,
    forward::{self, forwardable},
    fragment::{self, Fragment},
    icmp::ICMP_LEN,
    packet::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Packet},
    parse::{self, PASS},
    rewrite::{self, OUT_OF_REACH},
    route::{self, Header},
    verdict::Verdict,
    watch,
    word::{load_u16, store_u16, store_u32},
};

/// `IPPROTO_IPIP`.
pub const PROTOCOL_IPIP: u8 = 4;
/// `IPPROTO_IPV6`.
pub const PROTOCOL_IPV6: u8 = 41;
/// Hops that the outer packet may take (RFC 1340's default, as Linux tunnels).
const TTL: u8 = 64;

/// Wraps the packet and sends it on.
#[inline(always)]
pub fn handle<C: Context>(ctx: &C, packet: &mut Packet) -> Result<Verdict, Verdict> {
    let is_error = packet.is_icmp();
    if is_error {
        // About what the backend has sent to the client; the key is then that of
        // the other direction, which is this one (see `icmp`).
        let quoted_at = packet.l4_offset + ICMP_LEN;
        parse::quoted(ctx, packet, quoted_at)?;
    }
    let flow = flow::find(packet).ok_or(PASS)?;
    if flow.kind() != KIND_DSR || flow.direction() != DIR_TO_BACKEND {
        return Err(PASS);
    }
    forwardable(packet)?;
    if packet.fragment == Fragment::First {
        fragment::remember(packet);
    }
    let now_ns = if is_error {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    } else {
        flow.track_one_sided(packet)
    };
    let to = flow.translation();
    let hop = route::next_hop(ctx, packet, &flow, &header(ctx, packet, to), now_ns);
    let hop = forward::or_answer(ctx, packet, hop, !is_error)?;
    wrap(ctx, packet, to)?;
    let hop = hop?;
    let sent = ctx.send(hop)?;
    Ok(if is_error {
        sent
    } else {
        watch::sent(sent, packet, &flow, hop)
    })
}

/// Whether the header at `offset` is that of a packet with another one in it.
#[inline(always)]
pub fn is_wrapped<C: Context>(ctx: &C, is_v6: bool, offset: usize) -> bool {
    let (number_at, number) = if is_v6 {
        (offset_of!(Ipv6, next_header), PROTOCOL_IPV6)
    } else {
        (offset_of!(Ipv4, protocol), PROTOCOL_IPIP)
    };
    ctx.header::<u8>(offset + number_at)
        // SAFETY: `header` has compared its end with the end of the data.
        .is_some_and(|byte| unsafe { *byte } == number)
}

/// The outer header.
#[inline(always)]
pub fn header<'a, C: Context>(ctx: &C, packet: &Packet, to: &'a FlowDirection) -> Header<'a> {
    let proto = if packet.is_v6 {
        PROTOCOL_IPV6
    } else {
        PROTOCOL_IPIP
    };
    Header {
        addresses: [&to.new_src, &to.new_dst],
        proto,
        ports_be: [0; 2],
        overhead: if ctx.segment_len() != 0 && packet.key.proto == PROTOCOL_TCP {
            // The segments are made shorter: see `Context::wrap`.
            0
        } else {
            len(packet) as u32
        },
    }
}

/// Puts the packet into another one.
#[inline(always)]
fn wrap<C: Context>(ctx: &C, packet: &Packet, to: &FlowDirection) -> Result<(), Verdict> {
    rewrite::hop(ctx, packet.is_v6)?;
    let is_datagram = packet.key.proto != PROTOCOL_TCP;
    if packet.is_v6 {
        ctx.balance_hop_limit();
        ctx.wrap(true, is_datagram, IPV6_LEN)?;
        ipv6(ctx, packet, to)
    } else {
        let inner = Inner::read(ctx)?;
        ctx.wrap(false, is_datagram, IPV4_LEN)?;
        write_ipv4(
            ctx,
            &OuterIpv4 {
                class: packet.flow_info as u8,
                len: packet.ip_len + IPV4_LEN as u32,
                id: inner.id,
                fragment: inner.dont_fragment,
                proto: PROTOCOL_IPIP,
                addresses: [&to.new_src, &to.new_dst],
            },
        )
    }
}

/// What the outer IPv4 header has from the inner one.
struct Inner {
    /// Identification, by which the parts are told should the outer packet be
    /// fragmented. Fragments of one packet share theirs, and get different ones.
    id: u16,
    /// "Do not fragment" alone: the outer packet must not be, either (RFC 2003
    /// section 3.1).
    dont_fragment: u16,
}

impl Inner {
    #[inline(always)]
    fn read<C: Context>(ctx: &C) -> Result<Self, Verdict> {
        /// "Do not fragment".
        const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
        let ip = ctx.header::<Ipv4>(ETHERNET_LEN).ok_or(OUT_OF_REACH)?;
        // SAFETY: `header` has compared its end with the end of the data.
        let (id, fragment_be) = unsafe {
            (
                load_u16::<{ offset_of!(Ipv4, id_be) }>(ip),
                load_u16::<{ offset_of!(Ipv4, fragment_be) }>(ip),
            )
        };
        let offset = u16::from_be(fragment_be) & 0x1fff;
        Ok(Self {
            id: id.wrapping_add(offset.wrapping_mul(0x9e37)),
            dont_fragment: fragment_be & DONT_FRAGMENT,
        })
    }
}

/// An IPv4 header that a frame is given.
pub struct OuterIpv4<'a> {
    /// DSCP and ECN.
    pub class: u8,
    /// Bytes with all that follows.
    pub len: u32,
    /// Identification, as it stands.
    pub id: u16,
    /// Flags and fragment offset, as they stand.
    pub fragment: u16,
    /// Number of what follows.
    pub proto: u8,
    /// Source and destination.
    pub addresses: [&'a Addr16; 2],
}

/// Writes it behind the Ethernet header.
#[inline(always)]
pub fn write_ipv4<C: Context>(ctx: &C, header: &OuterIpv4) -> Result<(), Verdict> {
    let version_class = 0x4500 | u16::from(header.class);
    let ttl_proto = u16::from(TTL) << 8 | u16::from(header.proto);
    let len_be = length(header.len);
    let [src, dst] = header.addresses;
    let (src, dst) = (v4(src), v4(dst));
    let sum = u64::from(version_class.to_be())
        + u64::from(len_be)
        + u64::from(header.id)
        + u64::from(header.fragment)
        + u64::from(ttl_proto.to_be())
        + u64::from(src)
        + u64::from(dst);
    let ip = ctx.header::<Ipv4>(ETHERNET_LEN).ok_or(OUT_OF_REACH)?;
    // SAFETY: `header` has compared its end with the end of the data.
    unsafe {
        store_u16::<{ offset_of!(Ipv4, version_ihl) }>(ip, version_class.to_be());
        store_u16::<{ offset_of!(Ipv4, total_len_be) }>(ip, len_be);
        store_u16::<{ offset_of!(Ipv4, id_be) }>(ip, header.id);
        store_u16::<{ offset_of!(Ipv4, fragment_be) }>(ip, header.fragment);
        store_u16::<{ offset_of!(Ipv4, ttl) }>(ip, ttl_proto.to_be());
        store_u16::<{ offset_of!(Ipv4, check) }>(ip, !fold(sum));
        store_u32::<{ offset_of!(Ipv4, src_be) }>(ip, src);
        store_u32::<{ offset_of!(Ipv4, dst_be) }>(ip, dst);
    }
    Ok(())
}

#[inline(always)]
fn ipv6<C: Context>(ctx: &C, packet: &Packet, to: &FlowDirection) -> Result<(), Verdict> {
    let first_be = 0x6000_0000_u32.to_be() | packet.flow_info;
    let next_hops = u16::from(PROTOCOL_IPV6) << 8 | u16::from(TTL);
    let len_be = length(packet.ip_len);
    let ip = ctx.header::<Ipv6>(ETHERNET_LEN).ok_or(OUT_OF_REACH)?;
    // SAFETY: as above.
    unsafe {
        store_u32::<{ offset_of!(Ipv6, version_class_label_be) }>(ip, first_be);
        store_u16::<{ offset_of!(Ipv6, payload_len_be) }>(ip, len_be);
        store_u16::<{ offset_of!(Ipv6, next_header) }>(ip, next_hops.to_be());
        rewrite::address::<{ offset_of!(Ipv6, src) }>(ip, &to.new_src);
        rewrite::address::<{ offset_of!(Ipv6, dst) }>(ip, &to.new_dst);
    }
    // Unlike IPv4's, this header's sum is not nothing.
    ctx.balance(
        u64::from(first_be)
            + u64::from(len_be)
            + u64::from(next_hops.to_be())
            + sum_of(&to.new_src)
            + sum_of(&to.new_dst),
    );
    Ok(())
}

/// The sum of an address.
#[inline(always)]
pub fn sum_of(addr: &Addr16) -> u64 {
    let word = |i: usize| {
        let bytes = &addr.bytes;
        u64::from(u32::from_ne_bytes([
            bytes[i],
            bytes[i + 1],
            bytes[i + 2],
            bytes[i + 3],
        ]))
    };
    word(0) + word(4) + word(8) + word(12)
}

/// Bytes of a header of the packet's family.
#[inline(always)]
pub fn len(packet: &Packet) -> usize {
    if packet.is_v6 { IPV6_LEN } else { IPV4_LEN }
}

/// A length as the header has it; none when it is too long for that, as that of
/// a super-packet can be (Linux BIG TCP).
#[inline(always)]
fn length(len: u32) -> u16 {
    u16::try_from(len).unwrap_or(0).to_be()
}

#[inline(always)]
fn v4(addr: &Addr16) -> u32 {
    u32::from_ne_bytes(addr.v4())
}
