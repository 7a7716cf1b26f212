// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! ICMP errors of this node's own, to the sender of a packet that is too long
//! for the way out: RFC 1191 section 4, RFC 4443 section 3.2. They come from the
//! address that the packet was sent to, and quote it as it was sent.
//!
//! An error about a packet that was wrapped here quotes the outer packet, and
//! becomes one about the inner packet (RFC 2003 section 4, RFC 2473 section 8).

use core::{
    mem::{self, offset_of},
    ptr,
};

use aya_ebpf::helpers::{bpf_csum_diff, bpf_ktime_get_coarse_ns};
use gateway_common::{
    addr::Addr16,
    checksum::fold,
    drop_reason::DropReason,
    flow::{DIR_TO_BACKEND, KIND_DSR, PROTOCOL_TCP},
    limits,
    next_hop::NextHop,
};

use crate::{
    aligned::Aligned,
    context::Context,
    encap::{self, PROTOCOL_IPIP, PROTOCOL_IPV6},
    flow,
    icmp::ICMP_LEN,
    maps::ANSWERS,
    packet::{
        ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Icmp, Ipv4, Ipv6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Packet,
        Tcp, Udp,
    },
    parse::{self, PASS},
    rewrite::{self, OUT_OF_REACH},
    route::{self, Header},
    verdict::Verdict,
    word::{load_u16, store_u16, store_u32},
};

/// Bytes quoted of a packet that is too long, and so has them: every IPv4 header
/// and TCP header, IPv6 with what it takes to find the flow.
const QUOTED: usize = 128;
/// Bytes quoted of a packet that was quoted here: the transport's first eight.
const QUOTED_V4: usize = IPV4_LEN + 8;
/// The same of IPv6.
const QUOTED_V6: usize = IPV6_LEN + 8;
/// Hops that the answer may take.
const TTL: u8 = 64;

/// What the answer says.
#[derive(Clone, Copy)]
struct Message {
    kind: u8,
    code: u8,
    /// The four bytes behind the checksum, host order: the MTU of "too big".
    detail: u32,
}

/// Answers a packet that is too long, or passes the answer to one of ours on.
#[inline(always)]
pub fn handle<C: Context>(ctx: &C, packet: &mut Packet) -> Result<Verdict, Verdict> {
    if packet.is_icmp() {
        if packet.is_v6 {
            unwrap::<C, true, QUOTED_V6>(ctx, packet)
        } else {
            unwrap::<C, false, QUOTED_V4>(ctx, packet)
        }
    } else {
        too_big(ctx, packet)
    }
}

/// Tells the sender of a packet that is too long how long it may be.
#[inline(always)]
fn too_big<C: Context>(ctx: &C, packet: &mut Packet) -> Result<Verdict, Verdict> {
    const UNTOLD: Verdict = Verdict::Drop(DropReason::PacketTooBig);
    let flow = flow::find(packet).ok_or(UNTOLD)?;
    let to = flow.translation();
    let wrapped = flow.kind() == KIND_DSR;
    let header = if wrapped {
        encap::header(ctx, packet, to)
    } else {
        Header::of(packet, to)
    };
    let mtu = u32::from(route::mtu(ctx, packet, &header).ok_or(UNTOLD)?);
    let outer_len = if wrapped {
        encap::len(packet) as u32
    } else {
        0
    };
    let is_sum_partial = !packet.is_later() && ctx.is_sum_partial(sum_offset(packet));
    if !permitted() || packet.ip_len < QUOTED as u32 {
        return Err(UNTOLD);
    }
    ctx.cut(ETHERNET_LEN + QUOTED)?;
    ctx.shift(head_len(packet) as i32)?;
    ctx.make_linear(ETHERNET_LEN + head_len(packet) + QUOTED);

    let at = ETHERNET_LEN + head_len(packet);
    let quoted = if is_sum_partial {
        // The device makes the sum of the transport and of its pseudo header
        // nothing: what is left of the transport is then the other's negative.
        let ip_len = if packet.is_v6 { IPV6_LEN } else { IPV4_LEN };
        if packet.l4_offset != ETHERNET_LEN + ip_len {
            return Err(UNTOLD);
        }
        let of_header = if packet.is_v6 {
            sum::<C, IPV6_LEN>(ctx, at)?
        } else {
            sum::<C, IPV4_LEN>(ctx, at)?
        };
        let check = ctx
            .header::<u16>(head_len(packet) + sum_offset(packet))
            .ok_or(OUT_OF_REACH)?;
        // SAFETY: `header` has compared its end with the end of the data.
        of_header + u64::from(!unsafe { load_u16::<0>(check) })
    } else {
        sum::<C, QUOTED>(ctx, at)?
    };
    let message = if packet.is_v6 {
        Message {
            kind: 2,
            code: 0,
            detail: mtu - outer_len,
        }
    } else {
        Message {
            kind: 3,
            code: 4,
            detail: mtu - outer_len,
        }
    };
    let addresses = [packet.key.dst, packet.key.src];
    write(ctx, packet.is_v6, &addresses, message, QUOTED, quoted)?;
    let action = match send(ctx, packet, &addresses, QUOTED) {
        Ok(Verdict::Sent(action)) => Some(action),
        Err(Verdict::Pass(_)) => None,
        Ok(other) | Err(other) => return Err(other),
    };
    Err(Verdict::Answered(DropReason::PacketTooBig, action))
}

/// Makes an error about a wrapped packet one about the packet inside.
#[inline(always)]
fn unwrap<C: Context, const V6: bool, const N: usize>(
    ctx: &C,
    packet: &mut Packet,
) -> Result<Verdict, Verdict> {
    let outer_len = if V6 { IPV6_LEN } else { IPV4_LEN };
    let head_len = ICMP_LEN + outer_len;
    let outer_at = packet.l4_offset + ICMP_LEN;
    // Without options, so that what is taken out is as long as what it holds; and
    // with as much of the inner packet as tells its flow.
    let end = outer_at + outer_len + N;
    if packet.l4_offset != ETHERNET_LEN + outer_len
        || packet.defect.is_some()
        || ETHERNET_LEN + (packet.ip_len as usize) < end
    {
        return Err(PASS);
    }
    let received = ctx.header::<Icmp>(packet.l4_offset).ok_or(PASS)?;
    // SAFETY: `header` has compared its end with the end of the data.
    let message = translated(unsafe { &*received.cast::<Icmp>() }, V6, outer_len);
    let tunnel = [packet.key.dst, Addr16::ANY];
    ctx.make_linear(end);
    let tunnel = outer::<C, V6>(ctx, outer_at, tunnel)?;

    // Turned round, and back: the key of the packet that was wrapped.
    parse::quoted(ctx, packet, outer_at + outer_len)?;
    mem::swap(&mut packet.key.src, &mut packet.key.dst);
    mem::swap(&mut packet.key.src_port_be, &mut packet.key.dst_port_be);
    let flow = flow::find(packet).ok_or(PASS)?;
    let to = flow.translation();
    if flow.kind() != KIND_DSR
        || flow.direction() != DIR_TO_BACKEND
        || tunnel != [to.new_src, to.new_dst]
        || packet.l4_offset != outer_at + outer_len + outer_len
    {
        return Err(PASS);
    }
    // Nothing that concerns the client.
    let message = message.ok_or(PASS)?;
    ctx.shift(-(outer_len as i32))?;
    ctx.cut(ETHERNET_LEN + head_len + N)?;
    let quoted = sum::<C, N>(ctx, ETHERNET_LEN + head_len)?;
    let addresses = [packet.key.dst, packet.key.src];
    write(ctx, V6, &addresses, message, N, quoted)?;
    send(ctx, packet, &addresses, N)
}

/// What an error on the way to the backend means to the client, if anything.
#[inline(always)]
fn translated(received: &Icmp, is_v6: bool, outer_len: usize) -> Option<Message> {
    let outer_len = outer_len as u32;
    let detail = u32::from_be(received.detail);
    if is_v6 {
        return match (received.kind, received.code) {
            // The outer packet has no port.
            (1, 4) => None,
            (1, code) => Some(Message {
                kind: 1,
                code,
                detail: 0,
            }),
            (2, _) => Some(Message {
                kind: 2,
                code: 0,
                detail: detail.saturating_sub(outer_len),
            }),
            // The hops between here and the backend are no affair of the
            // client's: to it, the address cannot be reached.
            // Likewise a backend that does not know what to do with them (a next
            // header that is not recognised).
            (3, _) | (4, 1) => Some(Message {
                kind: 1,
                code: 3,
                detail: 0,
            }),
            _ => None,
        };
    }
    match (received.kind, received.code) {
        // A router that does not say how much it could take is no help.
        (3, 4) if detail & 0xffff <= outer_len => None,
        (3, 4) => Some(Message {
            kind: 3,
            code: 4,
            detail: (detail & 0xffff) - outer_len,
        }),
        // The outer packet has no port and no source route.
        (3, 3 | 5) => None,
        // To the client, which has sent no such packet, a backend that does not
        // unwrap is a host that cannot be reached.
        (3, 2) | (11, _) => Some(Message {
            kind: 3,
            code: 1,
            detail: 0,
        }),
        (3, code) => Some(Message {
            kind: 3,
            code,
            detail: 0,
        }),
        _ => None,
    }
}

/// Source and destination of the tunnel's header at `offset`, if it is one that
/// came from the first of `expected`.
#[inline(always)]
fn outer<C: Context, const V6: bool>(
    ctx: &C,
    offset: usize,
    expected: [Addr16; 2],
) -> Result<[Addr16; 2], Verdict> {
    let [source, _] = expected;
    if V6 {
        let ip = ctx.header::<Ipv6>(offset).ok_or(PASS)?;
        // SAFETY: `header` has compared its end with the end of the data.
        let (version, next_header, src, dst) = unsafe {
            let version = *ip >> 4;
            let ip = ip.cast::<Ipv6>();
            (version, (*ip).next_header, (*ip).src, (*ip).dst)
        };
        let (src, dst) = (Addr16 { bytes: src }, Addr16 { bytes: dst });
        return if version == 6 && next_header == PROTOCOL_IPV6 && src == source {
            Ok([src, dst])
        } else {
            Err(PASS)
        };
    }
    let ip = ctx.header::<Ipv4>(offset).ok_or(PASS)?;
    // SAFETY: as above.
    let (version_ihl, protocol, src, dst) = unsafe {
        let ip = ip.cast::<Ipv4>();
        (
            (*ip).version_ihl,
            (*ip).protocol,
            (*ip).src_be,
            (*ip).dst_be,
        )
    };
    let src = Addr16::from_v4(src.to_ne_bytes());
    if version_ihl == 0x45 && protocol == PROTOCOL_IPIP && src == source {
        Ok([src, Addr16::from_v4(dst.to_ne_bytes())])
    } else {
        Err(PASS)
    }
}

/// Length of the headers that precede what is quoted.
#[inline(always)]
fn head_len(packet: &Packet) -> usize {
    ICMP_LEN + encap::len(packet)
}

/// Where the transport checksum of a packet is.
#[inline(always)]
fn sum_offset(packet: &Packet) -> usize {
    packet.l4_offset
        + if packet.key.proto == PROTOCOL_TCP {
            offset_of!(Tcp, check)
        } else {
            offset_of!(Udp, check)
        }
}

/// The sum of `N` bytes at `offset`.
#[inline(always)]
fn sum<C: Context, const N: usize>(ctx: &C, offset: usize) -> Result<u64, Verdict> {
    let bytes = ctx.header::<[u8; N]>(offset).ok_or(OUT_OF_REACH)?;
    // SAFETY: `header` has compared its end with the end of the data, and `N` is
    // a multiple of four.
    let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, bytes.cast(), N as u32, 0) };
    if sum < 0 {
        return Err(OUT_OF_REACH);
    }
    Ok(u64::from(sum as u32))
}

/// Writes the headers of an answer that quotes `len` bytes, whose sum is `quoted`.
#[inline(always)]
fn write<C: Context>(
    ctx: &C,
    is_v6: bool,
    [src, dst]: &[Addr16; 2],
    message: Message,
    len: usize,
    quoted: u64,
) -> Result<(), Verdict> {
    let icmp_len = (ICMP_LEN + len) as u16;
    let head = u16::from(message.kind) << 8 | u16::from(message.code);
    let detail_be = message.detail.to_be();
    let mut sum = quoted + u64::from(head.to_be()) + u64::from(detail_be);
    let icmp_at = if is_v6 {
        let next_hops = u16::from(PROTOCOL_ICMPV6) << 8 | u16::from(TTL);
        let ip = ctx.header::<Ipv6>(ETHERNET_LEN).ok_or(OUT_OF_REACH)?;
        // SAFETY: `header` has compared its end with the end of the data.
        unsafe {
            store_u32::<{ offset_of!(Ipv6, version_class_label_be) }>(ip, 0x6000_0000_u32.to_be());
            store_u16::<{ offset_of!(Ipv6, payload_len_be) }>(ip, icmp_len.to_be());
            store_u16::<{ offset_of!(Ipv6, next_header) }>(ip, next_hops.to_be());
            rewrite::address::<{ offset_of!(Ipv6, src) }>(ip, src);
            rewrite::address::<{ offset_of!(Ipv6, dst) }>(ip, dst);
        }
        // The pseudo header (RFC 8200 section 8.1).
        sum += encap::sum_of(src)
            + encap::sum_of(dst)
            + u64::from(icmp_len.to_be())
            + u64::from(u16::from(PROTOCOL_ICMPV6).to_be());
        ETHERNET_LEN + IPV6_LEN
    } else {
        encap::write_ipv4(
            ctx,
            &encap::OuterIpv4 {
                class: 0,
                len: u32::from(icmp_len) + IPV4_LEN as u32,
                id: 0,
                fragment: 0x4000_u16.to_be(),
                proto: PROTOCOL_ICMP,
                addresses: [src, dst],
            },
        )?;
        ETHERNET_LEN + IPV4_LEN
    };
    let icmp = ctx.header::<Icmp>(icmp_at).ok_or(OUT_OF_REACH)?;
    // SAFETY: as above.
    unsafe {
        store_u16::<{ offset_of!(Icmp, kind) }>(icmp, head.to_be());
        store_u16::<{ offset_of!(Icmp, check) }>(icmp, !fold(sum));
        store_u32::<{ offset_of!(Icmp, detail) }>(icmp, detail_be);
    }
    Ok(())
}

/// Sends an answer that quotes `len` bytes.
#[inline(always)]
fn send<C: Context>(
    ctx: &C,
    packet: &mut Packet,
    [src, dst]: &[Addr16; 2],
    len: usize,
) -> Result<Verdict, Verdict> {
    packet.ip_len = (head_len(packet) + len) as u32;
    packet.flow_info = 0;
    let header = Header {
        addresses: [src, dst],
        proto: if packet.is_v6 {
            PROTOCOL_ICMPV6
        } else {
            PROTOCOL_ICMP
        },
        ports_be: [0; 2],
        overhead: 0,
    };
    let mut hop = Aligned(NextHop::NONE);
    route::find(ctx, packet, &header, &mut hop.0)?;
    ctx.send(&hop.0)
}

/// Whether there may be another answer now.
#[inline(always)]
fn permitted() -> bool {
    let Some(answers) = ANSWERS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: the look-up returned it, not null, for this CPU alone; the
    // programs run with migration off and do not interrupt themselves.
    unsafe {
        if now_ns > (*answers).since_ns + limits::ANSWERS_NS {
            (*answers).since_ns = now_ns;
            (*answers).count = 0;
        }
        (*answers).count += 1;
        (*answers).count <= limits::ANSWERS
    }
}
